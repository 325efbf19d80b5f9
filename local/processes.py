"""
Child processes that never outlive us, and a stop that may come at any moment.

Standard library only: this runs before there is an environment.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: A child that is told to end has this long before it is killed.
PATIENCE_S = 5

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

POLL_S = 0.05
TAIL_LINES = 12


class Failed(Exception):
    """Something a person has to put right; the text says what and how."""


class Stopped(Exception):
    """Somebody pressed Ctrl-C, or the system asked us to end."""


class Stop:
    """
    Set by SIGINT, SIGTERM and SIGHUP.

    A signal raises nothing by itself, so that it cannot come between a child's birth and its entry
    in the list of children: whoever waits looks here. A pipe, as a lock could be held by the very
    code that a signal interrupts.
    """

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)

    def listen(self) -> None:
        """Take over these signals."""
        for number in SIGNALS:
            signal.signal(number, lambda *_: self.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def set(self) -> None:
        """Ask everybody to stop."""
        with suppress(BlockingIOError):
            os.write(self._in, b".")

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is up, or somebody stops us; tell whether somebody did."""
        return bool(select.select([self._out], [], [], max(seconds, 0))[0])

    def check(self) -> None:
        """
        Go on, or not.

        Raises:
            Stopped: Not.
        """
        self.pause(0)

    def pause(self, seconds: float) -> None:
        """
        Sleep.

        Raises:
            Stopped: Before the time was up.
        """
        if self.wait(seconds):
            raise Stopped


class Progress:
    """Says on stderr what is going on, and since when."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __call__(self, text: str) -> None:
        passed_s = time.monotonic() - self._began_s
        sys.stderr.write(f"pollwire {passed_s:6.1f} s  {text}\n")
        sys.stderr.flush()


class Processes:
    """
    Children, each in a process group of its own; a context manager that ends them.

    A child of a child is of the same group, and ends with it.

    Args:
        logs: Folder where each child's output goes, one file a name.
    """

    def __init__(self, logs: Path, stop: Stop) -> None:
        self._logs = logs
        self._stop = stop
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """
        Start a child that stays.

        Raises:
            Failed: There is no such program.
        """
        self._stop.check()
        with self.log(name).open("ab") as log:
            try:
                child = subprocess.Popen(  # noqa: S603 - commands are ours, never a shell's
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env=dict(environment),
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise Failed(f"{command[0]} is missing; run 'make clean' and try again") from error
        self._running[name] = child
        return child

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        explain: Callable[[str], str] = lambda log: "",
        folder: Path | None = None,
    ) -> None:
        """
        Run a child to its end.

        Args:
            explain: Makes a remedy of the log of a child that failed; empty if it knows none.

        Raises:
            Failed: It ended with a status other than 0.

            Stopped: Before it ended.
        """
        self.log(name).write_bytes(b"")
        child = self.start(name, command, environment, folder)
        while child.poll() is None:
            if self._stop.wait(POLL_S):
                self._end([name])
                raise Stopped
        self._end([name])  # What it may have left behind.
        if child.returncode:
            raise Failed(self._obituary(name, child.returncode, explain))

    def check(self) -> None:
        """
        See whether all children that were started are still there.

        Raises:
            Failed: One is not.
        """
        for name, child in list(self._running.items()):
            if child.poll() is not None:
                raise Failed(self._obituary(name, child.returncode, lambda log: ""))

    def log(self, name: str) -> Path:
        """Say where a child's output goes."""
        return self._logs / f"{name}.log"

    def close(self) -> None:
        """End all children: ask, wait, kill."""
        self._end(list(self._running))

    def _obituary(self, name: str, status: int, explain: Callable[[str], str]) -> str:
        text = self.log(name).read_text(errors="replace")
        ending = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        lines = [line for line in text.splitlines() if line.strip() and "WARNING" not in line]
        head = explain(text) or f"{name} {ending}; its last lines were"
        tail = "".join(f"\n    {line[:160]}" for line in lines[-TAIL_LINES:])
        return f"{head}{tail}\nall of it: {self.log(name)}"

    def _end(self, names: Sequence[str]) -> None:
        children = [self._running[name] for name in names]
        for child in children:
            _signal(child, signal.SIGTERM)
        deadline_s = time.monotonic() + PATIENCE_S
        for child in children:
            _wait(child, deadline_s)
            # Also when it ended by itself: its own children may not have.
            _signal(child, signal.SIGKILL)
            child.wait()
        for name in names:
            del self._running[name]


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    # All of the group have ended; macOS says PermissionError of a zombie.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _wait(child: subprocess.Popen[bytes], deadline_s: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        child.wait(max(deadline_s - time.monotonic(), 0))


def guard(main: Callable[[], int]) -> int:
    """Run a program; make of what goes wrong a sentence and a status."""
    try:
        return main()
    except Stopped:
        _complain("stopped")
        return 130
    except Failed as failure:
        _complain(str(failure))
    except OSError as error:
        _complain(_remedy(error))
    return 1


def _complain(text: str) -> None:
    sys.stderr.write(f"pollwire: {text}\n")


def _remedy(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}; make room and try again"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"not allowed to write here{where}; use a folder that you own"
    return f"{type(error).__name__}: {error}"
