"""
The stack that a command works on, found when it is first needed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured
from pollwire.items import UNREADABLE
from pollwire.model import NAME, Connection
from pollwire.providers import Provider, registered
from pollwire.queues import Queues
from pollwire.registry import Registry
from pollwire.secrets import Sealer
from pollwire.wiring import clock

#: Threads that seal credentials, each with a connection to KMS.
SEALERS = 16

#: An operator waits longer than a function may, but not for ever.
AWS = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 5},
    max_pool_connections=SEALERS,
)

#: How AWS, and emulators, say that a call is not allowed.
DENIED = re.compile("AccessDenied|AuthorizationError|Unauthorized|NotAuthorized|Forbidden")


class Misused(Misconfigured):
    """A word of a command is wrong, whatever there is in the stack."""


@contextmanager
def as_words() -> Iterator[None]:
    """
    Take what is refused in here for words of the command.

    Raises:
        Misused: Instead of ``Misconfigured``.
    """
    try:
        yield
    except Misconfigured as error:
        raise Misused(str(error)) from error


class Session:
    """
    What a command works with.

    Args:
        stack: Name of the CloudFormation stack.

        given: Outputs that are known without asking CloudFormation, by name; empty ones are not.

        as_json: Answers are for a program.
    """

    def __init__(self, stack: str, given: Mapping[str, str], as_json: bool) -> None:
        self.as_json = as_json
        self.now_ms = clock()
        self._stack = stack
        self._given = {name: value for name, value in given.items() if value}
        self._clients: dict[str, Any] = {}

    @cached_property
    def state(self) -> Registry:
        return Registry(self._client("dynamodb"), self.table_name)

    @cached_property
    def sealer(self) -> Sealer:
        return Sealer(self._client("kms"), self.key_arn, clock)

    @property
    def table_name(self) -> str:
        return self._output("StateTableName")

    @property
    def key_arn(self) -> str:
        return self._output("KeyArn")

    @cached_property
    def topic_arn(self) -> str:
        return self._output("EventsTopicArn")

    @cached_property
    def name(self) -> str:
        """The stack's name, which the names of its queues begin with; it may be given as an ARN."""
        return str(self.described["StackName"])

    def client(self, service: str) -> Any:
        """Make the client of a service, once."""
        if service not in self._clients:
            self._clients[service] = self._client(service)
        return self._clients[service]

    @cached_property
    def queues(self) -> Queues:
        """The queues of checks; nobody but a check queues a delta job."""
        return Queues(self._client("sqs"), self._output("ChecksQueueUrl"), "")

    def connection(self, name: str) -> Connection:
        """
        Read a connection.

        Raises:
            Misconfigured: There is none of that name.
        """
        found = self.known(name)
        if found is None:
            raise Misconfigured(
                f"connection {name}: there is none; see pollwire connections list, "
                "or add it with pollwire connections add"
            )
        return found

    def known(self, name: str) -> Connection | None:
        """
        Read a connection, or ``None`` if there is none of that name.

        Raises:
            Misused: It is no name.

            Misconfigured: It is there, and cannot be read.
        """
        if not NAME.fullmatch(name):
            raise Misused(
                "connection: 1 to 64 letters, digits, dots, dashes, underscores are its name"
            )
        try:
            return self.state.connection(name)
        except UNREADABLE as error:
            raise Misconfigured(
                f"connection {name}: its item in the state table cannot be read; correct it there"
            ) from error

    def allowed_hosts(self) -> list[str] | None:
        """Name the stack's own hosts, beside the providers'; ``None`` if it was not looked up."""
        if "StateTableName" in self._given:
            return None
        found = self.parameters.get("AllowedHosts")
        return None if found is None else [host for host in found.split(",") if host.strip()]

    def push_url(self) -> str:
        """Say where notifications go; empty if nowhere, or if the stack was not looked up."""
        if "StateTableName" in self._given:
            return ""
        return self.outputs.get("PushUrl", "")

    def _output(self, name: str) -> str:
        if name in self._given:
            return self._given[name]
        if name in self.outputs:
            return self.outputs[name]
        raise Misconfigured(
            f"stack {self._stack} has no output {name}; is it a stack of Pollwire? "
            "Name another one with --stack or POLLWIRE_STACK"
        )

    @property
    def outputs(self) -> Mapping[str, str]:
        """The stack's outputs, as CloudFormation has them."""
        outputs = self.described.get("Outputs", [])
        return {one["OutputKey"]: str(one["OutputValue"]) for one in outputs}

    @property
    def parameters(self) -> Mapping[str, str]:
        """The stack's parameters."""
        parameters = self.described.get("Parameters", [])
        return {one["ParameterKey"]: one.get("ParameterValue", "") for one in parameters}

    @cached_property
    def described(self) -> Mapping[str, Any]:
        """
        What CloudFormation says of the stack.

        Raises:
            Misconfigured: There is none of that name.
        """
        if not self._stack:  # CloudFormation would describe all stacks, and any be taken.
            raise Misconfigured("stack: its name is empty; give --stack or POLLWIRE_STACK")
        try:
            answer = self._client("cloudformation").describe_stacks(StackName=self._stack)
        except ClientError as error:
            # CloudFormation's word for a stack that is not there, and for a name that is none.
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise Misconfigured(
                f"stack {self._stack}: there is none in this account and region; "
                "name it with --stack or POLLWIRE_STACK, the region with AWS_REGION"
            ) from error
        described: Mapping[str, Any] = answer["Stacks"][0]
        return described

    @cached_property
    def _boto(self) -> Any:
        # boto3 by itself knows AWS_DEFAULT_REGION only.
        return boto3.Session(region_name=os.environ.get("AWS_REGION") or None)

    def _client(self, service: str) -> Any:
        return self._boto.client(service, config=AWS)


def is_denied(error: ClientError) -> bool:
    """Tell whether AWS, or an emulator, does not allow a call."""
    return bool(DENIED.search(str(error.response["Error"].get("Code", ""))))


def aws_time(answer: Mapping[str, Any]) -> float:
    """Say what time it was by AWS's clock when it gave an answer, in seconds since the epoch."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def provider_of(name: str) -> Provider:
    """
    Look up a provider.

    Raises:
        Misconfigured: There is none of that name.
    """
    providers = registered()
    if name not in providers:
        raise Misconfigured(f"provider {name}: there is none; it is one of {', '.join(providers)}")
    return providers[name]
