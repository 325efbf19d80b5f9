"""
Credentials and access tokens, sealed with KMS.

The encryption context binds what was sealed to its connection and account: moved to another item it
does not open. Only the functions that need a credential may open it; what was opened is kept in
memory, never written anywhere.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from pollwire.errors import Misconfigured, Unasked

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

#: KMS's words for what will not open by asking again.
UNOPENABLE = {
    "AccessDeniedException",
    "DisabledException",
    "IncorrectKeyException",
    "InvalidCiphertextException",
    "KMSInvalidStateException",
    "NotFoundException",
}

#: Stands for the account where it is no credential that is sealed, but what verifies a provider's
#: notifications: no account has such an id, so a role can be let open these and nothing else.
PUSH = "*push"

#: What was opened stays in memory this long, so that a rotated credential is taken up.
OPENED_MS_MAX = 300_000

#: Entries in memory: a few shards of accounts.
OPENED_MAX = 5_000


class Sealed(Mapping[str, str]):
    """
    What is opened when somebody first looks into it: most jobs have an access token, and never do.

    Args:
        opened: Opens it; raises what :meth:`Sealer.open` does.
    """

    def __init__(self, opened: Callable[[], Mapping[str, str]]) -> None:
        self._opened = opened

    def __getitem__(self, name: str) -> str:
        return self._opened()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened())

    def __len__(self) -> int:
        return len(self._opened())


class Sealer:
    """
    Seals and opens small mappings of text.

    Args:
        key: ARN of the KMS key.

        clock: Milliseconds since the epoch.

    Attributes:
        calls: Of KMS so far: each is paid for.
    """

    def __init__(self, client: KMSClient, key: str, clock: Callable[[], int]) -> None:
        # Its debug log has whole requests and answers: what is sealed, and what was opened.
        botocore = logging.getLogger("botocore")
        if botocore.level != logging.INFO:
            botocore.setLevel(logging.INFO)
        self.calls = 0
        self._client = client
        self._key = key
        self._clock = clock
        self._opened: dict[tuple[str, str, bytes], tuple[int, Mapping[str, str]]] = {}

    def seal(self, secret: Mapping[str, str], connection: str, account: str) -> bytes:
        """
        Seal a mapping of at most 4,096 bytes as JSON.

        Args:
            account: Empty for a credential that all accounts of a connection share.

        Raises:
            Misconfigured: KMS refuses.

            Unasked: KMS does not answer; another time it may.
        """
        self.calls += 1
        try:
            answer = self._client.encrypt(
                KeyId=self._key,
                Plaintext=json.dumps(dict(secret)).encode(),
                EncryptionContext=_context(connection, account),
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in {*UNOPENABLE, "ValidationException"}:
                raise Unasked(f"KMS seals nothing at the moment: {code}") from error
            raise Misconfigured(
                f"the stack's key does not seal for {connection}/{account or '*'}: {code}; "
                "the role needs kms:Encrypt, and a secret has 4096 bytes at most"
            ) from error
        except BotoCoreError as error:
            raise Unasked(f"KMS does not answer: {type(error).__name__}") from error
        return answer["CiphertextBlob"]

    def open(self, sealed: bytes, connection: str, account: str) -> Mapping[str, str]:
        """
        Open what was sealed for this connection and account.

        Raises:
            Misconfigured: It was sealed with another key or for another account, or is no mapping
                of text.

            Unasked: KMS does not answer; another time it may.
        """
        entry = (connection, account, sealed)
        at_ms, secret = self._opened.get(entry, (0, {}))
        now_ms = self._clock()
        if now_ms - at_ms < OPENED_MS_MAX:
            return secret
        self.calls += 1
        try:
            answer = self._client.decrypt(
                KeyId=self._key,
                CiphertextBlob=sealed,
                EncryptionContext=_context(connection, account),
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in UNOPENABLE:
                raise Unasked(f"KMS opens no credential at the moment: {code}") from error
            raise Misconfigured(
                f"credential of {connection}/{account or '*'} does not open with the stack's key; "
                "set it again"
            ) from error
        except BotoCoreError as error:
            raise Unasked(f"KMS does not answer: {type(error).__name__}") from error
        opened = _read(answer["Plaintext"])
        if opened is None:
            raise Misconfigured(
                f"credential of {connection}/{account or '*'} is no JSON object of texts; "
                "set it again"
            )
        if len(self._opened) >= OPENED_MAX:
            self._opened.clear()
        self._opened[entry] = (now_ms, opened)
        return opened


def _read(plaintext: bytes) -> Mapping[str, str] | None:
    # The error would hold all of what was opened.
    with suppress(ValueError, RecursionError):
        opened = json.loads(plaintext)
        if isinstance(opened, dict) and all(isinstance(one, str) for one in opened.values()):
            return opened
    return None


def _context(connection: str, account: str) -> dict[str, str]:
    # KMS refuses an empty value; "*" is no legal account id.
    return {"connection": connection, "account": account or "*"}
