"""
The command ``pollwire``.
"""

from __future__ import annotations

import typer

from pollwire_cli import accounts, connections, doctor, redrive, status, subscriptions, tail

# A traceback with the values of variables could show a secret.
app = typer.Typer(
    help="Register what Pollwire polls, in the stack that AWS's usual environment variables lead "
    "to (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL for an emulator, ...).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(connections.app, name="connections")
app.add_typer(accounts.app, name="accounts")
app.add_typer(subscriptions.app)
app.add_typer(tail.app)
app.add_typer(redrive.app)
app.add_typer(doctor.app)
app.add_typer(status.app)
