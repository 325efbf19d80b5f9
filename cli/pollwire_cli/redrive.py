"""
``pollwire redrive``: dead letters, moved back where they belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured, PollwireError

from pollwire_cli import deadletters
from pollwire_cli.command import command, reason
from pollwire_cli.connections import Yes, confirm
from pollwire_cli.deadletters import EVENTS, JOBS, DeadLetters, Moved
from pollwire_cli.output import document, instant, plain, say, table
from pollwire_cli.session import Session

app = typer.Typer()

CAVEATS = {
    JOBS: "a check that is late is dropped, since the next one was queued long ago; "
    "a delta that fails again comes back",
    EVENTS: "events come late, and perhaps once more: consumers order them by sequence, "
    "and drop a uuid that they know",
}


@command(
    app,
    epilog="""
    pollwire redrive
    pollwire redrive --events
    pollwire redrive pollwire-dead-deltas-entry.fifo --yes
    """,
)
def redrive(
    session: Session,
    queue: Annotated[
        list[str] | None,
        typer.Argument(
            help="Name or ARN of a dead-letter queue.", metavar="QUEUE", show_default=False
        ),
    ] = None,
    jobs: Annotated[bool, typer.Option("--jobs", help="Those of checks and deltas.")] = False,
    events: Annotated[bool, typer.Option("--events", help="Those of subscribers.")] = False,
    yes: Yes = False,
) -> None:
    """
    List what lies in dead-letter queues, or move it back where it belongs.

    Without a queue, --jobs or --events it only lists. A message is sent before it is deleted, so
    that nothing is lost if this is interrupted; run it again then.
    """
    there = deadletters.found(session)
    if not (queue or jobs or events):
        _list(session, there)
        return
    kinds = {kind for kind, wanted in ((JOBS, jobs), (EVENTS, events)) if wanted}
    named = _named(there, queue or [])
    chosen = [one for one in there if one.kind in kinds or one in named]
    for one in chosen:
        one.target()  # Before anything is moved.
    filled = [(one, depth) for one in chosen if (depth := deadletters.depth(one))]
    if not filled:
        _say_nothing(session, len(chosen))
        return
    for kind in sorted({one.kind for one, _ in filled}):
        say(f"pollwire: {kind}: {CAVEATS[kind]}")
    total = sum(depth for _, depth in filled)
    names = ", ".join(one.queue.arn.name for one, _ in filled)
    confirm(f"Move some {total} messages of {names} back?", yes, "nothing was moved")
    done = [_move(session, one) for one, _ in filled]
    if not all(done):
        raise typer.Exit(1)


def _named(there: Sequence[DeadLetters], names: Sequence[str]) -> list[DeadLetters]:
    found = []
    for name in names:
        matching = [one for one in there if name in (one.queue.arn.name, str(one.queue.arn))]
        if not matching:
            raise Misconfigured(
                f"{name!r:.100} is no dead-letter queue of this stack; see pollwire redrive"
            )
        found += matching
    return found


def _list(session: Session, there: Sequence[DeadLetters]) -> None:
    sqs = session.client("sqs")
    rows = []
    for one in there:
        depth = deadletters.depth(one)
        oldest = instant(deadletters.oldest_ms(sqs, one)) if depth else None
        back = [target.name for target in one.back]
        if session.as_json:
            facts = {"queue": one.queue.arn.name, "kind": one.kind, "messages": depth}
            document(facts | {"oldest": oldest, "back": back})
        elif depth:
            rows.append((one.queue.arn.name, one.kind, depth, oldest or "?", ", ".join(back)))
    if rows:
        table(("queue", "kind", "messages", "oldest", "belong to"), rows)
    elif not session.as_json:
        _say_nothing(session, len(there))


def _say_nothing(session: Session, queues: int) -> None:
    if not session.as_json:
        typer.echo(f"nothing lies in the {queues} dead-letter queues")


def _move(session: Session, one: DeadLetters) -> bool:
    """Move what lies in one queue; tell whether all of it went."""
    moved, why = Moved(), ""
    try:
        moved.run(session.client("sqs"), one)
    except (PollwireError, ClientError) as error:
        why = reason(error)
    finally:  # If this is interrupted, too.
        _report(session, one, moved)
    if why:
        say(f"pollwire: {one.queue.arn.name}: {why}")
    return not why


def _report(session: Session, one: DeadLetters, moved: Moved) -> None:
    name, back = one.queue.arn.name, one.target().name
    if session.as_json:
        facts = {"queue": name, "kind": one.kind, "to": back}
        document(facts | {"moved": moved.moved, "left": moved.left})
        return
    left = f", {moved.left} left: of another queue, or dead again" if moved.left else ""
    typer.echo(plain(f"{name}: {moved.moved} messages moved to {back}{left}"))
