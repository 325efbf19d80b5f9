"""
Accounts to poll, and providers at which something happens all the time.

What happens depends on the seed and on how many changes were made before, never on a clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Final

from pollwire.items import Listing
from pollwire.model import Connection, DeltaJob
from pollwire.providers import registered
from pollwire.registry import Registry
from pollwire.secrets import Sealer
from pollwire.state import shard_of

from local.board import Accounts
from local.ledger import Ledger, Made
from local.processes import Failed, Stop
from local.simulators import intelli, kirimdev, youmail
from local.stack import Say, Simulated, Stack

#: YouMail's; the others have their provider's name behind it.
CONNECTION: Final = "demo"
INTERVAL_S: Final = 5

#: Has the composite answer of the documentation to begin with.
SEED_ACCOUNT: Final = youmail.SAMPLE_ACCOUNT
#: The poll host answers 404 until something happens to it.
NEW_ACCOUNT: Final = "200000004"
#: By provider; a provider that is missing is not polled.
ACCOUNTS: Final[Mapping[str, tuple[str, ...]]] = {
    "youmail": (SEED_ACCOUNT, "200000001", "200000002", "200000003", NEW_ACCOUNT),
    "intelli": (intelli.SAMPLE_ACCOUNT, "1234322@reseller"),
    "ringcentral": ("133165004", "133165005"),
    "kirimdev": (kirimdev.SAMPLE_ACCOUNT, "106540352242923"),
}

#: RingCentral's account, which the extensions belong to.
OWNER: Final = "133128004"
#: More than a check and its deltas need every 5 s.
LIGHT_PER_MINUTE: Final = 600

#: A baseline of all accounts takes 10 to 30 s.
BASELINE_S: Final = 180

#: Seconds between two things that happen.
STEP_S: Final = 2.0

#: Steps after which something new is surely known: what nobody ever saw is gone without a word.
KNOWN_STEPS: Final = 15

#: A message that was sent is watched for so long.
WATCH_MS: Final = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Customer:
    """
    The connections and their accounts, registered as an operator does.

    Attributes:
        connections: By provider.
    """

    def __init__(self, stack: Stack) -> None:
        self._simulators = stack.simulators
        self._registry = Registry(stack.client("dynamodb"), stack.outputs["StateTableName"])
        self._sealer = Sealer(stack.client("kms"), stack.outputs["KeyArn"], now_ms)
        self.connections = {name: self._connection(name) for name in ACCOUNTS}

    def register(self) -> None:
        """Make the accounts at the providers, with something in them, and let them be polled."""
        for provider, account in _all_accounts():
            connection = self.connections[provider]
            if account == ACCOUNTS[provider][0]:
                self._registry.put_connection(connection)
            settings, secret = MAKERS[provider](self._simulators[provider], account)
            sealed = self._sealer.seal(secret, connection.name, account) if secret else None
            self._registry.add_account(connection, account, settings=settings, credential=sealed)

    def watch(self, provider: str, account: str, identity: str) -> None:
        """Have an eye on what is watched by its id only."""
        ends_ms = now_ms() + WATCH_MS
        self._registry.watch(self.connections[provider], account, identity, ends_ms)

    def accounts(self) -> dict[str, Accounts]:
        """Count all accounts by provider, whoever registered them."""
        counts: dict[str, Accounts] = {}
        connections, _ = self._registry.connections()
        for one in connections:
            paused = one.paused_until_ms > now_ms()
            standing = counts.setdefault(one.provider, Accounts())
            counts[one.provider] = sum(
                (_count(listing, paused) for listing in self._registry.accounts(one)), standing
            )
        return counts

    def await_baseline(self, stop: Stop) -> None:
        """
        Wait until what there was before has been recorded in every stream.

        Raises:
            Failed: It takes far too long.
        """
        deadline_s = time.monotonic() + BASELINE_S
        while waiting := self._unrecorded():
            if time.monotonic() > deadline_s:
                raise Failed(f"after {BASELINE_S} s there is no baseline of {', '.join(waiting)}")
            stop.pause(0.5)

    def _connection(self, provider: str) -> Connection:
        plugin, url = registered()[provider], self._simulators[provider].url
        interval_s = max(INTERVAL_S, plugin.fastest_s)
        connection = Connection(
            name=CONNECTION if provider == "youmail" else f"{CONNECTION}-{provider}",
            provider=provider,
            hosts=dict.fromkeys(plugin.hosts, url),
            interval_s=interval_s,
            slowest_s=interval_s,  # So that a quiet account is polled as often.
            requests_per_second=100.0,
        )
        if provider != "kirimdev":
            return connection
        # An organisation's key opens all of its accounts.
        sealed = self._sealer.seal({"api_key": kirimdev.SAMPLE_KEY}, connection.name, "")
        return replace(connection, credential=sealed)

    def _unrecorded(self) -> list[str]:
        return [account for one, account in _all_accounts() if not self._is_recorded(one, account)]

    def _is_recorded(self, provider: str, account: str) -> bool:
        connection = self.connections[provider]
        shard = shard_of(account, connection.shards)
        if account == NEW_ACCOUNT:  # Known to be empty is all there is to know.
            standing = self._registry.account(connection.name, shard, account)
            return bool(standing and standing.marks)
        jobs = (
            DeltaJob(connection.name, shard, account, name, (), 0)
            for name, stream in registered()[provider].streams.items()
            if stream.baseline
        )
        return all(self._registry.stream(job).drained_ms for job in jobs)


def _count(one: Listing, paused: bool) -> Accounts:
    standing = one.standing
    if standing is None:  # It cannot be read, and so not be polled.
        return Accounts(1, int(paused), 1)
    return Accounts(1, int(paused or standing.paused), int(standing.failures > 0))


def _all_accounts() -> Iterator[tuple[str, str]]:
    """Name all accounts, each behind its provider."""
    return ((provider, account) for provider, all_ in ACCOUNTS.items() for account in all_)


#: Settings and credential of an account.
_Registered = tuple[Mapping[str, str], Mapping[str, str]]


def _make_youmail(provider: Simulated, account: str) -> _Registered:
    secret = {"username": f"user{account}", "password": f"password-{account}"}
    phone, is_new = f"4255{account[-6:]}", account == NEW_ACCOUNT
    provider.call("add_account", account=account, phone=phone, new_user=is_new, **secret)
    if account not in (SEED_ACCOUNT, NEW_ACCOUNT):
        provider.call("leave_voicemail", account=account)
        provider.call("record_greeting", account=account, name="On holiday")
    return {"phone": phone}, secret


def _make_intelli(provider: Simulated, account: str) -> _Registered:
    if account == intelli.SAMPLE_ACCOUNT:  # It is there, and so are its messages.
        return {}, {"username": account, "password": intelli.SAMPLE_PASSWORD}
    secret = {"username": account, "password": f"password-{account}"}
    provider.call("add_account", account=account, **secret)
    provider.call("receive", account=account, text="From before")
    return {}, secret


def _make_ringcentral(provider: Simulated, account: str) -> _Registered:
    secret = {"client_id": "client", "client_secret": "client-secret", "jwt": f"jwt-{account}"}
    provider.call("configure", light_per_minute=LIGHT_PER_MINUTE)
    provider.call("add_account", account=account, owner=OWNER, **secret)
    provider.call("receive_sms", account=account, text="From before")
    provider.call("leave_voicemail", account=account)
    return {"accountId": OWNER}, secret


def _make_kirimdev(provider: Simulated, account: str) -> _Registered:
    if account != kirimdev.SAMPLE_ACCOUNT:  # That one is there, with the organisation.
        provider.call("add_account", organisation="sample", account=account)
        provider.call("new_conversation", account=account)
    return {}, {}


#: Each makes an account at its provider.
MAKERS: Final[Mapping[str, Callable[[Simulated, str], _Registered]]] = {
    "youmail": _make_youmail,
    "intelli": _make_intelli,
    "ringcentral": _make_ringcentral,
    "kirimdev": _make_kirimdev,
}

#: What may happen to an account.
Scene = Callable[[str], object]


class Activity:
    """
    Makes things happen at the simulated providers, and notes them.

    Args:
        ledger: Where every change is noted.

        say: Told of every change in words.

        watch: Told of what is watched by its id only: provider, account and id.

    Attributes:
        chance: What is drawn from.

        number: Of the step, from 1 on.
    """

    def __init__(
        self,
        simulators: Mapping[str, Simulated],
        ledger: Ledger,
        say: Say,
        seed: str,
        watch: Callable[[str, str, str], None],
    ) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        self.number = 0
        self.watch = watch
        self._simulators = simulators
        self._ledger = ledger
        self._say = say
        self._journaled = {name: len(simulators[name].journal()) for name in ACCOUNTS}
        self._deck: list[tuple[Scene, str]] = []
        self._later: list[tuple[int, Callable[[], object]]] = []
        self._scenes = [kind(self) for kind in (YouMail, Intelli, RingCentral, Kirimdev)]

    def step(self) -> None:
        """Let one thing happen, and what an earlier one left for now."""
        self.number += 1
        due = [then for step, then in self._later if step <= self.number]
        self._later = [(step, then) for step, then in self._later if step > self.number]
        for then in due:
            then()
        if self.number == 1:  # The first thing that ever happens to it.
            self.make("youmail", "leave_voicemail", account=NEW_ACCOUNT, preview="Message 1")
            return
        self._deck = self._deck or self._shuffled()
        scene, provider = self._deck.pop()
        scene(self.chance.choice(ACCOUNTS[provider]))

    def later(self, steps: int, then: Callable[[], object]) -> None:
        """Leave something for a later step."""
        self._later.append((self.number + steps, then))

    def known(self, provider: str, stream: str) -> list[tuple[str, str]]:
        """Name account and id of what was made in a stream until now."""
        journal = self._simulators[provider].journal()
        return [(account, identity) for one, _, identity, _, account in journal if one == stream]

    def make(
        self,
        provider: str,
        call: str,
        shows: Mapping[str, Any] | None = None,
        /,
        visible_at_ms: int = 0,
        **arguments: Any,
    ) -> str:
        """
        Change something at a provider, and note what it wrote into its journal.

        Args:
            shows: See :class:`Made`.

            visible_at_ms: When it can be read; 0 for at once.
        """
        at_ms = max(now_ms(), visible_at_ms)
        if visible_at_ms:
            arguments["visible_at_ms"] = visible_at_ms
        simulator = self._simulators[provider]
        result = simulator.call(call, **arguments)
        journal = simulator.journal()
        for stream, kind, identity, _, account in journal[self._journaled[provider] :]:
            # A voicemail is a call, too: two entities, and only the first one is asked for.
            fields = shows if stream != "history" else None
            self._ledger.made(
                Made((account, stream, identity), kind, at_ms, fields or {}, provider)
            )
            self._say(f"{account}: {stream} {kind} {identity} ({call.replace('_', ' ')})")
        self._journaled[provider] = len(journal)
        return str(result)

    def _shuffled(self) -> list[tuple[Scene, str]]:
        """Make a deck of all scenes over which those of each provider are spread evenly."""
        deck = []
        for one in self._scenes:
            scenes = list(one.scenes())
            self.chance.shuffle(scenes)
            for number, scene in enumerate(scenes):
                place = (number + self.chance.random()) / len(scenes)
                deck.append((place, scene, one.provider))
        deck.sort(key=lambda card: card[0])
        return [(scene, provider) for _, scene, provider in deck]


class Scenes:
    """What can happen at one provider."""

    provider: ClassVar[str]

    def __init__(self, stage: Activity) -> None:
        self._stage = stage
        self._random = stage.chance
        self.make = partial(stage.make, self.provider)

    def scenes(self) -> tuple[Scene, ...]:
        """Name all of it; each is drawn once before any is drawn again."""
        raise NotImplementedError

    @property
    def _step(self) -> int:
        return self._stage.number


@dataclass
class Things:
    """What an account of YouMail has, as far as it is ours to change."""

    voicemails: list[str] = field(default_factory=list)
    trashed: list[str] = field(default_factory=list)
    contacts: list[str] = field(default_factory=list)
    greetings: list[tuple[int, str]] = field(default_factory=list)  # With the step it was made in.
    orders: dict[str, int] = field(default_factory=dict)


class YouMail(Scenes):
    provider = "youmail"

    def __init__(self, stage: Activity) -> None:
        super().__init__(stage)
        self._things = {account: Things() for account in ACCOUNTS[self.provider]}

    def scenes(self) -> tuple[Scene, ...]:
        return (
            self._leave_voicemail,
            self._leave_late_voicemail,
            self._same_millisecond,
            self._call,
            self._read,
            self._transcribe,
            self._trash,
            self._restore,
            self._add_contact,
            self._change_contact,
            self._delete_contact,
            self._record_greeting,
            self._delete_greeting,
            self._order,
            self._change_settings,
            self._change_profile,
            self._change_entitlements,
        )

    def _leave_voicemail(self, account: str) -> None:
        row = self.make("leave_voicemail", account=account, preview=f"Message {self._step}")
        self._things[account].voicemails.append(row)

    def _leave_late_voicemail(self, account: str) -> None:
        """The poll host announces it before the lookup shows it."""
        late_ms = now_ms() + self._random.randrange(3_000, 12_000)
        row = self.make("leave_voicemail", visible_at_ms=late_ms, account=account)
        self._things[account].voicemails.append(row)

    def _same_millisecond(self, account: str) -> None:
        """Two in one millisecond, and a third that carries it, too, when they have been seen."""
        at_ms = now_ms()
        self.make("call", account=account, at_ms=at_ms)
        self.make("call", account=account, at_ms=at_ms)
        self._stage.later(4, partial(self.make, "call", account=account, at_ms=at_ms))

    def _call(self, account: str) -> None:
        self.make("call", account=account)

    def _read(self, account: str) -> None:
        row = self._voicemail(account)
        self.make("mark_read", {"readStatus": "Read"}, row=row)

    def _transcribe(self, account: str) -> None:
        shows: dict[str, Any] = {"transcript": f"As spoken at step {self._step}"}
        self.make("change_entry", shows, row=self._voicemail(account), **shows)

    def _trash(self, account: str) -> None:
        row = self._voicemail(account)
        self._things[account].voicemails.remove(row)
        self._things[account].trashed.append(row)
        self.make("trash", row=row)

    def _restore(self, account: str) -> None:
        things = self._things[account]
        if not things.trashed:
            return self._trash(account)
        row = things.trashed.pop()
        things.voicemails.append(row)
        self.make("restore", {"folderId": 0}, row=row)

    def _add_contact(self, account: str) -> None:
        shows: dict[str, Any] = {"firstName": f"Bob {self._step}"}
        row = self.make("add_contact", shows, account=account, **shows)
        self._things[account].contacts.append(row)

    def _change_contact(self, account: str) -> None:
        shows: dict[str, Any] = {"firstName": f"Bobby {self._step}"}
        self.make("update_contact", shows, row=self._contact(account), **shows)

    def _delete_contact(self, account: str) -> None:
        row = self._contact(account)
        self._things[account].contacts.remove(row)
        self.make("delete_contact", row=row)

    def _record_greeting(self, account: str) -> None:
        row = self.make("record_greeting", account=account, name=f"Greeting {self._step}")
        self._things[account].greetings.append((self._step, row))

    def _delete_greeting(self, account: str) -> None:
        """One that has been there for long enough to be known: what nobody ever saw is no loss."""
        for things in self._things.values():
            if things.greetings and things.greetings[0][0] <= self._step - KNOWN_STEPS:
                self.make("delete_greeting", row=things.greetings.pop(0)[1])
                return
        self._record_greeting(account)

    def _order(self, account: str) -> None:
        orders = self._things[account].orders
        product = f"Plan{self._random.randrange(3)}"
        orders[product] = 1 - orders.get(product, 0)
        shows: dict[str, Any] = {"status": orders[product]}
        self.make("order", shows, account=account, product=product, **shows)

    def _change_settings(self, account: str) -> None:
        shows: dict[str, Any] = {"greetingMode": f"mode-{self._step}"}
        self.make("change_settings", shows, account=account, **shows)

    def _change_profile(self, account: str) -> None:
        shows: dict[str, Any] = {"firstName": f"Ann {self._step}"}
        self.make("change_profile", shows, account=account, **shows)

    def _change_entitlements(self, account: str) -> None:
        names = [f"FEATURE_{self._step}"]
        self.make("change_entitlements", {"entitlements": names}, account=account, names=names)

    def _voicemail(self, account: str) -> str:
        if not self._things[account].voicemails:
            self._leave_voicemail(account)
        return self._random.choice(self._things[account].voicemails)

    def _contact(self, account: str) -> str:
        if not self._things[account].contacts:
            self._add_contact(account)
        return self._random.choice(self._things[account].contacts)


class Intelli(Scenes):
    provider = "intelli"

    def __init__(self, stage: Activity) -> None:
        super().__init__(stage)
        self._sent: dict[str, list[str]] = {account: [] for account in ACCOUNTS[self.provider]}

    def scenes(self) -> tuple[Scene, ...]:
        return (self._receive, self._receive, self._send, self._reply, self._reply)

    def _receive(self, account: str) -> None:
        text = f"Text {self._step}"
        self.make("receive", {"subject": text}, account=account, text=text)

    def _send(self, account: str) -> None:
        text = f"Question {self._step}"
        row = self.make("send", {"subject": text}, account=account, text=text)
        self._sent[account].append(row)

    def _reply(self, account: str) -> None:
        if not self._sent[account]:
            self._send(account)
        origin, text = self._random.choice(self._sent[account]), f"Answer {self._step}"
        shows = {"subject": text, "originDocumentId": origin}
        self.make("reply", shows, account=account, origin=origin, text=text)


class RingCentral(Scenes):
    provider = "ringcentral"

    def __init__(self, stage: Activity) -> None:
        super().__init__(stage)
        # With the step it was made in.
        self._messages: dict[str, list[tuple[int, str]]] = {
            account: [] for account in ACCOUNTS[self.provider]
        }
        self._accepts = dict.fromkeys(ACCOUNTS[self.provider], True)
        for account, row in stage.known(self.provider, "message-store"):
            self._messages[account].append((-KNOWN_STEPS, row))

    def scenes(self) -> tuple[Scene, ...]:
        return (
            self._miss_call,
            self._answer_call,
            self._receive_sms,
            self._send_sms,
            self._receive_fax,
            self._mark_read,
            self._delete,
            self._set_presence,
        )

    def _miss_call(self, account: str) -> None:
        """It rings, nobody answers, and the caller leaves a voicemail."""
        call = self.make("ring", {"telephonyStatus": "Ringing"}, account=account)
        self._stage.later(3, partial(self.make, "hang_up", call=call))
        self._stage.later(4, partial(self._leave_voicemail, account))

    def _leave_voicemail(self, account: str) -> None:
        row = self._add("leave_voicemail", account)
        shows = {"vmTranscriptionStatus": "Completed"}
        self._stage.later(4, partial(self.make, "change_message", shows, message=row, **shows))

    def _answer_call(self, account: str) -> None:
        """A call that is put on hold for a while."""
        call = self.make("ring", {"telephonyStatus": "Ringing"}, account=account)
        connected, held = {"telephonyStatus": "CallConnected"}, {"telephonyStatus": "OnHold"}
        self._stage.later(3, partial(self.make, "answer", connected, call=call))
        self._stage.later(7, partial(self.make, "hold", held, call=call))
        self._stage.later(11, partial(self.make, "answer", connected, call=call))
        self._stage.later(14, partial(self.make, "hang_up", call=call))

    def _receive_sms(self, account: str) -> None:
        self._add("receive_sms", account, text=f"Text {self._step}")

    def _send_sms(self, account: str) -> None:
        row, shows = self._add("send_sms", account), {"messageStatus": "Delivered"}
        self._stage.later(4, partial(self.make, "change_message", shows, message=row, **shows))

    def _receive_fax(self, account: str) -> None:
        self._add("receive_fax", account)

    def _mark_read(self, account: str) -> None:
        if not self._messages[account]:
            self._receive_sms(account)
        _, row = self._random.choice(self._messages[account])
        self.make("mark_read", {"readStatus": "Read"}, message=row)

    def _delete(self, account: str) -> None:
        """One that is known: of a deleted one there is no more than its id."""
        messages = self._messages[account]
        if messages and messages[0][0] <= self._step - KNOWN_STEPS:
            self.make("delete", message=messages.pop(0)[1])
        else:
            self._receive_sms(account)

    def _set_presence(self, account: str) -> None:
        self._accepts[account] = not self._accepts[account]
        status = "TakeAllCalls" if self._accepts[account] else "DoNotAcceptAnyCalls"
        self.make("set_presence", {"dndStatus": status}, account=account, dndStatus=status)

    def _add(self, call: str, account: str, **arguments: Any) -> str:
        row = self.make(call, account=account, **arguments)
        self._messages[account].append((self._step, row))
        return row


class Kirimdev(Scenes):
    """A conversation that is read is found within an hour, or sooner if it is answered as well."""

    provider = "kirimdev"

    def __init__(self, stage: Activity) -> None:
        super().__init__(stage)
        # How many messages of it are unread, by conversation.
        self._unread: dict[str, dict[str, int]] = {
            account: {} for account in ACCOUNTS[self.provider]
        }

    def scenes(self) -> tuple[Scene, ...]:
        return (
            self._begin,
            self._receive,
            self._assign,
            self._set_status,
            self._answer,
            self._send,
        )

    def _begin(self, account: str) -> None:
        row = self.make("new_conversation", account=account)
        self._unread[account][row] = 1

    def _receive(self, account: str) -> None:
        row = self._conversation(account)
        self._unread[account][row] += 1
        self.make("inbound", {"unread_count": self._unread[account][row]}, conversation=row)

    def _assign(self, account: str) -> None:
        name = f"Ann{self._step}"
        shows = {"assignee": {"id": f"usr_{name}", "name": name, "email": None}}
        self.make("assign", shows, conversation=self._conversation(account), name=name)

    def _set_status(self, account: str) -> None:
        shows: dict[str, Any] = {"status": self._random.choice(("open", "resolved", "pending"))}
        self.make("set_status", shows, conversation=self._conversation(account), **shows)

    def _answer(self, account: str) -> None:
        row = self._conversation(account)
        self._unread[account][row] = 0
        self.make("mark_read", {"unread_count": 0}, conversation=row)
        self._send_in(account, row)

    def _send(self, account: str) -> None:
        self._send_in(account, self._conversation(account))

    def _send_in(self, account: str, conversation: str) -> None:
        row = self.make("send", conversation=conversation)
        self._stage.watch(self.provider, account, row)
        last = self._random.choice(("read", "failed"))
        for steps, status in ((6, "sent"), (12, "delivered"), (18, last)):
            change = partial(self.make, "set_message_status", {"status": status})
            error = {"error": "131026"} if status == "failed" else {}
            self._stage.later(steps, partial(change, message=row, status=status, **error))

    def _conversation(self, account: str) -> str:
        if not self._unread[account]:
            self._begin(account)
        return self._random.choice(list(self._unread[account]))
