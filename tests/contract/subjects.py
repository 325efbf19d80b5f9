"""
What the contract suite needs to know of each provider. A new provider joins with one ``Subject``.

``Subject.exempt`` names promises that do not apply to a provider, ``Subject.deviates`` those that
it is known to break; both by the test's name, or ``name/stream``, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pollwire.model import Account
from pollwire.providers import Provider, registered

from local.simulators.intelli import Intelli
from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral
from local.simulators.youmail import YouMail
from tests.contract.driver import Handler

README = (Path(__file__).parents[2] / "README.md").read_text()
NOW_S = 1_782_000_000


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class World:
    """
    One simulator and its account.

    Attributes:
        made: Ids of things that were there from the beginning, by a name.
    """

    clock: Clock
    simulator: Any
    account: Account
    made: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """
    One stream.

    Attributes:
        change: Makes one change, which no other stream shows; returns the id of its row.

        make: Makes one more row now; returns its id. ``None`` where there is one row for ever.

        rows: So many are made to be listed.

        pages: So many pages they fill at least.
    """

    change: Callable[[World], str]
    make: Callable[[World], str] | None = None
    rows: int = 250
    pages: int = 1


@dataclass(frozen=True)
class Subject:
    """
    One provider under test.

    Attributes:
        world: Makes a simulator that holds a row or more of each stream that can, and an account.

        parts: Every stream, by name.

        odd: Parts of paths whose answers, if they cannot be read, are one bad row and no error.
    """

    provider: Provider
    world: Callable[[Clock], World]
    parts: Mapping[str, Part]
    odd: tuple[str, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    deviates: Mapping[str, str] = field(default_factory=dict)

    def leaves_out(self, promise: str, stream: str = "") -> bool:
        names = {promise, f"{promise}/{stream}"}
        return bool(names & (self.exempt.keys() | self.deviates.keys()))


# YouMail


def _youmail(clock: Clock) -> World:
    simulator = YouMail(clock)
    simulator.add_account("10000000007", "canary-user", "canary-password", "4255550107")
    account = Account(
        "shop",
        "10000000007",
        {"poll": "http://poll.sim", "api": "https://api.sim"},
        settings={"phone": "4255550107"},
        credential={"username": "canary-user", "password": "canary-password"},
    )
    entry = simulator.leave_voicemail(account.id)
    return World(clock, simulator, account, {"entry": entry})


def _read_voicemail(world: World) -> str:
    world.simulator.mark_read(world.made["entry"])
    return world.made["entry"]


def _entitle(world: World) -> str:
    world.simulator.change_entitlements(world.account.id, ["fax"])
    return "account"


def _move(world: World) -> str:
    world.simulator.change_profile(world.account.id, firstName="Eve")
    return "account"


def _set(world: World) -> str:
    world.simulator.change_settings(world.account.id, timeZone="Asia/Tokyo")
    return "settings"


def _order(world: World) -> str:
    status = world.simulator._accounts[world.account.id].orders
    return world.simulator.order(world.account.id, f"Product {len(status)}")


def _calling(name: str) -> Callable[[World], str]:
    return lambda world: getattr(world.simulator, name)(world.account.id)


YOUMAIL = Subject(
    registered()["youmail"],
    _youmail,
    {
        "history": Part(_calling("call"), _calling("call"), pages=3),
        "entry": Part(_read_voicemail, _calling("leave_voicemail"), pages=3),
        "contact": Part(_calling("add_contact"), _calling("add_contact"), pages=3),
        "entitlement": Part(_entitle),
        "greeting": Part(_calling("record_greeting"), _calling("record_greeting")),
        "account": Part(_move),
        "settings": Part(_set),
        "ecommerce": Part(_order, _order, rows=50),
    },
    exempt={
        "the_first_check_names_what_cannot_be_read/truncated": (
            "digits and commas cut short are digits and commas; the length tells in pollwire.http, "
            "and what was seen before tells from the second check on"
        )
    },
)

# Intelli Messaging


def _intelli(clock: Clock) -> World:
    simulator = Intelli(clock)
    credential = {"username": "7654321@canary-reseller", "password": "canary-password"}
    simulator.add_account("7", **credential)
    account = Account("shop", "7", {"api": "https://api.sim"}, credential=credential)
    simulator.receive("7")
    simulator.send("7")
    return World(clock, simulator, account)


INTELLI = Subject(
    registered()["intelli"],
    _intelli,
    {"messages": Part(_calling("receive"), _calling("receive"), pages=3)},
)

# Kirimdev


def _kirimdev(clock: Clock) -> World:
    simulator = Kirimdev(clock)
    key = "kdv_live_canaryCANARYcanaryCANARY"
    simulator.add_organisation("org", key, reads_per_minute=100_000)
    simulator.add_account("org", "106540352242999")
    account = Account(
        "shop", "106540352242999", {"api": "https://api.sim"}, credential={"api_key": key}
    )
    conversation = simulator.new_conversation(account.id)
    message = simulator.send(conversation)
    account = replace(account, watched=frozenset({message}))
    return World(clock, simulator, account, {"conversation": conversation, "message": message})


def _deliver(world: World) -> str:
    world.simulator.set_message_status(world.made["message"], "delivered")
    return world.made["message"]


def _watch(world: World) -> str:
    message = world.simulator.send(world.made["conversation"])
    world.account = replace(world.account, watched=world.account.watched | {message})
    return message


KIRIMDEV = Subject(
    registered()["kirimdev"],
    _kirimdev,
    {
        "conversations": Part(_calling("new_conversation"), _calling("new_conversation"), pages=3),
        "message-status": Part(_deliver, _watch, rows=50, pages=3),
    },
    odd=("/messages/",),
)

# RingCentral


def _ringcentral(clock: Clock) -> World:
    simulator = RingCentral(
        clock, light_per_minute=100_000, auth_per_minute=100_000, sessions=100_000
    )
    credential = {
        "client_id": "canary-client",
        "client_secret": "canary-secret",
        "jwt": "canary-jwt",
    }
    simulator.add_account("133165004", **credential)
    account = Account("office", "133165004", {"api": "https://api.sim"}, credential=credential)
    simulator.leave_voicemail(account.id)
    simulator.receive_fax(account.id)
    return World(clock, simulator, account)


RINGCENTRAL = Subject(
    registered()["ringcentral"],
    _ringcentral,
    {
        "message-store": Part(_calling("receive_sms"), _calling("receive_sms"), rows=600, pages=3),
        "presence": Part(_calling("ring"), _calling("ring"), rows=6),
    },
)

# The README's


class Tickets:
    """A simulated Acme: tickets in pages of a hundred, with an ETag."""

    def __init__(self, clock: Clock, key: str) -> None:
        self.clock, self.key = clock, key
        self.tickets: list[dict[str, Any]] = []

    def open(self, account: str) -> str:
        number = len(self.tickets) + 1
        self.tickets.append({"id": number, "updated": self.clock.now_s * 1000})
        return str(number)

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, Mapping[str, str], bytes]:
        if headers.get("authorization") != f"Bearer {self.key}":
            return 401, {}, b""
        etag = f'"{len(self.tickets)}"'
        if headers.get("if-none-match") == etag:
            return 304, {"etag": etag}, b""
        page = query.get("page", "1")
        if not re.fullmatch("[1-9][0-9]{0,9}", page):
            return 400, {}, b""
        since, end = int(query.get("updated_since", 0)), 100 * int(page)
        found = [one for one in self.tickets if one["updated"] >= since]
        answer = {"tickets": found[end - 100 : end], "more": len(found) > end}
        return 200, {"etag": etag}, json.dumps(answer).encode()


def _acme() -> Provider:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (source,) = [block for block in blocks if "class Acme" in block]
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - it is our own README
    provider: Provider = names["Acme"]()
    return provider


def _tickets(clock: Clock) -> World:
    simulator: Handler = Tickets(clock, "canary-key")
    account = Account("shop", "7", {"api": "https://api.sim"}, credential={"api_key": "canary-key"})
    world = World(clock, simulator, account)
    world.simulator.open(account.id)
    return world


ACME = Subject(
    _acme(),
    _tickets,
    {"tickets": Part(_calling("open"), _calling("open"), pages=3)},
    exempt={
        "the_first_check_names_what_cannot_be_read/truncated": "the check reads no body",
        "a_later_check_names_what_cannot_be_read/truncated": "the check reads no body",
    },
)

SUBJECTS = {
    subject.provider.name: subject for subject in (YOUMAIL, INTELLI, KIRIMDEV, RINGCENTRAL, ACME)
}
