"""
The provider of the benchmark: YouMail's composite poll, answered as fast as Python can.

    python -m tests.bench.provider CORE ACCOUNTS

Prints its port, then answers until its standard input ends, which it does with whoever started it.
Answers are made beforehand, so that no client waits for it: what is measured is the client.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable

from tests.bench import accounts

_HEADERS = (
    "Date: Sun, 22 Nov 2026 20:00:00 GMT\r\nServer: bench\r\nCache-Control: no-cache\r\n"
    "Last-Modified: Sat, 21 Nov 2026 20:00:00 GMT\r\nETag: {etag}\r\n"
)
_OK = "HTTP/1.1 200 OK\r\n{headers}Content-Type: text/csv\r\nContent-Length: {length}\r\n\r\n{text}"
_SAME = "HTTP/1.1 304 Not Modified\r\n{headers}\r\n"


def main() -> None:
    core, number = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {core})
    answers = {one.encode(): _answers(one) for one in accounts.ids(number)}
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)

    def answer(request: bytes) -> bytes:
        account = request[: request.index(b" ", 4)].rpartition(b"/")[2]
        return answers[account][b"if-none-match:" in request.lower()]

    serve(listener, answer)


def _answers(account: str) -> tuple[bytes, bytes]:
    """Make an account's 200 and its 304."""
    text, headers = accounts.answer(account), _HEADERS.format(etag=accounts.etag(account))
    whole = _OK.format(headers=headers, length=len(text), text=text)
    return whole.encode(), _SAME.format(headers=headers).encode()


def serve(listener: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    """Answer requests until standard input ends. Each comes in one piece, and has no body."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    epoll.register(sys.stdin.fileno(), select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in epoll.poll():
            peer = peers.get(descriptor)
            if peer is not None:
                request = peer.recv(65536)
                if request:
                    peer.sendall(answer(request))
                else:
                    epoll.unregister(descriptor)
                    peers.pop(descriptor).close()
            elif descriptor == listener.fileno():
                peer, _ = listener.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[peer.fileno()] = peer
                epoll.register(peer, select.EPOLLIN)
            else:
                return


if __name__ == "__main__":
    main()
