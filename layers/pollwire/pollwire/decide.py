"""
What changed? Rows as the provider lists them, beside records as we last saw them.

Pure: the clock, the rows and the records come in, changes and records go out.

A change is known by the state that it leads to, and by how often its record was told to be in that
state before. So it is the same change when it is decided once more from older records, as after
the table was restored, whatever was told in between; and a state that comes back is another one.
States are remembered as long as the provider's time does not tell them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pollwire.events import canonical, digest
from pollwire.model import Change, Record, Repeat, Row, Start, Stream

#: So many rows may be missing from a full listing at once, or this share of all, and be believed at
#: the second sighting. More than that looks like an outage, and is believed after an hour only.
MISSING_MAX = 10
MISSING_SHARE_MAX = 0.2
MASS_CONFIRM_S = 3600

#: States of one record that are remembered; of a record with more, a change is its revision.
STATES_MAX = 20

#: Among the states of a record: it was deleted; its time went back; some are not remembered.
DELETED, EARLIER, FORGOTTEN = "deleted", "earlier", "forgotten"

BASELINE = "baseline"  # record what there is, say nothing
BACKFILL = "backfill"  # say of everything there is that it was created
LIVE = "live"


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What rows mean.

    Attributes:
        changes: Oldest first, by provider time.

        records: All records to write, those of *changes* among them, by id.

        unsettled: Something was seen that must be seen again before it is believed.

        held: Rows missing from a full listing, too many at once to be believed yet.

        repeats: What was told before and is to be told again; no news.
    """

    changes: tuple[Change, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)
    unsettled: bool = False
    held: int = 0
    repeats: tuple[Repeat, ...] = ()

    def joined(self, other: Decision) -> Decision:
        """Join two decisions; where both are about one record, this one stands."""
        return Decision(
            self.changes + other.changes,
            {**other.records, **self.records},
            self.unsettled or other.unsettled,
            self.held + other.held,
            self.repeats + other.repeats,
        )


def start(reached_ms: int, previous_ms: int, cursor: str, stream: Stream) -> Start:
    """
    Say where a delta starts.

    Every row lies within at least two complete drains, and the overlap is read again, so that ties
    at the cursor and late rows are found.

    Args:
        reached_ms: Newest provider time of the last complete drain; 0 if there was none.

        previous_ms: The same of the drain before.

        cursor: The provider's own cursor, if it has such.
    """
    if stream.snapshot or not reached_ms:
        return Start(cursor=cursor)
    back_s = max(stream.overlap_s, stream.reread_s)
    since_ms = min(reached_ms - back_s * 1000, previous_ms)
    return Start(since_ms=max(since_ms, 0), cursor=cursor)


def newest_ms(rows: Iterable[Row], clock_ms: int) -> int:
    """
    Say how far a page moves the cursor: its newest time, not beyond the provider's clock.

    Beyond it, one row from the future would hide all that follow.
    """
    return max((min(row.at_ms, clock_ms) for row in rows), default=0)


def decide(
    rows: Iterable[Row], records: Mapping[str, Record], stream: Stream, mode: str, now_ms: int
) -> Decision:
    """
    Tell what is created, updated and deleted among the rows of a delta.

    An equal timestamp with other content is a change. An *older* timestamp is believed at the
    second sighting only, when the provider's cache cannot hold it any more.

    Args:
        rows: In any order; of two rows with one id the newer counts, then the later.

        records: What we know of these ids; an unknown id is missing.

        mode: ``BASELINE``, ``BACKFILL`` or ``LIVE``.
    """
    changes: list[Change] = []
    written: dict[str, Record] = {}
    unsettled = False
    for row, old in _beside(_latest(rows), records):
        content = digest(row, stream.volatile)
        if old and (seen := _seen_again(old, row, content)):
            if seen is not old and seen != old:
                written[row.id] = seen
        elif old and _is_doubtful(old, row, content, stream, now_ms):
            unsettled = True
            back_ms = old.back_ms if old.back_digest == content else now_ms
            waiting = replace(old, missing_ms=0, back_digest=content, back_ms=back_ms)
            if waiting != old:
                written[row.id] = waiting
        else:
            kind = _kind(old, row, mode)
            rev = (old.rev if old else 0) + bool(kind)
            states, more = (_states(old, row.at_ms), old.more) if old else ({}, {})
            if kind:
                state = DELETED if row.deleted else _state(row.updated_at, content)
                again, states = _tell(states, state, rev)
                changes.append(Change(kind, row, content, rev, again, _happened_ms(old, row)))
            written[row.id] = _record(row, content, rev, states, more)
    return Decision(tuple(changes), written, unsettled)


