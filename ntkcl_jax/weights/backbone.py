"""A pre-trained backbone from a name or a file, and back into a file."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from ntkcl_jax.config import BACKBONES, BackboneConfig
from ntkcl_jax.errors import WeightsError, user_path
from ntkcl_jax.weights.formats import USUAL_HEADS, Account, check, take_account
from ntkcl_jax.weights.hub import fetch, is_remote
from ntkcl_jax.weights.layout import POSITIONS, NumpyTree
from ntkcl_jax.weights.reading import Tensors, file_sha256, from_arrays, open_tensors
from ntkcl_jax.weights.resize import resize_positions
from ntkcl_jax.weights.timm import TIMM, to_timm

SHIPPED = {"nano": "nano_glyphs"}
"""Backbones that come with the package: name to asset."""


class Loaded(NamedTuple):
    """A backbone that was read.

    `tree` maps paths to float32 arrays; `sha256` is that of the file; `notes` say what was done to it, one line each.
    """

    tree: NumpyTree
    sha256: str
    notes: tuple[str, ...]


class Located(NamedTuple):
    """A file on this machine, its SHA-256, and where it came from (one line each)."""

    path: Path
    sha256: str
    notes: tuple[str, ...]


def locate(weights: str, sha256: str = "") -> Located:
    """Find the file that a name stands for, and check its hash.

    Args:
        weights: `nano`, a path, `hf:owner/repo[@revision]/file` or `timm:model.tag[@revision]`.
        sha256: what its hash must be; empty: anything.

    Returns:
        The file.

    Raises:
        WeightsError: there is no such file, it can't be had, or it has another hash.
    """
    notes: tuple[str, ...] = ()
    if weights in SHIPPED:
        path = Path(str(resources.files("ntkcl_jax"))) / "assets" / f"{SHIPPED[weights]}.safetensors"
    elif is_remote(weights):
        path, notes = fetch(weights)
    else:
        path = user_path(weights)
    if not path.is_file():
        open_tensors(path)  # says what is wrong
    try:
        # Hashed before anything in it is read, so that a file which was swapped never gets to a parser
        found = file_sha256(path)
    except OSError as error:
        raise WeightsError(f"{path} can't be read ({error.strerror}); check its permissions") from error
    if sha256 and found != sha256.lower():
        raise WeightsError(
            f"{weights} has SHA-256 {found}, expected {sha256}; it is another file, or a damaged one: download it again"
        )
    if weights in SHIPPED:
        # Checked even if nothing is pinned: a damaged installation would silently give other features
        expected = json.loads(path.with_suffix(".json").read_text())["sha256"]
        if found != expected:
            raise WeightsError(f"{path} is damaged (SHA-256 {found[:12]}…, not {expected[:12]}…); reinstall ntkcl-jax")
    if is_remote(weights) and not sha256:
        notes += (f"SHA-256 {found}; pin it with --weights-sha256",)
    return Located(path, found, notes)


def read_backbone(weights: str, config: BackboneConfig, sha256: str = "") -> Loaded:
    """Read a pre-trained backbone from any kind of file that is known here.

    Args:
        weights: `nano` for the shipped one, the path of a safetensors or `.npz` file, or a remote name (`locate`).
        config: the backbone that it must fit; positions are resampled to its image size.
        sha256: what the file's hash must be; empty: anything.

    Returns:
        The tree (float32), the file's SHA-256, and notes.

    Raises:
        WeightsError: no such file, of no known kind, damaged, or of another architecture.
    """
    located = locate(weights, sha256)
    tensors = open_tensors(located.path)
    tree, notes = to_tree(tensors, config)
    return Loaded(tree, located.sha256, () if weights in SHIPPED else located.notes + notes)


def load_backbone(weights: str, config: BackboneConfig) -> tuple[NumpyTree, str]:
    """`read_backbone` without its notes: the tree and the file's SHA-256."""
    tree, sha256, _ = read_backbone(weights, config)
    return tree, sha256


