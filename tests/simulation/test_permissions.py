"""
Least privilege in both directions, by running the whole system with every policy enforced.

Some runs do all that the functions ever do (:data:`ERRANDS`). Whatever a policy allows is used by
one of them, and each of them fails where a permission that it uses is taken away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import pytest
from pollwire import drain
from pollwire.providers import registered

from tests.simulation.deployed import (
    Need,
    deployed,
    log_needs,
    permitted,
    read,
    refused,
    refused_to_services,
)
from tests.simulation.scenario import HURRIED_MS, SIZES, Run, Scenario
from tests.simulation.specs import Deployed, FunctionSpec, ScheduleSpec, Statement
from tests.simulation.upstream import Upstream
from tests.simulation.world import POISON, START_MS, Broken, Process
from tests.template.expand import ROOT, template
from tests.template.rules import of_type

pytestmark = pytest.mark.filterwarnings("ignore")

Caller = FunctionSpec | ScheduleSpec

#: Providers that notify.
PUSHING = {"ringcentral", "kirimdev"}

#: Runs of each provider.
SEEDS = range(5)

CALL_IDS = ("sessionId", "telephonySessionId", "partyId")


class Errand(Run):
    """A run for what it needs: accounts are moved, tokens end, and what cannot be read is shown."""

    _ended = False

    def _operator(self, *given: Any) -> Iterator[tuple[int, Callable[[], None]]]:
        third_ms = self.scenario.minutes * 20_000
        yield START_MS + third_ms, self._poison
        yield START_MS + third_ms, self._spoil
        yield START_MS + 2 * third_ms, self._replay
        yield START_MS + 2 * third_ms, self._split
        yield START_MS + 2 * third_ms, self._spoil

    def shard(self, account: str) -> int:
        name = self.upstreams[0].connections()[0].name
        connection = self.lambdas.pollwire().state.connection(name)
        assert connection
        found = self.lambdas.pollwire().state.find_account(connection, account)
        assert found
        return found[0]

    def _split(self) -> None:
        for _, connection in self.connections():
            self.lambdas.pollwire().state.grow(connection.name, 8)

    def _poison(self) -> None:
        """Put what is no job on every queue of jobs."""
        for queue in self.world.deployed.queues.values():
            if queue.dead_letters and "subscriber" not in queue.name:
                of_queue = {"MessageGroupId": "p", "MessageDeduplicationId": "p"}
                message = {"QueueUrl": queue.url, "MessageBody": POISON}
                self.world.aws.call(
                    "sqs", "SendMessage", message | (of_queue if queue.fifo else {})
                )
                self.world.touched.add(queue.name)

    def _spoil(self) -> None:
        for upstream in self.upstreams:
            spoil(upstream)

    def _end_tokens(
        self, process: Process | None, service: str, operation: str, params: Mapping[str, Any]
    ) -> None:
        """End all access tokens between a check and its deltas, so that these get one, too."""
        queued = process and (process.spec.stage, operation) == ("check", "SendMessageBatch")
        if not queued or self.world.now_ms < START_MS + 60_000 or self._ended:
            return
        self._ended = True
        for upstream in self.upstreams:
            if hasattr(upstream.simulator, "expire_tokens"):
                upstream.simulator.expire_tokens()

    def go(self) -> Errand:
        """Run it. No promise is looked at here but that whatever is needed is allowed."""
        with ExitStack() as stack:
            stack.enter_context(self.lambdas.installed())
            for module, name, size in SIZES:
                stack.enter_context(mock.patch.object(module, name, size))
            if self.scenario.hurried:
                stack.enter_context(mock.patch.object(drain, "PAGE_MS", HURRIED_MS))
            self.world.witnesses.append(self._end_tokens)
            self._register()
            self._harm()
            self._recover()
            for _ in range(3):
                self.minute()
        return self


def spoil(upstream: Upstream) -> None:
    """Show something that cannot be read, and enough that can for several pages."""
    simulator = upstream.simulator
    for member in upstream.members:
        if upstream.name == "youmail":
            simulator.record_greeting(member.id, userId=1)
            simulator.order(member.id)
            simulator._accounts[member.id].orders["order:"] = {"status": 1}
        if upstream.name == "ringcentral":
            simulator.ring(member.id, id=None, **dict.fromkeys(CALL_IDS))
            simulator.set_presence(member.id, dndStatus="DoNotAcceptAnyCalls")
            for _ in range(5):
                simulator.receive_sms(member.id)


def errand(provider: str, seed: int) -> Scenario:
    return Scenario(
        seed,
        upstreams=(provider,),
        accounts=2,
        streams=8,
        minutes=3,
        mutations=14,
        moving=0.3,
        watches=True,
        hostile=seed % 2 == 1,
        small=True,
        hurried=seed % 3 == 0,
        backfill=seed % 3 > 0,
        pushes=float(provider in PUSHING),
    )


ERRANDS = [errand(provider, seed) for provider in registered() for seed in SEEDS]


@cache
def done() -> list[Errand]:
    """Do all errands, each of which has all that it needs."""
    return [Errand(given).go() for given in ERRANDS]


@cache
def exercised() -> list[tuple[Scenario, dict[str, list[Need]]]]:
    """What each run needed, by who needed it."""
    found = []
    for run in done():
        needed: dict[str, list[Need]] = {}
        for name, action, resource, context in run.world.used():
            needed.setdefault(name, []).append((action, resource, dict(context)))
        found.append((run.scenario, needed))
    return found


def name_of(caller: Caller) -> str:
    return caller.name if isinstance(caller, FunctionSpec) else caller.role


def without(caller: Caller) -> Iterator[tuple[str, Caller]]:
    """Take every permission of a role away in turn: one action on one resource."""
    for number, statement in enumerate(caller.statements):
        before, after = caller.statements[:number], caller.statements[number + 1 :]
        for action in statement.actions:
            for resource in statement.resources:
                left = [
                    replace(statement, actions=tuple(a for a in statement.actions if a != action)),
                    replace(
                        statement,
                        actions=(action,),
                        resources=tuple(r for r in statement.resources if r != resource),
                    ),
                ]
                kept = [one for one in left if one.actions and one.resources]
                yield f"{action} {resource}", replace(caller, statements=(*before, *kept, *after))


def stack_with(caller: Caller) -> Deployed:
    if isinstance(caller, ScheduleSpec):
        return replace(deployed(), schedules=(caller,))
    return replace(deployed(), functions={**deployed().functions, caller.name: caller})


ROLES: list[Caller] = [*deployed().functions.values(), *deployed().schedules]


@pytest.mark.parametrize("caller", ROLES, ids=lambda one: name_of(one).rpartition("/")[2])
def test_a_run_fails_where_any_permission_of_a_role_is_taken_away(caller: Caller) -> None:
    """And so each is used: a permission that no run needs is one too many."""
    spared = []
    for what, lesser in without(caller):
        of = stack_with(lesser)
        runs = (
            given
            for given, needed in exercised()
            if refused(lesser, needed.get(name_of(caller), ()), of)
        )
        given = next(runs, None)
        if given is None:
            spared.append(what)
            continue
        with pytest.raises(Broken, match=f"I12: .* may not {what.partition(' ')[0]} on "):
            Errand(given, of=of).go()

    assert spared == []


def test_the_runs_make_every_call_of_the_package() -> None:
    package = ROOT / "layers/pollwire/pollwire"
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    made = {name.title().replace("_", "") for name in re.findall(r"_client\.([a-z_]+)\(", text)}

    # Accounts and connections are removed by an operator.
    assert made - {name for run in done() for name in run.world.aws.calls} == {"DeleteItem"}


def test_what_is_allowed_is_no_more_than_what_is_counted_here() -> None:
    """No wildcard hides several permissions in one."""
    for caller in ROLES:
        for statement in caller.statements:
            assert not [one for one in statement.actions if "*" in one]
            logs = all(action.startswith("logs:") for action in statement.actions)
            assert not [one for one in statement.resources if "*" in one.removesuffix(":*")]
            assert logs or not [one for one in statement.resources if "*" in one]


def test_each_function_writes_its_own_log_only() -> None:
    functions = list(deployed().functions.values())
    for function in functions:
        for other in functions:
            missing = refused(function, log_needs(other), deployed())
            assert (missing == []) == (function is other)


# -- policies of resources -------------------------------------------------------------------------


#: Where a template has policies of resources: type, and the property.
POLICIES = {
    "IAM::Role": "AssumeRolePolicyDocument",
    "KMS::Key": "KeyPolicy",
    "SNS::TopicPolicy": "PolicyDocument",
    "SQS::QueuePolicy": "PolicyDocument",
}


def stripped(effect: str) -> Iterator[Any]:
    """Take every statement of the policies of roles, key, topic and queues away in turn."""
    for kind, name in POLICIES.items():
        for logical_id, properties in of_type(template(), kind).items():
            for number in range(len(properties[name]["Statement"])):
                without = template()
                document = without["Resources"][logical_id]["Properties"][name]
                statement = document["Statement"].pop(number)
                if "Fn::If" in statement:
                    statement = statement["Fn::If"][1]
                if statement["Effect"] == effect:
                    yield pytest.param(read(without), id=f"{logical_id} {number}")


@pytest.mark.parametrize("of", list(stripped("Allow")))
def test_nothing_runs_without_a_grant_of_a_resource(of: Deployed) -> None:
    assert refused_to_services(deployed()) == []
    if refused_to_services(of):
        return
    with pytest.raises(Broken, match=r"^I[0-9]+: "):
        Run(errand("youmail", 1), of=of).go()


@pytest.mark.parametrize("of", list(stripped("Deny")))
def test_each_denial_denies_something_by_itself(of: Deployed) -> None:
    """Somebody who may do everything in the account may not do this, and without it may."""
    anything = (Statement("Allow", ("*",), ("*",), {}),)
    somebody = [replace(one, statements=anything) for one in deployed().functions.values()]
    resources = [queue.arn for queue in deployed().queues.values()] + [deployed().topic]
    denied = 0
    for caller in somebody:
        for resource in resources:
            action = "sns:Publish" if resource == deployed().topic else "sqs:SendMessage"
            for tls in ("true", "false"):
                need = (action, resource, {"aws:SecureTransport": tls})
                denied += permitted(caller, need, of) and not permitted(caller, need, deployed())

    assert denied
