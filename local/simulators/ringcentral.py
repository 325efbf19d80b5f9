"""
A simulated RingCentral: tokens, message-sync and presence of some extensions, with their traps.

An account here is an extension, as it is for Pollwire. A message is kept as it is now and with the
time of its last change; what is left of a deleted one is its id. The id of a call is what Pollwire
makes of it: telephony session (or session), colon, party (or the call's own id).
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, unquote

from local.simulators import Answer, Change, Faults, http_date

KNOBS = (
    "token_s",
    "sessions",
    "auth_per_minute",
    "light_per_minute",
    "penalty_s",
    "says_retry_after",
    "rate_prefix",
    "zone",
    "voicemail",
    "whole_seconds",
    "ended_s",
)

WINDOW_S = 60
OVERLAP_MS = 5_000
CALLS_MAX = 7
#: Extensions of these kinds have no calls, and hardly any presence.
NO_PERSON = ("Department", "Announcement", "Voicemail", "FaxUser", "PagingOnly", "IvrMenu")
MESSAGES = {400: "Bad request", 401: "Unauthorized", 403: "Forbidden", 404: "Not found"}
STATUSES = ("Ringing", "CallConnected", "OnHold", "ParkedCall")


@dataclass
class _Message:
    fields: dict[str, Any]
    created_ms: int
    modified_ms: int
    availability: str = "Alive"


@dataclass
class _Call:
    fields: dict[str, Any]
    ended_ms: int | None = None
    told: bool = False  # Its end is in the journal.
    lost: bool = False


@dataclass
class _Account:
    owner: str
    secrets: tuple[str, str, str]
    kind: str
    presence: dict[str, Any]
    messages: dict[str, _Message] = field(default_factory=dict)
    calls: dict[str, _Call] = field(default_factory=dict)
    tokens: list[tuple[str, float]] = field(default_factory=list)
    forbidden: dict[str, str] = field(default_factory=dict)


@dataclass
class _Sync:
    account: str
    at_ms: int
    from_ms: int
    to_ms: int | None
    error: str = ""


@dataclass
class _Budget:
    began_s: float = 0.0
    used: int = 0
    blocked_until_s: float = 0.0


class RingCentral:
    """
    The simulated provider.

    Args:
        clock: Seconds since the epoch.

        token_s: How long an access token lives.

        sessions: How many tokens of a user live at once; one more ends the oldest.

        auth_per_minute: Tokens a user may ask for in a minute.

        light_per_minute: Requests a user may make in a minute.

        penalty_s: How long a user waits who asked for more; asking meanwhile starts it again.

        says_retry_after: A 429 carries ``Retry-After``.

        rate_prefix: ``X-Rate-Limit``, or ``X-RateLimit`` as on another page.

        zone: How times end: ``Z`` or ``+0000``.

        voicemail: How voicemail is spelled.

        whole_seconds: Dates that are asked for are cut to the second.

        ended_s: How long a call that has ended is still listed.

        on_page: Called with the number of records when a sync has been answered, so that something
            can happen between two pages.

        token_name: Says what the tokens of an account begin with.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        token_s: float = 3600,
        sessions: int = 5,
        auth_per_minute: int = 5,
        light_per_minute: int = 50,
        penalty_s: int = 60,
        says_retry_after: bool = True,
        rate_prefix: str = "X-Rate-Limit",
        zone: str = "Z",
        voicemail: str = "VoiceMail",
        whole_seconds: bool = True,
        ended_s: float = 15,
        on_page: Callable[[int], None] | None = None,
        token_name: Callable[[str], str] = lambda account: "access",
    ) -> None:
        self.clock = clock
        self.token_s = token_s
        self.sessions = sessions
        self.auth_per_minute = auth_per_minute
        self.light_per_minute = light_per_minute
        self.penalty_s = penalty_s
        self.says_retry_after = says_retry_after
        self.rate_prefix = rate_prefix
        self.zone = zone
        self.voicemail = voicemail
        self.whole_seconds = whole_seconds
        self.ended_s = ended_s
        self.on_page = on_page
        self.token_name = token_name
        self.journal: list[Change] = []
        self.requests: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._accounts: dict[str, _Account] = {}
        self._home: dict[str, str] = {}  # Account by the id of a message or a call.
        self._syncs: dict[str, _Sync] = {}
        self._budgets: dict[tuple[str, str], _Budget] = {}
        self._faults = Faults()
        self._ids = count(9007199254740993)  # 2**53 + 1: no float can hold it.

    # What an operator of the simulation does.

    def add_account(
        self,
        account: str,
        client_id: str,
        client_secret: str,
        jwt: str,
        *,
        owner: str = "133128004",
        kind: str = "User",
    ) -> None:
        """Add an extension of RingCentral's account *owner*; a credential may have several."""
        presence = {
            "presenceStatus": "Available",
            "userStatus": "Available",
            "dndStatus": "DoNotAcceptDepartmentCalls",
            "allowSeeMyPresence": True,
            "ringOnMonitoredCall": False,
            "pickUpCallsOnHold": False,
        }
        with self._lock:
            secrets = (client_id, client_secret, jwt)
            self._accounts[account] = _Account(owner, secrets, kind, presence)

    def leave_voicemail(self, account: str, *, at_ms: int | None = None, **fields: Any) -> str:
        """Leave a voicemail; return its id."""
        voicemail = {
            "type": self.voicemail,
            "direction": "Inbound",
            "readStatus": "Unread",
            "messageStatus": "Received",
            "from": {"phoneNumber": "+14158905908", "name": "Bob"},
            "to": [{"phoneNumber": "+16505819987"}],
            "attachments": [{"id": next(self._ids), "type": "AudioRecording", "vmDuration": 12}],
            "vmTranscriptionStatus": "NotAvailable",
        }
        return self._add(account, voicemail | fields, at_ms)

    def receive_sms(
        self, account: str, text: str = "Hello", *, at_ms: int | None = None, **fields: Any
    ) -> str:
        return self._add(account, self._sms("Inbound", "Received", text) | fields, at_ms)

    def send_sms(
        self, account: str, text: str = "Hello", *, at_ms: int | None = None, **fields: Any
    ) -> str:
        """Send a message; it is queued until :meth:`change_message` says something else."""
        return self._add(account, self._sms("Outbound", "Queued", text) | fields, at_ms)

    def receive_fax(self, account: str, *, at_ms: int | None = None, **fields: Any) -> str:
        fax = {
            "type": "Fax",
            "direction": "Inbound",
            "readStatus": "Unread",
            "messageStatus": "Received",
            "from": {"phoneNumber": "+14158905908"},
            "to": [{"phoneNumber": "+16505819987"}],
            "faxPageCount": 2,
        }
        return self._add(account, fax | fields, at_ms)

    def change_message(self, message: str, *, at_ms: int | None = None, **fields: Any) -> None:
        """Change a message, as when it was delivered or its transcript is ready."""
        self._change(message, "updated", at_ms, **fields)

    def mark_read(self, message: str, *, at_ms: int | None = None) -> None:
        self._change(message, "updated", at_ms, readStatus="Read")

    def delete(self, message: str, *, at_ms: int | None = None) -> None:
        """Delete a message: it can be restored."""
        self._change(message, "deleted", at_ms, "Deleted")

    def purge(self, message: str, *, at_ms: int | None = None) -> None:
        """Remove a message for good."""
        kind = "" if self._message(message).availability == "Deleted" else "deleted"
        self._change(message, kind, at_ms, "Purged")

    def restore(self, message: str, *, at_ms: int | None = None) -> None:
        self._change(message, "created", at_ms, "Alive")

    def forget(self, message: str) -> None:
        """Let a message be gone without a trace, as when its time is over."""
        with self._lock:
            account = self._home[message]
            del self._accounts[account].messages[message]
            self._record("message-store", "deleted", message, account, self._now_ms())

    def ring(
        self,
        account: str,
        caller: str = "+14158905908",
        called: str = "+16505819987",
        *,
        direction: str = "Inbound",
        **fields: Any,
    ) -> str:
        """Let an extension ring; return the call's id. A field that is ``None`` is left out."""
        with self._lock:
            number = next(self._ids)
            call = {
                "id": f"{number:032x}",
                "direction": direction,
                "from": caller,
                "to": called,
                "telephonyStatus": "Ringing",
                "sessionId": str(number),
                "telephonySessionId": f"s-{number:x}",
                "partyId": f"p-{number:x}-1",
                **fields,
            }
            call = {name: value for name, value in call.items() if value is not None}
            session = call.get("telephonySessionId") or call.get("sessionId")
            identity = f"{session}:{call.get('partyId') or call.get('id')}"
            self._accounts[account].calls[identity] = _Call(call)
            self._home[identity] = account
            self._record("presence", "created", identity, account, self._now_ms())
            return identity

    def answer(self, call: str) -> None:
        self._move(call, "CallConnected")

    def hold(self, call: str) -> None:
        self._move(call, "OnHold")

    def park(self, call: str) -> None:
        self._move(call, "ParkedCall")

    def hang_up(self, call: str, termination: str | None = "final") -> None:
        """
        End a call.

        Args:
            termination: ``final``; ``intermediate`` for one that goes on elsewhere; ``None`` for
                one of which it is not said.
        """
        with self._lock:
            is_over = termination != "intermediate"
            kind = "updated" if not is_over else "" if self._call(call).told else "deleted"
            self._move(call, "NoCall", kind)
            found = self._call(call)
            found.told = found.told or is_over
            found.ended_ms = self._now_ms() if is_over else None
            if termination is not None:
                found.fields["terminationType"] = termination

    def vanish(self, call: str) -> None:
        """Let a call be listed no more, without a word about its end."""
        with self._lock:
            found = self._call(call)
            found.lost = True
            if not found.told:
                found.told = True
                self._record("presence", "deleted", call, self._home[call], self._now_ms())

    def set_presence(self, account: str, **fields: Any) -> None:
        """Change what a user says of himself, as ``dndStatus``."""
        with self._lock:
            self._accounts[account].presence |= fields
            self._record("presence", "updated", "presence", account, self._now_ms())

    # What goes wrong, on demand.

    def configure(self, **knobs: Any) -> None:
        """Set some of the constructor's arguments anew."""
        with self._lock:
            for name, value in knobs.items():
                if name not in KNOBS:
                    raise ValueError(f"{name} is none of {', '.join(KNOBS)}")
                setattr(self, name, value)

    def expire_tokens(self) -> None:
        """End every access token."""
        with self._lock:
            for account in self._accounts.values():
                account.tokens.clear()

    def expire_syncs(self, code: str = "MSG-333") -> None:
        """Let every sync token be refused, with ``MSG-333`` or ``CMN-101``."""
        with self._lock:
            for sync in self._syncs.values():
                sync.error = code

    def forbid(self, account: str, path: str, code: str = "CMN-408") -> None:
        """Take the permission for ``message-sync`` or ``presence`` away; empty gives it back."""
        with self._lock:
            self._accounts[account].forbidden[path] = code

    def fail_next(self, path_part: str, kind: str, times: int = 1) -> None:
        """
        Let the next requests fail whose path holds some text.

        Args:
            kind: A status (``"400"``, ``"429"``, ``"503"``), or an answer with status 200:
                ``html``, ``empty``, ``truncated``.
        """
        with self._lock:
            self._faults.add(path_part, kind, times)

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
            try:
                status, more, content = self._faulty(method, path, query, headers, body)
            except (KeyError, ValueError):
                status, more, content = _error(400, "CMN-101")
        found = {"date": http_date(int(self.clock())), **more}
        found.setdefault("content-type", "application/json;charset=utf-8")
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
        if not kind:
            return self._route(method, path, query, headers, body)
        if kind.isdecimal():
            more = {"retry-after": "7"} if kind in ("429", "503") else {}
            return int(kind), more, b'{"errorCode": "CMN-211"}'
        if kind == "truncated":
            status, more, content = self._route(method, path, query, headers, body)
            return status, more, content[: len(content) // 2]
        content = {"html": b"<html><body>Sign in</body></html>", "empty": b""}[kind]
        return 200, {"content-type": "text/html"}, content

    def _route(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if (method, parts) == ("POST", ["restapi", "oauth", "token"]):
            self.requests["token"] += 1
            return self._authenticate(headers, body)
        match parts:
            case ["restapi", "v1.0", "account", owner, "extension", extension, name]:
                self.requests[name] += 1
                return self._look_up(method, owner, extension, name, query, headers)
        return _error(404, "CMN-102")

    def _authenticate(self, headers: Mapping[str, str], body: bytes) -> Answer:
        form = dict(parse_qsl(body.decode()))
        scheme, _, basic = headers.get("authorization", "").partition(" ")
        client, _, secret = base64.b64decode(basic).decode().partition(":")
        if scheme != "Basic" or form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return _error(400, "unsupported_grant_type")
        given = (client, secret, form["assertion"])
        found = next((one for one in self._accounts.items() if one[1].secrets == given), None)
        if found is None:
            clients = {account.secrets[:2] for account in self._accounts.values()}
            known = (client, secret) in clients
            return _error(400, "invalid_grant") if known else _error(401, "invalid_client")
        id_, account = found
        refusal, more = self._spend(id_, "auth", self.auth_per_minute)
        if refusal:
            return refusal
        token = f"{self.token_name(id_)}-{next(self._ids)}"
        account.tokens.append((token, self.clock() + self.token_s))
        del account.tokens[: -self.sessions]
        answer = {"access_token": token, "token_type": "bearer", "expires_in": int(self.token_s)}
        return 200, more, json.dumps({**answer, "owner_id": id_}).encode()

    def _look_up(
        self,
        method: str,
        owner: str,
        extension: str,
        name: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> Answer:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        now_s = self.clock()
        id_ = next(
            (
                id_
                for id_, account in self._accounts.items()
                if any(one == token and ends > now_s for one, ends in account.tokens)
            ),
            None,
        )
        if id_ is None:
            return _error(401, "TokenInvalid")
        account = self._accounts[id_]
        refusal, more = self._spend(id_, "light", self.light_per_minute)
        if refusal:
            return refusal
        id_ = id_ if extension == "~" else extension
        # A user reads the other extensions that were added under its own credential, too.
        own = id_ in self._accounts and self._accounts[id_].secrets == account.secrets
        if owner not in ("~", account.owner) or not own:
            return _error(403, "CMN-408")
        account = self._accounts[id_]
        if account.forbidden.get(name):
            return _error(403, account.forbidden[name])
        if method != "GET" or name not in ("message-sync", "presence"):
            return _error(404, "CMN-102")
        answer = self._presence(id_, query) if name == "presence" else self._sync(id_, query)
        return (200, more, json.dumps(answer).encode()) if isinstance(answer, dict) else answer

    def _spend(self, account: str, group: str, limit: int) -> tuple[Answer | None, dict[str, str]]:
        """Take one request off a budget; return the refusal, if it is one, and the headers."""
        now_s = self.clock()
        budget = self._budgets.setdefault((account, group), _Budget())
        if now_s - budget.began_s >= WINDOW_S:
            budget.began_s, budget.used = now_s, 0
        budget.used += 1
        if budget.used > limit or budget.blocked_until_s > now_s:
            budget.blocked_until_s = now_s + self.penalty_s
            self.requests["refused"] += 1
            status, more, content = _error(429, "CMN-301")
            if self.says_retry_after:
                more["retry-after"] = str(self.penalty_s)
            return (status, more, content), {}
        said = {"Group": group, "Limit": limit, "Remaining": limit - budget.used}
        headers = {f"{self.rate_prefix}-{name}": str(value) for name, value in said.items()}
        return None, {**headers, f"{self.rate_prefix}-Window": str(WINDOW_S)}

    def _sync(self, id_: str, query: Mapping[str, str]) -> dict[str, Any] | Answer:
        messages = self._accounts[id_].messages
        if query["syncType"] == "ISync":
            sync = self._syncs.get(query.get("syncToken", ""))
            if sync is None or sync.account != id_:
                return _error(400, "CMN-101", "syncToken")
            if sync.error:
                return _error(400, sync.error, "syncToken" if sync.error == "CMN-101" else "")
            from_ms, to_ms, older = sync.from_ms, sync.to_ms, None
            found = [
                (one, message)
                for one, message in messages.items()
                if message.modified_ms >= sync.at_ms - OVERLAP_MS
                and from_ms <= message.created_ms <= (to_ms or 10**18)
            ]
        else:
            to_ms = self._date(query["dateTo"]) if "dateTo" in query else None
            day_ms = 86_400_000
            from_ms = (to_ms or self._now_ms()) - day_ms
            from_ms = self._date(query["dateFrom"]) if "dateFrom" in query else from_ms
            found = [
                (one, message)
                for one, message in messages.items()
                if message.availability == "Alive"
                and from_ms <= message.created_ms <= (to_ms or 10**18)
            ]
            found.sort(key=lambda pair: (pair[1].created_ms, int(pair[0])), reverse=True)
            most = int(query.get("recordCount", 250))
            older, found = len(found) > most, found[:most]
        token = f"sync{next(self._ids)}"
        self._syncs[token] = _Sync(id_, self._now_ms(), from_ms, to_ms)
        info: dict[str, Any] = {"syncType": query["syncType"], "syncToken": token}
        info["syncTime"] = self._iso(self._now_ms())
        if older is not None:
            info["olderRecordsExist"] = older
        records = [self._message_row(id_, one, message) for one, message in found]
        if self.on_page:
            self.on_page(len(records))
        return {"uri": "https://platform.sim/message-sync", "records": records, "syncInfo": info}

    def _message_row(self, account: str, id_: str, message: _Message) -> dict[str, Any]:
        if message.availability != "Alive":
            return {"id": int(id_), "availability": message.availability}
        return {
            "id": int(id_),
            "uri": f"https://platform.sim/message-store/{id_}",
            "extensionId": account,
            "availability": message.availability,
            "creationTime": self._iso(message.created_ms),
            "lastModifiedTime": self._iso(message.modified_ms),
            **message.fields,
        }

    def _presence(self, id_: str, query: Mapping[str, str]) -> dict[str, Any]:
        account = self._accounts[id_]
        uri = f"https://platform.sim/restapi/v1.0/account/{account.owner}/extension/{id_}"
        head = {
            "uri": f"{uri}/presence",
            "extension": {"id": int(id_), "uri": uri, "extensionNumber": "101"},
        }
        if account.kind in NO_PERSON:
            return {**head, "presenceStatus": "Offline", "allowSeeMyPresence": True}
        now_ms = self._now_ms()
        calls = [
            call.fields
            for call in account.calls.values()
            if not call.lost
            and (call.ended_ms is None or now_ms - call.ended_ms < self.ended_s * 1000)
        ]
        alive = {call["telephonyStatus"] for call in calls}
        status = next((name for name in STATUSES if name in alive), "NoCall")
        answer = {**head, "telephonyStatus": status, **account.presence}
        if alive & {"CallConnected", "OnHold"}:
            answer["presenceStatus"] = "Busy"
        if query.get("detailedTelephonyState") == "true":
            answer["activeCalls"] = calls[-CALLS_MAX:]
        return answer

    # How it is kept.

    def _sms(self, direction: str, status: str, text: str) -> dict[str, Any]:
        ends = [{"phoneNumber": "+14158905908"}, {"phoneNumber": "+16505819987"}]
        sender, receiver = ends if direction == "Inbound" else reversed(ends)
        return {
            "type": "SMS",
            "direction": direction,
            "readStatus": "Unread" if direction == "Inbound" else "Read",
            "messageStatus": status,
            "from": sender,
            "to": [receiver],
            "subject": text,
            "conversationId": 8031152018338945839,
            "conversation": {"id": "8031152018338945839"},
        }

    def _add(self, account: str, fields: dict[str, Any], at_ms: int | None) -> str:
        with self._lock:
            identity = str(next(self._ids))
            at = self._now_ms() if at_ms is None else at_ms
            self._accounts[account].messages[identity] = _Message(fields, at, at)
            self._home[identity] = account
            self._record("message-store", "created", identity, account, at)
            return identity

    def _change(
        self,
        message: str,
        kind: str,
        at_ms: int | None,
        availability: str = "Alive",
        **fields: Any,
    ) -> None:
        with self._lock:
            found = self._message(message)
            found.modified_ms = self._now_ms() if at_ms is None else at_ms
            found.availability = availability
            found.fields = found.fields | fields
            if kind:
                home = self._home[message]
                self._record("message-store", kind, message, home, found.modified_ms)

    def _move(self, call: str, status: str, kind: str = "updated") -> None:
        with self._lock:
            found = self._call(call)
            found.fields = found.fields | {"telephonyStatus": status}
            found.fields.pop("terminationType", None)
            if kind:
                self._record("presence", kind, call, self._home[call], self._now_ms())

    def _message(self, message: str) -> _Message:
        return self._accounts[self._home[message]].messages[message]

    def _call(self, call: str) -> _Call:
        return self._accounts[self._home[call]].calls[call]

    def _record(self, stream: str, kind: str, id_: str, account: str, at_ms: int) -> None:
        self.journal.append(Change(stream, kind, id_, at_ms, account))

    def _date(self, value: str) -> int:
        at_ms = int(datetime.fromisoformat(value).timestamp() * 1000)
        return at_ms // 1000 * 1000 if self.whole_seconds else at_ms

    def _iso(self, at_ms: int) -> str:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
        return at.isoformat(timespec="milliseconds").replace("+00:00", self.zone)

    def _now_ms(self) -> int:
        return round(self.clock() * 1000)


def _error(status: int, code: str, parameter: str = "") -> Answer:
    message = f"Parameter [{parameter}] value is invalid" if parameter else MESSAGES.get(status, "")
    error = {"errorCode": code, "message": message}
    if parameter:
        error["parameterName"] = parameter
    return status, {}, json.dumps({**error, "errors": [error]}).encode()
