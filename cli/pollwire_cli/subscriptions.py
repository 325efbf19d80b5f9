"""
``pollwire subscribe``, ``unsubscribe``, ``subscriptions``: queues that receive events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured
from pollwire.filters import Policy, compile_filters

from pollwire_cli.command import command, reason
from pollwire_cli.connections import Yes, confirm
from pollwire_cli.deadletters import receive
from pollwire_cli.output import document, done, say, table
from pollwire_cli.queues import (
    Queue,
    QueueArn,
    dead_letters,
    find_queue,
    job_queues,
    statement,
    waiting,
)
from pollwire_cli.session import Misused, Session
from pollwire_cli.subscribers import (
    STREAMS,
    Subscribers,
    Subscription,
    made_dead_letters,
    make_dead_letters,
    require_readable_key,
)

app = typer.Typer()

#: SNS takes so long to use another filter policy.
SETTLED_MIN = 15

QueueText = Annotated[
    str, typer.Argument(help="ARN of the queue.", metavar="QUEUE_ARN", show_default=False)
]
Filters = Annotated[
    list[str] | None,
    typer.Argument(
        help="Path of the events it gets; several add up; none lets everything through.",
        metavar="FILTER",
        show_default=False,
    ),
]


@command(
    app,
    epilog="""
    pollwire subscribe arn:aws:sqs:us-east-1:123456789012:crm.fifo
    pollwire subscribe $QUEUE_ARN '/restapi/v1.0/account/~/extension/~/message-store?type=Fax'
    pollwire subscribe $QUEUE_ARN '/pollwire/v1/youmail/account/~/contact?change=deleted'
    """,
)
def subscribe(
    session: Session,
    queue: QueueText,
    filters: Filters = None,
    dead: Annotated[
        str,
        typer.Option(
            "--dead-letters",
            help="FIFO queue for what cannot be delivered, instead of one that is made for it.",
            metavar="QUEUE_ARN",
            show_default=False,
        ),
    ] = "",
    policy_is_set: Annotated[
        bool,
        typer.Option(
            "--policy-is-set",
            help="Of another account's queue: its policy has the statement asked for.",
        ),
    ] = False,
) -> None:
    """
    Let a queue receive events, all of them or those of filter paths.

    Sets the queue's policy, the filter, and a dead-letter queue for what cannot be delivered. A
    queue has one subscription: what is given now replaces what was given before.
    """
    arn, policy = read_arn(queue, "QUEUE_ARN"), read_filters(filters)
    dead_arn = read_arn(dead, "--dead-letters") if dead else None
    _require_fit(session, arn)
    _require_dead_letters(session, arn, dead_arn)
    warnings = []
    if arn.beside(session.topic_arn):
        opened = Queue(session.client("sqs"), arn)
        warnings.append(require_readable_key(session, opened))
        opened.open_to(session.topic_arn)
    elif not policy_is_set:
        _hand_over(session, arn)
    subscribers = Subscribers(session)
    known = subscribers.find(arn)
    redrive, warning = _dead_letters(session, arn, dead_arn, known)
    made = subscribers.put(arn, policy, known, redrive)
    if not arn.is_fifo:
        warnings.append(f"{arn.name} is no FIFO queue: events arrive in any order, some twice")
    _report(session, made, redrive, known, [one for one in (*warnings, warning) if one])


@command(
    app,
    epilog="""
    pollwire unsubscribe arn:aws:sqs:us-east-1:123456789012:crm.fifo
    pollwire unsubscribe $QUEUE_ARN --yes --delete-dead-letters
    """,
)
def unsubscribe(
    session: Session,
    queue: QueueText,
    yes: Yes = False,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete-dead-letters",
            help="Delete the dead-letter queue as well, if it was made here and is empty.",
        ),
    ] = False,
) -> None:
    """Let a queue receive no more events; what is in it stays."""
    arn = read_arn(queue, "QUEUE_ARN")
    subscribers = Subscribers(session)
    _require_not_the_stacks(session, arn)
    found = subscribers.find(arn)
    if found is None:
        raise Misconfigured(f"queue {arn.name} is not subscribed; see pollwire subscriptions")
    if found.is_pending:
        raise Misconfigured(
            f"queue {arn.name}: its subscription waits for its owner, and cannot be ended before "
            "it is confirmed; what is not confirmed is gone after two days"
        )
    confirm(f"Let queue {arn.name} receive no more events?", yes)
    subscribers.end(found)
    if arn.beside(session.topic_arn):
        _close(session, arn)
    redrive = dead_letters(found.attributes)
    deleted = delete and _delete_dead_letters(session, arn, redrive)
    facts = {"queue": str(arn), "done": "unsubscribed", "dead_letters": redrive and str(redrive)}
    text = f"queue {arn.name} receives no more events"
    if redrive:
        text += f"; its dead-letter queue {redrive.name} {'is deleted' if deleted else 'stays'}"
    done(session.as_json, text, {**facts, "dead_letters_deleted": deleted})


@command(app, epilog="pollwire subscriptions --json")
def subscriptions(session: Session) -> None:
    """List the queues that receive events."""
    described = (_described(session, one) for one in Subscribers(session).all())
    if session.as_json:
        for one in described:
            document(one)
        return
    columns = ("queue", "account", "state", "undelivered", "dead letters", "filter")
    table(columns, _rows(described))


def read_arn(text: str, field: str) -> QueueArn:
    """Take an argument that is a queue's ARN."""
    try:
        return QueueArn.read(text)
    except Misconfigured as error:
        raise typer.BadParameter(f"{field}: {error}") from None


