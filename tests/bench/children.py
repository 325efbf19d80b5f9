"""
What the parts of the benchmark have in common: their words, and their children.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NoReturn

#: A child that has not answered for so long never will.
PATIENCE_S = 120


def whole(name: str, said: str, least: int, most: int) -> int:
    """Read a whole number that a variable of the Makefile's says."""
    if re.fullmatch("[0-9]{1,9}", said) and least <= int(said) <= most:
        return int(said)
    refuse(f"{name}={said:.40}: a whole number from {least} to {most} is expected")


def refuse(reason: str) -> NoReturn:
    """Say in one line why this cannot be done, and end."""
    print(f"make bench: {reason}", file=sys.stderr)
    raise SystemExit(2)


def cores() -> tuple[int, int]:
    """Pick a core for who is measured, and one for its provider: another one, if there are two."""
    measured, provider = (sorted(os.sched_getaffinity(0)) * 2)[-1:-3:-1]
    return measured, provider


@contextmanager
def child(module: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run one of our modules until its standard input is closed."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.{module}", *map(str, words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        yield process
        _stdin(process).close()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def go(process: subprocess.Popen[str]) -> str:
    """Have a child do its work once; return what it says of it."""
    _stdin(process).write("go\n")
    _stdin(process).flush()
    return line(process)


def line(process: subprocess.Popen[str]) -> str:
    """Read one line; each child prints one at a time, so none is left in a buffer."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], PATIENCE_S)[0]:
        raise TimeoutError(f"{process.args}: silent for {PATIENCE_S} s")
    said = process.stdout.readline()
    if not said:
        raise RuntimeError(f"{process.args}: ended with status {process.wait(PATIENCE_S)}")
    return said.strip()


def _stdin(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin
