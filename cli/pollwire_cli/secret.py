"""
Credentials and push secrets, read so that nobody else sees them: from a hidden prompt, a file or
stdin.

Never from an argument, which every user of the machine can see. No message here holds a value.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import typer
from pollwire.errors import Misconfigured

#: KMS's limit of what it seals in one call.
SEALED_BYTES_MAX = 4096

#: What verifies notifications: too long to be guessed, and fit for a header.
PUSH_SECRET = re.compile("[!-~]{16,200}")

STDIN = "-"


def interactive() -> bool:
    """Tell whether somebody can be asked."""
    return sys.stdin.isatty()


def read_text(source: str) -> str:
    """
    Read a file, or stdin.

    Raises:
        Misconfigured: It cannot be read, or is no UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise Misconfigured(f"{source}: {error.strerror or 'it cannot be read'}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misconfigured(
            f"{source}: byte {error.start + 1} is no UTF-8; save the file as UTF-8"
        ) from None  # The error holds all of the file.


def read_credential(source: str, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """
    Read a credential from a file or stdin, one JSON object.

    Args:
        wanted: Its fields.

    Raises:
        Misconfigured: It is none; names the field.
    """
    try:
        found = json.loads(read_text(source))
    except (ValueError, RecursionError):
        raise Misconfigured(f"credential: {_expected(wanted)}, as UTF-8 text") from None
    return checked(found, wanted)


def ask_credential(wanted: tuple[str, ...]) -> Mapping[str, str]:
    """
    Ask for a credential, field by field; what is typed is not shown.

    Raises:
        Misconfigured: There is nobody to ask.
    """
    if not interactive():
        raise Misconfigured(
            "credential: there is no terminal to ask on; give --credential FILE, or - for stdin"
        )
    answers = {name: typer.prompt(name, hide_input=True, err=True) for name in wanted}
    return checked(answers, wanted)


def read_push_secret(source: str) -> str:
    """
    Read what verifies notifications from a file or stdin; white space around it is left out.

    Raises:
        Misconfigured: It is none.
    """
    return _push_secret(read_text(source).strip())


def ask_push_secret() -> str:
    """
    Ask for what verifies notifications; what is typed is not shown.

    Raises:
        Misconfigured: There is nobody to ask, or it is none.
    """
    if not interactive():
        raise Misconfigured(
            "push secret: there is no terminal to ask on; give --secret FILE, or - for stdin"
        )
    return _push_secret(typer.prompt("push secret", hide_input=True, err=True).strip())


def _push_secret(found: str) -> str:
    if not PUSH_SECRET.fullmatch(found):
        raise Misconfigured(
            "push secret: 16 to 200 letters, digits and signs are expected, without spaces"
        )
    return found


def checked(found: object, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """
    Take a credential that has every field its provider wants, as text, and nothing else.

    Raises:
        Misconfigured: It has not; names the field.
    """
    if not isinstance(found, dict):
        raise Misconfigured(f"credential: {_expected(wanted)}")
    foreign = [name for name in found if name not in wanted]
    if foreign:
        raise Misconfigured(
            f"credential has {len(foreign)} fields beside {', '.join(wanted)}; leave them out"
        )
    for name in wanted:
        value = found.get(name)
        if value is None or value == "":
            raise Misconfigured(f"credential.{name} is missing; {_expected(wanted)}")
        if not isinstance(value, str):
            raise Misconfigured(f"credential.{name}: a text is expected, in quotes")
    if len(json.dumps(found).encode()) > SEALED_BYTES_MAX:
        raise Misconfigured(
            f"credential: more than {SEALED_BYTES_MAX} bytes as JSON cannot be sealed; shorten it"
        )
    return found


def _expected(wanted: tuple[str, ...]) -> str:
    shape = ", ".join(f'"{name}": "..."' for name in wanted)
    return f"one JSON object is expected, {{{shape}}}"
