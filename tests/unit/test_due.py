"""Promises of pollwire.due."""

from __future__ import annotations

import math
from collections import Counter
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire import due
from pollwire.model import CheckJob, Connection, Turn

MINUTE_MS = 60_000
NOON_MS = 24_630_000 * MINUTE_MS
BEFORE_MS = NOON_MS - 1

quick = settings(database=None, deadline=None, max_examples=60)
names = st.text("abcxyz019._-", min_size=1, max_size=20)
powers = st.sampled_from([1, 2, 4, 8, 16, 32, 64])


def connection(**fields) -> Connection:
    fields = {"name": "acme", "provider": "youmail", "slowest_s": 86_400, **fields}
    return Connection(**fields)


def instants(one: Connection, minutes: int = 1, now_ms: int = BEFORE_MS) -> list[int]:
    """Due instants, in milliseconds after noon, of all shards over some consecutive minutes."""
    return sorted(
        job.due_ms - NOON_MS
        for minute in range(minutes)
        for job in due.checks_due(one, NOON_MS + minute * MINUTE_MS, now_ms)
    )


def job_due(due_ms: int, interval_s: int = 10) -> CheckJob:
    return CheckJob("acme", 0, due_ms, interval_s)


# What a provider tells by itself


def pushed(told: list[tuple[int, int]]) -> list[int]:
    """Instants of the checks that notifications ask for; each is given as it came and was said."""
    last_ms, found = 0, []
    for now_ms, said_ms in told:
        due_ms = due.pushed_due_ms(last_ms, said_ms, now_ms)
        if due_ms is not None:
            last_ms = due_ms
            found.append(due_ms)
    return found


@pytest.mark.parametrize(
    ("last_ms", "said_ms", "now_ms", "due_ms"),
    [
        pytest.param(0, 90_000, 90_000, 90_000, id="the first"),
        pytest.param(90_000, 91_000, 91_000, 95_000, id="right after another"),
        pytest.param(90_000, 90_000, 90_000, 95_000, id="at the same instant"),
        pytest.param(95_000, 92_000, 92_000, None, id="one is queued"),
        pytest.param(90_000, 95_000, 95_000, 95_000, id="five seconds later"),
        pytest.param(90_000, 99_000, 99_000, 99_000, id="longer ago"),
        pytest.param(95_000, 90_001, 96_000, 100_000, id="said before, perhaps not known"),
        pytest.param(95_000, 90_000, 96_000, None, id="known"),
        pytest.param(95_000, 0, 500_000, None, id="long known"),
        pytest.param(90_000, 500_000, 96_000, 96_000, id="said in the future"),
    ],
)
def test_a_notification_asks_for_a_check_if_it_is_news(last_ms, said_ms, now_ms, due_ms):
    assert due.pushed_due_ms(last_ms, said_ms, now_ms) == due_ms


@quick
@given(waits=st.lists(st.integers(0, 9_000), max_size=50), late_ms=st.integers(0, 4_000))
def test_notifications_lead_to_checks_apart_and_each_is_followed_by_one(waits, late_ms):
    now_ms = accumulate(waits, initial=NOON_MS)
    told = [(at_ms, at_ms - late_ms) for at_ms in now_ms]

    checks = pushed(told)

    assert all(after - before >= 5_000 for before, after in pairwise(checks))
    for at_ms, said_ms in told:
        # One that is run from then on, or was long enough after it had been said.
        assert any(at_ms <= one <= at_ms + 5_000 or one >= said_ms + 5_000 for one in checks)


@quick
@given(waits=st.lists(st.integers(0, 60_000), max_size=50))
def test_what_is_sent_again_leads_to_one_more_check(waits):
    replays = [(at_ms, NOON_MS) for at_ms in accumulate(waits, initial=NOON_MS)]

    assert len(pushed(replays)) <= 2


# Which checks are due


@pytest.mark.parametrize(
    ("interval_s", "shards", "minutes", "checks"),
    [
        pytest.param(1, 1, 1, 60, id="every second"),
        pytest.param(10, 1, 1, 6, id="six a minute"),
        pytest.param(10, 4, 1, 24, id="six a minute and shard"),
        pytest.param(60, 1, 1, 1, id="once a minute"),
        pytest.param(60, 8, 1, 8, id="once a minute and shard"),
        pytest.param(300, 1, 5, 1, id="in one minute of five"),
        pytest.param(300, 4, 5, 4, id="each shard in one minute of five"),
        pytest.param(7, 1, 7, 60, id="an interval that no minute holds evenly"),
        pytest.param(86_400, 1, 1440, 1, id="once a day"),
        pytest.param(1, 2048, 1, 122_880, id="more shards than milliseconds"),
    ],
)
def test_a_shard_is_checked_once_an_interval(interval_s, shards, minutes, checks):
    found = instants(connection(interval_s=interval_s, shards=shards), minutes)

    assert len(found) == checks


