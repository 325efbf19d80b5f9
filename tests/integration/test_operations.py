"""What the schedule queues, and what an operator sees: metrics, one log line for each job."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

from moto.backends import get_backend
from pollwire.events import iso
from pollwire.model import CheckJob

from tests.integration.system import ANN, BOB, SHOP, START_MS


def queued(system, name="pollwire-checks-youmail"):
    """A queue's messages, delayed ones too: body, and how long each is held back."""
    queue = get_backend("sqs")["123456789012"]["us-east-1"].queues[name]
    return [
        (json.loads(message.body), round((message.delayed_until - message.sent_timestamp) / 1000))
        for message in queue._messages
    ]


def metrics_of(capsys):
    """Metrics in embedded format, by name."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    for line in lines:
        every, *some = line["_aws"]["CloudWatchMetrics"]
        assert every["Namespace"] == "Pollwire"
        assert every["Dimensions"] == [["service"]]
        for directive in some:
            (dimensions,) = directive["Dimensions"]
            assert [line[name] for name in dimensions]
            assert all(metric in every["Metrics"] for metric in directive["Metrics"])
    return [
        {name: value[0] for name, value in line.items() if isinstance(value, list)}
        | {"service": line["service"]}
        for line in lines
    ]


def test_the_checks_of_a_minute_are_spread_over_it(system):
    system.connect(replace(SHOP, interval_s=10, slowest_s=900, shards=4))
    system.tick(time=iso(START_MS))

    checks = queued(system)

    assert len(checks) == 24
    assert len({(job["shard"], job["due_ms"]) for job, _ in checks}) == 24
    for job, delay_s in checks:
        assert START_MS <= job["due_ms"] < START_MS + 60_000
        assert delay_s == math.ceil((job["due_ms"] - START_MS) / 1000)
        assert job["interval_s"] == 10
    dues = sorted(job["due_ms"] for job, _ in checks)
    assert {later - earlier for earlier, later in itertools.pairwise(dues)} == {2500}


def test_a_tick_that_comes_late_queues_what_is_left_of_its_minute(system):
    system.connect(replace(SHOP, interval_s=10))
    system.clock.advance(45)

    system.tick(time=iso(START_MS))

    dues = sorted(job["due_ms"] for job, _ in queued(system))
    assert len(dues) in (2, 3)
    assert dues[0] <= system.clock() < dues[1]


def test_a_connection_that_is_paused_is_not_checked(system):
    system.connect(replace(SHOP, paused_until_ms=START_MS + 3_600_000))
    system.tick(time=iso(START_MS))
    assert queued(system) == []

    system.clock.advance(3_600)
    system.tick(time=iso(system.clock()))

    assert len(queued(system)) == 1


def test_a_tick_without_a_time_is_for_this_minute(system):
    """An emulator leaves the scheduler's placeholder as it is."""
    system.connect()

    system.tick(time="<aws.scheduler.scheduled-time>")

    ((job, _),) = queued(system)
    assert START_MS <= job["due_ms"] < START_MS + 60_000


def test_a_connection_that_cannot_be_read_stops_no_other(system, capsys):
    system.connect()
    system.connect(replace(SHOP, name="broken"))
    system.dynamodb.update_item(
        TableName=system.environment["TABLE_NAME"],
        Key={"pk": {"S": "connection"}, "sk": {"S": "broken"}},
        UpdateExpression="REMOVE interval_s",
    )

    system.tick(time=iso(START_MS))

    assert [job["connection"] for job, _ in queued(system)] == ["shop"]
    (metrics,) = metrics_of(capsys)
    assert metrics == {"service": "schedule", "connections": 1, "checks": 1, "broken": 1}


def test_a_check_that_is_stale_is_dropped(ann):
    ann.simulator.add_contact(ANN)
    polled = ann.simulator.requests["poll"]
    stale = CheckJob("shop", 0, ann.clock() - 60_001, 60)
    ann.world.queues.send_checks("youmail", [stale], ann.clock())

    assert ann.run_checks() == 0

    assert ann.simulator.requests["poll"] == polled
    assert ann.depths() == {}


def test_a_paused_account_is_neither_polled_nor_drained(ann):
    ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    ann.dynamodb.update_item(
        TableName=ann.environment["TABLE_NAME"],
        Key={"pk": {"S": "shard#shop#0"}, "sk": {"S": ANN}},
        UpdateExpression="SET standing = :paused",
        ExpressionAttributeValues={":paused": {"S": "paused"}},
    )
    asked = len(ann.http.asked)

    ann.run_deltas()
    ann.poll()

    assert len(ann.http.asked) == asked
    assert ann.said() == []


def test_a_paused_connection_is_not_drained(ann):
    contact = ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    ann.world.state.pause_connection("shop", ann.clock() + 600_000)
    asked = len(ann.http.asked)

    ann.run_deltas()
    ann.poll()

    assert len(ann.http.asked) == asked
    ann.poll(900)
    assert ann.said() == [("contact", "created", contact)]


def test_a_stream_that_comes_on_again_shows_no_trouble(ann):
    ann.simulator.add_contact(ANN)
    ann.simulator.fail_next("/api/v4/contacts", "html")
    cursor = (f"stream#shop#{ANN}#contact", "cursor")
    ann.poll()
    assert ann.table()[cursor]["trouble"]["S"].startswith("Malformed: ")

    ann.poll()

    assert "trouble" not in ann.table()[cursor]


def test_each_stage_emits_metrics(ann, capsys):
    ann.simulator.add_contact(ANN)
    capsys.readouterr()

    ann.tick()
    ann.poll()

    schedule, *checks, delta = metrics_of(capsys)
    assert schedule == {"service": "schedule", "connections": 1, "checks": 1, "broken": 0}
    assert checks[-1]["service"] == "check"
    assert checks[-1]["failed_jobs"] == 0
    assert delta["service"] == "delta"
    assert (delta["jobs"], delta["created"], delta["events"]) == (1, 1, 1)
    assert delta["failed_jobs"] == 0


def test_an_invocation_of_which_nothing_comes_emits_metrics_too(ann, capsys):
    for queue in ("check", "delta"):
        capsys.readouterr()
        record = {
            "messageId": "1",
            "receiptHandle": "x",
            "body": "no job",
            "attributes": {"MessageGroupId": "x", "ApproximateReceiveCount": "1"},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:pollwire-deltas-contact.fifo",
        }

        ann.invoke(queue, {"Records": [record]})

        (metrics,) = metrics_of(capsys)
        assert metrics == {"service": queue, "failed_jobs": 1}


def test_each_job_is_one_line_of_the_log(ann, logs):
    ann.add_account(BOB, fields="history,entry,contact")
    ann.poll()
    before = len(logs())
    ann.simulator.add_contact(ANN)
    ann.simulator.add_contact(BOB)
    ann.sqs.send_message(
        QueueUrl=ann.deltas_url("contact"),
        MessageBody="no job",
        MessageGroupId="x",
        MessageDeduplicationId="x",
    )

    ann.poll()

    lines = [line for line in logs()[before:] if line.get("stream_name") in (None, "contact")]
    assert sorted((line["message"], line.get("account", "")) for line in lines) == [
        ("checked", ""),
        ("drained", ANN),
        ("drained", BOB),
        ("failed", ""),
    ]
    (failed,) = [line for line in lines if line["message"] == "failed"]
    assert failed["reason"] == "Malformed: job: the message is no JSON"
    assert (failed["job"], len(failed["message_id"])) == ({}, 36)
    assert failed["level"] == "ERROR"
    assert all(line["function_request_id"] for line in lines)
