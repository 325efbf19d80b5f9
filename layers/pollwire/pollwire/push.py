"""
What providers tell by themselves: a notification becomes a check of the account it is about, now.

    path       -> connection   of those that are notified, read once a minute
    provider   -> verified     with the connection's secret, opened once in five minutes
    account    -> claimed      one such check in five seconds at most, and none for what is known
    check job  -> Checks       as the schedule queues them, for this account alone, and no more of
                               them than leave room for the regular ones

Anybody can send anything here. What is not verified costs no call of AWS beyond the first, and is
neither parsed nor logged; what is verified can cause a check, never an event: those come from what
the provider answers when it is asked.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pollwire import due
from pollwire.errors import (
    Malformed,
    Misconfigured,
    PollwireError,
    Rejected,
    Retryable,
    Unasked,
    describe,
)
from pollwire.exchange import Notification, Pushed
from pollwire.model import ACCOUNT_ID, NAME, NOTHING, CheckJob, Connection
from pollwire.providers import Notifying
from pollwire.secrets import PUSH
from pollwire.world import Counts, Notified, World

#: How long a new secret may take to be known.
NOTIFIED_MS_MAX = 60_000

#: Meta's are some KB, RingCentral's less. Lambda takes 6 MB.
BODY_BYTES_MAX = 1024 * 1024

#: Accounts that one notification is taken to be about: within the seconds that a provider waits.
ACCOUNTS_MAX = 20

#: A check is of use for so long; until then it may wait for a worker.
USEFUL_S = 60

#: Of what deltas may ask of a provider, the share of the checks that it asks for itself. One that
#: would have to wait for longer than this is left to the regular checks.
PUSHED_SHARE = 0.5
PATIENCE_MS = 20_000

_PATH = re.compile(f"/({NAME.pattern})")

#: What is answered to what went wrong, and what it is counted as.
REFUSALS: Mapping[type[PollwireError], tuple[int, str]] = {
    Rejected: (401, "rejected"),
    Malformed: (400, "malformed"),
    Misconfigured: (503, "misconfigured"),
    Retryable: (503, "failed"),
}


class Answer(NamedTuple):
    """
    What is answered.

    Attributes:
        counts: What was done.

        connection: Its name, if there is one.

        reason: Why it was refused: for the log, not for whoever sent it.
    """

    status: int
    counts: Counts
    headers: Mapping[str, str] = NOTHING
    connection: str = ""
    reason: str = ""

    @property
    def response(self) -> dict[str, Any]:
        """It as a function URL gives it back, without a word about why."""
        return {"statusCode": self.status, "headers": dict(self.headers), "body": ""}


def receive(world: World, event: Mapping[str, Any]) -> Answer:
    """
    Take what somebody sent to the function URL.

    Args:
        event: As a function URL has it, payload format 2.0.
    """
    request = _mapping(_mapping(event.get("requestContext")).get("http"))
    if request.get("method") != "POST":
        return Answer(405, Counts(unknown=1), {"Allow": "POST"})
    path = _PATH.fullmatch(str(event.get("rawPath")))
    connection = _notified(world).connections.get(path[1]) if path else None
    if connection is None:
        return Answer(404, Counts(unknown=1))
    body = _body(event)
    if body is None or len(body) > BODY_BYTES_MAX:
        status = 400 if body is None else 413
        return Answer(status, Counts(malformed=1), connection=connection.name)
    try:
        pushed = _verified(world, connection, Notification(_headers(event), body))
        counts = _queue(world, connection, pushed)
    except tuple(REFUSALS) as error:
        status, what = next(told for kind, told in REFUSALS.items() if isinstance(error, kind))
        return Answer(status, Counts({what: 1}), NOTHING, connection.name, describe(error))
    # The same whoever the accounts are: nobody learns which are registered.
    return Answer(200, counts, pushed.headers, connection.name)


def _notified(world: World) -> Notified:
    """Know all connections that are notified: an unknown name costs no look into the table."""
    known, now_ms = world.notified, world.clock()
    if now_ms - known.read_ms >= NOTIFIED_MS_MAX:
        connections, _ = world.state.connections()
        known.connections = {one.name: one for one in connections if one.push_secret}
        known.secrets.clear()
        known.read_ms = now_ms
    return known


def _verified(world: World, connection: Connection, notification: Notification) -> Pushed:
    """
    Have a connection's provider verify a notification.

    Raises:
        Rejected: It is not the provider's.

        Malformed: It cannot be read.

        Misconfigured: There is no such provider, or what would verify it does not open.
    """
    provider = world.provider(connection)
    if not isinstance(provider, Notifying):
        raise Misconfigured(f"connection {connection.name}: its provider notifies nobody")
    return provider.pushed(notification, _secret(world, connection), world.clock())


def _secret(world: World, connection: Connection) -> str:
    secrets, name = world.notified.secrets, connection.name
    if name not in secrets:
        # One that does not open is not tried again at every request.
        secrets[name] = ""
        with suppress(Misconfigured, Unasked, KeyError, TypeError):
            sealed = connection.push_secret or b""
            secrets[name] = world.sealer.open(sealed, name, PUSH)["secret"]
    if not secrets[name]:
        raise Misconfigured(f"connection {name}: its push secret does not open; set it again")
    return secrets[name]


def _queue(world: World, connection: Connection, pushed: Pushed) -> Counts:
    """
    Queue a check of each account that is registered and not seen to already.

    Raises:
        Retryable: AWS refuses. What was claimed and is not queued is found by the regular checks.
    """
    counts = Counts(notified=1)
    now_ms = world.clock()
    if connection.paused_until_ms > now_ms:
        return counts
    said_ms = now_ms if pushed.said_ms is None else pushed.said_ms
    for account in filter(ACCOUNT_ID.fullmatch, pushed.accounts[:ACCOUNTS_MAX]):
        claimed = world.state.claim_push(connection, account, said_ms, now_ms)
        if claimed is None:
            continue
        try:
            turn_ms = _turn_ms(world, connection, now_ms)
        except Unasked:
            counts["crowded"] += 1
            continue
        shard, due_ms = claimed
        useful_s = max(world.paced(connection).interval_s, USEFUL_S)
        job = CheckJob(connection.name, shard, max(due_ms, turn_ms), useful_s, account=account)
        counts["queued"] += world.queues.send_checks(connection.provider, [job], now_ms)
    return counts


def _turn_ms(world: World, connection: Connection, now_ms: int) -> int:
    """
    Book an instant for a check, so that many at once do not keep the regular ones from theirs.

    Raises:
        Unasked: That is too far away.
    """
    apart_ms = round(1000 / (due.deltas_per_second(connection) * PUSHED_SHARE))
    return world.state.book(connection.name, apart_ms, now_ms, now_ms + PATIENCE_MS, what=PUSH)


def _body(event: Mapping[str, Any]) -> bytes | None:
    """Read a body byte by byte; ``None`` if there is none that can be read."""
    body = event.get("body") or ""
    try:
        if event.get("isBase64Encoded"):
            return base64.b64decode(body, validate=True)
        return str(body).encode()
    except (ValueError, TypeError):  # Half a character is one, too.
        return None


def _headers(event: Mapping[str, Any]) -> dict[str, str]:
    headers = _mapping(event.get("headers"))
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
