"""
The three stages.

    schedule   queue a check for every shard that is due this minute
    check      poll the accounts of a shard that are due, keep what differs, queue a delta for it
    delta      publish what was decided before; fetch, decide, publish; take the mark away

Each reads what it needs, decides in pure functions, and writes: nothing is published that was not
written down first, and nothing is forgotten before it was published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from pollwire import due, marks
from pollwire.drain import Delta
from pollwire.errors import (
    Conflict,
    Forbidden,
    Malformed,
    Misconfigured,
    NotPublished,
    PollwireError,
    RateLimited,
    Rejected,
    Restart,
    Retryable,
    Unasked,
    Unavailable,
)
from pollwire.http import SILENT_MIN
from pollwire.items import Standing
from pollwire.model import Account, CheckJob, Connection, DeltaJob, Seen, Turn
from pollwire.providers import Provider
from pollwire.state import shard_of
from pollwire.world import NONE, Counts, World, watched

#: Accounts of a shard: with more of them a check splits all shards of its connection.
SHARD_MAX = 1_000

#: Accounts that a check moves to their own shard: a few seconds. The others wait for the next.
MOVES_MAX = 200

#: How long a check of one account waits for its place in the connection's rate.
PATIENCE_MS = 5_000


class _Poll(NamedTuple):
    """One account of a check: how it stands, and the streams to list from end to end."""

    standing: Standing
    account: Account
    seen: Seen
    full: frozenset[str]

    def is_idle(self, answer: Seen | PollwireError) -> bool:
        """Tell whether there is nothing to write and nothing to queue: nearly always."""
        standing = self.standing
        return answer is self.seen and not (standing.pending or standing.failures or self.full)


def schedule(world: World, minute_ms: int) -> Counts:
    """
    Queue a check for every shard that is due within the minute that starts at *minute_ms*.

    Raises:
        NotPublished: SQS refused some, after all others were sent.
    """
    now_ms = world.clock()
    connections, broken = world.state.connections()
    jobs: dict[str, list[CheckJob]] = {name: [] for name in world.providers}
    counts = Counts(connections=len(connections), broken=len(broken))
    for one in connections:
        if one.provider in jobs:
            paced, watch_s = world.paced(one), world.watch_s(one)
            jobs[one.provider] += due.checks_due(paced, minute_ms, now_ms, watch_s)
        else:
            counts["broken"] += 1
    refused: list[NotPublished] = []
    for provider, queued in jobs.items():
        try:
            counts["checks"] += world.queues.send_checks(provider, queued, now_ms)
        except NotPublished as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return counts


def check(world: World, job: CheckJob) -> Counts:
    """Poll the accounts of a shard that are due; queue a delta job for every stream that moved."""
    now_ms = world.clock()
    if due.is_late(job, now_ms):
        return Counts(late=1)
    connection = world.state.connection(job.connection)
    if connection is None or not _is_open(connection, job, now_ms):
        return Counts(skipped=1)
    try:
        provider, connection = world.provider(connection), world.paced(connection)
    except Misconfigured as error:
        return Counts({_name(error): 1})
    counts, before = Counts(), world.tally()
    counts.provider = connection.provider
    polled = _due_accounts(world, job, connection, provider, now_ms, counts)
    if job.account and polled and not _has_turn(world, connection):
        counts["unasked"] += 1
        return counts

    # All answers are in before the first write, so that writing holds up no transfer.
    spent: dict[str, int] = {}
    answers = _answers(world, job, connection, provider, polled, spent)
    counts["polled"] += len(polled)
    counts.update(world.spent(before))
    if _is_outage(connection, answers):
        counts["outage"] += 1
        asked_s = [one.retry_after_s for _, one in answers if isinstance(one, Retryable)]
        world.note_silence(connection, max(asked_s))
        return counts
    jobs = _note_answers(world, job, connection, provider, polled, answers, spent, counts)
    counts["deltas"] = world.queues.send_deltas(jobs)
    counts["spent"] += len(spent)
    for key, wait_s in spent.items():
        with suppress(PollwireError):
            world.rest(job, connection, key, wait_s)
    return counts


def _has_turn(world: World, connection: Connection) -> bool:
    """Wait for the place of one account's check: the share of the regular ones is all theirs."""
    try:
        world.await_turn(connection, PATIENCE_MS)
    except Unasked:
        return False
    return True