@quick
@given(name=names, interval_s=st.integers(1, 400), shards=powers)
def test_consecutive_minutes_neither_skip_nor_double_an_instant(name, interval_s, shards):
    one = connection(name=name, interval_s=interval_s, shards=shards)
    by_shard = {}
    for minute in range(20):
        for job in due.checks_due(one, NOON_MS + minute * MINUTE_MS, BEFORE_MS):
            by_shard.setdefault(job.shard, []).append(job.due_ms)

    gaps = {b - a for found in by_shard.values() for a, b in pairwise(found)}
    assert gaps <= {interval_s * 1000}
    assert set(by_shard) == set(range(shards))
    assert {len(found) for found in by_shard.values()} <= {
        20 * 60 // interval_s,
        -(-20 * 60 // interval_s),
    }


@quick
@given(name=names, interval_s=st.integers(1, 400))
def test_every_instant_lies_in_the_minute_it_is_named_for(name, interval_s):
    found = instants(connection(name=name, interval_s=interval_s))

    assert all(0 <= one < MINUTE_MS for one in found)


@quick
@given(name=names, interval_s=st.integers(1, 120), shards=powers)
def test_shards_are_spread_evenly_over_the_interval(name, interval_s, shards):
    interval_ms = interval_s * 1000
    found = instants(connection(name=name, interval_s=interval_s, shards=shards), minutes=2)

    places = sorted(one % interval_ms for one in found)
    distinct = sorted(set(places))
    gaps = [b - a for a, b in pairwise([*distinct, distinct[0] + interval_ms])]
    assert len(distinct) == shards
    assert max(gaps) - min(gaps) <= 1


def test_connections_have_places_of_their_own_within_the_interval():
    places = {tuple(instants(connection(name=f"customer-{n}"))) for n in range(50)}

    assert len(places) > 40


def test_a_check_carries_its_interval():
    (job,) = due.checks_due(connection(interval_s=60), NOON_MS, BEFORE_MS)

    assert (job.connection, job.shard, job.interval_s) == ("acme", 0, 60)


# Late and paused


@quick
@given(name=names, interval_s=st.integers(1, 60), late_ms=st.integers(0, 3 * MINUTE_MS))
def test_instants_that_are_past_coalesce_to_the_last_one(name, interval_s, late_ms):
    one = connection(name=name, interval_s=interval_s)
    everything = instants(one)
    past = [instant for instant in everything if instant <= late_ms]

    found = instants(one, now_ms=NOON_MS + late_ms)

    assert found == past[-1:] + everything[len(past) :]


def test_each_shard_coalesces_for_itself():
    one = connection(interval_s=10, shards=4)

    jobs = list(due.checks_due(one, NOON_MS, NOON_MS + MINUTE_MS))

    assert [job.shard for job in jobs] == [0, 1, 2, 3]


def test_the_instant_that_is_now_is_the_last_past_one():
    one = connection(interval_s=10)
    third = instants(one)[2]

    assert instants(one, now_ms=NOON_MS + third) == instants(one)[2:]


def test_a_paused_connection_gets_nothing():
    paused = connection(interval_s=10, paused_until_ms=NOON_MS + MINUTE_MS)

    assert instants(paused) == []


def test_a_pause_ends_at_its_instant():
    every = instants(connection(interval_s=10))
    paused = connection(interval_s=10, paused_until_ms=NOON_MS + every[3])

    assert instants(paused) == every[3:]


def test_a_pause_that_is_over_changes_nothing():
    over = connection(interval_s=10, paused_until_ms=NOON_MS - MINUTE_MS)

    assert instants(over) == instants(connection(interval_s=10))


def test_a_late_instant_within_the_pause_is_not_made_up_for():
    every = instants(connection(interval_s=10))
    paused = connection(interval_s=10, paused_until_ms=NOON_MS + every[3])

    assert instants(paused, now_ms=NOON_MS + every[2]) == every[3:]


@pytest.mark.parametrize(
    ("due_in_ms", "delay_s"),
    [
        pytest.param(0, 0, id="now"),
        pytest.param(1, 1, id="rounded up, never early"),
        pytest.param(1000, 1, id="a second"),
        pytest.param(1001, 2, id="a little more"),
        pytest.param(59_999, 60, id="end of the minute"),
        pytest.param(-1, 0, id="just past"),
        pytest.param(-90_000, 0, id="long past"),
    ],
)
def test_a_check_is_held_back_until_it_is_due(due_in_ms, delay_s):
    assert due.delay_s(job_due(NOON_MS + due_in_ms), NOON_MS) == delay_s


@quick
@given(name=names, interval_s=st.integers(1, 300), now_ms=st.integers(-MINUTE_MS, MINUTE_MS))
def test_no_delay_is_longer_than_sqs_takes(name, interval_s, now_ms):
    jobs = due.checks_due(connection(name=name, interval_s=interval_s), NOON_MS, NOON_MS + now_ms)

    assert all(0 <= due.delay_s(job, NOON_MS + now_ms) <= 900 for job in jobs)


@pytest.mark.parametrize(
    ("after_ms", "late"),
    [
        pytest.param(-5000, False, id="early"),
        pytest.param(0, False, id="on time"),
        pytest.param(10_000, False, id="an interval"),
        pytest.param(10_001, True, id="more than an interval"),
    ],
)
def test_a_check_is_late_after_more_than_its_interval(after_ms, late):
    assert due.is_late(job_due(NOON_MS), NOON_MS + after_ms) is late


# Which accounts are due


@pytest.mark.parametrize(
    ("quiet_s", "stride"),
    [
        pytest.param(-60, 1, id="changed in our future"),
        pytest.param(0, 1, id="changed now"),
        pytest.param(1199, 1, id="less than ten times two intervals"),
        pytest.param(1200, 2, id="ten times two intervals"),
        pytest.param(2399, 2, id="three intervals are no power of two"),
        pytest.param(2400, 4, id="ten times four intervals"),
        pytest.param(4800, 8, id="ten times eight intervals"),
        pytest.param(9_000, 8, id="slowest interval reached"),
        pytest.param(10**9, 8, id="quiet for decades"),
    ],
)
def test_the_interval_grows_with_the_time_an_account_is_quiet(quiet_s, stride):
    assert due.stride_of(quiet_s * 1000, 60, 900) == stride


intervals = st.tuples(st.integers(1, 900), st.integers(1, 86_400)).map(
    lambda pair: (pair[0], max(pair))
)


@quick
@given(intervals=intervals, quiet_ms=st.integers(-(10**6), 10**12))
def test_a_stride_is_a_power_of_two_and_never_above_the_slowest(intervals, quiet_ms):
    interval_s, slowest_s = intervals

    stride = due.stride_of(quiet_ms, interval_s, slowest_s)

    assert stride >= 1
    assert stride & (stride - 1) == 0
    assert stride * interval_s <= slowest_s


@quick
@given(intervals=intervals, quiet_ms=st.integers(0, 10**10), more_ms=st.integers(0, 10**10))
def test_a_quieter_account_is_never_polled_more_often(intervals, quiet_ms, more_ms):
    stride = due.stride_of(quiet_ms, *intervals)

    assert due.stride_of(quiet_ms + more_ms, *intervals) >= stride


@quick
@given(intervals=intervals, quiet_ms=st.integers(0, 10**10))
def test_a_change_is_found_late_by_a_tenth_of_the_quiet_time_at_most(intervals, quiet_ms):
    interval_s, slowest_s = intervals

    stride = due.stride_of(quiet_ms, interval_s, slowest_s)

    assert stride == 1 or stride * interval_s * 1000 * due.QUIET_SHARE <= quiet_ms


@quick
@given(account=names, intervals=intervals, phase_ms=st.integers(0, 10**9))
def test_an_account_that_changed_lately_is_due_at_every_instant(account, intervals, phase_ms):
    interval_s, slowest_s = intervals
    ticks = [NOON_MS + phase_ms + n * interval_s * 1000 for n in range(20)]

    assert all(due.is_due(account, tick, 0, interval_s, slowest_s) for tick in ticks)


@quick
@given(
    account=names,
    interval_s=st.integers(1, 120),
    quiet_ms=st.integers(0, 10**9),
    phase_ms=st.integers(0, 10**9),
)
def test_a_stride_holds_exactly_one_instant_of_an_account(account, interval_s, quiet_ms, phase_ms):
    slowest_s = 64 * interval_s
    stride = due.stride_of(quiet_ms, interval_s, slowest_s)
    ticks = [NOON_MS + phase_ms + n * interval_s * 1000 for n in range(stride)]

    polls = sum(due.is_due(account, tick, quiet_ms, interval_s, slowest_s) for tick in ticks)

    assert polls == 1


@quick
@given(account=names, interval_s=st.integers(1, 60), start=st.integers(0, 10**6))
def test_a_growing_stride_leaves_no_gap_longer_than_itself(account, interval_s, start):
    interval_ms = interval_s * 1000
    polls = [
        n
        for n in range(2000)
        if due.is_due(account, (start + n) * interval_ms, n * interval_ms, interval_s, 86_400)
    ]

    gaps = [(b - a, due.stride_of(b * interval_ms, interval_s, 86_400)) for a, b in pairwise(polls)]
    assert all(gap <= stride for gap, stride in gaps)


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8, 10, 16])
def test_quiet_accounts_of_one_shard_are_spread_over_the_instants(shards):
    """A shard and a slot picked from the same bits would poll all its accounts at one instant."""
    accounts = [str(n) for n in range(1_000_000, 1_000_000 + 800 * shards)]
    of_shard = [one for one in accounts if due.stable_hash(one) % shards == 0]
    quiet_ms = 10**9  # a stride of 8

    polled = Counter(
        tick
        for tick in range(8)
        for one in of_shard
        if due.is_due(one, NOON_MS + tick * 60_000, quiet_ms, 60, 480)
    )

    assert len(polled) == 8
    assert max(polled.values()) < 2 * len(of_shard) / 8


