"""
What became of an SQS batch, told to the log, the metrics and the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BasePartialProcessor
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from botocore.exceptions import ClientError

from pollwire.errors import describe
from pollwire.queues import Queues, described


def count(metrics: Metrics, counts: Mapping[str, int]) -> None:
    """Add what a stage counted to the metrics."""
    for name, number in counts.items():
        metrics.add_metric(name, MetricUnit.Count, number)


def report(
    event: Mapping[str, Any],
    response: PartialItemFailureResponse,
    processor: BasePartialProcessor,
    queues: Queues,
    logger: Logger,
    metrics: Metrics,
) -> PartialItemFailureResponse:
    """
    Log and count the records that failed, and have them handed out again soon.

    Returns:
        *response*, for Lambda.
    """
    failed_ids = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
    failed = [record for record in event["Records"] if record["messageId"] in failed_ids]
    for record, (_, error, _) in zip(failed, processor.exceptions, strict=True):
        job = described(record["body"])
        logger.error("failed", reason=describe(error), message_id=record["messageId"], job=job)
    count(metrics, {"failed_jobs": len(failed)})
    try:
        queues.hasten(failed)
    except ClientError as error:
        # They come back all the same, after the queue's own timeout.
        logger.warning("not hastened", reason=describe(error))
    return response
