"""
What all commands have in common: their options, and what becomes of an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
from pollwire.errors import PollwireError

from pollwire_cli.output import say
from pollwire_cli.session import Misused, Session

#: Of a message of AWS's.
MESSAGE_CHARS_MAX = 400

STACK = "The stack"

StackName = Annotated[
    str,
    typer.Option(
        "--stack", envvar="POLLWIRE_STACK", help="Its name.", rich_help_panel=STACK, metavar="NAME"
    ),
]
TableName = Annotated[
    str,
    typer.Option(
        envvar="POLLWIRE_TABLE_NAME",
        help="State table, instead of the stack's output.",
        rich_help_panel=STACK,
        metavar="NAME",
        show_default=False,
    ),
]
KeyArn = Annotated[
    str,
    typer.Option(
        envvar="POLLWIRE_KEY_ARN",
        help="KMS key, instead of the stack's output.",
        rich_help_panel=STACK,
        metavar="ARN",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]

COMMON = [
    ("stack", "pollwire", StackName),
    ("table_name", "", TableName),
    ("key_arn", "", KeyArn),
    ("as_json", False, AsJson),
]

Command = Callable[..., None]


def command(app: typer.Typer, name: str = "", epilog: str = "") -> Callable[[Command], Command]:
    """
    Make a function a command, with the options that all of them have.

    Args:
        name: The function's own, if it is empty.

        epilog: Examples, a line each.
    """

    def register(function: Command) -> Command:
        @wraps(function)
        def run(stack: str, table_name: str, key_arn: str, as_json: bool, **given: Any) -> None:
            outputs = {"StateTableName": table_name, "KeyArn": key_arn}
            try:
                function(Session(stack, outputs, as_json), **given)
            except (PollwireError, ClientError, BotoCoreError) as error:
                say(f"pollwire: {reason(error)}")
                raise typer.Exit(2 if isinstance(error, Misused) else 1) from None

        _take(run, function)
        help_text = _flowing(function.__doc__ or "")
        app.command(name or function.__name__, help=help_text, epilog=_examples(epilog))(run)
        return function

    return register


def reason(error: Exception) -> str:
    """Say in one line why something could not be done."""
    if isinstance(error, ClientError):
        found = error.response["Error"]
        message = f"{found.get('Code', 'unknown')}: {found.get('Message', '')}"
        text = f"AWS refused {error.operation_name}: {message}"
    elif isinstance(error, NoCredentialsError | PartialCredentialsError):
        text = "no AWS credentials; log in, or set AWS_PROFILE, or set AWS_ACCESS_KEY_ID and "
        text += "AWS_SECRET_ACCESS_KEY"
    elif isinstance(error, NoRegionError):
        text = "no AWS region; set AWS_REGION"
    elif isinstance(error, ParamValidationError):
        # Its text repeats what was given.
        text = "AWS takes no such name; check --stack, --table-name and --key-arn"
    else:
        text = str(error)
    return " ".join(text.split())[:MESSAGE_CHARS_MAX]


def _take(run: Callable[..., None], function: Command) -> None:
    """Give a command the parameters of its function, all but the session, and the common ones."""
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    parameters = [
        one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY) for one in own
    ]
    parameters += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, default, annotation in COMMON
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]


def _flowing(text: str) -> str:
    """Have a terminal break the lines of each paragraph, but of those that begin with a ``\\b``."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        one.removeprefix("\b\n") if one.startswith("\b") else one.replace("\n", " ")
        for one in paragraphs
    )


def _examples(epilog: str) -> str:
    lines = [line.strip() for line in epilog.strip().splitlines()]
    return "\n\n".join(["Examples:", *lines]) if lines else ""
