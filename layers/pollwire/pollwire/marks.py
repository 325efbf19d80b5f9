"""
What a check saw, beside what the last one saw.

The last answer of an account is one packed text, so that a shard of a thousand accounts is read,
and an unchanged answer compared, without parsing anything:

    changed_ms \\n etag \\n last-modified \\n raw answer

A mark that differs stays pending, as one element of a string set, until a delta that began late
enough has read its stream to the end:

    stream @ first seen, ms @ mark
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from pollwire.errors import Malformed
from pollwire.model import KNOWN_EMPTY, Seen

#: Marks of one stream that may be pending together, so that the account's item stays small. Beyond
#: that the oldest makes room: what answers for the newest answers for all.
PENDING_PER_STREAM_MAX = 8

#: How an element begins.
ELEMENT = re.compile(r"[^@]+@[0-9]{1,16}@")

#: Mark of an element that asks for a stream to be listed from end to end, whatever its cursor.
FULL = "full"

#: The same, and for what was told since an instant to be told again. A provider's own mark that
#: reads like one of the two is written as its hash.
REPLAY = re.compile(r"replay:([0-9]{1,15})")

#: A mark longer than this is named by its hash: an element only has to be told from the others.
MARK_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class Step:
    """
    What to write after a check.

    Attributes:
        seen: The answer to keep, or ``None`` to keep the old one.

        pending: Elements to add to the account's pending set.

        dropped: Elements to take out of it: a newer one of their stream asks for more.

        was_empty: The provider knew nothing of the account until now: all there is, is new.
    """

    seen: Seen | None
    pending: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    was_empty: bool = False


def pack(seen: Seen) -> str:
    """Pack an answer into one text."""
    return f"{seen.changed_ms}\n{seen.etag}\n{seen.modified}\n{seen.raw}"


def unpack(packed: str, now_ms: int, overlap_s: int) -> Seen:
    """
    Unpack an answer; leave out validators that may not be trusted yet.

    A 304 says that nothing differs from what the validator speaks of. Until that is older than the
    overlap, a second change can hide behind it.

    Args:
        packed: From :func:`pack`, or empty for an account that was never checked.

        overlap_s: The longest overlap of the provider's streams.
    """
    if not packed:
        return Seen()
    try:
        changed, etag, modified, raw = packed.split("\n", 3)
        changed_ms = int(changed)
    except ValueError:
        return Seen()  # It cannot be read: as if nothing had ever been seen.
    if now_ms - changed_ms < overlap_s * 1000:
        etag = modified = ""
    return Seen(raw, etag, modified, changed_ms)


def step(
    old: Seen,
    new: Seen,
    pending: Collection[str],
    read: Callable[[str], dict[str, str]],
    now_ms: int,
) -> Step | None:
    """
    Decide what a check has to write; ``None`` if nothing changed.

    Marks are compared for equality, never for order.

    Args:
        pending: The account's pending set.

        read: Reads the marks out of a raw answer.
    """
    if new.raw == old.raw:
        return None
    before = _readable(old.raw, read)
    changed = {stream: mark for stream, mark in read(new.raw).items() if before.get(stream) != mark}
    if new.doubtful:
        # What was seen before is not asked for again; once all of it was, the answer is believed.
        known = {(stream, mark) for stream, _, mark in map(split, readable(pending))}
        changed = {s: mark for s, mark in changed.items() if (s, _own(mark)) not in known}
    kept = None if new.doubtful and changed else replace(new, changed_ms=now_ms, doubtful=False)
    waiting = by_stream(pending)
    return Step(
        seen=kept,
        pending=tuple(element(stream, _own(mark), now_ms) for stream, mark in changed.items()),
        dropped=tuple(one for stream in changed for one in _oldest(waiting.get(stream, ()))),
        was_empty=old.raw == KNOWN_EMPTY and new.raw != KNOWN_EMPTY,
    )


def _oldest(elements: Collection[str]) -> list[str]:
    """Name those that make room for a new one; what asks for more than a mark does stays."""
    plain = [one for one in elements if not asks_for_all([one])]
    return sorted(plain, key=seen_ms)[: max(len(plain) + 1 - PENDING_PER_STREAM_MAX, 0)]


def _readable(raw: str, read: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """Read a stored answer; one that cannot be read any more is as good as none."""
    try:
        return read(raw) if raw else {}
    except Malformed:
        return {}


def element(stream: str, mark: str, seen_ms: int) -> str:
    """Write one element of a pending set."""
    return f"{stream}@{seen_ms}@{_short(mark)}"


def readable(pending: Iterable[str]) -> list[str]:
    """Leave out of a pending set what is no element."""
    return [one for one in pending if ELEMENT.match(one)]


def split(element: str) -> tuple[str, int, str]:
    """Read one element of a pending set: its stream, when it was first seen, its mark."""
    stream, seen_ms, mark = element.split("@", 2)
    return stream, int(seen_ms), mark


def seen_ms(element: str) -> int:
    """Read when an element of a pending set was first seen."""
    return split(element)[1]


def asks_for_all(pending: Iterable[str]) -> bool:
    """Tell whether one of a stream's elements asks for it to be listed from end to end."""
    return any(_is_order(split(one)[2]) for one in pending)


def replay(since_ms: int) -> str:
    """Write the mark that asks for what was told since an instant to be told again."""
    return f"replay:{since_ms}"


def replayed_ms(element: str) -> int | None:
    """Read since when an element asks for everything to be told again; ``None`` if it does not."""
    match = REPLAY.fullmatch(split(element)[2])
    return int(match[1]) if match else None


def by_stream(pending: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Group the elements of a pending set by their stream, each group sorted."""
    groups: dict[str, list[str]] = {}
    for one in sorted(readable(pending)):
        groups.setdefault(split(one)[0], []).append(one)
    return {stream: tuple(group) for stream, group in groups.items()}


def settled(pending: Iterable[str], began_ms: int, overlap_s: int) -> tuple[str, ...]:
    """
    Name the elements that a complete drain answers for good.

    A row may show up later than its mark, by up to the overlap. A drain that began earlier than
    that leaves the mark pending, and the stream is read once more. What asks for events to be told
    again is answered by the drain that told them only.

    Args:
        began_ms: When the drain began.
    """
    return tuple(
        one
        for one in pending
        if began_ms - split(one)[1] >= overlap_s * 1000 and replayed_ms(one) is None
    )


def last(packed: str, stream: str, read: Callable[[str], dict[str, str]]) -> str:
    """Say which mark of a stream the last check saw, from what it keeps; empty for none."""
    return _readable(unpack(packed, 0, 0).raw, read).get(stream, "")


def _is_order(mark: str) -> bool:
    """Tell whether a mark asks for more than to look at what changed."""
    return mark == FULL or REPLAY.fullmatch(mark) is not None


def _own(mark: str) -> str:
    """Write a provider's mark so that it is nothing but a mark."""
    return _hashed(mark) if _is_order(mark) else _short(mark)


def _short(mark: str) -> str:
    if len(mark) <= MARK_CHARS_MAX:
        return mark
    return _hashed(mark)


def _hashed(mark: str) -> str:
    return hashlib.sha256(mark.encode("utf-8", "surrogatepass")).hexdigest()
