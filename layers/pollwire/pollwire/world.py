"""
What the stages work with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pollwire import due
from pollwire.errors import Misconfigured, PollwireError, Retryable, describe
from pollwire.http import Hosts, Http
from pollwire.items import Standing
from pollwire.model import Account, CheckJob, Connection, DeltaJob
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
        settings = {**connection.settings, **standing.settings}
        account = Account(connection.name, standing.account, hosts, settings)
        if opened and standing.credential:
            return replace(
                account,
                credential=self.sealer.open(standing.credential, connection.name, account.id),
            )
        if opened and connection.credential:
            return replace(
                account, credential=self.sealer.open(connection.credential, connection.name, "")
            )
        return account

    def leave_alone(
        self, job: CheckJob | DeltaJob, interval_s: int, standing: Standing, error: PollwireError
    ) -> None:
        """Write down a failure, and leave the account alone for a while that grows with each."""
        retry_after_s = error.retry_after_s if isinstance(error, Retryable) else 0
        wait_s = due.backoff_s(standing.failures + 1, interval_s, self.jitter(), retry_after_s)
        self.state.note_failure(
            job.connection,
            job.shard,
            standing.account,
            self.clock() + wait_s * 1000,
            describe(error),
        )
