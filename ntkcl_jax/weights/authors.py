"""A trained state of the authors' release, as this project's trees.

Names are those of its network (commit 24de712): `backbone.*` with live (`channel_prompt_list`, `patch_prompt_list`) and
averaged (`pre_...`) streams, `fusion_model.*`, anchors (`reg_...`), the task's `proxy_fc` and the prototypes `fc`.
"""

from typing import NamedTuple

import numpy as np

from ntkcl_jax.config import ModelConfig
from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights.backbone import to_tree
from ntkcl_jax.weights.formats import take_account
from ntkcl_jax.weights.layout import NumpyTree, Shape
from ntkcl_jax.weights.reading import Tensors
from ntkcl_jax.weights.timm import AUTHORS

_CHANNEL = {"down_proj": "down", "up_proj": "up"}


class AuthorsState(NamedTuple):
    """Flat trees by path, float32: what `nn.model.Frozen` and the trainable tree are made of.

    `adaptation` has current streams, fusion and proxy head; `anchor` what L_reg pulls to (no head in it).
    """

    adaptation: NumpyTree
    backbone: NumpyTree
    mean: NumpyTree
    prototypes: NumpyTree
    anchor: NumpyTree


def _streams(theirs: str, ours: str, depth: int) -> dict[str, str]:
    """Our path to their name of one parameter set of both streams; `theirs` is what stands before the lists' names."""
    table = {}
    for i in range(depth):
        for name, part in _CHANNEL.items():
            for weight, kind in (("weight", "kernel"), ("bias", "bias")):
                table[f"{ours}/adapters/{i}/{part}/{kind}"] = f"{theirs}channel_prompt_list.{i}.{name}.{weight}"
        patch, mine = f"{theirs}patch_prompt_list.{i}", f"{ours}/prompts/{i}"
        table[f"{mine}/token_map/kernel"] = f"{patch}.global_patch_prompt.weight"
        table[f"{mine}/token_map/bias"] = f"{patch}.global_patch_prompt.bias"
        table[f"{mine}/norm_scale"] = f"{patch}.prompt_norm.weight"
        table[f"{mine}/norm_bias"] = f"{patch}.prompt_norm.bias"
    return table


def _fusion(theirs: str) -> dict[str, str]:
    parts = [(p, w, k) for p in ("query", "key", "value") for w, k in (("weight", "kernel"), ("bias", "bias"))]
    return {f"fusion/{part}/{kind}": f"{theirs}.{part}.{weight}" for part, weight, kind in parts}


def _shapes(model: ModelConfig) -> dict[str, Shape]:
    """Shape in their file of everything but backbone and heads, by the ends of our paths."""
    d, r, m, e = model.backbone.dim, model.adapter_rank, model.prompts, model.feature_dim
    table: dict[str, Shape] = {
        "down/kernel": (r, d),
        "down/bias": (r,),
        "up/kernel": (d, r),
        "up/bias": (d,),
        "token_map/kernel": (m, model.backbone.tokens),
        "token_map/bias": (m,),
        "norm_scale": (d,),
        "norm_bias": (d,),
    }
    for part in ("query", "key", "value"):
        table |= {f"{part}/kernel": (e, e), f"{part}/bias": (e,)}
    return table


def read_authors(tensors: Tensors, model: ModelConfig, *, classes: int, task_classes: int) -> AuthorsState:
    """Read a trained network of the authors' release.

    Args:
        tensors: the state dict (`weights.reading.open_tensors`, or `from_arrays` for arrays in memory).
        model: the network that it must fit; `fusion` and `initialisation` are `reference` in the release.
        classes: classes of the whole stream; prototypes of classes that aren't there yet are zero and unseen.
        task_classes: classes of the largest task; the proxy head is filled up with zero rows.

    Returns:
        The trees.

    Raises:
        WeightsError: a name is missing or unknown, or an array is of another shape or damaged.
    """
    account = take_account(tensors, AUTHORS)
    backbone, _ = to_tree(tensors, model.backbone, account)
    # `reg_`: where the task began, which L_reg pulls to; `pre_`: the running mean (docs/method.md, sections 3 and 5)
    depth, where = model.backbone.depth, tensors.where
    current = _streams("", "current", depth) | _fusion("fusion_model")
    anchor = _streams("reg_", "current", depth) | _fusion("reg_fusion_model")
    mean = _streams("pre_", "mean", depth)
    # `reg_` and `pre_` copies have no head: it is new for each task and isn't averaged
    heads = {name: name for name in ("proxy_fc.weight", "proxy_fc.sigma", "fc.weight", "fc.sigma")}
    # What a backbone's account leaves out is just what is read here
    bare = {AUTHORS.bare(name): name for name in account.ignored}
    wanted = [name for table in (current, anchor, mean, heads) for name in table.values()]
    missing, more = [n for n in wanted if n not in bare], sorted(set(bare) - set(wanted))
    if missing or more:
        said = f"lacks {missing[0]}" if missing else f"has {bare[more[0]]}, which is unknown"
        raise WeightsError(f"{where} {said}; expected a whole network of the authors' release with {depth} blocks")
    shapes = _shapes(model)

    def read(table: dict[str, str]) -> NumpyTree:
        out = {}
        for path, name in table.items():
            expected = next(shape for end, shape in shapes.items() if path.endswith(f"/{end}"))
            value = tensors.read(bare[name])
            if value.shape != expected:
                raise WeightsError(f"{where}: {bare[name]} has shape {value.shape}, expected {expected}; set model.*")
            # PyTorch's (out, in) to (in, out)
            out[path] = np.ascontiguousarray(value.T) if path.endswith("/kernel") else value
        return out

    def rows(name: str, most: int) -> tuple[np.ndarray, int]:
        value = tensors.read(bare[name])
        if value.ndim != 2 or value.shape[1] != model.feature_dim or len(value) > most:
            raise WeightsError(
                f"{where}: {bare[name]} has shape {value.shape}, expected at most ({most}, {model.feature_dim}); set "
                "model.* and the number of classes to the file's"
            )
        # This project's heads have all rows from the start, so that a new task doesn't change a shape
        return np.pad(value, ((0, most - len(value)), (0, 0))), len(value)

    proxy, _ = rows("proxy_fc.weight", task_classes)
    prototypes, seen = rows("fc.weight", classes)
    scales = {name: tensors.read(bare[f"{name}.sigma"]).reshape(1) for name in ("proxy_fc", "fc")}
    return AuthorsState(
        read(current) | {"proxy/kernel": proxy, "proxy/scale": scales["proxy_fc"]},
        backbone,
        read(mean),
        {
            "prototypes/kernel": prototypes,
            "prototypes/scale": scales["fc"],
            # Labels are places in the class order, so classes seen are a prefix
            "prototypes/seen": np.arange(classes) < seen,
        },
        read(anchor),
    )
