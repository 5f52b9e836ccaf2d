"""timm's names (`VisionTransformer`): query, key and value in one map. The shipped backbone has them too."""

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.weights.layout import FIXED, Layout, NumpyTree, torch_block

_FIXED = dict(
    zip(
        FIXED,
        ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
        strict=True,
    )
)
_BLOCK = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj", "norm2": "norm2"}
_MLP = {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}

TIMM = Layout(
    name="timm",
    title="timm's names",
    fixed=_FIXED,
    block=torch_block("blocks.{i}.", _BLOCK | _MLP),
    prefixes=("module.", "_orig_mod.", "model.", "backbone."),
    ignored=r"(head|fc_norm|pre_logits)\..*",
)
# The authors' release builds its ViT from timm's, with query, key and value apart and the MLP's maps in the block.
AUTHORS = Layout(
    name="authors",
    title="the names of the authors' release",
    fixed=_FIXED,
    block=torch_block(
        "blocks.{i}.",
        _BLOCK | {"qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "fc1": "fc1", "fc2": "fc2"},
    ),
    prefixes=("module.", "_orig_mod.", "_network.", "backbone."),
    ignored=r"((pre_|reg_)?(channel|patch)_prompt_list|(reg_)?fusion_model|fc|proxy_fc)\..*",
)


def timm_names(config: BackboneConfig) -> dict[str, str]:
    """Map every timm name of a backbone to this project's path.

    Example:
        >>> timm_names(BackboneConfig())["blocks.3.attn.qkv.weight"]
        'backbone/blocks/3/qkv/kernel'
    """
    return {group[0]: path for path, group in TIMM.names(config.depth).items()}


def to_timm(tree: NumpyTree, config: BackboneConfig) -> NumpyTree:
    """Convert a backbone tree into arrays with timm's names; the inverse of `from_timm`."""
    return TIMM.scatter(tree, config)
