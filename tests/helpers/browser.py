"""A real browser, driven over a pipe by Chromium's own protocol."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 60.0  # to wait for an answer
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page of a browser."""

    def __init__(self, answers: int, commands: int) -> None:
        self._answers, self._commands = answers, commands
        self._waiting, self._number, self._session = b"", 0, ""
        page = self.send("Target.createTarget", url="about:blank")["targetId"]
        found = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = found["sessionId"]

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass  # an event
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            if not select.select([self._answers], [], [], SECONDS)[0]:
                raise TimeoutError(f"no answer from {CHROMIUM}")
            if not (part := os.read(self._answers, 1 << 20)):
                raise EOFError(f"{CHROMIUM} ended")
            self._waiting += part
        text, _, self._waiting = self._waiting.partition(b"\0")
        return dict(json.loads(text))

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window and the color scheme."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone,
            deviceScaleFactor=1)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path) -> None:
        """Open a file and wait until it is there."""
        self.send("Page.navigate", url=page.absolute().as_uri())
        end = time.monotonic() + SECONDS
        while self.run("[location.protocol, document.readyState].join()") != "file:,complete":
            if time.monotonic() > end:
                raise TimeoutError(f"{page} does not load")
            time.sleep(0.02)
        self.drawn()

    def drawn(self) -> None:
        """Wait until what changed is on the screen."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        given = {"returnByValue": True, "awaitPromise": True}
        found = self.send("Runtime.evaluate", expression=script, **given)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place, move it over the others and release it."""
        for kind, (x, y) in [
            ("mousePressed", places[0]),
            *(("mouseMoved", place) for place in places[1:]),
            ("mouseReleased", places[-1]),
        ]:
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                clickCount=1)  # fmt: skip
        self.drawn()

    def point(self, x: float, y: float) -> None:
        """Move the mouse without a button."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.drawn()

    def wheel(self, x: float, y: float, by: float) -> None:
        """Turn the mouse's wheel."""
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)
        self.drawn()

    def screenshot(self) -> bytes:
        """What the window shows, as a PNG file."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile; end it afterwards."""
    assert CHROMIUM is not None, "chromium is not installed"
    their_input, commands = os.pipe()
    answers, their_output = os.pipe()
    # Chromium reads descriptor 3 and writes to 4.
    moved = ["bash", "-c", f'exec "$@" 3<&{their_input} 4>&{their_output}', "bash"]
    process = subprocess.Popen(
        [*moved, CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(their_input, their_output),
        stderr=subprocess.DEVNULL,
    )
    os.close(their_input)
    os.close(their_output)
    try:
        yield Browser(answers, commands)
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)
        os.close(commands)
        os.close(answers)
