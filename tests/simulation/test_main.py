"""What `make simulate` takes, and what it refuses."""

from __future__ import annotations

import sys

import pytest

from tests.simulation.__main__ import main
from tests.simulation.stories import BY_SEED, PAIRED, REGRESSIONS, STORIES


@pytest.fixture
def simulate(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["make simulate", *words])
        try:
            status = main()
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return status, out + err

    return run


@pytest.mark.parametrize("replay", ["swarm:7", "story:48", "story:93:3=duplicate,9=error_before"])
def test_a_run_is_replayed(simulate, replay):
    status, said = simulate("--replay", replay)

    assert status == 0
    assert "nothing was broken" in said


def test_each_story_has_a_seed_of_its_own():
    assert len(BY_SEED) == len(STORIES) + len(PAIRED) + len(REGRESSIONS)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--seconds", "0"], "SECONDS: a number, more than 0"),
        (["--seconds", "x"], "SECONDS: a number, more than 0"),
        (["--seed", "x"], "SEED: a whole number"),
        (["--seed", "9" * 13], "SEED: a whole number"),
        (["--replay", "nonsense"], "'nonsense' is no family (story, swarm, "),
        (["--replay", "story:1"], "there are the stories 48, "),
        (["--replay", "story:48:3=boom"], "'3=boom' is no step with a fault"),
        (["--replay", "story:48:999999=crash_after"], "999999 is none"),
        (["--replay", "swarm:7:3=crash_after"], "swarm: its faults are drawn"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(simulate, words, reason):
    status, said = simulate(*words)

    assert status == 2
    assert reason in said
