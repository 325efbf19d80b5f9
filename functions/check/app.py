"""Check: ask a provider which streams of a shard's accounts moved, and queue a delta for each."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities import batch
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from pollwire import pipeline
from pollwire.batches import Metrics, report, tell_check
from pollwire.queues import read_check
from pollwire.wiring import world

logger = Logger()
metrics = Metrics()
processor = batch.BatchProcessor(batch.EventType.SQS, raise_on_entire_batch_failure=False)


def check(record: SQSRecord) -> None:
    job = read_check(record.body)
    counts = pipeline.check(world(), job)
    tell_check(logger, metrics, job, counts)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    response = batch.process_partial_response(event, check, processor, context)
    return report(event, response, processor, world().queues, logger, metrics)
