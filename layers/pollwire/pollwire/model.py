"""
The nouns.

An instant is an ``int``, milliseconds since the epoch, UTC (``…_ms``); a duration is a number of
seconds (``…_s``). Marks, cursors and ids belong to the provider: strings, kept verbatim.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pollwire.errors import Malformed, Misconfigured, Unasked

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


OK: Final = frozenset({200})

#: A connection's name, and (longer) an account's id: they are parts of keys, which ``#`` separates.
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
ACCOUNT_ID: Final = re.compile(r"[A-Za-z0-9._@+:~=-]{1,200}")

#: How long a budget is taken to be used up: if only an instant is said, and no time to compare it
#: with; and at most, whatever is said.
SPENT_S: Final = 60
SPENT_S_MAX: Final = 3600

#: A reset that is larger than this is an instant, not a number of seconds to wait.
EPOCH_S_MIN: Final = 1_000_000_000

_NOTHING_LEFT: Final = re.compile(r"0+(\.0*)?")
_SECONDS: Final = re.compile("[0-9]{1,15}")

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


class Grant(NamedTuple):
    """
    An access token as it was given.

    Attributes:
        old_ms: From then on somebody should get a new one; 0 if its life is not known.

        ends_ms: From then on the provider refuses it; likewise.
    """

    value: str = ""
    old_ms: int = 0
    ends_ms: int = 0


#: How long nobody may ask for a token once somebody did: so one user's workers, however many, ask
#: four times a minute at most, whatever becomes of the token.
RENEWAL_MS: Final = 15_000

#: How soon a worker looks again whether the others have the token they ask for.
RENEWAL_LOOK_MS: Final = 1_000


class Token:
    """
    The access token that all workers of one credential share.

    Args:
        load: Reads the shared one; one without a value if there is none.

        share: Writes a new one for the others.

        claim: Asks for the right to get a new one, for ``RENEWAL_MS``; false if another has it.

        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        load: Callable[[], Grant] = Grant,
        share: Callable[[Grant], None] = lambda grant: None,
        claim: Callable[[], bool] = lambda: True,
        clock: Callable[[], int] = lambda: 0,
    ) -> None:
        self._load, self._share, self._claim, self._clock = load, share, claim, clock
        self._grant: Grant | None = None
        self._refused = ""
        self._wait_until_ms = 0

    @property
    def value(self) -> str:
        """The token, or an empty text if one has to be got."""
        if self._grant is None or 0 < self._grant.ends_ms <= self._clock():
            self._look()
        return self._grant.value if self._grant else ""

    @property
    def is_fresh(self) -> bool:
        """There is one, and it will do for long."""
        return bool(self.value) and not self._is_old()

    def renews(self) -> bool:
        """
        Tell whether this worker is to get a new one now, and :meth:`renew` it.

        Long before the end of a token one worker gets the next, while the others use the old one.

        Raises:
            Unasked: There is none, and another worker is getting it.
        """
        if self.is_fresh:
            return False
        if self._clock() >= self._wait_until_ms:
            self._look()
            if self.is_fresh:
                return False
            is_mine = self._claim()
            self._wait_until_ms = self._clock() + (RENEWAL_MS if is_mine else RENEWAL_LOOK_MS)
            if is_mine:
                return True
        if self.value:
            return False
        raise Unasked("another worker is getting the access token")

    def renew(self, value: str, lasts_s: int = 0) -> None:
        """
        Take a new one and share it.

        Args:
            lasts_s: Seconds until it ends; 0 if that is not known.
        """
        now_ms, lasts_ms = self._clock(), max(lasts_s, 0) * 1000
        grant = Grant(value)
        if lasts_ms:
            grant = Grant(value, now_ms + lasts_ms // 2, now_ms + lasts_ms)
        self._grant, self._wait_until_ms = grant, 0
        self._share(grant)

    def refuse(self, value: str) -> None:
        """Forget a token that the provider refuses; another worker may have shared a new one."""
        if self._grant is None or self._grant.value == value:
            self._refused = value
            self._look()

    def _look(self) -> None:
        grant = self._load()
        is_over = 0 < grant.ends_ms <= self._clock() or grant.value == self._refused
        self._grant = Grant() if is_over else grant

    def _is_old(self) -> bool:
        return self._grant is not None and 0 < self._grant.old_ms <= self._clock()


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
class Request:
    """
    One HTTP request to a provider.

    Attributes:
        url: Absolute; its host must be one of the account's hosts.

        form: Body as ``application/x-www-form-urlencoded``; ``None`` for no body.

        expect: Statuses to which the provider's documentation gives a meaning. Every other status
            becomes an error before the provider's module sees it.

        secret: The request carries a credential: never over plain http to a public host.

        budget: Which of the provider's rate budgets it counts against, where there are several:
            when an answer says that one is used up, only what counts against it has to wait.
    """

    url: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=_nothing)
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    expect: frozenset[int] = OK
    secret: bool = False
    budget: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """
    An answer with one of the expected statuses.

    Attributes:
        headers: Names in lower case.

        body: Complete, decoded from gzip, at most the size cap.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def date_ms(self) -> int | None:
        """The provider's clock when it answered, or ``None`` if it did not say."""
        return _date_ms(self.headers.get("date", ""))

    @property
    def spent_s(self) -> int:
        """
        Seconds to ask nothing more, if the answer says that a rate budget is used up; else 0.

        Read from ``X-Rate-Limit-Remaining`` with ``-Window`` (seconds) or ``-Reset`` (seconds, or
        seconds since the epoch), with or without the dash in ``RateLimit``; at most an hour.
        """
        headers = self.headers
        left = headers.get("x-rate-limit-remaining") or headers.get("x-ratelimit-remaining")
        if left is None or not _NOTHING_LEFT.fullmatch(left.strip()):
            return 0
        for name in ("window", "reset"):
            said = headers.get(f"x-rate-limit-{name}") or headers.get(f"x-ratelimit-{name}") or ""
            if _SECONDS.fullmatch(said.strip()):
                return min(max(self._wait_s(int(said)), 1), SPENT_S_MAX)
        return 1

    def _wait_s(self, said_s: int) -> int:
        if said_s < EPOCH_S_MIN:
            return said_s
        instant_s = said_s // 1000 if said_s >= EPOCH_S_MIN * 1000 else said_s
        return SPENT_S if self.date_ms is None else instant_s - self.date_ms // 1000

    def json(self) -> dict[str, Any]:
        """
        Parse the body as one JSON object, strictly.

        Raises:
            Malformed: It is no JSON object, repeats a key, nests too deep, or holds a number that
                is not finite.
        """
        return _object(self.body)


