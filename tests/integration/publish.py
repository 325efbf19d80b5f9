"""
Write the published examples anew, from the code that makes real events.

    PYTHONPATH=layers/pollwire python -m tests.integration.publish

A small story is told to the simulated provider; the provider's module reads its rows, ``decide``
says what changed, and the composer makes the events. The test in ``test_published.py`` tells the
story again and compares every byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pollwire import decide
from pollwire.events import Composer, subscription_id
from pollwire.model import Account, Event, Record
from pollwire.providers.youmail import YouMail

from local.simulators.youmail import YouMail as Simulator
from tests.contract import driver

FOLDER = Path(__file__).parents[2] / "events" / "published"

#: 2026-03-04T05:06:07.089Z
START_MS = 1_772_600_767_089
ACCOUNT = Account(
    "demo",
    "10000000007",
    {"poll": "http://apipoll.youmail.com", "api": "https://api.youmail.com"},
    credential={"username": "4255550107", "password": "example"},
)
SUBSCRIPTION = subscription_id("arn:aws:sns:us-east-1:123456789012:pollwire-events.fifo")

#: Above the size that SNS takes.
LONG_TRANSCRIPT = "I will be late. " * 17_000


class Story:
    """One account that is watched while things happen to it."""

    def __init__(self) -> None:
        self._now_ms = START_MS
        self._provider = YouMail()
        self._records: dict[str, dict[str, Record]] = {}
        self._sequences: dict[str, int] = {}
        self.simulator = Simulator(lambda: self._now_ms / 1000)
        self.simulator.add_account(ACCOUNT.id, "4255550107", "example", "4255550107")
        self._wire = driver.Wire(self.simulator, ACCOUNT.hosts.values())

    def tell(self, stream: str, happening: Callable[[], object]) -> Event:
        """Let something happen, look at a stream until it is decided, and make its event."""
        if stream not in self._records:
            self._look(stream, decide.BASELINE)
        self._now_ms += 1000
        happening()
        for _ in range(3):
            self._now_ms += 60_000
            changes = self._look(stream, decide.LIVE)
            if changes:
                (change,) = changes
                return self._compose(stream, change)
        raise AssertionError(f"{stream}: nothing changed")

    def _look(self, stream: str, mode: str) -> tuple[decide.Change, ...]:
        kind = self._provider.streams[stream]
        known = self._records.setdefault(stream, {})
        rows = driver.rows(self._provider, ACCOUNT, stream, self._wire)
        decision = decide.decide(rows, known, kind, mode, self._now_ms)
        known |= decision.records
        changes = decision.changes
        if kind.snapshot:
            missing = decide.decide_missing([row.id for row in rows], known, kind, self._now_ms)
            known |= missing.records
            changes += missing.changes
        return changes

    def _compose(self, stream: str, change: decide.Change) -> Event:
        self._sequences[stream] = self._sequences.get(stream, 0) + 1
        composer = Composer(
            self._provider.name,
            ACCOUNT.connection,
            ACCOUNT.id,
            stream,
            self._provider.streams[stream],
            SUBSCRIPTION,
        )
        return composer.event(change, self._sequences[stream], self._now_ms)


def examples() -> Mapping[str, Event]:
    """Tell the story; return one event of every kind by the name of its file."""
    story = Story()
    sim, account = story.simulator, ACCOUNT.id
    ids: dict[str, str] = {}

    def keep(name: str, happening: Callable[[], str]) -> Callable[[], None]:
        return lambda: ids.update({name: happening()})

    events = {
        "entry.created": story.tell("entry", keep("entry", lambda: sim.leave_voicemail(account))),
        "entry.updated": story.tell("entry", lambda: sim.mark_read(ids["entry"])),
        "entry.deleted": story.tell("entry", lambda: sim.trash(ids["entry"])),
        "entry.truncated": story.tell(
            "entry", lambda: sim.leave_voicemail(account, transcript=LONG_TRANSCRIPT)
        ),
        "history.created": story.tell("history", lambda: sim.call(account)),
        "contact.created": story.tell("contact", keep("contact", lambda: sim.add_contact(account))),
        "contact.updated": story.tell(
            "contact", lambda: sim.update_contact(ids["contact"], firstName="Robert")
        ),
        "contact.deleted": story.tell("contact", lambda: sim.delete_contact(ids["contact"])),
        "entitlement.updated": story.tell(
            "entitlement", lambda: sim.change_entitlements(account, ["TRANSCRIPTION"])
        ),
        "greeting.created": story.tell(
            "greeting", keep("greeting", lambda: sim.record_greeting(account))
        ),
        "greeting.deleted": story.tell("greeting", lambda: sim.delete_greeting(ids["greeting"])),
        "account.updated": story.tell(
            "account", lambda: sim.change_profile(account, firstName="Anna")
        ),
        "settings.updated": story.tell(
            "settings", lambda: sim.change_settings(account, timeZone="Europe/Berlin")
        ),
        "ecommerce.created": story.tell("ecommerce", lambda: sim.order(account)),
        "ecommerce.updated": story.tell("ecommerce", lambda: sim.order(account, status=0)),
    }
    return {f"{name}.json": event for name, event in events.items()}


def text_of(event: Event) -> str:
    """Write an event for a person to read."""
    return json.dumps(json.loads(event.body), indent=2) + "\n"


def main() -> None:
    for name, event in examples().items():
        (FOLDER / name).write_text(text_of(event))


if __name__ == "__main__":
    main()
