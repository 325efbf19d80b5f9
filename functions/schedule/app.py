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
    """Read the minute a tick is for; our own clock's if the tick does not say (run by hand)."""
    try:
        at_ms = int(datetime.fromisoformat(str(event.get("time"))).timestamp() * 1000)
    except ValueError:
        at_ms = world().clock()
    return at_ms - at_ms % MINUTE_MS
