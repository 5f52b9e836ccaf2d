"""The sweeps by name: what `python -m experiments.sweep NAME` runs, and why."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.sweep.rows import Row, Sweep, method_rows
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.config.presets import IN1K, VARIANT_PARTS

OFFLINE = ("digits", "uci-digits", "scripts")
IN_MODEL = ("fusion", "initialisation")


def part_field(part: str) -> str:
    """Where a part's form is set."""
    return f"{'model' if part in IN_MODEL else 'objective'}.{part}"


def forms(form: str) -> tuple[tuple[str, str], ...]:
    """Every part in one form."""
    return tuple((part_field(part), form) for part in VARIANT_PARTS)


def variant_rows(_: RunConfig) -> Sequence[Row]:
    """`reference`, `paper`, each `paper` part alone, and what they are measured against."""
    reference = dict(forms("reference"))
    alone = [Row(f"reference + paper {p}", tuple((reference | {part_field(p): "paper"}).items()))
             for p in VARIANT_PARTS]  # fmt: skip
    return [
        Row("reference", forms("reference")),
        Row("paper", forms("paper")),
        *alone,
        *(Row(method, (), (method,)) for method in ("prototypes", "sequential", "joint")),
    ]


NARROW = (140, 140, 700, 420)
"""Widths of `multilevel` whose state fits in 20 MB."""
NANO_RATES = {"l2p": 0.04, "dualprompt": 0.02, "coda-prompt": 0.02, "inflora": 0.02}
"""Learning rates of baselines whose published ones are too small for the nano presets' 100 or so steps a task.

Found on the streams and seeds of `choose` (`choose-baselines`); the others keep their published rates.
"""


def at_rate(method: str, rate: float) -> Row:
    """A baseline at a learning rate of ours."""
    return Row(method, (("baselines.learning_rate", rate),), (method,))


def baseline_choice_rows(_: RunConfig) -> Sequence[Row]:
    """Rates among which `NANO_RATES` were chosen."""
    tried = {method: (0.005, 0.02, 0.06) for method in NANO_RATES} | {"l2p": (0.002, 0.01, 0.04)}
    return [
        replace(at_rate(method, rate), name=f"{method}, rate {rate:g}") for method in tried for rate in tried[method]
    ]


def table_rows(_: RunConfig) -> Sequence[Row]:
    """Every method with the stream's own settings, and NTK-CL as its authors released it."""
    own, *others = method_rows()
    rows = [own, Row("ntkcl reference", forms("reference"), own.methods), *others]
    return [at_rate(row.name, NANO_RATES[row.name]) if row.name in NANO_RATES else row for row in rows]


def deit_rows(config: RunConfig) -> Sequence[Row]:
    """NTK-CL in both forms and with slower later tasks, with both heads, and what costs one pass over the images."""
    both = ("ntkcl", "ntkcl-ridge")
    slower = (config.optimizer.learning_rate / 10, 0.0)
    return [
        Row("ntkcl", forms("paper"), both),
        Row("ntkcl reference", forms("reference"), both),
        *(
            Row(f"ntkcl, later rate {r:g}", (*forms("paper"), ("optimizer.later_learning_rate", r)), both)
            for r in slower
        ),
        *(Row(method, (), (method,)) for method in ("prototypes", "ridge", "ranpac")),
        Row("ranpac without first session", (("baselines.first_session", False),), ("ranpac",)),
    ]


def later_rate_rows(config: RunConfig) -> Sequence[Row]:
    """Later tasks at the published rate, at a tenth of it and not trained at all, each below three readouts."""
    narrow = ("readout.widths", NARROW)
    rate, both = config.optimizer.learning_rate, ("ntkcl", "ntkcl-ridge", "ntkcl/multilevel")
    rates = (("as the first", None), (f"{rate / 10:g}", rate / 10), ("0", 0.0))
    moved = [Row(f"later rate {name}", (*forms("reference"), ("optimizer.later_learning_rate", value), narrow), both)
             for name, value in rates]  # fmt: skip
    return [*moved, Row("multilevel", (narrow,), ("multilevel",)), Row("prototypes", (), ("prototypes",))]


