"""
One check on its way: between the run that drives it and the engine that carries its requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pollwire.exchange import Request
from pollwire.http.hosts import Origin
from pollwire.model import Checking

K = TypeVar("K")


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
    spent: Mapping[str, int]
