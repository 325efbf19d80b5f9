"""
The accounts of the benchmark, the same in every process: known to the provider, stored, idle.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from pollwire import marks
from pollwire.model import Seen
from pollwire.state import shard_of

#: Requests at a time, for every client that does not say otherwise.
CONNECTIONS = 64

#: Nobody's account changed for that long: validators are trusted.
QUIET_MS = 86_400_000

_FIRST = 10_000_000_000
_STAMP_MS = 1_790_000_000_000

#: As long as what KMS makes of a user name and a password.
_SEALED = base64.b64encode(bytes(range(230))).decode()


def ids(number: int) -> list[str]:
    return list(_ids(number))


def of_shard(number: int, shard: int, shards: int) -> list[str]:
    """Name those of so many accounts that are in a shard."""
    return [one for one in _ids(number) if shard_of(one, shards) == shard]


def _ids(number: int) -> Iterator[str]:
    return (str(_FIRST + 7 * place) for place in range(number))


def path(account: str) -> str:
    return f"/vm/poll/{account[-1]}/{account}"


def answer(account: str) -> str:
    """Say when each of an account's eight kinds of things last changed."""
    return ",".join(str(_STAMP_MS + int(account) % 1_000_003 * (kind + 1)) for kind in range(8))


def etag(account: str) -> str:
    return f'"{int(account) * 2_654_435_761 % 2**64:016x}"'


def item(account: str, now_ms: int, *, shard: int = 0, validated: bool) -> dict[str, Any]:
    """Write an account's item as DynamoDB sends it: base64 in the place of bytes."""
    seen = Seen(
        answer(account), etag(account) if validated else "", "", changed_ms=now_ms - QUIET_MS
    )
    return {
        "pk": {"S": f"shard#bench#{shard}"},
        "sk": {"S": account},
        "marks": {"S": marks.pack(seen)},
        "settings": {"S": json.dumps({"phone": f"4255{account[-6:]}"})},
        "credential": {"B": _SEALED},
    }
