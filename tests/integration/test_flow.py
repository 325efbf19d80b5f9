"""A change at the provider becomes an event on the subscriber's queue: once, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pollwire.providers.youmail import FIELDS

from tests.integration.system import ANN, BOB, SHOP, START_MS
from tests.integration.test_published import ENVELOPE, validator

EVERYTHING = set(FIELDS)


def furnish(simulator, account):
    """Give an account something in every stream; return the ids by stream."""
    return {
        "entry": simulator.leave_voicemail(account),
        "contact": simulator.add_contact(account),
        "greeting": simulator.record_greeting(account),
        "ecommerce": simulator.order(account),
    }


def test_a_tick_leads_to_an_event(ann):
    """All four stages, as the scheduler starts them."""
    contact = ann.simulator.add_contact(ANN)
    ann.clock.advance(60 - ann.clock() / 1000 % 60 + 59.999)  # nothing of the minute lies ahead

    ann.tick()

    assert ann.depths() == {"pollwire-checks-youmail": 1}
    assert ann.run_checks() == 0
    assert ann.depths() == {"pollwire-deltas-contact.fifo": 1}
    assert ann.run_deltas() == 0
    assert ann.said() == [("contact", "created", contact)]


def test_a_new_account_is_recorded_without_a_word(system):
    system.connect()
    system.add_account(ANN)
    ids = furnish(system.simulator, ANN)

    system.poll()

    assert system.said() == []
    assert {stream for stream in EVERYTHING if system.records(stream)} == EVERYTHING
    assert all(identity in system.records(stream) for stream, identity in ids.items())
    assert system.pending() == EVERYTHING
    system.rest()
    assert system.said() == []


def test_backfill_says_of_everything_that_it_was_created(system):
    system.connect()
    system.add_account(ANN, backfill="true")
    ids = furnish(system.simulator, ANN)
    (call,) = [change.id for change in system.simulator.journal if change.stream == "history"]

    system.rest()

    assert sorted(system.said()) == sorted(
        [(stream, "created", identity) for stream, identity in ids.items()]
        + [("history", "created", call)]
        + [("account", "created", "account"), ("settings", "created", "settings")]
        + [("entitlement", "created", "account"), ("entitlement", "created", "ecommerce")]
    )


def test_a_voicemail_is_one_event_that_keeps_the_contract(ann):
    voicemail = ann.simulator.leave_voicemail(ANN, transcript="Hello")
    ann.poll()

    by_stream = {delivery.event["body"]["stream"]: delivery for delivery in ann.deliveries()}

    assert set(by_stream) == {"entry", "history"}
    entry = by_stream["entry"]
    validator(entry.event).validate(entry.event)
    validator(by_stream["history"].event).validate(by_stream["history"].event)
    assert set(entry.event) == ENVELOPE
    assert entry.said == ("entry", "created", voicemail)
    assert entry.event["body"]["record"]["transcript"] == "Hello"
    assert entry.attributes == {
        "provider": "youmail",
        "connection": "shop",
        "account": ANN,
        "stream": "entry",
        "type": "VoiceMail",
        "direction": "Inbound",
        "change": "created",
    }
    assert entry.group != by_stream["history"].group


def test_what_happens_to_a_voicemail_is_told_in_order(ann):
    voicemail = ann.simulator.leave_voicemail(ANN)
    ann.poll()
    ann.simulator.mark_read(voicemail)
    ann.poll()
    ann.simulator.trash(voicemail)
    ann.poll()
    ann.simulator.restore(voicemail)
    ann.rest()

    entries = [one.event["body"] for one in ann.deliveries() if one.said[0] == "entry"]

    assert [body["change"] for body in entries] == ["created", "updated", "deleted", "created"]
    assert [body["revision"] for body in entries] == [1, 2, 3, 4]
    numbers = [body["sequence"] for body in entries]
    assert numbers == sorted(set(numbers))
    # Above all that could have been told from a table that was lost.
    assert all(number > START_MS for number in numbers)


def test_every_stream_tells_its_changes(system):
    system.connect()
    system.add_account(ANN)
    system.rest()
    contact = system.simulator.add_contact(ANN)
    order = system.simulator.order(ANN)
    system.rest()
    system.simulator.update_contact(contact, firstName="Robert")
    system.simulator.order(ANN, status=0)
    system.simulator.change_settings(ANN, timeZone="Europe/Berlin")
    system.simulator.change_profile(ANN, firstName="Anna")
    system.rest()
    system.simulator.delete_contact(contact)
    system.simulator.change_entitlements(ANN, ["TRANSCRIPTION"])
    system.rest()

    said = system.said()

    assert [one[1:] for one in said if one[0] == "contact"] == [
        ("created", contact),
        ("updated", contact),
        ("deleted", contact),
    ]
    assert [one[1:] for one in said if one[0] == "ecommerce"] == [
        ("created", order),
        ("updated", order),
    ]
    assert ("settings", "updated", "settings") in said
    assert ("account", "updated", "account") in said
    assert ("entitlement", "updated", "account") in said


def test_what_a_full_listing_lacks_is_deleted_at_the_second_sighting(ann):
    greeting = ann.simulator.record_greeting(ANN)
    ann.rest()
    assert ann.said() == [("greeting", "created", greeting)]
    ann.simulator.delete_greeting(greeting)

    ann.poll()
    once = ann.said()
    ann.poll()
    twice = ann.said()

    assert once == []
    assert twice == [("greeting", "deleted", greeting)]
    ann.rest()
    assert ann.said() == []


def test_a_listing_that_lacks_nearly_everything_is_not_believed(ann):
    greetings = [ann.simulator.record_greeting(ANN, f"Greeting {n}") for n in range(15)]
    ann.rest()
    assert len(ann.said()) == 15
    for greeting in greetings:
        ann.simulator.delete_greeting(greeting)

    for _ in range(4):
        ann.poll()

    assert ann.said() == []
    assert ann.pending() == {"greeting"}


def test_the_first_change_of_a_new_user_is_told(system):
    """404 is no error: the poll host knows nothing of the account until something changes."""
    system.connect()
    system.add_account(ANN, new_user=True)
    system.poll()
    system.poll()
    assert system.standing().failures == 0
    assert system.pending() == set()

    voicemail = system.simulator.leave_voicemail(ANN)
    system.rest()

    assert ("entry", "created", voicemail) in system.said()


@pytest.mark.parametrize("fields", [7, 9])
def test_a_composite_answer_may_be_shorter_or_longer(system, fields):
    system.simulator.fields = fields
    system.connect()
    system.add_account(ANN)
    system.rest()
    voicemail = system.simulator.leave_voicemail(ANN)

    system.rest()

    assert ("entry", "created", voicemail) in system.said()
    assert bool(system.records("account"))
    assert system.standing().failures == 0


@pytest.mark.parametrize("kind", ["html", "empty", "truncated", "503"])
def test_a_bad_answer_to_a_check_keeps_the_state_and_is_counted(ann, kind):
    marks = ann.standing().marks
    ann.simulator.leave_voicemail(ANN)
    ann.simulator.fail_next("/vm/poll", kind)

    ann.check()

    assert ann.standing().marks == marks
    assert ann.depths() == {}
    assert ann.standing().failures == 1
    assert ann.standing().not_before_ms > ann.clock()
    ann.poll()
    assert len(ann.said()) == 2
    ann.rest()
    assert ann.standing().failures == 0
    assert ann.standing().not_before_ms == 0


def test_an_account_that_the_poll_host_lost_keeps_its_state(ann):
    before = ann.standing().marks
    ann.simulator.vanish(ANN)

    ann.poll()

    assert ann.standing().marks == before
    assert ann.standing().failures == 1


@pytest.mark.parametrize("kind", ["truncated", "html", "empty", "error", "503", "429", "403"])
def test_a_bad_answer_to_a_delta_delays_and_loses_nothing(ann, kind):
    contact = ann.simulator.add_contact(ANN)
    ann.simulator.fail_next("/api/v4/contacts", kind, times=2)

    ann.poll()
    assert ann.said() == []
    assert ann.pending() == {"contact"}
    ann.redeliver()
    ann.run_deltas()
    for _ in range(3):
        ann.poll()

    assert ann.said() == [("contact", "created", contact)]
    ann.rest()


def test_a_second_change_in_the_same_millisecond_is_found(ann):
    """The composite answer stays the same, to the last digit."""
    at_ms = ann.clock()
    first = ann.simulator.add_contact(ANN, at_ms=at_ms)
    ann.poll()
    assert ann.said() == [("contact", "created", first)]
    marks = ann.standing().marks
    second = ann.simulator.add_contact(ANN, at_ms=at_ms)

    ann.poll()

    assert ann.said() == [("contact", "created", second)]
    assert ann.standing().marks == marks


def test_a_row_that_shows_up_late_is_found(ann):
    """Older than what was published already, and after its mark was answered once."""
    now_ms = ann.clock()
    late = ann.simulator.call(ANN, at_ms=now_ms - 30_000, visible_at_ms=now_ms + 100_000)
    prompt = ann.simulator.call(ANN, at_ms=now_ms)
    ann.poll()
    assert ann.said() == [("history", "created", prompt)]

    ann.poll()

    assert ann.said() == [("history", "created", late)]


def test_a_signal_that_comes_before_its_data_is_not_wasted(ann):
    ann.simulator.lag_ms = 90_000
    contact = ann.simulator.add_contact(ANN)
    ann.poll()
    assert ann.said() == []

    ann.poll()

    assert ann.said() == [("contact", "created", contact)]


def test_a_mark_stays_pending_until_late_rows_have_settled(ann):
    """YouMail's overlap is 120 s: only a drain that begins that long after it was seen counts."""
    ann.simulator.add_contact(ANN)

    pending = []
    for _ in range(4):
        ann.poll()
        pending.append(ann.pending())

    assert pending == [{"contact"}, {"contact"}, set(), set()]


