"""
One cycle of a peer, measured in the process that runs it; imports are over by then.

A peer's program is run as ``with_x.py ASKED``: a JSON file with what is asked for.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def asked() -> dict[str, Any]:
    """Read what is asked for: url, key, accounts, variant, and the folder to work in."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return found


def peak_rss_mb() -> float:
    """
    Say how much memory this process has held at most.

    The system's own account of it goes back to before the program was started, to its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def measure(asked: Mapping[str, Any], sync: Callable[[], object]) -> None:
    """Run a cycle and write down what it took, and what it failed with."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    error = ""
    try:
        sync()
    except BaseException as failure:  # noqa: BLE001 - whatever it is, the comparison says so
        error = f"{type(failure).__name__}: {failure}"[:200]
    figures = {
        "wall_s": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "rss_mb": peak_rss_mb(),
        "error": error,
    }
    Path(asked["folder"], "figures.json").write_text(json.dumps(figures))