# Which streams are listed from end to end


def listed_at(
    one: Connection, quiet_ms: int, reconcile_s: int, instants: range, failing: range = range(0)
) -> list[int]:
    """Instants at which the account's stream is listed from end to end, and that succeeds."""
    listed_ms, found = instants[0] - 1, []
    for due_ms in instants:
        is_due = due.is_due("7", due_ms, quiet_ms, one.interval_s, one.slowest_s)
        wanted = is_due and due.reconciles("7", "entry", due_ms, listed_ms, reconcile_s)
        if wanted and due_ms not in failing:
            found.append(due_ms)
            listed_ms = due_ms
    return found


@quick
@given(
    interval_s=st.integers(1, 120),
    quiet_s=st.integers(0, 86_400),
    phase_ms=st.integers(0, 10**9),
    periods=st.integers(64, 200),
)
def test_a_stream_is_listed_once_a_period_however_rarely_it_is_polled(
    interval_s, quiet_s, phase_ms, periods
):
    one = connection(interval_s=interval_s, slowest_s=64 * interval_s)
    reconcile_s = periods * interval_s + 7  # no multiple of the interval
    interval_ms, period_ms = interval_s * 1000, reconcile_s * 1000
    first_ms = NOON_MS + phase_ms
    instants = range(first_ms, first_ms + 5 * period_ms, interval_ms)

    found = listed_at(one, quiet_s * 1000, reconcile_s, instants)

    stride_ms = due.stride_of(quiet_s * 1000, interval_s, one.slowest_s) * interval_ms
    assert len(found) >= 4
    for number, due_ms in enumerate(found):
        assert abs(due_ms - found[0] - number * period_ms) < stride_ms


