"""Push: take a provider's notification, and queue a check of the account it is about."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pollwire import push
from pollwire.batches import Metrics, count
from pollwire.wiring import world

logger = Logger()
metrics = Metrics()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    answer = push.receive(world(), event)
    logger.info(
        "answered",
        connection=answer.connection,
        status=answer.status,
        reason=answer.reason,
        counts=answer.counts,
    )
    count(metrics, answer.counts)
    return answer.response