def _is_open(connection: Connection, job: CheckJob, now_ms: int) -> bool:
    """Tell whether a connection is asked now; if nobody answers, one shard asks for all."""
    return connection.paused_until_ms <= now_ms and not (job.account and connection.outages)


def _is_outage(connection: Connection, answers: list[tuple[str, Seen | PollwireError]]) -> bool:
    """Tell whether nobody answered at all: that is no account's failure, and not written there."""
    if not all(isinstance(answer, (Unavailable, Unasked)) for _, answer in answers):
        return False
    silent = sum(isinstance(answer, Unavailable) for _, answer in answers)
    return silent >= (1 if connection.outages else SILENT_MIN)


def _answers(
    world: World,
    job: CheckJob,
    connection: Connection,
    provider: Provider,
    polled: Mapping[str, _Poll],
    spent: dict[str, int],
) -> list[tuple[str, Seen | PollwireError]]:
    """
    Ask for every account; where all share a token that has to be got, one goes ahead to get it.

    Args:
        spent: Gets the seconds that an account was asked to leave its provider alone for.
    """
    ends_ms = world.clock() + due.check_s(job) * 1000
    late_s = (world.clock() - job.due_ms) / 1000
    later = Unasked("what is left of its budget is for what is pending")
    patient = {key for key, one in polled.items() if _gives_way(one.standing)}
    answers: list[tuple[str, Seen | PollwireError]] = [
        (key, later) for key in polled if key in patient
    ]
    asked = [key for key in polled if key not in patient]
    for keys in _turns(connection, polled, asked):
        if spent and world.shares_rate(connection):
            return answers
        answers += world.http.run(
            ((key, provider.check(polled[key].account, polled[key].seen)) for key in keys),
            requests_per_second=due.requests_per_second(
                connection,
                world.watch_s(connection),
                looks=bool(job.after_s),
                accounts=len(asked),
                late_s=late_s,
            ),
            deadline_s=max(ends_ms - world.clock(), 0) / 1000,
            shared=world.shares_rate(connection),
            spent=spent,
        )
    return answers


def _gives_way(standing: Standing) -> bool:
    """Tell whether an account has rested and lets its deltas go first: checks would use it all."""
    return bool(standing.pending and standing.not_before_ms and not standing.failures)


def _turns(connection: Connection, polled: Mapping[str, _Poll], keys: list[str]) -> list[list[str]]:
    """Send one account ahead to get the access token, where all share one and it is not there."""
    with suppress(Unasked):  # Whether it is there cannot be read: then the others wait, too.
        if not keys or not connection.credential or polled[keys[0]].account.token.is_fresh:
            return [keys]
    return [keys[:1], keys[1:]]


def _due_accounts(
    world: World,
    job: CheckJob,
    connection: Connection,
    provider: Provider,
    now_ms: int,
    counts: Counts,
) -> dict[str, _Poll]:
    """Read the shard's accounts that are due, and what each one's last check brought."""
    overlap_s = max(stream.overlap_s for stream in provider.streams.values())
    turn = Turn(job.due_ms, job.after_s, connection.interval_s)
    listed = [name for name, stream in provider.streams.items() if stream.reconcile_s]
    opened = provider.check_needs_credential
    polled: dict[str, _Poll] = {}
    hosts: Mapping[str, str] = {}
    standings, broken = world.state.shard(
        job.connection, job.shard, account=job.account, sealed=opened, listed=listed
    )
    counts["broken"] += len(broken)
    for standing in _turned(_settled(world, job, connection, standings, counts), job):
        if standing.paused or standing.not_before_ms > now_ms:
            continue
        seen = marks.unpack(standing.marks, now_ms, overlap_s)
        eyed = watched(standing, now_ms) if standing.watched else NONE
        # What is watched may change any moment; what was never seen has not been quiet.
        quiet_ms = 0 if eyed or not seen.changed_ms else now_ms - seen.changed_ms
        pace = (standing.account, job.due_ms, quiet_ms, connection.interval_s, connection.slowest_s)
        is_due = bool(eyed) if job.after_s else bool(job.account) or due.is_due(*pace)
        if not is_due:
            continue
        try:
            hosts = hosts or world.hosts_of(connection, provider)
            account = world.account(
                connection, provider, standing, opened=opened, turn=turn, hosts=hosts
            )
        except Unasked:
            counts["unasked"] += 1
            continue
        except Misconfigured as error:
            _leave_alone(world, job, connection, standing, error, counts)
            continue
        full = _full(standing, provider, listed, job)
        trusted = bool(seen.etag or seen.modified)
        doubted = bool(job.account) or (not job.after_s and due.distrusts(*pace))
        if trusted and (full or doubted):
            seen = replace(seen, etag="", modified="")
        polled[standing.account] = _Poll(standing, account, seen, full)
    return polled


