"""Remote weights over HTTP, from a server on this machine; by the real huggingface_hub where it is installed."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.numpy import save

from tests.support import vits

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"architecture": "vit_x", "num_features": 12, "model_args": {"num_heads": 3}}
FILES = {
    "model.safetensors": save(vits.case("timm", "tiny").state),
    "config.json": json.dumps(CONFIG | {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}).encode(),
}
STAND_IN = f"""
import os, urllib.request
from pathlib import Path

def place(file):
    return Path(os.environ["HF_HOME"]) / "snapshots" / "{COMMIT}" / file

def try_to_load_from_cache(repo, file, *, revision):
    return str(place(file)) if place(file).exists() else None

def hf_hub_download(repo, file, *, revision):
    if revision != "{COMMIT}" or not place(file).exists():
        url = f"{{os.environ['HF_ENDPOINT']}}/{{repo}}/resolve/{{revision or 'main'}}/{{file}}"
        content = urllib.request.urlopen(url).read()
        place(file).parent.mkdir(parents=True, exist_ok=True)
        place(file).write_bytes(content)
    return str(place(file))
"""
READ = """
import dataclasses, json, sys
from ntkcl_jax.weights import read_backbone
from tests.support import vits
for name, heads in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    try:
        _, sha256, notes = read_backbone(name, dataclasses.replace(vits.SIZES["tiny"], heads=heads))
        print(json.dumps([sha256, *notes]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def server() -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            content, (_, _, where) = b"", self.path.partition("/a/vit/resolve/")
            if where:  # newer packages ask for other things too
                revision, _, file = where.partition("/")
                asked.append(file)
                content = FILES.get(file, b"") if revision in ("main", COMMIT) else b""
            self.send_response(200 if content else 404)
            headers = {"X-Repo-Commit": COMMIT, "ETag": hashlib.sha1(content).hexdigest()}
            headers |= {"Content-Length": str(len(content))} | ({} if content else {"X-Error-Code": "EntryNotFound"})
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made, asked
    made.shutdown()
    made.server_close()


@pytest.fixture
def read(server: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path):
    """Read names with numbers of heads, in a process that knows no other hub."""
    (tmp_path / "path").mkdir()
    if importlib.util.find_spec("huggingface_hub") is None:
        (tmp_path / "path" / "huggingface_hub.py").write_text(STAND_IN)

    def run(*names: object) -> list[list[str]]:
        paths = [str(tmp_path / "path"), str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(tmp_path / "home")}
        env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server[0].server_port}", "HF_HUB_DISABLE_XET": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY"):
            env.pop(name, None)
        words = [sys.executable, "-c", READ, *map(str, names)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_file_comes_with_what_stands_beside_it_and_once_only(
    server: tuple[ThreadingHTTPServer, list[str]], read
) -> None:
    name, pinned = "hf:a/vit/model.safetensors", f"hf:a/vit@{COMMIT}/model.safetensors"
    first, wrong, gone = read(name, 3, pinned, 4, "hf:a/vit/other.safetensors", 3)
    assert first[0] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert f"a/vit at revision {COMMIT}; pin it with @{COMMIT}" in first
    assert any(note.startswith("by the files beside it, it was trained with data.normalize=half") for note in first)
    assert wrong[0] == "WeightsError"
    assert "expected heads=4, got heads=3" in wrong[1]
    assert "its heads are told by the config.json beside it" in wrong[1]
    assert "other.safetensors can't be had" in gone[1]
    asked = server[1]
    assert set(asked) == {*FILES, "preprocessor_config.json", "other.safetensors"}
    asked.clear()
    assert read(pinned, 3)[0][0] == first[0]
    assert asked == []  # pinned and in the cache: no network is needed
