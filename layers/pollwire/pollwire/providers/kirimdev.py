"""
Kirimdev: WhatsApp conversations, newest first, with a weak ETag; and messages' delivery status.

    GET {api}/v1/{phone_number_id}/conversations     Authorization: Bearer kdv_live_...
        ?updated_since=2000-01-01T00:00:00.000Z&limit=25      the check, If-None-Match: W/"..."
        ?updated_since=<ISO 8601>&limit=100[&cursor=]         a delta: strictly after, newest first
        ?limit=100[&cursor=]                                  everything, in the order of the inbox
        -> data[], has_more, next_cursor, request_id

    GET {api}/v1/{phone_number_id}/messages/{msg_...}         a message that is watched

The check's query never varies, because an ETag belongs to the whole URL. It speaks of one page only
(newest updated_at, most unread, number of rows, is there more), so it is asked of the page that any
change must move: the one sorted by updated_at. The inbox's own order would not do; an assignment
far down in it moves nothing on its first page. 25 rows, because a 304 costs the same for 1 and for
100, and when there is a page it is compared row by row: a second change in the millisecond of the
newest collides in the ETag, and shows in the rows. "Since" is the year 2000 and not the epoch,
whose 0 a server may take for "not given".

What it cannot see: an unread count that falls without touching updated_at, and a deletion, below
the 25 rows. A delta shows neither at all. Both are found by the stream's reconciliation.

Notifications (``X-Kirim-Signature: t=<s>,v1=<HMAC-SHA256 of "{t}.{body}">``) come for all numbers
of the organisation: Meta's own, and Kirimdev's, some of which name no number.

Cursors hold for one query only, so the place in a list carries the query's ``since`` with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from pollwire.errors import (
    Malformed,
    Misconfigured,
    Rejected,
    Restart,
    Unasked,
    Unavailable,
)
from pollwire.exchange import OK, Fetch, Notification, Pushed, Request, Response
from pollwire.model import NOTHING, Account, BadRow, Checking, Page, Row, Seen, Start, Stream
from pollwire.providers import (
    INSTANT_MS_MAX,
    canonical,
    canonical_id,
    fits_header,
    is_same,
    iso,
    iso_ms,
    rows_of,
    setting,
    without_query,
)

#: Late rows: eight seconds of cache, and what the server takes to commit.
CONVERSATIONS: Final = Stream(overlap_s=15, cache_s=8, reconcile_s=3600)

#: A status is read once more when the longest cache of one that may still change has passed. The
#: address of a medium is signed anew at every look.
STATUSES: Final = Stream(
    baseline=False,
    overlap_s=10,
    cache_s=10,
    volatile=frozenset({"media_url"}),
    watch_s=5,
    watch_id="msg_[0-9A-Za-z_-]{1,64}",
)

#: No conversation is older.
OLDEST_MS: Final = 946_684_800_000
CHECK_QUERY: Final = {"updated_since": "2000-01-01T00:00:00.000Z", "limit": "25"}
LIMIT: Final = 100

#: What a conversation's row says that changes; its other fields follow from these.
TELLING: Final = (
    "id", "updated_at", "unread_count", "status", "assignee", "contact", "last_message_at"
)  # fmt: skip

#: A status does not go back. One that is unknown passes through, and overtakes none.
RANKS: Final = {"pending": 0, "sent": 1, "delivered": 2, "read": 3, "failed": 4}
FINAL: Final = frozenset({"read", "failed"})
DIRECTIONS: Final = {"inbound": "Inbound", "outbound": "Outbound"}

#: Of a message that is no longer there, and of one whose answer cannot be read.
GONE, UNREADABLE = "gone", "?"
GONE_RANK: Final = 1 + max(RANKS.values())

#: Messages that one check asks for; of more it asks in turn. Every one costs a request of the
#: organisation's 600 a minute.
WATCHED_MAX: Final = 20

#: The place of a list that is to be read once more from its start.
FIRST: Final = "-"

#: Messages that are not answered until the others are left for another time.
FAILED_MAX: Final = 2

#: One that was delivered is cached for longer than one that was not.
DELIVERED_S: Final = 10

#: A stored updated_at is finer than the printed one, and clocks are set back by leap seconds.
SLACK_MS: Final = 1_000

VALIDATOR_BYTES_MAX: Final = 256
CURSOR_CHARS_MAX: Final = 4_096
STATUS_CHARS_MAX: Final = 64

#: A signature is good for so long; the header has room for those of several secrets.
SIGNED_S_MAX: Final = 300
SIGNATURE_CHARS_MAX: Final = 1_000

_SECONDS = re.compile(r"[0-9]{1,12}")
_PHONE_NUMBER_ID = re.compile(r"[0-9]{6,20}")
_MESSAGE_ID = re.compile(STATUSES.watch_id)

#: Status and ETag by message id.
_Statuses = dict[str, list[str]]


class Kirimdev:
    name = "kirimdev"
    hosts: Mapping[str, str] = MappingProxyType({"api": "https://api.kirimdev.com"})
    streams: Mapping[str, Stream] = MappingProxyType(
        {"conversations": CONVERSATIONS, "message-status": STATUSES}
    )
    credential_fields: tuple[str, ...] = ("api_key",)
    check_needs_credential = True
    fastest_s = 10  # Lists are cached for 8 s, a message that was delivered for 10.
    shares_rate = True  # One budget an organisation, whose key the connection holds.

    def check(self, account: Account, seen: Seen) -> Checking:
        digest, statuses = _stored(seen.raw)
        etag = seen.etag if digest else ""
        if not account.turn.after_s:
            etag, digest = yield from _check_conversations(account, etag, digest)
        elif not digest:
            return seen
        # While the pipeline trusts no validator, no message's is sent either.
        statuses = yield from _check_watched(account, statuses, bool(seen.etag))
        raw = canonical({"conversations": digest, "messages": statuses})
        return seen if raw == seen.raw else Seen(raw, etag)

    def marks(self, account: Account, raw: str) -> dict[str, str]:
        digest, statuses = _stored(raw)
        if not digest:
            raise Malformed("raw: not what a check of Kirimdev brings")
        # Of those still watched only: that one is not any more is no news of the others.
        watched = {name: entry for name, entry in statuses.items() if name in account.watched}
        return {"conversations": digest} | ({"message-status": _hash(watched)} if watched else {})

    def delta(self, account: Account, stream: str, start: Start, fetch: Fetch) -> Iterator[Page]:
        if stream == "message-status":
            yield from _message_pages(account, start, fetch)
        else:
            yield from _conversation_pages(account, start, fetch)

    def pushed(self, notification: Notification, secret: str, now_ms: int) -> Pushed:
        signed_s = _signed_s(notification, secret)
        if abs(now_ms // 1000 - signed_s) > SIGNED_S_MAX:
            raise Rejected("X-Kirim-Signature: it is too old, or a clock is wrong")
        numbers = filter(_PHONE_NUMBER_ID.fullmatch, _numbers(notification.json()))
        return Pushed(tuple(dict.fromkeys(numbers)), signed_s * 1000)


def _signed_s(notification: Notification, secret: str) -> int:
    """Verify a signature; return the second in which it was made."""
    header = notification.headers.get("x-kirim-signature", "")[:SIGNATURE_CHARS_MAX]
    pairs = [one.strip().partition("=") for one in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    if len(times) != 1 or not _SECONDS.fullmatch(times[0]):
        raise Rejected("X-Kirim-Signature: t=seconds,v1=signature is expected")
    wanted = hmac.new(secret.encode(), f"{times[0]}.".encode(), hashlib.sha256)
    wanted.update(notification.body)
    # While a secret is replaced, there is a signature of each.
    sent = [value for name, _, value in pairs if name == "v1"]
    if not any(is_same(value, wanted.hexdigest()) for value in sent):
        raise Rejected("X-Kirim-Signature: not of this connection's secret")
    return int(times[0])


def _numbers(told: Mapping[str, Any]) -> Iterator[str]:
    """Name the numbers that a notification is about: in Meta's words, or in Kirimdev's."""
    for entry in _objects(told.get("entry")):
        for change in _objects(entry.get("changes")):
            for value in _objects([change.get("value")]):
                yield from _number(value.get("metadata"), "phone_number_id")
    data = told.get("data")
    yield from _number(data, "session")
    yield from _number(data, "phone_number_id")
    yield from _number(data.get("meta") if isinstance(data, dict) else None, "phone_number_id")


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(holder: object, field: str) -> Iterator[str]:
    with suppress(Malformed):
        if isinstance(holder, dict):
            yield canonical_id(holder.get(field))


def _request(
    account: Account,
    path: str,
    query: Mapping[str, str] = NOTHING,
    etag: str = "",
    expect: frozenset[int] = OK | {304},
) -> Request:
    """
    Ask for something of the account.

    Raises:
        Misconfigured: The account's id or its key is none.
    """
    if not _PHONE_NUMBER_ID.fullmatch(account.id):
        raise Misconfigured(
            "account.id is not Kirimdev's phone_number_id (6 to 20 digits); correct the account"
        )
    key = setting(account.credential, "api_key", "credential")
    if not fits_header(key) or key != key.strip():
        raise Misconfigured("credential.api_key has a character no header can carry; change it")
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    if etag:
        headers["If-None-Match"] = etag
    url = f"{account.hosts['api']}/v1/{account.id}/{path}"
    return Request(url, query=query, headers=headers, expect=expect, secret=True)


def _validator(response: Response) -> str:
    """Read the ETag: verbatim, or nothing if it cannot be sent back."""
    value = response.headers.get("etag", "")
    return value if fits_header(value) and len(value) <= VALIDATOR_BYTES_MAX else ""


def _hash(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def _telling(row: object) -> object:
    return [row.get(name) for name in TELLING] if isinstance(row, dict) else row


def _stored(raw: str) -> tuple[str, _Statuses]:
    """Read what a check brought; what cannot be read any more is as good as nothing."""
    try:
        stored = json.loads(raw)
        return str(stored["conversations"]), dict(stored["messages"])
    except (ValueError, TypeError, KeyError):
        return "", {}


def _list(body: Mapping[str, Any]) -> tuple[list[Any], str | None]:
    """Read a page: its rows as they came, and the cursor of the next one."""
    rows, more, cursor = body.get("data"), body.get("has_more"), body.get("next_cursor")
    if not isinstance(rows, list):
        raise Malformed("data: a list is expected")
    if not isinstance(more, bool):
        raise Malformed("has_more: true or false is expected")
    if cursor is None and not more:
        return rows, None
    # A cursor is followed even where has_more denies it: another page does no harm.
    if not isinstance(cursor, str) or not 0 < len(cursor) <= CURSOR_CHARS_MAX:
        raise Malformed("next_cursor: there is more, but no cursor leads there")
    if not fits_header(cursor):
        raise Malformed("next_cursor: printable ASCII is expected")
    return rows, cursor


def _check_conversations(
    account: Account, etag: str, digest: str
) -> Generator[Request, Response, tuple[str, str]]:
    """Look at the latest conversations; return the list's ETag and digest."""
    response = yield _request(account, "conversations", CHECK_QUERY, etag)
    if response.status == 200:
        rows, more = _list(response.json())
        etag = _validator(response)
        digest = _hash([etag, more is not None, [_telling(row) for row in rows]])
        return "" if _is_ahead(rows, response.date_ms) else etag, digest
    if not etag:
        raise Malformed("304, but nothing was sent that it could confirm")
    return etag, digest


