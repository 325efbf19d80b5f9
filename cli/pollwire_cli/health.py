"""
What ``pollwire doctor`` looks at. Nothing here changes anything.

Each check yields what it finds: a state and a sentence. What a check may not see, or what an
emulator does not have, is unknown and no failure.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import pollwire
from botocore.exceptions import BotoCoreError, ClientError
from pollwire.errors import Misconfigured, PollwireError
from pollwire.providers import registered

from pollwire_cli import deadletters
from pollwire_cli.command import reason
from pollwire_cli.queues import Queue, QueueArn, dead_letters, dead_queue, job_queues
from pollwire_cli.session import Session, aws_time, is_denied, provider_of
from pollwire_cli.subscribers import Subscribers, Subscription, require_readable_key
from pollwire_cli.subscriptions import tail_prefix

OK, WARNING, FAILED, UNKNOWN = "ok", "warning", "failed", "unknown"

OUTPUTS = ("ChecksQueueUrl", "EventsTopicArn", "KeyArn", "ScheduleFunctionName", "StateTableName")

#: AWS refuses a call whose clock is five minutes off.
SKEW_S, SKEW_S_MAX = 30, 240

#: Of one connection; more would take a while.
ACCOUNTS_MAX = 10_000

#: SNS's limit of a FIFO topic.
SUBSCRIPTIONS_MAX = 100

#: Seconds that all hosts together have to answer.
HOSTS_S = 10

#: What the commands do, by what they do it to.
ACTIONS = {
    "table": [
        "dynamodb:BatchGetItem",
        "dynamodb:DeleteItem",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:Query",
        "dynamodb:UpdateItem",
    ],
    "key": ["kms:Encrypt"],
    "stack": ["cloudformation:DescribeStacks"],
    "topic": [
        "sns:GetSubscriptionAttributes",
        "sns:ListSubscriptionsByTopic",
        "sns:SetSubscriptionAttributes",
        "sns:Subscribe",
        "sns:Unsubscribe",
    ],
    "jobs": ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"],
    "dead letters": [
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:ReceiveMessage",
    ],
    "queues": [
        "sqs:ChangeMessageVisibility",
        "sqs:CreateQueue",
        "sqs:DeleteMessage",
        "sqs:DeleteQueue",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:ListQueueTags",
        "sqs:ListQueues",
        "sqs:ReceiveMessage",
        "sqs:SendMessage",
        "sqs:SetQueueAttributes",
        "sqs:TagQueue",
    ],
}

Said = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What a check found.

    Attributes:
        check: Its name.

        state: ``ok``, ``warning``, ``failed`` or ``unknown``.

        says: What is so, and what to do about it.
    """

    check: str
    state: str
    says: str


def examine(session: Session) -> Iterator[Finding]:
    """Make all checks, one after the other, as far as there are credentials and a stack."""
    for name, check in CHECKS.items():
        found = [Finding(name, *one) for one in _guarded(check, session)]
        yield from found
        if check is credentials and found[-1].state == FAILED:
            return
        if check is stack and not _is_there(session):
            return


def _is_there(session: Session) -> bool:
    try:
        return bool(session.described)
    except Misconfigured:
        return False
    except (BotoCoreError, ClientError):  # Perhaps, and not ours to see.
        return True


def _guarded(check: Callable[[Session], Said], session: Session) -> Said:
    try:
        yield from check(session)
    except PollwireError as error:
        yield FAILED, reason(error)
    except ClientError as error:
        yield _judged(error)
    except BotoCoreError as error:
        yield FAILED, reason(error)


