"""
Run the whole system on this machine, and print each event as it arrives.

    python -m local                  until Ctrl-C
    python -m local --seconds 90     for that long, then wait for what is outstanding and sum up

Events go to stdout, one JSON line each; all else goes to stderr. A page in the browser shows the
run as it goes on; its address is the first that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.board import Board
from local.demo import STEP_S, Activity, Customer, now_ms
from local.environments import WORK, Lock
from local.ledger import Ledger
from local.page import Page
from local.processes import Failed, Progress, Stop
from local.stack import Ports, Say, Stack

__all__ = ["Customer", "Follower", "Ledger", "Ports", "Stack", "main"]

#: What is outstanding when changes end has this long to arrive: the latest row is 12 s late, a
#: deletion from a full listing takes two sightings, and a machine may be slow.
SETTLE_S = 90

#: Seconds between two looks at how accounts and providers stand, at least; an import of many
#: accounts makes a look long, and a tenth of the time is enough for it.
LOOK_S = 5
LOOK_SHARE = 0.1


class Follower:
    """Receives a subscriber queue's events, in order, and takes them off it."""

    def __init__(self, stack: Stack, url: str) -> None:
        self._sqs = stack.client("sqs")
        self._url = url

    def receive(self, wait_s: int = 1) -> Iterator[str]:
        """
        Yield what is there, or what arrives first.

        An event is deleted when the caller comes back for the next one: as any consumer should,
        which then sees it again rather than never.
        """
        answer = self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_s
        )
        for message in answer.get("Messages", ()):
            yield message["Body"]
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])


class Run:
    """One run, from the first account to the summary."""

    def __init__(self, stack: Stack, stop: Stop, say: Say, seed: str, board: Board) -> None:
        self._stack = stack
        self._stop = stop
        self._say = say
        self._seed = seed
        self._board = board
        self._ledger = board.ledger
        self._look_s = float("-inf")
        self._customer = Customer(stack)
        self._follower = Follower(stack, stack.outputs["SubscriberQueueUrl"])

    def run(self, seconds: float) -> int:
        """Let things happen for so long; return an exit status."""
        self._say("adding accounts; what they have already is recorded and not published")
        self._customer.register()
        self._look()
        self._stack.schedule_now()
        self._customer.await_baseline(self._stop)
        self._say(f"running: something happens every {STEP_S:.0f} s (seed {self._seed})")
        began_s = time.monotonic()
        self._board.begin()
        interrupted = self._live(began_s, seconds) or self._settle()
        summary = self._ledger.summary(time.monotonic() - began_s, on_their_way=interrupted)
        self._say(summary)
        self._board.end(summary, 0 if interrupted else len(self._ledger.outstanding()))
        return self._verdict(interrupted, endless=seconds == float("inf"))

    def _live(self, began_s: float, seconds: float) -> bool:
        """Make changes and print events; tell whether somebody stopped it."""
        activity = Activity(
            self._stack.simulators, self._ledger, self._say, self._seed, self._customer.watch
        )
        next_s = began_s
        while time.monotonic() < began_s + seconds:
            if self._stop.wait(0):
                return True
            if time.monotonic() >= next_s:
                activity.step()
                next_s += STEP_S
            self._print_events()
        return False

    def _settle(self) -> bool:
        """Wait for what is outstanding; tell whether somebody stopped it."""
        deadline_s = time.monotonic() + SETTLE_S
        self._board.settle()
        while waiting := self._ledger.outstanding():
            if self._stop.wait(0):
                return True
            if time.monotonic() > deadline_s:
                return False
            self._say(f"no more changes; waiting for {len(waiting)} that are on their way")
            self._print_events(wait_s=5)
        self._print_events()
        return False

    def _verdict(self, interrupted: bool, endless: bool) -> int:
        if interrupted:
            return 0 if endless else 130
        for change in self._ledger.outstanding():
            self._say(f"lost: {change.kind} {'/'.join(change.entity)} {dict(change.shows)}")
        return 1 if self._ledger.outstanding() else 0

    def _print_events(self, wait_s: int = 1) -> None:
        self._stack.processes.check()
        for text in self._follower.receive(wait_s):
            event = _read_event(text)
            if event is None:
                self._say("a message that is no event was in the queue; it is taken off")
                continue
            self._board.received(event)
            try:
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read them went away, as `head` does.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                self._stop.set()
        self._look()

    def _look(self) -> None:
        """Have the page show what is known, and look again how all stand when it is time to."""
        began_s = time.monotonic()
        if began_s >= self._look_s:
            answered = {name: one.answered() for name, one in self._stack.simulators.items()}
            self._board.stand(self._customer.accounts(), answered)
            took_s = time.monotonic() - began_s
            self._look_s = began_s + max(LOOK_S, took_s / LOOK_SHARE)
        self._board.refresh()


def _read_event(text: str) -> dict[str, Any] | None:
    """Read an event, or ``None`` if somebody else put the message there."""
    try:
        event = json.loads(text)
        named = (event["uuid"], event["ownerId"], event["body"]["stream"])
    except (ValueError, KeyError, TypeError):
        return None
    return event if all(isinstance(one, str) for one in named) else None


def main(stop: Stop) -> int:
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # Somebody's real account is none of this run's business.
    progress, board = Progress(), Board(Ledger(), now_ms)

    def say(text: str) -> None:
        progress(text)
        board.say(text)

    here = Lock("run", "runs here already; stop it with Ctrl-C, or try again when it has ended")
    with here, Page(board, options.page_port) as page:
        progress(f"the page of this run is up: {page.url}")
        with Stack(WORK, stop, say, Ports(options.port, options.aws_port)) as stack:
            try:
                return Run(stack, stop, say, options.seed, board).run(options.seconds)
            except (BotoCoreError, ClientError) as error:
                stack.processes.check()  # If MiniStack ended, that is what to say.
                raise Failed(f"{error}; see {WORK}/logs/ministack.log") from error


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="python -m local")
    # The Makefile hands over variables that may be empty.
    parser.add_argument("--seconds", type=_seconds, default="")
    parser.add_argument("--port", type=_port, default="")
    parser.add_argument("--aws-port", type=partial(_port, name="AWS_PORT"), default="")
    parser.add_argument("--page-port", type=partial(_port, name="PAGE_PORT"), default="")
    parser.add_argument("--seed", default="1")
    return parser.parse_args()


def _seconds(text: str) -> float:
    if text == "":
        return float("inf")
    if text.isdecimal():
        return float(text)
    raise Failed(f"SECONDS={text}: a whole number of seconds is needed, as in SECONDS=90")


def _port(text: str, name: str = "PORT") -> int:
    if text == "":
        return 0
    if text.isdecimal() and 1024 <= int(text) <= 65_000:
        return int(text)
    raise Failed(f"{name}={text}: a number from 1024 to 65000 is needed, as in {name}=8060")
