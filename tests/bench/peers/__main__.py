"""
Pollwire beside the frameworks that a user would reach for, over one provider on this machine.

    python -m tests.bench.peers --accounts 1000
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import sys
import threading
import time
from typing import Any

from local.environments import PEERS, ROOT, Lock, is_made, make, requirements
from local.processes import Failed, Processes, Progress, Stop, Stopped, guard
from tests.bench.peers.cases import ACCOUNTS, GROUP, Cells, compared, measured
from tests.bench.peers.tools import FOLDER, Peer, Pollwire, Tool, upstream

#: The whole comparison; making environments comes on top, once.
TOTAL_S = 840
MAKING_S = 300

FEWEST, MOST = 10, 20_000

TOOLS = {
    "Pollwire": "its handlers with boto3, pycurl and requests, one invocation at a time; AWS is\n"
    "the simulation's fake behind HTTP, in another process, whose CPU is not counted",
    "Airbyte": "low-code connector: a partition and a cursor for each account, concurrency 10",
    "Airbyte PT15S": "the same with lookback_window PT15S, which is as much as Pollwire's overlap",
    "Singer": "RESTStream with a context, and so a state, for each account; it asks one by one",
    "dlt": "rest_api, parallelized: accounts -> conversations, with one incremental for all",
    "dlt lag 15 s": "the same with lag 15",
}

SPEED = (
    "wall, s",
    "polls a second",
    "CPU, s",
    "CPU, us a poll",
    "memory, MB (max RSS)",
    "requests",
    "answered 304",
    "KB sent",
    "KB received",
    "state written, KB",
    "state written, items",
    "rows sent again",
    "all changed, s",
    "first load, s",
    "first load, rows lost",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-peers")
    parser.add_argument("--accounts", default="")
    accounts = _accounts(parser.parse_args().accounts or "1000")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Lock("peers", "runs the comparison; wait until it is done"):
        absent = _make_missing()
        results = _compare(accounts, absent)
    _print(accounts, results, absent)
    return 1 if absent or any(notes for _, notes in results.values()) else 0


def _accounts(text: str) -> int:
    if re.fullmatch("[0-9]{1,6}", text) and FEWEST <= int(text) <= MOST:
        return int(text)
    sys.stderr.write(
        f"pollwire: ACCOUNTS={text!r:.40} is no whole number from {FEWEST} to {MOST}; "
        "try make bench-peers ACCOUNTS=1000\n"
    )
    sys.exit(2)


def _make_missing() -> dict[str, str]:
    """Make the environments that are not there yet; name those that cannot be made, and why."""
    say, absent = Progress(), {}
    for folder in PEERS:
        if is_made(folder):
            continue
        say(f"making {folder}, once")
        stop = Stop()
        timer = threading.Timer(MAKING_S, stop.set)
        timer.daemon = True
        timer.start()
        try:
            with Processes(ROOT / ".local" / "logs", stop) as processes:
                make(folder, processes)
        except Failed as failure:
            absent[folder] = str(failure)
        except Stopped:
            absent[folder] = f"it took more than {MAKING_S} s"
        timer.cancel()
    return absent


def _compare(accounts: int, absent: dict[str, str]) -> dict[str, tuple[Cells, list[str]]]:
    peers = [
        Peer("Airbyte", "airbyte"),
        Peer("Airbyte PT15S", "airbyte", "PT15S"),
        Peer("Singer", "singer"),
        Peer("dlt", "dlt"),
        Peer("dlt lag 15 s", "dlt", "15"),
    ]
    there = [one for one in peers if f".venv-peers-{one.script}" not in absent]
    tools: list[Tool] = [Pollwire(), *there]
    say, ends_s = Progress(), time.monotonic() + TOTAL_S
    results = {}
    with upstream() as provider:
        for tool in tools:
            say(tool.name)
            results[tool.name] = compared(tool, provider, accounts, ends_s)
    return results


def _print(accounts: int, results: dict[str, Any], absent: dict[str, str]) -> None:
    cells = {name: told for name, (told, _) in results.items()}
    found = dict.fromkeys(name for told in cells.values() for name in told)
    versions = [line for folder in PEERS for line in requirements(folder).splitlines()]
    named = "|".join(folder.removeprefix(".venv-peers-") for folder in PEERS)
    pinned = [line for line in versions if re.match(rf"({named})(-cdk|-sdk)?==", line)]
    print(f"{', '.join(pinned)}; Python {platform.python_version()}, {os.cpu_count()} cores")
    for name, words in TOOLS.items():
        print(f"  {name:<14} " + words.replace("\n", "\n" + " " * 17))
    print(
        "Of the peers a cycle is one sync in a process of its own, without start and imports; their"
    )
    print(
        "state and rows are local files. The provider answers newest first, at once, on one core."
    )
    idle = f"{accounts} accounts, median of {measured(accounts)}"
    print(f"\nA cycle in which nothing happened: {idle}; then a cycle in")
    print("which each account has a new row, and the first one of all, both with the CPU's seconds")
    _table(cells, {name: name for name in SPEED if name in found})
    print(f"\nRows that are easily lost: of {GROUP} of each kind, how many were got")
    for where, words in (("strict", "strictly after"), ("inclusive", "at or after")):
        print(f"updated_since is {words} its instant")
        prefix = f"{where}: "
        kinds = [name for name in found if name.startswith(prefix)]
        _table(cells, {name: name.removeprefix(prefix) for name in kinds})
    print(f"\nA row each for {ACCOUNTS} accounts, while something goes wrong")
    wrong = [name for name in found if name.startswith(("500", "kill"))]
    _table(cells, {name: name for name in wrong})
    for name, (_, notes) in results.items():
        for note in notes:
            print(f"{name}: {note}")
    for folder, reason in absent.items():
        print(f"{folder} could not be made, so it is not compared: {reason}")


def _table(cells: dict[str, Cells], rows: dict[str, str]) -> None:
    print(" " * 24 + "".join(f"{name:>15}" for name in cells))
    for key, label in rows.items():
        print(f"  {label:<22}" + "".join(f"{told.get(key, '?'):>15}" for told in cells.values()))


if __name__ == "__main__":
    sys.exit(guard(main))
