"""
`sam delete` and `sam deploy` on the retained table, in MiniStack: docs/recovery.md, last walk.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from local.demo import Activity, Customer, now_ms
from local.ledger import Ledger
from local.processes import Stop
from local.run import Follower, Stack

KNOWN_ACCOUNT = "200000001"

#: As in test_run.py: a busy machine may take longer.
ARRIVED_S = 90


def test_a_stack_that_was_deleted_goes_on_from_its_retained_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with Stack(tmp_path, Stop(), _say) as stack:
        customer, ledger = Customer(stack), Ledger()
        customer.register()
        stack.schedule_now()
        customer.await_baseline(Stop())
        activity = Activity(stack.simulators, ledger, _say, "1", customer.watch)
        contact = activity.make("youmail", "add_contact", account=KNOWN_ACCOUNT, firstName="Eve")
        before = _receive_all(stack, ledger)

        former = dict(stack.outputs)
        stack.delete()
        assert not _stacks(stack)
        kept = _items(stack, former["StateTableName"])

        # Nobody asks meanwhile.
        activity.make(
            "youmail", "update_contact", {"firstName": "Ivy"}, row=contact, firstName="Ivy"
        )
        activity.make("youmail", "add_contact", account=KNOWN_ACCOUNT, firstName="Zoe")
        stack.deploy(StateTable=former["StateTableName"], StateKeyArn=former["KeyArn"])
        assert _tables(stack) == [former["StateTableName"]]
        stack.schedule_now()
        after = _receive_all(stack, ledger)
        states = _items(stack, former["StateTableName"])

    assert kept.keys() <= states.keys()
    # A function's URL is drawn anew.
    assert {**former, "PushUrl": ""} == {**stack.outputs, "PushUrl": ""}
    assert ledger.outstanding() == []
    assert ledger.repeated == 0
    told = [(one["body"]["change"], one["body"]["record"]["firstName"]) for one in after]
    assert sorted(told) == [("created", "Zoe"), ("updated", "Ivy")]
    assert {one["subscriptionId"] for one in before} == {one["subscriptionId"] for one in after}
    first, again = (
        next(one["body"] for one in found if one["body"]["recordId"] == contact)
        for found in (before, after)
    )
    assert again["revision"] == first["revision"] + 1
    assert again["sequence"] > first["sequence"]


def _receive_all(stack: Stack, ledger: Ledger) -> list[dict[str, Any]]:
    follower = Follower(stack, stack.outputs["SubscriberQueueUrl"])
    events = []
    deadline_s = time.monotonic() + ARRIVED_S
    while ledger.outstanding() and time.monotonic() < deadline_s:
        for text in follower.receive():
            events.append(json.loads(text))
            ledger.received(events[-1], now_ms())
    return events


def _items(stack: Stack, table: str) -> dict[tuple[str, str], dict[str, Any]]:
    pages = stack.client("dynamodb").get_paginator("scan").paginate(TableName=table)
    return {(one["pk"]["S"], one["sk"]["S"]): one for page in pages for one in page["Items"]}


def _tables(stack: Stack) -> list[str]:
    found: list[str] = stack.client("dynamodb").list_tables()["TableNames"]
    return found


def _stacks(stack: Stack) -> list[str]:
    pages = stack.client("cloudformation").describe_stacks()["Stacks"]
    return [one["StackName"] for one in pages if one["StackName"] == "pollwire"]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
