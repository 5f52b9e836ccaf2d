"""Backbone weights of every common kind of file, in and out; nothing is ever unpickled.

`layout.py` says what a kind of file is; `timm.py`, `huggingface.py`, `google.py` and `own.py` are the kinds;
`authors.py` reads a whole trained state of the authors' release.
"""

from ntkcl_jax.weights.authors import AuthorsState, read_authors
from ntkcl_jax.weights.backbone import Loaded, from_timm, load_backbone, read_backbone, save_backbone
from ntkcl_jax.weights.layout import NumpyTree, shapes
from ntkcl_jax.weights.reading import file_sha256, refuse_pickle
from ntkcl_jax.weights.timm import timm_names, to_timm

__all__ = [
    "AuthorsState",
    "Loaded",
    "NumpyTree",
    "file_sha256",
    "from_timm",
    "load_backbone",
    "read_authors",
    "read_backbone",
    "refuse_pickle",
    "save_backbone",
    "shapes",
    "timm_names",
    "to_timm",
]
