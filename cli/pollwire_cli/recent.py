"""
What the functions told lately: their metrics, read from the log lines that hold them.

An idle check writes nothing into the table, so the log is where it can be seen that it was made.
Pure: lines come in, whatever they hold; what cannot be read counts for nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pollwire import errors
from pollwire.model import Connection

#: Names that errors are counted under.
REMEDIES = frozenset(name.lower() for name, one in vars(errors).items() if isinstance(one, type))

#: No metric of ours comes near; what is above is none, as are NaN and infinity.
VALUE_MAX = 2**53

#: A check that is so late is overdue: the queue, the work and the log take their time.
LATE_MS = 60_000


class Check(NamedTuple):
    """
    A regular check of a shard.

    Attributes:
        polled: Accounts whose turn it was.

        unasked: Those of them that were not asked: there was no time left, or no budget.
    """

    due_ms: int
    polled: int
    unasked: int


@dataclass
class Told:
    """
    What was told of one provider.

    Attributes:
        lags_ms: From each change to its publication.

        counts: What its functions counted.
    """

    lags_ms: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def changes(self) -> int:
        return sum(self.counts[name] for name in ("created", "updated", "deleted"))

    @property
    def errors(self) -> dict[str, int]:
        """Count what failed by its remedy."""
        return {name: n for name, n in sorted(self.counts.items()) if n and name in REMEDIES}


class Recent:
    """
    What was told lately.

    Attributes:
        lines: That were read and understood.

        told: By provider.

        last: The latest regular check by connection and shard.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.told: defaultdict[str, Told] = defaultdict(Told)
        self.last: dict[tuple[str, int], Check] = {}

    def add(self, line: str) -> None:
        """Take a log line in, if it has metrics."""
        said = _metrics(line)
        if said is None:
            return
        self.lines += 1
        told = self.told[said["provider"]]
        told.lags_ms += _values(said.get("lag_ms"))
        for name, value in said.items():
            if isinstance(value, list) and not name.endswith("_ms"):
                told.counts[name] += round(sum(_values(value)))
        if said.get("service") == "check" and not (said.get("after_s") or said.get("account")):
            self._note_check(said)

    def _note_check(self, said: dict[str, Any]) -> None:
        connection, shard, due_ms = (said.get(name) for name in ("connection", "shard", "due_ms"))
        if not isinstance(connection, str) or type(shard) is not int or type(due_ms) is not int:
            return
        polled, unasked = (round(sum(_values(said.get(name)))) for name in ("polled", "unasked"))
        known = self.last.get((connection, shard))
        if "polled" in said and (known is None or known.due_ms < due_ms):
            self.last[connection, shard] = Check(due_ms, polled, unasked)

    def turns(
        self, connection: Connection, fastest_s: int, since_ms: int, now_ms: int
    ) -> tuple[int, int] | None:
        """
        Count a connection's accounts that were due at the last checks, and those that are overdue.

        Of a shard that was not checked in time, all accounts are overdue.

        Args:
            fastest_s: The provider is checked no faster.

            since_ms: All that was told from then on was read.

        Returns:
            ``None`` if that is too short a time to know it.
        """
        interval_ms = max(connection.interval_s, fastest_s) * 1000
        latest_ms = now_ms - 2 * interval_ms - LATE_MS
        if since_ms > latest_ms:
            return None
        checks = [self.last.get((connection.name, shard)) for shard in range(connection.shards)]
        in_time = [check for check in checks if check and check.due_ms >= latest_ms]
        missed = len(checks) - len(in_time)
        overdue = round(connection.accounts * missed / max(connection.shards, 1))
        overdue += sum(check.unasked for check in in_time)
        return sum(check.polled for check in in_time), overdue


def percentile(values: Iterable[float], share: float) -> float | None:
    """Say below which value such a share of all lies (nearest rank); ``None`` if there are none."""
    ranked = sorted(values)
    return ranked[max(math.ceil(share * len(ranked)) - 1, 0)] if ranked else None


def _metrics(line: str) -> dict[str, Any] | None:
    """Read a line of metrics in embedded format that says of which provider; else ``None``."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "_aws" not in said:
        return None
    provider = said.get("provider")
    return said if isinstance(provider, str) and provider else None


def _values(value: object) -> list[float]:
    """Take the numbers out of a metric's value."""
    values: list[Any] = value if isinstance(value, list) else [value]
    return [one for one in values if type(one) in (int, float) and 0 <= one < VALUE_MAX]