def decide_missing(
    listed: Iterable[str], records: Mapping[str, Record], stream: Stream, now_ms: int
) -> Decision:
    """
    Tell what was deleted: known, but missing from two full listings.

    Args:
        listed: Every id of a complete listing of everything there is.

        records: Everything we know of the stream.
    """
    present = frozenset(listed)
    alive = [record for record in records.values() if not record.gone]
    absent = [record for record in alive if record.id not in present]
    mass = stream.guarded and len(absent) > max(MISSING_MAX, MISSING_SHARE_MAX * len(alive))
    confirm_ms = 1000 * (MASS_CONFIRM_S if mass else stream.cache_s)

    changes: list[Change] = []
    # What is listed is there, even if its row cannot be read or is out of date.
    back = [record for record in alive if record.missing_ms and record.id in present]
    written = {record.id: replace(record, missing_ms=0) for record in back}
    for record in sorted(absent, key=lambda record: (record.at_ms, record.id)):
        if not record.missing_ms:
            written[record.id] = replace(record, missing_ms=now_ms)
        elif now_ms - record.missing_ms >= confirm_ms:
            again, states = _tell(_states(record, record.at_ms), DELETED, record.rev + 1)
            change = _deletion(record, again)
            changes.append(change)
            written[record.id] = replace(
                record, gone=True, missing_ms=0, rev=change.rev, states=states
            )
    unsettled = len(absent) > len(changes)
    return Decision(tuple(changes), written, unsettled, len(absent) - len(changes) if mass else 0)


def told(record: Record) -> tuple[str, int, int]:
    """
    Name the last change that was told of a record: its kind, sequence and instant.

    An older version wrote none of that down. Then the kind is what it most likely was, the instant
    is the record's own, and the sequence is none above the true one.

    Returns:
        The kind is empty if nothing was told.
    """
    # An older version may have told more since, and left what it does not know as it was.
    is_known = record.told_ms and (record.told == "deleted") == record.gone
    if is_known or not record.rev:
        return record.told, record.sequence, record.told_ms
    kind = "created" if record.rev == 1 else "updated"
    return "deleted" if record.gone else kind, record.rev, record.at_ms


def is_told(record: Record, since_ms: int, until_ms: int | None = None) -> bool:
    """Tell whether the last change of a record was told at an instant or later, before another."""
    kind, _, at_ms = told(record)
    return bool(kind) and since_ms <= at_ms and (until_ms is None or at_ms < until_ms)


def decide_again(
    rows: Iterable[Row],
    records: Mapping[str, Record],
    stream: Stream,
    since_ms: int,
    *,
    deletions: bool,
) -> Decision:
    """
    Find what was told since an instant and is so still, to be told again under the same ids.

    A row that differs from its record is not: it is told as the change that it is. Nor is one that
    is not listed, unless it was deleted: that can be told by its record alone.

    Args:
        records: Those of the rows, or all.

        deletions: Tell deletions again, of all records; else none, as another part does.
    """
    same = {
        row.id: row
        for row, old in _beside(_latest(rows), records)
        if old and _same(old, row, digest(row, stream.volatile))
    }
    repeats = []
    for record in records.values():
        row = same.get(record.id)
        if record.gone:
            row = (row or _vanished(record)) if deletions else None
        if row and is_told(record, since_ms):
            kind, sequence, decided_ms = told(record)
            change = Change(kind, row, record.digest, record.rev, _told_before(record))
            repeats.append(Repeat(change, sequence, decided_ms, record.epoch))
    repeats.sort(key=lambda one: (one.sequence, one.change.row.id))
    written = {one.change.row.id: records[one.change.row.id] for one in repeats}
    return Decision(records=written, repeats=tuple(repeats))


def _latest(rows: Iterable[Row]) -> list[Row]:
    """Keep the newest row of each id, the later one of equals; sort by provider time."""
    latest: dict[str, Row] = {}
    for row in rows:
        if row.id not in latest or row.at_ms >= latest[row.id].at_ms:
            latest[row.id] = row
    return sorted(latest.values(), key=lambda row: (row.at_ms, row.id))


def _same(old: Record, row: Row, content: str) -> bool:
    return (old.digest, old.updated_at, old.gone) == (content, row.updated_at, row.deleted)


