"""
``pollwire connections``: customers' uses of providers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Annotated, Any

import typer
from pollwire.errors import Misconfigured
from pollwire.http.hosts import Hosts
from pollwire.model import Connection, require_known
from pollwire.providers import Notifying, Provider, registered
from pollwire.registry import FOREVER_MS
from pollwire.secrets import PUSH

from pollwire_cli.command import command
from pollwire_cli.output import document, done, fields, instant, pairs_text, table
from pollwire_cli.secret import (
    ask_credential,
    ask_push_secret,
    interactive,
    read_credential,
    read_push_secret,
)
from pollwire_cli.session import Misused, Session, as_words, provider_of

app = typer.Typer(help="A customer's use of a provider: hosts, pace, rate.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the connection.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
CredentialFile = Annotated[
    str,
    typer.Option(
        "--credential",
        help="File with the credential as a JSON object; - for stdin.",
        metavar="FILE",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--setting", help="One of the provider's settings.", metavar="NAME=VALUE"),
]

#: The model's own, where nothing is said.
DEFAULTS = {one.name: one.default for one in fields_of(Connection)}


@command(
    app,
    epilog="""
    pollwire connections add shop --provider youmail --interval 60 --slowest 900
    pollwire connections add office --provider kirimdev --ask-credential
    pollwire connections add shop --update --requests-per-second 20
    """,
)
def add(
    session: Session,
    name: Name,
    provider: Annotated[
        str, typer.Option(help=f"One of {', '.join(registered())}.", show_default=False)
    ] = "",
    host: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of one of its hosts, not its own.", metavar="ROLE=URL"),
    ] = None,
    interval: Annotated[
        int | None,
        typer.Option(
            help="Seconds between two checks of an account that changed lately; "
            f"{DEFAULTS['interval_s']} if not given.",
        ),
    ] = None,
    slowest: Annotated[
        int | None,
        typer.Option(
            help="Seconds between two checks of an account that has been quiet for long; "
            f"{DEFAULTS['slowest_s']} if not given.",
        ),
    ] = None,
    requests_per_second: Annotated[
        float | None,
        typer.Option(
            help="What is asked of the provider at most; "
            f"{DEFAULTS['requests_per_second']:g} if not given.",
        ),
    ] = None,
    setting: Settings = None,
    credential: CredentialFile = "",
    ask: Annotated[
        bool, typer.Option("--ask-credential", help="Ask for a credential that all share.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Change one that is there; what is not given stays.")
    ] = False,
) -> None:
    """Add a connection, or change one."""
    if credential and ask:
        raise typer.BadParameter("--credential and --ask-credential exclude each other")
    given: dict[str, Any] = {
        "interval_s": interval,
        "slowest_s": slowest,
        "requests_per_second": requests_per_second,
        "hosts": pairs(host, "--host", "ROLE=URL") if host else None,
        "settings": pairs(setting, "--setting") if setting else None,
    }
    given = {field: value for field, value in given.items() if value is not None}
    connection = _changed(session, name, provider, given, update)
    plugin = provider_of(connection.provider)
    _require_hosts(session, plugin, connection.hosts)
    if credential or ask:
        wanted = plugin.credential_fields
        secret = read_credential(credential, wanted) if credential else ask_credential(wanted)
        sealed = session.sealer.seal(secret, name, "")
        connection = replace(connection, credential=sealed)
    session.state.put_connection(connection)
    what = "changed" if update else "added"
    done(session.as_json, f"connection {name} is {what}", {"connection": name, "done": what})


@command(app, "list", epilog="pollwire connections list --json")
def list_(session: Session) -> None:
    """List all connections."""
    connections, broken = session.state.connections()
    if session.as_json:
        for one in connections:
            document(_described(session, one))
        for name in broken:
            document({"connection": name, "broken": True})
        return
    rows: list[tuple[object, ...]] = [
        (one.name, one.provider, one.accounts, one.shards, _state(session, one))
        for one in connections
    ]
    rows += [(name, "?", "?", "?", "cannot be read") for name in broken]
    table(("connection", "provider", "accounts", "shards", "state"), rows)


@command(app, epilog="pollwire connections show shop")
def show(session: Session, name: Name) -> None:
    """Show how a connection stands."""
    found = _described(session, session.connection(name))
    if session.as_json:
        document(found)
        return
    hosts, settings = pairs_text(found["hosts"]), pairs_text(found["settings"])
    credential = "yes, for all accounts" if found["has_credential"] else "none for all accounts"
    until = found["paused_until"]
    paused = "no"
    if found["paused"]:
        paused = "until it is resumed" if until == instant(FOREVER_MS) else f"until {until}"
    fields(
        [
            ("connection", name),
            ("provider", found["provider"]),
            ("hosts", hosts if found["hosts"] else "the provider's own"),
            ("pace", f"every {found['interval_s']} s, quiet ones every {found['slowest_s']} s"),
            ("rate", f"{found['requests_per_second']:g} requests a second"),
            ("accounts", found["accounts"]),
            ("shards", found["shards"]),
            ("outages", found["outages"]),
            ("paused", paused),
            ("settings", settings),
            ("credential", credential),
            ("notifications", "taken" if found["notified"] else "not taken"),
        ]
    )


@command(app, epilog="pollwire connections pause shop")
def pause(session: Session, name: Name) -> None:
    """Poll nothing over a connection until it is resumed."""
    session.connection(name)
    session.state.pause_connection(name, FOREVER_MS)
    done(
        session.as_json,
        f"connection {name} is paused; a check that has begun comes to its end",
        {"connection": name, "done": "paused"},
    )


@command(app, epilog="pollwire connections resume shop")
def resume(session: Session, name: Name) -> None:
    """Poll a connection again, whether an operator or its provider's rate limit paused it."""
    session.connection(name)
    session.state.resume_connection(name)
    done(
        session.as_json,
        f"connection {name} is polled again, from the next minute on",
        {"connection": name, "done": "resumed"},
    )


