"""What is said over HTTP: requests and answers, and what providers tell by themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

from pollwire.errors import Malformed

OK: Final = frozenset({200})

#: How long a budget is taken to be used up: if only an instant is said, and no time to compare it
#: with; and at most, whatever is said.
SPENT_S: Final = 60
SPENT_S_MAX: Final = 3600

#: A reset that is larger than this is an instant, not a number of seconds to wait.
EPOCH_S_MIN: Final = 1_000_000_000

_NOTHING_LEFT: Final = re.compile(r"0+(\.0*)?")
_SECONDS: Final = re.compile("[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Request:
    """
    One HTTP request to a provider.

    Attributes:
        url: Absolute; its host must be one of the account's hosts.

        form: Body as ``application/x-www-form-urlencoded``; ``None`` for no body.

        expect: Statuses to which the provider's documentation gives a meaning. Every other status
            becomes an error before the provider's module sees it.

        secret: The request carries a credential: never over plain http to a public host.

        budget: Which of the provider's rate budgets it counts against, where there are several:
            when an answer says that one is used up, only what counts against it has to wait.
    """

    url: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    expect: frozenset[int] = OK
    secret: bool = False
    budget: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """
    An answer with one of the expected statuses.

    Attributes:
        headers: Names in lower case.

        body: Complete, decoded from gzip, at most the size cap.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def date_ms(self) -> int | None:
        """The provider's clock when it answered, or ``None`` if it did not say."""
        return _date_ms(self.headers.get("date", ""))

    @property
    def spent_s(self) -> int:
        """
        Seconds to ask nothing more, if the answer says that a rate budget is used up; else 0.

        Read from ``X-Rate-Limit-Remaining`` with ``-Window`` (seconds) or ``-Reset`` (seconds, or
        seconds since the epoch), with or without the dash in ``RateLimit``; at most an hour.
        """
        headers = self.headers
        left = headers.get("x-rate-limit-remaining") or headers.get("x-ratelimit-remaining")
        if left is None or not _NOTHING_LEFT.fullmatch(left.strip()):
            return 0
        for name in ("window", "reset"):
            said = headers.get(f"x-rate-limit-{name}") or headers.get(f"x-ratelimit-{name}") or ""
            if _SECONDS.fullmatch(said.strip()):
                return min(max(self._wait_s(int(said)), 1), SPENT_S_MAX)
        return 1

    def _wait_s(self, said_s: int) -> int:
        if said_s < EPOCH_S_MIN:
            return said_s
        instant_s = said_s // 1000 if said_s >= EPOCH_S_MIN * 1000 else said_s
        return SPENT_S if self.date_ms is None else instant_s - self.date_ms // 1000

    def json(self) -> dict[str, Any]:
        """
        Parse the body as one JSON object, strictly.

        Raises:
            Malformed: It is no JSON object, repeats a key, nests too deep, or holds a number that
                is not finite.
        """
        return _object(self.body)


@dataclass(frozen=True, slots=True)
class Notification:
    """
    What somebody sent to the push function: a provider, perhaps.

    Attributes:
        headers: Names in lower case.

        body: As it came, byte by byte; nothing in it is true before it is verified.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    def json(self) -> dict[str, Any]:
        """
        Parse the body as :meth:`Response.json` does.

        Raises:
            Malformed: As there.
        """
        return _object(self.body)


@dataclass(frozen=True, slots=True)
class Pushed:
    """
    What a verified notification says.

    Attributes:
        accounts: Ids of the accounts that something happened to, as the provider has them.

        said_ms: When the provider said so; ``None`` if it does not tell.

        headers: That the provider expects in the answer.
    """

    accounts: tuple[str, ...] = ()
    said_ms: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


#: Makes one request, and raises what is no answer of those that were expected.
Fetch = Callable[[Request], Response]


@lru_cache(maxsize=256)
def _date_ms(text: str) -> int | None:
    # Those who answer a whole shard say few of them.
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000)


def _object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object, strictly."""
    try:
        parsed = json.loads(
            body,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not the JSON it should be: {type(error).__name__}") from error
    if not isinstance(parsed, dict):
        raise Malformed(f"the body is a JSON {type(parsed).__name__}, not an object")
    return parsed


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a key is repeated")
    return parsed


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return number
