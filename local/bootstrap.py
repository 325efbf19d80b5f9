"""
Make the environments that everything else runs in, if they are not there yet.

    python3 -m local.bootstrap                    make them
    python3 -m local.bootstrap COMMAND ...        ... and become that command

In the syntax and with the library of an old Python, so that it can say that it is one.
"""

import sys

OLDEST, NEWEST = (3, 11), (3, 14)


def main():
    # type: () -> int
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        sys.stderr.write(
            "pollwire: {} is Python {}.{}; 3.11 to 3.14 is needed. Install one and name it, as in "
            "make run PYTHON=python3.13\n".format(sys.executable, *version)
        )
        return 1
    from local import environments, processes

    return processes.guard(environments.main)


if __name__ == "__main__":
    sys.exit(main())
