"""The example of a consumer, run on the events that Pollwire publishes."""

from __future__ import annotations

import importlib.util
import json
from itertools import count
from pathlib import Path

import boto3
import pytest
from pollwire.providers import ID_CHARS_MAX

from tests import stack
from tests.integration.system import ANN, BOB, Context

FOLDER = Path(__file__).parents[2] / "examples" / "consumer"

#: From Pollwire's topic, in the order in which they were decided.
PUBLISHED = [
    json.loads((FOLDER.parents[1] / f"events/published/{name}.json").read_text())
    for name in ("entry.created", "entry.updated", "contact.created", "presence.created")
]


class Consumer:
    """
    The example's function, its table, and messages as Lambda hands them over.

    Attributes:
        applied: Ids of the events that had their effect, in order.

        breaks: Called with each event before its effect; what it raises, ``apply`` raises.
    """

    def __init__(self, app, client):
        self.app, self.client = app, client
        self.applied = []
        self.breaks = lambda event: None
        self.numbers = count(1)
        app.apply = self.apply

    def apply(self, event):
        self.breaks(event)
        self.applied.append(event["uuid"])

    def hand(self, *bodies):
        """Hand over messages, a text each; return the places of those that failed."""
        records = [self.record(body) for body in bodies]
        answer = self.app.handler({"Records": records}, Context("consumer"))
        failed = [one["itemIdentifier"] for one in answer["batchItemFailures"]]
        return [number for number, one in enumerate(records) if one["messageId"] in failed]

    def record(self, body):
        known = body if isinstance(body, dict) else {"ownerId": "?", "body": {"stream": "?"}}
        group = f"{known['ownerId']}-{known['body']['stream']}"
        return {
            "messageId": str(next(self.numbers)),
            "receiptHandle": "receipt",
            "body": json.dumps(body) if isinstance(body, dict) else body,
            "attributes": {"MessageGroupId": group, "ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:shop-events.fifo",
            "awsRegion": "us-east-1",
        }

    def items(self):
        found = self.client.scan(TableName=self.app.TABLE)["Items"]
        return {one["id"]["S"]: one for one in found}

    def age(self, attribute):
        """Let the instant that an attribute names be over, of everything that has it."""
        for identity, item in self.items().items():
            if attribute in item and not identity.startswith("last#"):
                self.client.update_item(
                    TableName=self.app.TABLE,
                    Key={"id": {"S": identity}},
                    UpdateExpression="SET #name = :past",
                    ExpressionAttributeNames={"#name": attribute},
                    ExpressionAttributeValues={":past": {"N": "1"}},
                )


@pytest.fixture
def consumer(system, monkeypatch):
    """The example deployed beside Pollwire."""
    (table,) = (
        one["Properties"]
        for one in stack.load(FOLDER / "template.yaml")["Resources"].values()
        if one["Type"] == "AWS::DynamoDB::Table"
    )
    schema = {name: table[name] for name in ("AttributeDefinitions", "KeySchema", "BillingMode")}
    system.dynamodb.create_table(TableName="handled", **schema)
    monkeypatch.setenv("TABLE_NAME", "handled")
    monkeypatch.setattr(boto3, "client", system.clients)
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "consumer")
    found = importlib.util.spec_from_file_location("consumer_app", FOLDER / "consumer" / "app.py")
    app = importlib.util.module_from_spec(found)
    found.loader.exec_module(app)
    return Consumer(app, system.dynamodb)


def later(event, uuid, more=1):
    """A later event of the same thing."""
    body = {**event["body"], "sequence": event["body"]["sequence"] + more}
    return {**event, "uuid": uuid, "body": body}


def ids(events):
    return [one["uuid"] for one in events]


def test_every_published_event_is_handled(consumer):
    assert consumer.hand(*PUBLISHED) == []

    assert consumer.applied == ids(PUBLISHED)


def test_a_repeat_is_handled_once(consumer):
    first = PUBLISHED[0]

    assert consumer.hand(first, first) == []
    assert consumer.hand(first) == []

    assert consumer.applied == [first["uuid"]]


def test_a_repeat_with_another_text_is_handled_once(consumer):
    """As after the table was restored: the same id, a later timestamp, a higher sequence."""
    first = PUBLISHED[0]
    consumer.hand(first)

    again = {**later(first, first["uuid"], 10**6), "timestamp": "2027-01-15T08:00:00.000Z"}

    assert consumer.hand(again) == []
    assert consumer.applied == [first["uuid"]]
    assert consumer.hand(later(first, "new", 10**6 + 5)) == []
    assert consumer.applied == [first["uuid"], "new"]


