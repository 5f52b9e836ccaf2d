"""What `ntkcl verify` is asked, as a config and weights, and what it says, as text."""

from dataclasses import replace
from typing import Any

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.presets import PRESETS, preset
from ntkcl_jax.data.sources import source_kind
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.terminal.options import Verify
from ntkcl_jax.training.first_task import FirstTask
from ntkcl_jax.training.verify import Verification, percent, span
from ntkcl_jax.weights.backbone import locate, read_backbone
from ntkcl_jax.weights.convert import read_whole
from ntkcl_jax.weights.layout import NumpyTree
from ntkcl_jax.weights.reading import open_tensors

RESIZE_OVER_SIZE = 256 / 224
"""Shorter side over crop, where nothing says otherwise."""


def asked(options: Verify) -> tuple[RunConfig, tuple[NumpyTree, str], tuple[str, ...], tuple[float, float] | None]:
    """Find out what to verify.

    Args:
        options: of the command line.

    Returns:
        The config, the weights with their hash, notes about them, and the accuracy to expect (None: unknown).

    Raises:
        ConfigError: neither a preset nor weights and data, or values that are refused.
        WeightsError: weights that can't be read or are of another architecture than the preset's.
    """
    # Images below a path, or a source that needs none
    found = options.data or (options.source and not source_kind(options.source).reads_path)
    if not options.preset and not (options.weights and found):
        raise ConfigError("expected a preset, or --weights and --data; e.g. `ntkcl verify cifar100 --data DATA`")
    base = preset(options.preset) if options.preset else RunConfig(preset="")
    weights = options.weights or base.weights
    if weights == "random":
        raise ConfigError("there is nothing to verify in random weights; give --weights")
    config = replace(base, weights=weights, compute=replace(base.compute, eval_batch_size=options.batch_size))
    if options.preset:
        shape = replace(base.model.backbone, image_size=options.image_size or base.model.backbone.image_size)
        backbone, sha256, notes = read_backbone(weights, shape)
    else:
        located = locate(weights)
        read = read_whole(open_tensors(located.path), image_size=options.image_size or None)
        backbone, sha256, shape, notes = read.tree, located.sha256, read.config, located.notes + read.notes
    # A preset's resize belongs to its own input size; any other size keeps the usual proportion
    resized = not options.preset or options.image_size
    changes: dict[str, Any] = {"resize": round(shape.image_size * RESIZE_OVER_SIZE)} if resized else {}
    if not options.preset:
        changes |= {"source": "folder"}
    given = {
        "source": options.source,
        "path": options.data,
        "train_list": options.train_list,
        "test_list": options.test_list,
        "resize": options.resize,
        "normalize": options.normalize,
        "invert": options.invert,
        "images_per_class": options.images_per_class,
    }
    # An option that wasn't given is empty: the preset's value stays
    changes |= {name: value for name, value in given.items() if value}
    data = replace(base.data, **changes)
    config = replace(config, data=data, model=_model(base, shape))
    return config, (backbone, sha256), tuple(notes), _expected(options, config)


def _model(base: RunConfig, shape: Any) -> Any:
    """The model is only a frame for its backbone here: one fusion head fits every width."""
    return replace(base.model, backbone=shape, fusion_heads=1)


def _expected(options: Verify, config: RunConfig) -> tuple[float, float] | None:
    """What the user says, else what is published for the preset as it is."""
    if options.expect is not None:
        return options.expect, options.expect
    if not options.preset:
        return None
    published = PRESETS[options.preset].published
    # What is published is of all images at the preset's own sizes
    whole = not config.data.images_per_class and not options.image_size and not options.resize
    return published.frozen if published is not None and whole else None


def first_classes(options: Verify, config: RunConfig) -> int:
    """Classes of the first task on which readouts are compared; 0: they aren't."""
    if options.first_task is not None:
        return options.first_task
    # Without a preset nobody has said how the stream is cut
    own = config.data.first_task_classes or config.data.classes_per_task
    return own if options.preset and own > 1 else 0


def report(found: Verification) -> str:
    """Write a verification for people, `PASS` or `FAIL` last."""
    weights, data, split, facts = found.weights, found.data, found.split, found.preprocessing
    lines = [
        f"weights        {weights['name']}, {weights['architecture']}",
        f"               SHA-256 {weights['sha256']}",
        *(f"               {note}" for note in weights["notes"]),
        f"data           {' '.join(filter(None, (data['source'], data['path'])))}, {data['classes']} classes",
        f"               SHA-256 {data['sha256']}",
    ]
    lines += [
        f"{side:<15}{c['images']} images; of a class {c['least']} / {c['median']:g} / {c['most']} (least, median, most)"
        for side, c in found.counts.items()
    ]
    lines += [
        f"split          {split['made']}; SHA-256 {split['sha256']}",
        f"preprocessing  {facts['id']}: " + "; ".join(text for name, text in facts.items() if name != "id"),
        f"duplicates     {len(found.duplicates)} test images are training images too",
    ]
    if found.conflicts:
        lines.append(f"               {found.conflicts} training images have a copy with another label")
    beside = "no published value to compare with"
    if found.expected is not None:
        beside = f"expected {span(found.expected)} ± {100 * found.tolerance:.1f}"
    lines.append(f"nearest mean   {percent(found.accuracy)}, {beside}")
    if found.normalisations:
        tried = ", ".join(f"{name} {percent(share)}" for name, share in found.normalisations.items())
        lines.append(f"normalize      {tried} (a few images of each class)")
    lines += _first_task(found.first_task) if found.first_task else []
    return "\n".join([*lines, *(f"FAIL           {line}" for line in found.failures), *["PASS"] * found.passed]) + "\n"


def _first_task(found: FirstTask) -> list[str]:
    """What readouts make of left-out images, and which to take."""
    title = f"{found.images} images of {found.classes} classes, each told by ridge regression on the others:"
    told = [
        f"               {name:<18}{percent(one['accuracy'])} right, squared error {one['error']:.3f} ± "
        f"{one['deviation']:.3f}"
        for name, one in found.methods.items()
    ]
    why = "nothing that keeps more is better by a standard error; docs/theory.md, section 9.1"
    return [f"first task     {title}", *told, f"advice         --methods {found.advised}: {why}"]
