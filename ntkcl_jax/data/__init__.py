"""Images, tasks and batches. Importing this imports neither JAX nor grain."""

from ntkcl_jax.data.affine import affine_view_device
from ntkcl_jax.data.batches import Batch, eval_batches, prepare, steps_per_epoch, train_batches
from ntkcl_jax.data.images import FileImages, ImageSet
from ntkcl_jax.data.scenario import Scenario, make_scenario
from ntkcl_jax.data.sources import Arrays, Sides, Source, SourceKind, load_source
from ntkcl_jax.data.sources.folder import read_classes
from ntkcl_jax.data.transforms import crop_resize_device

__all__ = [
    "Arrays",
    "Batch",
    "FileImages",
    "ImageSet",
    "Scenario",
    "Sides",
    "Source",
    "SourceKind",
    "affine_view_device",
    "crop_resize_device",
    "eval_batches",
    "load_source",
    "make_scenario",
    "prepare",
    "read_classes",
    "steps_per_epoch",
    "train_batches",
]
