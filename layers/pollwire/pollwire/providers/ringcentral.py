"""
RingCentral: the messages and the calls of one extension. ``account.id`` is the extension's id.

    POST {api}/restapi/oauth/token    Basic client, a JWT -> access_token; shared by all workers
    GET  {api}/restapi/v1.0/account/{accountId}/extension/{id}/...
        message-sync    syncType=FSync -> records[], syncInfo{syncToken, olderRecordsExist}
                        syncType=ISync -> what changed since the token; id + availability if deleted
        presence        detailedTelephonyState=true -> the user's state and the latest seven calls

A check asks for both, with a sync token of its own, and stores

    {"message-store": mark, "presence": mark, "sync": token, "known": [what the overlap repeats]}

Notifications (``Verification-Token: <secret>``) say in ``event`` whose extension changed; when a
subscription is made, the answer has to repeat its ``Validation-Token``.

A sync token stands for its filters too, dates among them: every full sync begins in the far past,
and the token kept is that of its first page, whose frame is open to the future.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pollwire.errors import Malformed, Misconfigured, Rejected, Restart
from pollwire.exchange import OK, Fetch, Notification, Pushed, Request, Response
from pollwire.model import NOTHING, Account, Checking, Page, Row, Seen, Start, Stream
from pollwire.providers import (
    INSTANT_MS_MAX,
    canonical,
    canonical_id,
    fits_header,
    instant_ms,
    is_same,
    iso,
    iso_ms,
    rows_of,
    setting,
)

#: Presence as notifications have it, but for the calls and what is said of them.
CONTEXT: Final = (
    *("presenceStatus", "userStatus", "dndStatus"),
    *("allowSeeMyPresence", "ringOnMonitoredCall", "pickUpCallsOnHold"),
)

#: What follows from the calls, or says nothing of the user: no part of the user's own state.
NO_STATE: Final = {
    *("uri", "extension", "activeCalls", "totalActiveCalls", "sequence", "presenceStatus"),
    *("telephonyStatus", "aggregatedTelephonyStatus", "cxTelephonyStatus"),
}

STREAMS: Final = {
    "message-store": Stream(overlap_s=10, path="message-store", reconcile_s=86_400),
    "presence": Stream(
        overlap_s=10,
        cache_s=3,
        snapshot=True,
        guarded=False,  # Many calls may end between two looks.
        path="presence?detailedTelephonyState=true",
        flat=True,
        # Every call's event carries them; the user's own state has its own row, under ``state``.
        volatile=frozenset({"telephonyStatus", *CONTEXT}),
    ),
}

JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
#: The user may not read this one thing: other streams of the extension may do well.
PERMISSION: Final = ("CMN-401", "CMN-404", "CMN-408")

#: The default is a day by one document and a week by another.
DATE_FROM: Final = "2000-01-01T00:00:00.000Z"

#: What others ask for; the most that is allowed is not documented.
RECORDS: Final = 250

#: When a token is lost, messages created this long before the cursor are listed again: a full sync
#: goes by creation, so that a change shows under it only.
RESYNC_MS: Final = 30 * 86_400_000

#: The server repeats 5 s of changes; so many of them are known again.
KNOWN_MAX: Final = 16

#: Of more calls than these the latest are listed: one that is not listed may go on.
CALLS_MAX: Final = 7

#: Of a token that is stored, sealed or not.
TOKEN_CHARS_MAX: Final = 3_500

TYPES: Final = {name.lower(): name for name in ("VoiceMail", "SMS", "Fax", "Pager")}
DIRECTIONS: Final = {name.lower(): name for name in ("Inbound", "Outbound")}

#: Who is at an end of a message, and the ids that are said of it.
ENDS: Final = ("from", "to", "owner")
END_IDS: Final = ("extensionId", "recipientId", "id")

_OWN_ID: Final = re.compile(r"~|[0-9]{1,20}")
_MARK: Final = re.compile(r"([0-9]{1,15})-[0-9a-f]{16}")

#: Of an event's path, the extension; and what a header may be that is sent back.
_EVENT: Final = re.compile(r"/restapi/v1\.0/account/[^/]{1,20}/extension/(~|[0-9]{1,20})/.{1,200}")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,200}")
HASH_CHARS: Final = 16

Asking = Generator[Request, Response, Response]


class RingCentral:
    name = "ringcentral"
    hosts: Mapping[str, str] = MappingProxyType({"api": "https://platform.ringcentral.com"})
    streams: Mapping[str, Stream] = MappingProxyType(STREAMS)
    credential_fields: tuple[str, ...] = ("client_id", "client_secret", "jwt")
    check_needs_credential = True
    fastest_s = 3
    shares_rate = False

    def check(self, account: Account, seen: Seen) -> Checking:
        session = _Session(account)
        stored = _stored(seen.raw)
        messages = yield from _check_messages(session, stored)
        presence = yield from _check_presence(session)
        refused = [one for one in (messages["message-store"], presence) if _is_refused(one)]
        if len(refused) == len(STREAMS):
            raise Rejected("RingCentral refuses messages and presence: the user lacks permissions")
        raw = canonical({**messages, "presence": presence})
        return seen if raw == seen.raw else Seen(raw=raw)

    def marks(self, account: Account, raw: str) -> dict[str, str]:
        if not raw:
            return {}
        stored = _stored(raw)
        if not stored:
            raise Malformed("what is stored of RingCentral's answers cannot be read")
        # A stream without permission is left alone; it is asked for again at every check.
        return {name: stored[name] for name in STREAMS if not _is_refused(stored[name])}

    def delta(self, account: Account, stream: str, start: Start, fetch: Fetch) -> Iterator[Page]:
        session = _Session(account)
        if stream == "presence":
            if start.resume:
                raise Restart("presence: there is one page only")
            query = {"detailedTelephonyState": "true"}
            response = _fetched(session.get("presence", query), fetch)
            yield _presence(account, response)
            return
        place = _place(start)
        if place.to_ms is None and place.token:
            yield from _changed(session, place.token, fetch)
        else:
            yield from _listed(session, place, start.since_ms, fetch)

    def pushed(self, notification: Notification, secret: str, now_ms: int) -> Pushed:
        challenge = notification.headers.get("validation-token", "")
        sent = notification.headers.get("verification-token")
        if challenge and not _CHALLENGE.fullmatch(challenge):
            raise Malformed("Validation-Token: no token")
        answer = {"Validation-Token": challenge} if challenge else NOTHING
        if challenge and sent is None:
            # A subscription is being made: whoever asks learns what he said, and nothing else.
            return Pushed(headers=answer)
        if not is_same(sent or "", secret):
            raise Rejected("Verification-Token: not the one of this connection")
        if challenge and not notification.body:
            return Pushed(headers=answer)
        told = notification.json()
        return Pushed(_extensions(told), _said_ms(told), answer)


def _extensions(told: Mapping[str, Any]) -> tuple[str, ...]:
    """
    Name the extensions that a notification is about.

    Not ``ownerId``: that is who made the subscription, perhaps for everybody.
    """
    event = _EVENT.fullmatch(str(told.get("event")))
    found = [event[1]] if event else []
    body = told.get("body")
    with suppress(Malformed):
        if isinstance(body, dict):
            found.append(canonical_id(body.get("extensionId")))
    return tuple(dict.fromkeys(one for one in found if _OWN_ID.fullmatch(one)))


def _said_ms(told: Mapping[str, Any]) -> int | None:
    with suppress(Malformed):
        return iso_ms(told.get("timestamp"), "timestamp")
    return None


class _Session:
    """
    What one check or one delta asks; the token is renewed once at most.

    Attributes:
        account: Whose it is.
    """

    def __init__(self, account: Account) -> None:
        owner = account.settings.get("accountId") or "~"
        if not _OWN_ID.fullmatch(account.id):
            raise Misconfigured("account.id is not RingCentral's extension id (digits); correct it")
        if not _OWN_ID.fullmatch(owner):
            raise Misconfigured("settings.accountId is neither digits nor ~; correct it")
        self.account = account
        self._path = f"/restapi/v1.0/account/{owner}/extension/{account.id}/"
        self._renewed = False

    def get(
        self, path: str, query: Mapping[str, str] = NOTHING, expect: frozenset[int] = OK
    ) -> Asking:
        """
        Ask, and again with a new token if the one at hand is refused.

        Raises:
            Rejected: The new one is refused as well, or none is given.

            Unasked: Another worker is getting it.
        """
        token = self.account.token
        if token.renews():
            yield from self._renew()
        used = token.value
        response = yield self._request(path, query, expect)
        if response.status == 401 and not self._renewed:
            token.refuse(used)
            if token.renews():
                yield from self._renew()
            response = yield self._request(path, query, expect)
        if response.status == 401:
            raise Rejected("RingCentral refuses an access token it has just given")
        return response

    def _request(self, path: str, query: Mapping[str, str], expect: frozenset[int]) -> Request:
        return Request(
            f"{self.account.hosts['api']}{self._path}{path}",
            query=query,
            headers={
                "Authorization": f"Bearer {self.account.token.value}",
                "Accept": "application/json",
            },
            expect=expect | {401},
            secret=True,
        )

    def _renew(self) -> Generator[Request, Response, None]:
        self._renewed = True
        client, secret, jwt = (
            setting(self.account.credential, name, "credential")
            for name in ("client_id", "client_secret", "jwt")
        )
        basic = base64.b64encode(f"{client}:{secret}".encode()).decode()
        response = yield Request(
            f"{self.account.hosts['api']}/restapi/oauth/token",
            method="POST",
            headers={"Authorization": f"Basic {basic}", "Accept": "application/json"},
            form={"grant_type": JWT_GRANT, "assertion": jwt},
            expect=frozenset({200, 400, 401}),
            secret=True,
            budget="auth",
        )
        if response.status != 200:
            raise Rejected(f"RingCentral gives no token for the credential: {response.status}")
        answer = response.json()
        token, lasts_s = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token or not fits_header(token):
            raise Malformed("access_token is missing, or no header can carry it")
        if len(token) > TOKEN_CHARS_MAX:
            raise Malformed(f"access_token: {len(token)} characters")
        self.account.token.renew(token, lasts_s if type(lasts_s) is int else 0)


def _fetched(asking: Asking, fetch: Fetch) -> Response:
    try:
        request = next(asking)
        while True:
            request = asking.send(fetch(request))
    except StopIteration as stop:
        response: Response = stop.value
        return response


def _check_messages(
    session: _Session, stored: Mapping[str, Any]
) -> Generator[Request, Response, dict[str, Any]]:
    """Ask what changed since the stored token; return what to store."""
    expect = frozenset({200, 400, 403})
    before = {name: stored[name] for name in ("message-store", "known", "sync") if name in stored}
    token, response = before.get("sync", ""), None
    if token:
        query = {"syncType": "ISync", "syncToken": token}
        response = yield from session.get("message-sync", query, expect)
    is_lost = response is not None and response.status == 400
    if response is None or is_lost:
        # The newest one is enough to begin with; after a lost token, what the overlap may repeat.
        query = _full_query(RECORDS if is_lost else 1)
        response = yield from session.get("message-sync", query, expect - {400})
    if response.status == 403:
        return {"message-store": _refusal(response)}
    sync = _sync(response)
    found = {_hash(one): _instant(one, "lastModifiedTime") for one in sync.records}
    match = _MARK.fullmatch(before.get("message-store", ""))
    newest_ms = int(match[1]) if match else 0
    # After a lost token the mark moves in any case: nothing shows here of what was deleted
    # meanwhile, nor of what changed further down. The delta tells what is news.
    if token and not is_lost and not found.keys() - set(before.get("known", ())):
        return before
    # Not beyond the provider's clock: a time to come would hide all that follows.
    now_ms = (response.date_ms or INSTANT_MS_MAX) + 1000
    newest_ms = max([newest_ms, *(min(at_ms, now_ms) for at_ms in found.values())])
    # What cannot be dated (a deletion) may be repeated like the newest.
    recent = sorted((-(at_ms or newest_ms), one) for one, at_ms in found.items())
    known = sorted(one for _, one in recent[:KNOWN_MAX])
    mark = f"{newest_ms}-{_hash([sync.token, *sorted(found)])}"
    return {"message-store": mark, "known": known, "sync": sync.token}


def _check_presence(session: _Session) -> Generator[Request, Response, str]:
    query = {"detailedTelephonyState": "true"}
    response = yield from session.get("presence", query, frozenset({200, 403}))
    if response.status == 403:
        return _refusal(response)
    return _presence(session.account, response).mark


def _presence_mark(page: Page) -> str:
    volatile = STREAMS["presence"].volatile
    said = [
        [row.id, {name: row.body[name] for name in row.body.keys() - volatile}] for row in page.rows
    ]
    return _hash([said, sorted(bad.key for bad in page.bad), page.whole])


def _stored(raw: str) -> dict[str, Any]:
    """Read what a check stored; nothing if it cannot be read."""
    with suppress(ValueError):
        stored = json.loads(raw)
        if isinstance(stored, dict) and all(isinstance(stored.get(name), str) for name in STREAMS):
            return stored
    return {}


def _refusal(response: Response) -> str:
    with suppress(Malformed):
        body = response.json()
        errors = body.get("errors")
        said = [body, *(errors if isinstance(errors, list) else ())]
        codes = [one["errorCode"] for one in said if isinstance(one, dict) and one.get("errorCode")]
        if codes and codes[0] in PERMISSION:
            return f"403 {codes[0]}"
    raise Rejected("RingCentral refuses the account: 403")


def _is_refused(mark: str) -> bool:
    return mark.startswith("403 ")


def _hash(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:HASH_CHARS]


def _instant(record: object, name: str) -> int:
    """Read an instant of a record; 0 if there is none that can be read."""
    with suppress(Malformed):
        if isinstance(record, dict):
            return iso_ms(record.get(name), name)
    return 0


class _Sync(NamedTuple):
    """An answer of message-sync."""

    records: list[Any]
    token: str
    older: bool | None


class _Place(NamedTuple):
    """Where a list goes on: messages created until then, under the token of the first page."""

    token: str = ""
    to_ms: int | None = None


def _place(start: Start) -> _Place:
    if not start.resume:
        return _Place(start.cursor)
    with suppress(ValueError, TypeError, RecursionError, Malformed):
        place = _Place(*json.loads(start.resume))
        if place.to_ms is not None:
            instant_ms(place.to_ms, "to_ms")
        if place.token and isinstance(place.token, str):
            return place
    raise Restart("message-store: the place to go on from cannot be read")


def _changed(session: _Session, token: str, fetch: Fetch) -> Iterator[Page]:
    """
    List what changed since a token.

    Raises:
        Restart: The token is no longer valid.
    """
    told: dict[str, Row] = {}
    before: set[str] = set()
    more = True
    while more:
        query = {"syncType": "ISync", "syncToken": token}
        response = _fetched(session.get("message-sync", query, frozenset({200, 400})), fetch)
        if response.status == 400:
            # MSG-333, CMN-101 and others: nothing but the token is sent that could be wrong.
            raise Restart("message-store: RingCentral wants a full synchronization")
        sync = _sync(response)
        rows, bad = rows_of(sync.records, "records", partial(_message, session.account))
        rows = tuple(row if row.at_ms else _dated(row, told.get(row.id)) for row in rows)
        told |= {row.id: row for row in rows}
        found = {_hash(record) for record in sync.records}
        # There are no pages, but a full answer may not be all; the overlap is repeated for 5 s.
        more = len(sync.records) >= RECORDS and not found <= before
        before, token = found, sync.token
        resume = canonical(_Place(token)) if more else ""
        yield Page(rows, bad, resume, token, response.date_ms, whole=False)


def _dated(row: Row, before: Row | None) -> Row:
    """Make a deletion without a time later than what was told of the message; it was that kind."""
    if before is None:
        return row
    kind, direction = row.type or before.type, row.direction or before.direction
    return replace(row, at_ms=before.at_ms, type=kind, direction=direction)


def _listed(session: _Session, place: _Place, since_ms: int | None, fetch: Fetch) -> Iterator[Page]:
    """List messages, newest first, back to the first one or to some time before *since_ms*."""
    floor_ms = 0 if since_ms is None else max(0, since_ms - RESYNC_MS)
    token, to_ms = place
    more = True
    while more:
        until = {} if to_ms is None else {"dateTo": iso(to_ms)}
        query = {**_full_query(RECORDS), **until}
        response = _fetched(session.get("message-sync", query), fetch)
        sync = _sync(response)
        token = token or sync.token
        rows, bad = rows_of(sync.records, "records", partial(_message, session.account))
        step = _older(sync, to_ms, floor_ms)
        to_ms, more = step.to_ms, step.to_ms is not None
        resume = canonical(_Place(token, to_ms)) if more else ""
        whole = step.whole and since_ms is None
        yield Page(rows, bad, resume, token, response.date_ms, whole, step.gaps)


class _Step(NamedTuple):
    """Until when the next page goes, or ``None`` if there is none; what the list may lack."""

    to_ms: int | None
    whole: bool = True
    gaps: int = 0


def _older(sync: _Sync, to_ms: int | None, floor_ms: int) -> _Step:
    """
    Say where a list goes on.

    Its dates may be cut to seconds, and it is not said whether ``dateTo`` is part of it: the next
    page begins with the second after the oldest message, so some are listed twice.
    """
    if sync.older is False:
        return _Step(None)
    if sync.older is None and len(sync.records) < RECORDS:
        return _Step(None, whole=False)
    created = [at_ms for one in sync.records if (at_ms := _instant(one, "creationTime"))]
    if not created:
        return _Step(None, whole=False, gaps=1)
    if to_ms is not None and max(created) > to_ms + 1000:
        raise Malformed("dateTo: messages created later are listed; the list would never end")
    oldest_ms = min(created)
    if oldest_ms < floor_ms:
        return _Step(None, whole=False)
    next_ms = min((oldest_ms // 1000 + 1) * 1000, INSTANT_MS_MAX)
    if to_ms is None or next_ms < to_ms:
        return _Step(next_ms)
    # One second fills a page, or more than one: what else it holds cannot be asked for.
    full = len(sync.records) >= RECORDS
    return _Step(to_ms - 1000, whole=not full, gaps=int(full))


def _full_query(records: int) -> dict[str, str]:
    return {"syncType": "FSync", "dateFrom": DATE_FROM, "recordCount": str(records)}


def _sync(response: Response) -> _Sync:
    body = response.json()
    records, info = body.get("records"), body.get("syncInfo")
    if not isinstance(records, list):
        raise Malformed("records: a list is expected")
    token = info.get("syncToken") if isinstance(info, dict) else None
    if not isinstance(info, dict) or not isinstance(token, str) or not token:
        raise Malformed("syncInfo.syncToken is missing")
    if not fits_header(token) or len(token) > TOKEN_CHARS_MAX:
        raise Malformed("syncInfo.syncToken: printable ASCII is expected, of some length")
    older = info.get("olderRecordsExist")
    return _Sync(records, token, older if isinstance(older, bool) else None)


def _message(account: Account, raw: dict[str, Any]) -> Row:
    """
    Turn a message, or what is left of a deleted one, into a row.

    Raises:
        Malformed: A field is not what it should be, or the row is another extension's.
    """
    identity = canonical_id(raw.get("id"))
    extension = account.id
    if raw.get("extensionId") is not None:
        extension = _own_extension(account, raw["extensionId"])
    deleted = str(raw.get("availability")).lower() in ("deleted", "purged")
    times = {name: raw[name] for name in ("creationTime", "lastModifiedTime") if raw.get(name)}
    instants = {name: iso_ms(value, name) for name, value in times.items()}
    if not times and not deleted:
        raise Malformed("lastModifiedTime: neither a time of change nor one of creation")
    said = {
        name: names.get(raw[name].lower(), raw[name])
        for name, names in (("type", TYPES), ("direction", DIRECTIONS))
        if isinstance(raw.get(name), str)
    }
    body = _with_ids(raw, ("conversationId", "extensionId")) | _parts(raw) | said
    body |= {"id": identity} | {name: iso(at_ms) for name, at_ms in instants.items()}
    return Row(
        identity,
        next(reversed(times.values()), ""),
        next(reversed(instants.values()), 0),
        body,
        deleted,
        said.get("type", "") if said.get("type") in TYPES.values() else "",
        said.get("direction", "") if said.get("direction") in DIRECTIONS.values() else "",
        extension,
    )


def _own_extension(account: Account, value: object) -> str:
    extension = canonical_id(value, "extensionId")
    if extension == "~" or not _OWN_ID.fullmatch(extension):
        raise Malformed("extensionId: digits are expected")
    if account.id not in ("~", extension):
        raise Malformed("extensionId: it is another extension's")
    return extension


def _with_ids(raw: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Write ids as text: they exceed what a float can hold, and come as numbers or as text."""
    ids = {name: canonical_id(raw[name], name) for name in names if raw.get(name) is not None}
    return {**raw, **ids}


