"""
What happens at the providers of one run, and what they hold in the end.

Each model drives one of the simulators with all that makes polling hard: ties, rows that show up
late or with an older time, changes that are taken back, lists that move while they are read,
answers from a cache, validators that lie, and a clock that nobody sees but they.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from pollwire.model import Connection

from local.simulators.intelli import Intelli
from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral
from local.simulators.youmail import YouMail

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

#: In every credential: it must not be seen anywhere.
CANARY = "CANARY"

#: Requests a minute of an account, or of all of a key, where that is little.
BUDGET, UNBOUND = 4, 1_000_000

Clock = Callable[[], float]
Chance = random.Random
Operation = Callable[[Chance, str], object]


@dataclass(frozen=True)
class Member:
    """An account as it is to be registered."""

    id: str
    settings: dict[str, str]
    credential: dict[str, str] | None


@dataclass
class Told:
    """
    One change as a provider's journal has it.

    Attributes:
        at_ms: When it was made, the world's time.
    """

    account: str
    stream: str
    id: str
    kind: str
    at_ms: int


class Upstream:
    """
    One provider's side.

    Attributes:
        streams: Those whose content is compared in the end.

        journal: What happened, by the simulator's own journal.

        stirred: The same, and what nothing is to be told of, though it moves a mark.

        watch: Has an eye on an id of an account.
    """

    name = ""
    streams: tuple[str, ...] = ()

    def __init__(self, clock: Clock, chance: Chance, scenario: Scenario) -> None:
        self.clock, self.number = clock, count(1)
        self.streams = tuple(
            sorted(chance.sample(self.streams, min(scenario.streams, len(self.streams))))
        )
        self.simulator: Any = None
        self.journal: list[Told] = []
        self.stirred: list[Told] = []
        self.members: list[Member] = []
        self.watches = scenario.watches
        self.watched = 0
        self.watch: Callable[[str, str], None] = lambda account, identity: None
        self._seen = 0
        self.interval_s, self.reconciles = scenario.interval_s, scenario.reconciles
        self.scenario = scenario
        self._make(chance, scenario.accounts)
        self.note()
        self.journal.clear()
        self.stirred.clear()

    def _make(self, chance: Chance, accounts: int) -> None:
        raise NotImplementedError

    def operations(self) -> tuple[Operation, ...]:
        raise NotImplementedError

    def connection(self) -> Connection:
        interval_s = self.interval_s
        return Connection(self.name, self.name, interval_s=interval_s, slowest_s=interval_s)

    def secret(self, account: str) -> str:
        return f"{CANARY}-{self.name}-{account}-secret"

    def mutate(self, chance: Chance) -> None:
        """Let one thing happen, or some at the same instant."""
        account = chance.choice(self.members).id
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            chance.choice(self.operations())(chance, account)
        self.note()

    def unbind(self) -> None:
        """Let everybody ask as much as they like."""

    def note(self) -> None:
        """Read what was added to the simulator's journal."""
        now_ms = int(self.clock() * 1000)
        for change in self.simulator.journal[self._seen :]:
            told = Told(change.account, change.stream, change.id, change.kind, now_ms)
            self.stirred.append(told)
            if change.kind:
                self.journal.append(told)
        self._seen = len(self.simulator.journal)

    def pick(self, chance: Chance, account: str, stream: str) -> str:
        """Name one of the newest things of a stream; empty if there is none."""
        made = [
            one.id
            for one in self.simulator.journal
            if (one.account, one.stream) == (account, stream)
        ]
        return chance.choice(made[-6:]) if made else ""

    def version(self) -> str:
        """Make a text that tells one state from all before it."""
        return f"v{next(self.number):05d}"

    def back_ms(self, chance: Chance, most_s: int) -> int:
        """Pick an instant that is over, within what a late row may be."""
        return int(self.clock() * 1000) - chance.randrange(most_s * 1000)


