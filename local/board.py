"""
What a run's page shows, as one JSON object. No I/O.

    {"phase", "text", "lost", "now_ms", "began_ms",
     "totals": {"changes", "events", "awaited", "repeated"},
     "freshness": {"changes", "p50_s", "p99_s"},
     "providers": [{"provider", "registered", "paused", "failing",
                    "requests_per_second", "unchanged", "changes", "p50_s", "p99_s"}],
     "rate": {"bucket_s", "changes": [per bucket], "events": [per bucket]},
     "events": [{"uuid", "at_ms", "provider", "account", "stream", "type", "change", "told"}]}

The latest event and the latest bucket come first and last, as a person reads them. What is not
known yet is ``null``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Final

from local.ledger import Ledger, record_of

#: The chart: as many buckets of as many seconds.
BUCKETS: Final = 60
BUCKET_S: Final = 5

EVENTS_MAX: Final = 50
TEXT_MAX: Final = 200

#: Requests a second are those of as many looks: half a minute, as some ask every 10 s only.
LOOKS: Final = 7

#: A row shows up at most so long after it was made; see local/demo.py.
LATE_MS: Final = 60_000

#: What a record is recognised by, the best first.
TELLING: Final = (
    "subject",
    "preview",
    "transcript",
    "name",
    "content",
    "productName",
    "firstName",
    "telephonyStatus",
    "dndStatus",
    "greetingMode",
    "status",
)


@dataclass(frozen=True, slots=True)
class Accounts:
    """
    How many accounts of a provider there are.

    Attributes:
        paused: Not polled now, be it themselves or their connection as a whole.

        failing: Their last checks failed.
    """

    registered: int = 0
    paused: int = 0
    failing: int = 0

    def __add__(self, other: Accounts) -> Accounts:
        return Accounts(
            self.registered + other.registered,
            self.paused + other.paused,
            self.failing + other.failing,
        )


@dataclass(frozen=True, slots=True)
class _Requests:
    """Requests a provider had answered at an instant, and how many of them with 304."""

    at_ms: int
    answered: int
    unchanged: int


class Board:
    """
    Keeps what a run's page shows.

    One thread writes; any may read what is shown.

    Args:
        clock: Tells the time in milliseconds.

    Attributes:
        ledger: What was made and received; changes are noted there.

        shown: The object as it is shown now, JSON.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], int]) -> None:
        self.ledger = ledger
        self._clock = clock
        self._phase = "starting"
        self._text = ""
        self._lost = 0
        self._began_ms = 0
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._received_ms: deque[int] = deque()
        self._accounts: Mapping[str, Accounts] = {}
        self._requests: dict[str, deque[_Requests]] = {}
        self.refresh()

    @property
    def is_over(self) -> bool:
        return self._phase in ("ended", "failed")

    def say(self, text: str) -> None:
        """Show what is being done."""
        if not self.is_over:
            self._text = text
            self.refresh()

    def begin(self) -> None:
        """Show that changes are being made from now on."""
        self._began_ms = self._clock()
        self._enter("running", "")

    def settle(self) -> None:
        """Show that no more changes are made."""
        self._enter("settling", "")

    def end(self, summary: str, lost: int) -> None:
        """Show what became of it all; nothing is shown after that."""
        self._enter("ended", summary, lost)

    def fail(self, text: str) -> None:
        """Show why there is no end, unless there is one."""
        self._enter("failed", text)

    def received(self, event: Mapping[str, Any]) -> None:
        """Note an event; one that is repeated is not shown again."""
        at_ms = self._clock()
        if self.ledger.received(event, at_ms):
            self._received_ms.append(at_ms)
            self._events.appendleft(_line(event, at_ms))

    def stand(
        self, accounts: Mapping[str, Accounts], answered: Mapping[str, Mapping[str, int]]
    ) -> None:
        """
        Note how providers stand.

        Args:
            accounts: By provider.

            answered: How many requests each simulated provider answered so far, by status.
        """
        self._accounts = accounts
        for provider, statuses in answered.items():
            now = _Requests(self._clock(), sum(statuses.values()), statuses.get("304", 0))
            self._requests.setdefault(provider, deque(maxlen=LOOKS)).append(now)

    def refresh(self) -> None:
        """Make the object anew."""
        self.shown = json.dumps(self._state(), ensure_ascii=True).encode()

    def _enter(self, phase: str, text: str, lost: int = 0) -> None:
        if not self.is_over:
            self._phase, self._text, self._lost = phase, text, lost
            self.refresh()

    def _state(self) -> dict[str, Any]:
        now_ms = self._clock()
        return {
            "phase": self._phase,
            "text": self._text,
            "lost": self._lost,
            "now_ms": now_ms,
            "began_ms": self._began_ms,
            "totals": {
                "changes": len(self.ledger.changes),
                "events": self.ledger.events,
                "awaited": self.ledger.unanswered(),
                "repeated": self.ledger.repeated,
            },
            "freshness": self._freshness(""),
            "providers": [self._provider(name) for name in sorted(self._accounts)],
            "rate": self._rate(now_ms),
            "events": list(self._events),
        }

    def _provider(self, name: str) -> dict[str, Any]:
        facts = {"provider": name, **asdict(self._accounts[name])}
        return {**facts, **self._pace(name), **self._freshness(name)}

    def _pace(self, provider: str) -> dict[str, float | None]:
        """Say how much was asked between the latest looks, and how much of it for nothing."""
        pace: dict[str, float | None] = {"requests_per_second": None, "unchanged": None}
        if provider not in self._requests:
            return pace
        before, now = self._requests[provider][0], self._requests[provider][-1]
        answered = now.answered - before.answered
        if now.at_ms > before.at_ms:
            pace["requests_per_second"] = answered * 1000 / (now.at_ms - before.at_ms)
        if answered:
            pace["unchanged"] = (now.unchanged - before.unchanged) / answered
        return pace

    def _freshness(self, provider: str) -> dict[str, Any]:
        fresh = asdict(self.ledger.freshness(provider))
        return fresh if fresh["changes"] else {"changes": 0, "p50_s": None, "p99_s": None}

    def _rate(self, now_ms: int) -> dict[str, Any]:
        # Buckets begin at round instants, so that what was shown does not move between them.
        end_ms = (now_ms // (BUCKET_S * 1000) + 1) * BUCKET_S * 1000
        begin_ms = end_ms - BUCKETS * BUCKET_S * 1000
        while self._received_ms and self._received_ms[0] < begin_ms:
            self._received_ms.popleft()
        recent = takewhile(
            lambda one: one.at_ms > begin_ms - LATE_MS, reversed(self.ledger.changes)
        )
        made_ms = [one.at_ms for one in recent if one.at_ms <= now_ms]
        return {
            "bucket_s": BUCKET_S,
            "changes": _counts(made_ms, begin_ms),
            "events": _counts(self._received_ms, begin_ms),
        }


def _counts(instants_ms: Any, begin_ms: int) -> list[int]:
    counts = [0] * BUCKETS
    for at_ms in instants_ms:
        number = (at_ms - begin_ms) // (BUCKET_S * 1000)
        if 0 <= number < BUCKETS:
            counts[number] += 1
    return counts


def _line(event: Mapping[str, Any], at_ms: int) -> dict[str, Any]:
    """Say of an event what a person wants to see of it."""
    body = event["body"]
    types = [change.get("type") for change in body.get("changes", ())]
    words = {
        "uuid": event["uuid"],
        "provider": body.get("provider", ""),
        "account": event["ownerId"],
        "stream": body["stream"],
        "type": next(filter(None, types), ""),
        "change": body["change"],
        "told": _told(record_of(body)),
    }
    return {name: str(text)[:TEXT_MAX] for name, text in words.items()} | {"at_ms": at_ms}


def _told(record: Mapping[str, Any]) -> str:
    told = next((str(record[name]) for name in TELLING if record.get(name) not in (None, "")), "")
    caller = record.get("from")
    if not told and isinstance(caller, Mapping):
        return f"from {caller.get('name') or caller.get('phoneNumber', '')}"
    return told
