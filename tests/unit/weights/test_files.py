"""Whatever lies where weights should lie: it loads, or one line says what is wrong; nothing is run or blown up."""

import dataclasses
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ntkcl_jax.errors import ConfigError, WeightsError
from ntkcl_jax.runs.context import make_context
from ntkcl_jax.weights import file_sha256, read_backbone
from ntkcl_jax.weights.reading import HEADER_LIMIT, open_tensors
from tests.support import streams as tiny
from tests.support import vits

SIZE = vits.SIZES["tiny"]
TIMM = vits.case("timm", "tiny").state
GOOGLE = vits.case("google", "tiny").state


def refused(path: Path, said: str = "") -> None:
    with pytest.raises(WeightsError) as caught:
        read_backbone(str(path), SIZE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture(params=["w.safetensors", "w.npz"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".npz":
        np.savez(path, **GOOGLE)
    else:
        save_file(TIMM, path)
    return path


def npz(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(value: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(whole: Path, share: float) -> None:
    content = whole.read_bytes()
    whole.write_bytes(content[: int(share * len(content))])
    refused(whole, "is not a whole")


def test_flipped_bits_are_refused_or_still_give_finite_numbers(whole: Path) -> None:
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    places = [
        *rng.integers(0, 600, 25),
        *rng.integers(0, len(content), 10),
        *rng.integers(len(content) - 600, len(content), 15),
    ]
    outcomes = set()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        whole.write_bytes(bytes(damaged))
        try:
            tree = read_backbone(str(whole), SIZE).tree
        except WeightsError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
        else:
            assert all(np.isfinite(x).all() for x in tree.values())
            outcomes.add("read")
    assert "refused" in outcomes


def test_a_folder_and_nothing_at_all_are_named(tmp_path: Path) -> None:
    refused(tmp_path, "it is a folder; give the file in it")
    refused(tmp_path / "none.npz", "expected 'nano', 'random', or a .safetensors or .npz file")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", HEADER_LIMIT + 1) + b"[" * 100,
        struct.pack("<Q", 10**5) + b"[" * 10**5,
        struct.pack("<Q", 3) + b"abc",
        struct.pack("<Q", 2) + b"{}",
        b"PK\x03\x04 and no archive",
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    refused(path)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps({"cls_token": {"dtype": "F32", "shape": [2**60, 4], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(path, "is not a whole safetensors file")


def test_an_archive_that_claims_or_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    header = npy(np.zeros(1, np.float32)).replace(b"(1,)", b"(9,)")
    refused(npz(tmp_path / "a.npz", {"cls.npy": header}), "another size than its header says")
    bomb = npz(tmp_path / "b.npz", {"cls.npy": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**18
    refused(bomb, "times its size, as weights never do")


def test_objects_in_an_archive_are_never_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "w.npz"
    np.savez(path, **{**GOOGLE, "cls": np.array([Marker(marker)], object)})
    refused(path, "holds Python objects")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors", "w.npz", "w"])
def test_a_hostile_pickle_runs_nothing_under_any_name(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    hostile = pickle.dumps(Marker(marker), protocol=4)
    plain, zipped = tmp_path / name, tmp_path / f"zipped-{name}"
    plain.write_bytes(hostile)
    refused(plain, "pickle")
    npz(zipped, {"archive/data.pkl": hostile, "archive/version": b"3"})
    refused(zipped, "pickle")
    assert not marker.exists()
    pickle.loads(hostile)
    assert marker.exists()  # it would have run


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_as_long_as_a_pickles_first_bytes_is_still_read(tmp_path: Path, length: int) -> None:
    """A safetensors file begins with its header's length; 640 is the bytes 80 02, as a pickle of protocol 2."""
    path = tmp_path / "w.safetensors"
    arrays = {"a": np.ones(3, np.float32)}
    for filler in range(length):
        save_file(arrays, path, metadata={"made_by": "x" * filler})
        if struct.unpack("<Q", path.read_bytes()[:8])[0] == length:
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert set(open_tensors(path).shapes) == {"a"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_are_read_as_float32_and_said(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: x.astype(dtype) for name, x in TIMM.items()}, path)
    tree, _, notes = read_backbone(str(path), SIZE)
    assert {x.dtype for x in tree.values()} == {np.dtype(np.float32)}
    assert f"stored as {np.dtype(dtype).name}, read as float32" in notes
    np.testing.assert_allclose(tree["backbone/class_token"], TIMM["cls_token"], rtol=0.01)


def test_numbers_that_overflowed_are_refused(tmp_path: Path) -> None:
    path, large = tmp_path / "w.safetensors", {"norm.bias": np.full(SIZE.dim, 1e5)}
    with np.errstate(over="ignore"):
        save_file(TIMM | {"norm.bias": large["norm.bias"].astype(np.float16)}, path)
    refused(path, "norm.bias holds a number that isn't finite; the file is damaged, or was written in float16")
    save_file(TIMM | {"norm.bias": large["norm.bias"] * 1e300}, path)
    refused(path, "doesn't fit into float32")
    save_file(TIMM | {"norm.bias": np.full(SIZE.dim, np.nan, np.float32)}, path)
    refused(path, "norm.bias holds a number that isn't finite; the file is damaged")


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TIMM | {"blocks.0.mlp.fc1.weight": np.ones((4 * SIZE.dim, SIZE.dim), np.int8)}, path)
    refused(path, "blocks.0.mlp.fc1.weight has type I8, expected a float type")


@pytest.mark.parametrize(
    ("names", "looks"),
    [
        (["layer1.0.conv1.weight", "fc.weight"], "a ResNet's parts"),
        (["patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias",
          "layers.0.blocks.0.attn.relative_position_bias_table"], "relative positions (Swin, BEiT)"),
        (["stages.0.blocks.0.conv_dw.weight"], "the stages of a ConvNeXt"),
        (["visual.conv1.weight", "logit_scale"], "CLIP's or SigLIP's parts"),
        ([*TIMM, "dist_token"], "a distillation token (a distilled DeiT)"),
        ([*TIMM, "blocks.0.ls1.gamma"], "layer scale"),
        ([*TIMM, "reg_token"], "register tokens"),
        ([*vits.case("huggingface_classifier", "tiny").state, "deit.embeddings.distillation_token"], "distilled DeiT"),
    ],
)  # fmt: skip
def test_another_network_is_named(tmp_path: Path, names: list[str], looks: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: np.ones(2, np.float32) for name in names}, path)
    refused(path, looks)


def test_a_hash_that_was_pinned_must_be_the_files(whole: Path) -> None:
    _, sha256, _ = read_backbone(str(whole), SIZE)
    assert read_backbone(str(whole), SIZE, sha256.upper()).sha256 == sha256
    with pytest.raises(WeightsError, match=f"has SHA-256 {sha256}, expected {'0' * 64}; it is another file"):
        read_backbone(str(whole), SIZE, "0" * 64)


def test_wrappers_and_training_states_are_looked_through(tmp_path: Path) -> None:
    wanted = read_backbone(str(_saved(tmp_path / "a.safetensors", TIMM)), SIZE).tree
    wrapped = read_backbone(str(_saved(tmp_path / "b.safetensors", {f"module.{n}": x for n, x in TIMM.items()})), SIZE)
    state = {f"opt/target/{name}": x for name, x in GOOGLE.items()} | {"opt/state/step": np.zeros((), np.int32)}
    np.savez(tmp_path / "c.npz", **state)
    np.savez(tmp_path / "d.npz", **GOOGLE)
    inside, plain = (read_backbone(str(tmp_path / name), SIZE) for name in ("c.npz", "d.npz"))
    for path, value in wanted.items():
        np.testing.assert_array_equal(wrapped.tree[path], value)
        np.testing.assert_array_equal(inside.tree[path], plain.tree[path])
    assert any("opt/state/step" in note for note in inside.notes)


def _saved(path: Path, state: vits.Arrays) -> Path:
    save_file(state, path)
    return path


def test_big_visions_names_are_googles_with_other_numbers(tmp_path: Path) -> None:
    def other(name: str) -> str:
        name = name.replace("Transformer/posembed_input/", "").replace("LayerNorm_2", "LayerNorm_1")
        return name.replace("Attention_1", "Attention_0").replace("MlpBlock_3", "MlpBlock_0")

    np.savez(tmp_path / "a.npz", **GOOGLE)
    np.savez(tmp_path / "b.npz", **{f"params/{other(name)}": x for name, x in GOOGLE.items()})
    wanted, tree = (read_backbone(str(tmp_path / name), SIZE).tree for name in ("a.npz", "b.npz"))
    for path, value in wanted.items():
        np.testing.assert_array_equal(tree[path], value)


def test_names_and_shapes_are_known_before_anything_is_read(whole: Path) -> None:
    tensors = open_tensors(whole)
    state = GOOGLE if whole.suffix == ".npz" else TIMM
    assert dict(tensors.shapes) == {name: x.shape for name, x in state.items()}
    whole.unlink()
    with pytest.raises(WeightsError, match="is not a whole"):
        tensors.read(next(iter(state)))


def test_a_runs_pinned_hash_reaches_the_reader_and_notes_reach_the_run(whole: Path) -> None:
    config = tiny.config(weights=str(whole), model__backbone=SIZE, model__fusion_heads=1, data__resize=48)
    context = make_context(config, tiny.arrays())
    assert context.weights_sha256 == file_sha256(whole)
    assert any("left out" in note for note in context.notes)
    with pytest.raises(WeightsError, match=f"expected {'0' * 64}; it is another file"):
        make_context(dataclasses.replace(config, weights_sha256="0" * 64), tiny.arrays())
    with pytest.raises(ConfigError, match="weights_sha256 must be 64 hexadecimal digits, got 'abc'"):
        dataclasses.replace(config, weights_sha256="abc")
