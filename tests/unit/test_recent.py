"""Promises of what is read out of the functions' log lines, whatever those hold."""

from __future__ import annotations

import json

import pytest
from pollwire.model import Connection
from pollwire_cli.recent import LATE_MS, Recent, percentile

NOW_MS = 1_800_000_000_000
SHOP = Connection("shop", "youmail", interval_s=60, shards=2, accounts=20)


def line(service="check", **said):
    return json.dumps({"_aws": {}, "service": service, "provider": "youmail", **said})


def check(shard, due_ms=NOW_MS - 60_000, polled=7, unasked=0, **said):
    told = {"connection": "shop", "shard": shard, "due_ms": due_ms}
    return line(**told, polled=[polled], unasked=[unasked], **said)


def recent(*lines):
    found = Recent()
    for one in lines:
        found.add(one)
    return found


def turns(*lines, since_ms=NOW_MS - 900_000, connection=SHOP, fastest_s=1):
    return recent(*lines).turns(connection, fastest_s, since_ms, NOW_MS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "START RequestId: 1",
        '{"message": "checked"}',
        "[1, 2]",
        '"_aws"',
        "[" * 100_000,
        '{"_aws": {}, "provider": 7}',
        '{"_aws": {}, "provider": ""}',
        '{"_aws": {}',
    ],
)
def test_what_is_no_line_of_metrics_counts_for_nothing(text):
    found = recent(text)

    assert (found.lines, dict(found.told), found.last) == (0, {}, {})


@pytest.mark.parametrize(
    "value",
    [None, "7", True, [True], [["7"]], float("nan"), [float("inf")], [-1], [10**400], {"7": 7}],
)
def test_what_is_no_number_counts_for_nothing(value):
    found = recent(line("delta", lag_ms=value, created=value))

    assert found.told["youmail"].lags_ms == []
    assert found.told["youmail"].changes == 0


@pytest.mark.parametrize(
    "said",
    [
        {"connection": 7},
        {"connection": None},
        {"shard": "0"},
        {"shard": True},
        {"due_ms": "now"},
        {"due_ms": 1.5},
    ],
)
def test_a_check_that_does_not_say_which_it_was_is_none(said):
    whole = {"connection": "shop", "shard": 0, "due_ms": 1, "polled": [1]}

    assert recent(line(**(whole | said))).last == {}


def test_times_and_counts_are_kept_by_provider():
    found = recent(
        line("delta", lag_ms=[10.0, 30.0], created=[1.0, 1.0], deleted=[1.0], rejected=[2.0]),
        line("delta", lag_ms=[20.0], updated=[1.0], conflict=[0.0]),
        line("delta", lag_ms=[99.0], provider="intelli"),
    )

    told = found.told["youmail"]
    assert found.lines == 3
    assert sorted(told.lags_ms) == [10, 20, 30]
    assert told.changes == 4
    assert told.errors == {"rejected": 2}


@pytest.mark.parametrize(
    ("values", "share", "value"),
    [
        ([], 0.5, None),
        ([7], 0.5, 7),
        ([7], 0.99, 7),
        ([1, 2, 3, 4], 0.5, 2),
        ([4, 3, 2, 1], 0.99, 4),
        (range(1, 101), 0.99, 99),
        (range(1, 1001), 0.99, 990),
    ],
)
def test_a_percentile_is_a_value_that_there_was(values, share, value):
    assert percentile(values, share) == value


def test_due_are_those_whose_turn_it_was_at_the_last_check_of_each_shard():
    assert turns(check(0, polled=7), check(0, NOW_MS - 120_000, polled=90), check(1)) == (14, 0)


def test_the_latest_check_counts_in_whichever_order_the_lines_are():
    assert turns(check(0, NOW_MS - 120_000, polled=90), check(1), check(0, polled=7)) == (14, 0)


def test_those_that_were_not_asked_are_overdue():
    assert turns(check(0, unasked=3), check(1)) == (14, 3)


def test_all_accounts_of_a_shard_that_was_not_checked_in_time_are_overdue():
    late_ms = NOW_MS - 2 * 60_000 - LATE_MS - 1

    assert turns(check(0)) == (7, 10)
    assert turns(check(0), check(1, late_ms)) == (7, 10)
    assert turns(check(0), check(1, late_ms + 1)) == (14, 0)
    assert turns() == (0, 20)


def test_a_look_at_what_is_watched_is_no_check_of_the_shard():
    assert turns(check(0), check(1, after_s=5), check(1, account="7")) == (7, 10)


def test_a_check_that_came_too_late_to_be_made_is_none():
    dropped = {"connection": "shop", "shard": 1, "due_ms": NOW_MS - 60_000}

    assert turns(check(0), line(**dropped, late=[1])) == (7, 10)


def test_from_too_short_a_time_nobody_can_be_called_overdue():
    slow = Connection("shop", "youmail", interval_s=600, shards=2)

    assert turns(check(0), check(1), since_ms=NOW_MS - 120_000) is None
    assert turns(check(0), check(1), connection=slow) is None
    assert turns(check(0), check(1), fastest_s=600) is None


def test_another_connections_checks_are_not_this_ones():
    assert turns(check(0), check(1).replace("shop", "office")) == (7, 10)
