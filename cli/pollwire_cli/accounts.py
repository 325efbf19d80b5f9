"""
``pollwire accounts``: subscribers that are polled over a connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer
from pollwire import marks
from pollwire.errors import Misconfigured
from pollwire.items import Listing, Standing
from pollwire.model import ACCOUNT_ID, Connection, require_known
from pollwire.secrets import OPENED_MS_MAX

from pollwire_cli.command import command
from pollwire_cli.connections import CredentialFile, Settings, Yes, confirm, pairs
from pollwire_cli.importing import Import
from pollwire_cli.lines import read_lines
from pollwire_cli.output import document, done, fields, instant, pairs_text, table
from pollwire_cli.secret import ask_credential, read_credential, read_text
from pollwire_cli.session import Misused, Session, as_words, provider_of

app = typer.Typer(help="Subscribers that are polled over a connection.", no_args_is_help=True)

Account = Annotated[str, typer.Argument(help="The provider's id of it.", show_default=False)]
ConnectionName = Annotated[
    str,
    typer.Option(
        "--connection",
        envvar="POLLWIRE_CONNECTION",
        help="Connection it is polled over.",
        metavar="NAME",
        show_default=False,
    ),
]


@command(
    app,
    epilog="""
    pollwire accounts add 133128004 --connection shop --setting phone=4255550100
    pollwire accounts add 133128004 --connection shop --credential - < credential.json
    pollwire accounts add 106540352242922 --connection office --no-credential
    """,
)
def add(
    session: Session,
    account: Account,
    connection: ConnectionName,
    setting: Settings = None,
    credential: CredentialFile = "",
    without: Annotated[
        bool,
        typer.Option("--no-credential", help="It has none of its own, or gets one later."),
    ] = False,
) -> None:
    """Add an account; its credential is asked for, if the connection has none for all."""
    if credential and without:
        raise typer.BadParameter("--credential and --no-credential exclude each other")
    settings = pairs(setting, "--setting")
    with as_words():
        require_known(settings, "account")
    over = over_of(session, connection, account)
    if session.state.known_accounts(over, [account]):
        raise Misconfigured(
            f"account {connection}/{account} is registered already; to replace its credential: "
            "pollwire accounts credential"
        )
    sealed = None
    if credential or not (without or over.credential):
        sealed = _sealed(session, over, account, credential)
    session.state.add_account(over, account, settings=settings, credential=sealed)
    _done(session, connection, account, "added", "is added")


@command(
    app,
    "import",
    epilog="""
    pollwire accounts import accounts.csv --connection shop
    pollwire accounts import - --connection shop --json < accounts.jsonl
    CSV: account,setting.phone,credential.username,credential.password
    JSON Lines: {"account": "7", "settings": {"phone": "4255550100"}, "credential": {...}}
    """,
)
def import_(
    session: Session,
    file: Annotated[
        str,
        typer.Argument(
            help="CSV with a header, or JSON Lines; - for stdin.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    connection: ConnectionName,
) -> None:
    """
    Add the accounts of a file.

    Bad lines are reported, the good ones are kept. An import that was broken off is begun anew
    with the same file: what is registered already stays as it is.
    """
    over = session.connection(connection)
    wanted = provider_of(over.provider).credential_fields
    entries, refusals = read_lines(read_text(file), wanted)
    work = Import(session, over, refusals)
    try:
        work.run(entries)
    finally:
        work.report()
    if work.refusals:
        raise typer.Exit(1)


@command(app, "list", epilog="pollwire accounts list --connection shop --failing --json")
def list_(
    session: Session,
    connection: ConnectionName,
    failing: Annotated[
        bool,
        typer.Option("--failing", help="Those with failures only, be it of a pending stream."),
    ] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Those that are paused only.")] = False,
) -> None:
    """List a connection's accounts, shard by shard."""
    over = session.connection(connection)
    found = session.state.accounts(over)
    if paused:
        found = filter(_is_paused, found)
    if failing:
        found = _failing(session, over, found)
    if session.as_json:
        for one in found:
            document(_described(session, over, one))
        return
    columns = ("account", "shard", "state", "failures", "pending", "credential", "trouble")
    table(columns, _rows(over, found))


@command(app, epilog="pollwire accounts show 133128004 --connection shop")
def show(session: Session, account: Account, connection: ConnectionName) -> None:
    """Show how an account stands, and why it fails if it does."""
    over = over_of(session, connection, account)
    one = session.state.listing(over, account)
    if one is None:
        raise missing(connection, account)
    found = _described(session, over, one)
    if session.as_json:
        document(found)
        return
    if one.standing is None:
        raise Misconfigured(
            f"account {connection}/{account}: its item in shard {one.shard} cannot be read; "
            "remove it and add it again"
        )
    watched = [f"{eyed['id']} until {eyed['until']}" for eyed in found["watched"]]
    fields(
        [
            ("account", f"{account} of connection {connection}"),
            ("shard", one.shard),
            ("settings", pairs_text(found["settings"])),
            ("paused", "yes" if found["paused"] else "no"),
            ("failures", found["failures"]),
            ("trouble", one.trouble or "-"),
            ("left alone", f"until {found['not_before']}" if found["not_before"] else "no"),
            ("pending", ", ".join(marks.by_stream(one.standing.pending)) or "-"),
            ("watched", ", ".join(watched) or "-"),
            ("credential", _credential(over, one.standing) or "none"),
        ]
    )


@command(app, epilog="pollwire accounts pause 133128004 --connection shop")
def pause(session: Session, account: Account, connection: ConnectionName) -> None:
    """Poll an account no more until it is resumed."""
    if not session.state.set_paused(over_of(session, connection, account), account, True):
        raise missing(connection, account)
    _done(session, connection, account, "paused", "is paused")


