"""A subscriber whose queue is filtered by a path gets its part of the events, and no other."""

from __future__ import annotations

import json

import pytest
from pollwire.events import Composer, digest
from pollwire.filters import compile_filter
from pollwire.model import Change, Row, Stream
from pollwire.providers import registered

from tests.integration.system import ANN, BOB

ANY = "/restapi/v1.0/account/~/extension/~"
STREAMS = {name: provider.streams for name, provider in registered().items()}


@pytest.fixture
def subscribe(system):
    """Make a queue that is filtered by a path; return its URL."""

    def made(path, streams=STREAMS):
        url = system.sqs.create_queue(QueueName="crm.fifo", Attributes={"FifoQueue": "true"})
        system.sns.subscribe(
            TopicArn=system.environment["EVENTS_TOPIC_ARN"],
            Protocol="sqs",
            Endpoint="arn:aws:sqs:us-east-1:123456789012:crm.fifo",
            Attributes={
                "RawMessageDelivery": "true",
                "FilterPolicy": json.dumps(compile_filter(path, streams)),
                "FilterPolicyScope": "MessageAttributes",
            },
        )
        return url["QueueUrl"]

    return made


def test_a_subscriber_to_inbound_voicemails_gets_just_these(ann, subscribe):
    url = subscribe(f"{ANY}/message-store?type=VoiceMail&direction=Inbound")
    ann.add_account(BOB)
    ann.rest()
    of_ann, of_bob = ann.simulator.leave_voicemail(ANN), ann.simulator.leave_voicemail(BOB)
    ann.simulator.add_contact(ANN)
    ann.poll()
    ann.simulator.mark_read(of_ann)
    ann.rest()

    deliveries = ann.deliveries(url)

    assert {(one.attributes["type"], one.attributes["direction"]) for one in deliveries} == {
        ("VoiceMail", "Inbound")
    }
    assert {one.said for one in deliveries} >= {
        ("entry", "created", of_ann),
        ("entry", "updated", of_ann),
        ("entry", "created", of_bob),
    }
    everything = ann.deliveries()
    assert len(everything) > len(deliveries)
    assert [one.event["uuid"] for one in deliveries] == [
        one.event["uuid"]
        for one in everything
        if (one.attributes.get("type"), one.attributes.get("direction")) == ("VoiceMail", "Inbound")
        and one.attributes["stream"] == "entry"
    ]


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        pytest.param("account/7/extension/7/message-store", {"7 7"}, id="the account itself"),
        pytest.param("account/7/extension/8/message-store", {"7 8"}, id="an extension"),
        pytest.param("account/~/extension/8/message-store", {"7 8", "8 8"}, id="of any account"),
        pytest.param("account/7/extension/~/message-store", {"7 7", "7 8"}, id="any extension"),
    ],
)
def test_an_extension_is_found_whether_or_not_it_is_the_account(system, subscribe, path, taken):
    stream = Stream(path="message-store")
    url = subscribe(f"/restapi/v1.0/{path}?type=SMS", {"other": {"texts": stream}})
    for account, extension in (("7", ""), ("7", "8"), ("8", ""), ("8", "9")):
        row = Row(f"m{extension}", "", 5, {}, type="SMS", extension=extension)
        composer = Composer("other", "shop", account, "texts", stream, "subscription")
        event = composer.event(Change("created", row, digest(row), 1), 1, system.clock())
        system.world.topic.publish([event])

    bodies = [one.event["body"] for one in system.deliveries(url)]

    assert {f"{body['accountId']} {body['extensionId']}" for body in bodies} == taken
