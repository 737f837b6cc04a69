"""The bars of the methods that need no data but what packages bring: suite ``test`` of ``tests/benchmarks/methods.py``.

Through production's rounds, masks and floors, in two processes, under the first two of a case's seeds, or all five
where two leave a bar little margin. The figures over five seeds, and the cases that need other data, are those of
``make bench-methods`` (docs/methods/measured.md).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmarks import methods
from tests.benchmarks.study import Bar, Setting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAMES = {case.name for _, case in methods.cases("test")}
BARS = [bar for study in methods.STUDIES for bar in methods._study(study).BARS if bar.case in NAMES]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> methods.Results:
    nowhere: Path = tmp_path_factory.mktemp("data")
    return methods.run("test", Setting(full=False, data=nowhere), jobs=min(2, os.cpu_count() or 1))


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.name)
def test_bar(bar: Bar, results: methods.Results) -> None:
    verdict = results.verdicts()[bar.name]
    assert verdict.holds or bar.missed, f"{verdict.mean:.2f} ± {verdict.se:.2f} for {verdict.target}: {verdict.values}"
