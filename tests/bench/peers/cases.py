"""
What every tool is put through, and what is counted.

Speed: each account has two rows; all is read, and then nothing happens.

Rows that are easily lost: 200 accounts in groups of 40, the newest row of each a second after the
one of the account before. Each group gets one kind of row, of one instant before now:

    behind     newer than its account's newest row, and older than the newest account's
    late 5 s   older than its account's newest row by 5 s, within Pollwire's overlap
    late 10 m  older by 10 minutes
    none       (what is repeated here is repeated for nothing)
    tie        of the very millisecond of its account's newest row
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.bench.peers.tools import MINUTE_MS, Clock, Ended, Figures, Late, Tool, Upstream

#: A cycle may take this long, and a tool's part of the cases altogether so much.
CYCLE_S, TOOL_S = 150, 240

#: Of more accounts, one cycle is measured and not the median of three, and only an idle one.
MANY = 2_000

ACCOUNTS = 200
GROUP = 40
#: Group by the kind of its row: how much newer that is than the account's newest, in ms.
GROUPS = {"behind": 500, "late 5 s": -5_000, "late 10 min": -600_000, "": 0, "tie": 0}

HOUR_MS = 3_600_000
MIB = 1024 * 1024

Cells = dict[str, str]


@dataclass
class Subject:
    """
    A tool at work, and what was found out about it.

    Attributes:
        notes: What a reader has to know beside the numbers.
    """

    tool: Tool
    upstream: Upstream
    ends_s: float
    cells: Cells = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def begin(self, accounts: int, *, strict: bool = True) -> tuple[Clock, list[str]]:
        """Start from nothing, with a provider that has nothing."""
        self.upstream.ask("reset", strict)
        clock = Clock(lambda offset_ms: self.upstream.ask("clock", offset_ms))
        names = [str(106_540_000_000_000 + number) for number in range(accounts)]
        self.tool.begin(self.upstream, clock, names)
        return clock, names

    def cycle(self, *, expected: bool = False) -> Figures:
        """
        Run a cycle.

        Args:
            expected: That it fails is no news.
        """
        figures = self.tool.cycle(self._deadline_s())
        if figures.error and not expected:
            self.notes.append(" ".join(figures.error.split())[:160])
        return figures

    def cycles(self, number: int) -> None:
        for _ in range(number):
            self.cycle()

    def killed(self) -> bool:
        return self.tool.killed(self._deadline_s())

    def _deadline_s(self) -> float:
        now_s = time.monotonic()
        if now_s > self.ends_s:
            raise Late
        return min(now_s + CYCLE_S, self.ends_s)

    def repeated(self) -> int:
        delivered = self.tool.delivered()
        return len(delivered) - len(set(delivered))


def bounded(subject: Subject, work: Callable[[Subject], None], what: str) -> None:
    """Do a part of the comparison; say so if there is not the time for all of it."""
    try:
        work(subject)
    except Late:
        subject.notes.append(
            f"{what}: out of time; a cycle may take {CYCLE_S} s, this part {TOOL_S} s"
        )
    except Ended as ended:
        subject.notes.append(f"{what}: {ended}")
    finally:
        subject.tool.end()


def speed(subject: Subject, accounts: int) -> None:
    """Load everything, then measure cycles in which nothing happens."""
    clock, names = subject.begin(accounts)
    begin_ms = clock.now_ms() - HOUR_MS
    # Every row has an instant of its own, in no order of accounts.
    places = [(number * 7919) % (2 * accounts) for number in range(2 * accounts)]
    rows = [
        (names[number // 2], f"cnv_{number}", begin_ms + place * (HOUR_MS // 4) // accounts)
        for number, place in enumerate(places)
    ]
    subject.upstream.ask("rows", rows)
    cells, upstream = subject.cells, subject.upstream
    first = subject.cycle()
    cells["first load, s"] = f"{first.wall_s:.1f} ({first.cpu_s:.1f})"
    cells["first load, rows lost"] = str(len(rows) - len(set(subject.tool.delivered())))
    if subject.tool.name == "Pollwire":
        subject.cycles(2)  # Its first look is looked at once more when late rows have settled.
    elif accounts <= MANY:
        subject.cycles(1)
    upstream.ask("counts")
    before = len(subject.tool.delivered())
    idle = [_counted(subject) for _ in range(measured(accounts))]
    figures = [one for one, _ in idle]
    wall_s = statistics.median(one.wall_s for one in figures)
    cpu_s = statistics.median(one.cpu_s for one in figures)
    cells["wall, s"] = f"{wall_s:.2f}"
    cells["polls a second"] = f"{accounts / wall_s:.0f}"
    cells["CPU, s"] = f"{cpu_s:.2f}"
    cells["CPU, us a poll"] = f"{cpu_s / accounts * 1e6:.0f}"
    cells["memory, MB (max RSS)"] = f"{max(one.rss_mb for one in figures):.0f}"
    for name, key in (("requests", "requests"), ("answered 304", "unchanged")):
        cells[name] = f"{statistics.median(counts[key] for _, counts in idle):.0f}"
    for name, key in (("KB sent", "received_bytes"), ("KB received", "sent_bytes")):
        cells[name] = f"{statistics.median(counts[key] for _, counts in idle) / 1024:.0f}"
    cells["state written, KB"] = f"{statistics.median(one.state for one in figures) / 1024:.1f}"
    items = statistics.median(one.items for one in figures)
    cells["state written, items"] = f"{items:.0f}" if subject.tool.name == "Pollwire" else "-"
    again = (len(subject.tool.delivered()) - before) / len(idle)
    cells["rows sent again"] = f"{again:.0f}"
    if accounts > MANY:
        return
    _one_each(subject, clock, names, "n")
    news = subject.cycle()
    cells["all changed, s"] = f"{news.wall_s:.1f} ({news.cpu_s:.1f})"


def measured(accounts: int) -> int:
    """Say how many idle cycles are measured."""
    return 1 if accounts > MANY else 3


def _counted(subject: Subject) -> tuple[Figures, dict[str, int]]:
    figures = subject.cycle()
    return figures, subject.upstream.ask("counts")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind, by their accounts."""

    ids: frozenset[str]

    def got(self, tool: Tool) -> int:
        return len(self.ids & set(tool.delivered()))