def _judged(error: ClientError) -> tuple[str, str]:
    """Tell a call that is not allowed, or not there at all, from one that fails."""
    code = str(error.response["Error"].get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if is_denied(error):
        needed = {one.partition(":")[2] for actions in ACTIONS.values() for one in actions}
        if error.operation_name in needed:
            return FAILED, f"{reason(error)}; commands need it: have it allowed"
        return UNKNOWN, f"{reason(error)}; have it allowed, if this is to be looked at"
    if status in (404, 405, 501) or code in ("404", "InvalidAction", "UnknownOperationException"):
        return UNKNOWN, f"{error.operation_name} is not there; an emulator lacks some calls"
    return FAILED, reason(error)


def credentials(session: Session) -> Said:
    """Are these credentials good?"""
    sts = session.client("sts")
    try:
        found = sts.get_caller_identity()
    except ClientError as error:
        state, says = _judged(error)
        skew_s = time.time() - aws_time(error.response)
        if abs(skew_s) > SKEW_S_MAX:
            says += f"; the clock is {_skew(skew_s)}: have it set by NTP"
        yield state, says
        return
    yield OK, f"{found['Arn']}, region {sts.meta.region_name}"


def clock(session: Session) -> Said:
    """Is it as late here as at AWS? What is asked at another time is refused."""
    began_s = time.time()
    answer = session.client("sts").get_caller_identity()
    skew_s = (began_s + time.time()) / 2 - aws_time(answer)
    state = OK if abs(skew_s) < SKEW_S else WARNING if abs(skew_s) < SKEW_S_MAX else FAILED
    remedy = "" if state == OK else "; have it set by NTP: from 300 s on AWS refuses every call"
    yield state, _skew(skew_s) + remedy


def _skew(skew_s: float) -> str:
    return f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} AWS's"


def permissions(session: Session) -> Said:
    """May whoever asks do what the commands do? As far as IAM lets it be asked."""
    source = _principal(session)
    if source is None:
        yield OK, "root may do everything"
        return
    resources = _resources(session)
    asking = session.client("iam").get_paginator("simulate_principal_policy")
    denied: list[str] = []
    for kind, actions in ACTIONS.items():
        pages = asking.paginate(
            PolicySourceArn=source, ActionNames=actions, ResourceArns=resources[kind]
        )
        denied += [said for page in pages for one in page["EvaluationResults"] for said in _no(one)]
    if denied:
        yield FAILED, f"{source} may not {', '.join(dict.fromkeys(denied))}; some commands need it"
    else:
        yield OK, f"{source} may do what the commands do"


def _resources(session: Session) -> dict[str, list[str]]:
    """Name what the commands work on; of the queues that they make, one stands for all."""
    _, partition, _, region, account, _ = session.topic_arn.split(":")
    jobs = job_queues(session.name)
    queues = {
        "jobs": jobs,
        "dead letters": [dead_queue(session.name, one) for one in jobs],
        "queues": [f"{tail_prefix(session)}1.fifo"],
    }
    return {
        "table": [f"arn:{partition}:dynamodb:{region}:{account}:table/{session.table_name}"],
        "key": [session.key_arn],
        "stack": [session.described["StackId"]],
        "topic": [session.topic_arn],
    } | {
        kind: [str(QueueArn.named(one, session.topic_arn)) for one in names]
        for kind, names in queues.items()
    }


def _no(result: Mapping[str, Any]) -> Iterator[str]:
    """Say what is not allowed, and on which of several resources."""
    action, each = result["EvalActionName"], result.get("ResourceSpecificResults", [])
    denied = [one for one in each if one["EvalResourceDecision"] != "allowed"]
    if denied and len(denied) < len(each):
        names = [one["EvalResourceName"].rpartition(":")[2] for one in denied]
        yield f"{action} on {', '.join(names)}"
    elif denied or result["EvalDecision"] != "allowed":
        yield action


def _principal(session: Session) -> str | None:
    """Name the user or the role whose policies decide; ``None`` for root."""
    arn = str(session.client("sts").get_caller_identity()["Arn"])
    kind, _, name = arn.split(":", 5)[5].partition("/")
    if kind == "root":
        return None
    if kind == "assumed-role":
        role = session.client("iam").get_role(RoleName=name.split("/")[0])
        return str(role["Role"]["Arn"])
    return arn


