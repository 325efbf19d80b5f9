"""
The stack that a command works on, found when it is first needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured
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
    retries={"mode": "standard", "total_max_attempts": 8},
    max_pool_connections=SEALERS,
)


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

    @cached_property
    def state(self) -> Registry:
        return Registry(self._client("dynamodb"), self._output("StateTableName"))

    @cached_property
    def sealer(self) -> Sealer:
        return Sealer(self._client("kms"), self._output("KeyArn"), clock)

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
            Misconfigured: It is there, and cannot be read; or it is no name.
        """
        if not NAME.fullmatch(name):
            raise Misconfigured(
                "connection: 1 to 64 letters, digits, dots, dashes, underscores are its name"
            )
        try:
            return self.state.connection(name)
        except (KeyError, ValueError) as error:
            raise Misconfigured(
                f"connection {name}: its item in the state table cannot be read; correct it there"
            ) from error

    def allowed_hosts(self) -> list[str] | None:
        """Name the stack's own hosts, beside the providers'; ``None`` if it was not looked up."""
        if "StateTableName" in self._given:
            return None
        found = [
            one.get("ParameterValue", "")
            for one in self._described.get("Parameters", [])
            if one["ParameterKey"] == "AllowedHosts"
        ]
        return [host for host in found[0].split(",") if host.strip()] if found else None

    def _output(self, name: str) -> str:
        if name in self._given:
            return self._given[name]
        for output in self._described.get("Outputs", []):
            if output["OutputKey"] == name:
                return str(output["OutputValue"])
        raise Misconfigured(
            f"stack {self._stack} has no output {name}; is it a stack of Pollwire? "
            "Name another one with --stack or POLLWIRE_STACK"
        )

    @cached_property
    def _described(self) -> Mapping[str, Any]:
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
