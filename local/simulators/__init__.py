"""
Simulated providers: the APIs that Pollwire polls, small, on one machine, with their traps.

A simulator is pure: ``handle`` takes a request and returns an answer. Tests call it directly,
``local.server`` puts it on a port. It needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from typing import NamedTuple, Protocol

Answer = tuple[int, dict[str, str], bytes]


class Change(NamedTuple):
    """One change as it was made: what a poller must not lose."""

    stream: str
    kind: str
    id: str
    at_ms: int
    account: str


class Faults:
    """Requests that are to fail, by a part of their path, each so many times."""

    def __init__(self) -> None:
        self._due: list[tuple[str, str]] = []

    def add(self, path_part: str, kind: str, times: int) -> None:
        self._due += [(path_part, kind)] * times

    def take(self, path: str) -> str:
        """Name the kind of failure that a request gets, empty for none; it is used up by that."""
        for number, (part, kind) in enumerate(self._due):
            if part in path:
                del self._due[number]
                return kind
        return ""


class Simulator(Protocol):
    """
    One simulated provider.

    Attributes:
        journal: Every change ever made in it, in order.
    """

    @property
    def journal(self) -> Sequence[tuple[object, ...]]: ...

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        """
        Answer one request.

        Args:
            path: As sent, percent-encoding and all.

            headers: Names in lower case.
        """
        ...


@lru_cache(maxsize=1024)
def http_date(at_s: int) -> str:
    """Write an instant as the headers of an answer do."""
    return formatdate(at_s, usegmt=True)


def registered() -> Mapping[str, Callable[[], Simulator]]:
    """All simulators by the name of their provider. Adding one adds its line here."""
    from local.simulators.intelli import Intelli
    from local.simulators.kirimdev import Kirimdev
    from local.simulators.ringcentral import RingCentral
    from local.simulators.youmail import YouMail

    return {
        "youmail": YouMail,
        "intelli": Intelli,
        "kirimdev": Kirimdev,
        "ringcentral": RingCentral,
    }
