"""Delta: publish what changed in one stream of one account."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities import batch
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from pollwire import pipeline
from pollwire.batches import Metrics, report, tell_delta
from pollwire.queues import read_delta
from pollwire.wiring import world

logger = Logger()
metrics = Metrics()
processor = batch.SqsFifoPartialProcessor(skip_group_on_error=True)
processor.raise_on_entire_batch_failure = False


def delta(record: SQSRecord, lambda_context: LambdaContext) -> None:
    job = read_delta(record.body)
    counts = pipeline.delta(world(), job, lambda_context.get_remaining_time_in_millis)
    tell_delta(logger, metrics, job, counts)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    response = batch.process_partial_response(event, delta, processor, context)
    return report(event, response, processor, world().queues, logger, metrics)
