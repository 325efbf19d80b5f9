"""
What must never be seen: the credentials of the suites, in every form that they may be written in.

Each credential of a test has the word ``canary`` in it, in any case.
"""

from __future__ import annotations

import base64
import logging
from typing import Any

#: What credentials begin with in the suites; CANARY-OF-TWEET are those of the simulation.
CREDENTIALS = (
    "canary-client",
    "canary-jwt",
    "canary-key",
    "canary-password",
    "canary-secret",
    "canary-token",
    "canary-user",
    "canary-wrong",
    "kdv_live_canary",
    "CANARY-OF-TWEET",
)


def within_base64(text: str, shift: int) -> str:
    """Write how a text looks in base64 when so many bytes precede it, in the whole quanta."""
    written = base64.b64encode(b"-" * shift + text.encode()).decode()
    return written[4 * bool(shift) : (shift + len(text)) // 3 * 4]


def forms(text: str) -> tuple[str, ...]:
    """Write a text as it is, and as it looks within what was encoded; quoting changes no letter."""
    return (text, text.encode().hex(), *(within_base64(text, shift) for shift in range(3)))


_FORMS = tuple(form for text in CREDENTIALS for form in forms(text))


def holds_credential(text: str) -> bool:
    """Tell whether a text opens something."""
    return any(form in text for form in _FORMS)


def holds_canary(text: str) -> bool:
    """The same, of a text that has no business to have even the word."""
    return "canary" in text.lower() or holds_credential(text)


#: What people say and are called, in the simulators: long enough to be nothing else by chance.
PERSONAL = (
    "425555010", "4255550111", "+1415", "+1650", "61555879987", "61500079987", "+628", "Budi",
    "Hello",
)  # fmt: skip


def is_personal(text: str) -> bool:
    """Tell whether a text says something of what people said, and to whom."""
    return any(one in text for one in PERSONAL)


#: Loggers of the functions and of the package.
OURS = ("schedule", "check", "delta", "pollwire")


class Watch(logging.Handler):
    """Notes where a secret was seen, never the secret itself."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self.seen: list[str] = []

    def addFilter(self, _: Any) -> None:
        """Let nothing be kept from it: Powertools would keep its own loggers' records."""

    def emit(self, record: logging.LogRecord) -> None:
        text, place = self.format(record), f"line {record.lineno} of {record.name}'s log"
        if record.name.split(".")[0] in OURS:
            text += repr(record.__dict__)  # Structured: much of it is beside the message.
            if is_personal(text):
                self.seen.append(f"{place}: what people said")
        self.look(place, text)

    def look(self, place: str, text: str) -> None:
        if holds_canary(text):
            self.seen.append(place)


WATCH = Watch()