@quick
@given(account=names, stream=names, listed_ms=st.integers(0, 10**13), due_ms=st.integers(0, 10**13))
def test_a_stream_that_is_never_to_be_listed_is_not(account, stream, listed_ms, due_ms):
    assert not due.reconciles(account, stream, due_ms, listed_ms, 0)


def test_a_period_shorter_than_the_wait_for_a_poll_lists_at_each():
    one = connection(interval_s=60, slowest_s=900)
    instants = range(NOON_MS, NOON_MS + 3_600_000, 60_000)
    polls = [each for each in instants if due.is_due("7", each, 10**9, 60, 900)]

    assert listed_at(one, 10**9, 300, instants) == polls


def test_an_account_that_changes_or_not_is_listed_at_the_same_place():
    one = connection(interval_s=60, slowest_s=960)
    instants = range(NOON_MS, NOON_MS + 86_400_000, 60_000)

    busy = listed_at(one, 0, 7200, instants)
    quiet = listed_at(one, 10**9, 7200, instants)

    assert len(busy) == len(quiet) == 12
    assert all(0 <= late - early < 960_000 for early, late in zip(busy, quiet, strict=True))


def test_a_listing_that_fails_is_made_as_soon_as_it_can_be():
    one = connection(interval_s=60, slowest_s=60)
    instants = range(NOON_MS, NOON_MS + 4 * 3_600_000, 60_000)
    good = listed_at(one, 0, 3600, instants)
    late = listed_at(one, 0, 3600, instants, range(good[1], good[1] + 600_000))

    assert late == [good[0], good[1] + 600_000, *good[2:]]


