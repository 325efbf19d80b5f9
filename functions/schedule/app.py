"""Schedule: queue a check for every shard that is due this minute."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pollwire import pipeline
from pollwire.batches import Metrics, count
from pollwire.due import MINUTE_MS
from pollwire.events import iso
from pollwire.wiring import world

#: A tick comes a day late at most.
LATE_MS_MAX = 86_400_000

logger = Logger()
metrics = Metrics()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    minute_ms = _minute_ms(event)
    counts = pipeline.schedule(world(), minute_ms)
    logger.info("scheduled", minute=iso(minute_ms), counts=counts)
    count(metrics, counts)


def _minute_ms(event: dict[str, Any]) -> int:
    """Read the minute a tick is for; our own clock's if it says none (run by hand), or nonsense."""
    now_ms = world().clock()
    try:
        at_ms = int(datetime.fromisoformat(event["time"]).timestamp() * 1000)
    except (KeyError, TypeError, ValueError, OverflowError):
        at_ms = now_ms
    at_ms = at_ms if abs(at_ms - now_ms) <= LATE_MS_MAX else now_ms
    return at_ms - at_ms % MINUTE_MS
