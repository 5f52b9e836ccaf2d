"""Where the time of a training step goes, beside what the machine could do at best.

    python -m experiments.bench profile                                     # nano, seconds
    python -m experiments.bench profile --size base --batch 16 --repeats 5
    python -m experiments.bench profile --size base --batch 128 --dtype bfloat16     # on a GPU

Each part of the step is compiled alone, on inputs of the true shapes: forward, and forward with gradient where
something is trained; backward is the difference. FLOPs and bytes are XLA's own count. The roof is measured in the same
process: the rate of a large matrix product, and of reading and writing memory; a part's attainable time is the longer
of FLOPs over the one and bytes over the other. XLA counts an operand once for each use, so bytes that stay in a cache
make a part look bound by memory: a share above 1 means that.

One JSON file: `ours` is the GFLOP/s of the whole step, `other` those of the matrix product, `parts` the rest.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.machine import Roof, roof
from experiments.bench.ours import Middle, middle
from experiments.bench.process import median_s
from experiments.bench.results import result, write
from experiments.bench.sizes import model, options_parser
from ntkcl_jax.config import OptimizerConfig, RunConfig
from ntkcl_jax.devices.flops import training_flops
from ntkcl_jax.methods.base import pixels_of
from ntkcl_jax.methods.ntkcl import ANCHOR, BASIS, draw_old_rows
from ntkcl_jax.methods.ntkcl_objective import cross_entropy, dissimilarity, orthogonality, regularization
from ntkcl_jax.models.functional import Tree
from ntkcl_jax.models.ntkcl import Features
from ntkcl_jax.models.streams import Shared, channel_stream, patch_stream, shared_start
from ntkcl_jax.training.step import train_step

Cost = dict[str, float]
KINDS = ("flops", "bytes", "seconds")


def cost(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> Cost:
    """FLOPs and bytes by XLA's count, and median seconds of a call."""
    compiled = jax.jit(function).lower(*arguments).compile()
    counted = compiled.cost_analysis()
    # Not timed: a first call is slower than those after it
    jax.block_until_ready(compiled(*arguments))
    seconds = median_s(lambda: jax.block_until_ready(compiled(*arguments)), repeats)
    return {"flops": counted["flops"], "bytes": counted.get("bytes accessed", 0.0), "seconds": seconds}


def pieces(made: Middle) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], bool]]:
    """Parts of a step: function of what is trained in it first, its arguments, and whether it has a gradient."""
    learner, (trainable, frozen), task, batch = made.learner, made.state, made.task, made.batch
    network, config, objective = learner.network, learner.model, learner.objective
    update, key = made.recipe.transformation(), jax.random.key(2)
    anchor = {path.removeprefix(ANCHOR): value for path, value in frozen.buffers.items() if path.startswith(ANCHOR)}

    def start(images: Any) -> Shared:
        pixels = pixels_of(batch._replace(images=images), network.image_size)
        return shared_start(network.module(trainable, frozen).backbone, pixels)

    def channel(tree: Tree, begun: Shared) -> jax.Array:
        module = network.module(tree, frozen)
        return channel_stream(module.backbone, module.current, begun, key)

    def patch(tree: Tree, begun: Shared) -> jax.Array:
        module = network.module(tree, frozen)
        return patch_stream(module.backbone, module.current, begun, config.prompts, config.prompt_carry)

    def means(begun: Shared) -> tuple[jax.Array, jax.Array]:
        module = network.module(trainable, frozen)
        one = channel_stream(module.backbone, module.mean, begun, key)
        return one, patch_stream(module.backbone, module.mean, begun, config.prompts, config.prompt_carry)

    def losses(tree: Tree, streams: tuple[jax.Array, jax.Array]) -> jax.Array:
        module = network.module(tree, frozen)
        features = Features(*streams, module.fusion(*streams, key))
        targets, allowed = batch.labels - task.offset, jnp.arange(learner.task_classes) < task.size
        total = sum(cross_entropy(module.proxy(x), targets, batch.valid, allowed) for x in features)
        old = draw_old_rows(key, frozen.buffers["prototypes/kernel"], task.offset, learner.batch_size)
        alike = dissimilarity(
            features.hybrid, batch.labels, batch.valid, old, objective.temperature, objective.dissimilarity
        )
        apart = orthogonality(features, batch.valid, frozen.buffers[BASIS], objective.orthogonality)
        pull = regularization(tree, anchor, objective.regularization)
        return total + objective.lambda_dis * alike + objective.lambda_orth * apart + objective.lambda_reg * pull

    def optimise(tree: Tree, gradient: Tree, opt_state: Any) -> tuple[Tree, Any]:
        step, opt_state = update.update(gradient, opt_state, tree)
        return jax.tree.map(lambda value, change: value - 1e-3 * change, tree, step), opt_state

    # The streams' parts begin from what the shared start gives
    begun = jax.jit(start)(batch.images)
    # In the features' place: values don't change what a part costs
    wide = jnp.ones((len(batch.labels), config.feature_dim))
    opt_state = update.init(trainable)
    return {
        "shared start": (start, (batch.images,), False),
        "mean streams": (means, (begun,), False),
        "channel stream": (channel, (trainable, begun), True),
        "patch stream": (patch, (trainable, begun), True),
        "fusion, heads and losses": (losses, (trainable, (wide, 0.5 * wide)), True),
        "optimizer": (optimise, (trainable, trainable, opt_state), False),
    }


