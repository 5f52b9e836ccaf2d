"""Options of each `ntkcl` command, as typed dataclasses that tyro turns into flags and help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ntkcl_jax.config import DataConfig, RunConfig
from ntkcl_jax.config.devices import HostsConfig, MeshConfig
from ntkcl_jax.config.sources import SOURCES
from ntkcl_jax.errors import require
from ntkcl_jax.terminal.parsing import Choices, parse


@dataclass(frozen=True)
class Demo:
    """Learn ten handwritten digits in five tasks of two, without keeping a single old image."""

    run_dir: Path = Path("runs/demo")
    """Folder of the run; must not exist yet, unless --resume is given."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to run, one after the other."""
    resume: bool = False
    """Go on with the interrupted demo in --run-dir."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the results as JSON instead of a table."""


@dataclass(frozen=True)
class Train:
    """Train on a stream of tasks."""

    run_dir: Path
    """Folder of the run; must not exist yet, unless --resume is given."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How the devices share the work; a run may be resumed on others."""
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """Processes of a run on several hosts, which share --run-dir."""
    resume: bool = False
    """Go on with the interrupted run in --run-dir; repeat its other options."""
    rehearse: bool = False
    """Train nothing: find out what the run will take (memory, time, disk), by a few steps at full size on noise. Needs
    neither weights nor images nor --run-dir; has options of its own, see --rehearse --help."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the results as JSON instead of a table."""


@dataclass(frozen=True)
class Rehearse:
    """Find out what a training run will take: every task at full size for a few steps, on noise.

    Compiles, trains, evaluates, writes checkpoints and resumes as the run would; leaves nothing behind. Neither weights
    nor images need to exist. Exit code 2: it doesn't fit into memory, or would stop for another reason.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of the later run: checkpoints are tried on its disk; the folder itself is left alone."""
    tasks: int = 0
    """Rehearse the first tasks only; 0 chooses by --minutes."""
    steps: int = 0
    """Training steps of the largest task; 0 chooses by --minutes."""
    minutes: float = 5.0
    """About how long it may take, compiling excepted: fewer steps, smaller evaluation batches, then fewer tasks."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what was found as JSON."""


@dataclass(frozen=True)
class Evaluate:
    """Classify the test images again with every stored state, and compare with the stored results."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the results as JSON instead of a table."""


@dataclass(frozen=True)
class Verify:
    """Check weights, images, split and transforms by the frozen nearest-class-mean accuracy; trains nothing.

    Exit code 0: passed, 1: something is wrong (said in the last lines), 2: input that can't be read.
    """

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = ""
    """Cell of the published tables, whose data layout, transforms and expected value are taken; see `ntkcl presets`."""
    weights: str = ""
    """Weights file (default: the preset's)."""
    data: str = ""
    """Image folder, or what the preset's or --source's data are (default: the preset's path)."""
    source: str = ""
    """Kind of the data (default: the preset's, else folder)."""
    train_list: str = ""
    """For lists: file or pattern."""
    test_list: str = ""
    """For lists: file or pattern."""
    image_size: int = 0
    """Side of the network's input, pixels (default: the preset's, else the weights')."""
    resize: int = 0
    """Shorter side before the centre crop, pixels (default: the preset's, else 8/7 of the image size)."""
    normalize: Literal["", "none", "half", "imagenet"] = ""
    """Normalisation of pixels (default: the preset's, else none)."""
    invert: bool = False
    """Turn dark-on-light images into light-on-dark ones."""
    images_per_class: int = 0
    """Use only this many images of each class and side; published values are then not compared."""
    expect: float | None = None
    """Accuracy to expect, in [0, 1] (default: the published one)."""
    tolerance: float | None = None
    """Accepted distance from it, in [0, 1] (default: 0.005, more for a split that isn't given)."""
    max_duplicates: int = 0
    """Test images that may be training images too."""
    compare: bool = False
    """Compare normalisations even if nothing looks wrong."""
    first_task: int | None = None
    """Compare readouts on training images of a first task of so many classes (default: the preset's; 0: don't)."""
    batch_size: int = 64
    """Images that go through the network at once."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what was found as JSON."""


@dataclass(frozen=True)
class Presets:
    """List the named configurations."""

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = ""
    """Tell one of them: its command, data and published numbers."""
    json: bool = False
    """Print every field of every preset as JSON."""


@dataclass(frozen=True)
class ShowWeights:
    """Read a weights file whole, check it, and say what it holds."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A .safetensors or .npz file, `nano`, or `hf:` or `timm:` and a name on the hub."""
    json: bool = False
    """Print it as JSON, with every name."""


@dataclass(frozen=True)
class ConvertWeights:
    """Write a backbone as a float32 safetensors file with other names."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """What `ntkcl weights show` takes, or a .pth, .pt or .bin file (needs torch; tensors are read, nothing runs)."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """File to write; ends with .safetensors and must not exist yet."""
    to: Literal["timm", "huggingface", "ntkcl"] = "timm"
    """Whose names to write."""
    image_size: int | None = None
    """Resample the position embeddings to this side of the image, pixels; None keeps the file's."""
    heads: int | None = None
    """Attention heads, for --to ntkcl, where the file doesn't tell."""
    json: bool = False
    """Print what was done as JSON."""


def _sources() -> Choices:
    return {DataConfig: {"source": SOURCES.names}}


def parse_train(name: str, config: RunConfig, args: list[str]) -> Train:
    """Read `ntkcl train`'s options over a preset."""
    # The preset's values are the defaults; only the folder has none
    default = Train(run_dir=tyro.MISSING, config=config)
    return parse(Train, f"ntkcl train {name}", args, default, choices=_sources())


def parse_verify(args: list[str]) -> Verify:
    """Read `ntkcl verify`'s options; `arrays` come from Python only."""
    sources = tuple(name for name in SOURCES.names if name != "arrays")
    return parse(Verify, "ntkcl verify", args, choices={Verify: {"source": ("", *sources)}})


def parse_rehearse(name: str, config: RunConfig, args: list[str]) -> Rehearse:
    """Read `ntkcl train --rehearse`'s options over a preset.

    Raises:
        ConfigError: besides those of `parse`: a negative number.
    """
    options = parse(Rehearse, f"ntkcl train {name} --rehearse", args, Rehearse(config), choices=_sources())
    require(options.tasks >= 0, f"--tasks must be >= 0, got {options.tasks}")
    require(options.steps >= 0, f"--steps must be >= 0, got {options.steps}")
    require(options.minutes > 0, f"--minutes must be positive, got {options.minutes}")
    return options