def _is_ahead(rows: list[Any], date_ms: int | None) -> bool:
    """Tell whether a row is of the future: an ETag of its time says nothing of what follows."""
    latest_ms = INSTANT_MS_MAX if date_ms is None else date_ms + SLACK_MS
    for row in rows:
        with suppress(Malformed):
            if isinstance(row, dict) and iso_ms(row.get("updated_at"), "") > latest_ms:
                return True
    return False


def _check_watched(
    account: Account, stored: _Statuses, trusted: bool
) -> Generator[Request, Response, _Statuses]:
    """Look at the watched messages whose turn it is; return status and ETag of each by its id."""
    statuses = {name: entry for name, entry in stored.items() if name in account.watched}
    # What is final stays watched until a delta has told it, and is not asked for meanwhile.
    alive = sorted(
        name
        for name in account.watched
        if _MESSAGE_ID.fullmatch(name) and _is_turn(account, statuses.get(name, [""])[0])
    )
    first = zlib.crc32(str(account.turn.due_ms).encode()) % max(len(alive), 1)
    first = first if len(alive) > WATCHED_MAX else 0
    for name in (alive[first:] + alive[:first])[:WATCHED_MAX]:
        etag = statuses[name][1] if trusted and name in statuses else ""
        try:
            learned = yield from _check_message(account, name, etag)
        except (Unasked, Unavailable) as error:
            if error.retry_after_s:
                raise  # It is to be left alone, and to be noted for that.
            break  # What was learned so far is worth keeping.
        if learned:
            statuses[name] = learned
    return statuses


