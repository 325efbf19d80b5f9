"""
What a command says: tables for people or JSON for programs on stdout, the rest on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from pollwire.events import iso
from pollwire.providers import INSTANT_MS_MAX
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: A table that goes into a file or a pipe is as wide as it has to be.
UNLIMITED = 10_000


def say(text: str) -> None:
    """Say something to the operator, whatever becomes of stdout."""
    typer.echo(plain(text), err=True)


def document(value: object) -> None:
    """Print one line of JSON."""
    typer.echo(json.dumps(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below a header."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(plain(str(cell))) for cell in row))
    _print(shown)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one thing, a field a line."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs:
        shown.add_row(name, Text(plain(str(value))))
    _print(shown)


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
    """Leave out what would steer a terminal: what is shown was written by others."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _print(shown: Table) -> None:
    width = None if sys.stdout.isatty() else UNLIMITED
    Console(width=width, highlight=False, soft_wrap=False).print(shown)