def read_filters(texts: list[str] | None) -> Policy:
    """Take arguments that are filter paths, as one policy."""
    try:
        return compile_filters(texts or [], STREAMS)
    except Misconfigured as error:
        raise typer.BadParameter(str(error)) from None


def tail_prefix(session: Session) -> str:
    """Say how the names of the queues of ``pollwire tail`` begin."""
    return f"{session.name}-tail-"


def _require_fit(session: Session, arn: QueueArn) -> None:
    """Refuse a queue that the topic cannot or must not send to."""
    if not arn.near(session.topic_arn):
        raise Misconfigured(
            f"queue {arn.name} lies in {arn.region}, the topic in "
            f"{session.topic_arn.split(':')[3]}: a FIFO topic delivers in its own region only; "
            "name a queue there"
        )
    _require_not_the_stacks(session, arn)


def _require_not_the_stacks(session: Session, arn: QueueArn) -> None:
    if not arn.beside(session.topic_arn):
        return
    if _is_default(session, arn):
        raise Misconfigured(
            f"queue {arn.name} belongs to the stack {session.name}, its subscription too; deploy "
            "with DefaultSubscriber=false to be without it"
        )
    if _is_own(session, arn):
        raise Misconfigured(f"queue {arn.name} is one of Pollwire's own; name one of yours")


def _is_own(session: Session, arn: QueueArn) -> bool:
    prefixes = (f"{session.name}-dead-", f"{session.name}-undelivered", tail_prefix(session))
    return arn.name in job_queues(session.name) or arn.name.startswith(prefixes)


def _is_default(session: Session, arn: QueueArn) -> bool:
    return arn.beside(session.topic_arn) and arn.name == f"{session.name}-subscriber.fifo"


def _require_dead_letters(session: Session, arn: QueueArn, dead: QueueArn | None) -> None:
    """Refuse a dead-letter queue that SNS would not take."""
    if dead is None:
        return
    if dead == arn:
        raise Misused("--dead-letters: it is the queue itself; name another one")
    if not (dead.is_fifo and dead.near(session.topic_arn) and dead.beside(session.topic_arn)):
        raise Misconfigured(
            f"--dead-letters: {dead.name} has to be a FIFO queue in the topic's account and region"
        )
    own = _is_own(session, dead) and dead != made_dead_letters(session, arn)
    if own or _is_default(session, dead):
        raise Misconfigured(f"--dead-letters: {dead.name} is one of Pollwire's own; name another")


def _dead_letters(
    session: Session, arn: QueueArn, wanted: QueueArn | None, known: Subscription | None
) -> tuple[QueueArn, str]:
    """Open the queue that is wanted, or that there was, or make one; return a warning with it."""
    sqs = session.client("sqs")
    chosen = wanted or (known and dead_letters(known.attributes))
    # The one that there was may be gone.
    found = Queue(sqs, wanted) if wanted else chosen and find_queue(sqs, chosen)
    if not (chosen and found):
        return make_dead_letters(session, arn), ""
    warning = require_readable_key(session, found)
    found.open_to(session.topic_arn)
    return chosen, warning


def _hand_over(session: Session, arn: QueueArn) -> None:
    """Tell what the owner of another account's queue has to do first."""
    wanted = statement(arn, session.topic_arn)
    if session.as_json:
        document({"queue": str(arn), "done": "nothing", "statement": wanted})
    else:
        typer.echo(json.dumps(wanted, indent=2))
    raise Misconfigured(
        f"nothing was subscribed: queue {arn.name} is of account {arn.account}, whose owner adds "
        "this statement to its policy first; then subscribe it with --policy-is-set"
    )


