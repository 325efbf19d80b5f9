"""
Put simulated providers on a port of this machine.

    python -m local.server --port 8070           all of them, from port 8070 on
    python -m local.server youmail               that one, on a free port

It prints one line when it is ready, ``ready youmail=http://127.0.0.1:8070 ...``: a port each,
because Pollwire's hosts have no path. Another process makes things happen through it:

    POST {url}{prefix}/_sim/           {"call": "leave_voicemail", "args": {"account": "7"}}
    GET  {url}{prefix}/_sim/journal    every change made so far
    GET  {url}{prefix}/_sim/answered   how many requests were answered so far, by status
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from local.simulators import Answer, Simulator, registered

BODY_BYTES_MAX = 1 << 20
IDLE_S = 60


class Server:
    """
    A running server of this machine only; also a context manager that closes it.

    Args:
        handler: Answers requests; it finds *content* as the attribute of its server.

        port: 0 for a free one.

    Attributes:
        url: Base URL without a slash at the end; a simulator's prefix follows it.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], content: Any, port: int) -> None:
        self._http = Http(("127.0.0.1", port), handler)
        self._http.content = content
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut the connections that clients keep alive."""
        self._http.shutdown()
        self._http.server_close()
        self._http.cut()
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def serve(simulators: Mapping[str, Simulator], port: int = 0) -> Server:
    """
    Serve simulators on 127.0.0.1.

    Args:
        simulators: By path prefix: ``""`` for a single one, else ``"/youmail"``.

        port: 0 for a free one.
    """
    return Server(_Handler, {prefix: _Mounted(one) for prefix, one in simulators.items()}, port)


class _Mounted:
    """A simulator, and how often it answered with which status."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._answered: Counter[int] = Counter()
        self._lock = threading.Lock()

    def handle(self, *request: Any) -> Answer:
        answer = self.simulator.handle(*request)
        with self._lock:
            self._answered[answer[0]] += 1
        return answer

    def control(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "GET" and path == "/_sim/answered":
            with self._lock:
                return _json(200, self._answered)
        return control(self.simulator, method, path, headers, body)


class Http(ThreadingHTTPServer):
    """
    Answers each connection in a thread of its own, and can cut them all.

    Attributes:
        content: What handlers answer with.
    """

    daemon_threads = True
    request_queue_size = 128
    content: Any

    def __init__(self, *args: Any) -> None:
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(*args)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is no news; anything else is.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def cut(self) -> None:
        """End the connections that clients keep alive."""
        for connection, thread in list(self._open.items()):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # It has just ended by itself.
            finally:
                thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Simulator"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # Head and body leave in one packet.
    timeout = IDLE_S
    server: Http

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            return self._send(413, {}, b"")
        body = self.rfile.read(int(length))
        url = urlsplit(self.path)
        prefix, mounted = self._find(url.path)
        if mounted is None:
            return self._send(404, {}, b"no simulator is mounted here")
        path = url.path[len(prefix) :]
        headers = {name.lower(): value for name, value in self.headers.items()}
        if path.startswith("/_sim/"):
            return self._send(*mounted.control(self.command, path, headers, body))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return self._send(*mounted.handle(self.command, path, query, headers, body))

    def _find(self, path: str) -> tuple[str, _Mounted | None]:
        for prefix in sorted(self.server.content, key=len, reverse=True):
            if path.startswith(f"{prefix}/"):
                return prefix, self.server.content[prefix]
        return "", None

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        if "date" not in headers:
            self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 304:
            self.wfile.write(body)


def control(
    simulator: Simulator, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """Let another process of this machine call a simulator's public methods."""
    if method == "GET" and path == "/_sim/journal":
        return _json(200, simulator.journal)
    # A page in a browser cannot send this type to another origin unasked.
    if method != "POST" or headers.get("content-type") != "application/json":
        return _json(400, {"error": "POST application/json"})
    try:
        asked = json.loads(body)
        name, args = asked["call"], asked.get("args", {})
        call = None if name.startswith("_") else getattr(simulator, name, None)
        if not callable(call):
            return _json(404, {"error": f"no such call: {name}"})
        return _json(200, {"result": call(**args)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return _json(400, {"error": f"{type(error).__name__}: {error}"})


def _json(status: int, answer: object) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps(answer, default=str).encode()


def main() -> None:
    makers = registered()
    parser = argparse.ArgumentParser(prog="python -m local.server")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(makers)}")
    parser.add_argument("--port", type=int, default=0, help="the first port; 0 for free ones")
    options = parser.parse_args()
    if unknown := set(options.names) - set(makers):
        parser.error(f"there is no simulator for {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as running, contextlib.suppress(KeyboardInterrupt):
        ready = []
        for number, name in enumerate(options.names or makers):
            port = options.port + number if options.port else 0
            server = running.enter_context(serve({"": makers[name]()}, port))
            ready.append(f"{name}={server.url}")
        sys.stdout.write(f"ready {' '.join(ready)}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