def _parts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a message that have ids of their own, these as text."""
    parts: dict[str, Any] = {name: _end(raw[name]) for name in ENDS if name in raw}
    if isinstance(raw.get("conversation"), dict):
        parts["conversation"] = _with_ids(raw["conversation"], ("id",))
    if isinstance(raw.get("attachments"), list):
        parts["attachments"] = [
            _with_ids(one, ("id",)) if isinstance(one, dict) else one for one in raw["attachments"]
        ]
    return parts


def _end(value: object) -> object:
    """Write the ids of an end, or of several, as text; an odd one leaves the message readable."""
    if isinstance(value, list):
        return [_end(one) for one in value]
    if not isinstance(value, dict):
        return value
    numbers = {name: value[name] for name in END_IDS if type(value.get(name)) is int}
    return {**value, **{name: str(number) for name, number in numbers.items()}}


def _presence(account: Account, response: Response) -> Page:
    """
    Turn presence into a row for the user's state and one for each call.

    A row of a call has the body of a notification about this call alone. One that has ended without
    it being said how is left out: gone for good once it was missing twice.

    Raises:
        Malformed: It is no answer about presence, or another extension's.
    """
    answer = response.json()
    if not isinstance(answer.get("presenceStatus"), str):
        raise Malformed("presenceStatus is missing")
    of = answer.get("extension")
    of = of if isinstance(of, dict) and of.get("id") is not None else {"id": account.id}
    extension = _own_extension(account, of["id"])
    context: dict[str, Any] = {name: answer[name] for name in CONTEXT if name in answer}
    listed = answer.get("activeCalls")
    calls = [] if listed is None else listed
    if isinstance(calls, list):
        calls = [call for call in calls if not _is_tentative(call)]
    read = partial(_call, extension, context, response.date_ms or 0)
    rows, bad = rows_of(calls, "activeCalls", read)
    # Of two legs under one id the one that goes on counts, and the later row counts.
    rows = tuple(sorted(rows, key=lambda row: (not row.deleted, not _is_no_call(row.body), row.id)))
    page = Page(
        (_state(extension, context, answer), *rows),
        bad,
        date_ms=response.date_ms,
        whole=not bad and _lists_all(answer, listed),
    )
    return replace(page, mark=_presence_mark(page))


def _lists_all(answer: Mapping[str, Any], listed: list[Any] | None) -> bool:
    """Tell whether a call that is not listed has ended."""
    if not listed:
        # It contradicts itself, or it is of a kind that has no calls.
        return bool(answer.get("telephonyStatus") == "NoCall")
    return len(listed) < CALLS_MAX


def _state(extension: str, context: Mapping[str, Any], answer: Mapping[str, Any]) -> Row:
    said = {name: answer[name] for name in answer if name == "telephonyStatus"}
    state = {name: value for name, value in answer.items() if name not in NO_STATE}
    body = {"extensionId": _number(extension), **said, **context, "state": state}
    return Row("presence", "", 0, body, extension=extension)


def _call(extension: str, context: Mapping[str, Any], now_ms: int, raw: dict[str, Any]) -> Row:
    """
    Turn an active call into a row.

    Args:
        now_ms: When the provider answered; 0 if it did not say.
    """
    call = _with_ids(raw, ("id", "sessionId", "telephonySessionId", "partyId"))
    session = call.get("telephonySessionId") or call.get("sessionId")
    leg = call.get("partyId") or call.get("id")
    identity = canonical_id(":".join(filter(None, (session, leg))))
    ended = str(raw.get("terminationType")).lower() == "final" and _is_no_call(raw)
    status = raw.get("telephonyStatus")
    said = {} if status is None else {"telephonyStatus": status}
    owner = {"extensionId": _number(extension)}
    direction = raw.get("direction")
    over = {"telephonyStatus": "NoCall", "terminationType": "final", "inferred": True}
    return Row(
        identity,
        "",
        now_ms if ended else 0,
        {**owner, **said, "activeCalls": [call], **context},
        ended,
        direction=direction if isinstance(direction, str) else "",
        extension=extension,
        # The rest of presence is left out: it will be out of date then.
        keep={**owner, "telephonyStatus": "NoCall", "activeCalls": [call | over]},
    )


def _is_no_call(call: Mapping[str, Any]) -> bool:
    return bool(call.get("telephonyStatus") == "NoCall")


def _is_tentative(call: object) -> bool:
    return isinstance(call, dict) and _is_no_call(call) and not call.get("terminationType")


def _number(extension: str) -> int | str:
    """Write an extension's id as notifications do."""
    return int(extension) if extension.isascii() and extension.isdigit() else extension
