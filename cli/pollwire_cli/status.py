"""
``pollwire status``: how late what is polled is, what fails and why, what lies in the queues.

Read from the table (who is registered, paused, failing, pending), from the functions' log lines
of the last minutes (lag, due, overdue), and from the queues. What cannot be read is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError
from pollwire import marks
from pollwire.items import Listing
from pollwire.model import Connection
from pollwire.providers import registered

from pollwire_cli.command import command
from pollwire_cli.logs import Logs
from pollwire_cli.output import document, instant, plain, table
from pollwire_cli.queues import WAITING, dead_queue, job_queues
from pollwire_cli.recent import Told, percentile
from pollwire_cli.session import Session, is_denied

app = typer.Typer()

#: Accounts that are looked at of all connections together, and of each at least.
ACCOUNTS_MAX, ACCOUNTS_MIN = 20_000, 100

#: Of a reason, which is an error's name.
REASON_CHARS_MAX = 40

#: SQS tells the age of a queue's oldest message to CloudWatch only, once a minute.
AGE_MIN = 10

COLUMNS = (
    *("provider", "accounts", "due", "overdue", "paused", "failing", "pending"),
    *("oldest pending", "lag p50", "lag p99", "polls", "unchanged", "changes"),
)


@dataclass
class Accounts:
    """
    How a provider's accounts stand.

    Attributes:
        read: So many were looked at.

        reasons: Of those that fail, by error.

        oldest_ms: When the mark was first seen that has been pending longest; 0 for none.
    """

    read: int = 0
    paused: int = 0
    failing: int = 0
    pending: int = 0
    oldest_ms: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, one: Listing) -> None:
        """Take an account in."""
        self.read += 1
        standing = one.standing
        if standing is None or standing.failures:
            self.failing += 1
            reason = one.trouble.partition(":")[0] if standing else "cannot be read"
            self.reasons[reason[:REASON_CHARS_MAX] or "unknown"] += 1
        if standing is None:
            return
        self.paused += standing.paused
        seen = [marks.seen_ms(element) for element in marks.readable(standing.pending)]
        self.pending += bool(seen)
        self.oldest_ms = min([ms for ms in (self.oldest_ms, *seen) if ms], default=0)


@command(
    app,
    epilog="""
    pollwire status
    pollwire status --minutes 60 --json
    """,
)
def status(
    session: Session,
    minutes: Annotated[
        int, typer.Option(help="How far back the functions' log is read.", min=1, max=1440)
    ] = 15,
) -> None:
    """
    Show how late each provider is, and what stands in its way.

    \b
    lag: from a change to its publication; half of them below p50
    due: accounts whose turn it was at the last check of their shard
    overdue: not asked then, or of a shard that was not checked in time
    pending: accounts with a change that is seen and not settled yet
    "-" is not known; a note says why
    """
    found = _found(session, minutes)
    if session.as_json:
        document(found)
    else:
        _show(found)


def _found(session: Session, minutes: int) -> dict[str, Any]:
    connections, broken = session.state.connections()
    notes = [f"connection {name}: its item cannot be read" for name in broken]
    notes += [note for one in connections for note in _pause(session, one)]
    if not connections and not broken:
        notes.append("nothing is registered yet; see pollwire connections add")
    accounts = _accounts(session, connections, notes)
    logs = _logs(session, [one.provider for one in connections], minutes, notes)
    queues = _allowed(notes, "the queues", lambda: _queues(session, notes))
    return {
        "stack": session.name,
        "at": instant(session.now_ms),
        "log": _read(logs),
        "providers": [
            _provider(session, name, connections, accounts[name], logs) for name in accounts
        ],
        "queues": queues,
        "notes": notes,
    }


def _pause(session: Session, one: Connection) -> Iterator[str]:
    if one.paused_until_ms > session.now_ms:
        why = f"{one.outages} checks in a row had no answer; " if one.outages else ""
        yield f"connection {one.name}: {why}paused until {instant(one.paused_until_ms)}"


def _allowed(notes: list[str], what: str, read: Callable[[], Any]) -> Any:
    """Read something; if AWS does not allow it, say so, and what is unknown for it."""
    try:
        return read()
    except ClientError as error:
        if not is_denied(error):
            raise
        code = error.response["Error"]["Code"]
        notes.append(f"{what}: not known, since {error.operation_name} is not allowed ({code})")
        return None


def _accounts(
    session: Session, connections: Sequence[Connection], notes: list[str]
) -> dict[str, Accounts]:
    """Look at the accounts, those of large connections in part."""
    found = {one.provider: Accounts() for one in connections}
    most = max(ACCOUNTS_MAX // max(len(connections), 1), ACCOUNTS_MIN)
    for one in connections:
        for listing in islice(session.state.accounts(one), most):
            found[one.provider].add(listing)
        if one.accounts > most:
            notes.append(
                f"connection {one.name}: {most} of its {one.accounts} accounts were looked at; "
                "paused, failing and pending count those"
            )
    return found


def _logs(
    session: Session, providers: Sequence[str], minutes: int, notes: list[str]
) -> Logs | None:
    """Read what the functions of the providers that are in use told."""
    since_ms = session.now_ms - minutes * 60_000
    logs = Logs(session.client("logs"), session.name, since_ms, session.now_ms)
    known = registered()

    def read() -> Logs:
        for name in [name for name in known if name in providers]:
            for function in (f"check-{name}", *(f"delta-{one}" for one in known[name].streams)):
                logs.read(function)
        return logs

    found = _allowed(notes, "lag, polls, due and overdue", read)
    notes += logs.notes
    if found and providers and not logs.recent.lines:
        notes.append(f"no function told anything in the last {minutes} minutes")
    return logs if found else None


def _read(logs: Logs | None) -> dict[str, Any] | None:
    if logs is None:
        return None
    return {
        "since": instant(logs.whole_ms),
        "lines": logs.recent.lines,
        "calls": logs.calls,
    }


def _provider(
    session: Session,
    name: str,
    connections: Sequence[Connection],
    accounts: Accounts,
    logs: Logs | None,
) -> dict[str, Any]:
    own = [one for one in connections if one.provider == name]
    told = logs.recent.told[name] if logs else None
    due, overdue = _turns(session, own, logs)
    oldest_ms = accounts.oldest_ms
    return {
        "provider": name,
        "connections": len(own),
        "accounts": sum(one.accounts for one in own),
        "read": accounts.read,
        "due": due,
        "overdue": overdue,
        "paused": accounts.paused,
        "failing": accounts.failing,
        "reasons": dict(accounts.reasons.most_common()),
        "pending": accounts.pending,
        "oldest_pending_s": max(session.now_ms - oldest_ms, 0) // 1000 if oldest_ms else None,
        "lag_p50_ms": percentile(told.lags_ms, 0.5) if told else None,
        "lag_p99_ms": percentile(told.lags_ms, 0.99) if told else None,
        **_told(told),
    }


def _told(told: Told | None) -> dict[str, Any]:
    if told is None:
        return dict.fromkeys(("polls", "unchanged", "changes", "errors"))
    counts = told.counts
    return {
        "polls": counts["polled"],
        "unchanged": counts["unchanged"],
        "changes": told.changes,
        "errors": told.errors,
    }


def _turns(
    session: Session, connections: Sequence[Connection], logs: Logs | None
) -> tuple[int | None, int | None]:
    """Count accounts that are due and overdue; of a paused connection, nobody is."""
    if logs is None:
        return None, None
    providers = registered()
    due, overdue = 0, 0
    for one in connections:
        if one.paused_until_ms > session.now_ms:
            continue
        fastest_s = providers[one.provider].fastest_s if one.provider in providers else 1
        found = logs.recent.turns(one, fastest_s, logs.whole_ms, session.now_ms)
        if found is None:
            return None, None
        due, overdue = due + found[0], overdue + found[1]
    return due, overdue


def _queues(session: Session, notes: list[str]) -> list[dict[str, Any]]:
    """Ask the stack's queues what lies in them."""
    sqs = session.client("sqs")
    pages = sqs.get_paginator("list_queues").paginate(
        QueueNamePrefix=f"{session.name}-", PaginationConfig={"PageSize": 1000}
    )
    urls = [url for page in pages for url in page.get("QueueUrls", ())]
    known = {url.rpartition("/")[2]: url for url in urls}
    names = _names(session.name)
    there = [name for name in names if name in known]
    missing = [name for name in names if name not in known and name not in _optional(session.name)]
    notes += [f"queue {name}: it is missing; deploy the stack again" for name in missing]
    ages = _allowed(notes, "the age of messages", lambda: _ages(session, there)) or {}
    return [_queue(sqs, session.name, name, known[name], ages.get(name)) for name in there]


