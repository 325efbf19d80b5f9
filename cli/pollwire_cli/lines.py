"""
A file of accounts, read line by line: CSV with a header, or JSON Lines.

    account               the provider's id
    setting.NAME          a setting; or "settings", a JSON object of them
    credential.NAME       a field of the credential; or "credential", a JSON object of them

A line that cannot be taken says why, and never what is in it: it may be a secret in the wrong
place.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pollwire.errors import Misconfigured
from pollwire.model import ACCOUNT_ID, require_known

from pollwire_cli.secret import checked

#: Of a column's name, where it is shown.
NAME_CHARS_MAX = 40

WHOLE = ("account", "settings", "credential")
PREFIXES = {"setting.": "settings", "credential.": "credential"}

#: How both formats name an account's parts.
COLUMNS = "account, settings, setting.NAME, credential, credential.NAME"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A line that can be registered.

    Attributes:
        line: Its number, from 1 on.

        credential: Empty if it has none of its own.
    """

    line: int
    account: str
    settings: Mapping[str, str]
    credential: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that was not registered, and why."""

    line: int
    reason: str


def read_lines(text: str, wanted: tuple[str, ...]) -> tuple[list[Entry], list[Refusal]]:
    """
    Read all lines.

    Args:
        wanted: Fields of a credential.

    Raises:
        Misconfigured: The header is wrong, or there is nothing but it.
    """
    is_json = text.lstrip().startswith("{")
    entries: dict[str, Entry] = {}
    refusals: list[Refusal] = []
    for line, parse in _json_lines(text) if is_json else _csv_lines(text, wanted):
        try:
            entry = _entry(line, parse(), wanted)
            if entry.account in entries:
                first = entries[entry.account].line
                raise Misconfigured(f"account {entry.account} is in line {first} already")
            entries[entry.account] = entry
        except Misconfigured as error:
            refusals.append(Refusal(line, str(error)))
    if not entries and not refusals:
        raise Misconfigured("the file has no accounts; give CSV with a header, or JSON Lines")
    return list(entries.values()), refusals


Parse = Callable[[], Mapping[str, Any]]


def _json_lines(text: str) -> Iterator[tuple[int, Parse]]:
    # Not splitlines(), to which more characters end a line than to JSON Lines.
    for line, written in enumerate(text.split("\n"), 1):
        if written.strip():
            yield line, lambda written=written: _object(written)  # type: ignore[misc]


def _csv_lines(text: str, wanted: tuple[str, ...]) -> Iterator[tuple[int, Parse]]:
    lines = list(io.StringIO(text, newline=""))
    reader, before = csv.reader(lines, strict=True), 0
    header = _header(reader, wanted)
    while True:
        line = before + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _failing(f"no CSV: {error}")
            # A quote that is not closed has taken the lines after it along.
            rest = map(lines.__getitem__, range(line, len(lines)))
            reader, before = csv.reader(rest, strict=True), line
            continue
        if cells:
            yield line, lambda cells=cells: _row(header, cells)  # type: ignore[misc]


def _failing(reason: str) -> Parse:
    def parse() -> Mapping[str, Any]:
        raise Misconfigured(reason)

    return parse


def _header(reader: Iterator[list[str]], wanted: tuple[str, ...]) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise Misconfigured(f"line 1: no CSV: {error}") from None
    if "account" not in header:
        # Without a header these are somebody's data, and not to be shown.
        raise Misconfigured(f"line 1: no column is named account; name the columns: {COLUMNS}")
    _require_known(header, wanted)
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise Misconfigured(f"line 1: column {twice[0]} is there twice")
    return header


def _row(header: list[str], cells: list[str]) -> Mapping[str, Any]:
    """Read a row; an empty cell says nothing."""
    if len(cells) != len(header):
        raise Misconfigured(f"{len(cells)} cells, and the header has {len(header)}")
    row: dict[str, Any] = {
        name: cell for name, cell in zip(header, cells, strict=True) if cell or name == "account"
    }
    for name in ("settings", "credential"):
        if name in row:
            row[name] = _object(row[name], f"{name}: ")
    return row


def _object(written: str, what: str = "") -> dict[str, Any]:
    try:
        found = json.loads(written, object_pairs_hook=lambda pairs: _once(pairs, what))
    except json.JSONDecodeError as error:
        # Some of its messages end with the word.
        why = error.msg.removesuffix(" at")
        raise Misconfigured(f"{what}no JSON: {why} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise Misconfigured(f"{what}JSON that cannot be read") from None
    if not isinstance(found, dict):
        raise Misconfigured(f"{what}one JSON object is expected")
    return found


def _once(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Misconfigured(f"{what}a name is given twice")
    return found


def _entry(line: int, row: Mapping[str, Any], wanted: tuple[str, ...]) -> Entry:
    if "account" not in row:
        raise Misconfigured("account is missing")
    _require_known(row, wanted)
    account = row["account"]
    if type(account) is int:
        account = str(account)
    if not isinstance(account, str) or not ACCOUNT_ID.fullmatch(account):
        raise Misconfigured("account: 1 to 200 letters, digits and any of . _ @ + : ~ = -")
    settings, credential = _part(row, "setting."), _part(row, "credential.")
    for name, value in settings.items():
        if not isinstance(value, str):
            raise Misconfigured(f"settings.{_short(name)}: a text is expected, in quotes")
    require_known(settings, "account")
    return Entry(line, account, settings, checked(credential, wanted) if credential else {})


def _require_known(names: list[str] | Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    credential = [f"credential.{name}" for name in wanted]
    unknown = [
        name
        for name in names
        if name not in (*WHOLE, *credential) and (name[:8] != "setting." or name == "setting.")
    ]
    if unknown:
        raise Misconfigured(
            f"unknown column {', '.join(map(_short, unknown))}; there are account, settings, "
            f"setting.NAME, credential, {', '.join(credential)}"
        )


def _part(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Put together what is in one object and what has columns of its own."""
    whole = PREFIXES[prefix]
    found = row.get(whole, {})
    if not isinstance(found, dict):
        raise Misconfigured(f"{whole}: a JSON object is expected")
    single = {name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)}
    twice = sorted(single.keys() & found.keys())
    if twice:
        raise Misconfigured(f"{prefix}{_short(twice[0])} is given twice")
    return {**found, **single}


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS_MAX else f"{name[:NAME_CHARS_MAX]}..."
