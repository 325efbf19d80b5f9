"""
The nouns.

An instant is an ``int``, milliseconds since the epoch, UTC (``…_ms``); a duration is a number of
seconds (``…_s``). Marks, cursors and ids belong to the provider: strings, kept verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from pollwire.errors import Misconfigured
from pollwire.exchange import Request, Response
from pollwire.tokens import Token

#: Of one connection: 8 to 16 million accounts.
SHARDS_MAX: Final = 16_384

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def require_texts(values: Mapping[str, str], where: str) -> None:
    """
    Refuse what is no text, as ``True`` for ``"true"``.

    Raises:
        Misconfigured: Names it.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise Misconfigured(f'{where}.{name}: a text is expected, as "{value}"')


#: Of settings, names and values: every check reads those of all accounts.
SETTINGS_CHARS_MAX: Final = 4_000


def require_known(settings: Mapping[str, str], where: str) -> None:
    """
    Refuse settings that cannot be registered; what is stored already is read as it is.

    Raises:
        Misconfigured: Names the setting.
    """
    require_texts(settings, f"{where}.settings")
    if settings.get("backfill", "false") not in ("true", "false"):
        # Another word would be no, and what there is at first is not told later.
        raise Misconfigured(f'{where}.settings.backfill: "true" or "false"')
    if sum(map(len, (*settings, *settings.values()))) > SETTINGS_CHARS_MAX:
        raise Misconfigured(
            f"{where}.settings: {SETTINGS_CHARS_MAX} characters at most; shorten them"
        )


def _nothing() -> Mapping[str, str]:
    return NOTHING  # not hashable before Python 3.12, so no default by itself


#: A connection's name, and (longer) an account's id: they are parts of keys, which ``#`` separates.
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
ACCOUNT_ID: Final = re.compile(r"[A-Za-z0-9._@+:~=-]{1,200}")

#: ``Seen.raw`` of an account that the provider knows nothing of yet: empty, and known to be.
KNOWN_EMPTY: Final = "-"


@dataclass(frozen=True, slots=True)
class Connection:
    """
    One customer's use of a provider.

    Attributes:
        name: Unique in the deployment; see ``NAME``.

        provider: Name of a registered provider.

        hosts: Base URL by role, as ``{"api": "https://api.youmail.com"}``. A role that is missing
            has the provider's own host.

        interval_s: Seconds between two checks of an account that changed lately.

        slowest_s: Seconds between two checks of an account that has been quiet for long.

        requests_per_second: What all checks of the connection together may ask of the provider.

        shards: Number of shards its accounts are spread over, a power of two; it doubles by itself.

        accounts: How many are registered, as far as was counted.

        outages: Checks in a row to which nobody answered; above 0 only one shard is checked.

        paused_until_ms: No check before this instant; 0 if it is not paused.

        watched_until_ms: Some account of it has ids to be watched until then; 0 if none has.

        settings: The provider's own settings, by name.

        credential: Sealed credential that all accounts share, or ``None``.

        push_secret: Sealed secret that its provider's notifications are verified with, or ``None``.
    """

    name: str
    provider: str
    hosts: Mapping[str, str] = field(default_factory=_nothing)
    interval_s: int = 60
    slowest_s: int = 900
    requests_per_second: float = 50.0
    shards: int = 1
    accounts: int = 0
    outages: int = 0
    paused_until_ms: int = 0
    watched_until_ms: int = 0
    settings: Mapping[str, str] = field(default_factory=_nothing)
    credential: bytes | None = field(default=None, repr=False)
    push_secret: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """
        Refuse what could not be scheduled.

        Raises:
            Misconfigured: Names the field and what it may hold.
        """
        if not NAME.fullmatch(self.name):
            raise Misconfigured(
                "connection.name: 1 to 64 letters, digits, dots, dashes, underscores"
            )
        if not 1 <= self.interval_s <= 86_400:
            raise Misconfigured("connection.interval_s: 1 to 86400 seconds")
        if not self.interval_s <= self.slowest_s <= 86_400:
            raise Misconfigured("connection.slowest_s: from interval_s to 86400 seconds")
        if not 0 < self.requests_per_second <= 100_000:
            raise Misconfigured("connection.requests_per_second: more than 0, at most 100000")
        if not 1 <= self.shards <= SHARDS_MAX or self.shards & (self.shards - 1):
            raise Misconfigured(f"connection.shards: 1, 2, 4, 8, ... up to {SHARDS_MAX}")
        require_texts(self.hosts, "connection.hosts")
        require_texts(self.settings, "connection.settings")


