"""Whatever stops a worker, and wherever: nothing is lost, nothing changes its id or its order."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from botocore.exceptions import ClientError
from moto.backends import get_backend
from pollwire import pipeline

from tests.integration.system import ANN, BOB, at_call, uuids


class Crash(Exception):
    """The worker is gone."""


def crash(call, **arguments):
    raise Crash


def afterwards(call, **arguments):
    """Done, but the answer is lost."""
    call(**arguments)
    raise Crash


def refuse_one(call, **arguments):
    """SNS takes a batch but for one entry in its middle."""
    entries = arguments.pop("PublishBatchRequestEntries")
    refused = entries[4]
    taken = [entry for entry in entries if entry is not refused]
    answer = call(PublishBatchRequestEntries=taken, **arguments)
    return answer | {"Failed": [{"Id": refused["Id"], "Code": "InternalError"}]}


def when_clearing(fault):
    """Let the write that empties an outbox fail."""

    def chosen(call, **arguments):
        clears = arguments["Key"]["sk"]["S"] == "cursor"
        return fault(call, **arguments) if clears else call(**arguments)

    return chosen


def ids(deliveries):
    return [one.event["body"]["record"]["id"] for one in deliveries]


def firsts(deliveries):
    """Each event once, where it was delivered first."""
    return list({one.event["uuid"]: one for one in deliveries}.values())


def test_a_crash_after_the_decision_publishes_what_was_decided(ann):
    contact = ann.simulator.add_contact(ANN)
    ann.faults["publish_batch"] = crash
    assert ann.poll() == 1
    assert ann.deliveries() == []
    decided = [event.uuid for event in ann.stream_state("contact").outbox]
    ann.simulator.update_contact(contact, firstName="Robert")  # the provider has moved on
    ann.faults.clear()

    ann.redeliver()
    assert ann.run_deltas() == 0

    ann.rest()
    deliveries = ann.deliveries()
    assert uuids(deliveries)[:1] == decided
    assert [one.said for one in deliveries] == [
        ("contact", "created", contact),
        ("contact", "updated", contact),
    ]
    assert ann.stream_state("contact").outbox == ()


@pytest.mark.parametrize("fault", [crash, afterwards, refuse_one])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_crash_while_publishing_repeats_and_loses_nothing(ann, fault, batch):
    contacts = [ann.simulator.add_contact(ANN, at_ms=ann.clock() + n) for n in range(25)]
    ann.clock.advance(1)
    ann.faults["publish_batch"] = at_call(batch, fault)
    assert ann.poll() == 1
    decided = [event.uuid for event in ann.stream_state("contact").outbox]
    before = ann.deliveries()
    ann.faults.clear()

    ann.redeliver()
    assert ann.run_deltas() == 0

    after = ann.deliveries()
    assert len(before) < 25
    assert ids(after) == contacts
    assert uuids(after) == decided
    assert len(firsts(before + after)) == 25
    told = {one.event["uuid"]: one.event for one in after}
    assert all(one.event == told[one.event["uuid"]] for one in before)
    ann.rest()
    assert ann.deliveries() == []


def test_events_that_were_refused_keep_the_order_of_each_record(ann):
    """What follows a refused batch waits, so no later event of a record overtakes an earlier."""
    contacts = [ann.simulator.add_contact(ANN, at_ms=ann.clock() + n) for n in range(15)]
    ann.clock.advance(1)
    ann.faults["publish_batch"] = at_call(1, refuse_one)
    ann.poll()
    for contact in contacts:
        ann.simulator.update_contact(contact, firstName="Robert")
    ann.faults.clear()

    ann.poll()
    ann.rest()

    orders = {}
    for one in firsts(ann.deliveries()):
        _, change, contact = one.said
        orders.setdefault(contact, []).append(change)
    assert orders == {contact: ["created", "updated"] for contact in contacts}


@pytest.mark.parametrize("fault", [crash, afterwards])
def test_a_crash_before_the_outbox_is_cleared_repeats_under_the_same_id(ann, fault):
    contact = ann.simulator.add_contact(ANN)
    ann.faults["update_item"] = when_clearing(fault)
    assert ann.poll() == 1
    ann.faults.clear()

    ann.redeliver()
    assert ann.run_deltas() == 0

    deliveries = ann.deliveries()
    assert {one.said for one in deliveries} == {("contact", "created", contact)}
    assert len(set(uuids(deliveries))) == 1
    assert ann.stream_state("contact").outbox == ()
    ann.rest()
    assert ann.deliveries() == []


@pytest.mark.parametrize("fault", [crash, afterwards])
def test_a_crash_at_the_decision_decides_once(ann, fault):
    contact = ann.simulator.add_contact(ANN)
    ann.faults["transact_write_items"] = at_call(1, fault)
    assert ann.poll() == 1
    assert ann.deliveries() == []

    ann.redeliver()
    assert ann.run_deltas() == 0

    assert ann.said() == [("contact", "created", contact)]
    ann.rest()
    assert ann.said() == []


@pytest.mark.parametrize("fault", [crash, afterwards])
@pytest.mark.parametrize("call", ["update_item", "send_message_batch"])
def test_a_crash_of_a_check_loses_no_mark(ann, call, fault):
    contact = ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    job = pipeline.CheckJob("shop", 0, ann.clock(), 60)
    ann.world.queues.send_checks("youmail", [job], ann.clock())
    ann.faults[call] = fault
    assert ann.run_checks() == 1
    ann.faults.clear()

    ann.poll()

    assert ann.said() == [("contact", "created", contact)]


@pytest.mark.parametrize("first", [True, False])
def test_a_queue_that_takes_nothing_stops_no_other_stream(ann, first):
    contact, greeting = ann.simulator.add_contact(ANN), ann.simulator.record_greeting(ANN)
    broken, told = ("contact", greeting) if first else ("greeting", contact)

    def refuse(call, **arguments):
        if broken in arguments["QueueUrl"]:
            raise ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "SendMessageBatch")
        return call(**arguments)

    ann.clock.advance(60)
    job = pipeline.CheckJob("shop", 0, ann.clock(), 60)
    ann.world.queues.send_checks("youmail", [job], ann.clock())
    ann.faults["send_message_batch"] = refuse

    assert ann.run_checks() == 1

    ann.run_deltas()
    assert ids(ann.deliveries()) == [told]


def test_a_crash_while_something_must_be_seen_again_does_not_settle_it(ann):
    """The job that comes back finds its drain done, but what the drain doubted is still open."""
    first, second = ann.simulator.record_greeting(ANN), ann.simulator.record_greeting(ANN, "Two")
    ann.rest()
    assert len(ann.said()) == 2
    ann.simulator.delete_greeting(first)
    ann.poll()
    ann.simulator.delete_greeting(second)
    ann.clock.advance(60)
    ann.check()
    ann.clock.advance(60)  # The job is late: its drain begins when the mark could be settled.
    ann.faults["publish_batch"] = crash
    assert ann.run_deltas() == 1
    ann.faults.clear()
    ann.redeliver()
    assert ann.run_deltas() == 0
    assert ann.said() == [("greeting", "deleted", first)]

    ann.rest()

    assert ann.said() == [("greeting", "deleted", second)]


def test_of_two_workers_on_one_stream_the_slower_publishes_nothing(ann):
    first = ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    job = ann.job("contact")
    seconds = []

    def overtake(request):
        if "/contacts/" in request.url and not seconds:
            seconds.append("")
            pipeline.delta(ann.world, job, lambda: 60_000)
            seconds[0] = ann.simulator.add_contact(ANN)

    ann.http.on_request = overtake
    assert ann.run_deltas() == 1

    assert ann.said() == [("contact", "created", first)]
    ann.redeliver()
    assert ann.run_deltas() == 0
    assert ann.said() == []
    ann.rest()
    assert ann.said() == [("contact", "created", seconds[0])]


@pytest.mark.parametrize("late_s", [0, 180], ids=["nothing to settle", "a mark to settle"])
def test_an_account_that_is_removed_while_its_job_runs_does_not_come_back(ann, late_s):
    ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    ann.clock.advance(late_s)
    ann.http.on_request = lambda request: (
        ann.remove_account(ANN) if "/contacts/" in request.url else None
    )

    ann.run_deltas()
    ann.redeliver()
    assert ann.run_deltas() == 0

    assert ann.standing() is None
    assert not [pk for pk, _ in ann.table() if pk.startswith("shard#")]
    assert ann.depths() == {"pollwire-subscriber.fifo": 1}


def test_an_account_that_is_removed_while_it_is_checked_does_not_come_back(ann):
    ann.simulator.add_contact(ANN)
    ann.http.on_request = lambda request: ann.remove_account(ANN)

    ann.poll()

    assert ann.standing() is None
    assert ann.depths() == {}


def test_a_poison_job_is_reported_and_stops_no_other_group(ann):
    ann.add_account(BOB, fields="history,entry,contact")
    ann.poll()
    ann.poll(120)
    contacts = {ann.simulator.add_contact(ANN), ann.simulator.add_contact(BOB)}
    url = ann.deltas_url("contact")
    ann.sqs.send_message(
        QueueUrl=url, MessageBody="no job", MessageGroupId="x", MessageDeduplicationId="x"
    )

    assert ann.poll() == 1

    assert {said[2] for said in ann.said()} == contacts
    for _ in range(3):
        ann.redeliver()
        ann.run_deltas()
    assert ann.depths() == {"pollwire-dead-deltas-contact.fifo": 1}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"stream": "moved"}, id="unknown stream"),
        pytest.param({"account": "nobody"}, id="unknown account"),
        pytest.param({"connection": "nowhere"}, id="unknown connection"),
    ],
)
def test_a_job_that_can_never_succeed_is_acknowledged(ann, body):
    job = asdict(ann.job("contact")) | {"pending": [f"contact@{ann.clock()}@1"]} | body
    ann.sqs.send_message(
        QueueUrl=ann.deltas_url("contact"),
        MessageBody=json.dumps(job),
        MessageGroupId="x",
        MessageDeduplicationId="x",
    )

    assert ann.run_deltas() == 0

    assert ann.depths() == {}


def test_what_failed_comes_back_soon(ann):
    """Until then its group stands still: two seconds, not the queue's six minutes."""
    ann.sqs.send_message(
        QueueUrl=ann.deltas_url("contact"),
        MessageBody="no job",
        MessageGroupId="x",
        MessageDeduplicationId="x",
    )
    ann.poll()

    queue = get_backend("sqs")["123456789012"]["us-east-1"].queues["pollwire-deltas-contact.fifo"]
    (message,) = queue._messages
    left_ms = message.visible_at - message.approximate_first_receive_timestamp
    assert left_ms < 10_000


