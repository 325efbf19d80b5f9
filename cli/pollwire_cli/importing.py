"""
Accounts from a file: sealed in several threads, registered in batches, counted.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import typer
from pollwire.errors import Misconfigured
from pollwire.items import Newcomer
from pollwire.model import Connection
from pollwire.secrets import Sealer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pollwire_cli.lines import Entry, Refusal
from pollwire_cli.output import document, say
from pollwire_cli.session import SEALERS, Session

#: What one transaction of the state registers.
BATCH = 100

#: Batches that are sealed ahead of the one being registered.
AHEAD = 4

#: Seconds between two lines about progress, where there is no terminal for a bar.
PROGRESS_S = 10.0

#: How the state says of which account it speaks.
_SAID = re.compile(r"account [^/ ]+/(\S+) is registered already")


class Import:
    """
    One import of accounts, and what has become of its lines.

    Args:
        refusals: Lines that could not be read.

    Attributes:
        registered: Accounts that are new.

        known: Lines whose accounts were registered before; they stay as they are.

        refusals: Lines that were not taken.
    """

    def __init__(self, session: Session, connection: Connection, refusals: list[Refusal]) -> None:
        self.registered = 0
        self.known: list[Entry] = []
        self.refusals = refusals
        self._bare = 0
        self._left = 0
        self._session = session
        self._sealer: Sealer | None = None
        self._connection = connection

    def run(self, entries: Sequence[Entry]) -> None:
        """
        Register what is not registered yet.

        Raises:
            PollwireError: AWS refuses; the accounts until then are registered.
        """
        self._left = len(entries)
        with ThreadPoolExecutor(SEALERS) as pool, progress(len(entries)) as advance:
            try:
                self._run(entries, pool, advance)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run(self, entries: Sequence[Entry], pool: ThreadPoolExecutor, advance: Any) -> None:
        # What is there already needs no seal and no room: an import that was broken off goes on.
        fresh: list[Entry] = []
        batches = list(_batches(entries))
        for batch, known in zip(batches, pool.map(self._known, batches), strict=True):
            old = [one for one in batch if one.account in known]
            self.known += old
            fresh += [one for one in batch if one.account not in known]
            self._advance(len(old), advance)
        if any(one.credential for one in fresh):
            self._sealer = self._session.sealer  # Here: clients are made by one thread only.
        self._session.state.make_room(self._connection.name, len(fresh))
        for batch, newcomers in self._sealed(fresh, pool):
            self._register(batch, newcomers)
            self._advance(len(batch), advance)

    def _known(self, batch: Sequence[Entry]) -> set[str]:
        accounts = [one.account for one in batch]
        return self._session.state.known_accounts(self._connection, accounts)

    def _sealed(
        self, entries: Sequence[Entry], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Sequence[Entry], list[Newcomer]]]:
        """Seal batch by batch, some of them ahead."""
        waiting: deque[tuple[Sequence[Entry], list[Future[Newcomer]]]] = deque()
        for batch in _batches(entries):
            waiting.append((batch, [pool.submit(self._newcomer, one) for one in batch]))
            if len(waiting) > AHEAD:
                batch, futures = waiting.popleft()
                yield batch, [future.result() for future in futures]
        for batch, futures in waiting:
            yield batch, [future.result() for future in futures]

    def _newcomer(self, entry: Entry) -> Newcomer:
        sealed = None
        if entry.credential:
            assert self._sealer
            sealed = self._sealer.seal(entry.credential, self._connection.name, entry.account)
        return Newcomer(entry.account, entry.settings, sealed)

    def _register(self, batch: Sequence[Entry], newcomers: list[Newcomer]) -> None:
        by_account = {one.account: one for one in batch}
        refused = self._session.state.add_accounts(self._connection, newcomers)
        self.registered += len(batch) - len(refused)
        for reason in refused:
            said = _SAID.fullmatch(str(reason))
            if said is None:
                # Lines are read so that this is all it can say.
                raise Misconfigured(f"after line {batch[0].line}: {reason}")
            self.known.append(by_account[said[1]])
        self._bare += sum(one.credential is None for one in newcomers)

    def _advance(self, lines: int, advance: Any) -> None:
        self._left -= lines
        advance(lines)

    def report(self) -> None:
        """Say what has become of the lines."""
        self.refusals.sort(key=lambda one: one.line)
        if self._session.as_json:
            document(
                {
                    "connection": self._connection.name,
                    "registered": self.registered,
                    "registered_already": [
                        {"line": one.line, "account": one.account} for one in self.known
                    ],
                    "refused": [{"line": one.line, "reason": one.reason} for one in self.refusals],
                    "left": self._left,
                }
            )
        else:
            self._report_lines()
        if self._bare and not self._connection.credential:
            say(
                f"registered without a credential: {self._bare}; connection "
                f"{self._connection.name} has none for all, so set it: pollwire accounts credential"
            )
        if self._left:
            say(f"broken off with {self._left} lines left; the same command goes on from there")

    def _report_lines(self) -> None:
        for one in self.refusals:
            say(f"line {one.line}: {one.reason}")
        for first, last in _ranges(one.line for one in self.known):
            lines = f"line {first}" if first == last else f"lines {first} to {last}"
            say(f"{lines}: registered already")
        typer.echo(
            f"registered: {self.registered}, registered already: {len(self.known)}, "
            f"refused: {len(self.refusals)}"
        )


@contextmanager
def progress(total: int) -> Iterator[Any]:
    """Show how far it is: a bar on a terminal, otherwise a line now and then."""
    if sys.stderr.isatty():
        columns = (TextColumn("accounts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda lines: bar.advance(task, lines)
        return
    done, said_s = 0, time.monotonic()

    def advance(lines: int) -> None:
        nonlocal done, said_s
        done += lines
        if time.monotonic() - said_s >= PROGRESS_S:
            said_s = time.monotonic()
            say(f"{done} of {total} lines")

    yield advance


def _batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    rest = iter(entries)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Put numbers that follow each other together."""
    first = last = 0
    for number in sorted(numbers):
        if number == last + 1 and first:
            last = number
            continue
        if first:
            yield first, last
        first = last = number
    if first:
        yield first, last