def test_accounts_and_streams_have_places_of_their_own_within_the_period():
    """All accounts listed at one instant would be a herd."""
    hour = range(NOON_MS, NOON_MS + 3_660_000, 60_000)
    places = Counter(
        next(
            due_ms
            for due_ms in hour
            if due.reconciles(str(account), stream, due_ms, NOON_MS - 1, 3600)
        )
        for account in range(150)
        for stream in ("entry", "contact")
    )

    assert sum(places.values()) == 300
    assert len(places) > 55
    assert max(places.values()) < 20


# How fast, and how long after a failure


@pytest.mark.parametrize(
    ("interval_s", "shards", "expected"),
    [
        pytest.param(60, 1, 32, id="one check at a time"),
        pytest.param(60, 2, 16, id="a check still at work when the second shard's starts"),
        pytest.param(60, 8, 32 / 6, id="a check every 7.5 seconds, six at work"),
        pytest.param(300, 2, 32, id="far apart"),
        pytest.param(10, 4, 8, id="no more at work than shards"),
    ],
)
def test_the_rate_is_split_among_the_checks_at_work(interval_s, shards, expected):
    one = connection(interval_s=interval_s, shards=shards, requests_per_second=40)

    assert due.requests_per_second(one) == pytest.approx(expected)


@quick
@given(interval_s=st.integers(due.CHECK_S, 400), shards=powers)
def test_checks_at_work_together_keep_to_the_rate(interval_s, shards):
    one = connection(interval_s=interval_s, shards=shards, requests_per_second=100)
    starts = instants(one, minutes=14)

    together = max(
        sum(start <= other < start + due.CHECK_S * 1000 for other in starts) for start in starts
    )

    assert together * due.requests_per_second(one) + due.deltas_per_second(one) <= 100.0001


@quick
@given(
    interval_s=st.integers(10, 2_000),
    every_s=st.sampled_from([2, 3, 5, 7, 10, 30, 45]),
    shards=st.sampled_from([1, 2, 4]),
    paused_s=st.integers(0, 400),
)
def test_looks_lie_between_the_regular_instants_and_end_with_what_is_watched(
    interval_s, every_s, shards, paused_s
):
    begin_ms = 1_800_000_000_000
    end_ms = begin_ms + 1_234_567
    one = connection(
        interval_s=interval_s,
        slowest_s=86_400,
        shards=shards,
        watched_until_ms=end_ms,
        paused_until_ms=begin_ms + paused_s * 1000,
    )
    jobs = [
        job
        for minute in range(30)
        for job in due.checks_due(one, begin_ms + minute * 60_000, 0, every_s)
        if job.shard == 0
    ]
    looks = [job for job in jobs if job.after_s]

    assert len({job.due_ms for job in jobs}) == len(jobs)
    assert all(begin_ms + paused_s * 1000 <= job.due_ms < end_ms for job in looks)
    assert all(job.interval_s == every_s and job.after_s % every_s == 0 for job in looks)
    assert all(job.after_s + every_s <= interval_s for job in looks)
    regular = {job.due_ms for job in jobs if not job.after_s}
    last_ms = max(regular, default=0)
    for job in looks:
        if min(regular, default=end_ms) <= job.due_ms < last_ms:
            assert job.due_ms - job.after_s * 1000 in regular
    instants_ms = sorted(job.due_ms for job in jobs if job.due_ms < end_ms)
    widest = max(every_s, interval_s if interval_s < 2 * every_s else 2 * every_s - 1)
    assert all(after - before <= widest * 1000 for before, after in pairwise(instants_ms))


def test_without_anything_watched_there_are_no_looks():
    one = connection(interval_s=60)

    assert [job for job in due.checks_due(one, 0, 0, 5) if job.after_s] == []