def _report(
    session: Session,
    made: Subscription,
    redrive: QueueArn,
    known: Subscription | None,
    warnings: list[str],
) -> None:
    for warning in warnings:
        say(f"pollwire: warning: {warning}")
    word = "changed" if known else "subscribed"
    facts = _facts(made)
    filters = _said(facts["filters"], facts["policy"])
    text = f"queue {made.endpoint.rpartition(':')[2]} is {word}: {filters}; "
    text += f"what cannot be delivered goes to {redrive.name}"
    if known:
        text += f"; SNS takes up to {SETTLED_MIN} minutes to use another filter"
    if made.is_pending:
        text += (
            "; it is pending: a message of the Type SubscriptionConfirmation is in the queue, and "
            f"its owner runs aws sns confirm-subscription --topic-arn {session.topic_arn} --token "
            "TOKEN within two days, with that message's Token"
        )
    facts |= {"done": word, "dead_letters": str(redrive), "warnings": warnings}
    done(session.as_json, text, facts)


def _facts(one: Subscription) -> dict[str, Any]:
    return {
        "queue": one.endpoint,
        "pending": one.is_pending,
        "filters": one.filters,
        "policy": one.policy if one.attributes else None,
    }


def _described(session: Session, one: Subscription) -> dict[str, Any]:
    redrive = dead_letters(one.attributes)
    return _facts(one) | {
        "subscription": None if one.is_pending else one.arn,
        "state": _state(session, one),
        "raw": one.attributes.get("RawMessageDelivery") == "true",
        "dead_letters": redrive and str(redrive),
        "undelivered": redrive and _depth(session, redrive),
    }


def _state(session: Session, one: Subscription) -> str:
    """Say what a subscription is, in a word."""
    if one.is_pending:
        return "pending"
    if one.queue and _is_default(session, one.queue):
        return "the stack's"
    if one.queue and one.queue.name.startswith(tail_prefix(session)):
        return "tail"
    return "confirmed"


def _depth(session: Session, arn: QueueArn) -> int | None:
    """Count what lies in a queue, or ``None`` if it cannot be read."""
    try:
        return waiting(Queue(session.client("sqs"), arn).attributes())
    except (ClientError, Misconfigured):
        return None


def _rows(found: Iterator[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for one in found:
        _, _, _, _, account, name = [*one["queue"].split(":", 5), *[""] * 5][:6]
        redrive = one["dead_letters"]
        yield (
            name or one["queue"],
            account,
            one["state"],
            ("?" if one["undelivered"] is None else one["undelivered"]) if redrive else "-",
            _dead_letters_text(one["state"], redrive),
            _said(one["filters"], one["policy"]),
        )


def _dead_letters_text(state: str, redrive: str | None) -> str:
    if redrive:
        return redrive.rpartition(":")[2]
    return "-" if state in ("tail", "pending") else "none: what is undelivered is lost"


def _said(filters: list[str] | None, policy: dict[str, Any] | None) -> str:
    if filters is None:
        return "?" if policy is None else json.dumps(policy)
    return " ".join(filters) or "everything"


def _close(session: Session, arn: QueueArn) -> None:
    """Take our statement out of a queue's policy, if there is still a queue."""
    try:
        Queue(session.client("sqs"), arn).close_to(session.topic_arn)
    except (ClientError, Misconfigured) as error:
        say(f"pollwire: warning: its policy stays as it is: {reason(error)}")


def _delete_dead_letters(session: Session, arn: QueueArn, redrive: QueueArn | None) -> bool:
    if redrive is None or redrive != made_dead_letters(session, arn):
        say("pollwire: warning: the dead-letter queue was not made here; delete it yourself")
        return False
    try:
        return _deleted(session.client("sqs"), redrive)
    except ClientError as error:
        say(f"pollwire: warning: {redrive.name} stays: {reason(error)}")
        return False


def _deleted(sqs: Any, arn: QueueArn) -> bool:
    """Delete a queue if it is empty; tell whether it is gone."""
    queue = find_queue(sqs, arn)
    if queue is None:
        return True
    # The count is about right only; who receives nothing as well may be sure.
    if receive(sqs, queue.url, 0) or waiting(queue.attributes()):
        say(f"pollwire: warning: {arn.name} is not empty; redrive or purge it first")
        return False
    sqs.delete_queue(QueueUrl=queue.url)
    return True
