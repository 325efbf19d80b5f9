"""
A headless Chromium, told what to do over the pipe of its DevTools protocol.

It has a profile of its own and reaches this machine only.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

#: Whatever is waited for takes a second or two; a test that fails waits this long.
LIMIT_S = 30

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # As root of a container it has none; it opens our own page only.
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)

#: Chromium reads orders from 3 and answers on 4.
PIPED = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'


def program() -> str:
    """Find Chromium: the one that the variable CHROMIUM names, or one on the PATH."""
    wanted = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else NAMES
    found = next(filter(None, map(shutil.which, wanted)), None)
    assert found, (
        f"there is no {' or '.join(wanted)} here, which the tests of the page need; "
        "on Debian: apt install chromium; elsewhere: CHROMIUM=/path/to/chromium make test"
    )
    return found


class Chromium:
    """
    A browser with one window; a context manager that ends it.

    Attributes:
        errors: What its console said of errors, refusals by the page's policy among them.
    """

    def __init__(self, profile: Path) -> None:
        # Its wrapper and its caches look for a home.
        environment = os.environ | {"HOME": str(profile)}
        self._child = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", PIPED, program(), *FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self._number = 0
        self._session = ""
        self._rest = b""
        self.errors: list[str] = []

    def __enter__(self) -> Chromium:
        try:
            self._attach()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def open(self, url: str) -> None:
        """Open a page, and come back before it is there."""
        assert "errorText" not in self.tell("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Have the page evaluate an expression; its promise is waited for."""
        answer = self.tell(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page; look whenever it may have been drawn."""
        deadline_s = time.monotonic() + LIMIT_S
        while not self.evaluate(
            f"new Promise((see) => requestAnimationFrame(() => see(Boolean({condition}))))"
        ):
            assert time.monotonic() < deadline_s, (condition, self.text("body"), self.errors)

    def text(self, selector: str) -> str:
        """Read what a person reads there, '' where nothing is shown."""
        one = f"document.querySelector({json.dumps(selector)})"
        return str(self.evaluate(f"{one}?.checkVisibility() ? {one}.innerText : ''"))

    def tell(self, method: str, **parameters: Any) -> Any:
        """Give an order of the protocol, and return its result."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        self._child.stdin.write(json.dumps(order).encode() + b"\0")
        self._child.stdin.flush()
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _attach(self) -> None:
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        session = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))

    def _read(self) -> dict[str, Any]:
        deadline_s = time.monotonic() + LIMIT_S
        while b"\0" not in self._rest:
            patience_s = max(deadline_s - time.monotonic(), 0)
            assert select.select([self._child.stdout], [], [], patience_s)[0], "no answer"
            part = os.read(self._child.stdout.fileno(), 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _end(self) -> None:
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.communicate()
