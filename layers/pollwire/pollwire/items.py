"""
The table's items, read and written as nouns. Pure: the calls are in :mod:`pollwire.state`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, TypeVar

from pollwire.model import NOTHING, Connection, Event, Record

Item = Mapping[str, Any]
Noun = TypeVar("Noun")

_parse: Final = json.JSONDecoder().raw_decode

#: How the attributes are called that say when a stream was listed from end to end.
LISTED = "listed_"

#: Attributes of an account that every check reads.
CHECKED = (
    "sk",
    "marks",
    "pending",
    "failures",
    "not_before",
    "standing",
    "settings",
    "watched",
)

#: What an item raises that cannot be read, whoever wrote it.
UNREADABLE: Final = (KeyError, ValueError, TypeError, AttributeError, RecursionError)

#: Attributes of a stream that does not come on.
TROUBLE = ("trouble", "trouble_at", "failures", "not_before")

#: Bytes of events that one decision may hold: below an item's 400 KB even if nothing compresses.
OUTBOX_BYTES_MAX = 256 * 1024

#: Ids up to this many bytes are readable in a sort key (which holds 1,024); longer ones are hashed.
KEY_BYTES_MAX = 512


#: Attributes of a connection that the stages write.
NOTED = frozenset({"shards", "accounts", "outages", "paused_until", "watched_until"})

#: Attributes of an account that the stages write.
STANDING = (
    *("marks", "pending", "was_empty", "watched", "failures", "not_before", "trouble"),
    "pushed_at",
)

#: Those that an operator writes.
OPERATED = ("standing", "settings", "credential")


@dataclass(frozen=True, slots=True)
class Newcomer:
    """
    An account to be registered.

    Attributes:
        settings: Its own settings, by name.

        credential: Sealed, or ``None``.
    """

    account: str
    settings: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    credential: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """
    How an account stands.

    Attributes:
        marks: The last answer, packed (see :mod:`pollwire.marks`); empty before the first one.

        pending: Marks that no delta has answered for yet.

        was_empty: The provider knew nothing of it at first, so all there is, is news.

        failures: Failures in a row.

        not_before_ms: It is left alone until then.

        paused: An operator paused it.

        settings: Its own settings, by name.

        credential: Sealed, or ``None``.

        watched: Ids to have an eye on.

        listed: When streams were last listed from end to end, by :func:`listed_name`.
    """

    account: str
    marks: str = ""
    pending: frozenset[str] = frozenset()
    was_empty: bool = False
    failures: int = 0
    not_before_ms: int = 0
    paused: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    credential: bytes | None = field(default=None, repr=False)
    watched: frozenset[str] = frozenset()
    listed: Mapping[str, int] = field(default_factory=lambda: {})

    def listed_ms(self, stream: str) -> int:
        """When a stream was last listed from end to end; 0 if it never was."""
        return self.listed.get(listed_name(stream), 0)


@dataclass(frozen=True, slots=True)
class Listing:
    """
    An account as it is shown to an operator.

    Attributes:
        shard: Where it lies now.

        standing: ``None`` if it cannot be read.

        trouble: Its last failure; empty if it has not failed since.
    """

    account: str
    shard: int
    standing: Standing | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class StreamListing:
    """
    A stream of an account as it is shown to an operator.

    Attributes:
        state: ``None`` if it cannot be read.

        trouble: Why its last delta failed; empty if it has not failed since.

        trouble_ms: When that was; 0 for never.

        records: How many are known, deleted ones included; no more than were counted.

        bad_rows: Reasons of the rows that could not be read, by key; no more than were counted.
    """

    state: StreamState | None
    trouble: str = ""
    trouble_ms: int = 0
    records: int = 0
    bad_rows: Mapping[str, str] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class Drain:
    """
    A delta that is not through yet.

    Attributes:
        mode: See :mod:`pollwire.decide`.

        since_ms: Where it started; ``None`` for everything.

        place: The provider's own cursor it started with.

        resume: The page that comes next.

        newest_ms: Newest provider time so far.

        began_ms: Our clock when it began.

        unsettled: Something was seen that must be seen again before it is believed.

        full: It lists everything, and what it lacks was deleted.

        pages: How many there were so far.

        news: Something differed from what was known.

        replays: Elements of the pending set that ask for events to be told again, which it does.

        asked: How many were to be told again when it began.

        repeated: How many were told again so far.
    """

    mode: str
    since_ms: int | None
    place: str
    resume: str
    newest_ms: int
    began_ms: int
    unsettled: bool = False
    full: bool = False
    pages: int = 0
    news: bool = False
    replays: tuple[str, ...] = ()
    asked: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class StreamState:
    """
    How far a stream of an account has come.

    Attributes:
        version: Fence: every write expects the version it read. 0 for a stream never written.

        reached_ms: Newest provider time of the last complete drain.

        previous_ms: The same of the one before.

        place: The provider's own cursor.

        drained_ms: When the last complete drain began, our clock; 0 if there was none.

        outbox: Decided, perhaps not published yet, in order.

        seq: Number of the last event.

        told_ms: When the last change was decided, our clock; 0 if there was none.

        reconciled_ms: When the last drain of everything began, our clock.

        failures: Deltas in a row that failed.

        not_before_ms: It is left alone until then.

        is_restored: What is known of it was written in another table, which this one was restored
            from, and it was not read to its end since.

        epoch: Number of the last event until it was; 0 for a stream that never was restored.
    """

    version: int = 0
    reached_ms: int = 0
    previous_ms: int = 0
    place: str = ""
    drained_ms: int = 0
    drain: Drain | None = None
    outbox: tuple[Event, ...] = ()
    seq: int = 0
    reconciled_ms: int = 0
    failures: int = 0
    not_before_ms: int = 0
    told_ms: int = 0
    is_restored: bool = False
    epoch: int = 0


def listed_name(stream: str) -> str:
    """Name the attribute that says when a stream was last listed from end to end."""
    return f"{LISTED}{stream.replace('-', '_')}"


def record_sk(identity: str) -> str:
    encoded = identity.encode()
    if len(encoded) <= KEY_BYTES_MAX and not identity.startswith("sha256:"):
        return f"r#{identity}"
    return f"r#sha256:{hashlib.sha256(encoded).hexdigest()}"


def key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": text(pk), "sk": text(sk)}


def text(value: str) -> dict[str, str]:
    return {"S": value}


def number(value: float) -> dict[str, str]:
    return {"N": str(value)}


def _read_text(item: Item, name: str) -> str:
    found: str = item[name]["S"] if name in item else ""
    return found


def _read_int(item: Item, name: str) -> int:
    return int(item[name]["N"]) if name in item else 0


#: A map without entries, as it is written.
EMPTY = "{}"


def _read_map(item: Item, name: str) -> Mapping[str, Any]:
    written = item[name]["S"] if name in item else EMPTY
    parsed: Mapping[str, Any] = json.loads(written) if written != EMPTY else NOTHING
    return parsed


def _read_settings(written: str) -> Mapping[str, str]:
    """
    Read settings as texts, whatever they are.

    One step below ``json.loads``, which takes three times as long.
    """
    text = written.strip(" \t\r\n")
    settings, end = _parse(text)
    if end < len(text) or not isinstance(settings, dict):
        raise ValueError("settings: one JSON object is expected")
    return {name: str(value) for name, value in settings.items()}


def read_connection(item: Item) -> Connection:
    return Connection(
        name=item["sk"]["S"],
        provider=item["provider"]["S"],
        hosts=_read_map(item, "hosts"),
        interval_s=_read_int(item, "interval_s"),
        slowest_s=_read_int(item, "slowest_s"),
        requests_per_second=float(item["requests_per_second"]["N"]),
        shards=_read_int(item, "shards"),
        accounts=_read_int(item, "accounts"),
        outages=_read_int(item, "outages"),
        paused_until_ms=_read_int(item, "paused_until"),
        watched_until_ms=_read_int(item, "watched_until"),
        settings=_read_map(item, "settings"),
        credential=item["credential"]["B"] if "credential" in item else None,
        push_secret=item["push_secret"]["B"] if "push_secret" in item else None,
    )


def connection_item(connection: Connection) -> dict[str, Any]:
    item: dict[str, Any] = {
        **key("connection", connection.name),
        "provider": text(connection.provider),
        "hosts": text(json.dumps(dict(connection.hosts))),
        "interval_s": number(connection.interval_s),
        "slowest_s": number(connection.slowest_s),
        "requests_per_second": number(connection.requests_per_second),
        "shards": number(connection.shards),
        "accounts": number(connection.accounts),
        "outages": number(connection.outages),
        "paused_until": number(connection.paused_until_ms),
        "watched_until": number(connection.watched_until_ms),
        "settings": text(json.dumps(dict(connection.settings))),
    }
    if connection.credential:
        item["credential"] = {"B": connection.credential}
    return item


def connection_update(table: str, connection: Connection) -> dict[str, Any]:
    """
    Write what an operator decides; what the stages write is set where there is none yet.

    The secret of its provider's notifications has a way of its own, and stays as it is.
    """
    item = connection_item(connection)
    where = {name: item.pop(name) for name in ("pk", "sk")}
    sets = [
        f"{name} = if_not_exists({name}, :{name})" if name in NOTED else f"{name} = :{name}"
        for name in item
    ]
    dropped = "" if connection.credential else " REMOVE credential"
    return {
        "TableName": table,
        "Key": where,
        "UpdateExpression": f"SET {', '.join(sets)}{dropped}",
        "ExpressionAttributeValues": {f":{name}": value for name, value in item.items()},
    }


def newcomer_item(pk: str, newcomer: Newcomer) -> dict[str, Any]:
    item = key(pk, newcomer.account)
    if newcomer.settings:
        item["settings"] = text(json.dumps(dict(newcomer.settings)))
    if newcomer.credential:
        item["credential"] = {"B": newcomer.credential}
    return item


def account_move(table: str, item: Item, pk: str) -> list[dict[str, Any]]:
    """Put an account's item under another key and delete the old one, if that is as it was read."""
    held = {name: value for name, value in item.items() if name not in ("pk", "sk")}
    same = ["attribute_exists(pk)", *(f"#{n} = :{n}" for n, _ in enumerate(held))]
    written = (*STANDING, *OPERATED)
    same += [f"attribute_not_exists({name})" for name in written if name not in held]
    names = {f"#{n}": name for n, name in enumerate(held)}
    values = {f":{n}": value for n, value in enumerate(held.values())}
    old: dict[str, Any] = {
        "TableName": table,
        "Key": {name: item[name] for name in ("pk", "sk")},
        "ConditionExpression": " AND ".join(same),
    }
    if held:
        old |= {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
    new = {
        "TableName": table,
        "Item": {**item, "pk": text(pk)},
        "ConditionExpression": "attribute_not_exists(pk)",
    }
    return [{"Put": new}, {"Delete": old}]


def read_standing(item: Item, listed: Iterable[str] = ()) -> Standing:
    """
    Read how an account stands.

    Args:
        listed: Attributes that say when a stream was last listed from end to end.
    """
    return Standing(
        item["sk"]["S"],
        item["marks"]["S"] if "marks" in item else "",
        frozenset(item["pending"]["SS"]) if "pending" in item else frozenset(),
        "was_empty" in item,
        int(item["failures"]["N"]) if "failures" in item else 0,
        int(item["not_before"]["N"]) if "not_before" in item else 0,
        "standing" in item and item["standing"]["S"] == "paused",
        _read_settings(item["settings"]["S"]) if "settings" in item else NOTHING,
        item["credential"]["B"] if "credential" in item else None,
        frozenset(item["watched"]["SS"]) if "watched" in item else frozenset(),
        {name: int(item[name]["N"]) for name in listed if name in item},
    )


def read_listing(item: Item, shard: int) -> Listing:
    """Read an account for an operator, who is to see that one cannot be read."""
    standing = None
    with suppress(*UNREADABLE):
        standing = read_standing(item)
    return Listing(item["sk"]["S"], shard, standing, _read_text(item, "trouble"))


def read_stream(item: Item, table: str) -> StreamState:
    return StreamState(
        version=_read_int(item, "version"),
        reached_ms=_read_int(item, "reached"),
        previous_ms=_read_int(item, "previous"),
        place=_read_text(item, "place"),
        drained_ms=_read_int(item, "drained_at"),
        reconciled_ms=_read_int(item, "reconciled_at"),
        drain=_read_drain(item),
        outbox=_unpack_events(item["outbox"]["B"]) if "outbox" in item else (),
        seq=_read_int(item, "seq"),
        failures=_read_int(item, "failures"),
        not_before_ms=_read_int(item, "not_before"),
        told_ms=_read_int(item, "told_at"),
        is_restored=_read_text(item, "home") not in ("", _home(table)),
        epoch=_read_int(item, "epoch"),
    )


def read_stream_listing(
    item: Item, table: str, records: int, bad_rows: Mapping[str, str]
) -> StreamListing:
    """Read a stream for an operator, who is to see that one cannot be read."""
    state = None
    with suppress(*UNREADABLE, zlib.error):
        state = read_stream(item, table)
    trouble, trouble_ms = _read_text(item, "trouble"), _read_int(item, "trouble_at")
    return StreamListing(state, trouble, trouble_ms, records, bad_rows)


def _home(table: str) -> str:
    """Name the table that an item is written in, as short as will do: items are paid by size."""
    return f"{zlib.crc32(table.encode()):08x}"


def cursor_update(table: str, pk: str, old: StreamState, new: StreamState) -> dict[str, Any]:
    """Write an update, not a put: attributes of a newer version of this code stay as they are."""
    values: dict[str, Any] = {
        "version": number(new.version),
        "reached": number(new.reached_ms),
        "previous": number(new.previous_ms),
        "place": text(new.place),
        "drained_at": number(new.drained_ms),
        "reconciled_at": number(new.reconciled_ms),
        "seq": number(new.seq),
        "told_at": number(new.told_ms),
    }
    if not new.is_restored:
        values["home"] = text(_home(table))
    if new.epoch:
        values["epoch"] = number(new.epoch)
    if new.drain:
        values["drain"] = text(json.dumps(asdict(new.drain)))
    if new.outbox:
        values["outbox"] = {"B": _pack_events(new.outbox)}
    expression = "SET " + ", ".join(f"{name} = :{name}" for name in values)
    # A stream that is written comes on: what was in its way is over.
    dropped = [name for name in ("drain", "outbox") if name not in values]
    expression += " REMOVE " + ", ".join([*dropped, *TROUBLE])
    fence = "attribute_not_exists(version)"
    if old.version:
        fence = "version = :old"
        values["old"] = number(old.version)
    return {
        "TableName": table,
        "Key": key(pk, "cursor"),
        "UpdateExpression": expression,
        "ConditionExpression": fence,
        "ExpressionAttributeValues": {f":{name}": value for name, value in values.items()},
    }


def _pack_events(events: Sequence[Event]) -> bytes:
    said = [{name: getattr(event, name) for name in event.__slots__} for event in events]
    return zlib.compress(json.dumps(said).encode(), 1)


def _unpack_events(packed: bytes) -> tuple[Event, ...]:
    return tuple(_known(Event, one) for one in json.loads(zlib.decompress(packed)))


def _read_drain(item: Item) -> Drain | None:
    """Read a drain; one that cannot be read begins anew, from the cursor."""
    try:
        drain = _known(Drain, json.loads(item["drain"]["S"]))
        return replace(drain, replays=tuple(drain.replays))
    except UNREADABLE:
        return None


def _known(noun: type[Noun], written: dict[str, Any]) -> Noun:
    """Read a noun that a newer version of this code may have written with more fields."""
    names = noun.__slots__  # type: ignore[attr-defined]
    return noun(**{name: written[name] for name in names if name in written})


#: Attributes of a record that this version of the code knows.
_OF_RECORD = frozenset(
    {
        *("pk", "sk", "full_id", "rev", "digest", "updated_at", "at_ms", "gone", "missing_at"),
        *("back_digest", "back_at", "kind", "direction", "extension", "grade", "keep", "states"),
        *("told", "told_at", "told_seq", "told_epoch"),
    }
)


def read_record(item: Item) -> Record:
    return Record(
        id=_read_text(item, "full_id") or item["sk"]["S"].removeprefix("r#"),
        rev=_read_int(item, "rev"),
        digest=_read_text(item, "digest"),
        updated_at=_read_text(item, "updated_at"),
        at_ms=_read_int(item, "at_ms"),
        gone="gone" in item,
        missing_ms=_read_int(item, "missing_at"),
        back_digest=_read_text(item, "back_digest"),
        back_ms=_read_int(item, "back_at"),
        type=_read_text(item, "kind"),
        direction=_read_text(item, "direction"),
        extension=_read_text(item, "extension"),
        rank=_read_int(item, "grade"),
        keep=_read_map(item, "keep"),
        told=_read_text(item, "told"),
        told_ms=_read_int(item, "told_at"),
        sequence=_read_int(item, "told_seq"),
        epoch=_read_int(item, "told_epoch"),
        states=_read_map(item, "states"),
        more={name: item[name] for name in item.keys() - _OF_RECORD},
    )


def record_item(record: Record) -> dict[str, Any]:
    """
    Write a record without its keys; what says nothing is left out, as items are paid by size.

    What a newer version of this code has written stays.
    """
    texts = {
        "digest": record.digest,
        "updated_at": record.updated_at,
        "back_digest": record.back_digest,
        "kind": record.type,
        "direction": record.direction,
        "extension": record.extension,
        "keep": json.dumps(dict(record.keep)) if record.keep else "",
        "states": json.dumps(dict(record.states)) if record.states else "",
        "full_id": "" if record_sk(record.id) == f"r#{record.id}" else record.id,
        "told": record.told,
    }
    numbers = {
        "rev": record.rev,
        "at_ms": record.at_ms,
        "missing_at": record.missing_ms,
        "back_at": record.back_ms,
        "grade": record.rank,
        "told_at": record.told_ms,
        "told_seq": record.sequence,
        "told_epoch": record.epoch,
    }
    item = {**record.more} | {name: text(value) for name, value in texts.items() if value}
    item |= {name: number(value) for name, value in numbers.items() if value}
    if record.gone:
        item["gone"] = {"BOOL": True}
    return item


def event_chunks(
    pairs: Iterable[tuple[Event | None, Record]], room: int
) -> Iterator[tuple[list[Event], list[Record]]]:
    """Cut decided events, each with its record, into decisions that one transaction holds."""
    events: list[Event] = []
    records: list[Record] = []
    size = 0
    for event, record in pairs:
        event_size = len(event.body) if event else 0
        if records and (len(records) == room or size + event_size > OUTBOX_BYTES_MAX):
            yield events, records
            events, records, size = [], [], 0
        records.append(record)
        if event:
            events.append(event)
            size += event_size
    if records:
        yield events, records
