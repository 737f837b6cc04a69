"""docs/jobs.md says what the code says: the job file's fields, the catalogue, the states of a job."""

from __future__ import annotations

from dataclasses import fields

import pytest

from jobs.admin.jobs import _PLAIN
from jobs.job import TIMEOUTS, JobSpec, catalogue
from jobs.runtime.status import RunState
from silo_agent.methods import TrainingParams
from tests import jobs_page


@pytest.mark.parametrize("part", jobs_page.PARTS)
def test_the_page_has_what_the_code_has(part: str) -> None:
    assert jobs_page.PARTS[part]() in jobs_page.PAGE.read_text(), "run: python -m tests.jobs_page"


def test_rewriting_changes_nothing_but_the_parts() -> None:
    page = jobs_page.PAGE.read_text()
    assert jobs_page.rewritten(page) == page
    begin = "<!-- generated: catalogue -->\n"
    assert jobs_page.rewritten(page.replace(begin, f"{begin}| an old row |\n")) == page


def test_nothing_lacks_words() -> None:
    assert {one.name for one in fields(JobSpec)} == set(jobs_page.FIELDS)
    assert set(TIMEOUTS) == set(jobs_page.TIMES)
    assert {one.name for one in fields(TrainingParams)} == set(jobs_page.PARAMETERS)
    assert all(f"| `{name}` |" in jobs_page.catalogue_table() for name in catalogue())
    assert set(jobs_page.STATES) == {*_PLAIN.values(), *RunState, "failed", "interrupted", "unknown"}
    assert all(line.count("|") >= 4 and "|  |" not in line for line in jobs_page.catalogue_table().splitlines())
