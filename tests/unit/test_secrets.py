"""Credentials are sealed and opened without a word."""

import logging

import boto3
import pytest
from moto import mock_aws
from pollwire.errors import Misconfigured
from pollwire.secrets import Sealer

from tests.canaries import WATCH

SECRET = "canary-password+&=%ü"


@pytest.fixture
def kms():
    keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "testing")
    with mock_aws():
        yield boto3.Session(region_name="us-east-1", **keys).client("kms")


@pytest.fixture
def sealer(kms):
    return Sealer(kms, kms.create_key()["KeyMetadata"]["Arn"], lambda: 10**12)


@pytest.mark.parametrize("is_quiet", [True, False])
def test_what_is_sealed_and_opened_is_in_no_log_however_much_is_logged(sealer, is_quiet):
    """botocore would log it: each request, and each answer."""
    botocore = logging.getLogger("botocore")
    level = botocore.level
    if not is_quiet:
        botocore.setLevel(logging.DEBUG)
    try:
        sealed = sealer.seal({"password": SECRET}, "shop", "7")
        assert sealer.open(sealed, "shop", "7") == {"password": SECRET}
    finally:
        botocore.setLevel(level)

    assert bool(WATCH.seen) is not is_quiet
    WATCH.seen.clear()


@pytest.mark.parametrize("sealed", [SECRET.encode(), b"\xff", b'["a"]', b'{"password": 7}', b"1"])
def test_what_is_no_credential_is_not_quoted_when_it_is_opened(kms, sealer, sealed):
    context = {"connection": "shop", "account": "7"}
    blob = kms.encrypt(KeyId=sealer._key, Plaintext=sealed, EncryptionContext=context)
    with pytest.raises(Misconfigured, match="credential of shop/7 is no JSON object") as caught:
        sealer.open(blob["CiphertextBlob"], "shop", "7")

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(("connection", "account"), [("shop", "8"), ("other", "7"), ("shop", "")])
def test_what_was_sealed_for_another_does_not_open(sealer, connection, account):
    sealed = sealer.seal({"password": SECRET}, "shop", "7")

    with pytest.raises(Misconfigured, match="does not open with the stack's key"):
        sealer.open(sealed, connection, account)
