"""
What happens at the providers of one run, and what they hold in the end.

Each model drives one of the simulators with all that makes polling hard: ties, rows that show up
late or with an older time, changes that are taken back, lists that move while they are read,
answers from a cache, validators that lie, and a clock that nobody sees but they.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pollwire.model import Connection
from pollwire.providers.youmail import FIELDS

from local.simulators import Change, Faults
from local.simulators.intelli import Intelli
from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral
from local.simulators.youmail import TRASH, YouMail
from tests.simulation.oracle import CALLS_MAX, State, held
from tests.simulation.world import chosen

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

#: In every credential: it must not be seen anywhere. Long enough to be known when it is encoded.
CANARY = "CANARY-OF-TWEET"

#: Requests a minute of an account, or of all of a key, where that is little.
BUDGET, UNBOUND = 4, 1_000_000

#: Later than anything.
NEVER_MS = 10**15

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

        likely: How much more often than others some of them are drawn.

        journal: What happened, by the simulator's own journal.

        stirred: The same, and what nothing is to be told of, though it moves a mark.

        watch: Has an eye on an id of an account.

        unreadable: Ids of rows that nobody can read, by stream and account.

        states: What each thing was, one after the other, by account, stream and id.

        faults: What its answers may be for a while, as its simulator calls it.

        crowded: Accounts that once had more calls than are listed: some were to be seen later only.

        revoked_ms: When access tokens were last made invalid before their time.
    """

    name = ""
    streams: tuple[str, ...] = ()
    likely: Mapping[str, int] = MappingProxyType({})
    faults: tuple[str, ...] = ("html", "empty", "truncated", "429", "503")

    def __init__(self, clock: Clock, chance: Chance, scenario: Scenario) -> None:
        self.clock, self.number = (lambda: clock() + scenario.skew_s), count(1)
        self._true = clock
        self.streams = self._some(chance, scenario.streams)
        self.simulator: Any = None
        self.journal: list[Told] = []
        self.stirred: list[Told] = []
        self.members: list[Member] = []
        self.watches = scenario.watches
        self.watched = 0
        self.watch: Callable[[str, str], None] = lambda account, identity: None
        self.unreadable: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.states: dict[tuple[str, str, str], list[State]] = {}
        self.revoked_ms = 0
        self.crowded: set[str] = set()
        self._seen = 0
        self.interval_s, self.reconciles = scenario.interval_s, scenario.reconciles
        self.scenario = scenario
        self._make(chance, scenario.accounts)
        self._connections = self._connect()
        self.note()
        self.journal.clear()
        self.stirred.clear()

    def _some(self, chance: Chance, most: int) -> tuple[str, ...]:
        """Draw some of the streams; one in which more can happen is drawn more often."""
        drawn = {one: chance.random() ** (1 / self.likely.get(one, 1)) for one in self.streams}
        return tuple(sorted(sorted(drawn, key=drawn.__getitem__)[-most:]))

    def _make(self, chance: Chance, accounts: int) -> None:
        raise NotImplementedError

    def operations(self) -> tuple[Operation, ...]:
        raise NotImplementedError

    def flips(self) -> tuple[Operation, ...]:
        """Name what brings back what was before, with no time that tells one from the other."""
        return self.operations()

    def revivals(self, account: str) -> tuple[Operation, ...]:
        """Name what may happen besides where something was deleted: mostly it comes back."""
        return ()

    def connections(self) -> list[Connection]:
        """Give the connections that all of its accounts are registered with."""
        return self._connections

    def _connect(self) -> list[Connection]:
        interval_s, given = self.interval_s, self.scenario
        first = Connection(
            self.name,
            self.name,
            interval_s=interval_s,
            slowest_s=max(interval_s, given.slowest_s),
            shards=given.shards,
            requests_per_second=given.rate,
        )
        more = range(2, given.connections + 1)
        return [first, *(replace(first, name=f"{self.name}-{number}") for number in more)]

    def secret(self, account: str) -> str:
        return f"{CANARY}-{self.name}-{account}-secret"

    def mutate(self, chance: Chance) -> None:
        """Let one thing happen, or some at the same instant."""
        account = chance.choice(self.members).id
        if self.scenario.hostile and chance.random() < 0.3:
            self.simulator.fail_next("", chance.choice(self.faults), chance.randrange(1, 4))
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            happens = (*self.operations(), *self.revivals(account))
            chance.choice(self.flips() if self.scenario.flips else happens)(chance, account)
        self.note()

    def recover(self) -> None:
        """Have all answers be what they should."""
        self.simulator._faults = Faults()

    def unbind(self) -> None:
        """Let everybody ask as much as they like."""

    def rest(self) -> None:
        """Note that all there is was read."""

    def _revoke(self, chance: Chance, account: str) -> None:
        """Have no access token be valid any more, however young."""
        if self.scenario.prompt or (self.scenario.is_calm and self.revoked_ms):
            return  # Who is refused waits, as soon as it is twice: what comes then comes late.
        self.simulator.expire_tokens()
        self.revoked_ms = int(self._true() * 1000)

    def note(self) -> None:
        """Read what was added to the simulator's journal."""
        now_ms = int(self._true() * 1000)
        for change in self.simulator.journal[self._seen :]:
            told = Told(change.account, change.stream, change.id, change.kind, now_ms)
            self.stirred.append(told)
            if change.id in self.unreadable[change.stream, change.account]:
                continue
            if change.kind:
                self.journal.append(told)
            self._remember(change, now_ms)
        self._seen = len(self.simulator.journal)

    def _remember(self, change: Change, now_ms: int) -> None:
        """Remember what a thing is now; what it is told to be is compared with that."""
        states = self.states.setdefault((change.account, change.stream, change.id), [])
        skew_ms = self.scenario.skew_s * 1000
        found = held(self.name, self.simulator, change, now_ms + skew_ms, len(states))
        if skew_ms:
            found = [replace(one, since_ms=one.since_ms - skew_ms) for one in found]
        if found and found[-1].missing and states:
            # It is told to be of the kind that it was.
            last = (states + found)[-2]
            found[-1] = replace(found[-1], type=last.type, direction=last.direction)
        if found and found != states[-len(found) :]:
            states += found

    def pick(self, chance: Chance, account: str, stream: str) -> str:
        """Name one of the newest things of a stream; empty if there is none."""
        made = [
            one.id
            for one in self.simulator.journal
            if (one.account, one.stream) == (account, stream)
        ]
        one = chance.choice(made[-6:]) if made else ""
        return "" if one in self.unreadable[stream, account] else one

    def knows_nothing(self, account: str) -> bool:
        """Tell whether it says of an account that there is none yet, or nothing in it."""
        return False

    def hides(self, stream: str, state: State) -> bool:
        """Tell whether only a listing from end to end shows that a thing was deleted."""
        return state.missing

    def spoil(self, account: str, stream: str, identity: str) -> None:
        """Note that a row that was just made cannot be read."""
        self.unreadable[stream, account].add(identity)

    def vary(self, *names: str) -> dict[str, str]:
        """Change one of some fields: each is the only one that differs at some time."""
        text = self.version()
        return {names[int(text[1:]) % len(names)]: text}

    def version(self) -> str:
        """Make a text that tells one state from all before it."""
        return f"v{next(self.number):05d}"

    def back_ms(self, chance: Chance, most_s: int) -> int:
        """Pick an instant that is over, within what a late row may be."""
        return int(self.clock() * 1000) - chance.randrange(most_s * 1000)


