"""`ntkcl weights`: what a file holds, conversions, and pickles through torch's weights-only reader alone."""

import contextlib
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ntkcl_jax import cli
from ntkcl_jax.weights import file_sha256, read_backbone
from tests.support import vits

SIZE = vits.SIZES["tiny"]
TIMM = vits.case("timm", "tiny").state


def run(*words: object) -> tuple[int, str, str]:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = cli.NTKCL.run(["weights", *(str(word) for word in words)])
    return code, out.getvalue(), error.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({name: x.astype(np.float16) for name, x in TIMM.items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


class Tensor:
    """What stands in for a tensor."""

    def __init__(self, value: np.ndarray) -> None:
        self.value, self.dtype = value, value.dtype

    def detach(self) -> "Tensor":
        return self

    def to(self, dtype: object) -> "Tensor":
        return Tensor(self.value.astype(dtype))

    def numpy(self) -> np.ndarray:
        return self.value


class Sparse(Tensor):
    """What stands in for a tensor that isn't dense, with torch's own refusal."""

    layout, device = "torch.sparse_coo", "cpu"

    def to(self, dtype: object) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        raise TypeError("can't convert Sparse layout tensor to numpy.use Tensor.to_dense() first")


class Torch(types.ModuleType):
    """Stands in for torch: returns an object, but only when it is asked for weights alone."""

    Tensor = Tensor
    device = type("device", (), {})  # tyro, if first imported while this stands in, asks for it
    bfloat16 = np.dtype(np.float16)
    float32 = np.dtype(np.float32)

    def __init__(self, loaded: object, version: str = "2.13.0+cpu") -> None:
        super().__init__("torch")
        self.loaded, self.__version__ = loaded, version

    def load(self, path: Path, *, map_location: str, weights_only: bool) -> object:
        assert (map_location, weights_only, path.suffix) == ("cpu", True, ".pth")
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def test_show_says_what_a_file_holds(file: Path) -> None:
    code, out, error = run("show", file)
    assert (code, error) == (0, "")
    rows = {line[:10].strip(): line[10:] for line in out.splitlines()}
    assert rows["SHA-256"] == file_sha256(file)
    assert rows["format"] == "safetensors, timm's names, float16"
    assert rows["backbone"] == "dim 12, depth 3, patch 16, MLP 48, channels 3, image 48, heads not told by the file"
    assert rows["arrays"].startswith("42 used (")
    assert rows["arrays"].endswith("2 ignored")
    facts = json.loads(run("show", file, "--json")[1])
    assert facts["ignored"] == ["head.bias", "head.weight"]
    assert sorted(facts["used"] + facts["ignored"]) == sorted(TIMM)
    assert facts["parameters"] == sum(x.size for name, x in TIMM.items() if "head" not in name)


def test_the_options_that_show_prints_are_those_of_train(file: Path) -> None:
    from ntkcl_jax.config.presets import preset
    from ntkcl_jax.terminal.options import parse_train

    options = json.loads(run("show", "nano", "--json")[1])["options"].split()
    config = parse_train("digits", preset("digits"), [*options, "--run-dir", "r"]).config
    assert config.model.backbone == preset("digits").model.backbone
    assert "--model.backbone.heads" not in json.loads(run("show", file, "--json")[1])["options"]


def test_show_refuses_what_it_cannot_use_in_one_line(tmp_path: Path) -> None:
    state = {name: x for name, x in TIMM.items() if "patch_embed" not in name}
    save_file(state, tmp_path / "a.safetensors")
    code, out, error = run("show", tmp_path / "a.safetensors")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "lacks a square patch embedding and a first block" in error
    assert run("show", tmp_path)[0] == run("show")[0] == run("frobnicate")[0] == run()[0] == 2


@pytest.mark.parametrize("to", ["timm", "huggingface", "ntkcl"])
def test_convert_writes_a_readable_file_at_another_image_size(to: str, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    code, out, error = run("convert", file, target, "--to", to, "--image-size", 64)
    assert (code, error) == (0, "")
    assert "resampled from 3 x 3 to 4 x 4 patches" in out
    shown = json.loads(run("show", target, "--json")[1])
    assert (shown["architecture"]["image_size"], shown["dtypes"], shown["ignored"]) == (64, ["float32"], [])
    before = target.read_bytes()
    code, _, error = run("convert", file, target, "--to", to)
    assert (code, "is there already" in error, target.read_bytes() == before) == (2, True, True)


@pytest.mark.parametrize(
    ("target", "words", "said"),
    [
        ("out.npz", [], "ends with .safetensors"),
        ("no/such/out.safetensors", [], "can't be written"),
        ("out.safetensors", ["--image-size", 50], "must be a multiple of backbone.patch_size"),
        ("out.safetensors", ["--heads", 5], "backbone.heads must divide backbone.dim"),
    ],
)
def test_convert_refuses_in_one_line_and_writes_nothing(
    target: str, words: list, said: str, file: Path, tmp_path: Path
) -> None:
    code, _, error = run("convert", file, tmp_path / target, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_pickle_is_converted_by_torchs_weights_only_reader(
    wrapper: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: object = {name: Tensor(x.astype(np.float16)) for name, x in TIMM.items()}
    monkeypatch.setitem(sys.modules, "torch", Torch({wrapper: state, "epoch": 3} if wrapper else state))
    (tmp_path / "w.pth").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"architecture": "x", "num_features": 12, "model_args": {"num_heads": 3}}')
    code, out, error = run("convert", tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert (code, error, "heads" in out) == (0, "", False)  # the file beside it tells them
    tree = read_backbone(str(tmp_path / "out.safetensors"), SIZE).tree
    np.testing.assert_array_equal(tree["backbone/class_token"], TIMM["cls_token"].astype(np.float16))


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        (None, "is a pickle and needs torch to be read safely: pip install 'ntkcl-jax[torch]'"),
        (Torch({}, "2.5.1"), "torch 2.5.1 reads pickles unsafely (CVE-2025-32434); expected 2.6 or newer"),
        (Torch(ValueError("Unsupported global: GLOBAL os.mkdir was not")), "was run (it asks for os.mkdir); give"),
        (Torch(EOFError("Ran out of input")), "was run (EOFError); give a file with a plain state dict"),
        (Torch([1, 2]), "holds no state dict"),
        (Torch({"a": 1}), "holds no state dict"),
        (
            Torch({"a": Sparse(np.zeros(2, np.float32))}),
            "a is no plain array (torch.sparse_coo, float32, cpu); expected",
        ),
    ],
)
def test_a_pickle_that_cannot_be_read_safely_is_refused(
    torch: Torch | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "w.pth").write_bytes(b"")
    code, _, error = run("convert", tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert not (tmp_path / "out.safetensors").exists()
