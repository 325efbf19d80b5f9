"""
Why does a stream not come on? One sentence from what the table says. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pollwire import marks
from pollwire.items import Listing, StreamListing, StreamState
from pollwire.model import Connection, Stream
from pollwire.registry import FOREVER_MS

from pollwire_cli.output import instant

#: What was decided is published within this time, and what was queued is begun, if nothing is
#: wrong: a function that fails is tried three times.
SOON_MS = 120_000

#: What the name of an error means, as ``trouble`` begins.
MEANINGS = {
    "Rejected": "credential refused",
    "Forbidden": "the provider refuses this stream",
    "RateLimited": "rate budget used up",
    "Unavailable": "provider does not answer",
    "Malformed": "the provider's answer cannot be read",
    "Misconfigured": "a setting or a credential is missing or wrong",
    "Restart": "a place in a list is no longer valid",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What the table says of a stream, and of what it depends on.

    Attributes:
        kind: What its provider says of it.

        pending: The account's pending elements of this stream.
    """

    connection: Connection
    account: Listing
    kind: Stream
    stream: StreamListing
    pending: tuple[str, ...]
    now_ms: int


def why(facts: Facts) -> str:
    """Say why a stream does not come on; empty if nothing is in its way and nothing is to do."""
    return next((reason for reason in _reasons(facts) if reason), "")


def hindrance(connection: Connection, account: Listing, now_ms: int) -> str:
    """Say why nothing is asked for an account now; empty if it is."""
    return _of_connection(connection, now_ms) or _of_account(connection, account, now_ms)


def _reasons(facts: Facts) -> Iterator[str]:
    """What stops more comes first."""
    state = facts.stream.state
    yield hindrance(facts.connection, facts.account, facts.now_ms)
    if state is None:
        yield "the stream's cursor item cannot be read: correct it in the state table"
    else:
        yield _of_stream(facts, state)
        yield _of_work(state)
        yield _of_pending(facts, state)
        if not (state.drained_ms or facts.pending):
            yield "it was never read: no check has reported it yet"


def _of_connection(connection: Connection, now_ms: int) -> str:
    until_ms = connection.paused_until_ms
    if connection.outages and until_ms < FOREVER_MS:
        return "provider does not answer anybody: now and then one shard asks for all"
    if until_ms <= now_ms:
        return ""
    if until_ms >= FOREVER_MS:
        return f"connection paused: pollwire connections resume {connection.name}"
    return f"connection paused until {instant(until_ms)}, as its rate budget is used up"


def _of_account(connection: Connection, account: Listing, now_ms: int) -> str:
    standing = account.standing
    if standing is None:
        return "the account's item cannot be read: remove the account and add it again"
    if standing.paused:
        return f"paused: pollwire accounts resume {account.account} --connection {connection.name}"
    if standing.not_before_ms <= now_ms:
        return ""
    until = instant(standing.not_before_ms)
    if not standing.failures:
        return f"rate budget used up: the account is left alone until {until}"
    return f"{_meaning(account.trouble)}; the account is left alone until {until}"


def _of_stream(facts: Facts, state: StreamState) -> str:
    if not state.failures:
        return ""
    reason = _meaning(facts.stream.trouble)
    if state.not_before_ms > facts.now_ms:
        return f"{reason}; the stream is left alone until {instant(state.not_before_ms)}"
    return f"{reason}; it is tried again at the account's next check"


def _of_work(state: StreamState) -> str:
    if state.outbox:
        return (
            f"decided and not published yet: {len(state.outbox)}; if that lasts, a job waits or "
            "failed: see pollwire redrive"
        )
    if state.drain:
        return (
            f"a long list is being read: {state.drain.pages} pages since "
            f"{instant(state.drain.began_ms)}"
        )
    return ""


def _of_pending(facts: Facts, state: StreamState) -> str:
    if not facts.pending:
        return ""
    oldest_ms = min(map(marks.seen_ms, facts.pending))
    waited_ms = facts.now_ms - oldest_ms
    patience_ms = facts.connection.slowest_s * 1000 + SOON_MS
    asked = [one for one in facts.pending if marks.replayed_ms(one) is not None]
    if state.drained_ms < oldest_ms or asked:
        if waited_ms > patience_ms:
            return (
                "a job waits or failed, or no check is made: see pollwire redrive, pollwire doctor"
            )
        return "a job for it is on its way"
    if waited_ms < facts.kind.overlap_s * 1000 + patience_ms:
        return "read already; it is read once more when late rows have settled"
    return "waits for the second sighting: what was seen must be seen again to be believed"


def _meaning(trouble: str) -> str:
    """Say what an error means, and what it said."""
    name, _, message = trouble.partition(": ")
    meaning = MEANINGS.get(name)
    if meaning is None:
        return trouble or "it failed, and nothing says why"
    return f"{meaning}: {message}" if message else meaning
