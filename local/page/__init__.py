"""
The page of a run: a board, shown in a browser of this machine.

It has three files and one JSON object, which the page asks for once a second. No other site gets to
see them: the server listens on the loopback interface, answers only requests for 127.0.0.1 or
localhost, whatever other name may lead here, and lets no other origin read or frame it.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

from local.board import Board
from local.processes import Failed, Stopped
from local.server import Http, Server
from local.stack import choose_port

HERE: Final = Path(__file__).parent
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
STATE: Final = "/state.json"

#: Whoever asked within so many seconds is looking, and asks again within them.
LOOKING_S: Final = 2.0

OWN_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
BODY_BYTES_MAX: Final = 1 << 16
IDLE_S: Final = 5

#: The page is made of its own files, and its texts are never markup.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Page:
    """
    A board that can be looked at; a context manager that closes it.

    Whoever is looking when it is closed gets to see the end.

    Args:
        port: Of 127.0.0.1; 0 for a free one.

    Raises:
        Failed: Somebody else has the port.

    Attributes:
        url: Where.
    """

    def __init__(self, board: Board, port: int = 0) -> None:
        self._board = board
        self._asked_s = float("-inf")
        self._files = {
            path: (type_, (HERE / name).read_bytes()) for path, (name, type_) in FILES.items()
        }
        self._server = Server(_Handler, self, int(choose_port(port, "PAGE_PORT")))
        self.url = f"{self._server.url}/"

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Stopped):
            self._board.end("It was stopped.", 0)
        else:
            self._board.fail(_reason(error))
        if time.monotonic() - self._asked_s < LOOKING_S:
            time.sleep(LOOKING_S)
        self.close()

    def close(self) -> None:
        """Answer nobody any more, at once."""
        self._server.close()
        self._asked_s = float("-inf")

    def find(self, path: str) -> tuple[str, bytes] | None:
        """Find what lies at a path, and its type."""
        if path == STATE:
            self._asked_s = time.monotonic()
            return "application/json", self._board.shown
        return self._files.get(path)


def _reason(error: BaseException) -> str:
    """Say why a run failed, in one line; a log's lines follow in the terminal only."""
    if isinstance(error, Failed):
        return str(error).splitlines()[0]
    return f"{type(error).__name__}; the terminal says more."


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of what there is, and nothing else, one request a connection."""

    default_request_version = "HTTP/1.0"  # A request that is none gets a status, too.
    wbufsize = 1 << 16
    timeout = IDLE_S
    server: Http

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not OWN_HOST.fullmatch(hosts[0].strip()):
            return self._refuse(HTTPStatus.FORBIDDEN)
        if self.command != "GET":
            return self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        return True

    def do_GET(self) -> None:
        found = self.server.content.find(self.path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send(HTTPStatus.OK, *found)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # In our own words: none of the request's come back.
        self._send(HTTPStatus(code), "text/plain; charset=utf-8", HTTPStatus(code).phrase.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _refuse(self, status: HTTPStatus) -> bool:
        length = self.headers.get("Content-Length", "0")
        if length.isdecimal():  # Or the answer is lost with what was not read.
            self.rfile.read(min(int(length), BODY_BYTES_MAX))
        self.send_error(status)
        return False

    def _send(self, status: HTTPStatus, type_: str, body: bytes) -> None:
        self.send_response_only(status)
        headers = {"Content-Type": type_, "Content-Length": str(len(body)), **HEADERS}
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