@command(app, epilog="pollwire accounts resume 133128004 --connection shop")
def resume(session: Session, account: Account, connection: ConnectionName) -> None:
    """Poll an account again."""
    if not session.state.set_paused(over_of(session, connection, account), account, False):
        raise missing(connection, account)
    _done(session, connection, account, "resumed", "is polled again")


@command(app, epilog="pollwire accounts remove 133128004 --connection shop --yes")
def remove(
    session: Session, account: Account, connection: ConnectionName, yes: Yes = False
) -> None:
    """Remove an account, so that it is polled no more; what is known of its streams stays."""
    over = over_of(session, connection, account)
    if session.state.listing(over, account) is None:
        raise missing(connection, account)
    confirm(f"Remove account {account} of connection {connection}?", yes)
    if not session.state.remove_account(over, account):
        raise missing(connection, account)
    _done(session, connection, account, "removed", "is removed")


@command(
    app,
    epilog="""
    pollwire accounts credential 133128004 --connection shop
    pollwire accounts credential 133128004 --connection shop --credential - < credential.json
    """,
)
def credential(
    session: Session, account: Account, connection: ConnectionName, credential: CredentialFile = ""
) -> None:
    """Replace an account's credential; it is asked for, unless it is in a file."""
    over = over_of(session, connection, account)
    # Before it is asked for: a secret is typed for nothing otherwise.
    found = session.state.listing(over, account)
    if found is None:
        raise missing(connection, account)
    sealed = _sealed(session, over, account, credential)
    if not session.state.replace_credential(over, account, sealed):
        raise missing(connection, account)
    taken_s, rests = OPENED_MS_MAX // 1000, _rests_until(session, found.standing)
    text = f"account {connection}/{account} has another credential; "
    text += f"every worker uses it in {taken_s // 60} minutes at the latest"
    if rests:
        text += f"; after its failures the account is left alone until {rests}"
    facts = {"connection": connection, "account": account, "done": "credential replaced"}
    done(session.as_json, text, facts | {"taken_up_within_s": taken_s, "not_before": rests})


def over_of(session: Session, connection: str, account: str) -> Connection:
    """Read the connection of an account, if that may be one's id."""
    if not ACCOUNT_ID.fullmatch(account):
        raise Misused("account: 1 to 200 letters, digits and any of . _ @ + : ~ = - are its id")
    return session.connection(connection)


def _sealed(session: Session, over: Connection, account: str, source: str) -> bytes:
    """Read a credential from a file, or ask for it, and seal it."""
    wanted = provider_of(over.provider).credential_fields
    secret = read_credential(source, wanted) if source else ask_credential(wanted)
    return session.sealer.seal(secret, over.name, account)


def _done(session: Session, connection: str, account: str, word: str, text: str) -> None:
    facts = {"connection": connection, "account": account, "done": word}
    done(session.as_json, f"account {connection}/{account} {text}", facts)


def missing(connection: str, account: str) -> Misconfigured:
    return Misconfigured(
        f"account {connection}/{account}: there is none; "
        f"see pollwire accounts list --connection {connection}"
    )


def _failing(session: Session, over: Connection, found: Iterator[Listing]) -> Iterator[Listing]:
    """Keep those that fail as a whole, and those of which a stream does, with its reason."""
    for one in found:
        if one.standing is None or one.standing.failures:
            yield one
        elif troubles := session.state.stream_troubles(over, one):
            yield replace(one, trouble="; ".join(": ".join(pair) for pair in troubles.items()))


def _is_paused(one: Listing) -> bool:
    return one.standing is not None and one.standing.paused


def _credential(over: Connection, standing: Standing) -> str | None:
    """Say whose credential opens an account, never what it is."""
    if standing.credential:
        return "its own"
    return "the connection's" if over.credential else None


def _described(session: Session, over: Connection, one: Listing) -> dict[str, Any]:
    facts: dict[str, Any] = {"connection": over.name, "account": one.account, "shard": one.shard}
    standing = one.standing
    if standing is None:
        return {**facts, "broken": True}
    return {
        **facts,
        "settings": dict(standing.settings),
        "paused": standing.paused,
        "failures": standing.failures,
        "trouble": one.trouble,
        "not_before": _rests_until(session, standing),
        "pending": sorted(standing.pending),
        "watched": _watched(standing),
        "credential": _credential(over, standing),
    }


def _rests_until(session: Session, standing: Standing | None) -> str | None:
    """Say until when an account is left alone, if it is."""
    if standing is None or standing.not_before_ms <= session.now_ms:
        return None
    return instant(standing.not_before_ms)


def _watched(standing: Standing) -> list[Mapping[str, str | None]]:
    """Name each id that is watched once, and until when at the latest."""
    latest: dict[str, int] = {}
    for element in standing.watched:
        until_ms, _, identity = element.partition("@")
        known_ms = int(until_ms) if until_ms.isdecimal() else 0
        latest[identity] = max(known_ms, latest.get(identity, 0))
    return [{"id": one, "until": instant(latest[one])} for one in sorted(latest)]


def _rows(over: Connection, found: Iterator[Listing]) -> Iterator[tuple[object, ...]]:
    for one in found:
        standing = one.standing
        if standing is None:
            yield one.account, one.shard, "cannot be read", "?", "?", "?", one.trouble
            continue
        yield (
            one.account,
            one.shard,
            "paused" if standing.paused else "polled",
            standing.failures,
            len(standing.pending),
            _credential(over, standing) or "none",
            one.trouble,
        )
