"""
What is deployed: how large it is, and how long it takes to start.

    python -m tests.bench.package
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.aws import ENVIRONMENT

ROOT = Path(__file__).parents[2]
LAYERS = {"dependencies": "build-DependenciesLayer", "pollwire": "build-PollwireLayer"}
STAGES = ("schedule", "check", "delta", "push")

#: Cold starts of each function, after one that does not count: it reads the files from disk.
STARTS = 7

BUILD_S = 300
START_S = 60


class Unbuilt(Exception):
    """A layer could not be built; the text says which, and the remedy."""


def build(folder: Path) -> dict[str, Path]:
    """
    Build the layers for this interpreter, by the makefiles that ``sam build`` runs.

    Raises:
        Unbuilt: One was not.
    """
    built = {}
    for name, target in LAYERS.items():
        built[name] = folder / name
        words = [f"ARTIFACTS_DIR={built[name]}", f"LAYER_PYTHON={sys.executable}"]
        command = ["make", "-s", "-C", str(ROOT / "layers" / name), target, *words]
        try:
            subprocess.run(command, capture_output=True, timeout=BUILD_S, check=True)
        except (subprocess.SubprocessError, OSError) as error:
            raise Unbuilt(
                f"the layer {name} could not be built ({type(error).__name__});"
                " is the package index reachable?"
            ) from error
    return built


def size_bytes(folder: Path) -> int:
    """Add up the files of a folder, unzipped."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def start_s(stage: str, layers: dict[str, Path]) -> float:
    """Take the median of a function's cold starts, in seconds of processor time."""
    paths = [ROOT / "functions" / stage, *(layer / "python" for layer in layers.values())]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "POWERTOOLS_SERVICE_NAME": stage,
    }
    command = [sys.executable, str(ROOT / "tests/bench/start.py"), stage]
    taken = [
        float(
            subprocess.run(
                command, env=environment, capture_output=True, timeout=START_S, check=True
            ).stdout
        )
        for _ in range(STARTS + 1)
    ]
    return statistics.median(taken[1:])


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            layers = build(Path(folder))
        except Unbuilt as error:
            print(f"make bench: {error}", file=sys.stderr)
            return 0  # Nothing else depends on it.
        sizes = {f"layer {name}": size_bytes(path) for name, path in layers.items()}
        for stage in STAGES:
            source = ROOT / "functions" / stage / "app.py"
            sizes[f"function {stage}"] = source.stat().st_size
        print("Unzipped, with byte code for this interpreter:")
        for name, size in sizes.items():
            print(f"  {name:28}{size / 1024:10,.0f} KB")
        print("\nProcessor time of a cold start: imports, clients, HTTP engine")
        for stage in STAGES:
            print(f"  {stage:28}{start_s(stage, layers) * 1000:10.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