@dataclass(frozen=True, slots=True)
class Turn:
    """
    Which of a shard's instants a check is for.

    Attributes:
        due_ms: The instant.

        after_s: Seconds after the shard's regular instant, for a look at what is watched only.

        interval_s: Seconds between two regular instants.
    """

    due_ms: int = 0
    after_s: int = 0
    interval_s: int = 1

    def of(self, every_s: int) -> bool:
        """Tell whether it is the turn of what may be asked for so many seconds apart only."""
        if not self.after_s:
            return True
        return self.after_s % every_s == 0 and self.after_s + every_s <= self.interval_s


@dataclass(frozen=True, slots=True)
class Account:
    """
    One subscriber polled over a connection, as its provider's module sees it.

    Attributes:
        connection: Name of the connection.

        id: The provider's id of the subscriber.

        hosts: Base URL by role, without a slash at the end.

        settings: The connection's settings overlaid with the account's own.

        credential: Opened credential by field name (``username``, ``password``, ...); empty where
            the provider's call needs none.

        token: Access token.

        watched: Ids that an operator asked to have an eye on until they are final.

        turn: Of a check: which instant it is for.
    """

    connection: str
    id: str
    hosts: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=_nothing)
    credential: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    token: Token = field(default_factory=Token, repr=False, compare=False)
    watched: frozenset[str] = frozenset()
    turn: Turn = Turn()


