"""
What a provider is: one module with its hosts, its streams, its check and its delta.

A module knows HTTP requests and answers, and nothing of AWS, clocks, cursors or events. It turns
the provider's rows into :class:`~pollwire.model.Row` in one function that raises ``Malformed``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from pollwire.errors import Malformed, Misconfigured
from pollwire.events import canonical as canonical
from pollwire.events import iso as iso
from pollwire.exchange import Fetch, Notification, Pushed
from pollwire.model import Account, BadRow, Checking, Page, Row, Seen, Start, Stream

#: An id goes into every event, a truncated one as well; no provider's is near this.
ID_CHARS_MAX = 1_000

#: Of one list: each is recorded, and takes more room than its few bytes in the answer.
BAD_ROWS_MAX = 1_000

#: What is kept of a row for the event that says it is gone; and a type's or a direction's name.
KEEP_CHARS_MAX = 16_000
WORD_CHARS_MAX = 64

#: Half a character: JSON can spell it, UTF-8 cannot.
_SURROGATE = re.compile("[\ud800-\udfff]")


#: The end of the year 9999: an event's timestamp can say no later one.
INSTANT_MS_MAX = 253_402_300_799_999

_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Provider(Protocol):
    """
    One upstream API family.

    Attributes:
        name: As connections and events spell it.

        hosts: The provider's own base URL by role, as ``{"api": "https://api.example.com"}``.

        streams: What can change, by name.

        credential_fields: What its credential consists of: all of these, and nothing else.

        check_needs_credential: Its check authenticates, so the credential is opened for it.

        fastest_s: Seconds between two checks of an account at least, whatever its connection says:
            how long the provider answers from a cache.

        shares_rate: All accounts of a connection share one budget at the provider, so that one
            that is asked to slow down slows all of them down. Those of one credential do so anyhow.
    """

    name: str
    hosts: Mapping[str, str]
    streams: Mapping[str, Stream]
    credential_fields: tuple[str, ...]
    check_needs_credential: bool
    fastest_s: int
    shares_rate: bool

    def check(self, account: Account, seen: Seen) -> Checking:
        """
        Ask the cheapest question: did anything change?

        A generator that yields requests, is sent their responses, and returns what it saw: *seen*
        itself when nothing changed (a 304, an equal body), otherwise a new
        :class:`~pollwire.model.Seen` whose ``raw`` holds the marks.
        """
        ...

    def marks(self, account: Account, raw: str) -> dict[str, str]:
        """
        Read the mark of each stream out of an answer's ``raw``.

        A stream that the answer does not report is missing, which means unchanged.

        Raises:
            Malformed: *raw* is no such answer.
        """
        ...

    def delta(self, account: Account, stream: str, start: Start, fetch: Fetch) -> Iterator[Page]:
        """
        Fetch what changed in one stream, page by page.

        Args:
            fetch: Sends a request; raises ``Unavailable``, ``RateLimited``, ``Rejected`` or
                ``Malformed`` for every status that the request does not expect.

        Raises:
            Restart: ``start.resume`` or ``start.cursor`` is no longer valid.

            Misconfigured: A setting or a field of the credential is missing.
        """
        ...


@runtime_checkable
class Notifying(Protocol):
    """A provider that can tell of changes by itself, beside being polled."""

    def pushed(self, notification: Notification, secret: str, now_ms: int) -> Pushed:
        """
        Verify a notification, and only then read whom it is about.

        Args:
            secret: What the provider and the connection's operator know.

        Raises:
            Rejected: It does not come from this provider, or is too old.

            Malformed: It does, and cannot be read.
        """
        ...


def is_same(sent: str, wanted: str) -> bool:
    """Compare what was sent with a secret, in a time that says nothing about it."""
    return hmac.compare_digest(sent.encode(errors="surrogatepass"), wanted.encode())


def canonical_id(value: object, field: str = "id") -> str:
    """
    Write an id as text: ``1`` and ``"1"`` are the same id, ``1.0``, ``true`` and ``""`` are none.

    Raises:
        Malformed: It is no id.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.strip() and not _SURROGATE.search(value):
        if len(value) <= ID_CHARS_MAX:
            return value
        raise Malformed(f"{field}: an id of {len(value)} characters")
    raise Malformed(f"{field}: an id is a number or a text, not {_kind(value)}")


