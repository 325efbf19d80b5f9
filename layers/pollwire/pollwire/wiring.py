"""
The environment, turned into objects once a container.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

import boto3
from botocore.config import Config

from pollwire.errors import Misconfigured
from pollwire.http import Hosts, Http
from pollwire.providers import registered
from pollwire.queues import Queues, Topic
from pollwire.secrets import Sealer
from pollwire.state import State
from pollwire.world import World

#: A call to AWS ends in seconds: with botocore's 60 s and retries it could outlive the function.
AWS = Config(
    connect_timeout=2,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 3},
    tcp_keepalive=True,
    # Our calls are validated in every test; here it would be a seventh of a delta's time.
    parameter_validation=False,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What the template tells a function, in environment variables of the same names in upper case.

    Attributes:
        table_name: The state table.

        checks_queue_url: Queue of a provider's checks, with ``{provider}`` for its name.

        deltas_queue_url: Queue of delta jobs, with ``{stream}`` in the place of the stream's name.

        events_topic_arn: Topic of events.

        key_arn: KMS key that seals credentials.

        allowed_hosts: Base URLs beside the providers' own, separated by commas; may be empty.
    """

    table_name: str
    checks_queue_url: str
    deltas_queue_url: str
    events_topic_arn: str
    key_arn: str
    allowed_hosts: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """
        Read the settings.

        Raises:
            Misconfigured: One is missing.
        """
        names = [field.name for field in fields(cls)]
        missing = [name.upper() for name in names if name.upper() not in environment]
        if missing:
            raise Misconfigured(f"environment: {', '.join(missing)} missing; see template.yaml")
        return cls(**{name: environment[name.upper()] for name in names})


@cache
def world() -> World:
    """Build what the stages work with, at the first call."""
    built = build(Settings.read(os.environ))
    _keep()
    return built


@cache
def _keep() -> None:
    """Tell the garbage collector, once a process, that what is loaded by now stays."""
    # It would look through all of botocore's models every few checks: a tenth of what those cost.
    gc.freeze()


def build(settings: Settings) -> World:
    """Build what the stages work with."""
    providers = registered()
    own = [host for provider in providers.values() for host in provider.hosts.values()]
    hosts = Hosts(own, [host for host in settings.allowed_hosts.split(",") if host.strip()])
    session = boto3.Session()
    return World(
        state=State(session.client("dynamodb", config=AWS), settings.table_name),
        queues=Queues(
            session.client("sqs", config=AWS), settings.checks_queue_url, settings.deltas_queue_url
        ),
        topic=Topic(session.client("sns", config=AWS), settings.events_topic_arn),
        sealer=Sealer(session.client("kms", config=AWS), settings.key_arn, clock),
        http=Http(hosts),
        hosts=hosts,
        providers=providers,
        clock=clock,
        jitter=random.SystemRandom().random,
        sleep=time.sleep,
    )


def clock() -> int:
    """Say what time it is, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
