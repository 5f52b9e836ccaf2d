"""Remote names ask huggingface_hub for a file and what stands beside it, and can't leave the repository."""

import sys
import types
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights import read_backbone
from ntkcl_jax.weights.hub import TIMM_MODELS, Remote, parse_remote
from tests.support import vits

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZE = vits.SIZES["tiny"]


class Hub(types.ModuleType):
    """Stands in for the package: knows one repository, or fails."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        super().__init__("huggingface_hub")
        self.asked: list[tuple] = []
        self.file = folder / "snapshots" / COMMIT / "model.safetensors"
        self.file.parent.mkdir(parents=True)
        save_file(vits.case("timm", "tiny").state, self.file)
        self.error = error

    def try_to_load_from_cache(self, repo: str, file: str, *, revision: str | None) -> str | None:
        return str(self.file) if self.asked else None

    def hf_hub_download(self, repo: str, file: str, *, revision: str | None) -> str:
        self.asked.append((repo, file, revision))
        if self.error:
            raise self.error
        return str(self.file)


@pytest.mark.parametrize("model", TIMM_MODELS)
def test_every_known_model_is_timms_repository_of_that_name(model: str) -> None:
    assert parse_remote(f"timm:{model}@v1") == Remote(f"timm/{model}", "v1", "model.safetensors")


def test_a_remote_file_is_fetched_and_its_revision_and_hash_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    tree, sha256, notes = read_backbone("hf:someone/vit/sub/model.safetensors", SIZE)
    beside = [("someone/vit", f"sub/{name}", COMMIT) for name in ("config.json", "preprocessor_config.json")]
    assert hub.asked == [("someone/vit", "sub/model.safetensors", None), *beside]
    assert f"someone/vit at revision {COMMIT}; pin it with @{COMMIT}" in notes
    assert f"SHA-256 {sha256}; pin it with --weights-sha256" in notes
    assert set(tree) == set(read_backbone(str(hub.file), SIZE).tree)
    _, _, notes = read_backbone(f"timm:{TIMM_MODELS[0]}@{COMMIT}", SIZE, sha256)
    assert hub.asked[3:] == [(f"timm/{TIMM_MODELS[0]}", "model.safetensors", COMMIT)]  # it was in the cache
    assert not any("pin it" in note for note in notes)


def test_a_pinned_hash_holds_for_remote_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path))
    with pytest.raises(WeightsError, match=r"hf:a/b/w.safetensors has SHA-256 .*, expected f{64}"):
        read_backbone("hf:a/b/w.safetensors", SIZE, "f" * 64)


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path, OSError("We couldn't\nconnect")))
    with pytest.raises(
        WeightsError, match=r"can't be had \(OSError: We couldn't connect\); check the name and the net"
    ):
        read_backbone("hf:a/b/w.safetensors", SIZE)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"needs the package huggingface_hub: pip install 'ntkcl-jax\[hub\]'"):
        read_backbone("hf:a/b/w.safetensors", SIZE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:a/b", "is no remote name"),
        ("hf:a/b/../../etc/passwd.npz", "is no remote name"),
        ("hf:a/b/x/../y.npz", "is no remote name"),
        ("hf:a/b//etc/x.npz", "is no remote name"),
        ("hf:../b/x.npz", "is no remote name"),
        ("hf:a/b/x\\y.npz", "is no remote name"),
        ("hf:a/b@r/s/t u.npz", "is no remote name"),
        ("hf:a/b/x.npz\n", "is no remote name"),
        ("hf:a/b/pytorch_model.bin", "looks like a pickle"),
        ("hf:a/b/config.json", "names no .safetensors or .npz file"),
        ("timm:resnet50", "isn't known; choose from vit_tiny_patch16_224.augreg_in21k"),
        ("timm:a/b", "is no remote name"),
    ],
)
def test_a_name_that_asks_for_something_else_is_refused_before_anything_is_asked(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(WeightsError) as caught:
        read_backbone(name, SIZE)
    assert said in str(caught.value)
    assert hub.asked == []
