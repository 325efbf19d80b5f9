"""What ``pollwire redrive`` promises."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from botocore.client import BaseClient
from pollwire_cli import deadletters
from pollwire_cli.queues import job_queues

from tests import stack

ACCOUNT = "arn:aws:sqs:us-east-1:123456789012"
CRM = f"{ACCOUNT}:crm.fifo"
CHECKS, DELTAS = "pollwire-dead-checks-youmail", "pollwire-dead-deltas-entry.fifo"


@pytest.fixture
def sqs(operator):
    return operator.clients("sqs")


@pytest.fixture
def url(sqs):
    return lambda name: sqs.get_queue_url(QueueName=name)["QueueUrl"]


@pytest.fixture
def put(sqs, url):
    """Put messages into a queue, numbered."""

    def made(name, count=1, group="g", **more):
        fifo = name.endswith(".fifo")
        for number in range(count):
            words = {"MessageGroupId": group, "MessageDeduplicationId": f"{group}{number}"}
            sqs.send_message(
                QueueUrl=url(name), MessageBody=str(number), **(words if fifo else {}), **more
            )

    return made


@pytest.fixture
def taken(sqs, url):
    """Receive all there is in a queue."""

    def received(name):
        messages = []
        while found := sqs.receive_message(
            QueueUrl=url(name),
            MaxNumberOfMessages=10,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages"):
            messages += found
            for one in found:
                sqs.delete_message(QueueUrl=url(name), ReceiptHandle=one["ReceiptHandle"])
        return messages

    return received


@pytest.fixture
def crm(operator, sqs):
    """A subscribed queue with a dead-letter queue of its consumer's."""
    sqs.create_queue(QueueName="crm-dead.fifo", Attributes={"FifoQueue": "true"})
    policy = {"deadLetterTargetArn": f"{ACCOUNT}:crm-dead.fifo", "maxReceiveCount": 3}
    fifo = {"FifoQueue": "true", "RedrivePolicy": json.dumps(policy)}
    sqs.create_queue(QueueName="crm.fifo", Attributes=fifo)
    operator.done("subscribe", CRM)


def test_all_queues_of_the_template_are_known(operator):
    found = {one["queue"]: one for one in operator.done("redrive", "--json").lines}

    queues = [
        one["Properties"]["QueueName"]
        for one in stack.load()["Resources"].values()
        if one["Type"] == "AWS::SQS::Queue"
    ]
    dead = [
        one
        for one in operator.clients("sqs").list_queues()["QueueUrls"]
        if "-dead-" in one or "-undelivered" in one
    ]
    assert set(found) == {one.rpartition("/")[2] for one in dead}
    assert len(found) == len(queues) - len(job_queues("pollwire")) - 1
    assert found[CHECKS] == {
        "queue": CHECKS,
        "kind": "jobs",
        "messages": 0,
        "oldest": None,
        "back": ["pollwire-checks-youmail"],
    }
    assert found["pollwire-undelivered.fifo"]["back"] == ["pollwire-subscriber.fifo"]
    assert found["pollwire-dead-subscriber.fifo"]["kind"] == "events"


def test_it_lists_what_lies_where_and_moves_nothing(operator, put, taken):
    put(CHECKS, 2)
    put(DELTAS)

    answer = operator.done("redrive")
    lines = {one["queue"]: one for one in operator.done("redrive", "--json").lines}

    assert [line.split()[:3] for line in answer.out.splitlines()[1:]] == [
        [CHECKS, "jobs", "2"],
        [DELTAS, "jobs", "1"],
    ]
    assert lines[CHECKS]["oldest"].startswith("20")
    assert len(taken(CHECKS)) == 2
    assert len(taken(DELTAS)) == 1


def test_nothing_to_list_is_said(operator):
    assert "nothing lies in the 19 dead-letter queues" in operator.done("redrive").out