def stack(session: Session) -> Said:
    """Is the stack whole?"""
    status = session.described["StackStatus"]
    missing = [name for name in OUTPUTS if name not in session.outputs]
    if missing:
        yield FAILED, f"{session.name} has no output {', '.join(missing)}; deploy it again"
    elif status.endswith("_IN_PROGRESS"):
        yield WARNING, f"{session.name} is being changed ({status}); look again later"
    elif status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
        yield OK, f"{session.name} is {status}"
    elif status == "UPDATE_ROLLBACK_COMPLETE":
        yield WARNING, f"{session.name}: the last deployment failed and was undone; see its events"
    else:
        yield FAILED, f"{session.name} is {status}; see its events, and deploy it again"


def version(session: Session) -> Said:
    """Are the command and the stack of one version?"""
    ours = pollwire.__version__
    theirs = session.outputs.get("Version", "")
    if theirs == ours:
        yield OK, f"{ours}, the command and the stack"
    else:
        theirs = theirs or "one that does not tell its version"
        yield WARNING, f"the command is {ours}, the stack {theirs}; bring the older one up to date"


def functions(session: Session) -> Said:
    """Are all functions there, and able to run?"""
    names, wrong = function_names(session.name), []
    if "PushUrl" in session.outputs:
        names.append(f"{session.name}-push")
    client = session.client("lambda")
    for name in names:
        try:
            found = client.get_function(FunctionName=name)
        except client.exceptions.ResourceNotFoundException:
            wrong.append(f"{name} is missing")
            continue
        wrong += [f"{name} {one}" for one in _complaints(found)]
    if wrong:
        yield FAILED, f"{'; '.join(wrong)}; deploy again"
    else:
        yield OK, f"{len(names)} are active"


def _complaints(found: Mapping[str, Any]) -> Iterator[str]:
    configuration = found["Configuration"]
    if configuration.get("State", "Active") not in ("Active", "Inactive"):
        yield f"is {configuration['State']}"
    if configuration.get("LastUpdateStatus", "Successful") != "Successful":
        yield f"has an update that is {configuration['LastUpdateStatus']}"
    if found.get("Concurrency", {}).get("ReservedConcurrentExecutions", 1) == 0:
        yield "has a reserved concurrency of 0, so it never runs"


def function_names(name: str) -> list[str]:
    """Name the functions that every stack has; those of queues come after the first."""
    workers = [one.removesuffix(".fifo").removeprefix(name) for one in job_queues(name)]
    stages = (("-checks-", "-check-"), ("-deltas-", "-delta-"))
    named = [one.replace(*stage) for stage in stages for one in workers if one.startswith(stage[0])]
    return [f"{name}-schedule", *(name + one for one in named)]


def mappings(session: Session) -> Said:
    """Do the functions get their queues' messages?"""
    wrong, count = [], 0
    for name in function_names(session.name)[1:]:
        answer = session.client("lambda").list_event_source_mappings(FunctionName=name)
        found = answer["EventSourceMappings"]
        count += len(found)
        wrong += [] if found else [f"{name} has none"]
        wrong += [
            f"{name} is {one['State']} (aws lambda update-event-source-mapping --enabled --uuid "
            f"{one['UUID']})"
            for one in found
            if one["State"] not in ("Enabled", "Enabling", "Updating", "Creating")
        ]
    if wrong:
        yield FAILED, f"event source mappings: {'; '.join(wrong)}"
    else:
        yield OK, f"{count} are enabled"


def schedule(session: Session) -> Said:
    """Does every minute begin?"""
    answer = session.client("scheduler").list_schedules(GroupName=session.name)
    found = answer["Schedules"]
    off = [one["Name"] for one in found if one.get("State") != "ENABLED"]
    if not found:
        yield FAILED, f"group {session.name} has no schedule, so nothing is polled; deploy again"
    elif off:
        yield FAILED, f"{', '.join(off)} is disabled, so nothing is polled; enable it"
    else:
        yield OK, "enabled"


