"""The watch over all tests (tests/conftest.py) sees what it is there to see."""

import base64
import logging
from urllib.parse import quote_plus, urlencode

import boto3
import pytest
from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError
from moto import mock_aws
from pollwire.errors import Malformed, Retryable, Unavailable

from tests.canaries import WATCH, holds_credential

SECRET = "canary-password+&=%ü"
BASIC = base64.b64encode(f"me:{SECRET}".encode()).decode()
PHONE = "+14158905908"


@pytest.fixture
def seen():
    """What the watch has seen, taken out of what this test would fail for."""
    yield WATCH.seen
    WATCH.seen.clear()


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize(
    "written",
    [
        str,
        repr,
        quote_plus,
        lambda text: urlencode({"password": text}),
        lambda text: text.encode().hex(),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: "Basic " + base64.b64encode(f"client:{text}".encode()).decode(),
    ],
)
def test_a_credential_is_found_in_every_form(written, shift):
    assert holds_credential(f"so: {written('x' * shift + SECRET)} and more")


def test_what_is_none_is_not_found():
    assert not holds_credential(base64.b64encode(bytes(range(256)) * 40).decode())
    assert not holds_credential(f"canary {quote_plus(str(Unavailable('h: 500')))}")


@pytest.mark.parametrize(
    ("logger", "level"),
    [("", "debug"), ("botocore.endpoint", "info"), ("urllib3", "debug"), ("pollwire.x", "debug")],
)
def test_a_log_line_is_seen(seen, logger, level):
    getattr(logging.getLogger(logger), level)("asked with %s", SECRET)

    assert len(seen) == 1
    assert SECRET not in str(seen)


def test_a_traceback_is_seen(seen):
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("other").exception("failed")

    assert seen


@pytest.mark.parametrize("said", [SECRET, PHONE])
def test_what_lies_beside_a_message_is_seen(seen, said, capsys):
    Logger(service="check").info("checked", extra={"counts": {"of": said}})

    assert seen
    capsys.readouterr()


@pytest.mark.parametrize("kind", [Malformed, Unavailable, Retryable])
def test_an_error_of_ours_is_seen_before_anybody_catches_it(seen, kind):
    kind(SECRET)

    assert seen == ["an error"]


def test_what_a_test_reads_of_its_output_is_seen(seen, capsys):
    print(SECRET)  # noqa: T201
    capsys.readouterr()

    assert seen == ["stdout or stderr"]


@pytest.mark.parametrize(
    ("service", "call", "named"),
    [
        ("sqs", "send_message", {"QueueUrl": "https://q", "MessageBody": SECRET}),
        (
            "sns",
            "publish",
            {"TopicArn": "arn", "Message": f"Basic {BASIC}"},
        ),
        ("dynamodb", "put_item", {"TableName": "t", "Item": {"pk": {"B": SECRET.encode()}}}),
    ],
)
def test_what_is_written_is_seen(seen, service, call, named):
    with mock_aws(), pytest.raises(ClientError):
        getattr(client(service), call)(**named)

    assert seen


def client(service):
    keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "testing")
    return boto3.Session(region_name="us-east-1", **keys).client(service)
