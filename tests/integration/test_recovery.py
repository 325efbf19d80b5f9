"""Walks of docs/recovery.md that need no other provider than one: the handlers, on moto."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError
from pollwire import wiring
from pollwire.model import DeltaJob
from pollwire.providers.youmail import YouMail

from tests.integration import former
from tests.integration.system import ANN, PASSWORD, uuids


def told(deliveries):
    return [(one.said[1], one.event["body"]["record"].get("firstName")) for one in deliveries]


def rename(ann, contact, *names):
    for name in names:
        ann.simulator.update_contact(contact, firstName=name)
        ann.rest()


def last_numbers(deliveries):
    return [one.event["body"]["sequence"] for one in deliveries]


# A table that is restored, or gone on with


@pytest.fixture
def go_on_with(ann, monkeypatch):
    """Have the stack go on with another table that has these items: the parameter StateTable."""

    def go_on(items, name):
        found = ann.dynamodb.describe_table(TableName=ann.environment["TABLE_NAME"])["Table"]
        schema = {one: found[one] for one in ("AttributeDefinitions", "KeySchema")}
        if name != ann.environment["TABLE_NAME"]:
            ann.dynamodb.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **schema)
        for item in items.values():
            ann.dynamodb.put_item(TableName=name, Item=item)
        ann.environment["TABLE_NAME"] = name
        monkeypatch.setenv("TABLE_NAME", name)
        wiring.world.cache_clear()

    return go_on


def test_a_restored_table_repeats_under_equal_ids_and_goes_on_above_all_numbers(ann, go_on_with):
    known = ann.simulator.add_contact(ANN, firstName="Ann")
    ann.rest()
    first = ann.deliveries()
    kept = ann.table()

    ann.simulator.update_contact(known, firstName="Bea")
    ann.rest()
    ann.simulator.update_contact(known, firstName="Cat")
    made = ann.simulator.add_contact(ANN, firstName="Dan")
    ann.rest()
    ann.simulator.delete_contact(made)
    voicemail = ann.simulator.leave_voicemail(ANN)
    ann.rest()
    ann.simulator.mark_read(voicemail)
    ann.rest()
    lost = ann.deliveries()

    go_on_with(kept, "restored")
    ann.rest()
    again = ann.deliveries()

    assert len(lost) == 7
    assert set(uuids(again)) <= set(uuids(lost))
    # Each thing as it is now.
    assert {one.said for one in again} >= {
        ("contact", "updated", known),
        ("contact", "deleted", made),
        ("entry", "created", voicemail),
    }
    assert min(last_numbers(again)) > max(last_numbers(first + lost))


def test_a_state_that_comes_back_after_the_restore_has_an_id_of_its_own(ann, go_on_with):
    """It was told in the hour that the table has forgotten: who knows the id would drop it."""
    known = ann.simulator.add_contact(ANN, firstName="A")
    ann.rest()
    kept = ann.table()
    rename(ann, known, "B", "A")
    lost = ann.deliveries()

    go_on_with(kept, "restored")
    ann.rest()
    assert ann.deliveries() == [], "it is as it was"
    rename(ann, known, "B", "A")
    later = ann.deliveries()

    assert told(later) == [("updated", "B"), ("updated", "A")]
    assert not set(uuids(later)) & set(uuids(lost))


def test_a_state_that_comes_back_before_the_restored_table_is_read_has_a_known_id(ann, go_on_with):
    """What has no time of its own: nothing tells it from the repeat that equal ids are for."""
    known = ann.simulator.add_contact(ANN, firstName="A")
    ann.rest()
    kept = ann.table()
    rename(ann, known, "B", "A")
    lost = ann.deliveries()

    go_on_with(kept, "restored")
    rename(ann, known, "B")
    (again,) = ann.deliveries()

    assert told([again]) == [("updated", "B")]
    assert again.event["uuid"] == next(
        one.event["uuid"] for one in lost if told([one]) == [("updated", "B")]
    )


def test_a_table_that_is_gone_on_with_repeats_nothing(ann, go_on_with):
    ann.simulator.add_contact(ANN)
    ann.rest()
    ann.deliveries()

    go_on_with(ann.table(), ann.environment["TABLE_NAME"])
    ann.rest()
    assert ann.deliveries() == []

    contact = ann.simulator.add_contact(ANN)
    ann.rest()
    assert ann.said() == [("contact", "created", contact)]


# A job that died


def refused(call, **arguments):
    said = {"Error": {"Code": "KMSDisabledException", "Message": "the key is disabled"}}
    raise ClientError(said, "PublishBatch")


def broken(self, account, stream, start, fetch):
    raise RuntimeError("a row that nobody thought of")


@pytest.fixture(params=["the topic's key is disabled", "a row breaks the code"])
def dying(ann, request, monkeypatch):
    """The system with a cause that makes jobs die, and a function that takes the cause away."""
    contact = ann.simulator.add_contact(ANN)
    if request.param.startswith("the topic"):
        ann.faults["publish_batch"] = refused
        yield ann, contact, ann.faults.clear
    else:
        whole = YouMail.delta
        monkeypatch.setattr(YouMail, "delta", broken)
        yield ann, contact, lambda: monkeypatch.setattr(YouMail, "delta", whole)


def die(system):
    """Let a job be tried until it is a dead letter; return its queue's URL and that of the dead."""
    assert system.poll() == 1
    url = system.deltas_url("contact")
    for _ in range(3):
        system.redeliver()
        system.pump("delta", url, 1)
    dead = url.replace("-deltas-", "-dead-deltas-")
    assert system.depths() == {"pollwire-dead-deltas-contact.fifo": 1}
    return url, dead


