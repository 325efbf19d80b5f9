"""Promises of what an idle shard costs."""

from __future__ import annotations

from collections import Counter

import pytest
from pollwire import marks, pipeline
from pollwire.model import CheckJob, Seen
from pollwire.providers import youmail

from tests.integration.system import SHOP, START_MS

ACCOUNTS = 1_000
DAY_MS = 86_400_000


@pytest.fixture
def idle(system):
    """A thousand accounts in one shard whose stored answers are what the provider says."""
    system.connect()
    puts = [{"PutRequest": {"Item": _item(system, place)}} for place in range(ACCOUNTS)]
    table = system.environment["TABLE_NAME"]
    for first in range(0, ACCOUNTS, 25):
        system.dynamodb.batch_write_item(RequestItems={table: puts[first : first + 25]})
    system.world.queues.send_checks("youmail", [CheckJob("shop", 0, START_MS, 60)], START_MS)
    return system


@pytest.fixture
def calls(idle, clients):
    """Calls of DynamoDB and SQS by name, from here on."""
    counted = Counter()

    def count(model, **_):
        counted[model.name] += 1

    for service in ("dynamodb", "sqs"):
        clients(service).meta.events.register(f"before-call.{service}", count)
    yield counted
    for service in ("dynamodb", "sqs"):
        clients(service).meta.events.unregister(f"before-call.{service}", count)


def _item(system, place):
    account = str(20_000_000_000 + place)
    phone = f"4255{account[-6:]}"
    system.simulator.add_account(account, phone, "secret", phone)
    path = f"/vm/poll/{account[-1]}/{account}"
    _, headers, body = system.simulator.handle("GET", path, {}, {}, b"")
    seen = Seen(body.decode().strip(), headers.get("etag", ""), changed_ms=START_MS - DAY_MS)
    return {
        "pk": {"S": "shard#shop#0"},
        "sk": {"S": account},
        "marks": {"S": marks.pack(seen)},
        "settings": {"S": '{"backfill": "true"}'},
        "credential": {"B": b"sealed"},
    }


def _checked(system):
    """Do what the queue's mapping does, once."""
    url = system.checks_url()
    (message,) = system.receive(url, 1)
    record = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:checks",
    }
    assert system.invoke("check", {"Records": [record]}) == {"batchItemFailures": []}
    system.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def test_a_thousand_idle_accounts_take_two_reads_and_no_write(idle, calls):
    _checked(idle)

    assert calls == {"GetItem": 1, "Query": 1, "ReceiveMessage": 1, "DeleteMessage": 1}
    assert len(idle.http.asked) == ACCOUNTS


def test_an_answer_that_is_the_stored_one_is_not_parsed(idle, monkeypatch):
    parsed = []
    monkeypatch.setattr(youmail.YouMail, "marks", lambda *_: parsed.append("marks"))
    monkeypatch.setattr(youmail, "_composite", lambda *_: parsed.append("composite"))

    counts = pipeline.check(idle.world, CheckJob("shop", 0, START_MS, 60))

    assert parsed == []
    # Once an hour each is asked without its validator.
    assert 0.95 * ACCOUNTS < counts.pop("not_modified") < ACCOUNTS
    assert counts == {
        "broken": 0,
        "requests": ACCOUNTS,
        "polled": ACCOUNTS,
        "unchanged": ACCOUNTS,
        "spent": 0,
        "deltas": 0,
    }


def test_a_check_that_needs_no_credential_reads_none(idle):
    standings, _ = idle.world.state.shard(SHOP.name, 0, sealed=False)

    assert {one.credential for one in standings} == {None}
