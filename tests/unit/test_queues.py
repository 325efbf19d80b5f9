"""Promises of the pure parts of pollwire.queues."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire import queues
from pollwire.batches import described
from pollwire.errors import Malformed
from pollwire.marks import element
from pollwire.model import CheckJob, DeltaJob, Event

CHECK = CheckJob("acme", 3, 1_700_000_000_000, 10)
DELTA = DeltaJob("acme", 3, "7", "entry", ("entry@5@1", 'entry@9@W/"a@b"'), 1_700_000_000_000)

quick = settings(database=None, deadline=None, max_examples=100)


def event(entity: str, size: int = 10, uuid: str = "") -> Event:
    return Event(uuid or entity, "x" * size, {}, "GROUP", entity)


def batches(*events: Event) -> list[list[str]]:
    return [[one.uuid for one in batch] for batch in queues.event_batches(events)]


def sizes(*events: Event) -> list[int]:
    return [len(batch) for batch in batches(*events)]


# Batches of events


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(0, [], id="none"),
        pytest.param(1, [1], id="one"),
        pytest.param(10, [10], id="ten"),
        pytest.param(11, [10, 1], id="eleven"),
        pytest.param(25, [10, 10, 5], id="more"),
    ],
)
def test_a_batch_holds_ten_events_at_most(count, expected):
    assert sizes(*(event(str(n)) for n in range(count))) == expected


HALF = (queues.BATCH_BYTES_MAX - 2 * queues.ATTRIBUTE_BYTES) // 2


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        pytest.param([HALF, HALF], [2], id="exactly full"),
        pytest.param([HALF, HALF + 1], [1, 1], id="a byte more"),
        pytest.param([252 * 1024] * 3, [1, 1, 1], id="largest events"),
        pytest.param([251 * 1024, 1, 1], [3], id="small ones beside the largest"),
        pytest.param([300 * 1024, 1], [1, 1], id="too large stands alone"),
    ],
)
def test_a_batch_holds_no_more_bytes_than_sns_takes(bodies, expected):
    assert sizes(*(event(str(n), size) for n, size in enumerate(bodies))) == expected


def test_no_batch_holds_two_events_of_one_record():
    events = [event("a", uuid="a1"), event("b", uuid="b1"), event("a", uuid="a2")]

    assert batches(*events) == [["a1", "b1"], ["a2"]]


def test_events_of_one_record_only_go_one_by_one():
    assert sizes(*(event("a") for _ in range(4))) == [1, 1, 1, 1]


events_strategy = st.lists(
    st.builds(event, st.sampled_from("abcdefghijklmnop"), st.integers(0, 252 * 1024)), max_size=60
)


@quick
@given(events=events_strategy)
def test_batches_keep_every_event_and_their_order(events):
    found = list(queues.event_batches(events))

    assert [one for batch in found for one in batch] == events
    for batch in found:
        assert 1 <= len(batch) <= 10
        assert len({one.entity for one in batch}) == len(batch)
        assert sum(len(one.body) for one in batch) + 1024 * len(batch) <= queues.BATCH_BYTES_MAX


# Waiting


@pytest.mark.parametrize(
    ("receives", "wait_s"),
    [
        pytest.param(-1, 2, id="never received"),
        pytest.param(0, 2, id="not counted"),
        pytest.param(1, 2, id="first failure"),
        pytest.param(2, 8, id="second"),
        pytest.param(3, 32, id="third"),
        pytest.param(4, 128, id="fourth"),
        pytest.param(5, 300, id="limit"),
        pytest.param(10**6, 300, id="for ever"),
    ],
)
def test_a_failed_message_waits_longer_with_every_failure(receives, wait_s):
    assert queues.retry_s(receives) == wait_s


# Reading messages


def body(job, **fields) -> str:
    return json.dumps({**asdict(job), **fields})


def without(job, name: str) -> str:
    return json.dumps({key: value for key, value in asdict(job).items() if key != name})


def test_a_check_is_read_as_it_was_written():
    assert queues.read_check(body(CHECK)) == CHECK


def test_a_delta_job_is_read_as_it_was_written():
    assert queues.read_delta(body(DELTA)) == DELTA


@quick
@given(stream=st.from_regex("[a-z-]{1,20}", fullmatch=True), mark=st.text(max_size=200))
def test_every_element_of_a_pending_set_can_be_read_again(stream, mark):
    pending = [element(stream, mark, 1_700_000_000_000)]

    assert queues.read_delta(body(DELTA, pending=pending)).pending == tuple(pending)


def test_fields_of_a_newer_version_are_left_aside():
    assert queues.read_check(body(CHECK, colour="blue")) == CHECK
    assert queues.read_delta(body(DELTA, colour="blue")) == DELTA


@pytest.mark.parametrize("full", [False, True])
def test_a_delta_job_says_whether_everything_is_asked_for(full):
    job = replace(DELTA, full=full)

    assert queues.read_delta(body(job)) == job


def test_a_delta_job_of_an_older_version_asks_for_no_more_than_its_marks():
    assert queues.read_delta(without(DELTA, "full")) == DELTA


def test_a_delta_job_for_everything_needs_no_mark():
    job = replace(DELTA, pending=(), full=True)

    assert queues.read_delta(body(job)) == job


@pytest.mark.parametrize("value", [None, 0, 1, "true", []], ids=repr)
def test_whether_everything_is_asked_for_is_a_truth(value):
    with pytest.raises(Malformed, match=r"^job\.full: bool is expected"):
        queues.read_delta(body(DELTA, full=value))


NO_JOBS = [
    pytest.param("", id="empty"),
    pytest.param("due", id="no JSON"),
    pytest.param('{"connection": "acme"', id="cut short"),
    pytest.param("[]", id="list"),
    pytest.param("null", id="null"),
    pytest.param("7", id="number"),
    pytest.param('"acme"', id="text"),
    pytest.param("NaN", id="no number"),
    pytest.param("{}", id="no fields"),
    pytest.param("[" * 100_000, id="too deep"),
    pytest.param('{"shard": ' + "9" * 5_000 + "}", id="too many digits"),
]


@pytest.mark.parametrize("text", NO_JOBS)
def test_what_is_no_check_is_malformed(text):
    with pytest.raises(Malformed):
        queues.read_check(text)


@pytest.mark.parametrize("text", NO_JOBS)
def test_what_is_no_delta_job_is_malformed(text):
    with pytest.raises(Malformed):
        queues.read_delta(text)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, id=one) for one in asdict(CHECK) if one not in ("after_s", "account")],
)
def test_a_check_needs_all_its_fields(name):
    with pytest.raises(Malformed, match=f"^job.{name}: "):
        queues.read_check(without(CHECK, name))


def test_a_check_of_an_older_version_is_a_regular_one_of_the_whole_shard():
    older = json.dumps({name: asdict(CHECK)[name] for name in list(asdict(CHECK))[:4]})

    assert queues.read_check(older) == CHECK


@pytest.mark.parametrize(
    "name", [pytest.param(one, id=one) for one in asdict(DELTA) if one != "full"]
)
def test_a_delta_job_needs_all_its_fields(name):
    with pytest.raises(Malformed, match=f"^job.{name}: "):
        queues.read_delta(without(DELTA, name))


NO_NUMBERS = [True, False, None, "3", 3.0, [3], {}]
NO_TEXTS = [True, None, 7, ["acme"], {}]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["shard", "due_ms", "interval_s"])
def test_a_number_of_a_check_is_a_number(name, value):
    with pytest.raises(Malformed):
        queues.read_check(body(CHECK, **{name: value}))


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
def test_the_connection_of_a_check_is_a_text(value):
    with pytest.raises(Malformed):
        queues.read_check(body(CHECK, connection=value))


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["shard", "due_ms"])
def test_a_number_of_a_delta_job_is_a_number(name, value):
    with pytest.raises(Malformed):
        queues.read_delta(body(DELTA, **{name: value}))


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
@pytest.mark.parametrize("name", ["connection", "account", "stream"])
def test_a_name_of_a_delta_job_is_a_text(name, value):
    with pytest.raises(Malformed):
        queues.read_delta(body(DELTA, **{name: value}))


@pytest.mark.parametrize(
    "pending",
    [
        pytest.param("entry@5@1", id="text instead of a list"),
        pytest.param({"entry@5@1": 1}, id="object instead of a list"),
        pytest.param([], id="nothing is pending"),
        pytest.param([7], id="number"),
        pytest.param([None], id="null"),
        pytest.param([["entry@5@1"]], id="list"),
        pytest.param(["entry"], id="no separator"),
        pytest.param(["entry@5"], id="no mark"),
        pytest.param(["entry@@1"], id="no instant"),
        pytest.param(["entry@soon@1"], id="instant is no number"),
        pytest.param(["entry@-5@1"], id="negative instant"),
        pytest.param(["entry@5.0@1"], id="instant with a point"),
        pytest.param(["entry@５@1"], id="full-width digits"),  # noqa: RUF001
        pytest.param(["entry@" + "9" * 5_000 + "@1"], id="instant of too many digits"),
        pytest.param(["@5@1"], id="no stream"),
        pytest.param(["entry@5@1", "entry"], id="one of them"),
    ],
)
def test_a_pending_element_is_a_stream_an_instant_and_a_mark(pending):
    with pytest.raises(Malformed, match=r"^job\.pending: "):
        queues.read_delta(body(DELTA, pending=pending))


def test_a_malformed_job_is_not_quoted():
    """What came over a queue may be anything, and errors are logged."""
    with pytest.raises(Malformed) as caught:
        queues.read_delta(body(DELTA, account=["canary"]))

    assert "canary" not in str(caught.value)


FORGED = [
    "",
    "a b",
    "a#b",
    "a/b",
    "a\r\nb",
    'a\n{"level": "ERROR"}',
    "a\x00",
    "a\u202eb",
    "\u0430cme",
    "${a}",
    "a" * 201,
    "a" * 100_000,
]


@pytest.mark.parametrize("value", FORGED, ids=lambda one: repr(one)[:20])
@pytest.mark.parametrize("name", ["connection", "account", "stream"])
def test_a_name_that_nothing_has_is_no_part_of_a_job(name, value):
    """It would be part of a key, and of a line of the log."""
    with pytest.raises(Malformed, match=rf"^job\.{name}: ") as caught:
        queues.read_delta(body(DELTA, **{name: value}))
    if name == "connection":
        with pytest.raises(Malformed, match=rf"^job\.{name}: "):
            queues.read_check(body(CHECK, **{name: value}))

    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [-1, 10**15 + 1, 10**400])
@pytest.mark.parametrize("name", ["shard", "due_ms", "interval_s", "after_s"])
def test_a_number_of_a_job_is_within_bounds(name, value):
    with pytest.raises(Malformed, match=rf"^job\.{name}: "):
        queues.read_check(body(CHECK, **{name: value}))
    if name in asdict(DELTA):
        with pytest.raises(Malformed, match=rf"^job\.{name}: "):
            queues.read_delta(body(DELTA, **{name: value}))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (body(CHECK), {"connection": CHECK.connection, "shard": CHECK.shard}),
        (
            body(DELTA),
            {
                "connection": DELTA.connection,
                "shard": DELTA.shard,
                "account": DELTA.account,
                "stream": DELTA.stream,
            },
        ),
        (body(DELTA, account="canary\r\n"), {}),
        ("canary", {}),
        ('{"password": "canary"}', {}),
        ("[" * 100_000, {}),
    ],
    ids=["check", "delta", "forged", "text", "object", "nested"],
)
def test_a_job_that_fails_is_logged_by_its_names_only(message, said):
    assert described(queues.read_job(message)) == said