def test_a_quiet_account_costs_no_write_and_no_message(ann):
    before = ann.table()
    polled = ann.simulator.requests["poll"]
    looked = sum(ann.simulator.requests.values()) - polled

    for _ in range(3):
        ann.poll()

    assert ann.table() == before
    assert ann.depths() == {}
    assert ann.simulator.requests["poll"] == polled + 3
    assert sum(ann.simulator.requests.values()) - ann.simulator.requests["poll"] == looked
    assert ann.http.asked[-1].headers["If-None-Match"]  # answered 304


def test_an_account_that_has_been_quiet_for_long_is_polled_rarely(system):
    connection = replace(SHOP, slowest_s=900)
    system.connect(connection)
    system.add_account(ANN)
    system.rest()
    system.clock.advance(86_400)
    polled = system.simulator.requests["poll"]

    for _ in range(32):
        system.poll()

    assert system.simulator.requests["poll"] == polled + 4  # every 8th: 480 s


def test_a_job_that_is_lost_is_queued_again_at_the_next_check(ann):
    contact = ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    ann.sqs.purge_queue(QueueUrl=ann.deltas_url("contact"))
    assert ann.depths() == {}

    ann.poll()

    assert ann.said() == [("contact", "created", contact)]


def test_a_job_that_is_delivered_twice_repeats_nothing(ann):
    ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    url = ann.deltas_url("contact")
    (message,) = ann.receive(url)
    ann.redeliver()
    ann.sqs.change_message_visibility(
        QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
    )
    ann.run_deltas()
    (first,) = ann.deliveries()
    looked = ann.simulator.requests["contact"]
    before = ann.table()

    ann.sqs.send_message(
        QueueUrl=url,
        MessageBody=message["Body"],
        MessageGroupId=message["Attributes"]["MessageGroupId"],
        MessageDeduplicationId="again",
    )
    ann.run_deltas()

    assert first.event["body"]["change"] == "created"
    assert ann.deliveries() == []
    assert ann.table() == before
    assert ann.simulator.requests["contact"] == looked