@dataclass(frozen=True, slots=True)
class Notification:
    """
    What somebody sent to the push function: a provider, perhaps.

    Attributes:
        headers: Names in lower case.

        body: As it came, byte by byte; nothing in it is true before it is verified.
    """

    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    body: bytes = field(default=b"", repr=False)

    def json(self) -> dict[str, Any]:
        """
        Parse the body as :meth:`Response.json` does.

        Raises:
            Malformed: As there.
        """
        return _object(self.body)


@dataclass(frozen=True, slots=True)
class Pushed:
    """
    What a verified notification says.

    Attributes:
        accounts: Ids of the accounts that something happened to, as the provider has them.

        said_ms: When the provider said so; ``None`` if it does not tell.

        headers: That the provider expects in the answer.
    """

    accounts: tuple[str, ...] = ()
    said_ms: int | None = None
    headers: Mapping[str, str] = field(default_factory=_nothing)


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
    """

    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...] = ()
    resume: str = ""
    cursor: str = ""
    date_ms: int | None = None
    whole: bool = True
    gaps: int = 0
    steps: bool = False


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
    """

    kind: str
    row: Row
    digest: str
    rev: int
    again: int = 0


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


@lru_cache(maxsize=256)
def _date_ms(text: str) -> int | None:
    # Those who answer a whole shard say few of them.
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000)


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


Fetch = Callable[[Request], Response]
Checking = Generator[Request, Response, Seen]


def _object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object, strictly."""
    try:
        parsed = json.loads(
            body,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not the JSON it should be: {type(error).__name__}") from error
    if not isinstance(parsed, dict):
        raise Malformed(f"the body is a JSON {type(parsed).__name__}, not an object")
    return parsed


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a key is repeated")
    return parsed


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return number