def instant_ms(value: object, field: str) -> int:
    """
    Read milliseconds since the epoch, given as a number or as digits.

    Raises:
        Malformed: It is no such number.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INSTANT_MS_MAX:
        return value
    raise Malformed(f"{field}: milliseconds since the epoch are expected, not {_kind(value)}")


def iso_ms(value: object, field: str) -> int:
    """
    Read an instant in ISO 8601: date, ``T``, time, up to nine digits of a fraction, zone.

    What is finer than a millisecond is cut off; without a zone it is no instant.

    Raises:
        Malformed: It is no such text, no date of the calendar, or not of the years 1970 to 9999.
    """
    match = _ISO.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Malformed(f"{field}: an ISO 8601 instant with a zone is expected, not {_kind(value)}")
    second, fraction, zone = match.groups()
    try:
        since = datetime.fromisoformat(f"{second}{zone}") - _EPOCH
    except ValueError as error:
        raise Malformed(f"{field}: no instant of the calendar") from error
    at_ms = since // timedelta(milliseconds=1) + int((fraction or "")[:3].ljust(3, "0"))
    if not 0 <= at_ms <= INSTANT_MS_MAX:
        raise Malformed(f"{field}: not of the years 1970 to 9999")
    return at_ms


def rows_of(
    raw_rows: object, field: str, read: Callable[[dict[str, Any]], Row]
) -> tuple[tuple[Row, ...], tuple[BadRow, ...]]:
    """
    Read a page's rows one by one, so that a bad one does not stop its neighbours.

    Args:
        raw_rows: The list as it came. An absent list is not an empty one.

    Raises:
        Malformed: It is no list, or too many rows cannot be read.
    """
    if not isinstance(raw_rows, list):
        raise Malformed(f"{field}: a list is expected, not {_kind(raw_rows)}")
    rows: list[Row] = []
    bad: list[BadRow] = []
    for raw_row in raw_rows:
        if len(bad) == BAD_ROWS_MAX:
            raise Malformed(f"{field}: {BAD_ROWS_MAX} rows cannot be read")
        try:
            if not isinstance(raw_row, dict):
                raise Malformed(f"{field}: a row is an object, not {_kind(raw_row)}")
            rows.append(_encodable(read(raw_row)))
        except Malformed as error:
            bad.append(_bad_row(raw_row, str(error)))
        except RecursionError:
            bad.append(_bad_row({"id": raw_row.get("id")}, f"{field}: the row nests too deep"))
    return tuple(rows), tuple(bad)


def setting(settings: Mapping[str, str], name: str, where: str) -> str:
    """
    Look up a setting or a field of a credential that a call cannot do without.

    Raises:
        Misconfigured: It is missing or empty, or holds half a character.
    """
    value = settings.get(name, "")
    if not value:
        raise Misconfigured(f"{where}.{name} is missing; set it on the account")
    if _SURROGATE.search(value):
        raise Misconfigured(f"{where}.{name} holds half a character; correct it")
    return value


def fits_header(value: str) -> bool:
    """Tell whether a header can carry a text."""
    return value.isascii() and value.isprintable()


def without_query(url: object) -> object:
    """Leave of a URL where a thing lies, which may be published, and not the key that opens it."""
    return re.split("[?#]", url, maxsplit=1)[0] if isinstance(url, str) else url


def _encodable(row: Row) -> Row:
    """Refuse a row that cannot be written: half a character, or more than a record has room for."""
    for name in ("id", "updated_at", "type", "direction", "extension"):
        if _SURROGATE.search(getattr(row, name)):
            raise Malformed(f"{name}: it holds half a character")
    if len(row.updated_at) > ID_CHARS_MAX:
        raise Malformed(f"updated_at: more than {ID_CHARS_MAX} characters")
    # A filter attribute is a word; whatever else was said is in the body.
    if _word(row.extension) != row.extension:
        raise Malformed(f"extension: a word of at most {WORD_CHARS_MAX} characters is expected")
    words = (_word(row.type), _word(row.direction))
    if words != (row.type, row.direction):
        row = replace(row, type=words[0], direction=words[1])
    if row.keep and len(json.dumps(dict(row.keep))) > KEEP_CHARS_MAX:
        row = replace(row, keep={})
    return row


def _word(value: str) -> str:
    return value if fits_header(value) and len(value) <= WORD_CHARS_MAX else ""


def _bad_row(raw_row: object, reason: str) -> BadRow:
    text, identity = json.dumps(raw_row, sort_keys=True), ""
    with suppress(Malformed):
        identity = text = canonical_id(raw_row.get("id") if isinstance(raw_row, dict) else None)
    return BadRow(hashlib.sha256(text.encode()).hexdigest()[:32], reason, identity)


def _kind(value: object) -> str:
    return "nothing" if value is None or value == "" else type(value).__name__


def registered() -> Mapping[str, Provider]:
    """All providers by name. Adding one adds its line here."""
    from pollwire.providers.intelli import Intelli
    from pollwire.providers.kirimdev import Kirimdev
    from pollwire.providers.ringcentral import RingCentral
    from pollwire.providers.youmail import YouMail

    providers: Iterable[Provider] = (YouMail(), Intelli(), Kirimdev(), RingCentral())
    return {provider.name: provider for provider in providers}