def test_a_second_subscriber_gets_what_its_filter_asks_for(ann):
    url = ann.sqs.create_queue(QueueName="crm.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    policy = {"stream": ["entry", "contact"], "change": ["created"]}
    ann.sns.subscribe(
        TopicArn=ann.environment["EVENTS_TOPIC_ARN"],
        Protocol="sqs",
        Endpoint="arn:aws:sqs:us-east-1:123456789012:crm.fifo",
        Attributes={"RawMessageDelivery": "true", "FilterPolicy": json.dumps(policy)},
    )
    voicemail = ann.simulator.leave_voicemail(ANN)
    contact = ann.simulator.add_contact(ANN)
    ann.poll()
    ann.simulator.mark_read(voicemail)
    ann.poll()

    assert sorted(one.said for one in ann.deliveries(url)) == [
        ("contact", "created", contact),
        ("entry", "created", voicemail),
    ]
    assert len(ann.said()) == 4


def test_two_accounts_never_mix(ann):
    ann.add_account(BOB)
    ann.rest()
    ann.simulator.add_contact(ANN, firstName="Of Ann")
    ann.simulator.add_contact(BOB, firstName="Of Bob")
    ann.poll()

    deliveries = ann.deliveries()

    assert {
        (one.event["ownerId"], one.attributes["account"], one.event["body"]["record"]["firstName"])
        for one in deliveries
    } == {(ANN, ANN, "Of Ann"), (BOB, BOB, "Of Bob")}
    assert len({one.group for one in deliveries}) == 2


def test_a_row_that_cannot_be_read_is_recorded_once_and_stops_no_other(ann, logs):
    ann.simulator.leave_voicemail(ANN, userId=int(BOB))  # another account's
    good = ann.simulator.leave_voicemail(ANN)

    ann.rest()

    assert [said for said in ann.said() if said[0] == "entry"] == [("entry", "created", good)]
    bad = [item for (_, sk), item in ann.table().items() if sk.startswith("q#")]
    assert [item["reason"]["S"] for item in bad] == ["userId: the row is another account's"]
    drained = [line for line in logs() if line.get("stream_name") == "entry"]
    assert sum(line["counts"]["bad_rows"] for line in drained) == 1
    assert len(drained) > 1


def test_an_event_too_large_for_a_queue_goes_out_without_its_record(ann):
    ann.simulator.leave_voicemail(ANN, transcript="x" * 300_000)
    ann.poll()

    (entry,) = [one for one in ann.deliveries() if one.attributes["stream"] == "entry"]

    validator(entry.event).validate(entry.event)
    assert entry.event["body"]["truncated"] is True


def test_the_clock_of_these_tests_starts_a_minute(system):
    assert START_MS % 60_000 == 0
    assert system.clock() == START_MS