def redrive(system, url, dead):
    """Do what a move task of SQS does, which moto does not know."""
    (message,) = system.receive(dead)
    system.sqs.send_message(
        QueueUrl=url,
        MessageBody=message["Body"],
        MessageGroupId=message["Attributes"]["MessageGroupId"],
        MessageDeduplicationId="redriven",
    )
    system.sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])


def test_a_dead_job_is_redriven_when_its_cause_is_gone(dying):
    system, contact, mend = dying
    url, dead = die(system)
    assert system.said() == []
    assert system.pending() == {"contact"}

    mend()
    redrive(system, url, dead)
    assert system.run_deltas() == 0

    assert system.said() == [("contact", "created", contact)]
    system.rest()
    assert system.said() == []
    assert system.depths() == {}


def test_what_a_dead_job_was_for_is_done_without_it_and_redriving_it_later_does_nothing(dying):
    system, contact, mend = dying
    url, dead = die(system)

    mend()
    system.rest()
    assert system.said() == [("contact", "created", contact)]

    redrive(system, url, dead)
    assert system.run_deltas() == 0
    assert system.said() == []
    assert system.depths() == {}


def disabled(call, **arguments):
    raise ClientError({"Error": {"Code": "DisabledException", "Message": "disabled"}}, "Decrypt")


def test_a_key_that_is_disabled_kills_no_job_and_all_is_told_when_it_is_enabled(ann):
    contact = ann.simulator.add_contact(ANN)
    wiring.world.cache_clear()  # No worker has anything open.
    ann.faults["decrypt"] = disabled

    assert ann.poll() == 0
    trouble = ann.table()[f"stream#shop#{ANN}#contact", "cursor"]["trouble"]["S"]
    assert trouble.startswith("Misconfigured: credential of shop/")
    assert ann.said() == []

    ann.faults.clear()
    ann.poll(900)
    assert ann.said() == [("contact", "created", contact)]
    assert ann.depths() == {}


# An upgrade in the midst of work


@pytest.fixture
def taken_over(system, monkeypatch):
    """This version, at the instant and with the items and the jobs that an earlier one left."""
    former.tell(system, monkeypatch)  # For the provider to hold what it held then.
    former.jobs(system)
    system.deliveries()
    credential = system.standing().credential
    for pk, sk in system.table():
        system._delete(pk, sk)
    left = json.loads(former.FILE.read_text())
    for item in former.items_of(left["items"]):
        if item["sk"]["S"] == ANN:
            item["credential"] = {"B": credential}
        system.dynamodb.put_item(TableName=system.environment["TABLE_NAME"], Item=item)
    wiring.world.cache_clear()
    return system, left["jobs"]


def send(system, jobs, change=lambda job: job):
    for number, (queue, job, group) in enumerate(jobs):
        url = system.deltas_url(job["stream"])
        assert url.endswith(queue)
        system.sqs.send_message(
            QueueUrl=url,
            MessageBody=json.dumps(change(job)),
            MessageGroupId=group,
            MessageDeduplicationId=f"former {number}",
        )


