"""A headless browser for tests: Chromium over its DevTools pipe, which needs no library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page in one browser. ``folder``: for its profile."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # theirs: what it writes
        command = (
            *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--remote-debugging-pipe", "--no-first-run", "--disable-extensions", "--disable-background-networking"),
            *(f"--user-data-dir={folder}", "about:blank"),
        )
        high = [os.dup(fd) for fd in (ours[0], theirs[1])]  # 3 and 4 may be among the others

        def pipes() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            command,
            pass_fds=(3, 4, *high),
            preexec_fn=pipes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (ours[0], theirs[1], *high):
            os.close(fd)
        self._out, self._in = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(theirs[0], "rb")
        self._number, self._session = 0, ""
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return dict(found["result"])

    def _read(self) -> dict[str, Any]:
        raw = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has ended")
            raw += byte
        found: dict[str, Any] = json.loads(raw)
        if "method" in found:
            self.events.append(found)
        return found

    def _wait(self, event: str, since: int) -> None:
        while not any(one["method"] == event for one in self.events[since:]):
            self._read()

    def open(self, address: str) -> None:
        """Go there, and wait until it is loaded."""
        since = len(self.events)
        self._call("Page.navigate", url=address)
        self._wait("Page.loadEventFired", since)

    def arrive(self, path: str) -> None:
        """Wait until the page has led to another one by itself."""
        while self.run("document.readyState + location.pathname") != f"complete{path}":
            pass

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def press(self, selector: str) -> None:
        """Click what leads to another page, and wait until that is loaded."""
        since = len(self.events)
        if not self.run(f"(one => one ? (one.click(), true) : false)(document.querySelector({json.dumps(selector)}))"):
            raise AssertionError(f"nothing is {selector}")
        self._wait("Page.loadEventFired", since)

    def type(self, selector: str, text: str) -> None:
        """Put text into a field, as someone would."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.run("document.activeElement.select && document.activeElement.select()")
        self._call("Input.insertText", text=text)

    def key(self, name: str, *, leads: bool = False) -> None:
        """Press a key: Tab or Enter. ``leads``: to another page, whose loading is waited for."""
        since, code = len(self.events), {"Tab": 9, "Enter": 13}[name]
        text = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **text)
        if leads:
            self._wait("Page.loadEventFired", since)

    @property
    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def look(self, width: int, *, dark: bool = False) -> None:
        """Be a window of this width."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def faults(self) -> list[str]:
        """What the console said of errors: a blocked script, a missing file, an exception."""
        found = [one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"]
        said = [f"{one['source']}: {one['text']}" for one in found if one["level"] == "error"]
        return said + [str(one["params"]) for one in self.events if one["method"] == "Runtime.exceptionThrown"]

    def close(self) -> None:
        self._out.close()
        self._in.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
