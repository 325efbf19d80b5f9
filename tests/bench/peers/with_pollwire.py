"""
Pollwire's deployed functions, in a process of their own: a Lambda container for each.

A line of stdin is an invocation: the stage, the event, and how far its clock is from the machine's.
A line of stdout is the answer, and what the process has taken until then.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pollwire import wiring

from tests.bench.peers.measured import peak_rss_mb

REMAINING_MS = 300_000


@dataclass
class Context:
    """What Lambda tells a function of its invocation."""

    function_name: str
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:pollwire"
    aws_request_id: str = "00000000-0000-0000-0000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        return REMAINING_MS


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Where Lambda would take the log.
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process lives
    offset_ms = 0

    machine = wiring.clock
    wiring.clock = lambda: machine() + offset_ms
    world = wiring.build(wiring.Settings.read(os.environ))
    modules: dict[str, Any] = {}
    for stage in ("schedule", "check", "delta"):
        modules[stage] = importlib.import_module(f"functions.{stage}.app")
        modules[stage].world = lambda: world
    answers.write("ready\n")
    for line in sys.stdin:
        asked = json.loads(line)
        offset_ms = asked["offset_ms"]
        answer = modules[asked["stage"]].handler(asked["event"], Context(asked["stage"]))
        figures = {"cpu_s": time.process_time(), "rss_mb": peak_rss_mb()}
        answers.write(json.dumps({"answer": answer, **figures}) + "\n")


if __name__ == "__main__":
    main()
