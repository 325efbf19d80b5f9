"""
``pollwire tail``: events as they are published, for somebody who watches.

A queue of its own receives them for as long as it runs; no other subscriber notices. A tail that
is killed cannot take its queue away. So each says in a tag until when it is surely alive, and
every tail begins by removing the queues whose time is over.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured
from pollwire.filters import Policy

from pollwire_cli.command import command, reason
from pollwire_cli.output import plain, say
from pollwire_cli.queues import FIFO, Queue, QueueArn, make_fifo
from pollwire_cli.session import Session, aws_time
from pollwire_cli.subscribers import Subscribers, Subscription
from pollwire_cli.subscriptions import Filters, read_filters, tail_prefix

app = typer.Typer()

#: Seconds since the epoch, by AWS's clock, until which a tail is surely alive.
ALIVE_TAG = "pollwire-tail-alive-until"
ALIVE_S = 600
RENEWED_S = 60

#: What nobody looks at within an hour is of no use to who watches.
RETENTION_S = 3600

#: SQS says that seconds may go by before a new queue is found everywhere.
NEW_S = 5

#: Seconds that a call waits for events; so long it may take to notice that nobody reads on.
WAIT_S = 5

HEADER = ("time", "provider", "account", "stream", "type", "direction", "change", "id")
WIDTHS = (24, 11, 21, 14, 9, 9, 7, 0)
CHANGE = HEADER.index("change")
COLORS = {"created": "green", "updated": "yellow", "deleted": "red"}

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Nobody wants more."""


@command(
    app,
    epilog="""
    pollwire tail
    pollwire tail '/restapi/v1.0/account/~/extension/~/message-store?type=SMS' --count 3
    pollwire tail --seconds 60 --json | jq .body.record
    """,
)
def tail(
    session: Session,
    filters: Filters = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="End after so many seconds.", min=0.1, show_default=False),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="End after so many events.", min=1, show_default=False)
    ] = None,
) -> None:
    """
    Show events as they are published, until Ctrl-C.

    No other subscriber notices: it has a queue of its own, and removes it in the end. With --json
    each line is an event as subscribers receive it.
    """
    policy = read_filters(filters)
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("--seconds: a number of seconds is expected")
    try:
        with _stoppable(), _queue(session, policy) as queue:
            _follow(session, queue, seconds, count)
    except Stopped:
        pass
    except BrokenPipeError:
        _discard_stdout()


def _follow(session: Session, queue: Queue, seconds: float | None, count: int | None) -> None:
    say("pollwire: watching until Ctrl-C" if sys.stderr.isatty() else "pollwire: watching")
    if sys.stdout.isatty() and not session.as_json:
        typer.echo(typer.style(_line(HEADER), bold=True))
    shown = 0
    for message in _messages(session, queue, seconds):
        shown += _show(session, message)
        if shown == count:
            return


def _messages(session: Session, queue: Queue, seconds: float | None) -> Iterator[Mapping[str, Any]]:
    """Receive messages, each taken off the queue with its batch, until the time is over."""
    sqs = session.client("sqs")
    began_s = renewed_s = time.monotonic()
    deadline_s = math.inf if seconds is None else began_s + seconds
    while (left_s := deadline_s - time.monotonic()) > 0 and not _is_unread():
        try:
            answer = _receive(sqs, queue, math.ceil(min(WAIT_S, left_s)))
        except sqs.exceptions.QueueDoesNotExist:
            if time.monotonic() - began_s > NEW_S:
                raise
            time.sleep(0.2)
            continue
        messages = answer.get("Messages", [])
        yield from messages
        handles = [
            {"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]}
            for number, one in enumerate(messages)
        ]
        if handles:
            sqs.delete_message_batch(QueueUrl=queue.url, Entries=handles)
        if time.monotonic() - renewed_s > RENEWED_S:
            renewed_s = time.monotonic()
            sqs.tag_queue(QueueUrl=queue.url, Tags=_alive(aws_time(answer)))


def _receive(sqs: Any, queue: Queue, wait_s: int) -> Mapping[str, Any]:
    answer: Mapping[str, Any] = sqs.receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=10,
        MessageAttributeNames=["All"],
        WaitTimeSeconds=wait_s,
    )
    return answer


def _show(session: Session, message: Mapping[str, Any]) -> bool:
    """Print an event; a message that is none is reported, and not counted."""
    text = message["Body"]
    try:
        event = json.loads(text)
        told = _told(event, message.get("MessageAttributes", {}))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        say("pollwire: warning: a message that is no event is left out")
        return False
    if session.as_json:
        is_line = text.isascii() and text.isprintable()
        typer.echo(text if is_line else json.dumps(event))
    else:
        typer.echo(_line(told))
    return True


