"""
``pollwire streams``: how far the streams of an account have come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pollwire import marks
from pollwire.errors import PollwireError
from pollwire.items import Drain, Listing, StreamState
from pollwire.model import Account, Connection, DeltaJob
from pollwire.providers import Provider
from pollwire.registry import COUNTED_MAX
from pollwire.world import watched

from pollwire_cli.accounts import Account as AccountName
from pollwire_cli.accounts import ConnectionName, missing, over_of
from pollwire_cli.command import command
from pollwire_cli.output import document, fields, instant, table
from pollwire_cli.session import Misused, Session, provider_of
from pollwire_cli.stuck import Facts, why

app = typer.Typer(help="How far the streams of an account have come.", no_args_is_help=True)

#: Of a provider's sync token, page or mark so much is shown that it can be told from another.
SHOWN_CHARS = 16

#: Of the rows of a stream that could not be read, so many reasons are shown.
REASONS_MAX = 10


@command(
    app,
    epilog="""
    pollwire streams show 133128004 --connection shop
    pollwire streams show 133128004 entry --connection shop --json
    """,
)
def show(
    session: Session,
    account: AccountName,
    connection: ConnectionName,
    stream: Annotated[str, typer.Argument(help="The only one to show.")] = "",
) -> None:
    """
    Show how far streams have come, and why one does not come on.

    Marks are as the last check saw them. The lag is how long ago the oldest mark was first seen
    that no delta has answered for yet.
    """
    over, found = account_of(session, connection, account)
    provider = provider_of(over.provider)
    names = streams_of(provider, [stream] if stream else [])
    described = [_described(session, over, provider, found, name) for name in names]
    if session.as_json:
        for one in described:
            document(one)
    elif stream:
        fields(_fields(described[0]))
    else:
        columns = ("stream", "lag", "last change", "last drain", "records", "outbox", "why")
        table(columns, map(_row, described))


def account_of(session: Session, connection: str, account: str) -> tuple[Connection, Listing]:
    """
    Read an account and its connection.

    Raises:
        Misconfigured: There is no such account or connection.
    """
    over = over_of(session, connection, account)
    found = session.state.listing(over, account)
    if found is None:
        raise missing(connection, account)
    return over, found


def streams_of(provider: Provider, names: list[str]) -> list[str]:
    """
    Name the streams that are meant: those that are named, or all.

    Raises:
        Misused: One is none of the provider's.
    """
    unknown = [name for name in names if name not in provider.streams]
    if unknown:
        raise Misused(f"stream: {provider.name} has {', '.join(provider.streams)}")
    return list(dict.fromkeys(names)) or list(provider.streams)


def _described(
    session: Session, over: Connection, provider: Provider, account: Listing, name: str
) -> dict[str, Any]:
    job = DeltaJob(over.name, account.shard, account.account, name, (), 0)
    found = session.state.stream_listing(job)
    standing = account.standing
    pending = marks.by_stream(standing.pending).get(name, ()) if standing else ()
    facts = Facts(over, account, provider.streams[name], found, pending, session.now_ms)
    oldest_ms = min(map(marks.seen_ms, pending), default=session.now_ms)
    return {
        "connection": over.name,
        "account": account.account,
        "stream": name,
        "why": why(facts) or None,
        "mark": _shown(marks_of(session, over, account).get(name, "")),
        "pending": [_pending(session, one) for one in pending],
        "lag_s": max(session.now_ms - oldest_ms, 0) // 1000,
        **_state(found.state),
        "records": found.records,
        "bad_rows": len(found.bad_rows),
        "bad_row_reasons": sorted(set(found.bad_rows.values()))[:REASONS_MAX],
        "counted_at_most": COUNTED_MAX,
        "trouble": found.trouble or None,
        "trouble_at": instant(found.trouble_ms),
    }


def _state(state: StreamState | None) -> Mapping[str, Any]:
    if state is None:
        return {"broken": True}
    return {
        "cursor": {
            "reached": instant(state.reached_ms),
            "previous": instant(state.previous_ms),
            "place": _shown(state.place),
        },
        "last_change": instant(state.told_ms),
        "last_drain": instant(state.drained_ms),
        "last_listing": instant(state.reconciled_ms),
        "sequence": state.seq,
        "outbox": len(state.outbox),
        "drain": _drain(state.drain) if state.drain else None,
        "failures": state.failures,
        "not_before": instant(state.not_before_ms),
    }


def _drain(drain: Drain) -> Mapping[str, Any]:
    return {
        "mode": drain.mode,
        "began": instant(drain.began_ms),
        "since": None if drain.since_ms is None else instant(drain.since_ms),
        "full": drain.full,
        "pages": drain.pages,
        "resume": _shown(drain.resume),
        "repeated": drain.repeated,
    }


def marks_of(session: Session, over: Connection, account: Listing) -> Mapping[str, str]:
    """Read the mark of each stream as the last check saw it; of none, if it cannot be read."""
    standing = account.standing
    if standing is None:
        return {}
    raw = marks.unpack(standing.marks, session.now_ms, 0).raw
    settings = {**over.settings, **standing.settings}
    eyed = watched(standing, session.now_ms)
    seen_by = Account(over.name, account.account, {}, settings, watched=eyed)
    try:
        return provider_of(over.provider).marks(seen_by, raw)
    except PollwireError:
        return {}


def _pending(session: Session, element: str) -> Mapping[str, Any]:
    _, seen_ms, mark = marks.split(element)
    since_ms = marks.replayed_ms(element)
    asks = "look at what changed"
    if since_ms is not None:
        asks = f"tell again what was told since {instant(since_ms) or 'ever'}"
    elif mark == marks.FULL:
        asks = "list everything"
    age_s = max(session.now_ms - seen_ms, 0) // 1000
    return {"mark": _shown(mark), "seen": instant(seen_ms), "age_s": age_s, "asks": asks}


def _shown(word: str) -> str | None:
    """Shorten what a provider made: whoever has a whole sync token or page could use it."""
    if len(word) > SHOWN_CHARS:
        return f"{word[:SHOWN_CHARS]}..."
    return word or None


def _row(one: Mapping[str, Any]) -> tuple[object, ...]:
    broken = "broken" in one
    return (
        one["stream"],
        f"{one['lag_s']} s" if one["pending"] else "-",
        "?" if broken else one["last_change"] or "-",
        "?" if broken else one["last_drain"] or "-",
        _counted(one["records"]),
        "?" if broken else one["outbox"],
        one["why"] or "-",
    )


def _counted(number: int) -> str:
    return f"{number} or more" if number >= COUNTED_MAX else str(number)


def _fields(one: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Write a stream for a person."""
    asked = [f"{each['asks']}, {each['age_s']} s ago" for each in one["pending"]]
    rows: list[tuple[str, object]] = [
        ("stream", f"{one['stream']} of {one['connection']}/{one['account']}"),
        ("why it waits", one["why"] or "-"),
        ("mark", one["mark"] or "-"),
        ("pending", "; ".join(asked) or "-"),
        ("lag", f"{one['lag_s']} s" if one["pending"] else "-"),
    ]
    if "broken" not in one:
        cursor, drain = one["cursor"], one["drain"]
        pages = f"{drain['pages']} pages since {drain['began']}" if drain else "-"
        rows += [
            ("cursor", f"{cursor['reached'] or '-'}, before {cursor['previous'] or '-'}"),
            ("place", cursor["place"] or "-"),
            ("last change", one["last_change"] or "-"),
            ("last drain", one["last_drain"] or "-"),
            ("last listing", one["last_listing"] or "-"),
            ("sequence", one["sequence"]),
            ("outbox", one["outbox"]),
            ("list being read", pages),
            ("failures", one["failures"]),
            ("left alone", f"until {one['not_before']}" if one["not_before"] else "no"),
        ]
    rows += [
        ("records", _counted(one["records"])),
        ("unreadable rows", _counted(one["bad_rows"])),
        *(("", reason) for reason in one["bad_row_reasons"]),
        ("trouble", f"{one['trouble_at']} {one['trouble']}" if one["trouble"] else "-"),
    ]
    return rows
