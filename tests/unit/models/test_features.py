"""Features and heads equal a slow twin; what must be independent is; what must be unchanged is."""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.models.vit import ViT
from tests.support import network_twins as twins
from tests.support import networks as tiny

MODELS = {
    "three blocks": tiny.MODEL,
    "one prompt and pretrained view": tiny.WET,
    "two blocks and nine patches": replace(
        tiny.SHALLOW, backbone=replace(tiny.SHALLOW.backbone, image_size=6, patch_size=2)
    ),
    "one block and paper fusion": replace(tiny.PAPER, backbone=replace(tiny.BACKBONE, depth=1)),
    "paper fusion, pretrained view, more prompts than tokens": replace(tiny.PAPER, pretrained_view=True, prompts=7),
    "one patch, one channel, odd widths": ModelConfig(
        backbone=BackboneConfig(image_size=3, patch_size=3, channels=1, dim=9, depth=2, heads=3, mlp_ratio=1.5),
        adapter_rank=1,
        prompts=3,
        fusion_heads=6,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_features_and_heads_equal_the_slow_twin(name: str) -> None:
    model = MODELS[name]
    net = tiny.network(model)
    parameters = tiny.randomised(net)
    adaptation, frozen = parameters
    x = tiny.images(4, model.backbone)
    numbers = {
        path: np.asarray(value, np.float64)
        for tree in (adaptation, frozen.backbone, frozen.buffers)
        for path, value in tree.items()
    }
    made, proxy, scores = tiny.everything(net, *parameters, x)
    for i, image in enumerate(x.astype(np.float64)):
        expected = twins.features(numbers, model, image)
        for ours, theirs, view in zip(made, expected, made._fields, strict=True):
            assert np.std(theirs) > 0.1
            np.testing.assert_allclose(ours[i], theirs, atol=3e-5, err_msg=f"{view} of image {i}")
        np.testing.assert_allclose(proxy[i], twins.proxy(numbers, expected[2]), atol=1e-5)
        np.testing.assert_allclose(scores[i], twins.prototype_scores(numbers, model, expected[2]), atol=1e-5)


@pytest.mark.parametrize("stream", ["channel", "patch"])
def test_one_stream_alone_is_its_view_of_both(stream: Literal["channel", "patch"]) -> None:
    both = tiny.network(tiny.WET)
    alone = tiny.network(replace(tiny.WET, streams=stream))
    parameters, x = tiny.randomised(both), tiny.images(4)
    wanted = getattr(tiny.features(both, *parameters, x), stream)
    for view in tiny.features(alone, *parameters, x):
        np.testing.assert_allclose(view, wanted, atol=1e-6)


def test_the_current_channel_section_starts_as_the_backbones_class_token() -> None:
    """The adapter's `up` starts at zero; mean and pretrained sections are the same token then."""
    net = tiny.network(tiny.WET)
    adaptation, frozen = tiny.initial(net)
    x = tiny.images(4)
    plain = tiny.compiled(lambda net, b, x: net.backbone_fn(b, x))(net, frozen.backbone, x)
    channel = tiny.features(net, adaptation, frozen, x).channel.reshape(4, 3, -1)
    for section in range(3):
        np.testing.assert_allclose(channel[:, section], plain, atol=1e-6)


def test_a_class_row_alone_equals_the_class_row_of_the_full_block() -> None:
    net = tiny.network()
    module = net.module(*tiny.randomised(net))
    block = next(iter(module.backbone.blocks))
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)
    both = tiny.compiled(lambda _, x: (block.attend(x), block.attend(x, rows=1)))
    full, one = both(0, tokens)
    assert full.shape == (2, 5, 8)
    assert one.shape == (2, 1, 8)
    np.testing.assert_allclose(one, full[:, :1], atol=1e-6)


def test_the_scores_of_an_image_depend_on_no_other_image() -> None:
    """Exactly: the same compiled function gives the same bits whatever the other rows hold or where the row stands."""
    net = tiny.network(tiny.SHALLOW)
    parameters = tiny.randomised(net)
    x = tiny.images(4)
    base = np.asarray(tiny.scores(net, *parameters, x)[0])
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(tiny.scores(net, *parameters, x[order])[0], base[order])
    other = x.copy()
    other[1:] = tiny.images(3, seed=9)
    other[3] = 0
    np.testing.assert_array_equal(tiny.scores(net, *parameters, other)[0][0], base[0])


def test_apply_fn_yields_scores_proxy_logits_and_hybrid_features() -> None:
    net = tiny.network(tiny.SHALLOW)
    adaptation, frozen = tiny.randomised(net)
    x = tiny.images(4)
    scores, proxy, hybrid = tiny.scores(net, adaptation, frozen, x)
    assert scores.shape == (4, 5)
    assert proxy.shape == (4, 3)
    np.testing.assert_allclose(hybrid, tiny.features(net, adaptation, frozen, x).hybrid, atol=1e-5)
    assert (np.asarray(scores[:, 4]) < np.asarray(scores[:, :4]).min()).all()  # never seen
    # With --shape-checks the annotation refuses it first, as a TypeError.
    with pytest.raises(
        (ValueError, TypeError), match=r"(output must be one of scores, proxy, features; got)?.*'logits'"
    ):
        net.apply_fn(adaptation, frozen, jnp.asarray(x), "logits")


def test_recomputing_activations_changes_neither_values_nor_gradients() -> None:
    net, lean = tiny.network(tiny.SHALLOW), tiny.network(tiny.SHALLOW, remat=True)
    parameters, x = tiny.randomised(net), tiny.images(4)
    value, gradient = tiny.gradient(net, *parameters, x)
    lean_value, lean_gradient = tiny.gradient(lean, *parameters, x)
    np.testing.assert_allclose(lean_value, value, rtol=1e-6)
    for path in gradient:
        np.testing.assert_allclose(lean_gradient[path], gradient[path], atol=1e-4, err_msg=path)


def test_remat_marks_every_block_but_the_shared_one() -> None:
    jaxprs = [
        str(jax.make_jaxpr(lambda *a, net=net: net.features(*a))(*tiny.randomised(net), tiny.images(1)))
        for net in (tiny.network(tiny.SHALLOW), tiny.network(tiny.SHALLOW, remat=True))
    ]
    assert [text.count("checkpoint") + text.count("remat") > 0 for text in jaxprs] == [False, True]


def test_bfloat16_stays_close_to_float32_and_yields_float32() -> None:
    model = MODELS["two blocks and nine patches"]
    net, coarse = tiny.network(model), tiny.network(model, dtype="bfloat16")
    parameters, x = tiny.randomised(net), tiny.images(4, model.backbone)
    exact, rounded = tiny.features(net, *parameters, x), tiny.features(coarse, *parameters, x)
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == jnp.float32
        error = np.abs(np.asarray(a - b)).max()
        assert 1e-4 < error < 0.15  # eight bits of mantissa, features of order one


def test_backbone_fn_needs_only_the_backbone() -> None:
    net = tiny.network(tiny.SHALLOW)
    _, frozen = tiny.randomised(net)
    shape = jax.eval_shape(net.backbone_fn, frozen.backbone, tiny.images(3))
    assert shape.shape == (3, 8)
    assert not any(path.startswith("backbone/head") for path in frozen.backbone)
    assert isinstance(net.module(*tiny.randomised(net)).backbone, ViT)
