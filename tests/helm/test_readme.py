"""Each chart's README has every value, as values.yaml tells it."""

from __future__ import annotations

import pytest

from tests.helm import readme
from tests.helm.charts import CHARTS, HELM


@pytest.mark.parametrize("chart", CHARTS)
def test_the_readme_is_fresh(chart: str) -> None:
    page = (HELM / chart / "README.md").read_text()
    assert readme.rewritten(chart, page) == page, "run: python -m tests.helm.readme"


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_is_told_once(chart: str) -> None:
    told = readme.documented(chart)
    paths = [path for path, _ in readme.leaves(readme.values_of(chart), set(told))]
    assert sorted(told) == sorted(paths), "a value without a comment, or a comment below one that tells it all"


@pytest.mark.parametrize("chart", CHARTS)
def test_pages_say_what_is(chart: str) -> None:
    text = (HELM / chart / "README.md").read_text()
    assert "\t" not in text and all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())
    assert all(len(line) <= 120 for line in (HELM / chart / "values.yaml").read_text().splitlines())