def _seen_again(old: Record, row: Row, content: str) -> Record | None:
    """
    Record that a thing is as it was, or still gone; ``None`` if it differs.

    Of a deletion is kept what was told, so that it can be told again, whatever else is said now.
    """
    seen = old
    if old.missing_ms or old.back_digest or old.back_ms:
        seen = replace(old, missing_ms=0, back_digest="", back_ms=0)
    if old.gone and row.deleted:
        return replace(seen, at_ms=max(old.at_ms, row.at_ms), rank=row.rank)
    return seen if _same(old, row, content) else None


def _is_doubtful(old: Record, row: Row, content: str, stream: Stream, now_ms: int) -> bool:
    """Tell whether a row is older than what we know, and was not seen so for long enough."""
    if not 0 < row.at_ms < old.at_ms or row.rank > old.rank:
        return False
    return old.back_digest != content or now_ms - old.back_ms < 2000 * stream.cache_s


def _kind(old: Record | None, row: Row, mode: str) -> str:
    """Name a change, or return "" for one that is recorded without a word."""
    if mode == BASELINE:
        return ""
    if row.deleted:
        # What was deleted before we ever looked is no news, nor is an id and nothing else.
        return "deleted" if old or (mode != BACKFILL and row.at_ms) else ""
    return "updated" if old and not old.gone else "created"


def _state(updated_at: str, content: str) -> str:
    return hashlib.sha256(canonical([updated_at, content]).encode()).hexdigest()[:8]


def _happened_ms(old: Record | None, row: Row) -> int:
    """
    Say when a change happened; 0 if the row does not.

    What is deleted bears the time of its last update, or none; and a time that stands where it was
    is that of an earlier change.
    """
    return 0 if row.deleted or (old and row.at_ms <= old.at_ms) else row.at_ms


def _states(old: Record, at_ms: int) -> dict[str, int]:
    """Say which states of a record were told that it may be in again, now or later."""
    told = dict(old.states)
    if old.rev and not old.gone:
        told.setdefault(_state(old.updated_at, old.digest), 1)
    known = sum(times for state, times in told.items() if state not in (EARLIER, FORGOTTEN))
    if at_ms < old.at_ms:
        told[EARLIER if known == old.rev else FORGOTTEN] = 1
    if len(told) > STATES_MAX:
        told[FORGOTTEN] = 1
    is_later = at_ms > old.at_ms and EARLIER not in told
    if is_later or FORGOTTEN in told:
        # A time later than all before tells what is now from all that was.
        told = {state: times for state, times in told.items() if state in (DELETED, FORGOTTEN)}
    return told


def _tell(told: dict[str, int], state: str, rev: int) -> tuple[int, dict[str, int]]:
    """Say how often a state was told before, and remember it where it may be told again."""
    if state != DELETED and FORGOTTEN in told:
        return -rev, told
    again = told.get(state, 0)
    # Else it is remembered as what its record says, until that changes.
    if state == DELETED or told.keys() - {DELETED, FORGOTTEN}:
        told = {**told, state: again + 1}
    return again, told


def _told_before(record: Record) -> int:
    """Say how often a record was told before to be in the state that it is in now."""
    state = DELETED if record.gone else _state(record.updated_at, record.digest)
    if state != DELETED and FORGOTTEN in record.states:
        return -record.rev
    return record.states.get(state, 1) - 1


def _beside(
    rows: Iterable[Row], records: Mapping[str, Record]
) -> Iterator[tuple[Row, Record | None]]:
    """Put each row beside its record; leave out those that the record is ahead of by rank."""
    for row in rows:
        old = records.get(row.id)
        if old and row.rank < old.rank:
            continue
        if old and row.deleted:
            # Some tombstones say no more than an id.
            told = replace(
                row,
                type=row.type or old.type,
                direction=row.direction or old.direction,
                extension=row.extension or old.extension,
            )
            yield told, old
        else:
            yield row, old


def _record(
    row: Row, content: str, rev: int, states: Mapping[str, int], more: Mapping[str, object]
) -> Record:
    return Record(
        id=row.id,
        rev=rev,
        digest=content,
        updated_at=row.updated_at,
        at_ms=row.at_ms,
        gone=row.deleted,
        type=row.type,
        direction=row.direction,
        extension=row.extension,
        rank=row.rank,
        keep=row.keep,
        states=states,
        more=more,
    )


def _deletion(record: Record, again: int) -> Change:
    return Change("deleted", _vanished(record), record.digest, record.rev + 1, again)


def _vanished(record: Record) -> Row:
    """Write the row of a thing that is not listed any more, with what is known of it."""
    return Row(
        id=record.id,
        updated_at=record.updated_at,
        at_ms=record.at_ms,
        body={"id": record.id, **record.keep},
        deleted=True,
        type=record.type,
        direction=record.direction,
        extension=record.extension,
    )
