"""
What the stages work with.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pollwire import due
from pollwire.errors import (
    Conflict,
    Misconfigured,
    PollwireError,
    RateLimited,
    Retryable,
    describe,
)
from pollwire.http import Hosts, Http
from pollwire.items import Standing
from pollwire.model import Account, CheckJob, Connection, DeltaJob, Turn
from pollwire.providers import Provider
from pollwire.queues import Queues, Topic
from pollwire.secrets import Sealed, Sealer
from pollwire.state import State
from pollwire.tokens import Grant, Token

#: Tokens in memory: a few shards of accounts.
TOKENS_MAX = 5_000

NONE: Final[frozenset[str]] = frozenset()

ANY_TURN: Final = Turn()

#: Two requests of deltas that are farther apart than this are made by two invocations.
APART_MS_MAX = 20_000


class Counts(Counter[str]):
    """
    What a stage did, by name: the numbers of its log line and its metrics.

    Attributes:
        provider: Of the connection; empty if that was not found out.

        lags_ms: From each change to its publication, see :attr:`Event.at_ms`.

        publish_ms: From each change's first sighting to its publication.

        first_sequence: Of the events that were published; 0 if there were none.

        last_sequence: The same of the last one.

        rest: Names the job that goes on where this one stopped; empty if none does.
    """

    provider: str = ""
    lags_ms: tuple[int, ...] = ()
    publish_ms: tuple[int, ...] = ()
    first_sequence: int = 0
    last_sequence: int = 0
    rest: str = ""


@dataclass(slots=True)
class Notified:
    """
    The connections that providers may notify of changes, as they were when they were last read.

    Attributes:
        read_ms: When that was.

        secrets: What verifies their notifications, as far as it was needed; empty if it does not
            open.
    """

    read_ms: int = 0
    connections: Mapping[str, Connection] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class World:
    """
    What the stages work with.

    Attributes:
        clock: Milliseconds since the epoch.

        jitter: A random number from 0 to 1.

        sleep: Waits for so many seconds.

        tokens: By connection, owner and credential, as long as the container lives.

        notified: Whom the push function listens for.
    """

    state: State
    queues: Queues
    topic: Topic
    sealer: Sealer
    http: Http
    hosts: Hosts
    providers: Mapping[str, Provider]
    clock: Callable[[], int]
    jitter: Callable[[], float]
    sleep: Callable[[float], None]
    tokens: dict[tuple[str, str, bytes], Token] = field(default_factory=dict)
    notified: Notified = field(default_factory=Notified)

    def tally(self) -> dict[str, int]:
        """Count what is paid for so far: requests to providers, calls of KMS."""
        return {**self.http.tally, "kms": self.sealer.calls}

    def spent(self, before: Mapping[str, int]) -> dict[str, int]:
        """Count what is paid for since a tally was made."""
        now = self.tally().items()
        return {name: more for name, number in now if (more := number - before.get(name, 0))}

    def provider(self, connection: Connection) -> Provider:
        """
        Look up a connection's provider.

        Raises:
            Misconfigured: There is none of that name.
        """
        provider = self.providers.get(connection.provider)
        if provider is None:
            known = ", ".join(sorted(self.providers))
            raise Misconfigured(f"connection {connection.name}: provider is none of {known}")
        return provider

    def paced(self, connection: Connection) -> Connection:
        """Slow a connection down to what its provider can tell anything new in."""
        provider = self.providers.get(connection.provider)
        fastest_s = provider.fastest_s if provider else 1
        if fastest_s <= connection.interval_s <= connection.slowest_s:
            return connection
        interval_s = max(connection.interval_s, fastest_s)
        return replace(
            connection, interval_s=interval_s, slowest_s=max(connection.slowest_s, interval_s)
        )

    def watch_s(self, connection: Connection) -> int:
        """Say how many seconds apart watched ids are looked at; 0 if there are none to watch."""
        provider = self.providers.get(connection.provider)
        paces = [one.watch_s for one in provider.streams.values()] if provider else []
        return min((pace for pace in paces if pace), default=0)

    def shares_rate(self, connection: Connection) -> bool:
        """Tell whether its accounts share one rate budget: those of one credential do."""
        return self.providers[connection.provider].shares_rate or bool(connection.credential)

    def hosts_of(self, connection: Connection, provider: Provider) -> Mapping[str, str]:
        """
        Name the base URL of each role.

        Raises:
            Misconfigured: One is not allowed.
        """
        return {
            role: self.hosts.require(connection.hosts.get(role, own))
            for role, own in provider.hosts.items()
        }

    def account(
        self,
        connection: Connection,
        provider: Provider,
        standing: Standing,
        *,
        opened: bool,
        turn: Turn = ANY_TURN,
        hosts: Mapping[str, str] | None = None,
    ) -> Account:
        """
        Make an account as its provider's module sees it.

        Args:
            opened: With its credential, its own or the one its connection shares. It is opened
                when it is looked into.

            turn: Of a check: which instant it is for.

            hosts: Of the connection, where they are known.

        Raises:
            Misconfigured: A host is not allowed.
        """
        if hosts is None:
            hosts = self.hosts_of(connection, provider)
        settings = standing.settings
        if connection.settings:
            settings = {**connection.settings, **settings}
        eyed = watched(standing, self.clock()) if standing.watched else NONE
        sealed = standing.credential or connection.credential
        if not opened or not sealed:
            return Account(
                connection.name, standing.account, hosts, settings, watched=eyed, turn=turn
            )
        owner = standing.account if standing.credential else ""
        credential = Sealed(partial(self.sealer.open, sealed, connection.name, owner))
        known = (connection.name, owner, sealed)
        token = self.tokens.get(known)
        if token is None:
            if len(self.tokens) >= TOKENS_MAX:
                self.tokens.clear()
            # Two threads get the same one.
            token = self.tokens.setdefault(known, self._token(*known))
        return Account(
            connection.name, standing.account, hosts, settings, credential, token, eyed, turn
        )

    def _token(self, connection: str, owner: str, credential: bytes) -> Token:
        """
        Make the token of a credential.

        Args:
            owner: The account, or empty if all of the connection share the credential.

            credential: Sealed; tells it from the one that it replaced.
        """
        of = hashlib.sha256(credential).hexdigest()

        def load() -> Grant:
            # One that cannot be read any more is as good as none: a new one takes its place.
            with suppress(Misconfigured, KeyError, TypeError, ValueError):
                sealed = self.state.token(connection, owner)
                found = self.sealer.open(sealed, connection, owner) if sealed else {"of": ""}
                if found["of"] == of:
                    return Grant(found["token"], int(found["old_ms"]), int(found["ends_ms"]))
            return Grant()

        def share(grant: Grant) -> None:
            told = {"token": grant.value, "of": of}
            told |= {"old_ms": str(grant.old_ms), "ends_ms": str(grant.ends_ms)}
            self.state.put_token(connection, owner, self.sealer.seal(told, connection, owner))

        def claim() -> bool:
            return self.state.claim_token(connection, owner, self.clock())

        return Token(load, share, claim, self.clock)

    def leave_alone(
        self,
        job: CheckJob | DeltaJob,
        connection: Connection,
        standing: Standing,
        error: PollwireError,
    ) -> None:
        """Write down a failure, and leave the account alone for a while that grows with each."""
        if isinstance(error, RateLimited) and self.shares_rate(connection):
            until_ms = self._rested_ms(max(error.retry_after_s, 1))
            self.state.pause_connection(connection.name, until_ms)
        retry_after_s = error.retry_after_s if isinstance(error, Retryable) else 0
        # A look that fails is tried again at the pace of looks.
        pace_s = job.interval_s if isinstance(job, CheckJob) else connection.interval_s
        interval_s = min(connection.interval_s, pace_s)
        wait_s = due.backoff_s(standing.failures + 1, interval_s, self.jitter(), retry_after_s)
        self.state.note_failure(
            job.connection,
            job.shard,
            standing.account,
            self.clock() + wait_s * 1000,
            describe(error),
        )

    def note_silence(self, connection: Connection, retry_after_s: int = 0) -> None:
        """Ask nothing more over a connection whose provider does not answer, longer each time."""
        failures, interval_s = connection.outages + 1, connection.interval_s
        wait_s = due.backoff_s(failures, interval_s, self.jitter(), retry_after_s)
        self.state.note_outage(connection, self.clock() + wait_s * 1000)

    def await_turn(self, connection: Connection, patience_ms: int) -> None:
        """
        Wait until a request that no check makes is within the connection's rate.

        Raises:
            Unasked: That is more than *patience_ms* from now.
        """
        apart_ms = round(1000 / due.deltas_per_second(connection))
        now_ms = self.clock()
        # Where the rate is low, the next place is farther away than anybody would wait for others.
        patience_ms = max(patience_ms, min(apart_ms, APART_MS_MAX))
        at_ms = self.state.book(connection.name, apart_ms, now_ms, now_ms + patience_ms)
        if at_ms > now_ms:
            self.sleep((at_ms - now_ms) / 1000)

    def rest(
        self, job: CheckJob | DeltaJob, connection: Connection, account: str, wait_s: int
    ) -> None:
        """Ask nothing more before a rate budget that is used up is back. That is no failure."""
        until_ms = self._rested_ms(wait_s)
        if self.shares_rate(connection):
            self.state.pause_connection(connection.name, until_ms)
        else:
            with suppress(Conflict):
                self.state.rest(job.connection, job.shard, account, until_ms)

    def _rested_ms(self, wait_s: int) -> int:
        # Everybody back at the same instant would be refused again: up to a tenth more.
        return self.clock() + int(wait_s * (1 + self.jitter() / 10) * 1000)


def watched(standing: Standing, now_ms: int) -> frozenset[str]:
    """Name the ids that an account still has an eye on; each was written with its end."""
    pairs = (one.partition("@") for one in standing.watched)
    return frozenset(
        identity
        for until_ms, _, identity in pairs
        if until_ms.isdecimal() and int(until_ms) > now_ms
    )
