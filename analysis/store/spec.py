"""What a stored kernel is the kernel of."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from analysis.errors import StoreError
from ntkcl_jax.config.codec import from_json
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.runs.folder import first_difference, provenance

WHOLE = "whole"
"""Name of the array that is no group's part."""
OUTPUT_AXES = {"full": 2, "trace": 0, "diagonal": 1, "pseudo": 0}
"""Axes of length k behind the two of length n."""
HOW = ("tile", "versions", "commit")
"""Fields that say how a kernel was computed and leave open what it is: they only matter while it is under work."""


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """Everything that decides about a kernel's numbers; two equal specs give equal files.

    Attributes:
        seed: seed of the run.
        checkpoint: 0 before task 0, t + 1 after task t.
        outputs: `full` (n, n, k, k), `trace` (n, n), `diagonal` (n, n, k) or `pseudo` (n, n).
        head: which outputs of the network, `scores`, `proxy` or `features`.
        method: whose network it is.
        n: images of all tasks.
        k: outputs of the function.
        copies: outputs of the network that have this kernel each, where they are alike and it is that of one of them:
            theirs is Θ ⊗ I.
        tile: images in a tile; the last tile may hold fewer.
        groups: names of the parameter groups that are stored apart.
        tasks: task numbers whose images these are.
        offsets: first image of each task, then n.
        parameters: SHA-256 of the parameters and of the function's frozen arrays.
        probes: SHA-256 of the images.
        way: how the kernel is computed, e.g. `tiled`.
        precision: of what, e.g. `float32, contracted in float64`.
        versions: packages and their versions.
        commit: of this code, None where it isn't known.

    Raises:
        StoreError: fields that don't fit together.

    Example:
        >>> spec = KernelSpec(
        ...     seed=0, checkpoint=1, outputs="full", head="scores", n=5, k=2, tile=2, tasks=(0, 3), offsets=(0, 3, 5),
        ...     parameters="5e0c", probes="9a1f", way="tiled", precision="float32",
        ... )
        >>> spec.shape, spec.pairs, spec.rows(2), spec.images(3)
        ((5, 5, 2, 2), ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)), slice(4, 5, None), slice(3, 5, None))
    """

    seed: int
    checkpoint: int
    outputs: str
    head: str
    method: str = "ntkcl"
    n: int
    k: int
    tile: int
    copies: int = 1
    groups: tuple[str, ...] = ()
    tasks: tuple[int, ...]
    offsets: tuple[int, ...]
    parameters: str
    probes: str
    way: str
    precision: str
    versions: tuple[tuple[str, str], ...] = ()
    commit: str | None = None

    def __post_init__(self) -> None:
        """Refuse fields that don't fit together."""
        for problem in self._problems():  # the first one; later checks may count on earlier ones
            raise StoreError(f"expected {problem}; correct the kernel's spec")

    def _problems(self) -> Iterator[str]:
        if self.outputs not in OUTPUT_AXES:
            yield f"outputs to be one of {', '.join(OUTPUT_AXES)}, got {self.outputs!r}"
        if min(self.n, self.k, self.tile) < 1:
            yield f"n, k and tile of at least 1, got {self.n}, {self.k} and {self.tile}"
        if self.copies < 1:
            yield f"copies of at least 1, got {self.copies}"
        if min(self.seed, self.checkpoint) < 0:
            yield f"a seed and a checkpoint of at least 0, got {self.seed} and {self.checkpoint}"
        if len(self.offsets) != len(self.tasks) + 1 or (self.offsets[0], self.offsets[-1]) != (0, self.n):
            yield f"offsets from 0 to n={self.n} for {len(self.tasks)} tasks, one more than tasks; got {self.offsets}"
        if list(self.offsets) != sorted(self.offsets) or len(set(self.tasks)) != len(self.tasks):
            yield f"offsets that grow and tasks that differ, got {self.offsets} and {self.tasks}"
        for name in self.groups:  # a name of a folder
            if not re.fullmatch(r"[\w.-]+", name) or name == WHOLE:
                yield f"group names of letters, digits and _.- other than {WHOLE!r}, got {name!r}"
        if len(set(self.groups)) != len(self.groups):
            yield f"groups that differ, got {self.groups}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel over all images."""
        return (self.n, self.n, *[self.k] * OUTPUT_AXES[self.outputs])

    @property
    def tiles(self) -> int:
        """Number of tiles on a side."""
        return -(-self.n // self.tile)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Tile pairs (i, j), i <= j, that are stored."""
        return tuple((i, j) for i in range(self.tiles) for j in range(i, self.tiles))

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the stored arrays: the whole and each group."""
        return (WHOLE, *self.groups)

    @property
    def place(self) -> str:
        """Where the kernel lies below the store."""
        return place(self.seed, self.checkpoint, self.outputs)

    def rows(self, tile: int) -> slice:
        """Images of a tile."""
        return slice(tile * self.tile, min((tile + 1) * self.tile, self.n))

    def images(self, task: int) -> slice:
        """Images of a task.

        Raises:
            StoreError: the kernel has no images of that task.
        """
        if task not in self.tasks:
            raise StoreError(
                f"kernel {self.place} has the tasks {', '.join(map(str, self.tasks))}, got task {task}; compute it "
                "with that task's images too"
            )
        at = self.tasks.index(task)
        return slice(self.offsets[at], self.offsets[at + 1])

    def block_shape(self, i: int, j: int) -> tuple[int, ...]:
        """Shape of the tile pair (i, j), without padding."""
        sides = [self.rows(tile) for tile in (i, j)]
        return (*[side.stop - side.start for side in sides], *self.shape[2:])

    def difference(self, other: "KernelSpec", *, tiles: bool) -> str | None:
        """Describe the first difference, or None.

        Args:
            other: the other spec.
            tiles: whether the two must give the same tiles, or just the same kernel in other tiles or by another
                version of the code.

        Example:
            >>> from dataclasses import replace
            >>> spec = KernelSpec(
            ...     seed=0, checkpoint=1, outputs="trace", head="scores", n=4, k=2, tile=2, tasks=(0,), offsets=(0, 4),
            ...     parameters="5e0c", probes="9a1f", way="tiled", precision="float32",
            ... )
            >>> other = replace(spec, tile=4, way="sketched")
            >>> spec.difference(other, tiles=False), spec.difference(other, tiles=True)
            ("way was 'tiled', now 'sketched'", 'tile was 2, now 4')
        """
        for field in fields(self):
            was, now = getattr(self, field.name), getattr(other, field.name)
            # A finished kernel may be of other tiles or code; one under work mustn't mix two: resuming keeps the bits
            if was == now or (field.name in HOW and not tiles):
                continue
            if field.name == "versions":
                return first_difference(dict(was), dict(now), "versions")
            return f"{field.name} was {_shown(was)}, now {_shown(now)}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        # Pairs in the spec, so that it can be hashed; an object in JSON, for people
        return asdict(self) | {"versions": dict(self.versions)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "KernelSpec":
        """Read back what `to_json` gave.

        Raises:
            StoreError: fields that don't fit together.
        """
        try:
            return from_json(cls, value | {"versions": tuple(value["versions"].items())})
        except ConfigError as error:
            raise StoreError(str(error)) from error


def analysis_folder(run: Path, method: str = "ntkcl") -> Path:
    """Where the kernels, summary and figures of a method of a run lie.

    Example:
        >>> print(analysis_folder(Path("runs/demo")), analysis_folder(Path("runs/demo"), "ease/ridge"))
        runs/demo/analysis runs/demo/analysis/ease_ridge
    """
    home = run / "analysis"
    # One folder for each: `ease/ridge` beside `ease`, not in it
    return home if method == "ntkcl" else home / method.replace("/", "_")


def place(seed: int, checkpoint: int, outputs: str) -> str:
    """Where a kernel lies below the store.

    Example:
        >>> place(0, 3, "full")
        'seed0/checkpoint3/full'
    """
    return f"seed{seed}/checkpoint{checkpoint}/{outputs}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:16]}…"


def code_version() -> dict[str, Any]:
    """Versions of the packages and commit of the code, as the fields `versions` and `commit` of a spec."""
    facts = provenance()
    git = facts["git"]
    return {
        "versions": tuple(sorted(facts["versions"].items())),
        # Changes that aren't committed are another code, though nobody can say which
        "commit": git and git["commit"] + ("+modified" if git["modified"] else ""),
    }


def code_version_json() -> dict[str, Any]:
    """`code_version` as JSON values."""
    version = code_version()
    return {"versions": dict(version["versions"]), "commit": version["commit"]}
