"""Names of Hugging Face `transformers` (`ViTModel`, `ViTForImageClassification`): query, key and value apart."""

from ntkcl_jax.weights.layout import FIXED, Layout, torch_block

_FIXED = dict(
    zip(
        FIXED,
        (
            "embeddings.cls_token",
            "embeddings.position_embeddings",
            "embeddings.patch_embeddings.projection.weight",
            "embeddings.patch_embeddings.projection.bias",
            "layernorm.weight",
            "layernorm.bias",
        ),
        strict=True,
    )
)
_NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
_PREFIXES = ("module.", "_orig_mod.", "vit.", "deit.")
_IGNORED = r"(classifier|pooler|decoder)\..*|embeddings\.mask_token"

HUGGINGFACE = Layout(
    name="huggingface",
    title="Hugging Face's names",
    fixed=_FIXED,
    block=torch_block(
        "encoder.layer.{i}.",
        _NORMS
        | {
            "qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
            "proj": "attention.output.dense",
            "fc1": "intermediate.dense",
            "fc2": "output.dense",
        },
    ),
    prefixes=_PREFIXES,
    ignored=_IGNORED,
)
# transformers 5 gives its modules these names; `save_pretrained` still writes those above.
HUGGINGFACE_MODULE = Layout(
    name="huggingface_module",
    title="the module names of Hugging Face's transformers 5",
    fixed=_FIXED,
    block=torch_block(
        "layers.{i}.",
        _NORMS
        | {
            "qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            "proj": "attention.o_proj",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        },
    ),
    prefixes=_PREFIXES,
    ignored=_IGNORED,
)
