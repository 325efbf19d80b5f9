"""
The functions' log lines of the last minutes, as many as may be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from pollwire_cli.output import instant
from pollwire_cli.recent import Recent

#: Answers of CloudWatch Logs that are read of one function: 1 MB each, some 800 checks.
PAGES_MAX = 10

#: How far back each part of the time reaches, in minutes. The latest part is read first: what there
#: are too many lines for is the oldest.
PARTS_MIN = (2, 15, 120, 1440)

#: Lines of metrics, and none of what else is logged.
EMITTED = '{ $._aws.CloudWatchMetrics[0].Namespace = "Pollwire" }'


class Logs:
    """
    What the functions of a stack logged.

    Args:
        client: Of CloudWatch Logs.

        since_ms: Nothing older is read.

    Attributes:
        recent: What was read.

        whole_ms: All lines from then on were read.

        calls: That were made.

        notes: What could not be read.
    """

    def __init__(self, client: Any, stack: str, since_ms: int, now_ms: int) -> None:
        self.recent = Recent()
        self.whole_ms = since_ms
        self.calls = 0
        self.notes: list[str] = []
        self._client = client
        self._stack = stack
        self._since_ms = since_ms
        self._now_ms = now_ms

    def read(self, function: str) -> None:
        """
        Read the lines of one function.

        Args:
            function: Its name, without the stack's.

        Raises:
            ClientError: AWS refuses.
        """
        group, read_ms, left = f"/aws/lambda/{self._stack}-{function}", self._now_ms, PAGES_MAX
        for begin_ms, end_ms in self._parts():
            for lines, is_last in self._pages(group, begin_ms, end_ms, left):
                left -= 1
                for line in lines:
                    self.recent.add(line)
                if is_last:
                    read_ms = begin_ms
            if read_ms != begin_ms:
                self.notes.append(f"{group}: lines before {instant(read_ms)} were not all read")
                break
        self.whole_ms = max(self.whole_ms, read_ms)

    def _parts(self) -> Iterator[tuple[int, int]]:
        end_ms = self._now_ms
        for minutes in PARTS_MIN:
            begin_ms = max(self._now_ms - minutes * 60_000, self._since_ms)
            if begin_ms < end_ms:
                yield begin_ms, end_ms - 1
                end_ms = begin_ms

    def _pages(
        self, group: str, begin_ms: int, end_ms: int, most: int
    ) -> Iterator[tuple[list[str], bool]]:
        """Turn the pages of a part of the time; tell with each whether it is the last."""
        asked: dict[str, Any] = {"logGroupName": group, "filterPattern": EMITTED}
        asked |= {"startTime": begin_ms, "endTime": end_ms}
        for _ in range(most):
            self.calls += 1
            try:
                answer = self._client.filter_log_events(**asked)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise
                self.notes.append(f"{group}: there is no such log group")
                answer = {}
            token = answer.get("nextToken")
            yield [event.get("message", "") for event in answer.get("events", ())], not token
            if not token:
                return
            asked["nextToken"] = token
