"""
The three stages.

    schedule   queue a check for every shard that is due this minute
    check      poll the accounts of a shard that are due, keep what differs, queue a delta for it
    delta      publish what was decided before; fetch, decide, publish; take the mark away

Each reads what it needs, decides in pure functions, and writes: nothing is published that was not
written down first, and nothing is forgotten before it was published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pollwire import decide, due, marks
from pollwire.errors import (
    Conflict,
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Rejected,
    Restart,
    Retryable,
    describe,
)
from pollwire.events import Composer, subscription_id
from pollwire.http import Hosts, Http
from pollwire.items import Drain, Standing, StreamState, event_chunks
from pollwire.model import (
    Account,
    CheckJob,
    Connection,
    DeltaJob,
    Event,
    Page,
    Record,
    Seen,
    Start,
    Stream,
)
from pollwire.providers import Provider, Session
from pollwire.queues import Queues, Topic
from pollwire.secrets import Sealer
from pollwire.state import State

#: Rows that are held before a decision: they are published in the order of provider time, so the
#: more the better; ten pages of the largest rows stay within a function's memory.
ROWS_MAX = 1_000

#: No new page is asked for with less time than this left: one request's deadline and the writes.
PAGE_MS = 20_000

#: Records and unreadable rows that fit into one transaction beside the cursor, some room kept.
PUTS_MAX = 90

Counts = Counter[str]


@dataclass(frozen=True, slots=True)
class World:
    """
    What the stages work with.

    Attributes:
        clock: Milliseconds since the epoch.

        jitter: A random number from 0 to 1.
    """

    state: State
    queues: Queues
    topic: Topic
    sealer: Sealer
    http: Http
    hosts: Hosts
    providers: Mapping[str, Provider]
    clock: Callable[[], int]
    jitter: Callable[[], float]

    def provider(self, connection: Connection) -> Provider:
        """
        Look up a connection's provider.

        Raises:
            Misconfigured: There is none of that name.
        """
        provider = self.providers.get(connection.provider)
        if provider is None:
            known = ", ".join(sorted(self.providers))
            raise Misconfigured(f"connection {connection.name}: provider is none of {known}")
        return provider

    def account(
        self, connection: Connection, provider: Provider, standing: Standing, *, opened: bool
    ) -> Account:
        """
        Make an account as its provider's module sees it.

        Args:
            opened: With its credential, its own or the one its connection shares.

        Raises:
            Misconfigured: A host is not allowed, or the credential does not open.
        """
        hosts = {
            role: self.hosts.require(connection.hosts.get(role, own))
            for role, own in provider.hosts.items()
        }
        settings = {**connection.settings, **standing.settings}
        account = Account(connection.name, standing.account, hosts, settings)
        if opened and standing.credential:
            return replace(
                account,
                credential=self.sealer.open(standing.credential, connection.name, account.id),
            )
        if opened and connection.credential:
            return replace(
                account, credential=self.sealer.open(connection.credential, connection.name, "")
            )
        return account

    def leave_alone(
        self, job: CheckJob | DeltaJob, interval_s: int, standing: Standing, error: PollwireError
    ) -> None:
        """Write down a failure, and leave the account alone for a while that grows with each."""
        retry_after_s = error.retry_after_s if isinstance(error, Retryable) else 0
        wait_s = due.backoff_s(standing.failures + 1, interval_s, self.jitter(), retry_after_s)
        self.state.note_failure(
            job.connection,
            job.shard,
            standing.account,
            self.clock() + wait_s * 1000,
            describe(error),
        )


def schedule(world: World, minute_ms: int) -> Counts:
    """Queue a check for every shard that is due within the minute that starts at *minute_ms*."""
    now_ms = world.clock()
    connections, broken = world.state.connections()
    jobs = [job for one in connections for job in due.checks_due(one, minute_ms, now_ms)]
    sent = world.queues.send_checks(jobs, now_ms)
    return Counter(connections=len(connections), checks=sent, broken=len(broken))


def check(world: World, job: CheckJob) -> Counts:
    """Poll the accounts of a shard that are due; queue a delta job for every stream that moved."""
    now_ms = world.clock()
    if due.is_late(job, now_ms):
        return Counter(late=1)
    connection = world.state.connection(job.connection)
    if connection is None or connection.paused_until_ms > now_ms:
        return Counter(skipped=1)
    provider = world.provider(connection)
    counts: Counts = Counter()
    polled = _due_accounts(world, job, connection, provider, now_ms, counts)

    # All answers are in before the first write, so that writing holds up no transfer.
    answers = list(
        world.http.run(
            ((key, provider.check(account, seen)) for key, (_, account, seen) in polled.items()),
            requests_per_second=due.requests_per_second(connection),
            deadline_s=due.CHECK_S,
        )
    )
    counts["polled"] += len(polled)
    jobs: list[DeltaJob] = []
    for key, answer in answers:
        standing, account, seen = polled[key]
        try:
            pending = _note_answer(world, job, provider, standing, account, seen, answer, counts)
        except PollwireError as error:
            pending = standing.pending
            _leave_alone(world, job, connection, standing, error, counts)
        jobs += _delta_jobs(job, key, provider, pending)
    counts["deltas"] = world.queues.send_deltas(jobs)
    return counts


def _due_accounts(
    world: World,
    job: CheckJob,
    connection: Connection,
    provider: Provider,
    now_ms: int,
    counts: Counts,
) -> dict[str, tuple[Standing, Account, Seen]]:
    """Read the shard's accounts that are due, and what each one's last check brought."""
    overlap_s = max(stream.overlap_s for stream in provider.streams.values())
    polled = {}
    for standing in world.state.shard(job.connection, job.shard):
        seen = marks.unpack(standing.marks, now_ms, overlap_s)
        if not _is_due(standing, seen, connection, job, now_ms):
            continue
        try:
            account = world.account(
                connection, provider, standing, opened=provider.check_needs_credential
            )
        except Misconfigured as error:
            _leave_alone(world, job, connection, standing, error, counts)
            continue
        polled[standing.account] = (standing, account, seen)
    return polled


def _is_due(
    standing: Standing, seen: Seen, connection: Connection, job: CheckJob, now_ms: int
) -> bool:
    if standing.paused or standing.not_before_ms > now_ms:
        return False
    return due.is_due(
        standing.account,
        job.due_ms,
        now_ms - seen.changed_ms if seen.changed_ms else 0,
        connection.interval_s,
        connection.slowest_s,
    )


def _note_answer(
    world: World,
    job: CheckJob,
    provider: Provider,
    standing: Standing,
    account: Account,
    seen: Seen,
    answer: Seen | PollwireError,
    counts: Counts,
) -> Iterable[str]:
    """Write what one account's answer says, if anything; return what is pending now."""
    if isinstance(answer, PollwireError):
        raise answer
    if standing.failures and not standing.pending:
        # With marks pending it is for a delta to say so: a poll may not even need the credential.
        world.state.note_success(job.connection, job.shard, standing.account)
    step = marks.step(
        seen, answer, standing.pending, lambda raw: provider.marks(account, raw), world.clock()
    )
    if step is None:
        return standing.pending
    counts["changed"] += 1
    world.state.note_step(job.connection, job.shard, standing.account, step)
    return standing.pending | set(step.pending)


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
    counts[f"failed_{type(error).__name__.lower()}"] += 1
    if not isinstance(error, Conflict):
        with suppress(Conflict):
            world.leave_alone(job, connection.interval_s, standing, error)


