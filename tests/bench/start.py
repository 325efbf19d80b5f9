"""
A cold start: import a function, and build what its first invocation builds.

    python tests/bench/start.py STAGE      (with PYTHONPATH as in Lambda: function, then layers)

Prints the processor time it took, without that of the interpreter's own start.
"""

from __future__ import annotations

import importlib
import sys
import time

#: What a stage loads when it talks to a provider for the first time.
ENGINES = {"check": "pollwire.http.checks", "delta": "pollwire.http.deltas"}


def main() -> None:
    began_s, stage = time.process_time(), sys.argv[1]
    app = importlib.import_module("app")
    app.world()
    if stage in ENGINES:
        importlib.import_module(ENGINES[stage])
    print(time.process_time() - began_s)


if __name__ == "__main__":
    main()