def readout_rows(config: RunConfig) -> Sequence[Row]:
    """Readouts of a frozen backbone, all but ours in one run; RanPAC and LayUP also above their published session."""
    # Features of the shipped backbone are 64 numbers: more directions tell nothing new of them
    wider = (("readout.random_features", 6000),) if config.model.backbone.depth >= 12 else ()
    frozen = ("ridge", "frozen/ranpac", "frozen/layup", "acil", "ds-al", "klda", "fecam", "loranpac")
    return [
        Row("multilevel", (), ("multilevel",)),
        Row("multilevel, no views", (("readout.level_views", 0),), ("multilevel",)),
        Row("multilevel, 20 MB", (("readout.widths", NARROW),), ("multilevel",)),
        Row("first-session/multilevel", (), ("first-session/multilevel",)),
        Row("prototypes", wider, ("prototypes", *frozen)),
        Row("ranpac", wider, ("ranpac", "layup")),
    ]


def benchmark_rows(_: RunConfig) -> Sequence[Row]:
    """Every method with the published settings, which are `reference`, and the `paper` forms."""
    own, *others = method_rows()
    return [own, Row("ntkcl paper", forms("paper"), own.methods), *others]


FACTORS = (0, 0.1, 10)
ONE_CHANGE: tuple[tuple[str, tuple[object, ...]], ...] = (
    *((part_field(part), ("reference", "paper")) for part in VARIANT_PARTS),
    ("model.streams", ("channel", "patch")),
    ("model.mean_weight", (0,)),
    ("model.current_weight", (0,)),
    ("model.pretrained_view", (True, False)),
    ("model.adapter_scale", (0,)),
    ("model.fusion_attention_scale", (0,)),
    ("model.fusion_patch_scale", (0,)),
    ("model.adapter_rank", (1, 4, 64)),
    ("model.prompts", (1, 5, 20)),
)
"""Field and the values tried; the one that the stream has already is no row."""


def ablation_rows(config: RunConfig) -> Sequence[Row]:
    """The stream's settings, and rows in which exactly one field differs from them.

    The weights of the loss terms (`lambda_dis` is η, `lambda_orth` υ, `lambda_reg` λ) are tried at nought, a tenth and
    ten times the stream's own.
    """
    values = to_json(config)
    changes: list[tuple[str, object]] = []
    for name in ("dis", "orth", "reg"):
        own = values["objective"][f"lambda_{name}"]
        # Rounded, or 0.1 times a weight would be a setting and a name with stray digits
        changes += [(f"objective.lambda_{name}", float(f"{factor * own:.6g}")) for factor in FACTORS]
    changes += [(field, value) for field, tried in ONE_CHANGE for value in tried]
    rows = [Row("unchanged")]
    for field, value in changes:
        part, name = field.split(".")
        if values[part][name] != value:
            shown = f"{value:g}" if isinstance(value, float) else str(value).lower()
            rows.append(Row(f"{name} {shown}", ((field, value),)))
    return rows


def choice_rows(_: RunConfig) -> Sequence[Row]:
    """Settings among which the nano presets' were chosen."""
    rows = [Row(method, (), (method,)) for method in ("prototypes", "joint")]
    for form, view, later in (
        ("paper", False, 0.02),
        ("paper", False, 0.2),
        ("paper", False, 0.0),
        ("paper", True, 0.02),
        ("paper", True, 0.2),
        ("reference", False, 0.02),
        ("reference", True, 0.2),
    ):
        changes = (("model.pretrained_view", view), ("optimizer.later_learning_rate", later), *forms(form))
        rows.append(Row(f"{form}, later rate {later:g}{', pretrained view' if view else ''}", changes))
    return rows


