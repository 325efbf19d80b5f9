"""
When is what due? Arithmetic only: nothing is stored to know it.

A connection's shards are checked every ``interval_s``, each at its own place within the interval.
At each of these instants an account of the shard is due or not: one that changed lately at every
instant, a quiet one at every second, fourth, eighth ... of them, and a hash of its id picks which.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

from pollwire.model import SHARDS_MAX, CheckJob, Connection

MINUTE_MS = 60_000

#: An account may be polled as rarely as a tenth of the time it has been quiet: what happens next
#: is then found late by a tenth of the wait for it, at most.
QUIET_SHARE = 10

#: Seconds that one check of a shard may take: a Lambda timeout of 60 s leaves time to write.
CHECK_S = 40

SHARD_BITS = (SHARDS_MAX - 1).bit_length()

#: A check begins so late, if a worker is free; one that is later takes others' time into account.
LATE_S = 5

#: Requests of a check for an account, at most: two, and now and then one for a token.
REQUESTS_MAX = 2.1

#: Of a connection's rate, the share of its deltas. Each of their requests is booked in the table.
DELTAS_SHARE = 0.2

#: How long a validator is trusted without another look.
DISTRUST_MS = 3_600_000

#: Of what checks may ask, the share of the looks at what is watched, if it has such.
LOOKS_SHARE = 0.25

#: Checks of one account that its provider's notifications ask for are so far apart, at least.
PUSHED_APART_S = 5

#: No wait after failures is longer: a provider that is back must be noticed.
BACKOFF_S_MAX = 900


def checks_due(
    connection: Connection, minute_ms: int, now_ms: int, watch_s: int = 0
) -> Iterator[CheckJob]:
    """
    Name the checks of a connection that are due within one minute.

    Args:
        minute_ms: Start of the minute.

        now_ms: Of the instants that are past already, each shard gets the last one only.

        watch_s: Seconds between two looks at what is watched; 0 if the provider has no such.
    """
    interval_ms = connection.interval_s * 1000
    offset_ms = stable_hash(connection.name) % interval_ms
    shards = range(connection.shards)
    if connection.outages:
        # Nobody answers: one shard asks for all, another one each time.
        shards = shards[minute_ms // max(interval_ms, MINUTE_MS) % connection.shards :][:1]
    for shard in shards:
        phase_ms = (offset_ms + place_of(shard, interval_ms)) % interval_ms
        if watch_s:
            yield from _looks_due(connection, shard, phase_ms, minute_ms, now_ms, watch_s)
        first_ms = minute_ms + (phase_ms - minute_ms) % interval_ms
        instants = range(first_ms, minute_ms + MINUTE_MS, interval_ms)
        late = [due_ms for due_ms in instants if due_ms <= now_ms]
        for due_ms in late[-1:] + list(instants)[len(late) :]:
            if due_ms >= connection.paused_until_ms:
                yield CheckJob(connection.name, shard, due_ms, connection.interval_s)


def _looks_due(
    connection: Connection, shard: int, phase_ms: int, minute_ms: int, now_ms: int, watch_s: int
) -> Iterator[CheckJob]:
    """Name the looks at what is watched, between a shard's regular instants."""
    interval_ms, watch_ms = connection.interval_s * 1000, watch_s * 1000
    begin_ms = max(minute_ms, now_ms, connection.paused_until_ms)
    end_ms = min(minute_ms + MINUTE_MS, connection.watched_until_ms)
    regular_ms = begin_ms - (begin_ms - phase_ms) % interval_ms
    while regular_ms < end_ms:
        first_ms = max(-(-(begin_ms - regular_ms) // watch_ms), 1) * watch_ms
        last_ms = min(interval_ms - watch_ms, end_ms - regular_ms - 1)
        for after_ms in range(first_ms, last_ms + 1, watch_ms):
            due_ms = regular_ms + after_ms
            yield CheckJob(connection.name, shard, due_ms, watch_s, after_ms // 1000)
        regular_ms += interval_ms


def delay_s(job: CheckJob, now_ms: int) -> int:
    """Say how many whole seconds to hold a check back so that it is not picked up early."""
    return max(0, math.ceil((job.due_ms - now_ms) / 1000))


def pushed_due_ms(last_ms: int, said_ms: int, now_ms: int) -> int | None:
    """
    Say when to check an account because its provider told of a change, or ``None`` if not at all.

    Once right away, and once more after ``PUSHED_APART_S`` for all that is told until then. What
    was told so long before the last such check is known to it: nobody gets another one by sending
    the same thing again.

    Args:
        last_ms: Instant of the last such check, run or queued; 0 if there was none.

        said_ms: When the provider said it.
    """
    apart_ms = PUSHED_APART_S * 1000
    if last_ms > now_ms or last_ms >= min(said_ms, now_ms) + apart_ms:
        return None
    return max(now_ms, last_ms + apart_ms)


def is_late(job: CheckJob, now_ms: int) -> bool:
    """Tell whether a check was picked up more than an interval late: the next one is coming."""
    return now_ms - job.due_ms > job.interval_s * 1000


def is_due(account: str, due_ms: int, quiet_ms: int, interval_s: int, slowest_s: int) -> bool:
    """
    Tell whether an account is polled at one of its shard's instants.

    Args:
        due_ms: The instant.

        quiet_ms: How long ago the account changed last.

        interval_s: The connection's fastest interval.

        slowest_s: The connection's slowest interval.
    """
    stride = stride_of(quiet_ms, interval_s, slowest_s)
    tick = due_ms // (interval_s * 1000)
    # The upper bits: the lower ones picked the shard, so all of a shard would share a slot.
    return stride == 1 or (tick - (stable_hash(account) >> 16)) % stride == 0


def reconciles(account: str, stream: str, due_ms: int, listed_ms: int, reconcile_s: int) -> bool:
    """
    Tell whether a stream is to be listed from end to end at one of its account's instants.

    That is by the clock alone, whatever changed or did not: once in each period, from a place in
    it that a hash picks, and at every instant from then on until it was done.

    Args:
        listed_ms: When it was last done; 0 for never.

        reconcile_s: The period; 0 for never.
    """
    if not reconcile_s:
        return False
    period_ms = reconcile_s * 1000
    phase_ms = stable_hash(f"{account}#{stream}") % period_ms
    return (due_ms - phase_ms) // period_ms > (listed_ms - phase_ms) // period_ms


def distrusts(account: str, due_ms: int, quiet_ms: int, interval_s: int, slowest_s: int) -> bool:
    """
    Tell whether an account is asked without a validator at one of its instants: once an hour.

    One that lies would lie for ever. The arguments are those of :func:`is_due`.
    """
    apart_ms = stride_of(quiet_ms, interval_s, slowest_s) * interval_s * 1000
    return (due_ms - stable_hash(account)) % DISTRUST_MS < apart_ms


def stride_of(quiet_ms: int, interval_s: int, slowest_s: int) -> int:
    """
    Say at every which instant of its shard an account is due: a power of two, at least 1.

    It doubles with the time the account has been quiet, as long as the interval that it makes is
    no more than a tenth of that time, and no more than *slowest_s*.
    """
    longest_s = min(quiet_ms / 1000 / QUIET_SHARE, slowest_s)
    strides = int(longest_s // interval_s)
    return 1 << (strides.bit_length() - 1) if strides > 1 else 1


def check_s(job: CheckJob) -> int:
    """Say how many seconds a check may take: it ends before the next of its kind begins."""
    return min(CHECK_S, job.interval_s)


def requests_per_second(
    connection: Connection,
    watch_s: int = 0,
    *,
    looks: bool = False,
    accounts: int = 0,
    late_s: float = 0.0,
) -> float:
    """
    Say how fast one check may ask, so that all checks at work keep to their share of the rate.

    Args:
        watch_s: Seconds between two looks at what is watched; 0 if there are none.

        looks: It is such a look. They have a part of the rate for themselves.

        accounts: That it asks for, as others do, more or less; 0 if that is not known.

        late_s: How late it began.
    """
    checks = connection.requests_per_second * (1 - DELTAS_SHARE)
    if watch_s and connection.interval_s >= 2 * watch_s:
        if looks:
            return checks * LOOKS_SHARE / connection.shards
        checks *= 1 - LOOKS_SHARE
    return checks / _together(connection, checks, accounts, late_s)


def _together(connection: Connection, per_second: float, accounts: int, late_s: float) -> int:
    """
    Say how many checks are at work at once, at most: they start ``interval_s / shards`` apart.

    Each lasts until it has asked for its accounts at its share of the rate, ``CHECK_S`` at most.
    Those that begin late are at work beside later ones.
    """
    apart_s = connection.interval_s / connection.shards
    most = min(connection.shards, math.ceil(min(CHECK_S, connection.interval_s) / apart_s))
    load = accounts * REQUESTS_MAX / (per_second * apart_s)
    if not accounts or load >= 1 or late_s > LATE_S:
        return most
    return min(most, math.ceil((LATE_S / apart_s + 1) / (1 - load)))


def deltas_per_second(connection: Connection) -> float:
    """Say how fast all deltas of a connection together may ask."""
    return connection.requests_per_second * DELTAS_SHARE


def backoff_s(failures: int, interval_s: int, jitter: float, retry_after_s: int = 0) -> int:
    """
    Say how long to leave an account alone.

    Args:
        failures: How many times in a row it failed, this one included.

        interval_s: The connection's interval.

        jitter: From 0 to 1, so that what failed together does not come back together.

        retry_after_s: What the provider asked for; 0 if it did not.

    Returns:
        Seconds, from half an interval to ``BACKOFF_S_MAX``, or to *retry_after_s* if that is more.
    """
    assert failures >= 1
    longest_s = min(interval_s * 2.0 ** min(failures - 1, 10), BACKOFF_S_MAX)
    wait_s = math.ceil(longest_s * (0.5 + jitter / 2))
    return max(wait_s, retry_after_s + round(jitter * min(retry_after_s, interval_s)))


def place_of(shard: int, interval_ms: int) -> int:
    """
    Say how many milliseconds into the interval a shard's place is.

    A shard keeps its place when their number doubles: the new ones are put half way between.
    """
    reversed_bits = int(f"{shard:0{SHARD_BITS}b}"[::-1], 2)
    return reversed_bits * interval_ms >> SHARD_BITS


def stable_hash(text: str) -> int:
    """Hash a text to the same 32 bits in every process."""
    return zlib.crc32(text.encode())