@pytest.mark.parametrize("named", [["--jobs"], [DELTAS, CHECKS], [f"{ACCOUNT}:{DELTAS}", "--jobs"]])
def test_jobs_go_back_where_they_belong(operator, put, taken, named):
    put(CHECKS, 3)
    put(DELTAS, 25)

    answer = operator.done("redrive", *named, "--yes", "--json")

    assert {one["queue"]: one["moved"] for one in answer.lines} == {CHECKS: 3, DELTAS: 25}
    assert sorted(one["Body"] for one in taken("pollwire-checks-youmail")) == ["0", "1", "2"]
    moved = taken("pollwire-deltas-entry.fifo")
    assert [one["Body"] for one in moved] == [str(number) for number in range(25)]
    assert {one["Attributes"]["MessageGroupId"] for one in moved} == {"g"}
    assert taken(CHECKS) == taken(DELTAS) == []
    assert "comes back" in answer.err


def test_a_message_goes_back_as_it_was(operator, put, taken, crm):
    said = {
        "stream": {"DataType": "String", "StringValue": "entry"},
        "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    put("crm-dead.fifo", MessageAttributes=said)
    put("pollwire-undelivered-crm.fifo", group="h", MessageAttributes=said)

    answer = operator.done("redrive", "--events", "--yes")

    first, second = sorted(taken("crm.fifo"), key=lambda one: one["Attributes"]["MessageGroupId"])
    for one in (first, second):
        assert one["MessageAttributes"] == said
        assert one["Body"] == "0"
    assert "sequence" in answer.err
    assert "1 messages moved to crm.fifo" in answer.out


def test_events_of_the_stacks_own_subscriber_go_back(operator, put, taken):
    put("pollwire-dead-subscriber.fifo", 2)
    put("pollwire-undelivered.fifo", 1, group="h")

    operator.done("redrive", "--events", "--yes")

    assert len(taken("pollwire-subscriber.fifo")) == 3


def test_an_id_that_was_sent_lately_swallows_nothing(operator, put, taken, crm):
    put("crm.fifo")
    put("crm-dead.fifo")

    operator.done("redrive", "crm-dead.fifo", "--yes")

    assert len(taken("crm.fifo")) == 2


def test_an_interrupted_redrive_loses_nothing_and_repeats_nothing(operator, put, taken, crm):
    put("crm-dead.fifo", 12)
    move, called = deadletters.Moved._move, []

    def stop(**_):
        raise KeyboardInterrupt

    def interrupted(self, sqs, *words):
        called.append(1)
        with pytest.MonkeyPatch.context() as patch:
            if len(called) == 2:  # What is sent then is not deleted.
                patch.setattr(sqs, "delete_message_batch", stop)
            move(self, sqs, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadletters.Moved, "_move", interrupted)
        answer = operator.run("redrive", "--events", "--yes")
    again = operator.done("redrive", "--events", "--yes", "--json")

    assert answer.code == 130
    assert "10 messages moved to crm.fifo" in answer.out
    assert again.json["moved"] == 2
    assert [one["Body"] for one in taken("crm.fifo")] == [str(number) for number in range(12)]


@contextmanager
def refusing_the_third(wanted):
    """Have SQS refuse the third entry of a batch."""
    call = BaseClient._make_api_call

    def refusing(self, operation, given):
        if operation != wanted:
            return call(self, operation, given)
        kept = given | {"Entries": given["Entries"][:2]}
        return call(self, operation, kept) | {"Failed": [{"Id": "2", "Code": "No"}]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", refusing)
        yield


def test_what_sqs_refuses_stays(operator, put, taken, crm):
    put("crm-dead.fifo", 3)

    with refusing_the_third("SendMessageBatch"):
        answer = operator.run("redrive", "--events", "--yes", "--json")

    assert answer.code == 1
    assert answer.json["moved"] == 2
    assert "SQS refused 1 messages; they stay" in answer.err
    assert len(taken("crm.fifo")) == 2
    assert "1" in operator.done("redrive").out


def test_what_sqs_does_not_delete_is_not_counted_as_moved(operator, put, taken):
    put(CHECKS, 3)

    with refusing_the_third("DeleteMessageBatch"):
        answer = operator.run("redrive", "--jobs", "--yes", "--json")

    assert answer.code == 1
    assert answer.json["moved"] == 2
    assert "SQS kept 1 messages that were sent; they lie in both queues" in answer.err
    assert len(taken("pollwire-checks-youmail")) == 3
    assert len(taken(CHECKS)) == 1, "it is to be seen at once"


def test_a_job_that_dies_again_is_not_moved_for_ever(operator, put, taken, sqs, url, monkeypatch):
    """A consumer that is quick to fail, as SQS does it: the message keeps its id."""
    put(CHECKS)
    receive, moved = deadletters.receive, []

    def dying(client, queue, hidden_s):
        messages = receive(client, queue, hidden_s)
        if not messages and len(moved) < 5:
            for one in taken("pollwire-checks-youmail"):
                moved.append(one)
                put(CHECKS)
                (again,) = receive(client, queue, hidden_s)
                messages.append({**again, "MessageId": one["MessageId"]})
        return messages

    monkeypatch.setattr(deadletters, "receive", dying)

    answer = operator.done("redrive", CHECKS, "--yes", "--json")

    assert (answer.json["moved"], answer.json["left"]) == (1, 1)
    assert len(taken(CHECKS)) == 1


def test_a_message_of_another_queue_is_left(operator, put, taken, crm, monkeypatch):
    put("crm-dead.fifo")
    receive = deadletters.receive

    def foreign(*words):
        messages = receive(*words)
        for one in messages:
            one["Attributes"]["DeadLetterQueueSourceArn"] = f"{ACCOUNT}:other.fifo"
        return messages

    monkeypatch.setattr(deadletters, "receive", foreign)

    answer = operator.done("redrive", "--events", "--yes", "--json")

    assert (answer.json["moved"], answer.json["left"]) == (0, 1)
    assert len(taken("crm-dead.fifo")) == 1


def test_a_queue_of_several_subscribers_is_not_guessed_at(operator, sqs, put, taken, crm):
    sqs.create_queue(QueueName="erp.fifo", Attributes={"FifoQueue": "true"})
    shared = f"{ACCOUNT}:crm-dead.fifo"
    operator.done("subscribe", f"{ACCOUNT}:erp.fifo", "--dead-letters", shared)
    put("crm-dead.fifo")

    said = operator.refused("redrive", "--events", "--yes")

    assert "crm.fifo, erp.fifo" in said or "erp.fifo, crm.fifo" in said
    assert len(taken("crm-dead.fifo")) == 1


def test_a_standard_queue_gets_its_events_back(operator, sqs, put, taken):
    sqs.create_queue(QueueName="loose")
    operator.done("subscribe", f"{ACCOUNT}:loose")
    put("pollwire-undelivered-loose.fifo", 2)

    operator.done("redrive", "--events", "--yes")

    assert len(taken("loose")) == 2


def test_large_messages_go_in_several_batches(operator, sqs, url, put, taken):
    big = {"blob": {"DataType": "String", "StringValue": "x" * 100_000}}
    put(CHECKS, 4, MessageAttributes=big)

    answer = operator.done("redrive", CHECKS, "--yes", "--json")

    assert answer.json["moved"] == 4
    assert len(taken("pollwire-checks-youmail")) == 4


def test_it_asks_first(operator, put, taken, terminal):
    put(CHECKS)

    answer = operator.run("redrive", "--jobs", stdin="n\n")

    assert answer.code == 1
    assert "nothing was moved" in answer.err
    assert CHECKS in answer.err
    assert len(taken(CHECKS)) == 1


def test_nothing_moves_unasked(operator, put, taken):
    put(CHECKS)

    answer = operator.run("redrive", "--jobs")

    assert answer.code == 1
    assert "give --yes" in answer.err
    assert len(taken(CHECKS)) == 1


def test_nothing_to_move_is_no_failure(operator):
    assert "nothing lies in the 17" in operator.done("redrive", "--jobs").out
    assert operator.done("redrive", "--jobs", "--events", "--json").out == ""


@pytest.mark.parametrize("name", ["nowhere", "", "pollwire-checks-youmail", "\x1b[2J"])
def test_what_is_no_dead_letter_queue_is_refused(operator, put, name):
    put(CHECKS)

    assert "no dead-letter queue of this stack" in operator.refused("redrive", CHECKS, name)