def test_a_backlog_is_told_in_order_in_many_decisions(ann):
    start_ms = ann.clock()
    calls = [ann.simulator.call(ANN, at_ms=start_ms + n) for n in range(2_500)]
    ann.clock.advance(3)
    _unsubscribe(ann)  # moto's queues are slow when they are deep
    published = _spy(ann)
    sizes = []

    def transact(call, TransactItems):
        # moto copies the whole table each time. Nothing fails here, so the parts will do.
        sizes.append(len(TransactItems))
        cursor, *puts = TransactItems
        ann.dynamodb.update_item(**cursor["Update"])
        for put in puts:
            ann.dynamodb.put_item(**put["Put"])

    ann.faults["transact_write_items"] = transact

    assert ann.poll() == 0

    assert [_id(entry) for entry in published] == calls
    assert len(sizes) >= 25
    assert max(sizes) <= 100
    assert ann.stream_state("history").reached_ms == start_ms + 2_499


def test_a_drain_that_runs_out_of_time_goes_on_where_it_stopped(ann):
    start_ms = ann.clock()
    calls = [ann.simulator.call(ANN, at_ms=start_ms + n) for n in range(250)]
    ann.clock.advance(1)
    _unsubscribe(ann)
    published = _spy(ann)
    reached_ms = ann.stream_state("history").reached_ms

    pages, cursors = [], []
    for _ in range(3):
        ann.remaining_ms = countdown(60_000, 10_000)
        ann.poll()
        pages.append(len(published))
        cursors.append(ann.stream_state("history").reached_ms)

    assert pages == [100, 200, 250]
    assert cursors == [reached_ms, reached_ms, start_ms + 249]
    assert [_id(entry) for entry in published] == calls
    assert ann.stream_state("history").drain is None


def test_a_job_that_is_left_no_time_waits_for_the_next_check(ann):
    """Half a drain that ends with the invocation would bring back its whole batch."""
    contact = ann.simulator.add_contact(ANN)
    ann.remaining_ms = lambda: 10_000
    looked = ann.simulator.requests["contact"]

    assert ann.poll() == 0

    assert ann.simulator.requests["contact"] == looked
    assert ann.depths() == {}
    ann.remaining_ms = lambda: 60_000
    ann.poll()
    assert ann.said() == [("contact", "created", contact)]


def countdown(first, then):
    """Milliseconds that are left: much at the first look, little from then on."""
    left = iter([first])
    return lambda: next(left, then)


def _unsubscribe(system):
    for one in system.sns.list_subscriptions()["Subscriptions"]:
        system.sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])


def _spy(system):
    """Keep what is published."""
    published = []

    def publish(call, **arguments):
        published.extend(arguments["PublishBatchRequestEntries"])
        return call(**arguments)

    system.faults["publish_batch"] = publish
    return published


def _id(entry):
    return json.loads(entry["Message"])["body"]["record"]["id"]