def _settled(
    world: World,
    job: CheckJob,
    connection: Connection,
    standings: list[Standing],
    counts: Counts,
) -> list[Standing]:
    """
    Move accounts that belong to another shard, since there are more; return those that stay.

    Where too many belong, all shards of the connection are split: the next checks move them.
    """
    is_whole = not (job.after_s or job.account)
    if not is_whole or (connection.shards == 1 and len(standings) <= SHARD_MAX):
        return standings
    stay: list[Standing] = []
    own = 0
    for standing in standings:
        shard = shard_of(standing.account, connection.shards)
        own += shard == job.shard
        if shard != job.shard and counts["moved"] < MOVES_MAX:
            with suppress(PollwireError):
                if world.state.move_account(job.connection, standing.account, job.shard, shard):
                    counts["moved"] += 1
                    continue
        stay.append(standing)
    if own > SHARD_MAX:
        world.state.grow(job.connection, 2 * connection.shards)
    return stay


def _full(
    standing: Standing, provider: Provider, listed: Sequence[str], job: CheckJob
) -> frozenset[str]:
    """Name the streams that are to be listed from end to end."""
    if job.after_s or not listed:
        return NONE
    return frozenset(
        name
        for name in listed
        if due.reconciles(
            standing.account,
            name,
            job.due_ms,
            standing.listed_ms(name),
            provider.streams[name].reconcile_s,
        )
    )


def _turned(standings: list[Standing], job: CheckJob) -> list[Standing]:
    """Begin at another account each time, so that none is always the one there is no time for."""
    first = due.stable_hash(str(job.due_ms)) % len(standings) if standings else 0
    return standings[first:] + standings[:first]


def _note_answers(
    world: World,
    job: CheckJob,
    connection: Connection,
    provider: Provider,
    polled: Mapping[str, _Poll],
    answers: list[tuple[str, Seen | PollwireError]],
    spent: dict[str, int],
    counts: Counts,
) -> list[DeltaJob]:
    """Write what the answers say, if anything; return the delta jobs that they ask for."""
    jobs: list[DeltaJob] = []
    unchanged = 0
    for key, answer in answers:
        poll = polled[key]
        unchanged += answer is poll.seen
        if poll.is_idle(answer):
            continue
        try:
            pending = _note_answer(world, job, provider, poll, answer, counts)
        except PollwireError as error:
            pending = poll.standing.pending
            _leave_alone(world, job, connection, poll.standing, error, counts)
            if isinstance(error, RateLimited) and spent.get(key, 0) <= error.retry_after_s:
                spent.pop(key, None)  # It is left alone for as long already.
        jobs += _delta_jobs(job, provider, poll, pending)
    counts["unchanged"] += unchanged
    # A look that learned nothing may have had no answer at all.
    heard = (
        not (isinstance(answer, Unasked) or (job.after_s and answer is polled[key].seen))
        for key, answer in answers
    )
    if connection.outages and any(heard):
        world.state.note_answered(connection.name)
    return jobs


