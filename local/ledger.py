"""
What was changed at a provider, beside what was received. Pure.

A change is answered by the first event of its entity that shows it, or something later. What was
overwritten before anybody could poll it is answered by the event of what followed: coalesced. An
entity whose last change nobody answered is lost.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Account, stream, id.
Entity = tuple[str, str, str]


@dataclass(slots=True)
class Made:
    """
    A change made at a provider.

    Attributes:
        kind: ``created``, ``updated`` or ``deleted``.

        at_ms: When it could be read for the first time.

        shows: Fields by which the record tells that this change is in it.

        provider: Where.
    """

    entity: Entity
    kind: str
    at_ms: int
    shows: Mapping[str, Any] = field(default_factory=dict)
    provider: str = ""
    is_coalesced: bool = False

    def is_in(self, body: Mapping[str, Any]) -> bool:
        """Tell whether an event's body is of this change, or of a later one that kept it."""
        if self.kind == "deleted" or body["change"] == "deleted":
            return bool(self.kind == body["change"])
        record = record_of(body)
        return all(record.get(name) == value for name, value in self.shows.items())


@dataclass(frozen=True, slots=True)
class Freshness:
    """
    How long changes took to be received.

    Attributes:
        changes: How many of them were.

        p50_s: Seconds that half of them stayed within; 0 if there are none.

        p99_s: Seconds that 99 of 100 of them stayed within.
    """

    changes: int
    p50_s: float
    p99_s: float


class Ledger:
    """
    Both sides.

    Attributes:
        changes: In the order they were made.

        events: How many were received, repeated ones not counted.

        unasked: How many of them answer no change: what a new user had before, or one thing that
            two streams tell of.

        repeated: How often an event was received again.
    """

    def __init__(self) -> None:
        self.changes: list[Made] = []
        self.events = 0
        self.unasked = 0
        self.repeated = 0
        self._open: dict[Entity, list[Made]] = {}
        self._last: dict[Entity, Mapping[str, Any]] = {}
        self._uuids: set[str] = set()
        # Milliseconds, the shortest first, by provider; under "" those of all.
        self._waits: dict[str, list[int]] = {}

    def made(self, change: Made) -> None:
        """Note a change."""
        self.changes.append(change)
        self._open.setdefault(change.entity, []).append(change)

    def received(self, event: Mapping[str, Any], now_ms: int) -> bool:
        """Note an event; tell whether it was received for the first time."""
        if event["uuid"] in self._uuids:
            self.repeated += 1
            return False
        self._uuids.add(event["uuid"])
        self.events += 1
        body = event["body"]
        identity = record_of(body).get("id") or body["stream"]
        entity = event["ownerId"], body["stream"], identity
        self._last[entity] = body
        waiting = self._open.get(entity, [])
        shown = [number for number, change in enumerate(waiting, 1) if change.is_in(body)]
        if shown:
            self._answer(entity, shown[-1], now_ms)
        else:
            self.unasked += 1
        return True

    def freshness(self, provider: str = "") -> Freshness:
        """Say how long changes took from a provider, or from all of them, until now."""
        waits = self._waits.get(provider, [])
        return Freshness(len(waits), _share(waits, 0.5), _share(waits, 0.99))

    def unanswered(self) -> int:
        """Count the records that changed and were not heard of since, without judging them."""
        return len(self._open)

    def outstanding(self) -> list[Made]:
        """Name the last change of every entity that has not been answered."""
        for entity, waiting in list(self._open.items()):
            # A change and its reversal between two polls: the last event is right again.
            if entity in self._last and waiting[-1].is_in(self._last[entity]):
                for change in waiting:
                    change.is_coalesced = True
                del self._open[entity]
        return [waiting[-1] for waiting in self._open.values()]

    def summary(self, ran_s: float, *, on_their_way: bool = False) -> str:
        """
        Put it into one line.

        Args:
            on_their_way: What is outstanding had no time to arrive.
        """
        missing = len(self.outstanding())
        lost = f"{missing} on their way, 0 lost" if on_their_way else f"{missing} lost"
        fresh = self.freshness()
        coalesced = sum(change.is_coalesced for change in self.changes)
        return (
            f"{ran_s:.0f} s: {len(self.changes)} changes at the provider, "
            f"{self.events} events received ({self.unasked} beside these changes), {lost}, "
            f"{self.repeated} repeated, {coalesced} coalesced; from change to receipt "
            f"median {fresh.p50_s:.1f} s, p99 {fresh.p99_s:.1f} s"
        )

    def _answer(self, entity: Entity, count: int, now_ms: int) -> None:
        waiting = self._open[entity]
        for change in waiting[:count]:
            for name in {change.provider, ""}:
                insort(self._waits.setdefault(name, []), max(now_ms - change.at_ms, 0))
        for change in waiting[: count - 1]:
            change.is_coalesced = True
        del waiting[:count]
        if not waiting:
            del self._open[entity]


def record_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Find what an event tells of; where it is flat, a call under its row's id, or a state."""
    if "record" in body:
        return dict(body["record"])
    for call in body.get("activeCalls", ()):
        session = call.get("telephonySessionId") or call.get("sessionId")
        leg = call.get("partyId") or call.get("id")
        return {**call, "id": ":".join(filter(None, (session, leg)))}
    return dict(body.get("state", {}))


def _share(waits: Sequence[int], share: float) -> float:
    """Say in seconds what this share of all waits stays within; 0 if there are none."""
    return waits[math.ceil(share * len(waits)) - 1] / 1000 if waits else 0.0
