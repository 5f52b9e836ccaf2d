"""What trains and what doesn't: variable kinds, gradients at the start, dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.models.adapters import dropout
from ntkcl_jax.models.variables import Adaptation, Prototype, RunningMean
from tests.support import networks as tiny

D = tiny.BACKBONE.dim


def norms(gradient: dict[str, jax.Array], part: str) -> dict[str, float]:
    """Largest entry of the gradient of each variable whose path holds `part`."""
    return {path: float(jnp.abs(g).max()) for path, g in gradient.items() if part in path}


def test_the_trainable_tree_is_exactly_the_adaptation_variables() -> None:
    net = tiny.network(tiny.SHALLOW)
    adaptation, frozen = tiny.initial(net)
    kinds = {"/".join(map(str, path)): type(variable) for path, variable in net.abstract()}
    assert set(adaptation) == {path for path, kind in kinds.items() if kind is Adaptation}
    assert {path.split("/")[0] for path in adaptation} == {"current", "fusion", "proxy"}
    assert set(frozen.buffers) == {path for path, kind in kinds.items() if kind in (RunningMean, Prototype)}
    for part, kind in (("mean", RunningMean), ("prototypes", Prototype)):
        assert {path for path in frozen.buffers if path.split("/")[0] == part} == {
            path for path in kinds if kinds[path] is kind
        }
    others = set(kinds) - set(adaptation) - set(frozen.buffers)
    assert set(frozen.backbone) == others
    assert {path.split("/")[0] for path in others} == {"backbone"}
    per_block = 8 * 3 + 3 + 3 * 8 + 8 + 5 * 2 + 2 + 8 + 8
    assert sum(x.size for x in adaptation.values()) == 2 * per_block + 3 * (16 * 16 + 16) + 3 * 16 + 1


def test_the_mean_starts_as_a_copy_of_the_current_streams() -> None:
    adaptation, frozen = tiny.initial(tiny.network(tiny.SHALLOW))
    means = {path: value for path, value in frozen.buffers.items() if path.startswith("mean/")}
    assert len(means) == 16
    for path, value in means.items():
        np.testing.assert_array_equal(value, adaptation[path.replace("mean/", "current/")])


def test_a_seed_fixes_the_start_and_another_changes_it() -> None:
    net = tiny.network(tiny.SHALLOW)
    init = jax.jit(lambda key: net.init(key)[0], compiler_options=tiny.QUICKLY)
    a, b, c = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    path = "current/adapters/1/down/kernel"
    np.testing.assert_array_equal(a[path], b[path])
    assert not np.allclose(a[path], c[path])
    assert not np.allclose(a[path], a["current/adapters/0/down/kernel"])
    bound = D**-0.5
    assert 0.8 * bound < float(jnp.abs(a[path]).max()) <= bound


def test_reference_fusion_never_reaches_query_and_key() -> None:
    net = tiny.network(tiny.SHALLOW)
    _, gradient = tiny.gradient(net, *tiny.randomised(net), tiny.images(4))
    found = norms(gradient, "fusion/")
    assert {path: norm for path, norm in found.items() if "value" not in path} == {
        f"fusion/{part}/{kind}": 0.0 for part in ("query", "key") for kind in ("kernel", "bias")
    }
    assert all(norm > 1e-2 for path, norm in found.items() if "value" in path)


def test_paper_fusion_trains_query_and_key() -> None:
    """The key's bias adds the same number to all of a row's scores, which a softmax doesn't see."""
    net = tiny.network(tiny.PAPER)
    _, gradient = tiny.gradient(net, *tiny.randomised(net), tiny.images(4))
    found = norms(gradient, "fusion/")
    assert found.pop("fusion/key/bias") < 1e-5
    assert len(found) == 5
    assert all(norm > 1e-3 for norm in found.values()), found


def test_reference_prompts_start_dead_except_for_the_norms_bias() -> None:
    net = tiny.network(tiny.SHALLOW)
    _, gradient = tiny.gradient(net, *tiny.initial(net), tiny.images(4))
    found = norms(gradient, "current/prompts/")
    alive = {path for path, norm in found.items() if norm > 0}
    assert alive == {"current/prompts/0/norm_bias"}  # the last block's prompts can't reach the class token


