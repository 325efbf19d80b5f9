"""What ``pollwire tail`` promises."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
from botocore.exceptions import ClientError
from pollwire.events import Composer, digest
from pollwire.model import Change, Row
from pollwire.providers import registered
from pollwire_cli import tail
from pollwire_cli.subscribers import Subscribers

TOPIC = "arn:aws:sns:us-east-1:123456789012:pollwire-events.fifo"
CONTACTS = "/pollwire/v1/youmail/account/~/contact"


def event(stream="contact", identity="r1", account="7", **body):
    named = registered()["youmail"].streams[stream]
    row = Row(identity, "5", 5, body)
    change = Change("created", row, digest(row), 1)
    return Composer("youmail", "shop", account, stream, named, "s").event(change, 1, 1)


@pytest.fixture
def publish(operator):
    """Publish as the product does."""

    def published(*events):
        for one in events:
            operator.clients("sns").publish(
                TopicArn=TOPIC,
                Message=one.body,
                MessageGroupId=one.group,
                MessageDeduplicationId=one.uuid,
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value}
                    for name, value in one.attributes.items()
                },
            )

    return published


@pytest.fixture
def once_watching(monkeypatch):
    """Have something happen as soon as the tail is subscribed."""

    def planned(happen):
        put = Subscribers.put

        def wrapped(*words):
            made = put(*words)
            happen()
            return made

        monkeypatch.setattr(Subscribers, "put", wrapped)

    return planned


def left(operator):
    """Queues and subscriptions of tails that there are."""
    queues = operator.clients("sqs").list_queues(QueueNamePrefix="pollwire-tail-")
    found = operator.clients("sns").list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]
    tails = [one["Endpoint"] for one in found if ":pollwire-tail-" in one["Endpoint"]]
    return queues.get("QueueUrls", []), tails


def test_an_event_is_a_line_for_a_person(operator, publish, once_watching):
    once_watching(lambda: publish(event(firstName="Ann")))

    answer = operator.done("tail", "--count", "1")

    (line,) = answer.out.splitlines()
    assert line.split() == [
        "1970-01-01T00:00:00.001Z",
        "youmail",
        "7",
        "contact",
        "created",
        "r1",
    ]
    assert left(operator) == ([], [])


def test_an_event_is_itself_for_a_program(operator, publish, once_watching):
    published = [event(identity=str(number), text="a\n\u202e\x1b[31m") for number in range(3)]
    once_watching(lambda: publish(*published))

    answer = operator.done("tail", "--count", "3", "--json")

    assert answer.out.splitlines() == [one.body for one in published]
    assert answer.out.isascii()


def test_only_what_the_filter_lets_through_is_shown(operator, publish, once_watching):
    once_watching(lambda: publish(event("history"), event("contact"), event("greeting")))

    answer = operator.done("tail", CONTACTS, "--seconds", "0.5", "--json")

    assert [one["body"]["stream"] for one in answer.lines] == ["contact"]


def test_what_steers_a_terminal_is_written_out(operator, publish, once_watching):
    hostile = "\x1b]0;owned\x07\x1b[2J[red]\r\u202e\x9b31m"
    once_watching(lambda: publish(event(identity=hostile)))

    answer = operator.done("tail", "--count", "1")

    (line,) = answer.out.splitlines()
    assert line.isprintable()
    assert "\\x1b]0;owned\\x07\\x1b[2J[red]\\r\\u202e\\x9b31m" in line


def test_a_message_that_is_no_event_is_left_out(operator, once_watching, publish):
    def forged():
        for number, text in enumerate(["{", "7", "null", "[]", '{"body": 1}', "[" * 100_000]):
            operator.clients("sns").publish(
                TopicArn=TOPIC,
                Message=text,
                MessageGroupId="g",
                MessageDeduplicationId=str(number),
            )
        publish(event())

    once_watching(forged)

    answer = operator.done("tail", "--count", "1")

    assert len(answer.out.splitlines()) == 1
    assert answer.err.count("no event is left out") == 6


def test_its_queue_is_encrypted_and_open_to_the_topic_alone(operator, once_watching):
    seen = []

    def look():
        sqs = operator.clients("sqs")
        ((url,), tails) = left(operator)
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        seen.append((found, tails, sqs.list_queue_tags(QueueUrl=url)["Tags"]))

    once_watching(look)

    operator.done("tail", "--seconds", "0.2")

    ((found, tails, tags),) = seen
    assert tails == [found["QueueArn"]]
    assert found["SqsManagedSseEnabled"] == "true"
    allowed, denied = json.loads(found["Policy"])["Statement"]
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": TOPIC}}
    assert (denied["Effect"], denied["Principal"]) == ("Deny", "*")
    assert int(tags[tail.ALIVE_TAG]) > time.time()
    assert left(operator) == ([], [])


@pytest.mark.parametrize("number", tail.SIGNALS)
def test_a_signal_ends_it_and_leaves_nothing(operator, once_watching, number):
    before = signal.getsignal(number)
    once_watching(lambda: signal.raise_signal(number))

    operator.done("tail")

    assert left(operator) == ([], [])
    assert signal.getsignal(number) is before


def test_a_signal_in_the_middle_of_its_beginning_leaves_nothing(operator, monkeypatch):
    put = Subscribers.put

    def interrupted(*words):
        put(*words)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Subscribers, "put", interrupted)

    operator.done("tail")

    assert left(operator) == ([], [])


def test_a_second_signal_does_not_keep_it_from_tidying_up(operator, once_watching, monkeypatch):
    end = Subscribers.end

    def interrupted(*words):
        signal.raise_signal(signal.SIGINT)
        end(*words)

    once_watching(lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(Subscribers, "end", interrupted)

    operator.done("tail")

    assert left(operator) == ([], [])


def test_it_ends_when_nobody_reads_on(operator, once_watching, publish, monkeypatch):
    once_watching(lambda: publish(event()))

    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(tail, "_show", broken)
    monkeypatch.setattr(tail, "_discard_stdout", lambda: None)

    operator.done("tail")

    assert left(operator) == ([], [])


def test_a_pipe_that_nobody_reads_is_noticed(monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        read, closed = tail._is_unread(), os.close(reading)
        unread = tail._is_unread()

    assert (read, closed, unread) == (False, None, True)


# What tails leave behind that are killed


@pytest.fixture
def killed(operator):
    """A tail that was killed; returns its queue's URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "_remove", lambda *_: None)
        operator.done("tail", "--seconds", "0.2")
    ((url,), (_,)) = left(operator)
    return url


