"""
Accounts to poll, and a provider at which something happens all the time.

What happens depends on the seed and on how many changes were made before, never on a clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pollwire.model import Connection, DeltaJob
from pollwire.providers.youmail import STREAMS
from pollwire.secrets import Sealer
from pollwire.state import State, shard_of

from local.ledger import Ledger, Made
from local.processes import Failed, Stop
from local.simulators.youmail import SAMPLE_ACCOUNT
from local.stack import Say, Simulated, Stack

CONNECTION: Final = "demo"
INTERVAL_S: Final = 5

#: Has the composite answer of the documentation to begin with.
SEED_ACCOUNT: Final = SAMPLE_ACCOUNT
#: The poll host answers 404 until something happens to it.
NEW_ACCOUNT: Final = "200000004"
ACCOUNTS: Final = (SEED_ACCOUNT, "200000001", "200000002", "200000003", NEW_ACCOUNT)

#: A baseline of all accounts takes 10 to 20 s.
BASELINE_S: Final = 180

#: Seconds between two things that happen.
STEP_S: Final = 2.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Customer:
    """
    The connection and its accounts, registered as an operator does.

    Attributes:
        connection: The connection.
    """

    def __init__(self, stack: Stack) -> None:
        self._provider = stack.simulators["youmail"]
        self._state = State(stack.client("dynamodb"), stack.outputs["StateTableName"])
        self._sealer = Sealer(stack.client("kms"), stack.outputs["KeyArn"], now_ms)
        url = self._provider.url
        self.connection = Connection(
            name=CONNECTION,
            provider="youmail",
            hosts={"poll": url, "api": url},
            interval_s=INTERVAL_S,
            slowest_s=INTERVAL_S,  # So that a quiet account is polled as often.
            requests_per_second=100.0,
            shards=2,
        )

    def register(self) -> None:
        """Make the accounts at the provider, with something in them, and let them be polled."""
        self._state.put_connection(self.connection)
        for account in ACCOUNTS:
            secret = {"username": f"user{account}", "password": f"password-{account}"}
            phone = f"4255{account[-6:]}"
            self._provider.call(
                "add_account",
                account=account,
                phone=phone,
                new_user=account == NEW_ACCOUNT,
                **secret,
            )
            if account not in (SEED_ACCOUNT, NEW_ACCOUNT):
                self._provider.call("leave_voicemail", account=account)
                self._provider.call("record_greeting", account=account, name="On holiday")
            self._state.add_account(
                self.connection,
                account,
                settings={"phone": phone},
                credential=self._sealer.seal(secret, CONNECTION, account),
            )

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

    def _unrecorded(self) -> list[str]:
        return [account for account in ACCOUNTS if not self._is_recorded(account)]

    def _is_recorded(self, account: str) -> bool:
        shard = shard_of(account, self.connection.shards)
        if account == NEW_ACCOUNT:  # Known to be empty is all there is to know.
            standing = self._state.account(CONNECTION, shard, account)
            return bool(standing and standing.marks)
        jobs = (DeltaJob(CONNECTION, shard, account, stream, (), 0) for stream in STREAMS)
        return all(self._state.stream(job).drained_ms for job in jobs)


@dataclass
class Things:
    """What an account has, as far as it is ours to change."""

    voicemails: list[str] = field(default_factory=list)
    trashed: list[str] = field(default_factory=list)
    contacts: list[str] = field(default_factory=list)
    greetings: list[tuple[int, str]] = field(default_factory=list)  # With the step it was made in.
    orders: dict[str, int] = field(default_factory=dict)


class Activity:
    """
    Makes things happen at the simulated provider, and notes them.

    Args:
        ledger: Where every change is noted.

        say: Told of every change in words.
    """

    def __init__(self, provider: Simulated, ledger: Ledger, say: Say, seed: str) -> None:
        self._provider = provider
        self._ledger = ledger
        self._say = say
        self._random = random.Random(seed)  # noqa: S311 - it has to be repeatable
        self._things = {account: Things() for account in ACCOUNTS}
        self._journaled = len(provider.journal())
        self._step = 0
        self._deck: list[Callable[[str], None]] = []
        self._later: list[tuple[int, Callable[[], str]]] = []

    def step(self) -> None:
        """Let one thing happen, and what an earlier one left for now."""
        self._step += 1
        due = [then for step, then in self._later if step <= self._step]
        self._later = [(step, then) for step, then in self._later if step > self._step]
        for then in due:
            then()
        if self._step == 1:
            return self._leave_voicemail(NEW_ACCOUNT)  # The first thing that ever happens to it.
        if not self._deck:
            self._deck = [*self._scenes()]
            self._random.shuffle(self._deck)
        self._deck.pop()(self._random.choice(ACCOUNTS))

    def make(
        self,
        call: str,
        shows: Mapping[str, Any] | None = None,
        /,
        visible_at_ms: int = 0,
        **arguments: Any,
    ) -> str:
        """
        Change something at the provider, and note what it wrote into its journal.

        Args:
            shows: See :class:`Made`.

            visible_at_ms: When it can be read; 0 for at once.
        """
        at_ms = max(now_ms(), visible_at_ms)
        if visible_at_ms:
            arguments["visible_at_ms"] = visible_at_ms
        result = self._provider.call(call, **arguments)
        journal = self._provider.journal()
        for stream, kind, identity, _, account in journal[self._journaled :]:
            # A voicemail is a call, too: two entities, and only the first one is asked for.
            fields = shows if stream != "history" else None
            self._ledger.made(Made((account, stream, identity), kind, at_ms, fields or {}))
            self._say(f"{account}: {stream} {kind} {identity} ({call.replace('_', ' ')})")
        self._journaled = len(journal)
        return str(result)

    def _scenes(self) -> tuple[Callable[[str], None], ...]:
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
        self._later.append(
            (self._step + 4, partial(self.make, "call", account=account, at_ms=at_ms))
        )

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
            if things.greetings and things.greetings[0][0] <= self._step - 15:
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
