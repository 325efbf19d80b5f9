"""Listen to signals first, then load the rest. See local/run.py."""

import sys
from pathlib import Path

from local.processes import Stop, guard

# As pytest does by pyproject.toml; MiniStack's functions get the layer instead.
sys.path.insert(0, str(Path(__file__).parents[1] / "layers" / "pollwire"))
stop = Stop()
stop.listen()


def main() -> int:
    from local.run import main

    return main(stop)


if __name__ == "__main__":
    sys.exit(guard(main))
