"""
A simulated Intelli Messaging: allMessages of the documentation, with the traps of the real one.

A message counts as of ``at_s`` (its timestamp) and can be read from ``visible_s`` on, so that it
may show up late. Each account has a capped collection: the first messages that came go first.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

from local.simulators import Answer, Change, Faults, http_date

PATH = "/services/rest/user/allMessages"

#: An account whose messages are those of the documentation until something happens to it.
SAMPLE_ACCOUNT = "1234321@reseller"
SAMPLE_PASSWORD = "password"  # noqa: S105 (the documentation's)
SAMPLE = (
    (
        "outgoing",
        {
            "documentId": "517509fee4b0b1be3f128ef5",
            "text": "Reply> ggghhh",
            "timestamp": 1366624766,
            "recipient": "61555879987",
        },
    ),
    (
        "incoming",
        {
            "documentId": "51750a01e4b0d1406c9c5fdb",
            "text": " ggghhh",
            "timestamp": 1366624769,
            "from": "61555879987",
            "recipient": "61500079987",
            "originDocumentId": "517509fee4b0b1be3f128ef5",
        },
    ),
    (
        "outgoing",
        {
            "documentId": "51750a22e4b0b1be3f128ef6",
            "text": "Hello mommy",
            "timestamp": 1366624802,
            "recipient": "61255588885",
        },
    ),
)

KNOBS = (
    "cap",
    "limit",
    "cut",
    "inclusive",
    "order",
    "newest_on_empty",
    "has_more",
    "recpipent",
    "as_text",
)

#: The parts of an id that name the two writers.
WRITERS = ("e4b0d1406c", "e4b0b1be3f")


@dataclass
class _Message:
    direction: str
    at_s: int
    visible_s: float
    fields: dict[str, Any]


@dataclass
class _Account:
    username: str
    password: str
    number: str
    status: object = 0
    messages: list[_Message] = field(default_factory=list)  # As they came.


class Intelli:
    """
    The simulated provider.

    Args:
        clock: Seconds since the epoch.

        cap: Messages that an account's collection holds.

        limit: Messages of one answer.

        cut: ``lists`` to cut each of the two at the limit, ``union`` to cut both together.

        inclusive: Whether messages of the second ``since`` itself are listed.

        order: ``time``, or ``inserted`` for messages in the order in which they came.

        newest_on_empty: What ``newestMessageTimestamp`` says when there is nothing: ``zero``,
            ``null``, ``absent``, or ``echo`` for the ``since`` that was asked for.

        has_more: What ``hasMoreMessages`` says; ``None`` for the truth.

        recpipent: Spell it as older versions do, and do not name the recipient of what came in.

        as_text: Status and timestamps are texts.

        on_page: Called with ``since`` when a request has been answered, so that something can
            happen between two pages.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        cap: int = 10_000,
        limit: int = 100,
        cut: str = "lists",
        inclusive: bool = True,
        order: str = "time",
        newest_on_empty: str = "zero",
        has_more: bool | None = None,
        recpipent: bool = False,
        as_text: bool = False,
        on_page: Callable[[int], None] | None = None,
    ) -> None:
        self.clock = clock
        self.cap = cap
        self.limit = limit
        self.cut = cut
        self.inclusive = inclusive
        self.order = order
        self.newest_on_empty = newest_on_empty
        self.has_more = has_more
        self.recpipent = recpipent
        self.as_text = as_text
        self.on_page = on_page
        self.journal: list[Change] = []
        self.requests: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._accounts: dict[str, _Account] = {}
        self._faults = Faults()
        self._numbers = count(0x9C5FDC)
        self.add_account(SAMPLE_ACCOUNT, SAMPLE_ACCOUNT, SAMPLE_PASSWORD, "61500079987")
        for direction, fields in SAMPLE:
            at_s = int(str(fields["timestamp"]))
            self._accounts[SAMPLE_ACCOUNT].messages.append(
                _Message(direction, at_s, at_s, dict(fields))
            )

    # What an operator of the simulation does.

    def add_account(
        self, account: str, username: str, password: str, number: str = "61500079987"
    ) -> None:
        with self._lock:
            self._accounts[account] = _Account(username, password, number)

    def receive(
        self,
        account: str,
        text: str = "Hello",
        sender: str = "61555879987",
        *,
        at_s: int | None = None,
        visible_at_s: float | None = None,
        **fields: Any,
    ) -> str:
        """Let a message come in; return its id."""
        with self._lock:
            number = self._accounts[account].number
            said = {"text": text, "from": sender, "recipient": number, **fields}
            return self._add(account, "incoming", said, at_s, visible_at_s)

    def send(
        self,
        account: str,
        text: str = "Hello",
        recipient: str = "61555879987",
        *,
        at_s: int | None = None,
        visible_at_s: float | None = None,
        **fields: Any,
    ) -> str:
        """Send a message; return its id."""
        with self._lock:
            said = {"text": text, "recipient": recipient, **fields}
            return self._add(account, "outgoing", said, at_s, visible_at_s)

    def reply(
        self,
        account: str,
        origin: str,
        text: str = "Yes",
        *,
        at_s: int | None = None,
        visible_at_s: float | None = None,
    ) -> str:
        """Let the recipient of the sent message *origin* answer it; return the answer's id."""
        with self._lock:
            messages = self._accounts[account].messages
            sent = next(one for one in messages if one.fields["documentId"] == origin)
            return self.receive(
                account,
                text,
                sent.fields["recipient"],
                at_s=at_s,
                visible_at_s=visible_at_s,
                originDocumentId=origin,
            )

    def saturate(self, account: str, messages: int, *, at_s: int | None = None) -> list[str]:
        """Let that many messages come in within one second; return their ids."""
        with self._lock:
            second = self._now_s() if at_s is None else at_s
            return [self.receive(account, f"{n}", at_s=second) for n in range(messages)]

    # What goes wrong, on demand.

    def configure(self, **knobs: Any) -> None:
        """Set some of the constructor's arguments anew."""
        with self._lock:
            for name, value in knobs.items():
                if name not in KNOBS:
                    raise ValueError(f"{name} is none of {', '.join(KNOBS)}")
                setattr(self, name, value)

    def set_status(self, account: str, status: object) -> None:
        """Answer an account with a status and nothing else, and with HTTP 200; 0 ends that."""
        with self._lock:
            self._accounts[account].status = status

    def fail_next(self, path_prefix: str, kind: str, times: int = 1) -> None:
        """
        Let the next requests under a path fail.

        Args:
            kind: An HTTP status (``"429"``, ``"503"``), or an answer with HTTP 200: ``html``,
                ``empty``, ``truncated`` (half of it, and no sign of that), ``error`` (9999),
                ``no lists`` (status 0 and nothing else).
        """
        with self._lock:
            self._faults.add(path_prefix, kind, times)

    # What a client sees.

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        with self._lock:
            status, more, content = self._faulty(method, path, query, headers, body)
        found = {"date": http_date(int(self.clock())), **more}
        found.setdefault("content-type", "application/json")
        return status, found, content

    def _faulty(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        kind = self._faults.take(path)
        if kind.isdecimal():
            return int(kind), {"retry-after": "7"} if kind == "429" else {}, b""
        if kind in ("html", "empty"):
            content = b"<html><body>Sign in</body></html>" if kind == "html" else b""
            return 200, {"content-type": "text/html"}, content
        if kind in ("error", "no lists"):
            return _json({"status": 9999 if kind == "error" else 0})
        status, more, content = self._route(method, path, query, headers, body)
        return status, more, content[: len(content) // 2] if kind == "truncated" else content

    def _route(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        if path != PATH:
            return 404, {}, b""
        if method not in ("GET", "POST"):
            return 405, {}, b""
        self.requests["messages"] += 1
        self.requests[method] += 1
        asked = dict(query)
        if method == "POST":
            kind = headers.get("content-type", "").partition(";")[0]
            form = kind == "application/x-www-form-urlencoded"
            asked = (
                dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
                if form
                else {}
            )
        return _json(self._messages(asked))

    def _messages(self, asked: Mapping[str, str]) -> dict[str, Any]:
        username, password, since = (
            asked.get(name, "") for name in ("username", "password", "since")
        )
        if not (username and password and since):
            return self._refusal(1)
        if " " in username or not re.fullmatch(r"-?[0-9]{1,18}", since):
            return self._refusal(2)
        account = next((a for a in self._accounts.values() if a.username == username), None)
        if account is None:
            return self._refusal(200)
        if account.password != password:
            return self._refusal(3)
        if account.status != 0:
            return {} if account.status is None else {"status": account.status}
        answer = self._list(account, int(since))
        if self.on_page:
            self.on_page(int(since))
        return answer

    def _refusal(self, status: int) -> dict[str, Any]:
        return {"status": self._number(status)}

    def _list(self, account: _Account, since: int) -> dict[str, Any]:
        first, now_s = since if self.inclusive else since + 1, self.clock()
        found = [m for m in account.messages if m.at_s >= first and m.visible_s <= now_s]
        if self.order == "time":
            found.sort(key=lambda message: (message.at_s, message.fields["documentId"]))
        listed = found[: self.limit] if self.cut == "union" else found
        lists = {
            f"{direction}Messages": [one for one in listed if one.direction == direction]
            for direction in ("incoming", "outgoing")
        }
        if self.cut == "lists":
            lists = {name: listed[: self.limit] for name, listed in lists.items()}
        shown = [one for listed in lists.values() for one in listed]
        is_cut = len(shown) < len(found)
        answer: dict[str, Any] = {
            "newestMessageTimestamp": self._number(max((one.at_s for one in shown), default=0)),
            "hasMoreMessages": is_cut if self.has_more is None else self.has_more,
            **{name: [self._row(one) for one in listed] for name, listed in lists.items()},
            "status": self._number(0),
        }
        if not shown:
            empty = {"zero": 0, "null": None, "echo": since}
            answer["newestMessageTimestamp"] = empty.get(self.newest_on_empty)
            if self.newest_on_empty == "absent":
                del answer["newestMessageTimestamp"]
        return answer

    def _row(self, message: _Message) -> dict[str, Any]:
        row = {**message.fields, "timestamp": self._number(message.at_s)}
        if self.recpipent:
            number = row.pop("recipient", None)
            if message.direction == "outgoing":
                row["recpipent"] = number
        return row

    # How it is kept.

    def _add(
        self,
        account: str,
        direction: str,
        fields: dict[str, Any],
        at_s: int | None,
        visible_at_s: float | None,
    ) -> str:
        second = self._now_s() if at_s is None else at_s
        number = next(self._numbers)
        identity = f"{second:08x}{WRITERS[number % len(WRITERS)]}{number:06x}"
        visible = second if visible_at_s is None else visible_at_s
        messages = self._accounts[account].messages
        said = {"documentId": identity, **fields}
        messages.append(_Message(direction, second, visible, said))
        del messages[: -self.cap]
        self.journal.append(
            Change("messages", "created", str(said["documentId"]), second * 1000, account)
        )
        return str(said["documentId"])

    def _number(self, number: int) -> int | str:
        return str(number) if self.as_text else number

    def _now_s(self) -> int:
        return int(self.clock())


def _json(answer: object) -> Answer:
    return 200, {}, json.dumps(answer).encode()
