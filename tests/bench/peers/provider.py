"""
The provider of the comparison: Kirimdev's list of conversations, fast, in a process of its own.

    GET /v1/{account}/conversations?updated_since=&limit=&cursor=    newest first, with a weak ETag
    POST /admin/{reset,rows,clock,fail,hold,counts}                  what the comparison steers

local/simulators/kirimdev.py is the reference of the protocol; a test holds this one against it. No
cache, no rate budget: what is measured is who asks, not how long he is kept waiting.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from bisect import insort
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REASONS = {200: "OK", 304: "Not Modified", 400: "Bad Request", 404: "Not Found"}

#: Requests with this limit are for rows; Pollwire's checks ask for 25.
ROWS_LIMIT = "100"

Answer = tuple[int, str, bytes]


@dataclass
class Counts:
    """What was asked and answered since the last look."""

    requests: int = 0
    unchanged: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass
class Provider:
    """
    Rows and what goes wrong.

    Attributes:
        strict: ``updated_since`` is strictly after, as Kirimdev documents; otherwise it takes its
            own instant in.

        accounts: Places of an account's rows, in order, each an instant (ms) and an id.

        answers: Complete answers by account and query, until a row of the account comes.

        failing: Accounts that answer 500.

        hold: Requests for rows that are still answered; negative for all.
    """

    strict: bool = True
    offset_ms: int = 0
    accounts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    hold: int = -1
    held: list[tuple[asyncio.Transport, bytes]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    # What the comparison asks for.

    def reset(self, strict: bool) -> None:
        self.strict = strict
        self.accounts, self.answers, self.failing = {}, {}, set()
        self.hold, self.held = -1, []

    def rows(self, rows: list[tuple[str, str, int]]) -> None:
        for account, identity, at_ms in rows:
            insort(self.accounts.setdefault(account, []), (at_ms, identity))
            self.answers.pop(account, None)

    def clock(self, offset_ms: int) -> None:
        """Say how far the provider's clock is from the machine's."""
        self.offset_ms = offset_ms

    def fail(self, accounts: list[str]) -> None:
        self.failing = set(accounts)

    def holds(self, after: int) -> None:
        self.hold, self.held = after, []

    def taken(self) -> dict[str, Any]:
        """Take the counts; the next ones begin at nothing."""
        counts, self.counts = self.counts, Counts()
        return vars(counts) | {"held": len(self.held)}

    # What a client asks for.

    def answer(self, target: str, etag: str) -> Answer:
        path, _, text = target.partition("?")
        account = path[4 : -len("/conversations")]
        if account in self.failing:
            return 500, "", b'{"error":{"code":"internal_error"}}'
        if account not in self.accounts or not path.endswith("/conversations"):
            return 404, "", b'{"error":{"code":"resource_not_found"}}'
        known = self.answers.setdefault(account, {})
        if text not in known:
            known[text] = self._page(account, dict(parse_qsl(text)))
        found = known[text]
        return (304, found[1], b"") if etag and etag == found[1] else found

    def _page(self, account: str, query: dict[str, str]) -> Answer:
        places = self.accounts[account]
        if "updated_since" in query:
            since_ms = instant_ms(query["updated_since"])
            first_ms = since_ms + 1 if self.strict else since_ms
            places = [one for one in places if one[0] >= first_ms]
        if "cursor" in query:
            at, _, identity = query["cursor"].partition("-")
            places = [one for one in places if one < (int(at), identity)]
        limit = int(query.get("limit", "25"))
        page, more = places[::-1][:limit], len(places) > limit
        rows = [_row(account, identity, at_ms) for at_ms, identity in page]
        cursor = f"{page[-1][0]}-{page[-1][1]}" if more else None
        newest = rows[0]["updated_at"] if rows else "0"
        etag = f'W/"{newest}:{min(len(rows), 1)}:{len(rows)}{":more" if more else ""}"'
        body = {"data": rows, "has_more": more, "next_cursor": cursor, "request_id": "req_1"}
        return 200, etag, json.dumps(body).encode()


def _row(account: str, identity: str, at_ms: int) -> dict[str, Any]:
    at = iso(at_ms)
    return {
        "id": identity,
        "object": "conversation",
        "status": "open",
        "contact": {"id": f"ctc_{account}", "phone_number": "+6281234567890", "name": "Budi"},
        "whatsapp_account": {"phone_number": "+62211234567"},
        "assignee": None,
        "unread_count": 1,
        "last_inbound_at": at,
        "created_at": at,
        "last_message_at": at,
        "updated_at": at,
    }


def iso(at_ms: int) -> str:
    at = EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant_ms(text: str) -> int:
    at = datetime.fromisoformat(text)
    return (at.replace(tzinfo=at.tzinfo or UTC) - EPOCH) // timedelta(milliseconds=1)


class Connection(asyncio.Protocol):
    """One client's connection: HTTP/1.1, kept alive."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lines = head.decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            length = int(fields.get("content-length", 0))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, target, _ = lines[0].split(" ")
            if method == "POST":
                self._transport.write(self._steer(target, rest[:length]))
            else:
                etag = next((x[15:] for x in lines if x[:15].lower() == "if-none-match: "), "")
                self._serve(target, etag, len(head) + 4)

    def _serve(self, target: str, etag: str, size: int) -> None:
        provider, counts = self._provider, self._provider.counts
        counts.requests += 1
        counts.received_bytes += size
        status, validator, body = provider.answer(target, etag)
        answer = self._message(status, validator, body)
        counts.unchanged += status == 304
        if provider.hold >= 0 and f"limit={ROWS_LIMIT}" in target:
            if provider.hold == 0:
                provider.held.append((self._transport, answer))  # It is never sent.
                return
            provider.hold -= 1
        counts.sent_bytes += len(answer)
        self._transport.write(answer)

    def _message(self, status: int, etag: str, body: bytes) -> bytes:
        date = formatdate(time.time() + self._provider.offset_ms / 1000, usegmt=True)
        more = f"etag: {etag}\r\n" if etag else ""
        if status != 304:
            more += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        reason = REASONS.get(status, "Error")
        return f"HTTP/1.1 {status} {reason}\r\ndate: {date}\r\n{more}\r\n".encode() + body

    def _steer(self, target: str, body: bytes) -> bytes:
        asked = json.loads(body)
        work = {
            "reset": self._provider.reset,
            "rows": self._provider.rows,
            "clock": self._provider.clock,
            "fail": self._provider.fail,
            "hold": self._provider.holds,
            "counts": self._provider.taken,
        }[target.rpartition("/")[2]]
        return self._message(200, "", json.dumps(work(*asked)).encode())


async def serve() -> None:
    """Serve on a free port of the loopback interface, which is printed, until stdin ends."""
    provider = Provider()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(provider), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
