"""The benchmark of models on small data: its baselines, and reported figures that hold the exact ones."""

from __future__ import annotations

import pytest

from tests.benchmarks.models import Size, risk, stay

pytestmark = pytest.mark.slow

SMALL = Size((0,), (200, 220, 240, 260, 280, 300), 2, 0)


def test_what_opens_holds_what_all_rows_together_say() -> None:
    found = risk(0, SMALL)
    assert found["inside"] == 1 and 0.02 < found["outcome"] < 0.1 and found["central"] > 0.6
    assert found["accuracy"] > 0.9, "as high as always no"


def test_a_number_likewise() -> None:
    found = stay(0, SMALL)
    assert found["inside"] == 1 and found["central"] < found["mean"]