def _names(stack: str) -> list[str]:
    jobs = job_queues(stack)
    return [*jobs, *(dead_queue(stack, name) for name in jobs), *_optional(stack)]


def _optional(stack: str) -> list[str]:
    """Name the queues of the default subscriber, which a stack may do without."""
    return [f"{stack}-{name}.fifo" for name in ("subscriber", "dead-subscriber", "undelivered")]


def _queue(sqs: Any, stack: str, name: str, url: str, oldest_s: int | None) -> dict[str, Any]:
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(WAITING))
    waiting, at_work, delayed = (int(answer["Attributes"].get(name, 0)) for name in WAITING)
    return {
        "queue": name,
        "dead": name.startswith((f"{stack}-dead-", f"{stack}-undelivered")),
        "waiting": waiting,
        "at_work": at_work,
        "delayed": delayed,
        "oldest_s": oldest_s if waiting or at_work else None,
    }


def _ages(session: Session, names: Sequence[str]) -> dict[str, int]:
    """Ask CloudWatch how old the oldest message of each queue is, in seconds, where it knows."""
    end = datetime.fromtimestamp(session.now_ms / 1000, UTC)
    queries = [
        {
            "Id": f"q{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/SQS",
                    "MetricName": "ApproximateAgeOfOldestMessage",
                    "Dimensions": [{"Name": "QueueName", "Value": name}],
                },
                "Period": 60,
                "Stat": "Maximum",
            },
        }
        for number, name in enumerate(names)
    ]
    if not queries:
        return {}
    answer = session.client("cloudwatch").get_metric_data(
        MetricDataQueries=queries,
        StartTime=end - timedelta(minutes=AGE_MIN),
        EndTime=end,
        ScanBy="TimestampDescending",
    )
    values = {found["Id"]: found.get("Values") for found in answer.get("MetricDataResults", ())}
    ages = {name: values.get(f"q{number}") for number, name in enumerate(names)}
    return {name: round(found[0]) for name, found in ages.items() if found}


