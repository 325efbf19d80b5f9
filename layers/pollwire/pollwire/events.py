"""
A change as subscribers see it: the envelope of RingCentral's notifications, with a body of ours.

    {"uuid", "event", "timestamp", "subscriptionId", "ownerId",
     "body": {"accountId", "extensionId", "lastUpdated",
              "changes": [{"type", "newCount" | "updatedCount" | "deletedCount"}],
              "provider", "connection", "stream", "change", "revision", "sequence",
              "recordId", "record"}}

An event is finished once, when its change is decided, and never made again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final
from urllib.parse import urlencode

from pollwire.model import Change, Event, Row, Stream

SCHEMA_MAJOR: Final = 2
NAMESPACE: Final = uuid.UUID("6f0f3a3e-4f0b-5d53-9a52-70c1f0d6a7b4")

#: SNS takes 256 KiB a message, attributes included; eight attributes and their names stay below 4.
EVENT_BYTES_MAX: Final = 252 * 1024

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

COUNTS: Final = {"created": "newCount", "updated": "updatedCount", "deleted": "deletedCount"}


_write: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(value: Any) -> str:
    """Write a JSON value in the one way that is hashed: ASCII, keys sorted, no spaces."""
    return _write(value)


def digest(row: Row, volatile: frozenset[str] = frozenset()) -> str:
    """Hash what a row says of the thing itself, its *volatile* fields left out."""
    content = {name: value for name, value in row.body.items() if name not in volatile}
    text = canonical([content, row.deleted])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def iso(at_ms: int) -> str:
    """Write an instant as RFC 3339 with milliseconds, as in ``2016-10-26T16:46:29.437Z``."""
    at = EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@cache
def subscription_id(topic_arn: str) -> str:
    """Derive the subscription id, one per deployment, from its topic."""
    return str(uuid.uuid5(NAMESPACE, topic_arn))


class Composer:
    """
    Makes the events of one stream of one account.

    Args:
        subscription: From :func:`subscription_id`.

        owner: The account that the extension belongs to, where a provider polls extensions; else
            the account itself.
    """

    def __init__(
        self,
        provider: str,
        connection: str,
        account: str,
        name: str,
        stream: Stream,
        subscription: str,
        owner: str = "",
    ) -> None:
        self._provider = provider
        self._connection = connection
        self._account = account
        self._owner = owner or account
        self._name = name
        self._stream = stream
        self._subscription = subscription
        self._group = group_id(connection, account, name)

    def event(self, change: Change, sequence: int, decided_ms: int, epoch: int = 0) -> Event:
        """
        Make the event of a change.

        Args:
            sequence: Its number within the account's stream, rising.

            decided_ms: The instant of the decision, our clock.

            epoch: See :class:`pollwire.items.StreamState`.
        """
        row = change.row
        told = {
            "accountId": self._owner,
            "extensionId": row.extension or self._account,
            "lastUpdated": iso(row.at_ms or decided_ms),
            "changes": [{"type": row.type or self._name, COUNTS[change.kind]: 1}],
        }
        ours = self._ours(change, sequence)
        content: dict[str, Any] = {"record": row.body}
        if self._stream.flat:
            content = {name: value for name, value in row.body.items() if name != "id"}
        # A row may spell what is told in its own way; its own sequence does not hide ours.
        body = {**told, **ours, **content, **ours}
        identity = self._uuid(change, epoch if sequence > epoch else 0)
        envelope = {
            "uuid": identity,
            "event": self._path(row),
            "timestamp": iso(decided_ms),
            "subscriptionId": self._subscription,
            "ownerId": self._account,
            "body": body,
        }
        text = json.dumps(envelope, ensure_ascii=True)
        if len(text) > EVENT_BYTES_MAX:
            shortened = {"hash": change.digest, "truncated": True}
            envelope["body"] = {**told, **ours, **shortened}
            text = json.dumps(envelope, ensure_ascii=True)
        return Event(
            uuid=identity,
            body=text,
            attributes=self._attributes(change),
            group=self._group,
            entity=hashlib.sha256(row.id.encode()).hexdigest()[:32],
        )

    def _ours(self, change: Change, sequence: int) -> dict[str, Any]:
        """Name what the body says of the change itself: no row hides it."""
        return {
            "provider": self._provider,
            "connection": self._connection,
            "stream": self._name,
            "change": change.kind,
            "revision": change.rev,
            "sequence": sequence,
            "recordId": change.row.id,
        }

    def _uuid(self, change: Change, epoch: int) -> str:
        """
        Derive the id that never varies for one change.

        It depends on the state that the change leads to, not on the one before: from an older
        table it is decided once more under the same id. What tells a state that came back from the
        one it was before is how often it was told; and, as a restored table may have forgotten
        that, since when it knows better.
        """
        row = change.row
        state = [change.kind] if change.kind == "deleted" else [row.updated_at, change.digest]
        name = canonical(
            [
                SCHEMA_MAJOR,
                self._provider,
                self._connection,
                self._account,
                self._name,
                row.id,
                *state,
                change.again,
                *([epoch] if epoch else []),
            ]
        )
        return str(uuid.uuid5(NAMESPACE, name))

    def _path(self, row: Row) -> str:
        path = self._stream.path
        if path is None:
            return f"/pollwire/v1/{self._provider}/account/{self._account}/{self._name}"
        filters = {"type": row.type, "direction": row.direction}
        query = urlencode({name: value for name, value in filters.items() if value})
        if query and "?" not in path:
            path = f"{path}?{query}"
        extension = row.extension or self._account
        return f"/restapi/v1.0/account/{self._owner}/extension/{extension}/{path}"

    def _attributes(self, change: Change) -> dict[str, str]:
        # As in the filter path: of a message or a call, the account that the extension is of.
        account = self._owner if self._stream.path else self._account
        extension = change.row.extension or self._account
        attributes = {
            "provider": self._provider,
            "connection": self._connection,
            "account": account,
            "stream": self._name,
            "type": change.row.type,
            "direction": change.row.direction,
            "change": change.kind,
            "extension": extension if self._stream.path and extension != account else "",
        }
        return {name: value for name, value in attributes.items() if value}


@lru_cache(maxsize=4096)
def group_id(connection: str, account: str, stream: str) -> str:
    """Name the message group of an account's stream: legal whatever the provider's ids are."""
    hashed = hashlib.sha256(canonical([connection, account, stream]).encode()).digest()
    return base64.b32encode(hashed).decode()[:40]