@pytest.mark.parametrize(
    ("after_s", "interval_s", "turns"),
    [
        pytest.param(0, 60, {5, 10, 15}, id="regular"),
        pytest.param(5, 60, {5}, id="first look"),
        pytest.param(10, 60, {5, 10}, id="second look"),
        pytest.param(30, 60, {5, 10, 15}, id="half"),
        pytest.param(50, 60, {5, 10}, id="the last of ten"),
        pytest.param(55, 60, {5}, id="the last of five"),
        pytest.param(20, 25, {5}, id="too near to the regular one for ten"),
    ],
)
def test_what_is_asked_rarely_has_its_turn_at_some_looks_only(after_s, interval_s, turns):
    turn = Turn(0, after_s, interval_s)

    assert {every_s for every_s in (5, 10, 15) if turn.of(every_s)} == turns


@quick
@given(interval_s=st.integers(10, 900), shards=powers)
def test_looks_and_checks_together_keep_to_the_rate(interval_s, shards):
    one = connection(interval_s=interval_s, shards=shards, requests_per_second=100)
    at_once = min(shards, math.ceil(min(due.CHECK_S, interval_s) / (interval_s / shards)))
    checks = at_once * due.requests_per_second(one, 5)
    looks = shards * due.requests_per_second(one, 5, looks=True)

    assert checks + looks <= 100.0001


@quick
@given(
    interval_s=st.integers(5, 400),
    shards=st.sampled_from([1, 2, 8, 64, 512]),
    accounts=st.integers(1, 1000),
    per_second=st.floats(1, 20_000),
    late_s=st.lists(st.floats(0, due.LATE_S), min_size=1, max_size=50),
)
def test_checks_that_know_how_long_they_take_keep_to_the_rate(
    interval_s, shards, accounts, per_second, late_s
):
    one = connection(interval_s=interval_s, shards=shards, requests_per_second=per_second)
    share = due.requests_per_second(one, accounts=accounts)
    lasts_s = min(accounts * due.REQUESTS_MAX / share, due.CHECK_S, interval_s)
    begins = [
        number * interval_s / shards + late_s[number % len(late_s)] for number in range(2 * shards)
    ]

    together = max(sum(begin <= at < begin + lasts_s for begin in begins) for at in begins)

    fewest = due.requests_per_second(one)
    assert share >= fewest * 0.9999
    # Of a check that begins late before the next of its own shard, both may be at work.
    if share > fewest * 1.0001 and lasts_s + due.LATE_S <= interval_s:
        assert together * share <= per_second * (1 - due.DELTAS_SHARE) * 1.0001


def test_a_check_that_is_over_soon_may_ask_faster():
    one = connection(interval_s=60, shards=64, requests_per_second=1000)

    assert due.requests_per_second(one, accounts=100) > 3 * due.requests_per_second(one)
    late = due.requests_per_second(one, accounts=100, late_s=due.LATE_S + 1)
    assert late == due.requests_per_second(one, accounts=1_000) == due.requests_per_second(one)


@pytest.mark.parametrize(
    ("failures", "jitter", "retry_after_s", "wait_s"),
    [
        pytest.param(1, 0.0, 0, 30, id="first failure, half an interval at least"),
        pytest.param(1, 1.0, 0, 60, id="first failure, an interval at most"),
        pytest.param(2, 1.0, 0, 120, id="second failure, twice that"),
        pytest.param(4, 1.0, 0, 480, id="fourth failure, eight times that"),
        pytest.param(5, 1.0, 0, 900, id="limit"),
        pytest.param(5, 0.0, 0, 450, id="half the limit"),
        pytest.param(10**6, 1.0, 0, 900, id="down for years"),
        pytest.param(1, 0.0, 7, 30, id="asked for less"),
        pytest.param(1, 0.0, 3600, 3600, id="asked for more than the limit"),
        pytest.param(1, 1.0, 3600, 3660, id="no herd at the instant that was asked for"),
    ],
)
def test_the_wait_doubles_with_every_failure(failures, jitter, retry_after_s, wait_s):
    assert due.backoff_s(failures, 60, jitter, retry_after_s) == wait_s


@quick
@given(
    failures=st.integers(1, 10_000),
    interval_s=st.integers(1, 900),
    jitter=st.floats(0, 1),
    retry_after_s=st.integers(0, 3600),
)
def test_the_wait_keeps_to_its_bounds(failures, interval_s, jitter, retry_after_s):
    wait_s = due.backoff_s(failures, interval_s, jitter, retry_after_s)

    assert wait_s >= max(interval_s / 2, retry_after_s)
    assert wait_s <= max(due.BACKOFF_S_MAX, retry_after_s + interval_s)


def test_the_hash_is_the_same_in_every_process():
    assert due.stable_hash("acme") == 96778814