class OfYouMail(Upstream):
    name = "youmail"
    streams = ("entry", "contact", "greeting")

    def _make(self, chance: Chance, accounts: int) -> None:
        paging = chance.choice(("pages", "pages"))
        self.simulator = YouMail(
            self.clock, lag_ms=chance.choice((0, 0, 3000)), paging=paging,
            show_updated=chance.random() < 0.5,
        )  # fmt: skip
        for number in range(accounts):
            account = f"1000000000{number}"
            phone = f"425555010{number}"
            secret = {"username": phone, "password": self.secret(account)}
            self.simulator.add_account(account, phone=phone, **secret)
            if chance.random() < 0.7:
                self.simulator.leave_voicemail(account)
                self.simulator.add_contact(account)
            fields = ("", "entry", "contact", "", "greeting")
            said = ",".join(name if name in self.streams else "" for name in fields)
            settings = {"fields": said}
            self.members.append(Member(account, settings, secret))

    def operations(self) -> tuple[Operation, ...]:
        every: dict[str, tuple[Operation, ...]] = {
            "entry": (
                self._leave, self._leave_late, self._transcribe, self._read, self._trash,
                self._restore,
            ),
            "greeting": (self._greet, self._forget_greeting),
            "contact": (
                self._add, self._rename, self._rename_back_in_time, self._rename_and_back,
                self._drop,
            ),
        }  # fmt: skip
        return tuple(one for name in self.streams for one in every[name])

    def _leave(self, chance: Chance, account: str) -> None:
        self.simulator.leave_voicemail(account, preview=self.version())

    def _leave_late(self, chance: Chance, account: str) -> None:
        now_ms = int(self.clock() * 1000)
        visible_ms = now_ms + chance.randrange(1, 90_000)
        self.simulator.leave_voicemail(
            account, preview=self.version(), at_ms=now_ms, visible_at_ms=visible_ms
        )

    def _of(self, stream: str, name: str, **fields: str) -> Operation:
        def operate(chance: Chance, account: str) -> None:
            one = self.pick(chance, account, stream)
            if one:
                getattr(self.simulator, name)(one, **fields)

        return operate

    def _transcribe(self, chance: Chance, account: str) -> None:
        self._of("entry", "change_entry", transcript=self.version())(chance, account)

    def _read(self, chance: Chance, account: str) -> None:
        self._of("entry", "mark_read")(chance, account)

    def _trash(self, chance: Chance, account: str) -> None:
        self._of("entry", "trash")(chance, account)

    def _restore(self, chance: Chance, account: str) -> None:
        self._of("entry", "restore")(chance, account)

    def _greet(self, chance: Chance, account: str) -> None:
        self.simulator.record_greeting(account, self.version())

    def _forget_greeting(self, chance: Chance, account: str) -> None:
        gone = {one.id for one in self.simulator.journal if one.kind == "deleted"}
        one = self.pick(chance, account, "greeting")
        if one and one not in gone:
            self.simulator.delete_greeting(one)

    def _add(self, chance: Chance, account: str) -> None:
        self.simulator.add_contact(account, firstName=self.version())

    def _rename(self, chance: Chance, account: str) -> None:
        self._of("contact", "update_contact", firstName=self.version())(chance, account)

    def _rename_back_in_time(self, chance: Chance, account: str) -> None:
        one = self.pick(chance, account, "contact")
        if one:
            at_ms = self.back_ms(chance, 60)
            self.simulator.update_contact(one, firstName=self.version(), at_ms=at_ms)

    def _rename_and_back(self, chance: Chance, account: str) -> None:
        one = self.pick(chance, account, "contact")
        for name in ("A", "B", "A") if one else ():
            self.simulator.update_contact(one, lastName=name)

    def _drop(self, chance: Chance, account: str) -> None:
        self._of("contact", "delete_contact")(chance, account)


class OfIntelli(Upstream):
    name = "intelli"
    streams = ("messages",)

    def _make(self, chance: Chance, accounts: int) -> None:
        self.simulator = Intelli(
            self.clock,
            limit=4 if self.scenario.small else 100,
            cut=chance.choice(("lists", "union")),
            inclusive=chance.random() < 0.5,
            order=chance.choice(("time", "inserted")),
            newest_on_empty=chance.choice(("zero", "null", "absent", "echo")),
            recpipent=chance.random() < 0.3,
            as_text=chance.random() < 0.3,
        )
        for number in range(accounts):
            account = f"765432{number}@reseller"
            secret = {"username": account, "password": self.secret(account)}
            self.simulator.add_account(account, **secret)
            if chance.random() < 0.7:
                self.simulator.receive(account)
            self.members.append(Member(account, {}, secret))

    def operations(self) -> tuple[Operation, ...]:
        return (self._receive, self._send, self._late, self._reply)

    def _receive(self, chance: Chance, account: str) -> None:
        self.simulator.receive(account, self.version())

    def _send(self, chance: Chance, account: str) -> None:
        self.simulator.send(account, self.version())

    def _late(self, chance: Chance, account: str) -> None:
        now_s = int(self.clock())
        visible_s = now_s + chance.randrange(1, 60)
        self.simulator.receive(account, self.version(), at_s=now_s, visible_at_s=visible_s)

    def _reply(self, chance: Chance, account: str) -> None:
        sent = self.simulator.send(account, self.version())
        self.simulator.reply(account, sent, self.version())