def quotas(session: Session) -> Said:
    """Does the AWS account let as many functions run as the stack may want?"""
    checks = int(session.parameters.get("CheckConcurrency") or 10)
    deltas = int(session.parameters.get("DeltaConcurrency") or 5)
    providers = registered().values()
    streams = sum(len(one.streams) for one in providers)
    wanted = 1 + checks * len(providers) + deltas * streams
    limits = session.client("lambda").get_account_settings()["AccountLimit"]
    limit = limits.get("UnreservedConcurrentExecutions", limits["ConcurrentExecutions"])
    says = f"Lambda: {wanted} at once are the most that the stack wants, {limit} there may be"
    if wanted > limit:
        says += "; raise the quota Concurrent executions, or lower CheckConcurrency or"
        yield WARNING, f"{says} DeltaConcurrency, or work is throttled when much happens at once"
    else:
        yield OK, says


def key(session: Session) -> Said:
    """Can credentials be sealed?"""
    session.sealer.seal({"doctor": "check"}, "doctor", "check")
    yield OK, "credentials can be sealed"


def state(session: Session) -> Said:
    """Can connections and accounts be read?"""
    connections, broken = session.state.connections()
    if broken:
        yield (
            FAILED,
            f"connections {', '.join(broken)} cannot be read; remove them, add them again",
        )
    count, unreadable, cut = 0, [], False
    for one in connections:
        listed = list(islice(session.state.accounts(one), ACCOUNTS_MAX + 1))
        cut = cut or len(listed) > ACCOUNTS_MAX
        count += len(listed[:ACCOUNTS_MAX])
        unreadable += [f"{one.name}/{each.account}" for each in listed if each.standing is None]
    if unreadable:
        named = ", ".join(unreadable[:5])
        yield (
            FAILED,
            f"{len(unreadable)} accounts cannot be read ({named}); remove them, add them again",
        )
    if not connections and not broken:
        yield WARNING, "no connection yet; see pollwire connections add --help"
    elif not (broken or unreadable):
        first = f", the first {ACCOUNTS_MAX:,} of each looked at" if cut else ""
        yield OK, f"{len(connections)} connections, {count:,} accounts{first}"


def queues(session: Session) -> Said:
    """Is every queue there, and no dead letter?"""
    names = job_queues(session.name)
    listed = deadletters.found(session)
    there = {back.name for one in listed if one.kind == deadletters.JOBS for back in one.back}
    missing = [name for name in names if name not in there]
    if missing:
        yield FAILED, f"dead-letter queues of {', '.join(missing)} are missing; deploy again"
    depths = [(one.queue.arn.name, deadletters.depth(one)) for one in listed]
    filled = [f"{depth} in {name}" for name, depth in depths if depth]
    if filled:
        yield WARNING, f"dead letters: {', '.join(filled)}; see pollwire redrive"
    elif not missing:
        yield OK, f"the {len(listed)} dead-letter queues are empty"


def subscriptions(session: Session) -> Said:
    """Does every subscriber get its events?"""
    count, fine = 0, True
    for one in Subscribers(session).all():
        count += 1
        if one.queue and one.queue.name.startswith(tail_prefix(session)):
            continue
        for said in _guarded(lambda session, one=one: _of(session, one), session):  # type: ignore[misc]
            fine = False
            yield said[0], f"{one.endpoint.rpartition(':')[2]}: {said[1]}"
    if count > SUBSCRIPTIONS_MAX * 0.9:
        fine = False
        yield WARNING, f"{count} subscriptions; a FIFO topic takes {SUBSCRIPTIONS_MAX}"
    if not count:
        yield WARNING, "nobody receives events; see pollwire subscribe --help"
    elif fine:
        yield OK, "1 queue receives events" if count == 1 else f"{count} queues receive events"