def _delta_jobs(
    job: CheckJob, account: str, provider: Provider, pending: Iterable[str]
) -> Iterator[DeltaJob]:
    for stream, elements in marks.by_stream(pending).items():
        if stream in provider.streams:
            yield DeltaJob(job.connection, job.shard, account, stream, elements, job.due_ms)


def delta(world: World, job: DeltaJob, remaining_ms: Callable[[], int]) -> Counts:
    """
    Publish what changed in one stream of one account.

    What can never succeed is written down, counted and done with; its marks stay pending, so it is
    tried again when its account is due.

    Args:
        remaining_ms: Milliseconds left to this invocation.

    Raises:
        Retryable: The same job may succeed later. Nothing is lost by giving it up, either.
    """
    connection = world.state.connection(job.connection)
    standing = world.state.account(job.connection, job.shard, job.account)
    if connection is None or standing is None:
        return Counter(removed=1)
    try:
        return Delta(world, job, connection, standing, remaining_ms).run()
    except (Rejected, RateLimited) as error:
        world.state.note_trouble(job, describe(error), world.clock())
        with suppress(Conflict):
            world.leave_alone(job, connection.interval_s, standing, error)
        return Counter({type(error).__name__.lower(): 1})
    except (Malformed, Misconfigured) as error:
        # It concerns this stream; the account's others may do well.
        world.state.note_trouble(job, describe(error), world.clock())
        return Counter({type(error).__name__.lower(): 1})


