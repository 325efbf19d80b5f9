"""Listen to signals first, then load the rest. See local/run.py."""

import sys

from local.processes import Stop, guard

stop = Stop()
stop.listen()


def main() -> int:
    from local.run import main

    return main(stop)


if __name__ == "__main__":
    sys.exit(guard(main))
