"""
The command ``pollwire``.
"""

from __future__ import annotations

from typing import Annotated

import typer
from pollwire import __version__

from pollwire_cli import (
    accounts,
    connections,
    doctor,
    orders,
    redrive,
    status,
    streams,
    subscriptions,
    tail,
)

# A traceback with the values of variables could show a secret.
app = typer.Typer(
    help="Say what Pollwire polls and who receives it, and see how it is, in the stack that AWS's "
    "usual environment variables lead to (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL for an "
    "emulator, ...).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(connections.app, name="connections")
app.add_typer(accounts.app, name="accounts")
app.add_typer(streams.app, name="streams")
app.add_typer(orders.app)
app.add_typer(subscriptions.app)
app.add_typer(tail.app)
app.add_typer(redrive.app)
app.add_typer(doctor.app)
app.add_typer(status.app)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Say the version of the command.",
            callback=_say_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass
