"""
Write the published examples anew, from the code that makes real events.

    PYTHONPATH=layers/pollwire python -m tests.integration.publish

A small story is told to each simulated provider; the provider's module reads its rows, ``decide``
says what changed, and the composer makes the events. The test in ``test_published.py`` tells the
stories again and compares every byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pollwire import decide
from pollwire.events import Composer, subscription_id
from pollwire.model import Account, Change, Event, Record, Start
from pollwire.providers import registered

from local.simulators.intelli import Intelli
from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral
from local.simulators.youmail import YouMail
from tests.contract import driver

FOLDER = Path(__file__).parents[2] / "events" / "published"

#: 2026-03-04T05:06:07.089Z
START_MS = 1_772_600_767_089
SUBSCRIPTION = subscription_id("arn:aws:sns:us-east-1:123456789012:pollwire-events.fifo")

#: One account of each provider.
ACCOUNTS = {
    "youmail": Account(
        "demo",
        "10000000007",
        {"poll": "http://apipoll.youmail.com", "api": "https://api.youmail.com"},
        credential={"username": "4255550107", "password": "example"},
    ),
    "intelli": Account(
        "demo-intelli",
        "30000000007",
        {"api": "https://mc5.smartmessagingservices.net"},
        credential={"username": "30000000007@example", "password": "intelli-example"},
    ),
    "ringcentral": Account(
        "demo-ringcentral",
        "20000000007",
        {"api": "https://platform.ringcentral.com"},
        settings={"accountId": "20000000001"},
        credential={
            "client_id": "client-example",
            "client_secret": "secret-example",
            "jwt": "jwt-example",
        },
    ),
    "kirimdev": Account(
        "demo-kirimdev",
        "400000000000007",
        {"api": "https://api.kirimdev.com"},
        credential={"api_key": "kdv_live_example"},
    ),
}

#: Numbers that are given to nobody.
CALLER, CALLED = "+14255550111", "+14255550107"
CONTACT, OWN = "61491570156", "61491570006"

#: Above the size that SNS takes.
LONG_TRANSCRIPT = "I will be late. " * 17_000

#: More messages than Intelli's list has room for.
BURST = 101


class Clock:
    """Seconds since the epoch, as the story goes."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> float:
        return self.now_ms / 1000


class Story:
    """
    One account that is watched while things happen to it.

    Args:
        step_s: Seconds between two looks.

    Attributes:
        account: Whose it is.
    """

    def __init__(
        self, provider: str, simulator: driver.Handler, clock: Clock, step_s: int = 60
    ) -> None:
        self.account = ACCOUNTS[provider]
        self._provider = registered()[provider]
        self._clock = clock
        self._step_ms = step_s * 1000
        self._wire = driver.Wire(simulator, self.account.hosts.values())
        self._records: dict[str, dict[str, Record]] = {}
        self._cursors: dict[str, str] = {}
        self._sequences: dict[str, int] = {}

    def tell(self, stream: str, happening: Callable[[], object], which: int = 0) -> Event:
        """
        Let something happen, look at a stream until it is decided, and make its event.

        Args:
            which: Of more than one, the event to return; there is one only, unless it is said.
        """
        if stream not in self._records:
            self._look(stream, decide.BASELINE)
        self._clock.now_ms += 1000
        happening()
        for _ in range(3):
            self._clock.now_ms += self._step_ms
            changes = self._look(stream, decide.LIVE)
            if changes:
                assert which or len(changes) == 1, changes
                return [self._compose(stream, change) for change in changes][which]
        raise AssertionError(f"{stream}: nothing changed")

    def _look(self, stream: str, mode: str) -> tuple[Change, ...]:
        kind = self._provider.streams[stream]
        known = self._records.setdefault(stream, {})
        start = Start(cursor=self._cursors.get(stream, ""))
        pages = driver.pages(self._provider, self.account, stream, self._wire, start)
        self._cursors[stream] = pages[-1].cursor
        rows = [row for page in pages for row in page.rows]
        decision = decide.decide(rows, known, kind, mode, self._clock.now_ms)
        known |= decision.records
        changes = decision.changes
        if not start.cursor and all(page.whole for page in pages):
            listed = [row.id for row in rows]
            missing = decide.decide_missing(listed, known, kind, self._clock.now_ms)
            known |= missing.records
            changes += missing.changes
        return changes

    def _compose(self, stream: str, change: Change) -> Event:
        number = max(self._sequences.get(stream, 0), self._clock.now_ms) + 1
        self._sequences[stream] = number
        composer = Composer(
            self._provider.name,
            self.account.connection,
            self.account.id,
            stream,
            self._provider.streams[stream],
            SUBSCRIPTION,
            self.account.settings.get("accountId", ""),
        )
        return composer.event(change, number, self._clock.now_ms)


