"""A real Chromium, driven over the DevTools protocol through a pair of pipes: no port, no library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

Json = dict[str, Any]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip
WIRED = """
import os, sys
os.dup2(int(sys.argv[1]), 97)
os.dup2(int(sys.argv[2]), 98)
os.dup2(97, 3)
os.dup2(98, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Becomes the browser, which reads commands from 3 and writes answers to 4; either may be taken at first."""
PATIENCE = 600.0
"""Seconds after which the browser is taken to hang."""


def executable() -> str | None:
    """The first browser on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running browser."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._buffer = b""
        self._number = 0
        self.events: list[Json] = []

    def send(self, method: str, session: str | None = None, **params: Any) -> Any:
        """The result of one command; events that come first are kept."""
        self._number += 1
        message: Json = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive(PATIENCE)
            if answer is None:
                raise TimeoutError(f"{method}: the browser gave no answer in {PATIENCE:.0f} s")
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def receive(self, seconds: float) -> Json | None:
        """The next message; None when none comes in time."""
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select([self._answers], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._answers, 1 << 20)
            if not piece:
                raise RuntimeError(f"the browser ended: {self._process.wait(5)}")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: Json = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    @contextmanager
    def page(
        self, url: str, *, width: int = 1280, height: int = 900, scripts: bool = True, dark: bool = False
    ) -> Iterator[Page]:
        """`url` in a tab of its own, loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            page.send(f"{domain}.enable")
        page.resize(width, height)
        page.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.dark(dark)
        try:
            page.open(url)
            yield page
        finally:
            self.send("Target.closeTarget", targetId=target)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **params: Any) -> Any:
        return self._browser.send(method, self._session, **params)

    def events(self, *methods: str) -> list[Json]:
        """What the tab reported so far."""
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] in methods
        ]

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        end = time.monotonic() + PATIENCE
        while not self.events("Page.loadEventFired"):
            assert time.monotonic() < end, f"{url} did not load"
            self._browser.receive(0.2)

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"never came: {condition}"

    def settle(self) -> None:
        """Let the page draw what it has begun, and so take in what the browser said of it."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def complaints(self) -> list[str]:
        """Everything that a console would show: errors, warnings, refusals by the content policy."""
        self.settle()
        logged = [one["entry"]["text"] for one in self.events("Log.entryAdded")]
        thrown = [str(one["exceptionDetails"]) for one in self.events("Runtime.exceptionThrown")]
        said = [f"{one['type']}: {one['args']}" for one in self.events("Runtime.consoleAPICalled")]
        return logged + thrown + said

    def requests(self) -> list[str]:
        """Addresses of everything that the tab asked for."""
        self.settle()
        return [one["request"]["url"] for one in self.events("Network.requestWillBeSent")]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; also where the page's own scripts are off."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def dark(self, on: bool) -> None:
        """Prefer dark colours, or light ones."""
        self.send("Emulation.setEmulatedMedia", features=self.scheme(dark=on))

    @staticmethod
    def scheme(*, dark: bool) -> list[Json]:
        """What the reader prefers, as a feature of media."""
        return [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]

    def press(self, key: str, code: int, text: str = "") -> None:
        """One key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed
            )

    def write(self, text: str) -> None:
        """Text at the cursor."""
        self.send("Input.insertText", text=text)

    def screenshot(self, clip: Json | None = None) -> bytes:
        """A PNG of the whole page, or of a part of it."""
        part = {"clip": clip} if clip else {}
        return b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True, **part)["data"])

    def colours(self, picture: bytes) -> int:
        """How many colours a PNG has; an empty one has one."""
        text = json.dumps(b64encode(picture).decode())
        script = f"""(async () => {{
            const bytes = Uint8Array.from(atob({text}), one => one.charCodeAt(0));
            const image = await createImageBitmap(new Blob([bytes], {{type: "image/png"}}));
            const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, image.width, image.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        }})()"""
        number: int = self.evaluate(script)
        return number

    def pdf(self) -> bytes:
        """The page as it prints."""
        return b64decode(self.send("Page.printToPDF", printBackground=False)["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """The browser of this machine, with an empty profile in `folder`."""
    name = executable()
    assert name is not None, "no browser on PATH"
    read_command, write_command = os.pipe()
    read_answer, write_answer = os.pipe()
    command = [name, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    ends = (read_command, write_answer)
    process = subprocess.Popen(
        [sys.executable, "-c", WIRED, *map(str, ends), *command],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_command)
    os.close(write_answer)
    one = Browser(process, write_command, read_answer)
    try:
        yield one
    finally:
        try:
            one.send("Browser.close")
            process.wait(10)
        except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            process.kill()
            process.wait(10)
        os.close(write_command)
        os.close(read_answer)