def _note_answer(
    world: World,
    job: CheckJob,
    provider: Provider,
    poll: _Poll,
    answer: Seen | PollwireError,
    counts: Counts,
) -> Iterable[str]:
    """Write what one account's answer says, if anything; return what is pending now."""
    if isinstance(answer, Unasked):
        counts["unasked"] += 1
        if _gives_way(poll.standing):
            _forget_failures(world, job, poll.standing)
        return poll.standing.pending
    if isinstance(answer, PollwireError):
        raise answer
    standing = poll.standing
    if job.after_s and answer is not poll.seen:
        # What was not asked for keeps its validators, those that are not trusted yet as well.
        kept = marks.unpack(standing.marks, world.clock(), 0)
        answer = replace(answer, etag=kept.etag, modified=kept.modified)
    if standing.failures and not standing.pending and not job.after_s:
        # With marks pending it is for a delta to say so: a poll may not even need the credential.
        # A look may have asked for nothing at all.
        _forget_failures(world, job, standing)
    step = marks.step(
        poll.seen,
        answer,
        standing.pending,
        lambda raw: provider.marks(poll.account, raw),
        world.clock(),
    )
    if step is None:
        return standing.pending
    counts["changed"] += 1
    world.state.note_step(job.connection, job.shard, standing.account, step)
    return standing.pending | set(step.pending)


def _forget_failures(world: World, job: CheckJob, standing: Standing) -> None:
    with suppress(Conflict):
        world.state.note_success(
            job.connection, job.shard, standing.account, standing.not_before_ms
        )


def _leave_alone(
    world: World,
    job: CheckJob,
    connection: Connection,
    standing: Standing,
    error: PollwireError,
    counts: Counts,
) -> None:
    """Count a failure and leave the account alone, unless it was removed in the meantime."""
    counts["failed"] += 1
    counts[_name(error)] += 1
    if not isinstance(error, Conflict):
        with suppress(PollwireError):
            world.leave_alone(job, connection, standing, error)


def _delta_jobs(
    job: CheckJob, provider: Provider, poll: _Poll, pending: Iterable[str]
) -> Iterator[DeltaJob]:
    groups = marks.by_stream(pending)
    for stream, kind in provider.streams.items():
        if job.after_s and not kind.watch_s:
            continue
        elements = groups.get(stream, ())
        full = stream in poll.full or marks.asks_for_all(elements)
        if elements or full:
            yield DeltaJob(
                job.connection, job.shard, poll.account.id, stream, elements, job.due_ms, full
            )


def delta(world: World, job: DeltaJob, remaining_ms: Callable[[], int]) -> Counts:
    """
    Publish what changed in one stream of one account.

    What the provider refuses or gets wrong is written down, counted and done with; its marks stay
    pending, so it is tried again when its account is due.

    Args:
        remaining_ms: Milliseconds left to this invocation.

    Raises:
        Retryable: AWS refused something, or another worker was faster; the same job may succeed
            soon. Nothing is lost by giving it up, either.
    """
    connection = world.state.connection(job.connection)
    if connection is None:
        return Counts(removed=1)
    standing = world.state.account(job.connection, job.shard, job.account)
    if standing is None and (found := world.state.find_account(connection, job.account)):
        # Moved since it was queued.
        job, standing = replace(job, shard=found[0]), found[1]
    if standing is None:
        return Counts(removed=1)
    try:
        work = Delta(world, job, connection, standing, remaining_ms)
    except (Malformed, Misconfigured) as error:
        # There is no such stream, so there is no place to write it down either.
        return Counts({_name(error): 1})
    try:
        work.run()
    except (Unavailable, Malformed, Misconfigured, Restart, Forbidden) as error:
        # It concerns this stream; the account's others may do well.
        work.note_trouble(error)
        work.counts[_name(error)] += 1
    except Unasked as error:
        # Its marks stay pending: the next check queues it again.
        work.counts[_name(error)] += 1
    except (Rejected, RateLimited) as error:
        work.note_trouble(error)
        with suppress(Conflict):
            world.leave_alone(job, connection, standing, error)
        work.counts[_name(error)] += 1
    return work.counts


def _name(error: PollwireError) -> str:
    return type(error).__name__.lower()
