"""
The provider of the backlog: one account's history at YouMail, as fast as Python can tell it.

    python -m tests.bench.history CORE ROWS FIRST_MS APART_MS

Prints its port, then answers until its standard input ends. Whoever asks is let in.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys

from tests.bench.provider import serve

_FIRST_ID = 9_007_199_254_740_993
_PAGE = re.compile(rb"[?&]pageLength=(\d+)(?:&.*)?&pageNumber=(\d+)")
_SINCE = re.compile(rb"[?&]startDate=(\d+)")
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"


def main() -> None:
    core, number, first_ms, apart_ms = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {core})
    rows = [_row(place, first_ms + place * apart_ms) for place in range(number)]

    def answer(request: bytes) -> bytes:
        target = request.split(b" ", 2)[1]
        page = _PAGE.search(target)
        if not page:
            return _answer('{"authToken":"bench"}')
        length, which = map(int, page.groups())
        since = _SINCE.search(target)
        since_ms = int(since[1]) if since else 0
        first = max(-(-(since_ms - first_ms) // apart_ms), 0) + length * (which - 1)
        return _answer('{"histories":[' + ",".join(rows[first : first + length]) + "]}")

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    serve(listener, answer)


def _row(place: int, at_ms: int) -> str:
    return json.dumps(
        {
            "id": _FIRST_ID + place,
            "result": 102,
            "status": 1,
            "source": f"425{place % 10**7:07}",
            "destination": "4255000000",
            "callerName": f"Caller {place}",
            "length": place % 600_000,
            "created": at_ms,
        }
    )


def _answer(text: str) -> bytes:
    return (_HEAD.format(length=len(text)) + text).encode()


if __name__ == "__main__":
    main()
