"""The network once more, slowly: NumPy, float64, one image at a time, all tokens in all blocks, nothing shared."""

import math

import numpy as np

from ntkcl_jax.config import ModelConfig

Numbers = dict[str, np.ndarray]


def linear(p: Numbers, path: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"{path}/kernel"] + p[f"{path}/bias"]


def normalise(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for row in range(len(x)):
        out[row] = (x[row] - x[row].mean()) / math.sqrt(x[row].var() + 1e-6) * scale + bias
    return out


def layer_norm(p: Numbers, path: str, x: np.ndarray) -> np.ndarray:
    return normalise(x, p[f"{path}/scale"], p[f"{path}/bias"])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def embed(p: Numbers, c: ModelConfig, image: np.ndarray) -> np.ndarray:
    size, side = c.backbone.patch_size, c.backbone.image_size // c.backbone.patch_size
    tokens = [p["backbone/class_token"][0, 0]]
    for row in range(side):
        for column in range(side):
            patch = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
            tokens.append(linear(p, "backbone/patch_embed", patch.ravel()))
    return np.stack(tokens) + p["backbone/positions"][0]


def attend(p: Numbers, c: ModelConfig, i: int, x: np.ndarray) -> np.ndarray:
    d, width = c.backbone.dim, c.backbone.dim // c.backbone.heads
    qkv = linear(p, f"backbone/blocks/{i}/qkv", layer_norm(p, f"backbone/blocks/{i}/norm1", x))
    out = np.zeros_like(x)
    for head in range(c.backbone.heads):
        q, k, v = (qkv[:, part * d + head * width : part * d + (head + 1) * width] for part in range(3))
        for row in range(len(x)):
            out[row, head * width : (head + 1) * width] = softmax(k @ q[row] / math.sqrt(width)) @ v
    return x + linear(p, f"backbone/blocks/{i}/proj", out)


def mlp(p: Numbers, i: int, u: np.ndarray) -> np.ndarray:
    h = linear(p, f"backbone/blocks/{i}/fc1", layer_norm(p, f"backbone/blocks/{i}/norm2", u))
    h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    return linear(p, f"backbone/blocks/{i}/fc2", h)


def channel(p: Numbers, c: ModelConfig, which: str | None, image: np.ndarray) -> np.ndarray:
    x = embed(p, c, image)
    for i in range(c.backbone.depth):
        z = attend(p, c, i, x)
        x = z + mlp(p, i, z)
        if which is not None:
            hidden = np.maximum(linear(p, f"{which}/adapters/{i}/down", z), 0)
            x = x + c.adapter_scale * linear(p, f"{which}/adapters/{i}/up", hidden)
    return layer_norm(p, "backbone/norm", x)[0]


def patch(p: Numbers, c: ModelConfig, which: str, image: np.ndarray) -> np.ndarray:
    x, m = embed(p, c, image), c.prompts
    for i in range(c.backbone.depth):
        z = attend(p, c, i, x)
        at = f"{which}/prompts/{i}"
        old = np.zeros((m, c.backbone.dim)) if i == 0 else z[1 : 1 + m]
        base = z if i == 0 else np.delete(z, range(1, 1 + m), axis=0)
        new = normalise(linear(p, f"{at}/token_map", base.T).T, p[f"{at}/norm_scale"], p[f"{at}/norm_bias"])
        new = new + c.prompt_carry * old
        residual = np.concatenate([base[:1], old, base[1:]])
        x = residual + mlp(p, i, np.concatenate([base[:1], new, base[1:]]))
    return layer_norm(p, "backbone/norm", x)[0]


def fusion(p: Numbers, c: ModelConfig, ch: np.ndarray, pa: np.ndarray) -> np.ndarray:
    """Both variants from one formula: `reference` is attention over a sequence of one token as wide as the feature."""
    length = 1 if c.fusion == "reference" else c.sections
    q, k, v = (
        linear(p, f"fusion/{name}", x.reshape(length, -1)) for name, x in (("query", pa), ("key", ch), ("value", ch))
    )
    width = q.shape[1] // c.fusion_heads
    out = np.zeros_like(q)
    for head in range(c.fusion_heads):
        part = slice(head * width, (head + 1) * width)
        for row in range(length):
            out[row, part] = softmax(k[:, part] @ q[row, part] / math.sqrt(width)) @ v[:, part]
    return c.fusion_attention_scale * out.ravel() + ch + c.fusion_patch_scale * pa


def features(p: Numbers, c: ModelConfig, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plain = [channel(p, c, None, image)] if c.pretrained_view else []
    ch = np.concatenate([*plain, *(channel(p, c, which, image) for which in ("mean", "current"))])
    pa = np.concatenate([*plain, *(patch(p, c, which, image) for which in ("mean", "current"))])
    return ch, pa, fusion(p, c, ch, pa)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0 else 0.0


def proxy(p: Numbers, x: np.ndarray) -> np.ndarray:
    return np.array([p["proxy/scale"][0] * cosine(x, row) for row in p["proxy/kernel"]])


def prototype_scores(p: Numbers, c: ModelConfig, x: np.ndarray) -> np.ndarray:
    d, sigma = c.backbone.dim, p["prototypes/scale"][0]
    weights = [c.mean_weight, c.current_weight]
    if c.pretrained_view:
        weights.insert(0, c.pretrained_weight)
    scores = []
    for row, seen in zip(p["prototypes/kernel"], p["prototypes/seen"], strict=True):
        cosines = [cosine(x[s * d : (s + 1) * d], row[s * d : (s + 1) * d]) for s in range(len(weights))]
        scores.append(sigma * (np.dot(weights, cosines) if seen else -sum(weights)))
    return np.array(scores)
