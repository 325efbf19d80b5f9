"""
A simulated YouMail: composite polling and the lookups, with the traps of the real one.

A voicemail, a call or a contact is kept as versions. A version counts as of ``at_ms`` (what
``updatedFrom`` and the composite answer go by) and can be read from ``visible_ms`` on, so that a
change may be announced before it shows. As at YouMail, a row does not say when it was updated.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any
from urllib.parse import quote, unquote

from local.simulators import Answer, Change, Faults, http_date

TYPES = (
    "history",
    "entry",
    "contact",
    "entitlement",
    "greeting",
    "account",
    "settings",
    "ecommerce",
)

#: An account whose composite answer is that of the documentation until something changes for it.
SAMPLE_ACCOUNT = "133128004"
SAMPLE = "243427273,34437373103,3373712092,3923844747,3923844747,3923844747,3923844747,3923844747"

KNOBS = ("fields", "lag_ms", "token_s", "validators", "created_name", "show_updated", "paging")

INBOX, TRASH = 0, 5322
LEFT_MESSAGE = 101


@dataclass
class _Version:
    at_ms: int
    visible_ms: int
    fields: dict[str, Any] | None  # None: purged.


@dataclass
class _Account:
    username: str
    password: str
    phone: str
    known: bool  # The poll host has heard of it.
    stamps: dict[str, int]
    rows: dict[str, dict[str, list[_Version]]]
    profile: dict[str, Any]
    settings: dict[str, Any]
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)


class YouMail:
    """
    The simulated provider.

    Args:
        clock: Seconds since the epoch.

        fields: How many values a composite answer has; those beyond the eighth are 0.

        lag_ms: How much later than the composite answer a lookup shows a change.

        token_s: How long a token lives.

        validators: Composite answers carry ``ETag`` and ``Last-Modified`` and are answered 304.

        created_name: ``created``, or ``createTime`` as in newer lists of fields.

        show_updated: Rows say when they were updated, which the real ones do not.

        paging: ``pages``; ``none`` for lists that ignore page numbers and lengths; ``stuck`` for
            lists whose every page is the first.

        on_page: Called with stream and page number when a page has been answered, so that
            something can happen between two pages.

        token_name: Says what the tokens of an account begin with.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        fields: int = 8,
        lag_ms: int = 0,
        token_s: float = 3600,
        validators: bool = True,
        created_name: str = "created",
        show_updated: bool = False,
        paging: str = "pages",
        on_page: Callable[[str, int], None] | None = None,
        token_name: Callable[[str], str] = lambda account: "token",
    ) -> None:
        self.clock = clock
        self.fields = fields
        self.lag_ms = lag_ms
        self.token_s = token_s
        self.validators = validators
        self.created_name = created_name
        self.show_updated = show_updated
        self.paging = paging
        self.on_page = on_page
        self.token_name = token_name
        self.journal: list[Change] = []
        self.requests: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._accounts: dict[str, _Account] = {}
        self._home: dict[str, str] = {}  # Account by row id.
        self._tokens: dict[str, tuple[str, float]] = {}  # Account and end of life by token.
        self._faults = Faults()
        self._ids = count(9007199254740993)  # 2**53 + 1: no float can hold it.
        self.add_account(SAMPLE_ACCOUNT, "sample", "sample-password", "4255550100")
        stamps = zip(TYPES, SAMPLE.split(","), strict=True)
        self._accounts[SAMPLE_ACCOUNT].stamps = {name: int(value) for name, value in stamps}

    # What an operator of the simulation does.

    def add_account(
        self, account: str, username: str, password: str, phone: str, *, new_user: bool = False
    ) -> None:
        """Add an account; the poll host answers 404 for a new user until its first change."""
        with self._lock:
            self._accounts[account] = _Account(
                username,
                password,
                phone,
                not new_user,
                dict.fromkeys(TYPES, 0 if new_user else self._now_ms()),
                {"entry": {}, "history": {}, "contact": {}, "greeting": {}},
                {"userId": int(account), "phone": phone, "firstName": "Ann", "entitlements": []},
                {"userId": int(account), "timeZone": "UTC"},
            )

    def leave_voicemail(
        self,
        account: str,
        *,
        at_ms: int | None = None,
        visible_at_ms: int | None = None,
        **fields: Any,
    ) -> str:
        """Leave a voicemail, which is a call too; return its id."""
        with self._lock:
            at = self._at(at_ms)
            voicemail = {
                "status": 1,
                "source": "4255550111",
                "destination": self._accounts[account].phone,
                "callerName": "Bob",
                "length": 12000,
                "created": at,
                "folderId": INBOX,
                "messageDataUrl": f"https://media.youmail.invalid/{at}.mp3?signature={at}",
                "preview": "",
                "transcript": "",
            }
            identity = self._add("entry", account, voicemail | fields, at, visible_at_ms)
            self.call(account, LEFT_MESSAGE, at_ms=at, visible_at_ms=visible_at_ms)
            return identity

    def change_entry(self, row: str, *, at_ms: int | None = None, **fields: Any) -> None:
        """Change a voicemail, as when its transcript is ready."""
        self._change("entry", row, "updated", at_ms, fields)

    def mark_read(self, row: str, *, at_ms: int | None = None) -> None:
        self._change("entry", row, "updated", at_ms, {"status": 2})

    def trash(self, row: str, *, at_ms: int | None = None) -> None:
        """Delete a voicemail as YouMail does: it moves to the trash and can still be listed."""
        self._change("entry", row, "deleted", at_ms, {"folderId": TRASH})

    def restore(self, row: str, *, at_ms: int | None = None) -> None:
        self._change("entry", row, "created", at_ms, {"folderId": INBOX})

    def purge(self, row: str, *, at_ms: int | None = None) -> None:
        """Remove a voicemail for good: no listing has it any more."""
        with self._lock:
            was = self._latest("entry", row).fields or {}
            kind = "" if was.get("folderId") == TRASH else "deleted"
            self._change("entry", row, kind, at_ms, None)

    def call(
        self,
        account: str,
        result: int = 102,
        *,
        at_ms: int | None = None,
        visible_at_ms: int | None = None,
        **fields: Any,
    ) -> str:
        """Call the account; *result* is YouMail's code, 102 for one that left no message."""
        with self._lock:
            at = self._at(at_ms)
            row = {"source": "4255550111", "result": result, "length": 3000, "created": at}
            return self._add("history", account, row | fields, at, visible_at_ms)

    def add_contact(self, account: str, *, at_ms: int | None = None, **fields: Any) -> str:
        with self._lock:
            at = self._at(at_ms)
            row = {"firstName": "Bob", "phone": "4255550111", "deleted": False, "created": at}
            return self._add("contact", account, row | fields, at)

    def update_contact(self, row: str, *, at_ms: int | None = None, **fields: Any) -> None:
        self._change("contact", row, "updated", at_ms, fields)

    def delete_contact(self, row: str, *, at_ms: int | None = None) -> None:
        self._change("contact", row, "deleted", at_ms, {"deleted": True})

    def record_greeting(self, account: str, name: str = "At work", **fields: Any) -> str:
        with self._lock:
            at = self._at(None)
            return self._add("greeting", account, {"name": name, "created": at} | fields, at)

    def delete_greeting(self, row: str) -> None:
        self._change("greeting", row, "deleted", None, None)

    def order(
        self, account: str, product: str = "Premium", *, kind: str = "PLAN", status: int = 1
    ) -> str:
        """Purchase (status 1) or cancel (0) a product; return the id that Pollwire gives it."""
        with self._lock:
            parts = ("PURCHASE", kind, product)
            identity = "order:" + "/".join(quote(part, safe="") for part in parts)
            orders = self._accounts[account].orders
            known = identity in orders
            orders[identity] = {
                "orderType": "PURCHASE",
                "productType": kind,
                "productName": product,
                "status": status,
            }
            self._record("ecommerce", "updated" if known else "created", identity, None, account)
            return identity

    def change_settings(self, account: str, **fields: Any) -> None:
        with self._lock:
            self._accounts[account].settings |= fields
            self._record("settings", "updated", "settings", None, account)

    def change_profile(self, account: str, **fields: Any) -> None:
        with self._lock:
            self._accounts[account].profile |= fields
            self._record("account", "updated", "account", None, account)

    def change_entitlements(self, account: str, names: Sequence[str]) -> None:
        with self._lock:
            self._accounts[account].profile["entitlements"] = list(names)
            self._record("entitlement", "updated", "account", None, account)

    # What goes wrong, on demand.

    def configure(self, **knobs: Any) -> None:
        """Set some of the constructor's arguments anew."""
        with self._lock:
            for name, value in knobs.items():
                if name not in KNOBS:
                    raise ValueError(f"{name} is none of {', '.join(KNOBS)}")
                setattr(self, name, value)

    def set_stamp(self, account: str, stream: str, value: int) -> None:
        """Make the composite answer say *value* for a stream, lower than before or not."""
        with self._lock:
            self._accounts[account].stamps[stream] = value

    def vanish(self, account: str) -> None:
        """Let the poll host forget an account: 404 until its next change."""
        with self._lock:
            self._accounts[account].known = False

    def expire_tokens(self) -> None:
        with self._lock:
            self._tokens.clear()

    def fail_next(self, path_prefix: str, kind: str, times: int = 1) -> None:
        """
        Let the next requests under a path fail.

        Args:
            kind: A status (``"304"``, ``"403"``, ``"429"``, ``"503"``), or an answer with status
                200: ``html``, ``empty``, ``truncated`` (half of it, and no sign of that),
                ``error`` (an error body).
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
        parts = [unquote(part) for part in path.strip("/").split("/")]
        with self._lock:
            try:
                status, more, content = self._faulty(path, parts, query, headers)
            except (KeyError, ValueError):
                status, more, content = _error(400, "Unknown")
        found = {"date": http_date(int(self.clock())), **more}
        found.setdefault("content-type", "application/json")
        return status, found, content

    def _faulty(
        self, path: str, parts: list[str], query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Answer:
        kind = self._faults.take(path)
        if not kind:
            return self._route(parts, query, headers)
        if kind.isdecimal():
            more = {"retry-after": "7"} if kind == "429" else {}
            return int(kind), more, b""
        if kind == "truncated":
            status, more, content = self._route(parts, query, headers)
            return status, more, content[: len(content) // 2]
        if kind == "error":
            return _error(200, "ServiceUnavailable")
        content = {"html": b"<html><body>Sign in</body></html>", "empty": b""}[kind]
        return 200, {"content-type": "text/html"}, content

    def _route(
        self, parts: list[str], query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Answer:
        if parts[:2] == ["vm", "poll"]:
            self.requests["poll"] += 1
            return self._poll(parts[2:], headers)
        if parts[:2] != ["api", "v4"]:
            return _error(404, "Unknown")
        if "application/json" not in headers.get("accept", ""):
            return 200, {"content-type": "application/xml"}, b"<response/>"
        if parts[2:] == ["authenticate"]:
            self.requests["authenticate"] += 1
            return self._authenticate(headers)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        account, ends = self._tokens.get(token, ("", 0.0))
        if scheme != "YouMail" or ends <= self.clock():
            return _error(403, "InvalidAuthToken")
        return self._look_up(account, parts[2:], query)

    def _poll(self, parts: list[str], headers: Mapping[str, str]) -> Answer:
        account = self._accounts.get(parts[-1])
        if len(parts) != 2 or parts[0] != parts[1][-1:] or not account or not account.known:
            return 404, {}, b""
        stamps = [*account.stamps.values(), *[0] * self.fields][: self.fields]
        content = (",".join(map(str, stamps)) + "\n").encode()
        if not self.validators:
            return 200, {"content-type": "text/plain"}, content
        newest_s = max(stamps) // 1000
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        validators = {"etag": etag, "last-modified": http_date(newest_s)}
        fresh = headers.get("if-none-match") == etag
        if "if-none-match" not in headers and "if-modified-since" in headers:
            fresh = newest_s <= parsedate_to_datetime(headers["if-modified-since"]).timestamp()
        if fresh:
            return 304, validators, b""
        return 200, {"content-type": "text/plain", **validators}, content

    def _authenticate(self, headers: Mapping[str, str]) -> Answer:
        user, password = headers.get("youmail-user"), headers.get("youmail-password")
        for id_, account in self._accounts.items():
            if user in (account.username, account.phone) and password == account.password:
                token = f"{self.token_name(id_)}-{next(self._ids)}"
                self._tokens[token] = (id_, self.clock() + self.token_s)
                return _json({"authToken": token})
        return _error(403, "InvalidUser")

    def _look_up(self, owner: str, parts: list[str], query: Mapping[str, str]) -> Answer:
        account = self._accounts[owner]
        match parts:
            case ["messagebox", "entry", "query"]:
                return self._list("entry", "entries", account, query, self._wants_entry(query))
            case ["messagebox", "entry", "history", "query"]:
                since, until = int(query.get("startDate", 0)), int(query.get("endDate", 10**18))
                return self._list(
                    "history",
                    "histories",
                    account,
                    query,
                    lambda version, row: since <= row["created"] <= until,
                )
            case ["contacts", "query"]:
                since = int(query.get("updatedFrom", 0))
                hide = query.get("deleteType") != "0"
                return self._list(
                    "contact",
                    "contacts",
                    account,
                    query,
                    lambda version, row: version.at_ms >= since and not (hide and row["deleted"]),
                )
            case ["greetings", "query"]:
                self.requests["greeting"] += 1
                return _json({"greetings": [row for _, row in self._visible(account, "greeting")]})
            case ["accounts", "phone", phone] if phone == account.phone:
                self.requests["account"] += 1
                return _json({"account": account.profile})
            case ["settings"]:
                self.requests["settings"] += 1
                return _json({"settings": account.settings})
            case ["status", "accountStatus", "ecommerceStatus"]:
                self.requests["ecommerce"] += 1
                orders = list(account.orders.values())
                status = {"orders": orders, "trials": [], "recommendations": []}
                return _json({"ecommerceStatus": status})
        return _error(404, "Unknown")

    def _wants_entry(
        self, query: Mapping[str, str]
    ) -> Callable[[_Version, Mapping[str, Any]], bool]:
        since, until = int(query.get("updatedFrom", 0)), int(query.get("updatedUntil", 10**18))
        folder = int(query.get("folderId", INBOX))
        # 0 all, 1 what is not in the trash, 2 what is.
        in_trash = {"0": (True, False), "1": (False,), "2": (True,)}[query.get("deleteType", "1")]
        return lambda version, row: (
            since <= version.at_ms <= until
            and folder in (-1, row["folderId"])
            and (row["folderId"] == TRASH) in in_trash
        )

    def _list(
        self,
        stream: str,
        root: str,
        account: _Account,
        query: Mapping[str, str],
        wanted: Callable[[_Version, Mapping[str, Any]], bool],
    ) -> Answer:
        self.requests[stream] += 1
        found = [(v, row) for v, row in self._visible(account, stream) if wanted(v, row)]
        found.sort(
            key=lambda pair: (pair[1]["created"], pair[1]["id"]),
            reverse=query.get("sortBy", "-created") != "created",
        )
        number, length = int(query.get("pageNumber", 1)), int(query.get("pageLength", 20))
        names = set((query.get("includeList") or query.get("fields") or "").split(",")) - {""}
        if self.paging != "pages":
            number, length = 1, len(found) if self.paging == "none" else length
        page = []
        for version, row in found[(number - 1) * length : number * length]:
            row[self.created_name] = row.pop("created")
            if self.show_updated:
                row["updated"] = version.at_ms
            page.append({name: row[name] for name in row if not names or name in names})
        answer = _json({root: page})
        if self.on_page:
            self.on_page(stream, number)
        return answer

    # How it is kept.

    def _visible(self, account: _Account, stream: str) -> list[tuple[_Version, dict[str, Any]]]:
        now_ms = self._now_ms()
        rows = []
        for id_, versions in account.rows[stream].items():
            shown = [version for version in versions if version.visible_ms <= now_ms]
            if shown and shown[-1].fields is not None:
                rows.append((shown[-1], {"id": int(id_), **shown[-1].fields}))
        return rows

    def _add(
        self,
        stream: str,
        account: str,
        fields: dict[str, Any],
        at_ms: int,
        visible_ms: int | None = None,
    ) -> str:
        identity = str(fields.pop("id", None) or next(self._ids))
        visible = at_ms + self.lag_ms if visible_ms is None else visible_ms
        rows = self._accounts[account].rows[stream]
        rows[identity] = [_Version(at_ms, visible, fields)]
        self._home[identity] = account
        self._record(stream, "created", identity, at_ms, account)
        return identity

    def _change(
        self, stream: str, row: str, kind: str, at_ms: int | None, fields: dict[str, Any] | None
    ) -> None:
        with self._lock:
            at = self._at(at_ms)
            was = self._latest(stream, row)
            now = None if fields is None else (was.fields or {}) | fields
            visible = max(was.visible_ms, at + self.lag_ms)
            account = self._home[row]
            self._accounts[account].rows[stream][row].append(_Version(at, visible, now))
            self._record(stream, kind, row, at, account)

    def _latest(self, stream: str, row: str) -> _Version:
        return self._accounts[self._home[row]].rows[stream][row][-1]

    def _record(self, stream: str, kind: str, row: str, at_ms: int | None, account: str) -> None:
        at = self._at(at_ms)
        self._accounts[account].known = True
        stamps = self._accounts[account].stamps
        stamps[stream] = max(stamps[stream], at)
        if kind:
            self.journal.append(Change(stream, kind, row, at, account))

    def _at(self, at_ms: int | None) -> int:
        return self._now_ms() if at_ms is None else at_ms

    def _now_ms(self) -> int:
        return int(self.clock() * 1000)


def _json(answer: object) -> Answer:
    return 200, {}, json.dumps(answer).encode()


def _error(status: int, code: str) -> Answer:
    errors = [{"errorCode": code, "shortMessage": code, "longMessage": code}]
    response = {"statusCode": status, "shortMessage": code, "errors": errors}
    if status == 200:
        response["statusCode"] = 503
    return status, {}, json.dumps({"response": response}).encode()