def _show(found: Mapping[str, Any]) -> None:
    table(COLUMNS, [_row(one) for one in found["providers"]])
    for name, columns in (
        ("reasons", ("provider", "failing because of", "accounts")),
        # Of single streams as well, whose accounts may do well otherwise.
        ("errors", ("provider", "went wrong lately", "times")),
    ):
        rows = [
            (one["provider"], reason, number)
            for one in found["providers"]
            for reason, number in (one[name] or {}).items()
        ]
        if rows:
            typer.echo()
            table(columns, rows)
    _show_queues(found["queues"] or [])
    typer.echo()
    log = found["log"]
    if log:
        typer.echo(f"Log since {log['since']}: {log['lines']} lines in {log['calls']} calls.")
    for note in found["notes"]:
        typer.echo(plain(f"Note: {note}"))


def _row(one: Mapping[str, Any]) -> tuple[object, ...]:
    share = None
    if one["polls"]:
        share = f"{100 * one['unchanged'] / one['polls']:.0f} %"
    shown = (
        *(one[name] for name in ("accounts", "due", "overdue", "paused", "failing", "pending")),
        _seconds(one["oldest_pending_s"]),
        *(_seconds(one[name], 1000) for name in ("lag_p50_ms", "lag_p99_ms")),
        one["polls"],
        share,
        one["changes"],
    )
    return (one["provider"], *("-" if cell is None else cell for cell in shown))


def _show_queues(queues: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            one["queue"],
            *(one[name] for name in ("waiting", "at_work", "delayed")),
            _seconds(one["oldest_s"]) or "-",
        )
        for one in queues
        if one["waiting"] or one["at_work"] or one["delayed"]
    ]
    if rows:
        typer.echo()
        table(("queue", "waiting", "at work", "delayed", "oldest message"), rows)
    if queues:
        typer.echo(f"\n{len(queues) - len(rows)} of {len(queues)} queues are empty.")


def _seconds(value: float | None, per_second: int = 1) -> str | None:
    if value is None:
        return None
    seconds = value / per_second
    return f"{seconds:.1f} s" if per_second > 1 and seconds < 100 else f"{seconds:.0f} s"
