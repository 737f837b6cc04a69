"""What the aggregator's log says of each record: over the ledger of a whole run in this process."""

from __future__ import annotations

from dataclasses import replace

from jobs.runtime.status import LastClosed, RunStatus
from jobs.runtime.step_log import closed


def test_a_step_that_closed_says_what_stayed_shut_and_what_it_opened() -> None:
    last = LastClosed(k=1, name="eval/0", time="t", invited=8, survivors=7, shut=("expert-0",), withheld=("rows",))
    status = RunStatus(steps=4, closed=last)
    assert closed(status, "global AUROC 0.8") == (
        "step eval/0 (2 of 4) closed with 7 of 8 silos; shut: expert-0; figures withheld: rows; global AUROC 0.8"
    )
    assert closed(replace(status, closed=replace(last, shut=(), withheld=())), "") == (
        "step eval/0 (2 of 4) closed with 7 of 8 silos"
    )
    assert closed(RunStatus(), "") == ""
