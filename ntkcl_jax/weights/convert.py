"""`ntkcl weights`: what a file holds, and the same backbone in another kind of file."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import save_file

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.errors import WeightsError, user_path
from ntkcl_jax.terminal.progress import plain_text
from ntkcl_jax.weights.backbone import locate, to_tree
from ntkcl_jax.weights.formats import Account, check_names, take_account
from ntkcl_jax.weights.huggingface import HUGGINGFACE
from ntkcl_jax.weights.layout import NumpyTree
from ntkcl_jax.weights.own import OWN, header
from ntkcl_jax.weights.pickled import read_pickle
from ntkcl_jax.weights.reading import PICKLES, Tensors, file_sha256, open_tensors
from ntkcl_jax.weights.timm import TIMM

TARGETS = {layout.name: layout for layout in (TIMM, HUGGINGFACE, OWN)}


class Read(NamedTuple):
    """A file that was read whole, in its own architecture."""

    tensors: Tensors
    account: Account
    config: BackboneConfig
    heads: int | None
    """Attention heads if the file or the user tells, else None."""
    tree: NumpyTree
    notes: tuple[str, ...]


def read_whole(tensors: Tensors, *, heads: int | None = None, image_size: int | None = None) -> Read:
    """Read a file in the architecture that its shapes tell.

    Args:
        tensors: the file.
        heads: attention heads where the file doesn't tell.
        image_size: side of the image to resample positions to, pixels; None keeps the file's.

    Returns:
        What it holds.

    Raises:
        WeightsError: it is of no known kind, incomplete or damaged, or `heads` differs from the file's.
    """
    account = take_account(tensors)
    check_names(tensors, account)
    found = account.architecture
    if found is None or found.side is None:
        what = "positions of a class token and a square grid" if found else "a square patch embedding and a first block"
        raise WeightsError(
            f"{tensors.where} has {account.layout.title}, but lacks {what}, so its architecture is unknown; give "
            "another file"
        )
    # Heads change no shape: a wrong number would convert without a word and give wrong features
    if heads and found.heads and heads != found.heads:
        raise WeightsError(f"{tensors.where} has {found.heads} attention heads, got --heads {heads}; leave it out")
    config = found.config(heads, image_size)
    tree, notes = to_tree(tensors, config, account)
    if not (found.heads or heads):
        notes += (f"the file doesn't tell its attention heads: where they matter, {config.heads} are assumed",)
    return Read(tensors, account, config, found.heads or heads, tree, notes)


def show(weights: str) -> dict[str, Any]:
    """Say what a file holds, after reading and checking all of it.

    Args:
        weights: anything that `--weights` takes.

    Returns:
        Plain data: `file`, `bytes`, `sha256`, `format`, `architecture`, `options`, `dtypes`, `parameters`, `used` and
        `ignored` names, `notes`.

    Raises:
        WeightsError: it can't be used as a backbone.
    """
    located = locate(weights)
    read = read_whole(open_tensors(located.path))
    found, used = read.account.architecture, read.account.used.values()
    assert found is not None  # else it would not have been read
    return {
        "file": str(located.path),
        "bytes": located.path.stat().st_size,
        "sha256": located.sha256,
        "format": f"{read.tensors.kind}, {read.account.layout.title}",
        # The file's own facts; the image size follows from the grid of positions and the patch
        "architecture": {**vars(found), "heads": found.heads, "image_size": read.config.image_size},
        "options": found.options(),
        "dtypes": sorted({read.tensors.dtypes[name] for name in used}),
        "parameters": sum(value.size for value in read.tree.values()),
        "used": sorted(used),
        "ignored": list(read.account.ignored),
        "notes": list(located.notes + read.notes),
    }


def described(facts: dict[str, Any]) -> str:
    """Lay out `show`'s facts for people."""
    a = facts["architecture"]
    heads = a["heads"] or "not told by the file"
    rows = {
        "file": f"{facts['file']} ({facts['bytes']:,} bytes)",
        "SHA-256": facts["sha256"],
        "format": f"{facts['format']}, {' and '.join(facts['dtypes'])}",
        "backbone": f"dim {a['dim']}, depth {a['depth']}, patch {a['patch_size']}, MLP {a['hidden']}, channels "
        f"{a['channels']}, image {a['image_size']}, heads {heads}",
        "arrays": f"{len(facts['used'])} used ({facts['parameters']:,} numbers), {len(facts['ignored'])} ignored",
        "options": facts["options"],
    }
    return _table(rows, facts["notes"])


def converted(done: dict[str, Any]) -> str:
    """Lay out `convert`'s facts for people."""
    return _table({"written": done["written"], "names": done["format"], "SHA-256": done["sha256"]}, done["notes"])


def _table(rows: dict[str, str], notes: list[str]) -> str:
    """Lines that can't steer the terminal, whatever names a file carries."""
    lines = [*rows.items(), *(("note", note) for note in notes)]
    return "".join(f"{name:<10}{plain_text(value)}\n" for name, value in lines)


def convert(
    source: str, target: Path, *, to: str = "timm", heads: int | None = None, image_size: int | None = None
) -> dict[str, Any]:
    """Write a backbone as a safetensors file of another kind, in float32.

    Args:
        source: anything that `--weights` takes, or a `.pth`, `.pt` or `.bin` file (needs torch).
        target: file to write; must end with `.safetensors` and not exist.
        to: one of `TARGETS`.
        heads: attention heads, where the file doesn't tell; written into this project's own files.
        image_size: side of the image to resample positions to, pixels; None keeps the file's.

    Returns:
        Plain data: `written`, `sha256`, `format`, `notes`.

    Raises:
        WeightsError: the source can't be used, or the target can't be written.
    """
    layout = TARGETS[to]
    if target.suffix != ".safetensors":
        raise WeightsError(f"expected a name that ends with .safetensors, got {target}; only such files are written")
    if target.exists():
        raise WeightsError(f"{target} is there already; give another name, or remove it first")
    notes: tuple[str, ...] = ()
    if source.lower().endswith(PICKLES):
        tensors = read_pickle(user_path(source))
    else:
        located = locate(source)
        tensors, notes = open_tensors(located.path), located.notes
    # Read into our own layout and written from it, so each kind of file needs only its own two ways
    read = read_whole(tensors, heads=heads, image_size=image_size)
    # Readers of PyTorch's files look for `format` in the header
    metadata = header(read.config, read.heads) if layout is OWN else {"format": "pt"}
    _write(layout.scatter(read.tree, read.config), target, metadata)
    return {
        "written": str(target),
        "sha256": file_sha256(target),
        "format": f"{layout.title} (from {read.account.layout.title}), float32",
        "notes": list(notes + read.notes),
    }


def _write(state: NumpyTree, target: Path, metadata: dict[str, str]) -> None:
    """Write beside the target and rename, so that a cut-off write leaves nothing that looks whole."""
    try:
        # On the target's own disk, since only there is a rename one step
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".weights-") as folder:
            beside = Path(folder) / target.name
            save_file(state, beside, metadata=metadata)
            beside.chmod(0o644)  # safetensors writes files that only their owner can read
            os.replace(beside, target)
    except OSError as error:
        raise WeightsError(f"{target} can't be written ({error.strerror}); give a folder that exists") from error