#: Objects of YouMail that nobody made, by stream; and what changes with another stream's.
OBJECTS = (
    *(("account", "account"), ("settings", "settings")),
    *(("entitlement", "account"), ("entitlement", "ecommerce")),
)
ALSO = {
    "account": ("entitlement", "account"),
    "entitlement": ("account", "account"),
    "ecommerce": ("entitlement", "ecommerce"),
}


class OfYouMail(Upstream):
    name = "youmail"
    streams = FIELDS
    faults = (*Upstream.faults, "error", "403", "304")
    likely: Mapping[str, int] = MappingProxyType(
        {"entry": 5, "contact": 5, "history": 2, "greeting": 2}
    )

    def _make(self, chance: Chance, accounts: int) -> None:
        self._purged: set[str] = set()
        self.simulator = YouMail(
            self.clock,
            lag_ms=chance.choice((0, 0, 3000)),
            show_updated=chance.random() < 0.5,
            token_s=chance.choice((90, 3600)),
            token_name=self._token_name,
        )
        for number in range(accounts):
            account = f"1000000000{number}"
            phone = f"425555010{number}"
            secret = {"username": phone, "password": self.secret(account)}
            has_some = chance.random() < 0.7
            # These have objects from the beginning.
            is_new = not has_some and not {"account", "settings", "entitlement"} & {*self.streams}
            self.simulator.add_account(account, phone=phone, **secret, new_user=is_new)
            if has_some:
                self.simulator.leave_voicemail(account)
                self.simulator.add_contact(account)
                self.simulator.order(account)
            # What opens something may stand in an object: it is nobody's to publish.
            self.simulator._accounts[account].settings["pin"] = self.secret(account)
            for stream, identity in OBJECTS:
                self._remember(Change(stream, "", identity, 0, account), int(self._true() * 1000))
            said = ",".join(name if name in self.streams else "" for name in FIELDS)
            settings = {"fields": said}
            self.members.append(Member(account, settings, secret))
        accounts = self.simulator._accounts
        self._at_zero = {name for name, one in accounts.items() if not one.stamps["contact"]}

    def _token_name(self, account: str) -> str:
        return str(self.simulator._accounts[account].password)

    def _remember(self, change: Change, now_ms: int) -> None:
        super()._remember(change, now_ms)
        if change.stream in ALSO:
            stream, identity = ALSO[change.stream]
            super()._remember(change._replace(stream=stream, id=identity), now_ms)

    def operations(self) -> tuple[Operation, ...]:
        every: dict[str, tuple[Operation, ...]] = {
            "history": (self._call, self._call_late),
            "entry": (
                self._leave, self._leave, self._leave_late, self._record_late, self._transcribe,
                self._transcribe, self._read, self._trash, self._restore, self._purge,
                self._ahead, self._leave_unreadable, self._revoke,
            ),
            "greeting": (
                self._greet, self._greet, self._forget_greeting, self._greet_once_more,
            ),
            "contact": (
                self._add, self._add, self._rename, self._rename_back_in_time,
                self._rename_and_back, self._drop, self._add_alike, self._add_unreadable,
                self._rename_and_fall,
            ),
            "entitlement": (self._entitle,),
            "account": (self._profile,),
            "settings": (self._set,),
            "ecommerce": (self._order, self._order, self._cancel),
        }  # fmt: skip
        return tuple(one for name in self.streams for one in every[name])

    def knows_nothing(self, account: str) -> bool:
        return not self.simulator._accounts[account].known

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

    def _stamp(self, account: str, *streams: str) -> None:
        """Announce streams now, whatever instant their rows have."""
        for stream in streams:
            self.simulator.set_stamp(account, stream, int(self.clock() * 1000))

    def _call(self, chance: Chance, account: str) -> None:
        self.simulator.call(account, city=self.version())

    def _call_late(self, chance: Chance, account: str) -> None:
        """List a call when it is over, under its start."""
        began_ms, now_ms = self.back_ms(chance, 3 * 3600), int(self.clock() * 1000)
        self.simulator.call(account, at_ms=began_ms, visible_at_ms=now_ms, city=self.version())
        self._stamp(account, "history")

    def _ahead(self, chance: Chance, account: str) -> None:
        """Leave a voicemail that bears the date of tomorrow."""
        now_ms = int(self.clock() * 1000)
        self.simulator.leave_voicemail(
            account, preview=self.version(), at_ms=now_ms + 86_400_000, visible_at_ms=now_ms
        )
        self._stamp(account, "entry", "history")

    def _leave_unreadable(self, chance: Chance, account: str) -> None:
        """Leave a voicemail that is said to be another account's."""
        self.spoil(account, "entry", self.simulator.leave_voicemail(account, userId=1))

    def _add_unreadable(self, chance: Chance, account: str) -> None:
        self.spoil(account, "contact", self.simulator.add_contact(account, userId=1))

    def _record_late(self, chance: Chance, account: str) -> None:
        """List a recording when it is over, under its start."""
        began_ms, now_ms = self.back_ms(chance, 1800), int(self.clock() * 1000)
        self.simulator.leave_voicemail(
            account, preview=self.version(), at_ms=began_ms, visible_at_ms=now_ms
        )
        self._stamp(account, "entry", "history")

    def pick(self, chance: Chance, account: str, stream: str) -> str:
        one = super().pick(chance, account, stream)
        return "" if one in self._purged else one

    def _transcribe(self, chance: Chance, account: str) -> None:
        fields = self.vary(
            "transcript", "preview", "transcriptionState", "notes", "callerName", "city",
            "countryState", "body", "flagged", "shared", "length", "mediaType", "destination",
            "phonebookSourceId", "impliedCallerName", "contactActionType",
        )  # fmt: skip
        self._of("entry", "change_entry", **fields)(chance, account)

    def _read(self, chance: Chance, account: str) -> None:
        rows = self.simulator._accounts[account].rows["entry"]
        unread = [one for one, of in rows.items() if (of[-1].fields or {}).get("status") == 1]
        if unread:
            self.simulator.mark_read(chance.choice(unread[-6:]))

    def _trash(self, chance: Chance, account: str) -> None:
        self._of("entry", "trash")(chance, account)

    def _restore(self, chance: Chance, account: str) -> None:
        self._of("entry", "restore")(chance, account)

    def _purge(self, chance: Chance, account: str) -> None:
        """Take a row away that others follow: the list moves while it is turned."""
        if one := self.pick(chance, account, "entry"):
            self._purged.add(one)
            self.simulator.purge(one)
            # Of what was in the trash the journal said so before, whatever it said since.
            now_ms = int(self.clock() * 1000)
            self.simulator.journal.append(Change("entry", "deleted", one, now_ms, account))

    def revivals(self, account: str) -> tuple[Operation, ...]:
        rows = self.simulator._accounts[account].rows["entry"] if "entry" in self.streams else {}
        gone = [one for one, of in rows.items() if (of[-1].fields or {}).get("folderId") == TRASH]
        return (lambda chance, account: self.simulator.restore(chance.choice(gone)),) * len(gone)

    def _greet(self, chance: Chance, account: str) -> None:
        self.simulator.record_greeting(account, self.version())

    def _forget_greeting(self, chance: Chance, account: str) -> None:
        last = {one.id: one.kind for one in self.simulator.journal if one.stream == "greeting"}
        one = self.pick(chance, account, "greeting")
        if last.get(one, "deleted") != "deleted":
            self.simulator.delete_greeting(one)

    def _greet_once_more(self, chance: Chance, account: str) -> None:
        """Use the id of a greeting that was deleted once more."""
        last = {one.id: one.kind for one in self.simulator.journal if one.stream == "greeting"}
        one = self.pick(chance, account, "greeting")
        if last.get(one) == "deleted":
            self.simulator.record_greeting(account, self.version(), id=one)

    def _entitle(self, chance: Chance, account: str) -> None:
        self.simulator.change_entitlements(account, [self.version()])
        self._stamp(account, "account")

    def _profile(self, chance: Chance, account: str) -> None:
        self.simulator.change_profile(account, firstName=self.version())
        self._stamp(account, "entitlement")

    def _set(self, chance: Chance, account: str) -> None:
        self.simulator.change_settings(account, timeZone=self.version())

    def _order(self, chance: Chance, account: str) -> None:
        self.simulator.order(account, self.version())
        self._stamp(account, "entitlement")

    def _cancel(self, chance: Chance, account: str) -> None:
        """Cancel an order, or make it anew."""
        if one := self.pick(chance, account, "ecommerce"):
            self.simulator.order(account, one.rpartition("/")[2], status=chance.choice((0, 1)))
            self._stamp(account, "entitlement")

    def _add(self, chance: Chance, account: str) -> None:
        self.simulator.add_contact(account, firstName=self.version())

    def _add_alike(self, chance: Chance, account: str) -> None:
        """Give every account a contact of one id, one content and one instant."""
        name, first = self.version(), next(self.simulator._ids)
        for member in self.members:
            self.simulator.add_contact(member.id, firstName=name, id=first)

    def _rename(self, chance: Chance, account: str) -> None:
        fields = self.vary("firstName", "phone", "email", "organization", "notes", "group")
        self._of("contact", "update_contact", **fields)(chance, account)

    def _rename_back_in_time(self, chance: Chance, account: str) -> None:
        one = self.pick(chance, account, "contact")
        if one:
            at_ms = self.back_ms(chance, 60)
            self.simulator.update_contact(one, firstName=self.version(), at_ms=at_ms)

    def _rename_and_back(self, chance: Chance, account: str) -> None:
        one = self.pick(chance, account, "contact")
        for name in ("A", "B", "A") if one else ():
            self.simulator.update_contact(one, lastName=name)

    def _rename_and_fall(self, chance: Chance, account: str) -> None:
        """Rename one while the poll host is restored, so that what it says is less than before."""
        self._rename(chance, account)
        fallen = (0, int(self.clock() * 1000) - 86_400_000 - next(self.number))
        # What it says again after a change says nothing.
        fallen_to = fallen[1] if account in self._at_zero else chance.choice(fallen)
        if not fallen_to:
            self._at_zero.add(account)
        self.simulator.set_stamp(account, "contact", fallen_to)

    def _drop(self, chance: Chance, account: str) -> None:
        self._of("contact", "delete_contact")(chance, account)


