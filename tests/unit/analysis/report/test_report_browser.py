"""The report in headless Chromium: nothing is missing, nothing complains, nothing is wider than a phone."""

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from analysis.report import write_report
from tests.support import reported

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --hide-scrollbars"
).split()
# The report allows no script, so a page around it looks into it.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><title>frame</title>
<iframe src="report.html" style="width:WIDTHpx;height:3000px;border:0"></iframe><pre></pre>
<script>
window.onload = () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const box = one => one.getBoundingClientRect();
  document.querySelector("pre").textContent = "FOUND" + JSON.stringify({
    width: root.scrollWidth, height: root.scrollHeight, shown: root.clientWidth,
    images: [...page.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, box(i).width, box(i).height]),
    sections: [...page.querySelectorAll("section")].map(s => [s.id, s.innerText.length]),
    beyond: [...page.querySelectorAll("section *")].filter(
      e => box(e).right > root.clientWidth + 1 && !e.closest(".picture, .table")).map(e => e.outerHTML.slice(0, 80)),
    columns: new Set([...page.querySelectorAll("#accuracy > .runs:first-of-type > div")].map(d => box(d).left)).size,
  }) + "END";
};
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that keeps what was asked for and how that went."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.server.answers.append((self.path, int(code)))  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of two runs, one of them with names that try to break it, one without a forecast."""
    home = tmp_path_factory.mktemp("browser")
    names = ["<script>document.title='broken'</script>", "<img src=http://127.0.0.1/x>" + "long" * 20]
    one = reported.made_run(home / "run one", tasks=2, names=names, class_names=names * 2, checkpoints=(0, 2))
    two = reported.made_run(home / "two", tasks=10, checkpoints=(0,))
    (two / "analysis/forecast.json").unlink()
    write_report([one, two], home / "site" / "report.html")
    return home / "site"


@pytest.fixture
def server(folder: Path) -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    made.answers = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def look(server: ThreadingHTTPServer, folder: Path, profile: Path, width: int) -> tuple[dict[str, Any], list[str]]:
    """Open the report in a frame of a width; returns what was found in it and what the console said."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "expected Chromium on the path: apt-get install chromium"
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    address = f"http://127.0.0.1:{server.server_port}/frame.html"
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--window-size=1400,900", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    found = re.search(r"<pre>FOUND(.*)END</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    unescaped = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(unescaped), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize(("width", "columns"), [(390, 1), (1200, 2)])
def test_the_report_opens_without_a_complaint_and_fits(
    server: ThreadingHTTPServer, folder: Path, tmp_path: Path, width: int, columns: int
) -> None:
    found, console = look(server, folder, tmp_path / "profile", width)
    assert not console
    assert server.answers == [("/frame.html", 200), ("/report.html", 200)]  # type: ignore[attr-defined]
    assert found["shown"] == width and found["width"] <= width and not found["beyond"]
    assert found["columns"] == columns
    assert len(found["images"]) == len(list(folder.parent.glob("*/analysis/figures/*.svg"))) > 30
    for complete, natural_width, natural_height, shown_width, shown_height in found["images"]:
        assert complete and min(natural_width, natural_height) > 100
        assert min(shown_width, shown_height) > 150
        assert shown_width / shown_height == pytest.approx(natural_width / natural_height, rel=0.02)
    assert len(found["sections"]) == 14 and all(length > 60 for _, length in found["sections"])


def test_the_check_sees_a_complaint_a_missing_file_and_what_is_too_wide(
    server: ThreadingHTTPServer, folder: Path, tmp_path: Path
) -> None:
    page = (folder / "report.html").read_text()
    broken = '<section id="broken"><div style="width:900px">x</div><img src="missing.png" alt=""></section></body>'
    (folder / "report.html").write_text(page.replace("</body>", broken))
    try:
        found, console = look(server, folder, tmp_path / "profile", 390)
    finally:
        (folder / "report.html").write_text(page)
    assert any("missing.png" in line for line in console)  # refused by the report's own policy
    assert found["width"] > 390 and found["beyond"]
    assert [natural for _, natural, *_ in found["images"]].count(0) == 1