class OfRingCentral(Upstream):
    name = "ringcentral"
    streams = ("message-store", "presence")

    def _make(self, chance: Chance, accounts: int) -> None:
        self.simulator = RingCentral(
            self.clock,
            token_s=chance.choice((120, 3600)),
            light_per_minute=BUDGET if self.scenario.tight else chance.choice((40, 400, 400)),
            auth_per_minute=chance.choice((5, 50)),
            says_retry_after=chance.random() < 0.7,
            rate_prefix=chance.choice(("X-Rate-Limit", "X-RateLimit")),
            zone=chance.choice(("Z", "+0000")),
        )
        for number in range(accounts):
            account = f"100{number}"
            secret = {
                "client_id": "client",
                "client_secret": self.secret(account),
                "jwt": f"{self.secret(account)}-jwt",
            }
            self.simulator.add_account(account, **secret)
            if chance.random() < 0.7:
                self.simulator.leave_voicemail(account)
            self.members.append(Member(account, {"accountId": "133128004"}, secret))

    def unbind(self) -> None:
        self.simulator._budgets.clear()
        self.simulator.light_per_minute = UNBOUND

    def operations(self) -> tuple[Operation, ...]:
        return (
            self._voicemail, self._sms, self._change, self._change, self._read, self._delete,
            self._restore, self._purge, self._ring, self._answer, self._hold, self._hang_up,
            self._vanish, self._be,
        )  # fmt: skip

    def _voicemail(self, chance: Chance, account: str) -> None:
        self.simulator.leave_voicemail(account, subject=self.version())

    def _sms(self, chance: Chance, account: str) -> None:
        chance.choice((self.simulator.receive_sms, self.simulator.send_sms))(
            account, self.version()
        )

    def _message(self, chance: Chance, account: str) -> str:
        one = self.pick(chance, account, "message-store")
        gone = one and self.simulator._message(one).availability == "Purged"
        return "" if gone else one

    def _change(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one and self.simulator._message(one).availability == "Alive":
            self.simulator.change_message(one, subject=self.version())

    def _read(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one and self.simulator._message(one).availability == "Alive":
            self.simulator.mark_read(one)

    def _delete(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one and self.simulator._message(one).availability == "Alive":
            self.simulator.delete(one)

    def _restore(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one and self.simulator._message(one).availability == "Deleted":
            self.simulator.restore(one)

    def _purge(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one:
            self.simulator.purge(one)

    def _ring(self, chance: Chance, account: str) -> None:
        self.simulator.ring(account, f"+1415{self.version()[1:]}")

    def _call(self, chance: Chance, account: str) -> str:
        calls = self.simulator._accounts[account].calls
        on = [one for one, call in calls.items() if not (call.told or call.lost)]
        return chance.choice(on) if on else ""

    def _answer(self, chance: Chance, account: str) -> None:
        if call := self._call(chance, account):
            self.simulator.answer(call)

    def _hold(self, chance: Chance, account: str) -> None:
        if call := self._call(chance, account):
            self.simulator.hold(call)

    def _hang_up(self, chance: Chance, account: str) -> None:
        if call := self._call(chance, account):
            self.simulator.hang_up(call, chance.choice(("final", "final", "intermediate", None)))

    def _vanish(self, chance: Chance, account: str) -> None:
        if call := self._call(chance, account):
            self.simulator.vanish(call)

    def _be(self, chance: Chance, account: str) -> None:
        status = chance.choice(("TakeAllCalls", "DoNotAcceptAnyCalls"))
        self.simulator.set_presence(account, dndStatus=status, message=self.version())


class OfKirimdev(Upstream):
    name = "kirimdev"
    streams = ("conversations",)

    def _make(self, chance: Chance, accounts: int) -> None:
        self.simulator = Kirimdev(
            self.clock,
            dropped=chance.choice((70, 100)),
            micros=chance.choice((0, 456)),
            unread_touches=chance.random() < 0.5,
            ignore_updated_since=chance.random() < 0.1,
            validators=chance.random() < 0.9,
            seed=chance.randrange(1000),
        )
        key = f"kdv_live_{CANARY}-{self.name}-all"
        least = {"reads_per_minute": BUDGET} if self.scenario.tight else {}
        self.simulator.add_organisation("org", key, **least)
        for number in range(accounts):
            account = f"10654035224290{number}"
            self.simulator.add_account("org", account)
            if chance.random() < 0.7:
                self.simulator.new_conversation(account)
            self.members.append(Member(account, {}, {"api_key": key}))

    def unbind(self) -> None:
        budget = self.simulator._organisations["org"]
        budget.reads_per_minute = budget.tokens = UNBOUND

    def operations(self) -> tuple[Operation, ...]:
        always = (self._begin, self._inbound, self._assign, self._assign_back, self._status)
        if self.watches:
            return (*always, self._send, self._progress, self._progress)
        # Only a full listing shows what these did.
        return (*always, self._read, self._delete) if self.reconciles else always

    def _send(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.watched += 1
            self.watch(account, self.simulator.send(one))

    def _progress(self, chance: Chance, account: str) -> None:
        if one := self.pick(chance, account, "message-status"):
            self.simulator.set_message_status(one, chance.choice(("sent", "delivered", "read")))

    def _begin(self, chance: Chance, account: str) -> None:
        self.simulator.new_conversation(account)

    def _pick(self, chance: Chance, account: str) -> str:
        gone = {one.id for one in self.simulator.journal if one.kind == "deleted"}
        one = self.pick(chance, account, "conversations")
        return "" if one in gone else one

    def _inbound(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.simulator.inbound(one)

    def _assign(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.simulator.assign(one, self.version())

    def _assign_back(self, chance: Chance, account: str) -> None:
        one = self._pick(chance, account)
        for name in ("A", "B", "A") if one else ():
            self.simulator.assign(one, name)

    def _status(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.simulator.set_status(one, chance.choice(("open", "resolved", "pending")))

    def _read(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.simulator.mark_read(one)

    def _delete(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.simulator.delete_conversation(one)


UPSTREAMS: tuple[type[Upstream], ...] = (OfYouMail, OfIntelli, OfRingCentral, OfKirimdev)
