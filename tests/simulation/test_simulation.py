"""
The promise, under every fault: the fixed part of what ``make simulate`` explores at random.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from pollwire.providers import registered

from tests.simulation import invariants, scenario
from tests.simulation.report import Report, many, perform
from tests.simulation.scenario import Run, swarm
from tests.simulation.stories import PAIRED, REGRESSIONS, STORIES, pairs, singles
from tests.simulation.world import FAULTS, Broken

pytestmark = pytest.mark.filterwarnings("ignore")

#: Runs of the fixed part.
SWARM, FEW = 800, 240

#: What the runs of the fixed part must have reached, or they prove less than they seem to.
REACHED = (
    "status 200", "status 304", "timed out", "handed out twice", "job failed", "redriven",
    "published again within 5 minutes", "record: back_digest", "record: missing_at", "record: gone",
    "count: changed", "count: settled", "count: created", "count: updated", "count: deleted",
    "count: left_alone", "count: unasked", "count: spent", "count: late",
    "count: failed", "count: malformed", "count: unavailable", "count: ratelimited",
    "count: rejected", "count: removed", "count: queued",
    "page 2", "record: reason", "conflict of versions", "outbox published by another",
)  # fmt: skip


@cache
def one_fault(number: int) -> Report:
    report = Report()
    for plan in singles(STORIES[number]):
        perform(report, "story", STORIES[number], plan)
    return report


@cache
def two_faults(name: str) -> Report:
    report = Report()
    story, faults = PAIRED[name]
    for plan in pairs(story, faults):
        perform(report, "story", story, plan)
    return report


@cache
def drawn(family: str, runs: int) -> Report:
    return many(family, range(runs))


def require_whole(report: Report) -> None:
    shown = "\n".join(f"{replay}\n    {reason}" for replay, reason in report.failures[:5])
    assert not report.failures, f"{len(report.failures)} of {report.runs} runs:\n{shown}"


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, id=f"{one.upstreams[0]}-{one.seed}") for n, one in enumerate(STORIES)],
)
def test_one_fault_at_any_step_loses_nothing(number):
    report = one_fault(number)

    assert report.runs >= 6 * 40
    assert min(report.injected[fault] for fault in FAULTS) >= 40
    require_whole(report)


@pytest.mark.parametrize("name", PAIRED)
def test_two_faults_at_any_two_steps_lose_nothing(name):
    report = two_faults(name)

    assert report.runs >= 400
    assert report.events >= 1.5 * report.runs
    assert sum(report.injected.values()) > 1.3 * report.runs, "the second often strikes, too"
    require_whole(report)


def test_random_faults_lose_nothing():
    report = drawn("swarm", SWARM)

    assert report.events > SWARM
    assert sum(report.injected.values()) > 1.5 * SWARM
    require_whole(report)


def test_pages_decisions_and_time_that_are_small_lose_nothing():
    report = drawn("paged", FEW)

    assert report.reached["count: unfinished"] > 20
    assert report.reached["drain saved"] > 100
    require_whole(report)


def test_what_providers_or_others_notify_of_loses_nothing():
    report = drawn("pushed", FEW)

    assert report.reached["count: notified"] > FEW
    assert report.reached["count: queued"] > FEW / 2
    require_whole(report)


def test_without_faults_and_listings_everything_is_told_soon():
    require_whole(drawn("calm", FEW))


def test_a_sick_account_and_a_removed_one_stop_no_other():
    require_whole(drawn("neighbours", FEW))


def test_accounts_that_share_and_that_are_interrupted_lose_nothing():
    report = drawn("fleet", 2 * FEW)

    assert report.events > 4 * FEW
    require_whole(report)


def test_a_validator_that_lies_is_found_out_within_the_hour():
    report = drawn("hour", FEW // 3)

    assert report.events > 2 * FEW // 3
    require_whole(report)


def test_a_provider_that_fails_for_long_and_is_well_again_is_not_forgotten():
    require_whole(drawn("outage", FEW // 4))


@pytest.mark.parametrize("was", REGRESSIONS)
def test_what_was_found_once_stays_mended(was):
    report = Report()
    perform(report, "story", REGRESSIONS[was])

    assert report.events > 1
    require_whole(report)


@pytest.mark.parametrize("family", ["swarm", "calm", "neighbours", "paged", "fleet"])
def test_every_family_draws_every_provider_and_stream(family):
    drawn_streams = set()
    for seed in range(300):
        given = getattr(scenario, family)(seed)
        for upstream in Run(given).upstreams:
            drawn_streams |= {(upstream.name, stream) for stream in upstream.streams}
            if upstream.watches and upstream.name == "kirimdev":
                drawn_streams.add(("kirimdev", "message-status"))

    assert drawn_streams == {
        (name, stream) for name, one in registered().items() for stream in one.streams
    }


@cache
def everything() -> Report:
    total = Report()
    for report in (
        drawn("swarm", SWARM),
        drawn("neighbours", FEW),
        drawn("paged", FEW),
        drawn("fleet", 2 * FEW),
        drawn("pushed", FEW),
        *map(one_fault, range(len(STORIES))),
    ):
        total.add(report)
    return total


def test_the_runs_have_reached_what_they_are_for():
    assert [name for name in REACHED if not everything().reached[name]] == []


def test_a_run_is_the_same_however_often_it_is_made():
    once, again = (Run(swarm(77)).go() for _ in range(2))

    assert once.world.trace == again.world.trace
    assert [one["text"] for one in once.deliveries()] == [one["text"] for one in again.deliveries()]
    assert once.world.aws.items == again.world.aws.items


# The checker itself


@pytest.fixture(scope="module")
def history():
    """What one good run told, with a thing of two revisions that is there in the end."""
    for seed in range(400):
        run = Run(replace(swarm(seed), upstreams=("youmail",), backfill=True)).go()
        for found in invariants.events(run).values():
            news = invariants.first(found)
            if len(news) > 1 and news[-1]["body"]["change"] != "deleted":
                return run, news[-1]["body"]["recordId"]
    raise AssertionError("no run told two revisions of one thing")


def spoil(history, change):
    """Alter a copy of a history; what notices has to complain."""
    run, busy = history
    events = [json.loads(json.dumps(one)) for one in Run.deliveries(run)]
    change(events, [n for n, one in enumerate(events) if one["body"]["recordId"] == busy])
    run.deliveries = lambda: events
    try:
        with run.lambdas.installed(), pytest.raises(Broken):
            invariants.histories(run)
    finally:
        del run.deliveries


def test_a_lost_last_event_is_noticed(history):
    spoil(history, lambda events, mine: events.pop(mine[-1]))


def test_events_in_the_wrong_order_are_noticed(history):
    def swap(events, mine):
        events[mine[0]], events[mine[1]] = events[mine[1]], events[mine[0]]

    spoil(history, swap)


def test_one_id_with_two_texts_is_noticed(history):
    def alter(events, mine):
        events.append({**events[mine[0]], "text": "another"})

    spoil(history, alter)


def test_one_decision_with_two_ids_is_noticed(history):
    def alter(events, mine):
        events.insert(mine[0], {**events[mine[0]], "uuid": "another", "text": "another"})

    spoil(history, alter)


def test_two_decisions_with_one_id_are_noticed(history):
    def alter(events, mine):
        one, other = events[mine[0]], events[mine[1]]
        other["uuid"], other["text"] = one["uuid"], one["text"]

    spoil(history, alter)


def test_a_wrong_record_is_noticed(history):
    def alter(events, mine):
        events[mine[-1]]["body"]["record"]["creationTime"] = "1970-01-01T00:00:00.000Z"
        events[mine[-1]]["body"]["record"]["firstName"] = "nobody"

    spoil(history, alter)


def test_a_thing_that_is_gone_and_was_not_told_so_is_noticed(history):
    def alter(events, mine):
        body = json.loads(json.dumps(events[mine[-1]]))
        body["body"]["recordId"] = body["uuid"] = body["text"] = "never there"
        body["body"]["stream"] = "greeting"
        events.append(body)

    run, _ = history
    run.upstreams[0].streams = (*run.upstreams[0].streams, "greeting")
    spoil(history, alter)
