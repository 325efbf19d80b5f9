"""
One client in a process of its own, pinned to one core.

    python -m tests.bench.worker CORE HOST ACCOUNTS 200|304 CLIENT

For each line of standard input it polls for a while, and prints what that took as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import Counter

from tests.bench.clients import CLIENTS

#: A round goes on until it has taken so much processor time, one pass over the accounts at least.
ROUND_S = 0.4


def main() -> None:
    core, host, number, status, name = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    out = sys.stdout
    poll = CLIENTS[name](host, int(number), validated=status == "304")
    poll()  # Connections are opened, what is loaded late is loaded.
    poll()
    calls = getattr(poll, "calls", Counter())
    print("ready", file=out, flush=True)
    for _ in sys.stdin:
        calls.clear()
        passes, began_s, began_wall_s = 0, time.process_time(), time.monotonic()
        while not passes or time.process_time() - began_s < ROUND_S:
            poll()
            passes += 1
        told = {
            "polls": passes * int(number),
            "cpu_s": time.process_time() - began_s,
            "wall_s": time.monotonic() - began_wall_s,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "calls": {name: count / passes for name, count in calls.items()},
        }
        print(json.dumps(told), file=out, flush=True)
    # What a client still holds dies with the process.
    os._exit(0)


if __name__ == "__main__":
    main()
