"""
Handle Pollwire's events: each change once, and none after a later one of the same thing.

Put your own work into :func:`apply`; the rest is as it has to be.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities import batch
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.typing import LambdaContext

TABLE = os.environ["TABLE_NAME"]

#: What was handled is known for longer than any queue keeps a message (14 days in each of two).
KEPT_S = 30 * 24 * 3600

logger = Logger()
dynamodb = boto3.client("dynamodb")
config = IdempotencyConfig(
    event_key_jmespath="uuid", raise_on_no_idempotency_key=True, expires_after_seconds=KEPT_S
)
store = DynamoDBPersistenceLayer(TABLE, boto3_client=dynamodb)
# One that fails holds up what follows in its group, which is a stream of an account; no other.
processor = batch.SqsFifoPartialProcessor(skip_group_on_error=True)
# Nor do those fail that went well beside it.
processor.raise_on_entire_batch_failure = False


def apply(event: dict[str, Any]) -> None:
    """
    Have the effect of one change.

    It is called once more if it raises, or if the process dies before it is noted that it was
    done: what it does twice must be the same as once.
    """
    body = event["body"]
    logger.info(body["change"], stream_name=body["stream"], uuid=event["uuid"])


def handle(record: SQSRecord) -> None:
    event = json.loads(record.body)  # As it was published, with RawMessageDelivery.
    if is_late(event["ownerId"], event["body"]):
        logger.info("late", uuid=event["uuid"])
        return
    apply_once(event=event)


@idempotent_function(data_keyword_argument="event", persistence_store=store, config=config)
def apply_once(event: dict[str, Any]) -> None:
    apply(event)


def is_late(account: str, body: dict[str, Any]) -> bool:
    """
    Tell whether a later change of the same thing was begun with; if not, begin with this one.

    The number that is compared rises within an account's stream. Gaps in it mean nothing. One that
    is equal is a repeat, which may have been broken off: whether it was done is known by its uuid.
    """
    thing = [body["connection"], account, body["stream"], body["recordId"]]
    try:
        dynamodb.update_item(
            TableName=TABLE,
            # A hash: an id may be longer than a key.
            Key={"id": {"S": f"last#{hashlib.sha256(json.dumps(thing).encode()).hexdigest()}"}},
            UpdateExpression="SET last_sequence = :this, expiration = :ends",
            ConditionExpression="attribute_not_exists(id) OR last_sequence <= :this",
            ExpressionAttributeValues={
                ":this": {"N": str(body["sequence"])},
                ":ends": {"N": str(int(time.time()) + KEPT_S)},
            },
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return True
    return False


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    config.register_lambda_context(context)
    return batch.process_partial_response(event, handle, processor, context)
