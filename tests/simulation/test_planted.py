"""
Every planted bug is found, and the correct code does well where they are found.
"""

from __future__ import annotations

import pytest

from tests.canaries import WATCH
from tests.simulation.planted import PLANTS, fails

#: A warning is no error: it would have the function fail that has done its work.
pytestmark = pytest.mark.filterwarnings("ignore")

#: Runs of the correct code under what a bug shows in.
CORRECT = 3


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str) -> None:
    plant = PLANTS[name]

    found = next((seed for seed in range(plant.budget) if fails(plant, seed, planted=True)), None)

    assert found is not None, f"not found in {plant.budget} runs: {plant.wrong}"
    WATCH.seen.clear()  # Some of them are that a secret is seen.


@pytest.mark.parametrize("name", PLANTS)
def test_correct_code_does_well_where_the_bug_shows(name: str) -> None:
    failures = [fails(PLANTS[name], seed, planted=False) for seed in range(CORRECT)]

    assert failures == [""] * CORRECT
