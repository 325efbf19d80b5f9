"""Promises of how pollwire.state takes the answers to queries."""

from __future__ import annotations

import base64
import io
import json

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from pollwire.state import State

PAGE = {
    "Items": [
        {"sk": {"S": "7"}, "marks": {"S": 'a "B" and\nblanks'}, "failures": {"N": "3"}},
        {"sk": {"S": "8"}, "pending": {"SS": ["a@1@b", "c@2@d"]}, "was_empty": {"BOOL": True}},
        {"sk": {"S": "9"}, "credential": {"B": base64.b64encode(b"\x00sealed").decode()}},
        {"sk": {"S": "B"}, "odd": {"M": {"B": {"S": "no bytes"}}}},
        {},
    ],
    "Count": 5,
    "ScannedCount": 5,
    "LastEvaluatedKey": {"pk": {"S": "shard#shop#0"}, "sk": {"S": "9"}},
}


def answered(status: int, body: bytes):
    """Make a client whose every call is answered so."""

    class Raw(io.BytesIO):
        def stream(self, **_):
            yield self.read()

    client = boto3.Session().client(
        "dynamodb",
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}),
    )
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "1"}
    client.meta.events.register(
        "before-send.dynamodb", lambda request, **_: AWSResponse("", status, headers, Raw(body))
    )
    return client


def queried(client):
    answer = client.query(
        TableName="state",
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": "shard#shop#0"}},
    )
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(PAGE, id="with bytes"),
        pytest.param({**PAGE, "Items": PAGE["Items"][:2]}, id="without bytes"),
        pytest.param({"Items": [], "Count": 0, "ScannedCount": 0}, id="nothing"),
    ],
)
def test_a_page_is_what_botocore_makes_of_it(page):
    body = json.dumps(page).encode()
    usual, ours = answered(200, body), answered(200, body)
    State(ours, "state")

    assert queried(ours) == queried(usual)


def test_a_refusal_is_left_to_botocore():
    body = b'{"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "no"}'
    client = answered(400, body)
    State(client, "state")

    with pytest.raises(ClientError) as refusal:
        queried(client)
    assert refusal.value.response["Error"]["Code"] == "ThrottlingException"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"Items": [', b"<html>"])
def test_what_is_no_page_is_left_to_botocore(body):
    usual, ours = answered(200, body), answered(200, body)
    State(ours, "state")

    assert outcome(ours) == outcome(usual)


def outcome(client):
    try:
        return queried(client)
    except Exception as error:  # noqa: BLE001 - whatever botocore makes of it
        return type(error)
