"""
What became of a unit of work, told to the log, the metrics and the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (
    AmazonCloudWatchEMFProvider,
)
from aws_lambda_powertools.utilities.batch import BasePartialProcessor
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from botocore.exceptions import BotoCoreError, ClientError

from pollwire.errors import Retryable, describe
from pollwire.model import CheckJob, DeltaJob
from pollwire.queues import Queues, read_job
from pollwire.world import Counts

#: Metrics that are kept by provider or by stream as well, for the charts that show them so: each
#: value of a dimension is one more metric to be paid for.
BY: Final = {
    "polled": "provider",
    "lag_ms": "provider",
    "publish_ms": "provider",
    "created": "stream",
    "updated": "stream",
    "deleted": "stream",
}


class Metrics(AmazonCloudWatchEMFProvider):
    """
    Powertools' metrics in embedded format, by ``service``; some by one dimension more, see ``BY``.

    That dimension is metadata: a name in the line, which only what is said of it makes one.
    """

    def serialize_metric_set(self, *args: Any, **options: Any) -> Any:
        """Write one line; its directives lie in one list, each with its dimensions."""
        line: Any = super().serialize_metric_set(*args, **options)
        directives = line["_aws"]["CloudWatchMetrics"]
        (every,) = directives
        for dimension in sorted({*BY.values()} & line.keys()):
            metrics = [one for one in every["Metrics"] if BY.get(one["Name"]) == dimension]
            if metrics:
                directives.append(
                    {**every, "Dimensions": [["service", dimension]], "Metrics": metrics}
                )
        return line


def count(metrics: Metrics, counts: Mapping[str, int]) -> None:
    """Add what a stage counted to the metrics."""
    for name, number in counts.items():
        metrics.add_metric(name, MetricUnit.Count, number)


def tell_check(logger: Logger, metrics: Metrics, job: CheckJob, counts: Counts) -> None:
    """Log a check and count it; `pollwire status` reads the metrics' line, at any log level."""
    logger.info(
        "checked",
        correlation_id=job.correlation_id,
        connection=job.connection,
        number=job.shard,
        counts=counts,
    )
    told = {"connection": job.connection, "shard": job.shard, "due_ms": job.due_ms}
    # A look, or a check of one account, is not the shard's regular one.
    told |= {"after_s": job.after_s or "", "account": job.account, "provider": counts.provider}
    _add_metadata(metrics, told)
    count(metrics, counts)


def tell_delta(logger: Logger, metrics: Metrics, job: DeltaJob, counts: Counts) -> None:
    """Log a delta and count it. Its line says which events it published, and none of what is in."""
    more: dict[str, Any] = {"rest": counts.rest} if counts.rest else {}
    if counts.last_sequence:
        more |= {"first_sequence": counts.first_sequence, "last_sequence": counts.last_sequence}
    logger.info(
        "drained",
        correlation_id=job.correlation_id,
        account=job.account,
        stream_name=job.stream,
        counts=counts,
        **more,
    )
    # A job may name a stream that there is not; its metrics would be kept for ever.
    if counts.provider:
        _add_metadata(metrics, {"provider": counts.provider, "stream": job.stream})
    count(metrics, counts)
    for name, times_ms in (("lag_ms", counts.lags_ms), ("publish_ms", counts.publish_ms)):
        for time_ms in times_ms:
            metrics.add_metric(name, MetricUnit.Milliseconds, time_ms)


def _add_metadata(metrics: Metrics, told: Mapping[str, Any]) -> None:
    for name, value in told.items():
        if value != "":
            metrics.add_metadata(name, value)


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
        job = read_job(record["body"])
        logger.error(
            "failed",
            correlation_id=job.correlation_id if job else None,
            reason=describe(error),
            message_id=record["messageId"],
            job=described(job),
        )
        if isinstance(error, Retryable):
            count(metrics, {type(error).__name__.lower(): 1})
    count(metrics, {"failed_jobs": len(failed)})
    try:
        queues.hasten(failed)
    except (BotoCoreError, ClientError) as error:
        # They come back all the same, after the queue's own timeout.
        logger.warning("not hastened", reason=describe(error))
    return response


def described(job: CheckJob | DeltaJob | None) -> dict[str, str | int]:
    """Tell which job a message is, to be logged; of one that is none, nothing."""
    names = ("connection", "account", "shard", "stream")
    return {name: value for name in names if (value := getattr(job, name, "")) != ""}