@command(
    app,
    epilog="""
    pollwire connections push office
    pollwire connections push office --secret token.txt
    pollwire connections push office --off
    """,
)
def push(
    session: Session,
    name: Name,
    secret: Annotated[
        str,
        typer.Option(
            help="File with it; - for stdin. It is asked for if this is not given.",
            metavar="FILE",
            show_default=False,
        ),
    ] = "",
    off: Annotated[bool, typer.Option("--off", help="Take no notifications any more.")] = False,
) -> None:
    """Say what verifies the notifications that a connection's provider sends to the stack's URL."""
    if secret and off:
        raise typer.BadParameter("--secret and --off exclude each other")
    connection = session.connection(name)
    if off:
        session.state.set_push_secret(name, None)
        done(
            session.as_json,
            f"connection {name} is not notified any more, within a minute",
            {"connection": name, "done": "not notified"},
        )
        return
    if not isinstance(provider_of(connection.provider), Notifying):
        raise Misconfigured(f"provider {connection.provider} notifies nobody; it is polled only")
    known = read_push_secret(secret) if secret else ask_push_secret()
    session.state.set_push_secret(name, session.sealer.seal({"secret": known}, name, PUSH))
    url = session.push_url()
    where = f"at {url}{name}" if url else "once its stack is deployed with Push=true"
    done(
        session.as_json,
        f"connection {name} takes notifications {where}, within a minute",
        {"connection": name, "done": "notified", "url": f"{url}{name}" if url else None},
    )


@command(app, epilog="pollwire connections remove shop --yes")
def remove(session: Session, name: Name, yes: Yes = False) -> None:
    """Remove a connection and all of its accounts; what is known of their streams stays."""
    connection = session.connection(name)
    confirm(f"Remove connection {name} and all of its accounts ({connection.accounts})?", yes)
    session.state.remove_connection(connection)
    done(
        session.as_json,
        f"connection {name} is removed",
        {"connection": name, "done": "removed"},
    )


def pairs(words: list[str] | None, option: str, form: str = "NAME=VALUE") -> Mapping[str, str]:
    """Read words of a name, "=" and a value."""
    found = {}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not (name and sign):
            raise typer.BadParameter(f"{option}: {form} is expected")
        if name in found:
            raise typer.BadParameter(f"{option}: {name} is given twice")
        found[name] = value
    return found


def confirm(question: str, yes: bool, otherwise: str = "nothing was removed") -> None:
    """
    Ask before something that cannot be taken back.

    Args:
        otherwise: What is so if the answer is no.

    Raises:
        Misconfigured: The answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not interactive():
        raise Misconfigured(f"{otherwise}: there is no terminal to ask on; give --yes")
    # Not typer.confirm(), which writes a blank to stdout: that is for the answer.
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Misconfigured(otherwise)


def _changed(
    session: Session, name: str, provider: str, given: Mapping[str, Any], update: bool
) -> Connection:
    """Make the connection that is to be written."""
    if not update:
        if not provider:
            raise typer.BadParameter("--provider is missing")
        # Before anything is looked up: a wrong word needs no stack.
        with as_words():
            made = Connection(name, provider_of(provider).name, **given)
            require_known(made.settings, "connection")
        if session.known(name):
            raise Misconfigured(f"connection {name} is there already; change it with --update")
        return made
    known = session.connection(name)
    if provider not in ("", known.provider):
        raise Misconfigured(f"connection.provider: it stays {known.provider}; add another one")
    with as_words():
        require_known(given.get("settings", {}), "connection")
        return replace(known, **given)


def _require_hosts(session: Session, provider: Provider, hosts: Mapping[str, str]) -> None:
    foreign = [role for role in hosts if role not in provider.hosts]
    if foreign:
        raise Misused(
            f"connection.hosts.{foreign[0]}: {provider.name} has {', '.join(provider.hosts)}"
        )
    allowed = session.allowed_hosts() if hosts else None
    for role, base in hosts.items():
        try:
            known = Hosts([*provider.hosts.values(), base])
            if allowed is not None:
                known = Hosts(provider.hosts.values(), allowed)
        except Misconfigured:
            raise Misused(
                f"connection.hosts.{role}: https://host or https://host:port is expected, "
                "without a path"
            ) from None
        known.require(base)


def _described(session: Session, one: Connection) -> dict[str, Any]:
    return {
        "connection": one.name,
        "provider": one.provider,
        "hosts": dict(one.hosts),
        "interval_s": one.interval_s,
        "slowest_s": one.slowest_s,
        "requests_per_second": one.requests_per_second,
        "accounts": one.accounts,
        "shards": one.shards,
        "outages": one.outages,
        "paused": one.paused_until_ms > session.now_ms,
        "paused_until": instant(one.paused_until_ms),
        "settings": dict(one.settings),
        "has_credential": one.credential is not None,
        "notified": one.push_secret is not None,
    }


def _state(session: Session, one: Connection) -> str:
    if one.paused_until_ms > session.now_ms:
        return "paused"
    return f"{one.outages} outages" if one.outages else "polled"
