"""The access token that all workers of one credential share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pollwire.errors import Unasked

#: How long nobody may ask for a token once somebody did: so one user's workers, however many, ask
#: four times a minute at most, whatever becomes of the token.
RENEWAL_MS: Final = 15_000

#: How soon a worker looks again whether the others have the token they ask for.
RENEWAL_LOOK_MS: Final = 1_000


class Grant(NamedTuple):
    """
    An access token as it was given.

    Attributes:
        old_ms: From then on somebody should get a new one; 0 if its life is not known.

        ends_ms: From then on the provider refuses it; likewise.
    """

    value: str = ""
    old_ms: int = 0
    ends_ms: int = 0


class Token:
    """
    The access token that all workers of one credential share.

    Args:
        load: Reads the shared one; one without a value if there is none.

        share: Writes a new one for the others.

        claim: Asks for the right to get a new one, for ``RENEWAL_MS``; false if another has it.

        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        load: Callable[[], Grant] = Grant,
        share: Callable[[Grant], None] = lambda grant: None,
        claim: Callable[[], bool] = lambda: True,
        clock: Callable[[], int] = lambda: 0,
    ) -> None:
        self._load, self._share, self._claim, self._clock = load, share, claim, clock
        self._grant: Grant | None = None
        self._refused = ""
        self._wait_until_ms = 0

    @property
    def value(self) -> str:
        """The token, or an empty text if one has to be got."""
        if self._grant is None or 0 < self._grant.ends_ms <= self._clock():
            self._look()
        return self._grant.value if self._grant else ""

    @property
    def is_fresh(self) -> bool:
        """There is one, and it will do for long."""
        return bool(self.value) and not self._is_old()

    def renews(self) -> bool:
        """
        Tell whether this worker is to get a new one now, and :meth:`renew` it.

        Long before the end of a token one worker gets the next, while the others use the old one.

        Raises:
            Unasked: There is none, and another worker is getting it.
        """
        if self.is_fresh:
            return False
        if self._clock() >= self._wait_until_ms:
            self._look()
            if self.is_fresh:
                return False
            is_mine = self._claim()
            self._wait_until_ms = self._clock() + (RENEWAL_MS if is_mine else RENEWAL_LOOK_MS)
            if is_mine:
                return True
        if self.value:
            return False
        raise Unasked("another worker is getting the access token")

    def renew(self, value: str, lasts_s: int = 0) -> None:
        """
        Take a new one and share it.

        Args:
            lasts_s: Seconds until it ends; 0 if that is not known.
        """
        now_ms, lasts_ms = self._clock(), max(lasts_s, 0) * 1000
        grant = Grant(value)
        if lasts_ms:
            grant = Grant(value, now_ms + lasts_ms // 2, now_ms + lasts_ms)
        self._grant, self._wait_until_ms = grant, 0
        self._share(grant)

    def refuse(self, value: str) -> None:
        """Forget a token that the provider refuses; another worker may have shared a new one."""
        if self._grant is None or self._grant.value == value:
            self._refused = value
            self._look()

    def _look(self) -> None:
        grant = self._load()
        is_over = 0 < grant.ends_ms <= self._clock() or grant.value == self._refused
        self._grant = Grant() if is_over else grant

    def _is_old(self) -> bool:
        return self._grant is not None and 0 < self._grant.old_ms <= self._clock()