def rows_lost(subject: Subject, *, strict: bool) -> None:
    """Put a row of each kind where it is easily lost."""
    clock, names = subject.begin(ACCOUNTS, strict=strict)
    begin_ms = clock.now_ms() - 2 * HOUR_MS
    newest = {name: begin_ms + number * 1_000 for number, name in enumerate(names)}
    first = [
        row
        for name, at_ms in newest.items()
        for row in ((name, f"a{name}", at_ms - HOUR_MS), (name, f"b{name}", at_ms))
    ]
    subject.upstream.ask("rows", first)
    subject.cycles(2)
    groups: dict[str, Rows] = {}
    for number, (kind, more_ms) in enumerate(GROUPS.items()):
        members = names[number * GROUP : (number + 1) * GROUP] if kind else []
        added = [(name, f"{kind[:6]}{name}", newest[name] + more_ms) for name in members]
        subject.upstream.ask("rows", added)
        groups[kind] = Rows(frozenset(identity for _, identity, _ in added))
    groups.pop("")
    subject.cycles(2)
    soon = {kind: rows.got(subject.tool) for kind, rows in groups.items()}
    clock.move_to(clock.now_ms() + HOUR_MS)
    subject.cycles(1)
    where = "strict" if strict else "inclusive"
    for kind, rows in groups.items():
        found = rows.got(subject.tool)
        late = f", {found} after 1 h" if found > soon[kind] else ""
        subject.cells[f"{where}: {kind}"] = f"{soon[kind]}{late}"
    subject.cells[f"{where}: repeated"] = str(subject.repeated())
    if strict:
        _one_fails(subject, clock, names)
        _killed(subject, clock, names)


def _one_fails(subject: Subject, clock: Clock, names: list[str]) -> None:
    """Give each account a row while one of them answers 500; then let that one answer again."""
    before = subject.repeated()
    rows = _one_each(subject, clock, names, "f")
    subject.upstream.ask("fail", [names[ACCOUNTS // 2]])
    figures = subject.cycle(expected=True)
    subject.cells["500: the cycle"] = "fails" if figures.error else "succeeds"
    subject.cells["500: got of 199"] = str(rows.got(subject.tool))
    subject.cells["500: the cycle took, s"] = f"{figures.wall_s:.1f}"
    subject.upstream.ask("fail", [])
    subject.cycles(2)
    subject.cells["500: got of 200 later"] = str(rows.got(subject.tool))
    subject.cells["500: repeated"] = str(subject.repeated() - before)


def _killed(subject: Subject, clock: Clock, names: list[str]) -> None:
    """Give each account a row, and kill the process when half of them have been handed out."""
    before = subject.repeated()
    rows = _one_each(subject, clock, names, "k")
    subject.upstream.ask("hold", ACCOUNTS // 2)
    if not subject.killed():
        subject.notes.append("kill -9: it ended before it could be killed")
    subject.upstream.ask("hold", -1)
    subject.cycles(2)
    clock.move_to(clock.now_ms() + HOUR_MS)
    subject.cycles(1)
    subject.cells["kill -9: lost"] = str(ACCOUNTS - rows.got(subject.tool))
    subject.cells["kill -9: repeated"] = str(subject.repeated() - before)


def _one_each(subject: Subject, clock: Clock, names: list[str], prefix: str) -> Rows:
    now_ms = clock.now_ms() - MINUTE_MS
    added = [(name, f"{prefix}{name}", now_ms + number) for number, name in enumerate(names)]
    subject.upstream.ask("rows", added)
    return Rows(frozenset(identity for _, identity, _ in added))


def compared(
    tool: Tool, upstream: Upstream, accounts: int, ends_s: float
) -> tuple[Cells, list[str]]:
    """Put a tool through all of it."""
    subject = Subject(tool, upstream, ends_s)
    bounded(subject, lambda one: speed(one, accounts), f"{accounts} accounts")
    # Its own bound: what one tool takes too long for is not missing from the next one's.
    subject = replace(subject, ends_s=min(ends_s, time.monotonic() + TOOL_S))
    for strict in (True, False):
        bounded(subject, lambda one, s=strict: rows_lost(one, strict=s), "rows that are lost")
    return subject.cells, subject.notes
