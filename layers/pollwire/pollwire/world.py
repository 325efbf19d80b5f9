"""
What the stages work with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pollwire import due
from pollwire.errors import Misconfigured, PollwireError, RateLimited, Retryable, describe
from pollwire.http import Hosts, Http
from pollwire.items import Standing
from pollwire.model import Account, CheckJob, Connection, DeltaJob, Token
from pollwire.providers import Provider
from pollwire.queues import Queues, Topic
from pollwire.secrets import Sealer
from pollwire.state import State

#: What a stage did, by name: the numbers of its log line and its metrics.
Counts = Counter[str]


@dataclass(frozen=True, slots=True)
class World:
    """
    What the stages work with.

    Attributes:
        clock: Milliseconds since the epoch.

        jitter: A random number from 0 to 1.
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
        interval_s = max(connection.interval_s, fastest_s)
        return replace(
            connection, interval_s=interval_s, slowest_s=max(connection.slowest_s, interval_s)
        )

    def account(
        self, connection: Connection, provider: Provider, standing: Standing, *, opened: bool
    ) -> Account:
        """
        Make an account as its provider's module sees it.

        Args:
            opened: With its credential, its own or the one its connection shares.

        Raises:
            Misconfigured: A host is not allowed, or the credential does not open.
        """
        hosts = {
            role: self.hosts.require(connection.hosts.get(role, own))
            for role, own in provider.hosts.items()
        }
        account = Account(
            connection.name,
            standing.account,
            hosts,
            {**connection.settings, **standing.settings},
            watched=watched(standing, self.clock()),
        )
        if not opened:
            return account
        credential: Mapping[str, str] = {}
        if standing.credential:
            credential = self.sealer.open(standing.credential, connection.name, account.id)
        elif connection.credential:
            credential = self.sealer.open(connection.credential, connection.name, "")
        return replace(account, credential=credential, token=self._token(connection, account.id))

    def _token(self, connection: Connection, account: str) -> Token:
        def load() -> str:
            # One that does not open any more is as good as none: a new one takes its place.
            with suppress(Misconfigured, KeyError, TypeError):
                sealed = self.state.token(connection.name, account)
                if sealed:
                    return self.sealer.open(sealed, connection.name, account)["token"]
            return ""

        def share(token: str) -> None:
            sealed = self.sealer.seal({"token": token}, connection.name, account)
            self.state.put_token(connection.name, account, sealed)

        return Token(load, share)

    def leave_alone(
        self,
        job: CheckJob | DeltaJob,
        connection: Connection,
        standing: Standing,
        error: PollwireError,
    ) -> None:
        """Write down a failure, and leave the account alone for a while that grows with each."""
        if isinstance(error, RateLimited) and self.providers[connection.provider].shares_rate:
            # Everybody back at the same instant would be refused again: up to a tenth more.
            wait_s = max(error.retry_after_s, 1) * (1 + self.jitter() / 10)
            self.state.pause_connection(connection.name, self.clock() + int(wait_s * 1000))
        retry_after_s = error.retry_after_s if isinstance(error, Retryable) else 0
        wait_s = due.backoff_s(
            standing.failures + 1, connection.interval_s, self.jitter(), retry_after_s
        )
        self.state.note_failure(
            job.connection,
            job.shard,
            standing.account,
            self.clock() + wait_s * 1000,
            describe(error),
        )


def watched(standing: Standing, now_ms: int) -> frozenset[str]:
    """Name the ids that an account still has an eye on; each was written with its end."""
    pairs = (one.split("@", 1) for one in standing.watched)
    return frozenset(identity for until_ms, identity in pairs if int(until_ms) > now_ms)