def _check_message(
    account: Account, name: str, etag: str
) -> Generator[Request, Response, list[str]]:
    """Look at a message; return its status and ETag, or nothing if it is as it was."""
    try:
        response = yield _request(account, f"messages/{name}", etag=etag, expect=OK | {304, 404})
        if response.status == 304 and not etag:
            raise Malformed("304, but nothing was sent that it could confirm")
        if response.status == 304:
            return []
        message = _message(name, response)
        return [GONE if message is None else message["status"], _validator(response)]
    except Malformed:
        # One odd message does not hold up the conversations; its delta says what is wrong.
        return [UNREADABLE, ""]


def _is_turn(account: Account, status: str) -> bool:
    """Tell whether a status is asked for now: the provider's cache has to be over."""
    if status in FINAL | {GONE}:
        return False
    return account.turn.of(DELIVERED_S if status == "delivered" else STATUSES.watch_s)


def _conversation_pages(account: Account, start: Start, fetch: Fetch) -> Iterator[Page]:
    """
    List conversations page by page; the cursor of the stream moves with the last one only.

    A validator is never sent: a 304 has no next_cursor, so the list would end without a word.
    """
    # ``updated_since`` is strictly after, and a start takes its own instant in.
    since = None if start.since_ms is None else max(OLDEST_MS, start.since_ms - 1)
    cursor: str | None = _resumed(start.resume, since) if start.resume else ""
    query = {"limit": str(LIMIT)} | ({} if since is None else {"updated_since": iso(since)})
    used, previous = {cursor}, None
    while cursor is not None:
        response = _page(account, query, cursor, fetch)
        found, cursor = _list(response.json())
        if cursor is not None and (cursor in used or found == previous):
            raise Malformed("next_cursor: it leads where the list was before; it never ends")
        used.add(cursor)
        previous = found
        rows, bad = rows_of(found, "data", partial(_conversation, account))
        if since is not None and _is_ignored(rows, since):
            bad += (BadRow("updated_since", "updated_since: the server does not honour it"),)
        place = "" if cursor is None else canonical({"cursor": cursor, "since": since})
        yield Page(rows, bad, resume=place, date_ms=response.date_ms)