def tag(operator, url, until_s):
    operator.clients("sqs").tag_queue(QueueUrl=url, Tags={tail.ALIVE_TAG: str(int(until_s))})


def test_a_tail_that_was_killed_is_cleared_away_by_the_next(operator, killed):
    tag(operator, killed, time.time() - 5)

    answer = operator.done("tail", "--seconds", "0.2")

    assert "a tail that was killed" in answer.err
    assert left(operator) == ([], [])


def test_a_tail_that_runs_is_left_alone(operator, killed):
    operator.done("tail", "--seconds", "0.2")

    assert left(operator)[0] == [killed]


def test_a_queue_without_the_tag_is_left_alone(operator, killed):
    operator.clients("sqs").untag_queue(QueueUrl=killed, TagKeys=[tail.ALIVE_TAG])

    operator.done("tail", "--seconds", "0.2")

    assert left(operator)[0] == [killed]


def test_a_subscription_without_its_queue_is_cleared_away(operator, killed):
    operator.clients("sqs").delete_queue(QueueUrl=killed)

    operator.done("tail", "--seconds", "0.2")

    assert left(operator) == ([], [])


def test_a_tail_shows_although_it_may_not_clear_away(operator, monkeypatch):
    def refused(*_):
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListQueues")

    monkeypatch.setattr(tail, "_dead", refused)

    assert "AWS refused ListQueues" in operator.done("tail", "--seconds", "0.2").err


def test_why_it_cannot_begin_is_said_whatever_becomes_of_the_rest(operator, monkeypatch):
    def refused(operation):
        def refuse(*_, **__):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, operation)

        return refuse

    monkeypatch.setattr(tail, "make_fifo", refused("CreateQueue"))
    monkeypatch.setattr(tail, "_remove", refused("GetQueueUrl"))

    answer = operator.run("tail")

    assert answer.code == 1
    warning, why = answer.err.splitlines()
    assert "warning: pollwire-tail-" in warning
    assert why == "pollwire: AWS refused CreateQueue: AccessDenied: no"


def test_a_tail_whose_queue_was_cleared_away_says_so(operator, once_watching, monkeypatch):
    monkeypatch.setattr(tail, "NEW_S", 0)

    def cleared():
        ((url,), _) = left(operator)
        operator.clients("sqs").delete_queue(QueueUrl=url)

    once_watching(cleared)

    answer = operator.run("tail")

    assert answer.code == 1
    assert "start it again" in answer.err
    assert left(operator) == ([], [])


def test_a_queue_that_is_too_new_to_be_found_is_waited_for(
    operator, once_watching, publish, monkeypatch
):
    once_watching(lambda: publish(event()))
    receive, asked = tail._receive, []

    def early(sqs, *words):
        asked.append(1)
        if len(asked) < 3:
            raise sqs.exceptions.QueueDoesNotExist({"Error": {}}, "ReceiveMessage")
        return receive(sqs, *words)

    monkeypatch.setattr(tail, "_receive", early)
    monkeypatch.setattr(tail.time, "sleep", lambda _: None)

    assert len(operator.done("tail", "--count", "1").out.splitlines()) == 1


def test_a_signal_that_is_ignored_stays_ignored(operator, once_watching):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        once_watching(lambda: signal.raise_signal(signal.SIGHUP))
        answer = operator.done("tail", "--seconds", "0.2", "--json")
    finally:
        signal.signal(signal.SIGHUP, before)

    assert "watching" in answer.err


def test_it_says_again_that_it_is_alive(operator, once_watching, monkeypatch):
    monkeypatch.setattr(tail, "RENEWED_S", -1)
    sqs, seen = operator.clients("sqs"), []
    once_watching(lambda: tag(operator, left(operator)[0][0], 7))
    remove = tail._remove

    def look(*words):
        seen.append(sqs.list_queue_tags(QueueUrl=left(operator)[0][0])["Tags"][tail.ALIVE_TAG])
        remove(*words)

    monkeypatch.setattr(tail, "_remove", look)

    operator.done("tail", "--seconds", "0.2")

    assert [int(one) > time.time() for one in seen] == [True]


@pytest.mark.parametrize(
    "words",
    [
        ["contact"],
        ["--seconds", "0"],
        ["--seconds", "-1"],
        ["--seconds", "nan"],
        ["--seconds", "inf"],
        ["--seconds", "soon"],
        ["--count", "0"],
        ["--count", "1.5"],
        [CONTACTS, "/pollwire"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_makes_nothing(operator, words):
    operator.misused("tail", *words)

    assert left(operator) == ([], [])
