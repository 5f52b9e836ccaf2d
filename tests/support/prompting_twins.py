"""The prompt methods written out in NumPy, float64: one image, one head, one component at a time."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from scipy.special import erf

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.models.vit import ViT

Arrays = dict[str, np.ndarray]
SIDE, PATCH = 8, 4


def backbone(depth: int) -> tuple[BackboneConfig, dict[str, jax.Array]]:
    """A small ViT whose weights are large enough for every block to matter."""
    config = BackboneConfig(image_size=SIDE, patch_size=PATCH, dim=12, depth=depth, heads=3, mlp_ratio=2.0)
    random = np.random.RandomState(3)
    tree = {}
    for path, value in nnx.to_flat_state(nnx.state(ViT(config, rngs=nnx.Rngs(params=0)))):
        drawn = random.standard_normal(value.shape) * 0.4 + ("scale" in path)
        tree["backbone/" + "/".join(map(str, path))] = jax.numpy.asarray(drawn, jax.numpy.float32)
    return config, tree


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Images with pixels in [0, 1]."""
    return np.random.RandomState(seed).random_sample((count, SIDE, SIDE, 3)).astype(np.float32)


def norm(x: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-6) * weights[f"{name}/scale"] + weights[f"{name}/bias"]


def embedded(weights: Arrays, image: np.ndarray) -> list[np.ndarray]:
    """Class token and patches of one image, with positions."""
    rows = [weights["class_token"][0, 0]]
    for top in range(0, SIDE, PATCH):
        for left in range(0, SIDE, PATCH):
            patch = image[top : top + PATCH, left : left + PATCH].reshape(-1)
            rows.append(patch @ weights["patch_embed/kernel"] + weights["patch_embed/bias"])
    return [row + position for row, position in zip(rows, weights["positions"][0], strict=True)]


def passed(
    weights: Arrays,
    config: BackboneConfig,
    tokens: list[np.ndarray],
    prefixes: Mapping[int, tuple[np.ndarray, np.ndarray]] | None = None,
) -> list[np.ndarray]:
    """All rows after all blocks and the last norm."""
    d, width = config.dim, config.dim // config.heads
    for i in range(config.depth):
        name = f"blocks/{i}"
        qkv = [norm(x, weights, f"{name}/norm1") @ weights[f"{name}/qkv/kernel"] for x in tokens]
        qkv = [row + weights[f"{name}/qkv/bias"] for row in qkv]
        more_keys, more_values = (prefixes or {}).get(i, ((), ()))
        keys = [*more_keys, *(row[d : 2 * d] for row in qkv)]
        values = [*more_values, *(row[2 * d :] for row in qkv)]
        after = []
        for x, row in zip(tokens, qkv, strict=True):
            attended = np.zeros(d)
            for head in range(config.heads):
                own = slice(head * width, (head + 1) * width)
                weight = np.exp([row[:d][own] @ key[own] / np.sqrt(width) for key in keys])
                attended[own] = sum(w * v[own] for w, v in zip(weight / weight.sum(), values, strict=True))
            z = x + attended @ weights[f"{name}/proj/kernel"] + weights[f"{name}/proj/bias"]
            u = norm(z, weights, f"{name}/norm2") @ weights[f"{name}/fc1/kernel"] + weights[f"{name}/fc1/bias"]
            u = u * (1 + erf(u / np.sqrt(2))) / 2
            after.append(z + u @ weights[f"{name}/fc2/kernel"] + weights[f"{name}/fc2/bias"])
        tokens = after
    return [norm(x, weights, "norm") for x in tokens]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def query(weights: Arrays, config: BackboneConfig, image: np.ndarray) -> np.ndarray:
    return passed(weights, config, embedded(weights, image))[0]


def cross_entropy(tree: Arrays, feature: np.ndarray, label: int, classes: list[int]) -> float:
    """Of one image, softmax over the task's own classes."""
    logits = {c: feature @ tree["head/kernel"][:, c] + tree["head/bias"][c] for c in classes}
    return float(np.log(sum(np.exp(x) for x in logits.values())) - logits[label])


def l2p(weights: Arrays, config: BackboneConfig, tree: Arrays, image: np.ndarray, top: int) -> tuple[np.ndarray, float]:
    """Feature of one image and the sum of its distances to the chosen keys."""
    q = query(weights, config, image)
    near = [cosine(q, key) for key in tree["keys/pool"]]
    chosen = sorted(range(len(near)), key=lambda m: -near[m])[:top]
    prompts = [row for m in chosen for row in tree["prompts/pool"][m]]
    out = passed(weights, config, [*embedded(weights, image), *prompts])  # behind the tokens: order doesn't matter
    return np.mean(out[-len(prompts) :], axis=0), sum(1 - near[m] for m in chosen)


def dualprompt(
    weights: Arrays, config: BackboneConfig, tree: Arrays, image: np.ndarray, task: int | None, begun: int
) -> tuple[np.ndarray, list[float]]:
    """Feature of one image under the E-prompt of a task (None: the nearest that has begun), and all cosines."""
    q = query(weights, config, image)
    near = [cosine(q, key) for key in tree["keys/task"]]
    task = int(np.argmax(near[:begun])) if task is None else task
    general, expert = tree["general/prefix"], tree["expert/prefix"][task]
    prefixes = {0: general[0], 1: general[1]} | {2 + i: expert[i] for i in range(len(expert))}
    return passed(weights, config, embedded(weights, image), prefixes)[0], near


def coda(weights: Arrays, config: BackboneConfig, tree: Arrays, image: np.ndarray, used: int) -> np.ndarray:
    """Feature of one image."""
    q = query(weights, config, image)
    prefixes = {}
    for layer, prompts in enumerate(tree["components/prompts"]):
        keys, attention = tree["components/keys"][layer], tree["components/attention"][layer]
        rows = sum(cosine(q * attention[m], keys[m]) * prompts[m] for m in range(used))
        half = len(rows) // 2
        prefixes[layer] = (rows[:half], rows[half:])
    return passed(weights, config, embedded(weights, image), prefixes)[0]


def penalties(tree: Arrays, used: int) -> float:
    """Sum over blocks and kinds of the mean square of B Bᵀ - I."""
    total = 0.0
    for kind in ("prompts", "keys", "attention"):
        for rows in tree[f"components/{kind}"]:
            flat = [row.reshape(-1) for row in rows[:used]]
            total += np.mean([(a @ b - (i == j)) ** 2 for i, a in enumerate(flat) for j, b in enumerate(flat)])
    return total