SWEEPS: dict[str, Sweep] = {
    "methods": Sweep(
        "All methods on the streams that need no files",
        "Shipped nano backbone, the same frozen backbone, images, class orders and metrics for every method. `digits`: "
        "5,000 MNIST images, 5 tasks x 2; `uci-digits`: 1,797 digits of 13 writers, 5 x 2 (`choose` picked the nano "
        "presets' hyper-parameters on these very images, so NTK-CL has an advantage there); `scripts`: 120 rendered "
        "characters, 10 x 12. `ntkcl` uses the preset (`paper` forms), `ntkcl reference` the authors' forms with the "
        "same hyper-parameters. `l2p`, `dualprompt`, `coda-prompt` and `inflora` train at rates chosen elsewhere "
        "(`choose-baselines`), since their published ones are made for ten times the steps; the others at their own.",
        OFFLINE,
        table_rows,
    ),
    "variants": Sweep(
        "Variants of NTK-CL",
        "Shipped nano backbone. `digits`: 5,000 MNIST images, 5 tasks x 2; `scripts`: 120 rendered characters, 10 x "
        "12; `omniglot`: 192 handwritten characters of six alphabets of brendenlake/omniglot, 15 training and 5 test "
        "images each, 12 x 16. `paper` is what the presets use; all NTK-CL rows share the presets' hyper-parameters, "
        "chosen on other streams and seeds (`choose`). `prototypes`, `sequential` and `joint` use the frozen backbone; "
        "the first doesn't depend on the class order at the end, so it has no spread there.",
        ("digits", "scripts"),
        variant_rows,
    ),
    "ablations": Sweep(
        "One change at a time",
        "Each row differs from `unchanged` (the preset) in the one field that it names. `lambda_dis` is η, "
        "`lambda_orth` υ, `lambda_reg` λ; `mean_weight` and `current_weight` weigh the sections' cosines in the "
        "prototype head; `adapter_scale 0` leaves the channel stream untouched, `fusion_patch_scale 0` and "
        "`fusion_attention_scale 0` leave one summand out of the hybrid feature.",
        ("digits",),
        ablation_rows,
    ),
    "benchmarks": Sweep(
        "The published benchmarks",
        "ViT-B/16, the published settings; needs the data, the weights and an accelerator.",
        tuple(benchmark + end for benchmark in BENCHMARKS for end in ("", IN1K)),
        benchmark_rows,
    ),
    "deit": Sweep(
        "A real pre-trained backbone: DeiT-Ti at 112 px",
        "DeiT-Ti/16 (ImageNet-1K, Apache-2.0; a copy whose LayerNorms were rounded), positions resampled from 224 to "
        "112 px. `deit-omniglot`: 192 handwritten characters that it hasn't seen, 12 x 16. `deit-tiny-imagenet`: 100 "
        "classes of Tiny-ImageNet, 10 x 10; **DeiT was trained on these classes**, so this is no test of transfer. "
        "NTK-CL has the published ImageNet-R settings but for the epochs (2, on Tiny-ImageNet 1; published 20), chosen "
        "for the time that a CPU takes; `later rate` is the initial rate of tasks 2, 3, ..., where it isn't that of "
        "task 1; "
        "the ridge heads have 2,000 random features, `ntkcl-ridge` one crop beside each image.",
        ("deit-omniglot", "deit-tiny-imagenet"),
        deit_rows,
        (0,),
    ),
    "readouts": Sweep(
        "Readouts of a frozen backbone",
        "What a readout alone reaches: nothing trains below it but where a first session is named. `multilevel` has "
        "its defaults on every stream (10,000 numbers an image, one affine view; `20 MB`: 1,400 numbers), and chooses "
        "weights and ridge inside the run; `ranpac`, `acil`, `ds-al` and `klda` have 6,000 random features, with the "
        "nano backbone 2,000, `loranpac` 10,000. `deit-...`: DeiT-Ti/16 (ImageNet-1K) at 112 px, or where it says so "
        "at 224; it hasn't seen Omniglot's characters, but **was trained on the classes of Tiny-ImageNet**. The "
        "others: the shipped nano backbone.",
        OFFLINE,
        readout_rows,
        (0, 1, 2),
    ),
    "choose": Sweep(
        "Choice of the nano presets' hyper-parameters",
        "On streams and seeds that no result is reported on, but for `dev-digits`, whose images are those of "
        "`uci-digits`. The learning rate of task 0 (0.2), two epochs of batches of 16, and λ = 0.1 came from a coarser "
        "search on the same streams: rates from 0.01 to 1, λ from 0.001 to 1, η and υ up to 0.3.",
        ("dev-digits", "dev-scripts"),
        choice_rows,
        (100, 101),
    ),
    "choose-later": Sweep(
        "Choice of the later learning rate of a real backbone",
        "NTK-CL with its authors' forms on DeiT-Ti/16 at 112 px, on streams that no result is reported on: trained on "
        "later tasks as on the first, at a tenth of that rate, and not at all. `multilevel`: 1,400 numbers an image.",
        ("deit-dev-scripts", "deit-dev-icons"),
        later_rate_rows,
        (0, 1, 2),
    ),
    "choose-baselines": Sweep(
        "Choice of the baselines' learning rates for the nano presets",
        "On the streams and seeds of `choose`.",
        ("dev-digits", "dev-scripts"),
        baseline_choice_rows,
        (100, 101),
    ),
}
"""Every sweep."""
