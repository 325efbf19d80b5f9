"""
Pollwire's check stage over all shards of a connection, in a process pinned to one core.

    python -m tests.bench.sharded CORE HOST ACCOUNTS

For each line of standard input it checks some shards, those whose turn it is, and prints what that
took as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from itertools import cycle

from pollwire.state import shards_for

from tests.bench.clients import Pollwire

#: A round goes on until it has taken so much processor time.
ROUND_S = 0.5


def main() -> None:
    core, host, number = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    out = sys.stdout
    shards = shards_for(int(number))
    client = Pollwire(host, int(number), validated=False, shards=shards)
    sizes = [client.check(shard) for shard in range(shards)]  # And all is loaded, and connected.
    if sum(sizes) != int(number):
        raise AssertionError(f"{sum(sizes)} of {number} accounts were polled")
    print(json.dumps({"shards": shards, "fullest": max(sizes)}), file=out, flush=True)
    turns = cycle(range(shards))
    for _ in sys.stdin:
        client.calls.clear()
        polls, checks, began_s = 0, 0, time.process_time()
        while not checks or time.process_time() - began_s < ROUND_S:
            polls += client.check(next(turns))
            checks += 1
        told = {
            "polls": polls,
            "checks": checks,
            "cpu_s": time.process_time() - began_s,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "calls": {name: count / checks for name, count in client.calls.items()},
        }
        print(json.dumps(told), file=out, flush=True)
    # What a client still holds dies with the process.
    os._exit(0)


if __name__ == "__main__":
    main()
