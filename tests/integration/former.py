"""
What an earlier version has left in the table and the queues, in the midst of its work.

    PYTHONPATH=layers/pollwire python -m pytest tests/integration/former.py

in a working copy of that version writes it anew into ``former.json``, beside this file.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from pollwire.providers import youmail

from tests.integration.system import ANN

FILE = Path(__file__).with_name("former.json")


class Killed(Exception):
    """The worker is gone."""


def killed(call, **arguments):
    raise Killed


def tell(system, monkeypatch):
    """
    Stop at an event that is decided and not published, a list of which a page was read, marks that
    are pending, and jobs that wait.
    """
    monkeypatch.setattr(youmail, "PAGE_LENGTH", 2)
    simulator = system.simulator
    system.connect()
    system.add_account(ANN, fields="history,entry,contact,,greeting")
    system.rest()
    voicemail = simulator.leave_voicemail(ANN)
    system.rest()
    simulator.mark_read(voicemail)
    system.rest()
    system.deliveries()
    simulator.record_greeting(ANN, "Decided")
    system.faults["publish_batch"] = killed
    system.poll()
    system.faults.clear()
    for number in range(5):
        simulator.add_contact(ANN, firstName=f"Ann {number}", at_ms=system.clock() + number)
    simulator.leave_voicemail(ANN, preview="Waiting")
    system.clock.advance(60)
    system.check()
    left = iter([60_000] * 3)
    system.remaining_ms = lambda: next(left, 1)
    system.pump("delta", system.deltas_url("contact"), 1)
    system.remaining_ms = lambda: 60_000


def jobs(system):
    """Take all jobs off the queues: URL, body and group of each."""
    found = []
    for url in [system.checks_url(), *map(system.deltas_url, system.streams)]:
        system.redeliver()
        while messages := system.receive(url):
            for one in messages:
                system.sqs.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
                group = one["Attributes"].get("MessageGroupId", "")
                found.append([url.rpartition("/")[2], json.loads(one["Body"]), group])
    return found


def text_of(items):
    """Write items as JSON, binary values as base64."""

    def written(value):
        return {"B": base64.b64encode(value["B"]).decode()} if "B" in value else value

    return [{name: written(value) for name, value in one.items()} for one in items]


def items_of(text):
    def read(value):
        return {"B": base64.b64decode(value["B"])} if "B" in value else value

    return [{name: read(value) for name, value in one.items()} for one in text]


def test_write(system, monkeypatch):
    tell(system, monkeypatch)
    # What is sealed opens with the key of this one run only.
    items = [one for (pk, _), one in system.table().items() if not pk.startswith("token#")]
    for item in items:
        item.pop("credential", None)
    left = {"items": text_of(items), "jobs": jobs(system)}
    FILE.write_text(json.dumps(left, indent=1) + "\n")


pytestmark = pytest.mark.filterwarnings("ignore")