def without_full(job):
    """As the first version wrote it."""
    return {name: value for name, value in job.items() if name != "full"}


def with_more(job):
    """As a later version may write it."""
    return {**job, "colour": "blue"}


@pytest.mark.parametrize("change", [dict, without_full, with_more])
def test_this_version_goes_on_where_an_earlier_one_stopped(taken_over, change):
    system, jobs = taken_over
    (decided,) = system.stream_state("greeting").outbox
    assert system.stream_state("contact").drain.resume == "3"

    send(system, jobs, change)
    assert system.run_deltas() == 0
    system.rest()

    found = system.deliveries()
    assert len(uuids(found)) == len(set(uuids(found)))
    assert decided.uuid in uuids(found)
    # Four of five contacts had been told: of pages 1 and 2.
    streams = [one.said[:2] for one in found]
    assert streams.count(("contact", "created")) == 1
    assert sorted(streams) == [
        ("contact", "created"),
        ("entry", "created"),
        ("greeting", "created"),
        ("history", "created"),
    ]
    system.simulator.update_contact(next(iter(system.records("contact"))), firstName="Zoe")
    system.rest()
    assert told(system.deliveries()) == [("updated", "Zoe")]


def test_what_a_later_version_writes_survives_this_one(taken_over):
    """Old and new code share items and jobs while a deployment is under way."""
    system, jobs = taken_over
    where = {"TableName": system.environment["TABLE_NAME"]}
    for item in system.table().values():
        if "drain" in item:
            item["drain"] = {"S": json.dumps({**json.loads(item["drain"]["S"]), "colour": "blue"})}
        system.dynamodb.put_item(Item={**item, "colour": {"S": "blue"}}, **where)
    before = system.table().keys()

    send(system, jobs, with_more)
    assert system.run_deltas() == 0
    for identity in list(system.records("contact")):
        system.simulator.update_contact(identity, firstName="Zoe")
    (voicemail, *_) = system.records("entry")
    system.simulator.trash(voicemail)
    system.registry.put_connection(system.world.state.connection("shop"))
    system.rest()

    after = system.table()
    kinds = [change for _, change, _ in system.said()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"created": 4, "updated": 4, "deleted": 1}
    assert [key for key in before if "colour" not in after[key]] == []


def test_an_event_with_fields_of_a_later_version_is_published_as_it_is(taken_over, monkeypatch):
    system, jobs = taken_over
    (decided,) = system.stream_state("greeting").outbox
    real = json.loads

    def with_colour(text, *more, **named):
        found = real(text, *more, **named)
        is_outbox = isinstance(found, list) and found and isinstance(found[0], dict)
        if is_outbox and "uuid" in found[0]:
            found = [{**one, "colour": "blue"} for one in found]
        return found

    monkeypatch.setattr("pollwire.items.json.loads", with_colour)
    assert system.world.state.stream(DeltaJob("shop", 0, ANN, "greeting", (), 0)).outbox

    send(system, jobs)
    assert system.run_deltas() == 0

    (published,) = [one.event for one in system.deliveries() if one.said[0] == "greeting"]
    assert published == real(decided.body)


# A credential that is rotated


def test_a_rotated_credential_is_used_at_once_and_the_old_one_is_tried_once(ann):
    """A warm worker has the old credential and its token in memory, and the table has the token."""
    contact = ann.simulator.add_contact(ANN)
    ann.rest()
    ann.deliveries()
    ann.simulator._accounts[ANN].password = "another"
    ann.simulator.expire_tokens()
    ann.simulator.update_contact(contact, firstName="Zoe")
    logins = ann.simulator.requests["authenticate"]
    ann.poll()
    assert ann.standing().failures == 1

    sealed = ann.world.sealer.seal(
        {"username": ann.simulator._accounts[ANN].username, "password": "another"}, "shop", ANN
    )
    assert ann.registry.replace_credential(ann.world.state.connection("shop"), ANN, sealed)
    ann.poll(900)
    ann.rest()

    assert told(ann.deliveries()) == [("updated", "Zoe")]
    assert ann.standing().failures == 0
    assert ann.simulator.requests["authenticate"] - logins <= 2
    assert PASSWORD not in str(ann.table())