def test_an_event_that_fails_stops_its_own_group_only(consumer):
    first, _, contact, presence = PUBLISHED
    second = later(first, "second")

    def poison(event):
        if event["uuid"] == first["uuid"]:
            raise ValueError("cannot be digested")

    consumer.breaks = poison
    assert consumer.hand(first, contact, second, presence) == [0, 2]
    assert consumer.applied == ids([contact, presence])

    consumer.breaks = lambda event: None
    assert consumer.hand(first, second) == []
    assert consumer.applied == [*ids([contact, presence]), first["uuid"], "second"]


@pytest.mark.parametrize("body", ["no event", "{}", '{"ownerId": "1", "body": {}}', "[]"])
def test_what_is_no_event_fails_alone(consumer, body):
    assert consumer.hand(body, PUBLISHED[0]) == [0]

    assert consumer.applied == [PUBLISHED[0]["uuid"]]


@pytest.mark.parametrize("letter", ["m", '"', "\U0001f4e0"])
def test_an_id_may_be_as_long_as_it_can_be(consumer, letter):
    first = PUBLISHED[0]
    first = {**first, "body": {**first["body"], "recordId": letter * ID_CHARS_MAX}}

    assert consumer.hand(later(first, "second"), first) == []

    assert consumer.applied == ["second"]


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("had_effect", [False, True])
def test_a_crash_between_the_effect_and_its_note_is_handled_again(consumer, had_effect):
    first = PUBLISHED[0]

    def kill(event):
        consumer.applied += [event["uuid"]] * had_effect
        raise Killed

    consumer.breaks = kill
    with pytest.raises(Killed):
        consumer.hand(first)
    consumer.breaks = lambda event: None
    before = list(consumer.applied)

    assert consumer.hand(first) == [0], "whoever was killed may be at work still"
    consumer.age("in_progress_expiration")
    assert consumer.hand(first) == []

    assert consumer.applied == [*before, first["uuid"]]


def test_a_repeat_that_comes_when_its_id_is_forgotten_is_handled_again_unless_it_is_late(consumer):
    first = PUBLISHED[0]
    second = later(first, "second")
    consumer.hand(first, second)
    consumer.age("expiration")

    assert consumer.hand(first, second) == []

    assert consumer.applied == [first["uuid"], "second", "second"]


def test_an_event_that_was_redriven_after_a_later_one_is_dropped(consumer):
    first = PUBLISHED[0]
    second = later(first, "second", 10**6)  # Gaps mean nothing.
    consumer.hand(second)

    assert consumer.hand(first) == []

    assert consumer.applied == ["second"]


def test_an_event_that_was_redriven_is_handled_if_only_other_things_went_on(consumer):
    first = PUBLISHED[0]
    other = later(first, "other")
    other["body"] = {**other["body"], "recordId": "another"}
    consumer.hand(other)

    assert consumer.hand(first) == []

    assert consumer.applied == ["other", first["uuid"]]


def test_what_is_noted_ends_and_says_nothing_of_the_content(consumer):
    consumer.hand(*PUBLISHED)

    items = consumer.items()
    assert len(items) == 2 * len(PUBLISHED) - 1  # Two are of one voicemail.
    assert all("expiration" in one for one in items.values())
    said = {json.dumps(one["body"]["record"]) for one in PUBLISHED if "record" in one["body"]}
    assert not [text for text in said if text in json.dumps(items)]


def test_what_the_topic_delivers_is_handled(ann, consumer):
    """The way it comes to a queue with RawMessageDelivery: the event, and nothing around it."""
    ann.add_account(BOB)
    ann.rest()
    for account in (ANN, BOB):
        ann.simulator.add_contact(account)
        ann.simulator.leave_voicemail(account)
    ann.rest()

    messages = []
    while found := ann.receive(ann.environment["SUBSCRIBER_URL"]):
        messages += found
        for one in found:
            ann.sqs.delete_message(
                QueueUrl=ann.environment["SUBSCRIBER_URL"], ReceiptHandle=one["ReceiptHandle"]
            )
    assert consumer.hand(*[one["Body"] for one in messages]) == []

    told = [json.loads(one["Body"]) for one in messages]
    assert sorted(consumer.applied) == sorted(set(ids(told)))
    assert len(consumer.applied) == 6
    for message, event in zip(messages, told, strict=True):
        said = {name: one["StringValue"] for name, one in message["MessageAttributes"].items()}
        assert said["stream"] == event["body"]["stream"]
        assert said["change"] == event["body"]["change"]
