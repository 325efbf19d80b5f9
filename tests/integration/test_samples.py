"""The sample invocations (``sam local invoke -e events/...``) do what they are there to show."""

from __future__ import annotations

import json

from pollwire.model import Connection
from pollwire.secrets import PUSH

from tests.integration.system import ANN
from tests.stack import ROOT


def sample(name):
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


def test_the_tick_queues_a_check(ann):
    ann.invoke("schedule", sample("schedule"))

    assert ann.depths() == {"pollwire-checks-youmail": 1}


def test_of_two_checks_the_good_one_is_done_and_the_bad_one_reported(ann):
    ann.simulator.leave_voicemail(ANN)
    event = sample("check")
    good, bad = (record["messageId"] for record in event["Records"])

    response = ann.invoke("check", event)

    assert response == {"batchItemFailures": [{"itemIdentifier": bad}]}
    assert good != bad
    assert set(ann.depths()) == {"pollwire-deltas-entry.fifo", "pollwire-deltas-history.fifo"}


def test_the_notification_queues_a_check_of_its_account(system):
    connection, event = Connection("office", "ringcentral"), sample("push")
    system.connect(connection)
    system.registry.add_account(connection, "133165004")
    secret = {"secret": event["headers"]["verification-token"]}
    sealed = system.world.sealer.seal(secret, "office", PUSH)
    system.registry.set_push_secret("office", sealed)

    assert system.invoke("push", event) == {"statusCode": 200, "headers": {}, "body": ""}

    assert system.depths() == {"pollwire-checks-ringcentral": 1}


def test_of_two_delta_jobs_the_good_one_is_done_and_the_bad_one_reported(ann):
    voicemail = ann.simulator.leave_voicemail(ANN)
    event = sample("delta")
    _, bad = (record["messageId"] for record in event["Records"])

    response = ann.invoke("delta", event)

    assert response == {"batchItemFailures": [{"itemIdentifier": bad}]}
    assert ann.said() == [("entry", "created", voicemail)]
