"""
What an operator has done beside the regular checks: ``pollwire reconcile``, ``replay``, ``watch``.

An order lies in the account's pending set until it is done, and one check of the account is queued
at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from time import sleep
from typing import Annotated, Any

import typer
from pollwire import decide, marks
from pollwire.errors import Malformed, Misconfigured, NotPublished
from pollwire.items import Listing
from pollwire.model import CheckJob, Connection, DeltaJob, Record
from pollwire.providers import iso, iso_ms
from pollwire.queues import Queues
from pollwire.registry import COUNTED_MAX
from pollwire.wiring import clock
from pollwire.world import watched

from pollwire_cli.accounts import Account, ConnectionName, missing
from pollwire_cli.command import command
from pollwire_cli.connections import Yes, confirm
from pollwire_cli.output import done, instant
from pollwire_cli.session import Misused, Session, provider_of
from pollwire_cli.streams import account_of, marks_of, streams_of
from pollwire_cli.stuck import hindrance

app = typer.Typer()

Since = Annotated[
    str,
    typer.Option(
        help="An instant (2026-11-22T20:00:00Z) or so long ago (90m, 2h, 3d).",
        metavar="T",
        show_default=False,
    ),
]

SINCE = re.compile(r"([0-9]{1,6})([smhdw])")
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

#: Whoever follows a message looks at the table as often.
LOOK_S = 2


@command(
    app,
    epilog="""
    pollwire reconcile 133128004 --connection shop
    pollwire reconcile 133128004 contact greeting --connection shop
    """,
)
def reconcile(
    session: Session,
    account: Account,
    connection: ConnectionName,
    streams: Annotated[
        list[str] | None, typer.Argument(help="All that the account has, if none is named.")
    ] = None,
) -> None:
    """
    List streams from end to end now, and tell what differs from what is known.

    Done at once, however quiet the account is, and once more when late rows have settled. What is
    missing is told as deleted at the second sighting, of streams that are listed to find that.
    """
    over, found = account_of(session, connection, account)
    # What no check reports may not be there for this account, and would be asked for in vain.
    names = streams or list(marks_of(session, over, found))
    names = streams_of(provider_of(over.provider), names)
    elements = [marks.element(name, marks.FULL, session.now_ms) for name in names]
    facts = _order(session, over, found, elements)
    what = f"{', '.join(names)} of {connection}/{account}"
    done(
        session.as_json,
        f"{what}: to be listed from end to end {_when(facts)}",
        {"connection": connection, "account": account, "streams": names, "done": "ordered"} | facts,
    )


@command(
    app,
    epilog="""
    pollwire replay 133128004 entry --connection shop --since 2h
    pollwire replay 133128004 entry --connection shop --since 2026-11-22T20:00:00Z --yes
    """,
)
def replay(
    session: Session,
    account: Account,
    connection: ConnectionName,
    stream: Annotated[str, typer.Argument(help="Whose events.", show_default=False)],
    since: Since,
    yes: Yes = False,
) -> None:
    """
    Tell a stream's events again that were decided since an instant, under the same ids.

    Of each record the last event only: what was told before it is not known any more. Nothing is
    told of what the baseline recorded, nor of what the provider does not list any more (a
    deletion is, with what is known of it). What has changed meanwhile is told as that change.
    SNS drops an event that it was given less than five minutes ago.
    """
    since_ms = _since_ms(since, session.now_ms)
    over, found = account_of(session, connection, account)
    streams_of(provider_of(over.provider), [stream])
    job = DeltaJob(connection, found.shard, account, stream, (), 0)
    facts: dict[str, Any] = {"connection": connection, "account": account, "stream": stream}
    facts |= {"since": iso(since_ms), "events": _count(session, job, since_ms)}
    where = f"{connection}/{account}, {stream}"
    if not facts["events"]:
        text = f"{where}: nothing was told since {facts['since']}"
        done(session.as_json, text, facts | {"done": "nothing to tell again"})
        return
    many = f"{facts['events']}{' or more' * (facts['events'] == COUNTED_MAX)} events"
    question = f"{where}: tell {many} again that were told since {facts['since']}?"
    confirm(question, yes, "nothing is told again")
    element = marks.element(stream, marks.replay(since_ms), session.now_ms)
    facts |= _order(session, over, found, [element])
    done(
        session.as_json,
        f"{where}: {many} at most are told again {_when(facts)}",
        facts | {"done": "ordered"},
    )


@command(
    app,
    epilog="""
    pollwire watch 106540352242922 msg_01J8ZK3V9Q --connection office
    pollwire watch 106540352242922 msg_01J8ZK3V9Q --connection office --hours 2 --follow
    """,
)
def watch(
    session: Session,
    account: Account,
    connection: ConnectionName,
    message_id: Annotated[str, typer.Argument(help="The provider's.", show_default=False)],
    hours: Annotated[int, typer.Option(min=1, max=720, help="For so long at most.")] = 24,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show each status until one is final.")
    ] = False,
) -> None:
    """
    Look at a message's status every few seconds until it is final; each change is an event.

    With --follow it ends with 0 when the status is final, with 1 if the time is over before.
    """
    over, found = account_of(session, connection, account)
    stream = _watched_stream(over, message_id)
    until_ms = session.now_ms + hours * UNITS_MS["h"]
    queues = session.queues
    if not session.state.watch(over, account, message_id, until_ms):
        raise missing(connection, account)
    facts: dict[str, Any] = {"connection": connection, "account": account, "id": message_id}
    facts |= {"until": iso(until_ms)} | _check(session, queues, over, found)
    text = f"{message_id} of {connection}/{account} is watched until {facts['until']}"
    done(session.as_json, f"{text}, looked at {_when(facts)}", facts | {"done": "watched"})
    if follow:
        job = DeltaJob(connection, found.shard, account, stream, (), 0)
        _follow(session, over, job, message_id, until_ms)


def _order(
    session: Session, over: Connection, account: Listing, elements: list[str]
) -> dict[str, Any]:
    """Write what is to be done, and have it done at once."""
    queues = session.queues  # Before anything is written: the stack may have no such queue.
    if not session.state.order(over, account.account, elements):
        raise missing(over.name, account.account)
    return _check(session, queues, over, account)


def _check(session: Session, queues: Queues, over: Connection, account: Listing) -> dict[str, Any]:
    """Queue a check of an account, if it would be polled; tell whether, and what is in its way."""
    reason = hindrance(over, account, session.now_ms)
    facts = {"at_once": False, "why": reason or None}
    if not reason:
        now_ms = session.now_ms
        job = CheckJob(over.name, account.shard, now_ms, over.interval_s, account=account.account)
        with suppress(NotPublished):
            facts["at_once"] = queues.send_checks(over.provider, [job], now_ms) == 1
    return facts


def _when(facts: Mapping[str, Any]) -> str:
    if facts["at_once"]:
        return "now"
    if facts["why"]:
        return f"when it is polled again ({facts['why']})"
    return "at its next regular check, as no other can be queued"


def _count(session: Session, job: DeltaJob, since_ms: int) -> int:
    """Count the events that are to be told again, up to as many as are counted."""
    records = session.state.known_records(job)
    told = (one for one in records if decide.is_told(one, since_ms))
    return sum(1 for _ in islice(told, COUNTED_MAX))


def _since_ms(written: str, now_ms: int) -> int:
    """Read an instant of the past, or how long ago it was."""
    match = SINCE.fullmatch(written.strip())
    try:
        at_ms = now_ms - int(match[1]) * UNITS_MS[match[2]] if match else iso_ms(written, "since")
    except Malformed:
        raise typer.BadParameter(
            "--since: an instant with its zone is expected, as 2026-11-22T20:00:00Z, "
            "or how long ago, as 90m, 2h or 3d"
        ) from None
    if at_ms > now_ms:
        raise typer.BadParameter("--since: that is in the future; name an instant of the past")
    return max(at_ms, 0)


def _watched_stream(over: Connection, identity: str) -> str:
    """
    Name the stream of what can be watched.

    Raises:
        Misconfigured: The provider has no such.

        Misused: The id is none of its.
    """
    streams = provider_of(over.provider).streams
    found = {name: stream for name, stream in streams.items() if stream.watch_s}
    for name, stream in found.items():
        if re.fullmatch(stream.watch_id, identity):
            return name
        raise Misused(f"message id: {over.provider}'s are of the form {stream.watch_id}")
    raise Misconfigured(f"connection {over.name}: {over.provider} has no messages to be watched")


def _follow(
    session: Session, over: Connection, job: DeltaJob, identity: str, until_ms: int
) -> None:
    """Print each status as it is told, until one is final."""
    shown: dict[str, Any] = {}
    while True:
        # First this: what is watched no more is written by then.
        found = session.state.listing(over, job.account)
        if found is None:
            raise missing(over.name, job.account)
        record = session.state.records(job, [identity]).get(identity)
        if record and (facts := _status(record)) != shown:
            text = f"{facts['told'] or '-'}  {identity}  {record.updated_at}"
            done(session.as_json, text, facts)
            shown = facts
        if found.standing and identity not in watched(found.standing, clock()):
            break
        sleep(LOOK_S)
    if clock() >= until_ms:
        raise Misconfigured(f"{identity}: its time is over, and its status is not final")
    done(session.as_json, f"{identity}: final", {"id": identity, "done": "final"})


def _status(record: Record) -> dict[str, Any]:
    status, _, updated = record.updated_at.partition(" ")
    facts: dict[str, Any] = {"id": record.id, "status": status, "updated": updated or None}
    return facts | {"revision": record.rev, "told": instant(record.told_ms)}