def with_gradient(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The part with the gradient of the sum of its results: of what it trains, and for losses of their input too."""
    wanted = (0, 1) if "losses" in name else (0,)
    return jax.value_and_grad(lambda *args: jnp.sum(function(*args)), argnums=wanted)


def profile(made: Middle, repeats: int) -> tuple[dict[str, Cost], Cost]:
    """Cost of every part, and of the whole step."""
    parts: dict[str, Cost] = {}
    for name, (function, arguments, trained) in pieces(made).items():
        forward = cost(function, arguments, repeats)
        if not trained:
            parts[name] = forward
            continue
        both = cost(with_gradient(function, name), arguments, repeats)
        parts[f"{name}, forward"] = forward
        # Two measurements: where a gradient is nearly free their difference may be negative
        parts[f"{name}, backward"] = {kind: max(0.0, both[kind] - forward[kind]) for kind in KINDS}
    arguments = made.step_arguments
    compiled = train_step.lower(*arguments).compile()
    counted = compiled.cost_analysis()
    held, rest = [arguments[2]], arguments[3:]

    def step() -> None:
        held[0], out = compiled(held[0], *rest)
        jax.block_until_ready(out)

    step()
    seconds = median_s(step, repeats)
    return parts, {"flops": counted["flops"], "bytes": counted.get("bytes accessed", 0.0), "seconds": seconds}


def beside_roof(found: Cost, limit: Roof, whole_s: float) -> Cost:
    """A part with its share of the step, the least time it could take, and how near it comes to that.

    Example:
        >>> made = beside_roof({"flops": 1e9, "bytes": 1e6, "seconds": 0.5}, Roof(10.0, 1.0), 2.0)
        >>> made["attainable_s"], made["reached"], made["of_step"]
        (0.1, 0.2, 0.25)
    """
    least = limit.seconds(found["flops"], found["bytes"])
    by_flops = found["flops"] / (1e9 * limit.gflop_per_s)
    reached = least / found["seconds"] if found["seconds"] else 0.0
    return {
        **found, "of_step": found["seconds"] / whole_s, "attainable_s": least, "reached": reached,
        "bound_by_memory": float(least > by_flops),
    }  # fmt: skip


def main(words: list[str]) -> int:
    """Measure, write, and print."""
    parser = options_parser("experiments.bench profile", __doc__, repeats=7, repeated="timed calls of each part")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    options = parser.parse_args(words)
    made = middle(model(options.size, options.image_size), options.batch, options.dtype, remat=options.remat)
    limit = roof(jnp.dtype(options.dtype))
    parts, whole = profile(made, options.repeats)
    shown = {name: beside_roof(part, limit, whole["seconds"]) for name, part in parts.items()}
    run = RunConfig(model=made.learner.model, optimizer=OptimizerConfig(batch_size=options.batch))
    count = training_flops(run, made.learner.classes)
    size = made.learner.image_size
    name = f"profile-{options.size}-{size}px-b{options.batch}-{options.dtype}{'-remat' if options.remat else ''}"
    found = result(
        name, count / whole["seconds"] / 1e9, limit.gflop_per_s, "GFLOP/s", jax.devices()[0].device_kind,
        other_is="the rate of a large matrix product in the same process", parts=shown,
        whole=beside_roof(whole, limit, whole["seconds"]), sum_of_parts_s=sum(p["seconds"] for p in parts.values()),
        matrix_gflop_per_s=limit.gflop_per_s, memory_gb_per_s=limit.gb_per_s, model_gflop=count / 1e9,
        images_per_s=options.batch / whole["seconds"], load=list(os.getloadavg()),
    )  # fmt: skip
    print(f"{'':<36}{'ms':>9}{'of step':>9}{'GFLOP':>9}{'MB':>9}{'at best':>9}{'reached':>9}")
    for part, values in {**shown, "whole step": found["whole"]}.items():
        print(
            f"{part:<36}{1e3 * values['seconds']:>9.2f}{values['of_step']:>9.1%}{values['flops'] / 1e9:>9.3f}"
            f"{values['bytes'] / 1e6:>9.1f}{1e3 * values['attainable_s']:>9.2f}{values['reached']:>9.1%}"
        )
    print(
        f"matrix product {limit.gflop_per_s:.0f} GFLOP/s, memory {limit.gb_per_s:.1f} GB/s; {write(found, options.out)}"
    )
    return 0
