"""
What each thing that happens costs, measured one by one on a small deployment.

    schedule    a minute: tick + a batch for every ten checks
    check       a check that polls nobody + a poll for every account that is due
                + a step for every account that changed + a send for every ten jobs
    delta       an invocation + its jobs: news, again, last + more news at once
                + what opens a credential, renews an access token, reads a row again

A change is a new call in YouMail's history: one row, one event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from pollwire.queues import BATCH_MAX

from tests.bench.deployment import INTERVAL_S, ORIGINALS, Deployment
from tests.bench.metered import Usage

#: Longer than any of YouMail's streams is read again: what was before is not seen.
LONG_S = 6 * 3600

#: Accounts that are quiet are polled this rarely while a check of nobody is measured.
RARELY_S = 1024 * INTERVAL_S

#: Rows that are read again while a row is measured.
ROWS = 10

#: Shards of a small and a large minute.
FEW, MANY = 8, 128


@dataclass(frozen=True)
class Pieces:
    """
    Usage of each thing that happens.

    Attributes:
        account_bytes: What the table holds for an account to which nothing happened yet.

        record_bytes: What it holds more for each change.

        metrics: Custom metrics that were written: name, service, and what else it is kept by.
    """

    tick: Usage
    batch: Usage
    check: Usage
    poll: Usage
    step: Usage
    send: Usage
    invocation: Usage
    news: Usage
    more: Usage
    again: Usage
    last: Usage
    opens: Usage
    renewal: Usage
    row: Usage
    account_bytes: float
    record_bytes: float
    metrics: frozenset[tuple[str, ...]]


def measure(accounts: int, rounds: int) -> Pieces:
    """
    Measure all pieces.

    Args:
        accounts: Of a shard.

        rounds: CPU times are the medians of so many.
    """
    with ExitStack() as stack:
        large = Deployment(stack, accounts)
        check, poll = _check(large, rounds)
    with ExitStack() as stack:
        small = Deployment(stack)
        tick, batch = _schedule(small, rounds)
        step, send = _changed(small, rounds)
        jobs = _jobs(small, rounds)
        record_bytes = _record_bytes(small)
    return Pieces(
        **{**jobs, "tick": tick, "batch": batch, "check": check, "poll": poll},
        step=step,
        send=send,
        account_bytes=small.account_bytes,
        record_bytes=record_bytes,
        metrics=frozenset(small.metrics | large.metrics),
    )


def combined(*terms: tuple[float, Usage]) -> Usage:
    """Add usages, each so many times."""
    names = {name: None for _, usage in terms for name in usage}
    return {name: sum(times * usage.get(name, 0) for times, usage in terms) for name in names}


def _typical(usages: Iterable[Usage]) -> Usage:
    """Take the median of each amount; only CPU time differs from round to round."""
    all_of = list(usages)
    names = {name: None for usage in all_of for name in usage}
    return {name: median(usage.get(name, 0) for usage in all_of) for name in names}


def _rounds(rounds: int, work: Callable[[], Usage]) -> Usage:
    """Measure something, after a first time that is not counted."""
    work()
    return _typical([work() for _ in range(rounds)])


def _minus(whole: Usage, *parts: tuple[float, Usage]) -> Usage:
    """Take parts away; CPU time is measured, so that a small rest might come out negative."""
    rest = combined((1, whole), *((-times, part) for times, part in parts))
    return {name: max(n, 0.0) if name.endswith("cpu_s") else n for name, n in rest.items()}


def _times(factor: float, usage: Usage) -> Usage:
    return combined((factor, usage))


def _schedule(deployment: Deployment, rounds: int) -> tuple[Usage, Usage]:
    few = _rounds(rounds, lambda: deployment.schedule(FEW))
    many = _rounds(rounds, lambda: deployment.schedule(MANY))
    batch = _times(BATCH_MAX / (MANY - FEW), _minus(many, (1, few)))
    return _minus(few, (1, batch)), batch


def _next_check(deployment: Deployment) -> Usage:
    deployment.advance(INTERVAL_S)
    return deployment.check()


def _check(deployment: Deployment, rounds: int) -> tuple[Usage, Usage]:
    """Measure a check that polls all, and one that polls next to nobody."""
    full = _rounds(rounds, lambda: _next_check(deployment))
    deployment.pace(RARELY_S)
    deployment.advance(10 * RARELY_S)
    idle = _rounds(rounds, lambda: _next_check(deployment))
    polls = full["check.polls"] - idle["check.polls"]
    poll = _times(1 / polls, _minus(full, (1, idle)))
    return _minus(idle, (idle["check.polls"], poll)), poll


def _changed(deployment: Deployment, rounds: int) -> tuple[Usage, Usage]:
    """Measure a check that finds changes, and one that queues jobs for what is pending."""
    quiet, found, queued = [], [], []
    for _ in range(rounds + 1):
        deployment.advance(LONG_S)
        deployment.rest()
        quiet.append(_next_check(deployment))
        for account in deployment.ids[:ORIGINALS]:
            deployment.provider.call(account)
        found.append(_next_check(deployment))
        deployment.deltas(ORIGINALS)
        queued.append(_next_check(deployment))
        deployment.rest()
    idle, changed, sent = (_typical(one[1:]) for one in (quiet, found, queued))
    send = _minus(sent, (1, idle))
    return _times(1 / ORIGINALS, _minus(changed, (1, idle), (1, send))), send


def _jobs(deployment: Deployment, rounds: int) -> Mapping[str, Usage]:
    """Measure the jobs that a change leads to, each in an invocation of its own."""
    deployment.provider.configure(token_s=10**9)
    deployment.provider.expire_tokens()
    life = [_life(deployment) for _ in range(rounds + 1)][1:]
    first, again, last = (_typical(jobs) for jobs in zip(*life, strict=True))
    cold = _typical([_life(deployment, forgets=True)[1] for _ in range(rounds)])
    renewed = _typical([_life(deployment, renews=True)[0] for _ in range(rounds)])
    two = _typical([_life(deployment, calls=2)[0] for _ in range(rounds)])
    # The last row before a change is read again anyway.
    with_rows = _typical([_life(deployment, rows=ROWS + 1)[0] for _ in range(rounds)])
    together = _typical([_together(deployment) for _ in range(rounds)])

    opens = _minus(cold, (1, again))
    alone = _minus(_times(ORIGINALS, again), (1, together))
    invocation = _times(1 / (ORIGINALS - 1), alone)
    return {
        "invocation": invocation,
        "news": _minus(first, (1, opens), (1, invocation)),
        "more": _minus(two, (1, first)),
        "again": _minus(again, (1, invocation)),
        "last": _minus(last, (1, invocation)),
        "opens": opens,
        "renewal": _minus(renewed, (1, first)),
        "row": _times(1 / ROWS, _minus(with_rows, (1, first))),
    }


def _life(
    deployment: Deployment,
    *,
    calls: int = 1,
    forgets: bool = False,
    renews: bool = False,
    rows: int = 0,
) -> list[Usage]:
    """
    Have a change, and all jobs that it leads to.

    Args:
        calls: Changes at once.

        forgets: The second job is another container's.

        renews: The provider has forgotten the access token.

        rows: That are read again with the new one.
    """
    account = deployment.ids[0]
    deployment.advance(LONG_S)
    for _ in range(rows):
        deployment.provider.call(account)
    deployment.rest()
    if renews:
        deployment.provider.expire_tokens()
    deployment.forget()
    for _ in range(calls):
        deployment.provider.call(account)
    jobs: list[Usage] = []
    while not jobs or deployment.pending():
        if forgets and len(jobs) == 1:
            deployment.forget()
        _next_check(deployment)
        jobs += deployment.deltas()
    return jobs


def _together(deployment: Deployment) -> Usage:
    """Have a job of each account in one invocation, the second that a change leads to."""
    deployment.advance(LONG_S)
    for account in deployment.ids[:ORIGINALS]:
        deployment.provider.call(account)
    _next_check(deployment)
    deployment.deltas(ORIGINALS)
    _next_check(deployment)
    (jobs,) = deployment.deltas(ORIGINALS)
    deployment.rest()
    return jobs


def _record_bytes(deployment: Deployment) -> float:
    before = deployment.table_bytes()
    deployment.provider.call(deployment.ids[0])
    deployment.rest()
    return deployment.table_bytes() - before
