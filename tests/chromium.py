"""A headless Chromium, driven by its own protocol over a pipe: no package and no port is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def found() -> str | None:
    """Return the path of a Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab: what it shows, and everything that it did wrong."""

    def __init__(self, orders: BinaryIO, answers: BinaryIO) -> None:
        self._orders, self._answers = orders, answers
        self._last = 0
        self._session = ""
        self._loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        attached = self.order("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def order(self, method: str, **params: object) -> dict:
        """Give an order and return the answer; events that come before it are noted."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._orders.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        found = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium ended"
            found += byte
        return json.loads(found)

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.errors.append(json.dumps(params))

    def close(self) -> None:
        """Let the browser end by itself: one that is killed leaves processes that still write."""
        self._session = ""
        self.order("Browser.close")

    def open(self, url: str) -> None:
        """Load a page, and return if it is loaded."""
        self._loaded = False
        self.order("Page.navigate", url=url)
        while not self._loaded:
            self._note(self._next())

    def run(self, script: str) -> object:
        """Return the value of an expression in the page."""
        answer = self.order(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key as a person does."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Enter": 13, "Escape": 27}.get(key, 0)
        pressed = {"key": key, "text": text, "windowsVirtualKeyCode": code}
        self.order("Input.dispatchKeyEvent", type="keyDown", **pressed)
        self.order("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def look(self, *, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Set the size of the window and the preferred scheme of colors."""
        self.order(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.order("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.order("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def page(program: str, folder: Path) -> Iterator[Page]:
    """Yield a tab of a Chromium that keeps its files in a folder; end it afterwards."""
    ours_in, their_out = os.pipe()
    their_in, ours_out = os.pipe()
    command = [program, "--headless=new", "--remote-debugging-pipe", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--disable-gpu", "--hide-scrollbars"]
    # The sandbox of Chromium refuses to run as root, as in a container. The page is our own.
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    # Chromium reads orders from 3 and writes answers to 4.
    shell = f'exec "$@" 3<&{their_in} 4>&{their_out}'
    with subprocess.Popen(
        ["bash", "-c", shell, "bash", *command],
        pass_fds=(their_in, their_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(their_in)
        os.close(their_out)
        # One that hangs ends its tests.
        limit = threading.Timer(300, process.kill)
        limit.start()
        with os.fdopen(ours_out, "wb", buffering=0) as orders, os.fdopen(ours_in, "rb") as answers:
            try:
                tab = Page(orders, answers)
                yield tab
                tab.close()
                process.wait(timeout=30)
            finally:
                limit.cancel()
                process.kill()
