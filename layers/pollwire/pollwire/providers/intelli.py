"""
Intelli Messaging, allMessages: what a user received and sent, in one call.

    POST {api}/services/rest/user/allMessages    username, password, since (whole seconds)

        status               0, or what is wrong: in a body with HTTP 200, see REFUSALS
        incomingMessages[]   documentId, text, timestamp, from, recipient, originDocumentId
        outgoingMessages[]   documentId, text, timestamp, recipient (``recpipent`` of old)
        hasMoreMessages      something was cut; a list has 100 rows at most

Pages are turned by moving ``since``. Nobody says whether its own second is listed, whether the rows
are sorted, or whether one list can be cut while the other goes on: all of it is taken for possible,
so the next page starts before the end of this one, and what is listed twice is known by its id.

A second with more messages than a list has room for cannot be read to its end; nor can one, if the
rows are out of order, neither oldest nor newest first, by more than a page spans. Its page counts
one gap and has one row more, in place of the messages that there may be:

    {"id": "gap:1366624802", "gap": true, "second": 1366624802, "seen": 100, "creationTime": ...}

``seen`` is how many of the second are listed. Such a row has no type and no direction. Rows out of
order have one such row for all that a page spans: which of its seconds lack something is unknown.

Messages never change, and leave the capped collection without a word: a missing one is no deletion.
A start lies before messages that are known. If a list from there on has later ones only, they are
dropped, and others may be that were never listed: the first page counts one gap, without a row.
``newestMessageTimestamp`` is not used: it may be that of the list that was not cut, or 0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pollwire.errors import Malformed, Misconfigured, PollwireError, Rejected, Restart, Unavailable
from pollwire.exchange import Fetch, Request, Response
from pollwire.model import KNOWN_EMPTY, Account, BadRow, Checking, Page, Row, Seen, Start, Stream
from pollwire.providers import (
    INSTANT_MS_MAX,
    canonical_id,
    iso,
    rows_of,
    setting,
)

PATH: Final = "/services/rest/user/allMessages"

#: Several writers, whose clocks differ a little. A gap stays one, however much of it is listed.
MESSAGES: Final = Stream(
    overlap_s=120, reread_s=300, cache_s=0, path="message-store", volatile=frozenset({"seen"})
)

#: A list of so many rows is full: it may have been cut.
ROWS_MAX: Final = 100

#: A check that is cut looks only so far back the next time; what lies between is for the delta.
CATCH_UP_S: Final = 3600

LISTS: Final = {"incomingMessages": "Inbound", "outgoingMessages": "Outbound"}

#: What a status is, and what to do about it. Any other but 0 is no answer at all.
REFUSALS: Final[Mapping[str, tuple[type[PollwireError], str]]] = {
    "1": (Misconfigured, "a required parameter is missing; check username and password"),
    "2": (Misconfigured, "a parameter is not valid; check credential.username"),
    "3": (Rejected, "wrong username or password; set the right ones, more tries may block it"),
    "4": (Rejected, "the user is blocked; have the reseller unblock it"),
    "200": (Rejected, "there is no such user; correct credential.username"),
    "220": (Rejected, "the user is not activated yet; activate it at the provider"),
    "9999": (Unavailable, "an internal error of the provider; it is tried again"),
}

#: What the normal form says under a name of ours, and what is not published.
RENAMED: Final = {"documentId", "text", "timestamp", "from", "recipient", "recpipent", "password"}

_MARK = re.compile(r"([0-9]{1,12}):[0-9a-f]{16}")
_PLACE = re.compile(r"([0-9]{1,12})(?:g([0-9]{1,12}))?")
_DIGITS = re.compile(r"[0-9]{1,12}")


class Answer(NamedTuple):
    """
    One answer.

    Attributes:
        counts: Rows of each list as it came, those that cannot be read among them.

        times: Seconds of the readable rows, by list.

        date_s: The provider's clock.
    """

    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    counts: tuple[int, ...]
    times: tuple[tuple[int, ...], ...]
    more: bool
    date_s: int | None


class Step(NamedTuple):
    """
    Where the list goes on.

    Attributes:
        since: ``None`` if it ends.

        saturated: A second that cannot be read to its end.

        until: The last second that may lack something because of that.
    """

    since: int | None
    saturated: int | None = None
    until: int = -1


class Intelli:
    name = "intelli"
    hosts: Mapping[str, str] = MappingProxyType({"api": "https://mc5.smartmessagingservices.net"})
    streams: Mapping[str, Stream] = MappingProxyType({"messages": MESSAGES})
    credential_fields: tuple[str, ...] = ("username", "password")
    check_needs_credential = True
    fastest_s = 1
    shares_rate = False

    def check(self, account: Account, seen: Seen) -> Checking:
        """
        Look for unseen ids; the mark is a second, and a hash of the ids listed after it.

        The second is where the next check starts: an overlap before the newest message, or as far
        as this one got, if it was cut. Then it has moved, and the mark is another one.
        """
        known = _MARK.fullmatch(seen.raw)
        since = int(known[1]) if known else 0
        answer = _read((yield _request(account, since)))
        if not any(answer.counts) and (seen.raw or not answer.more):
            return seen if seen.raw else Seen(raw=KNOWN_EMPTY)
        onward, date_s = _onward(answer, since).since, answer.date_s
        if onward is None:
            # A message from the future moves nothing: all that follow would be older than it.
            past = [at for at in _all(answer) if date_s is None or at <= date_s]
            after = max([since, *(at - MESSAGES.overlap_s for at in past)])
        else:
            after = onward if date_s is None else max(onward, date_s - CATCH_UP_S)
        ids = {row.id for row in answer.rows if row.at_ms > after * 1000}
        text = "\n".join(sorted(ids | {bad.key for bad in answer.bad}))
        raw = f"{after}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return seen if raw == seen.raw else Seen(raw=raw)

    def marks(self, account: Account, raw: str) -> dict[str, str]:
        if raw in ("", KNOWN_EMPTY):
            return {}
        if not _MARK.fullmatch(raw):
            raise Malformed("the mark is no second with a hash")
        return {"messages": raw}

    def delta(self, account: Account, stream: str, start: Start, fetch: Fetch) -> Iterator[Page]:
        place = _PLACE.fullmatch(start.resume or _first(start.since_ms))
        if not place:
            raise Restart(f"{stream}: the place to go on from is no second")
        since: int | None = int(place[1])
        # Until then gaps are told. What was dropped shows at the start of a list only.
        told, is_first = int(place[2] or -1), not start.resume
        while since is not None:
            answer = _read(fetch(_request(account, since)))
            since, second, until = _onward(answer, since)
            rows, gaps = answer.rows, int(is_first and _is_dropped(answer, start.since_ms))
            if second is not None and second > told:
                rows, gaps = (*rows, _gap(second, _all(answer).count(second))), gaps + 1
                told = until
            resume = "" if since is None else f"{since}g{told}" if since <= told else f"{since}"
            date_ms = None if answer.date_s is None else answer.date_s * 1000
            yield Page(
                rows, answer.bad, resume, date_ms=date_ms, whole=False, steps=True, gaps=gaps
            )
            is_first = False


def _first(since_ms: int | None) -> str:
    # Everything, if that is asked for. Else a second earlier: its own may not be listed.
    return "0" if since_ms is None else str(max(0, since_ms // 1000 - 1))


def _is_dropped(answer: Answer, since_ms: int | None) -> bool:
    """
    Tell whether the messages that are known after *since_ms* are not listed any more.

    The last one lies at most so long after it as is read again, or a little more if its writer's
    clock is ahead of the server's. Nothing follows from a start at 0, before anything is known, nor
    while a message from the future is listed: then the start goes by the clock.
    """
    times = _all(answer)
    if not since_ms or not times:
        return False
    known_s = since_ms // 1000 + MESSAGES.reread_s + MESSAGES.overlap_s
    future_s = INSTANT_MS_MAX if answer.date_s is None else answer.date_s + MESSAGES.overlap_s
    return min(times) > known_s and max(times) <= future_s


def _onward(answer: Answer, since: int) -> Step:
    """
    Say where the list goes on after an answer that began at *since*: always later than that.

    Raises:
        Malformed: More is announced, and nothing listed says where it would start.
    """
    full = [at for at, rows in zip(answer.times, answer.counts, strict=True) if rows >= ROWS_MAX]
    if not full and not (answer.more and any(answer.counts)):
        return Step(None)
    cut = full or [at for at in answer.times if at]
    if not cut or not all(cut):
        raise Malformed("timestamp: none can be read in a list that was cut")
    past = [_past(at, answer.date_s) for at in cut]
    ends = [(max(at), min(at)) for at in past]
    if not full:
        # One of the lists was cut, or both were: the first that gets us on.
        ends = [one for one in ends if one[0] > since + 1] or [max(ends)]
    end, begin = min(ends)
    if end < since and answer.more:
        raise Malformed("timestamp: a list that was cut has only older ones than asked for")
    if end < since:
        return Step(None)
    # At least one second is read again, lest messages of the last one are skipped; more of it if
    # the rows are out of order, and a quarter in any case, lest those are that were cut off.
    late_s = max(map(_late_s, past))
    again_s = min(MESSAGES.overlap_s, max(late_s + 1, (end - max(begin, since)) // 4))
    if end - again_s > since:
        return Step(end - again_s)
    # A row of *since* itself shows that it is listed; so will be the next second, all of it.
    is_listed = since in _all(answer)
    is_complete = is_listed and end == since + 1 and not late_s
    second = min(end, since if is_listed else since + 1)
    return Step(since + 1, second, end) if answer.more and not is_complete else Step(since + 1)


def _past(times: tuple[int, ...], date_s: int | None) -> tuple[int, ...]:
    """Leave out seconds of the future, unless there are no others."""
    past = [at for at in times if date_s is None or at <= date_s + MESSAGES.overlap_s]
    return tuple(past) or times


def _late_s(times: tuple[int, ...]) -> int:
    """Say by how much a list is out of order: 0 if it is sorted, whichever end comes first."""
    return min(
        max(newest - at for newest, at in zip(accumulate(one, max), one, strict=True))
        for one in (times, times[::-1])
    )


def _all(answer: Answer) -> list[int]:
    return [at for times in answer.times for at in times]


def _request(account: Account, since: int) -> Request:
    username = setting(account.credential, "username", "credential")
    password = setting(account.credential, "password", "credential")
    if re.search(r"\s", username) or not username.isprintable():
        raise Misconfigured("credential.username is like 1234321@reseller, no spaces; correct it")
    form = {"username": username, "password": password, "since": str(since)}
    return Request(f"{account.hosts['api']}{PATH}", method="POST", form=form, secret=True)


def _read(response: Response) -> Answer:
    """
    Read an answer, its status before anything else.

    Raises:
        Malformed: It has no status that we know, or lacks a list: that is not an empty one.
    """
    body = response.json()
    _raise_for_status(body.get("status"))
    lists = [
        rows_of(body.get(name), name, partial(_row, direction)) for name, direction in LISTS.items()
    ]
    more = str(body.get("hasMoreMessages")).lower()
    if more not in ("true", "false"):
        raise Malformed("hasMoreMessages: true or false is expected")
    return Answer(
        rows=tuple(row for rows, _ in lists for row in rows),
        bad=tuple(row for _, bad in lists for row in bad),
        counts=tuple(len(rows) + len(bad) for rows, bad in lists),
        times=tuple(tuple(row.at_ms // 1000 for row in rows) for rows, _ in lists),
        more=more == "true",
        date_s=None if response.date_ms is None else response.date_ms // 1000,
    )


def _raise_for_status(value: object) -> None:
    is_number = isinstance(value, int | str) and not isinstance(value, bool)
    status = str(value) if is_number else ""
    if status == "0":
        return
    if status in REFUSALS:
        kind, remedy = REFUSALS[status]
        raise kind(f"status {status}: {remedy}")
    # It is not repeated: it may be a text of any kind.
    raise Malformed("status: it is missing, or has no known meaning")


def _row(direction: str, raw: dict[str, Any]) -> Row:
    """
    Turn one of the provider's messages into ours.

    Raises:
        Malformed: Its id or its timestamp is not what it should be.
    """
    identity, at_s = canonical_id(raw.get("documentId"), "documentId"), _second(raw)
    sender, called = raw.get("from"), raw.get("recipient") or raw.get("recpipent")
    said = {
        "id": identity,
        "type": "SMS",
        "direction": direction,
        "creationTime": iso(at_s * 1000),
        "from": None if sender is None else {"phoneNumber": _phone(sender)},
        "to": None if called is None else [{"phoneNumber": _phone(called)}],
        "subject": raw.get("text"),
    }
    body = {name: value for name, value in raw.items() if name not in RENAMED}
    body |= {name: value for name, value in said.items() if value is not None}
    return Row(identity, str(at_s), at_s * 1000, body, type="SMS", direction=direction)


def _gap(second: int, seen: int) -> Row:
    identity = f"gap:{second}"
    said = {"gap": True, "second": second, "seen": seen, "creationTime": iso(second * 1000)}
    return Row(identity, str(second), second * 1000, {"id": identity, **said})


def _second(raw: Mapping[str, Any]) -> int:
    value = raw.get("timestamp")
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        value = -1
    if 0 <= value <= INSTANT_MS_MAX // 1000:
        return value
    raise Malformed("timestamp: whole seconds since the epoch are expected")


def _phone(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
