"""
``pollwire doctor``: what is well with a stack, and what is not.
"""

from __future__ import annotations

from dataclasses import asdict

import typer

from pollwire_cli.command import command
from pollwire_cli.health import FAILED, OK, UNKNOWN, WARNING, examine
from pollwire_cli.output import document, plain
from pollwire_cli.session import Session

app = typer.Typer()

COLORS = {OK: "green", WARNING: "yellow", FAILED: "red", UNKNOWN: "blue"}


@command(
    app,
    epilog="""
    pollwire doctor
    pollwire doctor --json | jq 'select(.state != "ok")'
    """,
)
def doctor(session: Session) -> None:
    """
    Look whether all is well: permissions, deployment, quotas, clock, queues, hosts, versions.

    Changes nothing. Ends with 1 if something failed; a warning is none, nor is what could not be
    looked at.
    """
    failed = False
    for one in examine(session):
        failed = failed or one.state == FAILED
        if session.as_json:
            document(asdict(one))
            continue
        state = typer.style(f"{one.state:7}", fg=COLORS[one.state])
        typer.echo(f"{state}  {one.check:13}  {plain(one.says)}")
    if failed:
        raise typer.Exit(1)