class Kept(dict[str, str]):
    """Ids of things that happened, by a name."""

    def keep(self, name: str, happening: Callable[[], str]) -> Callable[[], None]:
        """Let something happen later, and keep the id that it returns."""
        return lambda: self.update({name: happening()})


def youmail() -> Mapping[str, Event]:
    """Tell of an account of YouMail; return its events, each by the name of its file."""
    clock, ids, account = Clock(), Kept(), ACCOUNTS["youmail"].id
    sim = YouMail(clock)
    sim.add_account(account, "4255550107", "example", "4255550107")
    tell, keep = Story("youmail", sim, clock).tell, ids.keep
    return {
        "entry.created": tell("entry", keep("entry", lambda: sim.leave_voicemail(account))),
        "entry.updated": tell("entry", lambda: sim.mark_read(ids["entry"])),
        "entry.deleted": tell("entry", lambda: sim.trash(ids["entry"])),
        "entry.truncated": tell(
            "entry", lambda: sim.leave_voicemail(account, transcript=LONG_TRANSCRIPT)
        ),
        "history.created": tell("history", lambda: sim.call(account)),
        "contact.created": tell("contact", keep("contact", lambda: sim.add_contact(account))),
        "contact.updated": tell(
            "contact", lambda: sim.update_contact(ids["contact"], firstName="Robert")
        ),
        "contact.deleted": tell("contact", lambda: sim.delete_contact(ids["contact"])),
        "entitlement.updated": tell(
            "entitlement", lambda: sim.change_entitlements(account, ["TRANSCRIPTION"])
        ),
        "greeting.created": tell(
            "greeting", keep("greeting", lambda: sim.record_greeting(account))
        ),
        "greeting.deleted": tell("greeting", lambda: sim.delete_greeting(ids["greeting"])),
        "account.updated": tell("account", lambda: sim.change_profile(account, firstName="Anna")),
        "settings.updated": tell(
            "settings", lambda: sim.change_settings(account, timeZone="Europe/Berlin")
        ),
        "ecommerce.created": tell("ecommerce", lambda: sim.order(account)),
        "ecommerce.updated": tell("ecommerce", lambda: sim.order(account, status=0)),
    }


def intelli() -> Mapping[str, Event]:
    """Tell of a user of Intelli Messaging: a text, an answer, and more than can be listed."""
    clock, ids, account = Clock(), Kept(), ACCOUNTS["intelli"].id
    sim = Intelli(clock)
    sim.add_account(account, **ACCOUNTS["intelli"].credential, number=OWN)
    tell = Story("intelli", sim, clock).tell
    received = ids.keep("sms", lambda: sim.receive(account, "Are you open today?", CONTACT))
    return {
        "messages.created": tell("messages", received),
        "messages.outbound": tell("messages", lambda: sim.send(account, "Until six", CONTACT)),
        "messages.reply": tell("messages", ids.keep("reply", lambda: _answered(sim, account))),
        "messages.gap": tell("messages", lambda: sim.saturate(account, BURST), which=-1),
    }


