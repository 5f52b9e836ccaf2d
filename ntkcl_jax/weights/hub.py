"""Remote weights: `hf:owner/repo[@revision]/file` and `timm:model.tag[@revision]`, through huggingface_hub.

The package is optional, and is what talks to the network and keeps the cache. Names can't leave a repository: `..`,
absolute paths and backslashes are refused before anything is asked for.
"""

import contextlib
import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights.beside import NAMES
from ntkcl_jax.weights.reading import refuse_pickle

TIMM_MODELS = (
    "vit_tiny_patch16_224.augreg_in21k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch16_224.augreg_in21k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_224.augreg_in21k",
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_base_patch16_224.orig_in21k",
    "vit_base_patch8_224.augreg_in21k",
    "vit_large_patch16_224.augreg_in21k",
    "vit_large_patch16_224.augreg_in21k_ft_in1k",
    "deit_tiny_patch16_224.fb_in1k",
    "deit_small_patch16_224.fb_in1k",
    "deit_base_patch16_224.fb_in1k",
)
"""Models of timm's organisation on the hub that are plain ViTs; others can be named with `hf:timm/...`."""
# No part may begin with a dot or a slash, so none leads out of the repository
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_HF = re.compile(rf"hf:(?P<repo>{_WORD}/{_WORD})(@(?P<revision>{_WORD}))?/(?P<file>{_WORD}(/{_WORD})*)")
_TIMM = re.compile(rf"timm:(?P<model>{_WORD})(@(?P<revision>{_WORD}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Remote(NamedTuple):
    """A file of a repository on the hub; `revision` is None for its newest state."""

    repo: str
    revision: str | None
    file: str

    @property
    def folder(self) -> str:
        """Folder of the file in the repository, with its slash; empty at the top."""
        return self.file[: self.file.rfind("/") + 1]


def is_remote(weights: str) -> bool:
    """Whether a name stands for a file on the hub."""
    return weights.startswith(("hf:", "timm:"))


def parse_remote(weights: str) -> Remote:
    """Take a remote name apart.

    Args:
        weights: the name.

    Returns:
        What to ask for.

    Raises:
        WeightsError: it has another form, leaves the repository, or isn't a safetensors or `.npz` file.

    Example:
        >>> parse_remote("hf:google/vit-base-patch16-224@abc123/model.safetensors")
        Remote(repo='google/vit-base-patch16-224', revision='abc123', file='model.safetensors')
        >>> parse_remote("timm:vit_base_patch16_224.augreg_in21k").repo
        'timm/vit_base_patch16_224.augreg_in21k'
    """
    if found := _TIMM.fullmatch(weights):
        if found["model"] not in TIMM_MODELS:
            raise WeightsError(
                f"{weights} isn't known; choose from {', '.join(TIMM_MODELS)}, or name the file: "
                f"hf:timm/{found['model']}/model.safetensors"
            )
        return Remote(f"timm/{found['model']}", found["revision"], "model.safetensors")
    found = _HF.fullmatch(weights)
    if not found or ".." in weights:
        raise WeightsError(
            f"{weights} is no remote name; expected hf:owner/repo[@revision]/file or timm:model.tag[@revision], e.g. "
            "hf:google/vit-base-patch16-224-in21k/model.safetensors"
        )
    refuse_pickle(weights)
    if not found["file"].endswith((".safetensors", ".npz")):
        raise WeightsError(f"{weights} names no .safetensors or .npz file; give one of those in {found['repo']}")
    return Remote(found["repo"], found["revision"], found["file"])


def fetch(weights: str) -> tuple[Path, tuple[str, ...]]:
    """Download a file, or find it in the hub's cache; with it what stands beside it (`beside.py`), where there is any.

    Args:
        weights: the remote name.

    Returns:
        The file on this machine, and a note with the revision that it is of.

    Raises:
        WeightsError: the name is wrong, huggingface_hub isn't installed, or the file can't be had.
    """
    remote = parse_remote(weights)
    try:
        # Optional, and slow to import: only for those who ask for remote weights
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        raise WeightsError(
            f"{weights} needs the package huggingface_hub: pip install 'ntkcl-jax[hub]', or download the file and give "
            "its path"
        ) from None
    try:
        # Asked before the download, which would make the answer yes
        cached = hub.try_to_load_from_cache(remote.repo, remote.file, revision=remote.revision)
        path = Path(hub.hf_hub_download(remote.repo, remote.file, revision=remote.revision))
    except Exception as error:  # the hub's, its HTTP library's and the system's kinds differ between versions
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{weights} can't be had ({type(error).__name__}: {said}); check the name and the network, or download the "
            "file elsewhere and give its path"
        ) from error
    # The cache keeps a file under the commit that it is of: .../snapshots/COMMIT/file
    commits = [part for part in path.parts if _COMMIT.fullmatch(part)]
    if not commits:
        return path, ()
    # Few repositories have all of them. Only beside a new file: asking again would wait for a network that may be gone.
    for name in NAMES if str(cached) != str(path) else ():
        with contextlib.suppress(Exception):
            hub.hf_hub_download(remote.repo, f"{remote.folder}{name}", revision=commits[-1])
    pinned = remote.revision == commits[-1]
    return path, (f"{remote.repo} at revision {commits[-1]}{'' if pinned else '; pin it with @' + commits[-1]}",)
