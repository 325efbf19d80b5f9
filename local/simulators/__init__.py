"""
Simulated providers: the APIs that Pollwire polls, small, on one machine, with their traps.

A simulator is pure: ``handle`` takes a request and returns an answer. Tests call it directly,
``local.server`` puts it on a port. It needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

Answer = tuple[int, dict[str, str], bytes]


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
