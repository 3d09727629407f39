"""A headless Chromium on a pipe: pages opened, asked and photographed, with nothing between but the DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from support import capabilities

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> tuple[bool, str]:
    """Whether there is one, and how it is had."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    return (True, path) if path else (False, "no chromium on PATH; apt-get install chromium")


class Page:
    """One tab. Messages are JSON documents that end with a zero byte, written to and read from two pipes."""

    def __init__(self, chromium: str, profile: Path) -> None:
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (their_in, their_out)]  # clear of 3 and 4, which the browser reads
        quiet = [(os.POSIX_SPAWN_OPEN, at, os.devnull, os.O_RDWR, 0) for at in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)]
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._pid = os.posix_spawn(chromium, command, os.environ, file_actions=[*quiet, *pipes])
        for one in (their_in, their_out, *high):
            os.close(one)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []  # exceptions and console errors of the page
        target = next(one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.requested: list[str] = []  # addresses that the page asked for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._out)
        os.close(self._in)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def show(self, path: Path, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Open a file in a window of that size and scheme, and wait until it is loaded."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.ask("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page. Raises AssertionError for one that throws."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Press and release the button there."""
        for what in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for what in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=what, key=key)

    def photograph(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._read()
            if heard.get("id") == self._number:
                assert "error" not in heard, (method, heard["error"])
                return dict(heard["result"])
            self._note(heard)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._in, 1 << 16)
            assert piece, "the browser ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(event["params"]["exceptionDetails"].get("exception", event["params"]).get("description")))
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.errors.append(str(event["params"]["entry"]["text"]))
            case "Network.requestWillBeSent":
                self.requested.append(str(event["params"]["request"]["url"]))
            case _:
                pass


@contextmanager
def opened() -> Iterator[Page]:
    """A browser for as long as a test needs it; the test is skipped where there is none."""
    capability = capabilities.look("chromium", find)
    if not capability.available:
        capabilities.missing(capability)
    with TemporaryDirectory(prefix="heteroscale-browser-") as profile, Page(capability.how, Path(profile)) as page:
        yield page