def _told(event: Any, attributes: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    said = {name: value.get("StringValue", "") for name, value in attributes.items()}
    account = "/".join(said[name] for name in ("account", "extension") if said.get(name))
    kinds = (said.get(name, "") for name in ("stream", "type", "direction", "change"))
    return (
        str(event["timestamp"]),
        said.get("provider", ""),
        account,
        *kinds,
        str(event["body"]["recordId"]),
    )


def _line(cells: tuple[str, ...]) -> str:
    written = [plain(cell).ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    color = COLORS.get(cells[CHANGE])
    if color and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        written[CHANGE] = typer.style(written[CHANGE], fg=color)
    return "  ".join(written).rstrip()


@contextmanager
def _queue(session: Session, policy: Policy) -> Iterator[Queue]:
    """Make a queue that receives events, and remove it at the end, however that comes."""
    subscribers = Subscribers(session)
    name = f"{tail_prefix(session)}{secrets.token_hex(4)}{FIFO}"
    arn = QueueArn.named(name, session.topic_arn)
    _remove_dead(session, subscribers)
    made: list[Subscription] = []
    try:
        queue = make_fifo(
            session.client("sqs"),
            arn,
            session.topic_arn,
            Attributes={
                "MessageRetentionPeriod": str(RETENTION_S),
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
            },
            tags=_alive(time.time()),
        )
        made.append(subscribers.put(arn, policy, None, None))
        yield queue
    except session.client("sqs").exceptions.QueueDoesNotExist:
        raise Misconfigured(
            f"queue {name} is gone: this tail was silent for more than {ALIVE_S // 60} minutes, "
            "and another one took it for dead; start it again"
        ) from None
    finally:
        _ignore_signals()
        try:
            # Whatever was begun: a call that was interrupted may have been carried out.
            _remove(session, subscribers, arn, made or subscribers.listed())
        except ClientError as error:  # Not raised: it would hide why this ends.
            say(f"pollwire: warning: {name} may stay, until another tail: {reason(error)}")


def _remove_dead(session: Session, subscribers: Subscribers) -> None:
    """Remove what tails left behind that were killed."""
    try:
        listed = list(subscribers.listed())
        for arn in _dead(session, listed):
            say(f"pollwire: removing {arn.name}, which a tail that was killed left behind")
            _remove(session, subscribers, arn, listed)
    except ClientError as error:
        say(f"pollwire: warning: what other tails left behind stays: {reason(error)}")


def _dead(session: Session, listed: list[Subscription]) -> Iterator[QueueArn]:
    sqs, pattern = session.client("sqs"), re.escape(tail_prefix(session)) + "[0-9a-f]{8}" + FIFO
    there = set()
    pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix=tail_prefix(session))
    for url in [url for page in pages for url in page.get("QueueUrls", ())]:
        name = url.rpartition("/")[2]
        there.add(name)
        if not re.fullmatch(pattern, name):
            continue
        with suppress(sqs.exceptions.QueueDoesNotExist):
            answer = sqs.list_queue_tags(QueueUrl=url)
            until = answer.get("Tags", {}).get(ALIVE_TAG, "")
            # Without the tag it is somebody's who likes the name.
            if until.isdecimal() and int(until) < aws_time(answer):
                yield QueueArn.named(name, session.topic_arn)
    for one in listed:
        arn = one.queue
        beside = arn and arn.name not in there and arn.beside(session.topic_arn)
        if arn and beside and re.fullmatch(pattern, arn.name):
            yield arn


def _remove(session: Session, subscribers: Subscribers, arn: QueueArn, listed: Any) -> None:
    for one in listed:
        if one.endpoint == str(arn):
            subscribers.end(one)
    sqs = session.client("sqs")
    with suppress(sqs.exceptions.QueueDoesNotExist):
        sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=arn.name)["QueueUrl"])


def _alive(now_s: float) -> dict[str, str]:
    return {ALIVE_TAG: str(int(now_s) + ALIVE_S)}


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the first signal into :class:`Stopped`, and ignore those that follow."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        _ignore_signals()
        raise Stopped

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # As nohup has it.
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _discard_stdout() -> None:
    """Have nothing written any more: Python would try the rest again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unread() -> bool:
    """Tell whether stdout is a pipe that nobody reads any more."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
