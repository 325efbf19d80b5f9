"""
One check on its way: between the run that drives it and the engine that carries its requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from pollwire.http.hosts import Origin
from pollwire.model import Checking, Request

K = TypeVar("K")

NOTHING_SPENT: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class Poll(Generic[K]):
    """
    A check, and the request it waits for.

    Attributes:
        spent: Seconds to wait by budget, of those that earlier answers said are used up.
    """

    key: K
    checking: Checking
    request: Request
    origin: Origin
    spent: Mapping[str, int] = field(default_factory=lambda: NOTHING_SPENT)
