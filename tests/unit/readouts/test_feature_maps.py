"""Feature maps beside NumPy twins, and beside the gradients that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.models.vit import Levels
from ntkcl_jax.readouts.feature_maps import ClassTokens, Final, Grid, SecondOrder, Tokens, middle_blocks, standardised

SIZES = {
    "224 px, 12 blocks": BackboneConfig(image_size=224, patch_size=16, dim=6, depth=12, heads=1),
    "nano's grid": BackboneConfig(image_size=28, patch_size=4, dim=5, depth=4, heads=1),
    "an uneven grid": BackboneConfig(image_size=60, patch_size=4, dim=4, depth=6, heads=1),
    "next to nothing": BackboneConfig(image_size=8, patch_size=4, dim=4, depth=2, heads=1),
}
ENTRIES = 9


@pytest.fixture(params=SIZES)
def backbone(request: pytest.FixtureRequest) -> BackboneConfig:
    return SIZES[request.param]


def levels(backbone: BackboneConfig, images: int = 3) -> Levels:
    """Random tokens of every block."""
    rng = np.random.default_rng(0)
    count = backbone.tokens
    tokens = [rng.normal(size=(images, count, backbone.dim)) * 3 + 1 for _ in range(backbone.depth)]
    tokens[-1] = tokens[-1][:, :1]  # of the last block the class row alone is computed
    final = rng.normal(size=(images, ENTRIES))
    return Levels(jnp.asarray(final, jnp.float32), tuple(jnp.asarray(t, jnp.float32) for t in tokens))


def normed(x: np.ndarray) -> np.ndarray:
    """LayerNorm without parameters, token by token."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def grids(backbone: BackboneConfig, at: Levels, image: int) -> list[np.ndarray]:
    """Standardised tokens of the middle blocks on their coarser grid, cell by cell."""
    side = backbone.image_size // backbone.patch_size
    small = side // max(1, side // 7)
    found = []
    for block in middle_blocks(backbone.depth):
        tokens = np.asarray(at.tokens[block][image, 1:], np.float64).reshape(side, side, -1)
        grid = np.zeros((small, small, backbone.dim))
        for row in range(small):
            for column in range(small):
                rows = slice(row * side // small, -(-(row + 1) * side // small))
                columns = slice(column * side // small, -(-(column + 1) * side // small))
                grid[row, column] = normed(tokens[rows, columns].mean(axis=(0, 1)))
        found.append(grid)
    return found


def test_f_is_random_features_of_the_final_feature(backbone: BackboneConfig) -> None:
    of, at = Final(7, backbone, ENTRIES), levels(backbone)
    drawn = of.draw(3)
    wanted = np.maximum(np.asarray(at.final, np.float64) @ drawn["projection"], 0)
    np.testing.assert_allclose(of(drawn, at), wanted, atol=1e-5)


def test_m_is_random_features_of_class_tokens_and_patch_means(backbone: BackboneConfig) -> None:
    of, at = Tokens(7, backbone), levels(backbone)
    drawn = of.draw(3)
    for image in range(3):
        upper = range(backbone.depth // 2, backbone.depth)
        classes = [normed(np.asarray(at.tokens[block][image, 0], np.float64)) for block in upper]
        means = [grid.mean(axis=(0, 1)) for grid in grids(backbone, at, image)]
        wanted = np.maximum(np.concatenate([*classes, *means]) @ drawn["projection"], 0)
        np.testing.assert_allclose(of(drawn, at)[image], wanted, atol=2e-4)


def test_g_is_random_features_of_means_over_windows(backbone: BackboneConfig) -> None:
    of, at = Grid(7, backbone), levels(backbone)
    drawn = of.draw(3)
    for image in range(3):
        means = []
        for grid in grids(backbone, at, image):
            length = max(1, round(3 / 7 * len(grid)))
            starts = sorted({round(i * (len(grid) - length) / 2) for i in range(3)})
            means += [grid[r : r + length, c : c + length].mean(axis=(0, 1)) for r in starts for c in starts]
        wanted = np.maximum(np.concatenate(means) @ drawn["projection"], 0)
        np.testing.assert_allclose(of(drawn, at)[image], wanted, atol=5e-4)


def test_s_is_bilinear_forms_averaged_over_patches(backbone: BackboneConfig) -> None:
    of, at = SecondOrder(10, backbone), levels(backbone)
    drawn = of.draw(3)
    found = np.asarray(of(drawn, at))
    for image in range(3):
        blocks = grids(backbone, at, image)
        counts = [10 // len(blocks) + (i < 10 % len(blocks)) for i in range(len(blocks))]
        which = np.repeat(np.arange(len(blocks)), counts)
        for column, block in enumerate(which):
            a, b = drawn["a"][:, column], drawn["b"][:, column]
            terms = [(u @ a) * (u @ b) for u in blocks[block].reshape(-1, backbone.dim)]
            assert found[image, column] == pytest.approx(np.mean(terms), abs=2e-3)


def test_s_is_the_gradient_of_a_linear_adapter_under_a_local_readout() -> None:
    """d/dW of mean_p |(I + W) u_p|² / 2 at W = 0, along a bᵀ (docs/theory.md, section 9)."""
    backbone = SIZES["nano's grid"]
    of, at = SecondOrder(6, backbone), levels(backbone, 1)
    drawn = of.draw(1)
    grid = standardised(at.tokens[middle_blocks(4)[0]][:, 1:])[0]

    def local(w: jax.Array) -> jax.Array:
        return jnp.mean(jnp.sum((grid + grid @ w.T) ** 2, axis=-1)) / 2

    gradient = jax.grad(local)(jnp.zeros((backbone.dim, backbone.dim)))
    for column in range(of.parts[0]):
        wanted = drawn["a"][:, column] @ gradient @ drawn["b"][:, column]
        np.testing.assert_allclose(of(drawn, at)[0, column], wanted, rtol=1e-4, atol=1e-5)


def test_what_g_reads_is_the_gradient_of_linear_readouts_of_windows() -> None:
    """d/dV of Σ_v V_vᵀ mean_{p in v} u_p, one V_v for each window (docs/theory.md, section 9)."""
    backbone = SIZES["nano's grid"]
    of, at = Grid(4, backbone), levels(backbone, 1)
    grid = standardised(at.tokens[middle_blocks(4)[0]][:, 1:])[0].reshape(7, 7, -1)

    def readout(v: jax.Array) -> jax.Array:
        parts = [grid[r : r + 3, c : c + 3].mean(axis=(0, 1)) for r in (0, 2, 4) for c in (0, 2, 4)]
        return sum(v[i] @ part for i, part in enumerate(parts))

    gradient = jax.grad(readout)(jnp.zeros((9, backbone.dim)))
    np.testing.assert_allclose(of.read(at)[0, : gradient.size], gradient.ravel(), atol=1e-5)


def test_c_is_the_class_tokens_of_the_last_blocks(backbone: BackboneConfig) -> None:
    of, at = ClassTokens.of(backbone, 6), levels(backbone)
    blocks = min(6, backbone.depth)
    wanted = np.concatenate([np.asarray(tokens)[:, 0] for tokens in at.tokens[backbone.depth - blocks :]], axis=1)
    np.testing.assert_array_equal(of(of.draw(0), at), wanted)
    assert of.width == wanted.shape[1]


@pytest.mark.parametrize("kind", [Tokens, Grid, SecondOrder])
def test_an_image_never_depends_on_the_others(kind: type) -> None:
    backbone = SIZES["nano's grid"]
    of, at = kind(8, backbone), levels(backbone)
    drawn = of.draw(0)
    alone = Levels(at.final[1:2], tuple(t[1:2] for t in at.tokens))
    np.testing.assert_allclose(of(drawn, at)[1], of(drawn, alone)[0], rtol=1e-5, atol=1e-6)


def test_blocks_of_other_depths_are_the_same_parts_of_the_way() -> None:
    assert [middle_blocks(depth) for depth in (12, 24, 4)] == [(3, 5, 7, 9), (7, 11, 15, 19), (0, 1, 2)]


def test_float64_stays_what_it_is_to_check_float32() -> None:
    backbone = SIZES["an uneven grid"]
    at, maps = levels(backbone), (Tokens(7, backbone), Grid(7, backbone), SecondOrder(7, backbone))
    drawn = [of.draw(3) for of in maps]
    mapped = jax.jit(lambda drawn, at: [of(part, at) for of, part in zip(maps, drawn, strict=True)])
    narrow = mapped(drawn, at)
    with jax.enable_x64(True):
        wide = mapped(*jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (drawn, at)))
    for single, double in zip(narrow, wide, strict=True):
        assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64)
        np.testing.assert_allclose(single, double, atol=3e-6 * np.abs(double).max())
        assert np.any(np.asarray(single) != np.asarray(double))
