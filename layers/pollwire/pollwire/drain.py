"""
One delta at work.

    publish the outbox -> fetch page by page -> decide -> write -> publish -> take the marks away

What is written is one decision after the other, each a transaction of records, cursor and outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pollwire import decide, due, http, marks
from pollwire.errors import (
    Conflict,
    Malformed,
    PollwireError,
    Restart,
    Retryable,
    Unavailable,
    describe,
)
from pollwire.events import Composer, subscription_id
from pollwire.exchange import Request, Response
from pollwire.items import Drain, Standing, StreamState, event_chunks
from pollwire.model import (
    NOTHING,
    Account,
    Change,
    Connection,
    DeltaJob,
    Event,
    Page,
    Record,
    Start,
    Stream,
)
from pollwire.world import Counts, World, watched

#: Rows that are held before a decision: they are published in the order of provider time, so the
#: more the better; ten pages of the largest rows stay within a function's memory.
ROWS_MAX = 1_000

#: A provider's clock may be ahead of ours by this much.
AHEAD_MS_MAX = 300_000

#: No new page is asked for with less time than this left: three requests at their deadline (one
#: that is refused, a new token, the same again) and the writes.
PAGE_MS = 35_000

#: A request waits so long at most for its place in the connection's rate, and always so long.
TURN_MS_MAX, TURN_MS_MIN = 5_000, 1_000

#: Pages in a row without anything new, where rows may have moved while they were turned; more of
#: them are the same pages over and over.
REPEATS_MAX = 2

#: Failures in a row after which a saved place is given up: it may be what is refused.
PLACE_TRIES = 5

#: Records and unreadable rows that fit into one transaction beside the cursor, some room kept.
PUTS_MAX = 90


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
        self._connection = connection
        self._standing = standing
        self._not_before_ms = max(standing.not_before_ms, connection.paused_until_ms)
        self._remaining_ms = remaining_ms
        self._provider = world.provider(connection)
        stream = self._provider.streams.get(job.stream)
        if stream is None:
            raise Malformed(f"job.stream: {connection.provider} has no such stream")
        self._stream: Stream = stream
        self._composer = Composer(
            connection.provider,
            job.connection,
            job.account,
            job.stream,
            stream,
            subscription_id(world.topic.arn),
            owner={**connection.settings, **standing.settings}.get("accountId", ""),
        )
        self._seen_ms = max(map(marks.seen_ms, job.pending), default=job.due_ms)
        self._state = StreamState()
        self._pages = 0
        # What was read is not what the last check saw.
        self._is_unseen = False
        # A listing was made that shows no deletion.
        self._is_blind = False
        # What a provider's module has not raised yet: the page that tells the rest comes first.
        self._unanswered: Unavailable | None = None
        self._spent: dict[str, int] = {}
        self._before = world.tally()
        self._counts = Counts(jobs=1)
        self._counts.provider = connection.provider

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self._counts

    def run(self) -> None:
        """Do the job, in the order that the module's picture shows."""
        try:
            self._run()
        finally:
            self._counts.update(self._world.spent(self._before))
            if "" in self._spent:
                with suppress(PollwireError):
                    wait_s = self._spent[""]
                    self._world.rest(self._job, self._connection, self._job.account, wait_s)

    def _run(self) -> None:
        self._state = self._world.state.stream(self._job)
        self._publish_outbox()
        not_before_ms = max(self._not_before_ms, self._state.not_before_ms)
        if self._standing.paused or not_before_ms > self._world.clock():
            self._counts["left_alone"] += 1
            return
        if self._remaining_ms() < PAGE_MS:
            # The jobs before it took the time. Its marks stay pending: the next check queues it.
            self._counts["unfinished"] += 1
            return
        # A job that a later drain has answered settles nothing: that drain knew what is unsettled.
        unsettled, before_ms = True, self._state.drained_ms
        # One that asks for everything is answered by a drain of everything only.
        done_ms = self._state.reconciled_ms if self._job.full else self._state.drained_ms
        if done_ms < max([self._job.due_ms, *map(marks.seen_ms, self._job.pending)]):
            unsettled = False
            try:
                unsettled = self._drain()
                if self._is_blind:
                    # What it does not show is read from the place before.
                    unsettled = self._is_out_of_time() or self._drain() or unsettled
            except Restart:
                # The saved place is void: once more, from the cursor.
                self._commit(replace(self._state, drain=None, place=""))
                unsettled = self._drain() or unsettled
        if not unsettled:
            self._settle(before_ms)
        if self._standing.failures:
            with suppress(Conflict):
                self._world.state.note_success(
                    self._job.connection,
                    self._job.shard,
                    self._job.account,
                    self._standing.not_before_ms,
                )

    def note_trouble(self, error: PollwireError) -> None:
        """Write down why the stream does not come on; leave it alone longer with each failure."""
        retry_after_s = error.retry_after_s if isinstance(error, Retryable) else 0
        world, interval_s = self._world, self._connection.interval_s
        wait_s = due.backoff_s(self._state.failures + 1, interval_s, world.jitter(), retry_after_s)
        now_ms = world.clock()
        world.state.note_trouble(self._job, describe(error), now_ms, now_ms + wait_s * 1000)

    def _drain(self) -> bool:
        """
        Fetch page by page, decide and publish; tell whether it has to be done again.

        Rows are decided when the last page is in, or when there are too many to hold. The cursor
        moves with the last page only: a list that is newest first has its oldest rows there.
        """
        # Opened only now: what was decided before needs no credential to go out.
        account = self._world.account(self._connection, self._provider, self._standing, opened=True)
        drain = self._saved() or self._begin(account)
        # What earlier invocations of a long drain listed is not remembered.
        listed: set[str] | None = None if drain.resume or not drain.full else set()
        start = Start(drain.since_ms, drain.place, drain.resume)
        told: set[tuple[str, str]] = set()
        repeats = 0
        pages: list[Page] = []
        cursor = ""
        found = self._provider.delta(account, self._job.stream, start, self._fetch)
        while (page := self._turn(found, drain, pages)) is not None:
            pages.append(page)
            cursor = page.cursor
            listed = _listed(listed, page)
            self._counts["gaps"] += page.gaps
            clock_ms = _clock_ms(page, self._world.clock())
            newest_ms = max(drain.newest_ms, decide.newest_ms(page.rows, clock_ms))
            drain = replace(drain, newest_ms=newest_ms, resume=page.resume, pages=drain.pages + 1)
            versions = _versions(page)
            repeats = repeats + bool(page.resume and page.rows) if versions <= told else 0
            if repeats > REPEATS_MAX and not page.steps:
                raise self._endless(drain, pages)
            told |= versions
            if not page.resume:
                break
            out_of_time = self._is_out_of_time()
            if out_of_time or sum(len(held.rows) for held in pages) >= ROWS_MAX:
                drain = self._write_part(drain, pages)
                pages = []
            if out_of_time:
                self._go_on()
                return True
        self._pages = drain.pages
        if mark := pages[-1].mark if pages else "":
            self._is_unseen = mark != self._seen_mark(account)
        return self._finish(drain, pages, cursor, listed)

    def _seen_mark(self, account: Account) -> str:
        read = partial(self._provider.marks, account)
        return marks.last(self._standing.marks, self._job.stream, read)

    def _is_out_of_time(self) -> bool:
        return self._remaining_ms() < PAGE_MS or "" in self._spent

    def _endless(self, drain: Drain, pages: list[Page]) -> Malformed:
        """Tell what a list without an end has brought, and forget the place; return the error."""
        self._write_part(drain, pages)
        self._commit(replace(self._state, drain=None))
        # What it has told again it would tell at every try.
        self._settle_replays(drain)
        return Malformed("the list repeats its pages: it has no end")

    def _go_on(self) -> None:
        """
        Have the rest of a long list read at once, unless the provider asked for a rest.

        Raises:
            Unavailable: It did not answer, before time was up.
        """
        if self._unanswered:
            raise self._unanswered
        self._counts["unfinished"] += 1
        if "" not in self._spent:
            # Of the same instant it would be the same job.
            due_ms = max(self._world.clock(), self._job.due_ms + 1)
            again = replace(self._job, due_ms=due_ms)
            self._world.queues.send_deltas([again])
            self._counts.rest = again.correlation_id

    def _turn(self, found: Iterator[Page], drain: Drain, pages: list[Page]) -> Page | None:
        """Turn a page. If that fails, what was read before is told; but not of a full listing."""
        try:
            return next(found, None)
        except RecursionError:
            raise Malformed("the answer nests too deep") from None
        except Retryable:
            if pages and not (drain.full and self._state.drained_ms):
                self._write_part(drain, pages)
            raise

    def _fetch(self, request: Request) -> Response:
        """
        Ask the provider.

        Raises:
            RateLimited: An earlier answer said that the budget is used up.

            Unasked: The connection's rate is used up by others.
        """
        if request.budget in self._spent:
            raise http.spent(self._spent[request.budget])
        if not request.budget:
            # A page that was begun in time may wait for what is left above the time that it needs.
            patience_ms = min(max(self._remaining_ms() - PAGE_MS, TURN_MS_MIN), TURN_MS_MAX)
            self._world.await_turn(self._connection, patience_ms)
        try:
            response = self._world.http.fetch(request)
        except Unavailable as error:
            self._unanswered = error
            raise
        if response.spent_s:
            self._spent[request.budget] = response.spent_s
        return response

    def _saved(self) -> Drain | None:
        return self._state.drain if self._state.failures < PLACE_TRIES else None

    def _begin(self, account: Account) -> Drain:
        state, now_ms = self._state, self._world.clock()
        mode = decide.LIVE
        if not state.drained_ms:
            news = self._standing.was_empty or not self._stream.baseline
            news = news or account.settings.get("backfill") == "true"
            mode = decide.BACKFILL if news else decide.BASELINE
        full = self._stream.snapshot or self._job.full or not state.drained_ms
        full = full and not self._is_blind
        start = decide.start(state.reached_ms, state.previous_ms, state.place, self._stream)
        if full:
            start = Start()
        # Not those of a job that another one has answered meanwhile, nor of a listing just made.
        left = () if self._is_blind else self._standing.pending
        asked = (one for one in self._job.pending if one in left)
        replays = tuple(one for one in asked if marks.replayed_ms(one) is not None)
        drain = Drain(mode, start.since_ms, start.cursor, "", 0, now_ms, full=full, replays=replays)
        since_ms = _since_ms(drain)
        if since_ms is None:
            return drain
        records = self._world.state.all_records(self._job).values()
        return replace(drain, asked=sum(decide.is_told(one, since_ms) for one in records))

    def _write_part(self, drain: Drain, pages: list[Page]) -> Drain:
        """Decide some pages before the last; return the drain as it stands then."""
        records = self._records(pages)
        decision = self._decide(pages, drain.mode, records)
        again = self._repeated(drain, pages, records, deletions=False)
        drain = _noted(drain, decision, again)
        decision = decision.joined(again)
        self._write(decision, self._bad_rows(pages), replace(self._state, drain=drain))
        return drain

    def _repeated(
        self, drain: Drain, pages: list[Page], records: Mapping[str, Record], *, deletions: bool
    ) -> decide.Decision:
        """Find what is to be told again, if that is asked for."""
        since_ms = _since_ms(drain)
        # Rows move, and some are listed twice. So many are not: the list has no end.
        is_endless = drain.repeated > 2 * drain.asked and not any(one.steps for one in pages)
        if since_ms is None or is_endless:
            return decide.Decision()
        rows = [row for page in pages for row in page.rows]
        return decide.decide_again(rows, records, self._stream, since_ms, deletions=deletions)

    def _finish(
        self, drain: Drain, pages: list[Page], cursor: str, listed: set[str] | None
    ) -> bool:
        """Decide the last pages and move the cursor; tell whether it has to be done again."""
        whole = listed is not None or bool(drain.replays)
        records = self._world.state.all_records(self._job) if whole else self._records(pages)
        decision = self._decide(pages, drain.mode, records)
        again = self._repeated(drain, pages, records, deletions=True)
        drain = _noted(drain, decision, again)
        state = replace(self._state, drained_ms=drain.began_ms, drain=None)
        judged = listed if self._stream.snapshot or self._stream.reconcile_s else None
        # A listing that may lack something shows no deletion: the place before it still does.
        self._is_blind |= drain.full and judged is None and bool(state.place)
        place = state.place if drain.full and self._is_blind else cursor or state.place
        if not drain.unsettled:
            # What must be seen again has to be listed again: else the cursor stays in front of it.
            state = replace(
                state,
                reached_ms=max(state.reached_ms, drain.newest_ms),
                previous_ms=state.reached_ms,
                place=place,
            )
        if drain.full:
            state = replace(state, reconciled_ms=drain.began_ms)
        missing = decide.Decision()
        if judged is not None:
            missing = decide.decide_missing(judged, records, self._stream, drain.began_ms)
        if listed is not None:
            self._counts["held"] += missing.held
        if state.is_restored and self._answers_for_all(drain, missing):
            state = replace(state, is_restored=False)
        self._ask_again(missing, drain)
        self._write(decision.joined(missing).joined(again), self._bad_rows(pages), state)
        self._count_unlisted(drain, records, decision)
        self._settle_replays(drain)
        if drain.full and self._stream.reconcile_s:
            self._world.state.note_listed(self._job, drain.began_ms)
        self._unwatch(pages)
        # What differs may be newer than the mark that led here, and be back where it was before the
        # next check: that would see nothing. So a mark goes with a drain that finds nothing new.
        return drain.unsettled or missing.unsettled or drain.news

    def _answers_for_all(self, drain: Drain, missing: decide.Decision) -> bool:
        """Tell whether all that changed since the cursor was written is told with this drain."""
        # A listing that shows no deletion does so together with the drain that follows.
        is_whole = drain.full != self._is_blind or not self._stream.reconcile_s
        return is_whole and not (drain.unsettled or missing.unsettled)

    def _ask_again(self, missing: decide.Decision, drain: Drain) -> None:
        """
        Have the stream listed once more: a deletion is believed at the second sighting, and what
        differed from what was known, though no mark may have said so, may differ again.

        Too many at once wait for the next time it is due: that is no reason to list all the time.
        """
        # What this drain answers for good does not bring another one, nor what was answered before.
        left = self._standing.pending - set(drain.replays)
        pending = [one for one in self._job.pending if one in left]
        is_asked = bool(pending) if self._stream.snapshot else marks.asks_for_all(pending)
        wanted = missing.unsettled and not missing.held and not is_asked
        if wanted or (drain.news and not pending):
            again = marks.element(self._job.stream, marks.FULL, self._world.clock())
            self._world.state.ask_again(self._job, again)

    def _unwatch(self, pages: list[Page]) -> None:
        final = {row.id for page in pages for row in page.rows if row.final}
        alive = watched(self._standing, self._world.clock()) - final
        done = [one for one in self._standing.watched if one.partition("@")[2] not in alive]
        if done:
            self._world.state.unwatch(self._job, done)

    def _decide(
        self, pages: list[Page], mode: str, records: Mapping[str, Record]
    ) -> decide.Decision:
        rows = [row for page in pages for row in page.rows]
        self._counts["rows"] += len(rows)
        return decide.decide(rows, records, self._stream, mode, self._world.clock())

    def _records(self, pages: list[Page]) -> Mapping[str, Record]:
        ids = {row.id for page in pages for row in page.rows}
        return self._world.state.records(self._job, ids)

    def _bad_rows(self, pages: list[Page]) -> dict[str, str]:
        """Name the rows that cannot be read and are not recorded yet, each with the reason."""
        reasons = {bad.key: bad.reason for page in pages for bad in page.bad}
        known = self._world.state.bad_rows(self._job, reasons) if reasons else set()
        fresh = {key: reason for key, reason in reasons.items() if key not in known}
        self._counts["bad_rows"] += len(fresh)
        return fresh

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
        decided_ms = self._world.clock()
        # Not below the clock: what was told before the table was restored had lower numbers, too.
        seq = max(self._state.seq, decided_ms)
        pairs = self._pairs(decision, seq + 1, decided_ms)
        chunks = list(event_chunks(pairs, PUTS_MAX)) or [([], [])]
        for number, (events, records) in enumerate(chunks, start=1):
            next_state = after if number == len(chunks) else self._state
            seq += len(events)
            told_ms = max([self._state.told_ms, *(record.told_ms for record in records)])
            if self._state.is_restored and not next_state.is_restored:
                next_state = replace(next_state, epoch=seq)
            next_state = replace(next_state, outbox=tuple(events), seq=seq, told_ms=told_ms)
            self._commit(next_state, records)
            self._publish_outbox()

    def _pairs(
        self, decision: decide.Decision, first: int, decided_ms: int
    ) -> Iterator[tuple[Event | None, Record]]:
        told = set()
        # What was deleted and is back is told once, as what it is now.
        changed = {change.row.id for change in decision.changes}
        for one in (repeat for repeat in decision.repeats if repeat.change.row.id not in changed):
            told.add(one.change.row.id)
            event = self._composer.event(one.change, one.sequence, one.decided_ms, one.epoch)
            yield event, decision.records[one.change.row.id]
            self._counts["repeated"] += 1
        epoch = self._state.epoch
        for sequence, change in enumerate(decision.changes, start=first):
            told.add(change.row.id)
            event = self._composer.event(change, sequence, decided_ms, epoch)
            record = decision.records[change.row.id]
            noted = replace(
                record, told=change.kind, told_ms=decided_ms, sequence=sequence, epoch=epoch
            )
            yield self._timed(event, change), noted
            self._counts[change.kind] += 1
        for identity, record in decision.records.items():
            if identity not in told:
                yield None, record

    def _timed(self, event: Event, change: Change) -> Event:
        """
        Note in an event since when there has been something to tell.

        What there is at first is as old as it likes.
        """
        at_ms = (self._state.drained_ms and change.at_ms) or self._seen_ms
        return replace(event, at_ms=at_ms, seen_ms=self._seen_ms)

    def _publish_outbox(self) -> None:
        if events := self._state.outbox:
            self._counts["events"] += self._world.topic.publish(self._state.outbox)
            self._commit(replace(self._state, outbox=()))
            self._note_published(events)

    def _note_published(self, events: Sequence[Event]) -> None:
        counts, last, now_ms = self._counts, self._state.seq, self._world.clock()
        counts.first_sequence = counts.first_sequence or last - len(events) + 1
        counts.last_sequence = last
        timed = [event for event in events if event.at_ms]
        # A provider's clock may be ahead of ours.
        counts.lags_ms += tuple(max(now_ms - event.at_ms, 0) for event in timed)
        counts.publish_ms += tuple(max(now_ms - event.seen_ms, 0) for event in timed)

    def _commit(
        self,
        new: StreamState,
        records: list[Record] | None = None,
        bad_rows: Mapping[str, str] = NOTHING,
    ) -> None:
        self._state = self._world.state.commit(self._job, self._state, new, records or [], bad_rows)

    def _count_unlisted(
        self, drain: Drain, records: Mapping[str, Record], decision: decide.Decision
    ) -> None:
        """Count what was to be told again and cannot be: it is not listed, or not as it was."""
        since_ms = _since_ms(drain)
        if since_ms is None:
            return
        changed = {change.row.id for change in decision.changes}
        asked = sum(
            decide.is_told(record, since_ms, drain.began_ms)
            for identity, record in records.items()
            if identity not in changed
        )
        self._counts["unrepeated"] += max(asked - drain.repeated, 0)

    def _settle_replays(self, drain: Drain) -> None:
        """Take away what asked for events to be told again: they are, once."""
        if drain.replays:
            self._world.state.settle(self._job, drain.replays)

    def _settle(self, before_ms: int) -> None:
        """
        Take the marks away that this stream's last complete drain answers for.

        While pages were turned a row may have moved and been missed: after a drain of several, a
        mark goes only if an earlier complete one began after it, too.

        Args:
            before_ms: When the complete drain before the last one began.
        """
        if self._is_unseen:
            # It may be so again before the next check, which would see nothing new.
            return
        done = marks.settled(self._job.pending, self._state.drained_ms, self._stream.overlap_s)
        if self._pages > 1:
            done = tuple(one for one in done if marks.seen_ms(one) <= before_ms)
        if done:
            self._counts["settled"] += 1
            self._world.state.settle(self._job, done)


def _noted(drain: Drain, decision: decide.Decision, again: decide.Decision) -> Drain:
    return replace(
        drain,
        unsettled=drain.unsettled or decision.unsettled,
        news=drain.news or bool(decision.records),
        repeated=drain.repeated + len(again.repeats),
    )


def _since_ms(drain: Drain) -> int | None:
    """Say since when what was told is to be told again: the earliest that is asked for."""
    asked = map(marks.replayed_ms, drain.replays)
    return min((one for one in asked if one is not None), default=None)


def _listed(listed: set[str] | None, page: Page) -> set[str] | None:
    """Add the ids of a page, in place; a list that may lack something is none of everything."""
    if listed is None or not page.whole or not all(bad.id for bad in page.bad):
        return None
    listed.update(row.id for row in page.rows)
    listed.update(bad.id for bad in page.bad)
    return listed


def _versions(page: Page) -> set[tuple[str, str]]:
    return {(row.id, f"{row.updated_at}@{row.deleted}") for row in page.rows}


def _clock_ms(page: Page, now_ms: int) -> int:
    """Say what time it is for the provider; one that is far ahead of us is not believed."""
    return min(page.date_ms or now_ms, now_ms + AHEAD_MS_MAX)