def test_paper_prompts_start_alive_and_depend_on_the_image() -> None:
    net = tiny.network(tiny.PAPER)
    adaptation, frozen = tiny.initial(net)
    x = tiny.images(4)
    _, gradient = tiny.gradient(net, adaptation, frozen, x)
    found = norms(gradient, "current/prompts/")
    for part in ("token_map/kernel", "norm_scale", "norm_bias"):
        assert found[f"current/prompts/0/{part}"] > 1e-3
    assert all(found[path] == 0 for path in found if "prompts/1" in path)
    module = net.module(adaptation, frozen)
    prompts = next(iter(module.current.prompts))(module.backbone.embed(jnp.asarray(x)))
    assert prompts.shape == (4, 2, D)
    assert float(jnp.abs(prompts[0] - prompts[1]).max()) > 0.1
    assert float(jnp.abs(prompts[:, 0] - prompts[:, 1]).max()) > 0.1


def test_paper_fusion_starts_as_the_sum_of_the_two_streams() -> None:
    net = tiny.network(tiny.PAPER)
    channel, patch, hybrid = tiny.features(net, *tiny.initial(net), tiny.images(4))
    np.testing.assert_allclose(hybrid, channel + tiny.PAPER.fusion_patch_scale * patch, atol=1e-6)


def test_without_a_key_features_repeat_and_with_a_key_they_follow_the_key() -> None:
    net = tiny.network(tiny.WET)
    parameters, x = tiny.randomised(net), tiny.images(4)
    plain = [tiny.features(net, *parameters, x) for _ in range(2)]
    first, again, other = (tiny.dropped(net, *parameters, x, jax.random.key(k)) for k in (1, 1, 2))
    for i in range(3):
        np.testing.assert_array_equal(plain[0][i], plain[1][i])
        np.testing.assert_array_equal(first[i], again[i])
    assert not np.allclose(first.channel, other.channel)
    np.testing.assert_allclose(first.patch, plain[0].patch, atol=1e-6)  # the patch stream has no dropout


def test_dropout_is_on_in_the_mean_stream_too_but_never_in_the_pretrained_view() -> None:
    net = tiny.network(tiny.WET)
    parameters, x = tiny.randomised(net), tiny.images(4)
    plain = tiny.features(net, *parameters, x).channel.reshape(4, 3, D)
    wet = tiny.dropped(net, *parameters, x, jax.random.key(0)).channel.reshape(4, 3, D)
    change = np.abs(np.asarray(wet - plain)).max(axis=(0, 2))
    np.testing.assert_allclose(change[0], 0, atol=1e-6)
    assert (change[1:] > 1e-3).all()


def test_reference_fusion_drops_whole_heads_of_single_images() -> None:
    net, heads = tiny.network(tiny.WET), tiny.WET.fusion_heads
    adaptation, frozen = tiny.randomised(net)
    ratios = []
    for seed in range(8):
        v = tiny.dropped(net, adaptation, frozen, tiny.images(4), jax.random.key(seed))
        dropped = np.asarray(v.hybrid - v.channel - tiny.WET.fusion_patch_scale * v.patch)
        kernel, bias = (np.asarray(adaptation[f"fusion/value/{part}"]) for part in ("kernel", "bias"))
        value = tiny.WET.fusion_attention_scale * (np.asarray(v.channel) @ kernel + bias)
        kept = np.abs(dropped).reshape(4, heads, -1).max(axis=2) > 1e-4
        ratios.append(kept)
        expected = value.reshape(4, heads, -1) * kept[:, :, None] / 0.75
        np.testing.assert_allclose(dropped.reshape(expected.shape), expected, atol=2e-5)
    kept = np.concatenate(ratios)
    assert 0.6 < kept.mean() < 0.9  # 128 draws at 0.75
    assert len(np.unique(kept, axis=0)) > 4


def test_dropout_keeps_the_mean_and_zeroes_the_right_share() -> None:
    x = jnp.ones(20_000)
    y = np.asarray(dropout(x, 0.1, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.9], rtol=1e-6)
    assert abs(y.mean() - 1) < 0.01
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)
    np.testing.assert_array_equal(dropout(x, 0.1, None), x)
