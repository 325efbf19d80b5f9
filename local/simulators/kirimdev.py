"""
A simulated Kirimdev: conversations and message statuses of organisations, with their traps.

What a row says of time is cut to milliseconds; what it is sorted and filtered by need not be. A
list may come from a cache of eight seconds, and its weak ETag collides as the documented one does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from local.simulators import Answer, Change, Faults, http_date

#: The account of the documentation, its key, and the conversation that its ETag speaks of.
SAMPLE_ACCOUNT = "106540352242922"
SAMPLE_KEY = "kdv_live_sampleSAMPLEsampleSAMPLE"
SAMPLE_ETAG = 'W/"2026-06-19T11:00:00.000Z:2:1"'
SAMPLE_MS = 1_781_866_800_000

KNOBS = (
    "cache_s",
    "dropped",
    "micros",
    "unread_touches",
    "ignore_updated_since",
    "out_of_order",
    "validators",
)

RANKS = {"pending": 0, "sent": 1, "delivered": 2, "read": 3, "failed": 4}
STATUS_CACHE_S = {"pending": 5, "sent": 5, "delivered": 10, "read": 60, "failed": 60}
STATUSES = ("open", "resolved", "pending")
PARAMETERS = ("status", "contact_id", "updated_since")

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECRET = b"the simulator's own"


@dataclass
class _Organisation:
    reads_per_minute: int
    tokens: float
    refilled_s: float


@dataclass
class _Key:
    organisation: str
    expires_s: float
    revoked: bool = False


@dataclass
class _Conversation:
    account: str
    updated_us: int
    last_message_us: int | None
    fields: dict[str, Any]


@dataclass
class _Message:
    account: str
    updated_us: int
    fields: dict[str, Any]


@dataclass
class _Account:
    organisation: str
    conversations: dict[str, _Conversation] = field(default_factory=dict)
    messages: dict[str, _Message] = field(default_factory=dict)


class _Refused(Exception):
    """An answer in the error envelope."""

    def __init__(self, status: int, type_: str, code: str, **headers: str) -> None:
        super().__init__(code)
        self.status, self.type, self.code, self.headers = status, type_, code, headers


class Kirimdev:
    """
    The simulated provider.

    Args:
        clock: Seconds since the epoch.

        cache_s: How long a list is answered from the cache.

        dropped: Percentage of changes that drop the cached answers, as all should.

        micros: Microseconds that are stored behind every printed instant.

        unread_touches: Reading a conversation changes its ``updated_at``.

        ignore_updated_since: The parameter means nothing: all rows, in the order of the inbox.

        out_of_order: A status that arrives late is believed, so that statuses go backwards.

        validators: Answers carry an ``ETag``.

        on_page: Called with stream and page number when a page has been answered, so that
            something can happen between two pages.

        seed: Of the choice which changes drop the cache.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        cache_s: float = 8,
        dropped: int = 100,
        micros: int = 0,
        unread_touches: bool = False,
        ignore_updated_since: bool = False,
        out_of_order: bool = False,
        validators: bool = True,
        on_page: Callable[[str, int], None] | None = None,
        seed: int = 0,
    ) -> None:
        self.clock = clock
        self.cache_s = cache_s
        self.dropped = dropped
        self.micros = micros
        self.unread_touches = unread_touches
        self.ignore_updated_since = ignore_updated_since
        self.out_of_order = out_of_order
        self.validators = validators
        self.on_page = on_page
        self.journal: list[Change] = []
        self.requests: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 (it is to be repeatable)
        self._lock = threading.RLock()
        self._organisations: dict[str, _Organisation] = {}
        self._keys: dict[str, _Key] = {}
        self._accounts: dict[str, _Account] = {}
        self._home: dict[str, str] = {}  # Account by id of a conversation or message, for good.
        self._cache: dict[tuple[str, str], tuple[float, dict[str, Any], str]] = {}
        self._faults = Faults()
        self._cursors = 0
        self._ids = count(1)
        self.add_organisation("sample", SAMPLE_KEY)
        self.add_account("sample", SAMPLE_ACCOUNT)
        self.new_conversation(SAMPLE_ACCOUNT, at_ms=SAMPLE_MS, unread_count=2)
        self.journal.clear()

    # What an operator of the simulation does.

    def add_organisation(
        self, organisation: str, api_key: str, *, reads_per_minute: int = 600
    ) -> None:
        """Add an organisation with a key; its read budget is one for all of its accounts."""
        with self._lock:
            self._organisations[organisation] = _Organisation(
                reads_per_minute, reads_per_minute, self.clock()
            )
            self.add_key(organisation, api_key)

    def add_key(self, organisation: str, api_key: str, *, lives_s: float = math.inf) -> None:
        with self._lock:
            self._keys[api_key] = _Key(organisation, self.clock() + lives_s)

    def revoke_key(self, api_key: str) -> None:
        with self._lock:
            self._keys[api_key].revoked = True

    def expire_key(self, api_key: str) -> None:
        with self._lock:
            self._keys[api_key].expires_s = self.clock()

    def add_account(self, organisation: str, account: str) -> None:
        """Add an account; its id is a phone_number_id."""
        with self._lock:
            self._accounts[account] = _Account(organisation)

    def new_conversation(
        self, account: str, *, at_ms: int | None = None, unread_count: int = 1, **fields: Any
    ) -> str:
        """Let somebody write for the first time; return the conversation's id."""
        with self._lock:
            identity, at_us = self._new_id("cnv"), self._at_us(at_ms)
            contact = {"id": self._new_id("ctc"), "phone_number": "+6281234567890", "name": "Budi"}
            row = {
                "id": identity,
                "object": "conversation",
                "status": "open",
                "contact": contact,
                "whatsapp_account": {"phone_number": "+62211234567"},
                "assignee": None,
                "unread_count": unread_count,
                "last_inbound_at": _iso(at_us),
                "created_at": _iso(at_us),
            }
            row |= fields
            conversation = _Conversation(account, at_us, at_us, row)
            self._accounts[account].conversations[identity] = conversation
            self._home[identity] = account
            self._record("conversations", "created", identity, at_us, account)
            return identity

    def inbound(self, conversation: str, *, at_ms: int | None = None) -> None:
        """Let the contact write once more."""
        with self._lock:
            unread = self._conversation(conversation).fields["unread_count"] + 1
            said = {"unread_count": unread, "last_inbound_at": _iso(self._at_us(at_ms))}
            self._change(conversation, said, at_ms, written=True)

    def outbound(self, conversation: str, *, at_ms: int | None = None) -> None:
        """Let an agent write."""
        self._change(conversation, {}, at_ms, written=True)

    def assign(
        self, conversation: str, name: str | None = "Ann", *, at_ms: int | None = None
    ) -> None:
        """Assign a conversation to an agent, or to none."""
        agent = {"id": f"usr_{name}", "name": name, "email": None}
        self._change(conversation, {"assignee": agent if name else None}, at_ms)

    def change_contact(self, conversation: str, *, at_ms: int | None = None, **fields: Any) -> None:
        """Change what is known of whom a conversation is with."""
        contact = self._conversation(conversation).fields["contact"]
        self._change(conversation, {"contact": contact | fields}, at_ms)

    def set_status(self, conversation: str, status: str, *, at_ms: int | None = None) -> None:
        self._change(conversation, {"status": status}, at_ms)

    def mark_read(self, conversation: str, *, at_ms: int | None = None) -> None:
        """Read a conversation; nothing but its unread count changes, unless a knob says so."""
        with self._lock:
            touched = self._at_us(at_ms) if self.unread_touches else None
            self._change(conversation, {"unread_count": 0}, at_ms, touched_us=touched, read=True)

    def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation: no list says so."""
        with self._lock:
            account = self._home[conversation]
            del self._accounts[account].conversations[conversation]
            self._record("conversations", "deleted", conversation, self._at_us(None), account)

    def send(
        self, conversation: str, text: str = "Halo", *, at_ms: int | None = None, **fields: Any
    ) -> str:
        """Send a message, pending at first; return its id."""
        with self._lock:
            self.outbound(conversation, at_ms=at_ms)
            identity, at_us = self._new_id("msg"), self._at_us(at_ms)
            account = self._home[conversation]
            message = {
                "id": identity,
                "object": "message",
                "conversation_id": conversation,
                "direction": "outbound",
                "type": "text",
                "status": "pending",
                "content": text,
                "error": None,
                "created_at": _iso(at_us),
            }
            self._accounts[account].messages[identity] = _Message(account, at_us, message | fields)
            self._home[identity] = account
            self._record("message-status", "created", identity, at_us, account)
            return identity

    def set_message_status(
        self, message: str, status: str, *, at_ms: int | None = None, error: str = ""
    ) -> None:
        """
        Let WhatsApp report a status; one that the message is past is not believed.

        Args:
            status: ``pending``, ``sent``, ``delivered``, ``read`` or ``failed``.

            error: Code of the error that comes with ``failed``.
        """
        with self._lock:
            account = self._home[message]
            kept = self._accounts[account].messages[message]
            if not self.out_of_order and RANKS[status] < RANKS[kept.fields["status"]]:
                return
            kept.fields |= {"status": status, "error": {"code": error} if error else None}
            kept.updated_us = self._at_us(at_ms)
            self._record("message-status", "updated", message, kept.updated_us, account)

    def delete_message(self, message: str) -> None:
        with self._lock:
            account = self._home[message]
            del self._accounts[account].messages[message]
            self._record("message-status", "deleted", message, self._at_us(None), account)

    # What goes wrong, on demand.

    def configure(self, **knobs: Any) -> None:
        """Set some of the constructor's arguments anew."""
        with self._lock:
            for name, value in knobs.items():
                if name not in KNOBS:
                    raise ValueError(f"{name} is none of {', '.join(KNOBS)}")
                setattr(self, name, value)

    def spend(self, organisation: str) -> None:
        """Use up what is left of an organisation's budget."""
        with self._lock:
            self._organisations[organisation].tokens = 0
            self._organisations[organisation].refilled_s = self.clock()

    def end_cursors(self) -> None:
        """Have no cursor be valid any more that was given out before."""
        with self._lock:
            self._cursors += 1

    def fail_next(self, path_prefix: str, kind: str, times: int = 1) -> None:
        """
        Let the next requests under a path fail.

        Args:
            kind: A status (``"304"``, ``"404"``, ``"429"``, ``"503"``), or an answer with status
                200: ``html``, ``empty``, ``truncated`` (half of it, and no sign of that); or
                ``invalid_cursor``.
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
            request_id = f"req_{next(self._ids)}"
            try:
                status, more, content = self._faulty(method, path, query, headers, request_id)
            except _Refused as refused:
                status, more = refused.status, refused.headers
                error = {"type": refused.type, "code": refused.code, "message": refused.code}
                content = _json({"error": error | {"request_id": request_id}})
        found = {"date": http_date(int(self.clock())), "x-request-id": request_id, **more}
        if status != 304:
            found.setdefault("content-type", "application/json")
        return status, found, content

    def _faulty(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        request_id: str,
    ) -> Answer:
        kind = self._faults.take(path)
        if not kind:
            return self._route(method, path, query, headers, request_id)
        if kind == "invalid_cursor":
            raise _Refused(400, "invalid_request_error", "invalid_cursor")
        if kind.isdecimal():
            more = {"retry-after": "7"} if kind == "429" else {}
            return int(kind), more, b""
        if kind == "truncated":
            status, more, content = self._route(method, path, query, headers, request_id)
            return status, more, content[: len(content) // 2]
        content = {"html": b"<html><body>Sign in</body></html>", "empty": b""}[kind]
        return 200, {"content-type": "text/html"}, content

    def _route(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        request_id: str,
    ) -> Answer:
        organisation = self._authenticate(headers)
        rates = self._take_token(organisation)
        if method != "GET":
            raise _Refused(404, "not_found", "resource_not_found", **rates)
        answer: dict[str, Any]
        etag = ""
        try:
            match path.strip("/").split("/"):
                case ["v1", "me"]:
                    limit = self._organisations[organisation].reads_per_minute
                    answer = {
                        "organization": organisation,
                        "rate_limits": {"read_per_minute": limit},
                    }
                case ["v1", "accounts"]:
                    owned = [
                        a for a, one in self._accounts.items() if one.organisation == organisation
                    ]
                    answer = {"data": [{"phone_number_id": one} for one in owned]}
                case ["v1", account, "conversations"]:
                    answer, etag = self._list(organisation, account, query)
                case ["v1", account, "messages", message]:
                    answer, etag = self._message(organisation, account, message)
                case _:
                    raise _Refused(404, "not_found", "resource_not_found")
        except _Refused as refused:
            refused.headers |= rates
            raise
        more = rates | ({"etag": etag} if etag and self.validators else {})
        if "etag" in more and headers.get("if-none-match") == etag:
            return 304, more, b""
        return 200, more, _json(answer | {"request_id": request_id})

    def _authenticate(self, headers: Mapping[str, str]) -> str:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        key = self._keys.get(value)
        if scheme != "Bearer" or key is None or key.revoked:
            raise _Refused(401, "authentication_error", "invalid_api_key")
        if key.expires_s <= self.clock():
            raise _Refused(401, "authentication_error", "expired_api_key")
        return key.organisation

    def _take_token(self, organisation: str) -> dict[str, str]:
        """Take a read from the organisation's bucket; say what is left."""
        bucket, now_s = self._organisations[organisation], self.clock()
        per_s, most = bucket.reads_per_minute / 60, float(bucket.reads_per_minute)
        bucket.tokens = min(most, bucket.tokens + (now_s - bucket.refilled_s) * per_s)
        bucket.refilled_s = now_s
        refused = bucket.tokens < 1
        bucket.tokens -= 0 if refused else 1
        rates = {
            "x-ratelimit-limit": str(bucket.reads_per_minute),
            "x-ratelimit-remaining": str(math.floor(bucket.tokens)),
            "x-ratelimit-reset": str(math.ceil(now_s + (most - bucket.tokens) / per_s)),
        }
        if refused:
            rates["retry-after"] = str(max(1, math.ceil((1 - bucket.tokens) / per_s)))
            raise _Refused(429, "rate_limit_error", "rate_limit_exceeded", **rates)
        return rates

    def _owned(self, organisation: str, account: str) -> _Account:
        owned = self._accounts.get(account)
        if owned is None or owned.organisation != organisation:
            raise _Refused(404, "not_found", "resource_not_found")
        return owned

    def _list(
        self, organisation: str, account: str, query: Mapping[str, str]
    ) -> tuple[dict[str, Any], str]:
        self.requests["conversations"] += 1
        owned = self._owned(organisation, account)
        limit = query.get("limit", "25")
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= 100:
            raise _Refused(400, "invalid_request_error", "invalid_limit")
        parameters = [query.get(name) for name in PARAMETERS]
        shape = json.dumps([account, self._cursors, parameters])
        number, after = self._opened(query.get("cursor"), shape)
        cached_under = (account, json.dumps([shape, limit, query.get("cursor")]))
        expires_s, answer, etag = self._cache.get(cached_under, (0.0, {}, ""))
        if expires_s <= self.clock():
            answer, etag = self._page(owned, query, shape, number, after)
            self._cache[cached_under] = (self.clock() + self.cache_s, answer, etag)
        if self.on_page:
            self.on_page("conversations", number)
        return answer, etag

    def _page(
        self,
        owned: _Account,
        query: Mapping[str, str],
        shape: str,
        number: int,
        after: list[Any] | None,
    ) -> tuple[dict[str, Any], str]:
        rows = [row for row in owned.conversations.values() if _matches(row, query)]
        since = "" if self.ignore_updated_since else query.get("updated_since", "")
        if since:
            since_us = _parsed_us(since)
            rows = [row for row in rows if row.updated_us > since_us]
        rows.sort(key=lambda row: _place(row, bool(since)), reverse=True)
        if after is not None:
            rows = [row for row in rows if _place(row, bool(since)) < after]
        limit = int(query.get("limit", "25"))
        page, more = rows[:limit], len(rows) > limit
        cursor = _sealed(shape, number + 1, _place(page[-1], bool(since))) if more else None
        newest = max((str(_iso(row.updated_us)) for row in page), default="0")
        unread = max((row.fields["unread_count"] for row in page), default=0)
        etag = f'W/"{newest}:{unread}:{len(page)}{":more" if more else ""}"'
        data = [
            row.fields
            | {"last_message_at": _iso(row.last_message_us), "updated_at": _iso(row.updated_us)}
            for row in page
        ]
        return {"data": data, "has_more": more, "next_cursor": cursor}, etag

    def _opened(self, cursor: str | None, shape: str) -> tuple[int, list[Any] | None]:
        if cursor is None:
            return 1, None
        encoded, _, signature = cursor.partition(".")
        if not hmac.compare_digest(signature.encode(), _signature(shape, encoded).encode()):
            raise _Refused(400, "invalid_request_error", "invalid_cursor")
        number, after = json.loads(base64.urlsafe_b64decode(encoded))
        return number, after

    def _message(self, organisation: str, account: str, message: str) -> tuple[dict[str, Any], str]:
        self.requests["message"] += 1
        kept = self._owned(organisation, account).messages.get(message)
        if kept is None:
            raise _Refused(404, "not_found", "resource_not_found")
        expires_s, answer, etag = self._cache.get((account, message), (0.0, {}, ""))
        if expires_s <= self.clock():
            answer = kept.fields | {"updated_at": _iso(kept.updated_us)}
            told = json.dumps([answer["status"], answer["error"]])
            etag = f'W/"{hashlib.sha256(told.encode()).hexdigest()[:16]}"'
            expires_s = self.clock() + STATUS_CACHE_S[answer["status"]]
            self._cache[account, message] = (expires_s, answer, etag)
        return answer, etag

    # How it is kept.

    def _conversation(self, conversation: str) -> _Conversation:
        return self._accounts[self._home[conversation]].conversations[conversation]

    def _change(
        self,
        conversation: str,
        fields: dict[str, Any],
        at_ms: int | None,
        *,
        written: bool = False,
        read: bool = False,
        touched_us: int | None = None,
    ) -> None:
        with self._lock:
            row, at_us = self._conversation(conversation), self._at_us(at_ms)
            row.fields = row.fields | fields
            row.updated_us = at_us if not read else touched_us or row.updated_us
            if written:
                row.last_message_us = at_us
            self._record("conversations", "updated", conversation, at_us, row.account)

    def _record(self, stream: str, kind: str, identity: str, at_us: int, account: str) -> None:
        if self._random.randrange(100) < self.dropped:
            lists = stream == "conversations"
            for key in list(self._cache):
                if key[0] == account and lists != key[1].startswith("msg_"):
                    del self._cache[key]
        self.journal.append(Change(stream, kind, identity, at_us // 1000, account))

    def _new_id(self, prefix: str) -> str:
        number, digits = next(self._ids), ""
        for _ in range(26):
            number, digit = divmod(number, 32)
            digits = _ALPHABET[digit] + digits
        return f"{prefix}_{digits}"

    def _at_us(self, at_ms: int | None) -> int:
        return (round(self.clock() * 1000) if at_ms is None else at_ms) * 1000 + self.micros


def _matches(row: _Conversation, query: Mapping[str, str]) -> bool:
    status, contact = query.get("status"), query.get("contact_id")
    if status is not None and status not in STATUSES:
        raise _Refused(400, "invalid_request_error", "invalid_field_value")
    return status in (None, row.fields["status"]) and (
        contact is None or contact == (row.fields["contact"] or {}).get("id")
    )


def _place(row: _Conversation, by_change: bool) -> list[Any]:
    """Say where a row stands in a list; what was never written to comes last."""
    at_us = row.updated_us if by_change else row.last_message_us
    return [-1 if at_us is None else at_us, row.fields["id"]]


def _signature(shape: str, encoded: str) -> str:
    return hmac.new(_SECRET, f"{shape}\n{encoded}".encode(), "sha256").hexdigest()[:32]


def _sealed(shape: str, number: int, after: list[Any]) -> str:
    encoded = base64.urlsafe_b64encode(json.dumps([number, after]).encode()).decode()
    return f"{encoded}.{_signature(shape, encoded)}"


def _parsed_us(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _Refused(400, "invalid_request_error", "invalid_field_value") from None
    if at.tzinfo is None:
        raise _Refused(400, "invalid_request_error", "invalid_field_value")
    return (at - _EPOCH) // timedelta(microseconds=1)


def _iso(at_us: int | None) -> str | None:
    if at_us is None:
        return None
    at = _EPOCH + timedelta(milliseconds=at_us // 1000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(answer: object) -> bytes:
    return json.dumps(answer).encode()