def _answered(sim: Intelli, account: str) -> str:
    sent = next(one.id for one in reversed(sim.journal) if one.account == account)
    return sim.reply(account, sent, "Thanks")


def ringcentral() -> Mapping[str, Event]:
    """
    Tell of an extension of RingCentral.

    A call rings, is not answered, and the caller leaves a voicemail, which is read and deleted.
    Another call is answered, and its end is missed. Then the user wants to be left alone.
    """
    clock, ids, account = Clock(), Kept(), ACCOUNTS["ringcentral"].id
    sim = RingCentral(clock, auth_per_minute=100)
    sim.add_account(account, **ACCOUNTS["ringcentral"].credential, owner="20000000001")
    tell, keep = Story("ringcentral", sim, clock, step_s=10).tell, ids.keep
    parties: dict[str, Any] = {
        "from": {"phoneNumber": CALLER, "name": "Bob"},
        "to": [{"phoneNumber": CALLED}],
    }

    def ring() -> str:
        return sim.ring(account, CALLER, CALLED)

    return {
        "presence.created": tell("presence", keep("missed", ring)),
        "presence.deleted": tell("presence", lambda: sim.hang_up(ids["missed"])),
        "message-store.created": tell(
            "message-store", keep("voicemail", lambda: sim.leave_voicemail(account, **parties))
        ),
        "message-store.updated": tell("message-store", lambda: sim.mark_read(ids["voicemail"])),
        "message-store.deleted": tell("message-store", lambda: sim.delete(ids["voicemail"])),
        "presence.outbound": tell(
            "presence",
            keep("call", lambda: sim.ring(account, CALLED, CALLER, direction="Outbound")),
        ),
        "presence.updated": tell("presence", lambda: sim.answer(ids["call"])),
        "presence.inferred": tell("presence", lambda: sim.vanish(ids["call"])),
        "presence.state": tell(
            "presence", lambda: sim.set_presence(account, dndStatus="DoNotAcceptAnyCalls")
        ),
    }


def kirimdev() -> Mapping[str, Event]:
    """Tell of a WhatsApp number at Kirimdev: a conversation, and one message in it."""
    clock, ids, account = Clock(), Kept(), ACCOUNTS["kirimdev"].id
    sim = Kirimdev(clock)
    sim.add_organisation("example", ACCOUNTS["kirimdev"].credential["api_key"])
    sim.add_account("example", account)
    story = Story("kirimdev", sim, clock)
    tell = story.tell
    people: dict[str, Any] = {
        "contact": {"id": "ctc_0000000000000000000000EXAM", "phone_number": CALLER, "name": "Bob"},
        "whatsapp_account": {"phone_number": CALLED},
    }

    def send() -> None:
        ids["message"] = sim.send(ids["conversation"], "Hello")
        story.account = replace(story.account, watched=frozenset({ids["message"]}))

    begin = ids.keep("conversation", lambda: sim.new_conversation(account, **people))
    return {
        "conversations.created": tell("conversations", begin),
        "conversations.updated": tell("conversations", lambda: sim.assign(ids["conversation"])),
        "message-status.created": tell("message-status", send),
        "message-status.updated": tell(
            "message-status", lambda: sim.set_message_status(ids["message"], "delivered")
        ),
        "message-status.deleted": tell(
            "message-status", lambda: sim.delete_message(ids["message"])
        ),
        "conversations.deleted": tell(
            "conversations", lambda: sim.delete_conversation(ids["conversation"])
        ),
    }


def examples() -> Mapping[str, Event]:
    """Tell every story; return one event of every kind by the name of its file."""
    events = {**youmail(), **intelli(), **ringcentral(), **kirimdev()}
    return {f"{name}.json": event for name, event in events.items()}


def text_of(event: Event) -> str:
    """Write an event for a person to read."""
    return json.dumps(json.loads(event.body), indent=2) + "\n"


def main() -> None:
    for name, event in examples().items():
        (FOLDER / name).write_text(text_of(event))


if __name__ == "__main__":
    main()