def _of(session: Session, one: Subscription) -> Said:
    arn, redrive = one.queue, dead_letters(one.attributes)
    again = "pollwire subscribe sets it, or a new deployment for the stack's own"
    if one.is_pending:
        yield WARNING, "it waits for its owner to confirm it"
        return
    if redrive is None:
        yield WARNING, f"what cannot be delivered to it is lost; {again}"
    if one.attributes.get("RawMessageDelivery") != "true":
        yield WARNING, f"its events come wrapped in a notification; {again}"
    for name in (arn, redrive):
        if name is None or not name.beside(session.topic_arn):
            continue
        queue = Queue(session.client("sqs"), name)
        warning = require_readable_key(session, queue)
        if warning:
            yield WARNING, warning
        if not queue.is_open_to(session.topic_arn):
            yield FAILED, f"the policy of {name.name} does not let the topic send; {again}"


def alarms(session: Session) -> Said:
    """Does an alarm ring?"""
    pages = session.client("cloudwatch").get_paginator("describe_alarms")
    own = re.compile(re.escape(session.name) + "-([A-Za-z]+)Alarm-")
    ringing, count = [], 0
    for page in pages.paginate(AlarmNamePrefix=f"{session.name}-"):
        for one in page.get("MetricAlarms", []):
            found = own.match(one["AlarmName"])
            count += bool(found)
            if found and one.get("StateValue") == "ALARM":
                ringing.append(found[1])
    if ringing:
        yield WARNING, f"{', '.join(sorted(ringing))}; its text says what to do"
    else:
        yield OK, f"none of {count} rings"


def hosts(session: Session) -> Said:
    """Do the providers answer here? From Lambda they may answer all the same."""
    connections, _ = session.state.connections()
    wanted = {
        base
        for one in connections
        for base in (dict(provider_of(one.provider).hosts) | dict(one.hosts)).values()
    }
    wanted = wanted or {base for one in registered().values() for base in one.hosts.values()}
    answers = _asked(sorted(wanted))
    for base, why in answers.items():
        if why:
            yield WARNING, f"{base} does not answer from here: {why}"
    if not any(answers.values()):
        yield OK, f"{len(answers)} answer from here"


def _asked(bases: list[str]) -> dict[str, str]:
    """Ask hosts side by side; say of each why it does not answer, or nothing."""
    answers = dict.fromkeys(bases, f"no answer within {HOSTS_S} s")

    def ask(base: str) -> None:
        answers[base] = reach(base)

    # Daemons: a name that takes its time to be looked up does not hold up the end.
    threads = [threading.Thread(target=ask, args=(base,), daemon=True) for base in bases]
    for one in threads:
        one.start()
    deadline_s = time.monotonic() + HOSTS_S
    for one in threads:
        one.join(max(0.0, deadline_s - time.monotonic()))
    return dict(answers)


def reach(base: str) -> str:
    """Connect to a host, with TLS if its URL says so; say why that fails, or nothing."""
    url = urlsplit(base)
    address = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
    try:
        with socket.create_connection(address, timeout=HOSTS_S / 2) as connected:
            if url.scheme == "https":
                ssl.create_default_context().wrap_socket(connected, server_hostname=url.hostname)
    except ssl.SSLError as error:
        return f"TLS: {error.reason or type(error).__name__}"
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


CHECKS: dict[str, Callable[[Session], Said]] = {
    "credentials": credentials,
    "clock": clock,
    "stack": stack,
    "version": version,
    "permissions": permissions,
    "functions": functions,
    "mappings": mappings,
    "schedule": schedule,
    "quotas": quotas,
    "key": key,
    "state": state,
    "queues": queues,
    "subscriptions": subscriptions,
    "alarms": alarms,
    "hosts": hosts,
}