@dataclass(frozen=True, slots=True)
class Stream:
    """
    One kind of thing that changes in an account.

    Attributes:
        overlap_s: How late a row may show up after the mark that speaks of it. Every delta reads
            at least this far back again, and a mark stays pending this long after it was first
            seen.

        reread_s: How far back every delta reads again, if that is more: how late a row may show up
            after its own timestamp (a call is listed when it has ended, under its start).

        cache_s: How long the provider may answer from a cache. Two sightings that are to confirm
            each other lie at least this far apart.

        snapshot: A delta lists everything there is; what it no longer lists was deleted.

        path: What follows ``/extension/{extensionId}/`` in the filter path of its events
            (``message-store``, ``presence?detailedTelephonyState=true``), or ``None`` for a path
            of our own, ``/pollwire/v1/{provider}/account/{accountId}/{stream}``.

        flat: The fields of a record are the body of its events, instead of lying under ``record``.

        baseline: What there is at first is recorded without a word; if not, it is news.

        reconcile_s: Seconds after which everything is listed once more, to find what the delta
            cannot show (deletions without a tombstone); 0 for never.

        volatile: Fields of a row that say nothing about the thing itself; no part of its hash.

        guarded: Many things that are missing at once are believed to be deleted after an hour only:
            it may be an outage.

        watch_s: Seconds between two looks at the ids that are watched, if the checks of a
            connection are further apart than that; 0 for a stream that has no such.

        watch_id: What an id that can be watched looks like: a regular expression.
    """

    overlap_s: int = 60
    reread_s: int = 0
    cache_s: int = 10
    snapshot: bool = False
    path: str | None = None
    flat: bool = False
    baseline: bool = True
    reconcile_s: int = 0
    volatile: frozenset[str] = frozenset()
    guarded: bool = True
    watch_s: int = 0
    watch_id: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What the last check of an account brought.

    Attributes:
        raw: The answer that holds the marks, verbatim; empty before the first one.

        etag: Validator to send as ``If-None-Match``; empty if there is none that may be trusted.

        modified: Validator to send as ``If-Modified-Since``; likewise.

        changed_ms: When an answer that differed was last seen, our clock; 0 if never.

        doubtful: The answer may be damaged (a value went backwards, as in a body cut short): what
            it reports is fetched, but it must be seen twice before it is kept.
    """

    raw: str = ""
    etag: str = ""
    modified: str = ""
    changed_ms: int = 0
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """
    One thing of a stream as the provider lists it now, in our normal form.

    Attributes:
        id: Canonical: see :func:`canonical_id`.

        updated_at: The provider's own words for when it last changed, verbatim; empty if it does
            not say.

        at_ms: The same as an instant, for ordering; 0 if it does not say.

        body: Our normal form, published as ``record``. JSON values only.

        deleted: A tombstone.

        type: ``VoiceMail``, ``SMS``, ``Fax`` or ``Pager`` for a message, else empty.

        direction: ``Inbound`` or ``Outbound`` for a message or a call, else empty.

        extension: Extension id where the provider has extensions, else empty.

        rank: A row of lower rank than the record is out of date, whatever its time says: a message
            that was read is not on its way any more.

        final: Nothing more will happen to it; it is not watched any longer.

        keep: What an event says of it beside its id when it is found missing from a listing.
    """

    id: str
    updated_at: str
    at_ms: int
    body: Mapping[str, Any] = field(repr=False)
    deleted: bool = False
    type: str = ""
    direction: str = ""
    extension: str = ""
    rank: int = 0
    final: bool = False
    keep: Mapping[str, Any] = field(default_factory=_nothing, repr=False)


@dataclass(frozen=True, slots=True)
class BadRow:
    """
    A row that cannot be read. It is recorded and counted; its neighbours go on.

    Attributes:
        key: Something that names it again at the next delta: its id, or a hash of it.

        reason: A field name and what is wrong with it; no value.

        id: Its id as :attr:`Row.id`, empty if that cannot be read either.
    """

    key: str
    reason: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """
    Where a delta starts.

    Attributes:
        since_ms: Everything that changed at this provider time or later is asked for; ``None``
            asks for everything.

        cursor: The provider's own cursor (a sync token), for one that has such; else empty.

        resume: A place inside a list, from :attr:`Page.resume`; empty for its start.
    """

    since_ms: int | None = None
    cursor: str = ""
    resume: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of a delta.

    Attributes:
        rows: In the provider's order.

        bad: Rows that cannot be read.

        resume: Where the list goes on, or empty: this was the last page.

        cursor: The provider's own cursor after this page; only the last page's counts.

        date_ms: The provider's clock, or ``None`` if it did not say.

        whole: A listing without a start lists everything; what it lacks was deleted. False where
            the provider may have left something out.

        gaps: Places where the provider holds more than it can be made to tell.

        steps: Its place is later than the one before in an order that the provider keeps: the list
            ends, however often rows are repeated.

        mark: The mark that a check makes of the same answer, where it says how things are and not
            since when: they may be so again. Empty otherwise.
    """

    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...] = ()
    resume: str = ""
    cursor: str = ""
    date_ms: int | None = None
    whole: bool = True
    gaps: int = 0
    steps: bool = False
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """
    One row of a stream as we last saw it.

    Attributes:
        id: As :attr:`Row.id`.

        rev: How many events of it were decided so far.

        digest: Hash of its content.

        updated_at: As :attr:`Row.updated_at`.

        at_ms: As :attr:`Row.at_ms`.

        gone: It was deleted; kept so that an id used again goes on counting.

        missing_ms: When a full listing first lacked it; 0 if the last one had it.

        back_digest: Content of a version with an older timestamp, waiting to be seen again.

        back_ms: When that version was first seen.

        type: As :attr:`Row.type`, for the event that says it was deleted; so are the next two.

        rank: As :attr:`Row.rank`.

        keep: As :attr:`Row.keep`.

        told: The kind of the last change that was told of it, as :attr:`Change.kind`; empty if
            nothing was, or if an older version told it.

        told_ms: When that was decided, our clock; likewise 0.

        sequence: The number of its event; likewise.

        epoch: Of its stream, when that was; likewise.

        states: How often those were told that it may come back to; see :mod:`pollwire.decide`.

        more: Attributes of its item that this version of the code does not know.
    """

    id: str
    rev: int = 0
    digest: str = ""
    updated_at: str = ""
    at_ms: int = 0
    gone: bool = False
    missing_ms: int = 0
    back_digest: str = ""
    back_ms: int = 0
    type: str = ""
    direction: str = ""
    extension: str = ""
    rank: int = 0
    keep: Mapping[str, Any] = field(default_factory=_nothing, repr=False)
    told: str = ""
    told_ms: int = 0
    sequence: int = 0
    epoch: int = 0
    states: Mapping[str, int] = field(default_factory=lambda: {})
    more: Mapping[str, Any] = field(default_factory=_nothing, repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """
    A decided change.

    Attributes:
        kind: ``created``, ``updated`` or ``deleted``.

        rev: Revision of the record with this change in it: 1 for the first.

        again: How often the same was told of the record before; below 0 if that is not known.

        at_ms: When it happened, by the provider's clock; 0 if that says nothing of it.
    """

    kind: str
    row: Row
    digest: str
    rev: int
    again: int = 0
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Repeat:
    """
    A change that was told before and is to be told once more, as it was.

    Attributes:
        sequence: Its number within the account's stream.

        decided_ms: The instant of the decision, our clock.

        epoch: Of the stream then, see :class:`pollwire.items.StreamState`.
    """

    change: Change
    sequence: int
    decided_ms: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """
    A change as published.

    Attributes:
        uuid: Never varies for one change.

        body: The event as JSON text, ASCII only.

        attributes: SNS message attributes for filters; none is empty.

        group: Message group: one an account and stream.

        entity: What must not overtake itself: hash of the record's id.

        at_ms: When it happened, by the provider's clock; where that says nothing of the change, as
            *seen_ms*. 0 if an older version made it.

        seen_ms: When a check saw that there is something new, our clock.
    """

    uuid: str
    body: str
    attributes: Mapping[str, str]
    group: str
    entity: str
    at_ms: int = 0
    seen_ms: int = 0


@dataclass(frozen=True, slots=True)
class CheckJob:
    """
    Check one shard, or one account of it.

    Attributes:
        due_ms: The instant it is due.

        interval_s: Seconds until the next one; picked up later than that, it is dropped.

        after_s: Of a look at what is watched only: seconds after the regular instant before it.

        account: The only one to check, beside the regular instants; empty for all of the shard.
    """

    connection: str
    shard: int
    due_ms: int
    interval_s: int
    after_s: int = 0
    account: str = ""

    @property
    def correlation_id(self) -> str:
        """Name the check: what comes of it bears the same name, to the events."""
        return f"{self.connection}/{self.shard}/{self.due_ms}"


@dataclass(frozen=True, slots=True)
class DeltaJob:
    """
    Fetch what changed in one stream of one account.

    Attributes:
        pending: Elements of the account's ``pending`` set that ask for it.

        due_ms: The instant of the check that queued it.

        full: List everything once more, whatever the cursor says.
    """

    connection: str
    shard: int
    account: str
    stream: str
    pending: tuple[str, ...]
    due_ms: int
    full: bool = False

    @property
    def correlation_id(self) -> str:
        """Name the check that queued it, as that does."""
        return f"{self.connection}/{self.shard}/{self.due_ms}"


#: A check in parts: it yields a request, is sent the answer, and returns what it saw.
Checking = Generator[Request, Response, Seen]
