"""Headless Chromium that a test drives by the DevTools protocol, over a pipe: real keys, real pointers, no library."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --hide-scrollbars --remote-debugging-pipe"
).split()
PLACED = """import os, sys
ends = [os.dup(int(end)) for end in sys.argv[1:3] for _ in range(5)]
os.dup2(ends[4], 3), os.dup2(ends[9], 4)
os.execv(sys.argv[3], sys.argv[3:])"""
PATIENCE = 600
"""Seconds for an answer: a machine may be busy with other things."""
KEYS = {"Escape": 27, "Enter": 13, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "Home": 36, "End": 35}


class Browser:
    """One page of a running Chromium.

    Attributes:
        complaints: what the console said, violations of the page's policy and uncaught errors among it.
        asked: addresses that the page asked for.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._number = to, back, b"", 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        wanted = self._number
        answer = self._until(lambda told: told.get("id") == wanted)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._back], [], [], max(end - time.monotonic(), 0))[0], "Chromium is silent"
                read = os.read(self._back, 1 << 20)
                assert read, "Chromium has ended"
                self._rest += read
            line, self._rest = self._rest.split(b"\0", 1)
            told = json.loads(line)
            self._note(told.get("method"), told.get("params", {}))
            if wanted(told):
                return told

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(
        self, page: Path, width: int = 1280, *, script: bool = True, dark: bool = False, print_: bool = False
    ) -> None:
        """Show a file at a width; earlier complaints are forgotten."""
        self.complaints.clear()
        self.asked.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if print_ else "", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._until(lambda told: told.get("method") == "Page.loadEventFired")

    def look(self, expression: str) -> Any:
        """The value of an expression in the page, which its policy doesn't hinder."""
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def until(self, expression: str) -> bool:
        """Whether an expression becomes true: what an event sets off comes after the key or click that made it."""
        end = time.monotonic() + PATIENCE
        while not self.look(expression):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard would."""
        text = {"Enter": "\r", " ": " "}.get(key)
        named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS.get(key, 32)}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **named, text=text or "")
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def point(self, selector: str, across: float = 0.5, down: float = 0.5, *, click: bool = False) -> None:
        """Move the pointer over an element, to a place in it from 0 to 1 each way; and click there."""
        box = self.look(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'}); const b = one.getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        place = {"x": box[0] + across * box[2], "y": box[1] + down * box[3]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def picture(self, path: Path, selector: str | None = None) -> None:
        """Save what is shown, or the whole of an element, as PNG."""
        clip = {}
        if selector:
            box = self.look(
                f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                "return [b.left + scrollX, b.top + scrollY, b.width, b.height]; })()"
            )
            clip = {"clip": {"x": box[0], "y": box[1], "width": box[2], "height": box[3], "scale": 1}}
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=bool(selector), **clip)
        path.write_bytes(base64.b64decode(made["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium, which must be installed; it is ended afterwards."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "expected Chromium on the path: apt-get install chromium"
    (read, to), (back, write) = os.pipe(), os.pipe()
    # Chromium listens at 3 and answers at 4: a program between puts our ends there, as threads forbid it after a fork
    command = [sys.executable, "-c", PLACED, str(read), str(write), program, *FLAGS, f"--user-data-dir={profile}"]
    started = subprocess.Popen(
        command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    os.close(read)
    os.close(write)
    try:
        yield Browser(to, back)
    finally:
        os.close(to)  # Chromium ends when nobody can ask it any more
        os.close(back)
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
