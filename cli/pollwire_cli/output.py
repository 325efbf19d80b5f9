"""
What a command says: tables for people or JSON for programs on stdout, the rest on stderr.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from pollwire.events import iso
from pollwire.providers import INSTANT_MS_MAX
from rich.cells import cell_len, set_cell_size


def say(text: str) -> None:
    """Say something to the operator, whatever becomes of stdout."""
    typer.echo(plain(text), err=True)


def document(value: object) -> None:
    """Print one line of JSON."""
    typer.echo(json.dumps(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below a header."""
    _print([columns, *rows], header=True)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one thing, a field a line."""
    _print(list(pairs), header=False)


def done(as_json: bool, text: str, facts: Mapping[str, Any]) -> None:
    """Say that something was done."""
    if as_json:
        document(facts)
    else:
        typer.echo(plain(text))


def instant(at_ms: int) -> str | None:
    """Write an instant, or ``None`` for one that is not set."""
    return iso(min(at_ms, INSTANT_MS_MAX)) if at_ms > 0 else None


def pairs_text(pairs: Mapping[str, str]) -> str:
    """Write settings or hosts in one cell."""
    return ", ".join(f"{name}={value}" for name, value in pairs.items()) or "-"


def plain(text: str) -> str:
    """Write out what would steer a terminal: what is shown was written by others."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _print(rows: Sequence[Sequence[object]], header: bool) -> None:
    # Not rich's Table: it takes half a minute for the accounts of a large connection.
    texts = [[plain(str(cell)) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    for number, row in enumerate(texts):
        cells = map(set_cell_size, row, widths)
        line = "  ".join(cells).rstrip()
        typer.echo(typer.style(line, bold=True) if header and not number else line)