class OfIntelli(Upstream):
    name = "intelli"
    streams = ("messages",)
    faults = (*Upstream.faults, "error", "no lists")

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
        always = (self._receive, self._send, self._late, self._reply)
        # A small list may be full of these, and say nothing of where it goes on.
        odd = (self._back, self._ahead, self._unreadable)
        return always if self.scenario.small else (*always, *odd)

    def knows_nothing(self, account: str) -> bool:
        return not self.simulator._accounts[account].messages

    def _back(self, chance: Chance, account: str) -> None:
        """List a message now that was written by a clock that is slow."""
        now_s = int(self.clock())
        at_s = now_s - chance.choice((1, 2, 40, 100))
        self.simulator.receive(account, self.version(), at_s=at_s, visible_at_s=now_s)

    def _ahead(self, chance: Chance, account: str) -> None:
        now_s = int(self.clock())
        self.simulator.receive(account, self.version(), at_s=now_s + 86_400, visible_at_s=now_s)

    def _unreadable(self, chance: Chance, account: str) -> None:
        self.spoil(account, "messages", self.simulator.receive(account, documentId=" "))

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
    _flipped = False
    streams = ("message-store", "presence")
    faults = ("html", "empty", "truncated", "429", "503")

    def _make(self, chance: Chance, accounts: int) -> None:
        self._hides_until_ms = 0
        self.simulator = RingCentral(
            self.clock,
            token_s=chance.choice((120, 3600)),
            light_per_minute=BUDGET if self.scenario.tight else chance.choice((40, 400, 400)),
            auth_per_minute=chance.choice((5, 50)),
            says_retry_after=chance.random() < 0.7,
            rate_prefix=chance.choice(("X-Rate-Limit", "X-RateLimit")),
            zone=chance.choice(("Z", "+0000")),
            token_name=self._token_name,
        )
        for number in range(accounts):
            account = f"100{number}"
            owner = "all" if self.scenario.shared else account
            secret = {
                "client_id": "client",
                "client_secret": self.secret(owner),
                "jwt": f"{self.secret(owner)}-jwt",
            }
            self.simulator.add_account(account, **secret)
            if chance.random() < 0.7:
                self.simulator.leave_voicemail(account)
            self.members.append(Member(account, {"accountId": "133128004"}, secret))
            # Nobody made it: it is there from the first.
            state = Change("presence", "created", "presence", 0, account)
            self._remember(state, int(self._true() * 1000))

    def _token_name(self, account: str) -> str:
        return str(self.simulator._accounts[account].secrets[1])

    def unbind(self) -> None:
        self.simulator._budgets.clear()
        self.simulator.light_per_minute = UNBOUND

    def operations(self) -> tuple[Operation, ...]:
        # Only a full listing shows what this did.
        forgets = (self._forget,) if self.reconciles else ()
        every: dict[str, tuple[Operation, ...]] = {
            "message-store": (
                self._voicemail, self._sms, self._change, self._change, self._change_back,
                self._read, self._delete, self._restore, self._purge, self._expire,
                self._unreadable, self._revoke, *forgets,
            ),
            "presence": (
                self._ring, self._ring, self._answer, self._hold, self._hang_up, self._hang_up,
                self._vanish, self._be, self._revoke,
            ),
        }  # fmt: skip
        return tuple(one for name in self.streams for one in every[name])

    def _expire(self, chance: Chance, account: str) -> None:
        """Have no sync token be valid any more."""
        self.simulator.expire_syncs(chance.choice(("MSG-333", "CMN-101")))
        self._hides_until_ms = NEVER_MS
        now_ms = int(self._true() * 1000)
        self.stirred += [Told(one.id, "message-store", "", "", now_ms) for one in self.members]

    def hides(self, stream: str, state: State) -> bool:
        """Without a token that is valid it is the messages that are left which are listed."""
        return state.missing or (
            stream == "message-store" and state.since_ms < self._hides_until_ms
        )

    def rest(self) -> None:
        # All that there is was listed since: what is deleted from now on is told by name.
        self._hides_until_ms = min(self._hides_until_ms, int(self._true() * 1000))

    def _unreadable(self, chance: Chance, account: str) -> None:
        """Receive a message that is said to be another extension's."""
        self.spoil(account, "message-store", self.simulator.receive_sms(account, extensionId=1))

    def _forget(self, chance: Chance, account: str) -> None:
        if one := self._message(chance, account):
            self.simulator.forget(one)

    def _change_back(self, chance: Chance, account: str) -> None:
        """Change a message by a clock that is slow, within what the server repeats."""
        one = self._message(chance, account)
        if one and self.simulator._message(one).availability == "Alive":
            at_ms = int(self.clock() * 1000) - chance.choice((1000, 2000, 4000))
            self.simulator.change_message(one, subject=self.version(), at_ms=at_ms)

    def _voicemail(self, chance: Chance, account: str) -> None:
        number = self.version()
        # No float can hold such an id.
        to = [{"phoneNumber": "+16505819987", "extensionId": 9007199254740993 + int(number[1:])}]
        self.simulator.leave_voicemail(account, subject=number, to=to)

    def _sms(self, chance: Chance, account: str) -> None:
        chance.choice((self.simulator.receive_sms, self.simulator.send_sms))(
            account, self.version()
        )

    def _message(self, chance: Chance, account: str) -> str:
        one = self.pick(chance, account, "message-store")
        held = self.simulator._accounts[account].messages.get(one)
        return one if held and held.availability != "Purged" else ""

    def _change(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one and self.simulator._message(one).availability == "Alive":
            fields = self.vary(
                "subject", "messageStatus", "vmTranscriptionStatus", "priority", "faxResolution",
                "smsDeliveryTime",
            )  # fmt: skip
            self.simulator.change_message(one, **fields)

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

    def revivals(self, account: str) -> tuple[Operation, ...]:
        kept = self.simulator._accounts[account].messages
        gone = [one for one, message in kept.items() if message.availability == "Deleted"]
        return (lambda chance, account: self.simulator.restore(chance.choice(gone)),) * len(gone)

    def _purge(self, chance: Chance, account: str) -> None:
        one = self._message(chance, account)
        if one:
            self.simulator.purge(one)

    def _ring(self, chance: Chance, account: str) -> None:
        """Ring; now and then more lines than are listed at once."""
        number = self.version()[1:]
        for line in range(1 if int(number) % 5 else CALLS_MAX + 1):
            self.simulator.ring(account, f"+1415{number}{line}")
        if len(self.simulator._accounts[account].calls) > CALLS_MAX:
            self.crowded.add(account)

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

    def flips(self) -> tuple[Operation, ...]:
        return (self._flip,)

    def _flip(self, chance: Chance, account: str) -> None:
        self._flipped = not self._flipped
        self.simulator.set_presence(account, message="back soon" if self._flipped else "")


class OfKirimdev(Upstream):
    name = "kirimdev"
    streams = ("conversations",)
    faults = (*Upstream.faults, "304", "404", "invalid_cursor")

    def _make(self, chance: Chance, accounts: int) -> None:
        self.simulator = Kirimdev(
            self.clock,
            dropped=chance.choice((70, 100)),
            micros=chance.choice((0, 456)),
            unread_touches=chance.random() < 0.5,
            # Then a change may be none of the few that a small check looks at.
            ignore_updated_since=chance.random() < 0.1 and not self.scenario.small,
            validators=chance.random() < 0.9,
            seed=chance.randrange(1000),
            on_page=self._turn if self.scenario.moving else None,
            out_of_order=chosen("out of order", self.scenario.seed, 3),
        )
        self._turning = random.Random(chance.random())
        self._turned: set[str] = set()
        # Any key of the organisation reads all of its accounts: whose it is only we know.
        least = {"reads_per_minute": BUDGET} if self.scenario.tight else {}
        self.simulator.add_organisation("org", f"kdv_live_{self.secret('all')}", **least)
        for number in range(accounts):
            account = f"10654035224290{number}"
            key = f"kdv_live_{self.secret('all' if self.scenario.shared else account)}"
            self.simulator.add_key("org", key)
            self.simulator.add_account("org", account)
            if chance.random() < 0.7:
                for _ in range(5 if self.scenario.small else 1):
                    self.simulator.new_conversation(account)
            self.members.append(Member(account, {}, {"api_key": key}))

    def unbind(self) -> None:
        budget = self.simulator._organisations["org"]
        budget.reads_per_minute = budget.tokens = UNBOUND

    def operations(self) -> tuple[Operation, ...]:
        always: tuple[Operation, ...] = (
            self._begin, self._begin, self._inbound, self._assign, self._assign_back,
            self._assign_late, self._status, self._unreadable,
        )  # fmt: skip
        # A small list may be full of what is ahead of its time, and what follows it waits.
        if not (self.scenario.small or self.scenario.is_calm):
            always += (self._assign_ahead,)
        if self.scenario.small:
            always += (self._end_cursors,)
        if self.watches:
            return (*always, self._send, self._progress, self._progress)
        # Only a full listing shows what these did.
        return (*always, self._read, self._delete) if self.reconciles else always

    def recover(self) -> None:
        super().recover()
        self.simulator.on_page = None

    def _turn(self, stream: str, number: int) -> None:
        """Bring what comes last to the front now and then, while the list is turned."""
        account = self.members[0].id
        if not self.scenario.small:
            if self._turning.random() < 0.1:
                self._assign_late(self._turning, account)
                self.note()
            return
        held = self.simulator._accounts[account].conversations
        readable = [one for one in held if one not in self.unreadable["conversations", account]]
        if stream == "conversations" and len(readable) > 2 and self._turning.random() < 0.5:
            if readable[0] in self._turned:
                return  # What two listings miss is gone, as far as anybody can tell.
            self._turned.add(readable[0])
            self.simulator.inbound(readable[0])
            self.note()

    def _send(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            self.watched += 1
            self.watch(account, self.simulator.send(one))

    def _progress(self, chance: Chance, account: str) -> None:
        if one := self.pick(chance, account, "message-status"):
            self.simulator.set_message_status(one, chance.choice(("sent", "delivered", "read")))

    def _unreadable(self, chance: Chance, account: str) -> None:
        """Begin a conversation that is said to be another account's."""
        one = self.simulator.new_conversation(account, phone_number_id="1")
        self.spoil(account, "conversations", one)

    def _assign_late(self, chance: Chance, account: str) -> None:
        """Assign by a clock that is slow; beyond the overlap only a full listing shows it."""
        if one := self._pick(chance, account):
            back_s = chance.choice((1, 2, 5, 40) if self.reconciles else (1, 2, 5))
            at_ms = int(self.clock() * 1000) - back_s * 1000
            self.simulator.assign(one, self.version(), at_ms=at_ms)

    def _assign_ahead(self, chance: Chance, account: str) -> None:
        if one := self._pick(chance, account):
            at_ms = int(self.clock() * 1000) + 86_400_000
            self.simulator.assign(one, self.version(), at_ms=at_ms)

    def _end_cursors(self, chance: Chance, account: str) -> None:
        self.simulator.end_cursors()

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
            name = self.version()
            if int(name[1:]) % 3:
                self.simulator.assign(one, name)
            else:
                self.simulator.change_contact(one, name=name)

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