def to_tree(tensors: Tensors, config: BackboneConfig, account: Account | None = None) -> tuple[NumpyTree, tuple]:
    """Read a file's arrays as a backbone.

    Args:
        tensors: the file.
        config: the backbone that it must fit.
        account: what its names are; None takes it.

    Returns:
        Path to float32 array (the paths of `shapes(config)`), and notes.

    Raises:
        WeightsError: a name is missing, unknown or given twice, or an array is damaged or of another shape.
    """
    account = account or take_account(tensors)
    # Names and shapes first: what a header claims costs no memory until it fits the config
    check(tensors, account, config)
    tree = account.layout.gather(lambda name: tensors.read(account.used[name]), config.depth)
    _refuse_zeros(tree, tensors.where)
    notes = _told(account, config)
    types = sorted({tensors.dtypes[name] for name in account.used.values()} - {"float32"})
    if types:
        notes.append(f"stored as {' and '.join(types)}, read as float32")
    if account.ignored:
        more = f" and {len(account.ignored) - 4} more" if len(account.ignored) > 4 else ""
        notes.append(f"left out, as no part of the backbone: {', '.join(account.ignored[:4])}{more}")
    # Last, since all that came before is about the file as it is
    old, side = tree[POSITIONS].shape[1], config.image_size // config.patch_size
    if old != config.tokens:
        tree[POSITIONS] = resize_positions(tree[POSITIONS], side)
        was = round((old - 1) ** 0.5)  # without the class token; `check` let only square grids through
        notes.append(f"position embeddings resampled from {was} x {was} to {side} x {side} patches (bicubic)")
    return tree, tuple(notes)


def _refuse_zeros(tree: NumpyTree, where: str) -> None:
    """An unfinished download can be as long as a whole one; no trained map, scale or grid is all zeros."""
    # Biases may well be zeros (a qkv map trained without), so they tell nothing
    ends = ("/kernel", "/scale", POSITIONS)
    empty = [path for path, value in tree.items() if path.endswith(ends) and not value.any()]
    if empty:
        raise WeightsError(
            f"{where}: {len(empty)} of its arrays hold nothing but zeros, the first is {empty[0]}; is it an unfinished "
            "download? Get it again"
        )


def _told(account: Account, config: BackboneConfig) -> list[str]:
    """Say what the shapes don't."""
    notes, found = [], account.architecture
    usual = USUAL_HEADS.get(config.dim)
    ours = config.dim == BACKBONES["nano"].dim  # a width of this project's own
    if found is not None and found.heads is None and usual not in (None, config.heads) and not ours:
        notes.append(
            f"the file doesn't tell its attention heads: {config.heads} as set, though {usual} are usual for "
            f"dim={config.dim}; another number than it was trained with gives wrong features"
        )
    if account.beside.normalize:
        notes.append(
            f"by the files beside it, it was trained with data.normalize={account.beside.normalize}; the "
            "published NTK-CL runs used none"
        )
    return notes


def from_timm(state: Mapping[str, np.ndarray], config: BackboneConfig, where: str = "the state dict") -> NumpyTree:
    """Convert arrays with timm's names into a backbone tree (float32).

    Args:
        state: timm name to array; a classification head (`head.*`, `fc_norm.*`) is ignored.
        config: the backbone that the arrays must fit; positions are resampled to its image size.
        where: what to call the source in messages.

    Returns:
        Path to float32 array, the paths of `shapes(config)`.

    Raises:
        WeightsError: a tensor is missing, unknown, not finite, or of another shape.
    """
    tensors = from_arrays(state, where)
    return to_tree(tensors, config, take_account(tensors, TIMM))[0]


def save_backbone(tree: NumpyTree, config: BackboneConfig, path: Path) -> None:
    """Write a backbone as a safetensors file with timm's names."""
    save_file(to_timm(tree, config), path)