class Delta:
    """One delta job at work."""

    def __init__(
        self,
        world: World,
        job: DeltaJob,
        connection: Connection,
        standing: Standing,
        remaining_ms: Callable[[], int],
    ) -> None:
        self._world = world
        self._job = job
        self._standing = standing
        self._remaining_ms = remaining_ms
        self._provider = world.provider(connection)
        stream = self._provider.streams.get(job.stream)
        if stream is None:
            raise Malformed(f"job.stream: {connection.provider} has no such stream")
        self._stream: Stream = stream
        self._account = world.account(connection, self._provider, standing, opened=True)
        self._composer = Composer(
            connection.provider,
            job.connection,
            job.account,
            job.stream,
            stream,
            subscription_id(world.topic.arn),
        )
        self._state = StreamState()
        self._counts: Counts = Counter(jobs=1)

    def run(self) -> Counts:
        """Do the job; see DESIGN.md, delta."""
        self._state = self._world.state.stream(self._job)
        self._publish_outbox()
        if self._standing.paused or self._standing.not_before_ms > self._world.clock():
            return self._counts
        # A job that a later drain has answered settles nothing: that drain knew what is unsettled.
        unsettled = True
        if self._state.drained_ms < max([self._job.due_ms, *map(marks.seen_ms, self._job.pending)]):
            try:
                unsettled = self._drain()
            except Restart:
                # The saved place is void: once more, from the cursor.
                self._commit(replace(self._state, drain=None, place=""))
                unsettled = self._drain()
        if not unsettled:
            self._settle()
        if self._standing.failures:
            self._world.state.note_success(self._job.connection, self._job.shard, self._job.account)
        return self._counts

    def _drain(self) -> bool:
        """
        Fetch page by page, decide and publish; tell whether it has to be done again.

        Rows are decided when the last page is in, or when there are too many to hold. The cursor
        moves with the last page only: a list that is newest first has its oldest rows there.
        """
        drain = self._state.drain or self._begin()
        resumed = bool(drain.resume)
        start = Start(drain.since_ms, drain.place, drain.resume)
        listed: set[str] = set()
        rows: list[Page] = []
        page = Page(())
        for page in self._provider.delta(self._account, self._job.stream, start, self._session()):
            rows.append(page)
            listed.update(row.id for row in page.rows)
            listed.update(bad.id for bad in page.bad)
            clock_ms = page.date_ms or self._world.clock()
            newest_ms = max(drain.newest_ms, decide.newest_ms(page.rows, clock_ms))
            drain = replace(drain, newest_ms=newest_ms, resume=page.resume)
            if not page.resume:
                break
            out_of_time = self._remaining_ms() < PAGE_MS
            if out_of_time or sum(len(held.rows) for held in rows) >= ROWS_MAX:
                self._decide(rows, drain.mode, replace(self._state, drain=drain))
                rows = []
            if out_of_time:
                self._counts["unfinished"] += 1
                return True
        return self._finish(drain, rows, page.cursor, None if resumed else listed)

    def _begin(self) -> Drain:
        state, now_ms = self._state, self._world.clock()
        mode = decide.LIVE
        if not state.drained_ms:
            news = self._standing.was_empty or self._account.settings.get("backfill") == "true"
            mode = decide.BACKFILL if news else decide.BASELINE
        start = decide.start(state.reached_ms, state.previous_ms, state.place, self._stream)
        return Drain(mode, start.since_ms, start.cursor, "", 0, now_ms)

    def _finish(
        self, drain: Drain, pages: list[Page], cursor: str, listed: set[str] | None
    ) -> bool:
        """Decide the last rows, move the cursor, and say whether something must be seen again."""
        state = self._state
        done = replace(
            state,
            reached_ms=max(state.reached_ms, drain.newest_ms),
            previous_ms=state.reached_ms,
            place=cursor or state.place,
            drained_ms=drain.began_ms,
            drain=None,
        )
        if not self._stream.snapshot or listed is None:
            return self._decide(pages, drain.mode, done)
        unsettled = self._decide(pages, drain.mode, state)
        if "" in listed:
            # A row whose very id cannot be read could be any of those that seem to be missing.
            self._commit(replace(done, seq=self._state.seq))
            return unsettled
        known = self._world.state.all_records(self._job)
        missing = decide.decide_missing(listed, known, self._stream, self._world.clock())
        self._counts["held"] += missing.held
        self._write(missing, {}, replace(done, seq=self._state.seq))
        return unsettled or missing.unsettled

    def _decide(self, pages: list[Page], mode: str, after: StreamState) -> bool:
        """Decide the rows of some pages; tell whether something must be seen again."""
        store = self._world.state
        rows = [row for page in pages for row in page.rows]
        records = store.records(self._job, {row.id for row in rows})
        decision = decide.decide(rows, records, self._stream, mode, self._world.clock())
        reasons = {bad.key: bad.reason for page in pages for bad in page.bad}
        known = store.bad_rows(self._job, reasons) if reasons else set()
        fresh = {key: reason for key, reason in reasons.items() if key not in known}
        self._counts["rows"] += len(rows)
        self._counts["bad_rows"] += len(fresh)
        self._write(decision, fresh, after)
        return decision.unsettled

    def _write(
        self, decision: decide.Decision, bad_rows: Mapping[str, str], after: StreamState
    ) -> None:
        """
        Write a decision and publish its events, as many transactions as it takes.

        Only the last one moves the cursor; the outbox of each is published before the next.
        """
        bad = list(bad_rows.items())
        for first in range(0, len(bad), PUTS_MAX):
            self._commit(self._state, bad_rows=dict(bad[first : first + PUTS_MAX]))
        chunks = list(event_chunks(self._pairs(decision), PUTS_MAX)) or [([], [])]
        for number, (events, records) in enumerate(chunks, start=1):
            next_state = after if number == len(chunks) else self._state
            seq = self._state.seq + len(events)
            self._commit(replace(next_state, outbox=tuple(events), seq=seq), records)
            self._publish_outbox()

    def _pairs(self, decision: decide.Decision) -> Iterator[tuple[Event | None, Record]]:
        decided_ms = self._world.clock()
        told = set()
        for sequence, change in enumerate(decision.changes, start=self._state.seq + 1):
            told.add(change.row.id)
            event = self._composer.event(change, sequence, decided_ms)
            yield event, decision.records[change.row.id]
            self._counts[change.kind] += 1
        for identity, record in decision.records.items():
            if identity not in told:
                yield None, record

    def _publish_outbox(self) -> None:
        if self._state.outbox:
            self._counts["events"] += self._world.topic.publish(self._state.outbox)
            self._commit(replace(self._state, outbox=()))

    def _commit(
        self,
        new: StreamState,
        records: list[Record] | None = None,
        bad_rows: Mapping[str, str] = {},
    ) -> None:
        self._state = self._world.state.commit(self._job, self._state, new, records or [], bad_rows)

    def _settle(self) -> None:
        """Take the marks away that this stream's last complete drain answers for."""
        done = marks.settled(self._job.pending, self._state.drained_ms, self._stream.overlap_s)
        if done:
            self._counts["settled"] += 1
            self._world.state.settle(self._job, done)

    def _session(self) -> Session:
        world, connection, account = self._world, self._job.connection, self._job.account

        def load() -> str:
            sealed = world.state.token(connection, account)
            return world.sealer.open(sealed, connection, account)["token"] if sealed else ""

        def share(token: str) -> None:
            sealed = world.sealer.seal({"token": token}, connection, account)
            world.state.put_token(connection, account, sealed)

        return Session(world.http.fetch, load, share)
