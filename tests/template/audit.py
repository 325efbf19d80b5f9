"""
checkov over what is deployed. It reads neither loops nor SAM's resources, so they are written out.

    make audit
"""

from __future__ import annotations

import json
import os
import sys

from local.environments import AUDIT, ROOT, WORK, Lock, is_made, make
from local.processes import Processes, Progress, Stop, guard
from tests.template.expand import deployable


def main() -> int:
    (folder,) = AUDIT
    with Lock("audit", "checks the template; wait until it is done"):
        if not is_made(folder):
            Progress()(f"making {folder}, once: 300 MB, a minute or so")
            stop = Stop()
            stop.listen()
            with Processes(WORK / "logs", stop) as processes:
                make(folder, processes)
        template = WORK / "template.json"
        template.write_text(json.dumps(deployable()))
    checkov = ROOT / folder / "bin" / "checkov"
    os.execv(checkov, [checkov, "--config-file", ROOT / ".checkov.yaml", "--file", template])  # noqa: S606


if __name__ == "__main__":
    sys.exit(guard(main))