def _page(account: Account, query: Mapping[str, str], cursor: str, fetch: Fetch) -> Response:
    """
    Fetch a page.

    Raises:
        Restart: It is refused, and nothing shows that it is for anything but the cursor.
    """
    if not cursor:
        return fetch(_request(account, "conversations", query, expect=OK))
    asked = {**query, "cursor": cursor}
    response = fetch(_request(account, "conversations", asked, expect=OK | {400, 422}))
    if response.status != 200:
        if _blames(response, query):
            raise Malformed(f"{response.status}: Kirimdev does not understand the query")
        raise Restart("conversations: the cursor is no longer valid")
    return response


def _blames(response: Response, query: Mapping[str, str]) -> bool:
    """Tell whether a refusal is for another parameter than the cursor, by its name or its code."""
    error: object = None
    with suppress(Malformed):
        error = response.json().get("error")
    if not isinstance(error, dict):
        return False
    code, parameter = str(error.get("code")), error.get("param")
    if isinstance(parameter, str) and parameter:
        return "cursor" not in parameter
    return "cursor" not in code and any(name in code for name in query)


def _resumed(resume: str, since: int | None) -> str:
    """Read a place in a list, which is one of this very query or none."""
    try:
        place = json.loads(resume)
        cursor, of_since = place["cursor"], place["since"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Restart("conversations: the place to go on from cannot be read") from error
    if of_since != since or not isinstance(cursor, str) or not cursor:
        raise Restart("conversations: the place to go on from is another list's")
    return cursor


def _error_code(response: Response) -> object:
    error = response.json().get("error")
    return error.get("code") if isinstance(error, dict) else None


def _is_ignored(rows: tuple[Row, ...], since: int) -> bool:
    """
    Tell whether the server did not honour ``updated_since``: older rows, or not newest first.

    Nothing is lost by that: every page is read, and every row compared. It is recorded as a row
    that cannot be read, once, so that it raises an alarm.
    """
    instants = [row.at_ms for row in rows]
    return instants != sorted(instants, reverse=True) or min(instants, default=since) <= (
        since - SLACK_MS
    )


def _conversation(account: Account, raw: dict[str, Any]) -> Row:
    _require_own(account, raw)
    identity = canonical_id(raw.get("id"))
    updated_at = raw.get("updated_at")
    at_ms = iso_ms(updated_at, "updated_at")
    contact = raw.get("contact")
    keep = {"contact": {"id": contact.get("id")}} if isinstance(contact, dict) else NOTHING
    return Row(identity, str(updated_at), at_ms, {**raw, "id": identity}, keep=keep)


def _require_own(account: Account, raw: Mapping[str, Any]) -> None:
    number = raw.get("whatsapp_account")
    for said in (raw, number if isinstance(number, dict) else {}):
        if said.get("phone_number_id") is not None and str(said["phone_number_id"]) != account.id:
            raise Malformed("phone_number_id: the row is another account's")


def _message_pages(account: Account, start: Start, fetch: Fetch) -> Iterator[Page]:
    """Look at every watched message. No page is whole: what is not watched was not deleted."""
    if start.resume and start.resume not in {FIRST, *account.watched}:
        raise Restart("message-status: the place to go on from is watched no more")
    names = sorted(name for name in account.watched if name > start.resume)
    place, more = start.resume or FIRST, True
    while more:
        some, names = names[:WATCHED_MAX], names[WATCHED_MAX:]
        more = bool(names)
        failed: list[Unavailable] = []
        rows, bad = rows_of(
            [{"id": name} for name in some], "watched", partial(_watched, account, fetch, failed)
        )
        if failed:
            # The others have been told by then; the place stays, so that all are asked again.
            yield Page(rows, (), resume=place, whole=False, steps=True)
            raise failed[0]
        place = some[-1] if some else place
        yield Page(rows, bad, resume=place if more else "", whole=False, steps=True)


def _watched(
    account: Account, fetch: Fetch, failed: list[Unavailable], asked: dict[str, Any]
) -> Row:
    """
    Fetch a watched message as a row.

    A 404 is believed: ids are never used again, deleting removes, and a check has seen it too. Its
    instant makes an event even of an id that never was one, so that a slip is noticed.

    No other row has an instant. WhatsApp's times arrive out of order, and a row older than its
    record waits to be seen again, which a final one is not: the rank alone is the order.
    """
    name = asked["id"]
    if not _MESSAGE_ID.fullmatch(name):
        raise Malformed("watched: not a message's id (msg_...)")
    if len(failed) == FAILED_MAX or any(one.retry_after_s for one in failed):
        raise Malformed("watched: it is not asked for, as others were not answered")
    try:
        response = fetch(_request(account, f"messages/{name}", expect=OK | {404}))
    except Unavailable as error:
        failed.append(error)
        raise Malformed("watched: no answer") from error
    message = _message(name, response)
    if message is None:
        at_ms = response.date_ms or 0
        return Row(name, GONE, at_ms, asked, deleted=True, rank=GONE_RANK, final=True)
    _require_own(account, message)
    status = message["status"]
    said = (message.get(field) for field in ("updated_at", "status_updated_at", "created_at"))
    time = next((time for time in said if isinstance(time, str)), "")
    body = {
        field: without_query(value) if field.endswith("url") else value
        for field, value in message.items()
        if field != "request_id"
    }
    return Row(
        name,
        f"{status} {time}".strip(),
        0,
        body,
        direction=DIRECTIONS.get(str(message.get("direction")), ""),
        rank=RANKS.get(status, 0),
        final=status in FINAL,
    )


def _message(name: str, response: Response) -> dict[str, Any] | None:
    """Read a message as it came, bare or under ``data``; ``None`` if there is none."""
    body = response.json()
    if response.status == 404:
        if _error_code(response) == "resource_not_found":
            return None
        raise Malformed("404, and not because there is no such message")
    message = body["data"] if isinstance(body.get("data"), dict) else body
    if message.get("id") != name:
        raise Malformed("id: another message than was asked for")
    status = message.get("status")
    if not isinstance(status, str) or not 0 < len(status) <= STATUS_CHARS_MAX:
        raise Malformed("status: a word is expected")
    return message
