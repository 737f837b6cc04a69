"""A released step: who approved it, who attested it, and no lane below its floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.ledger.records import Kind
from aggregator.protocols.live import LiveStep
from aggregator.verify.steps import check_floor, check_record
from crypto import proof
from crypto.approval import Approval
from crypto.errors import EvidenceError, SumNotProven
from crypto.silo_session import SiloSession
from crypto.transcript import digest
from jobs.owner import approval_terms
from tests import federation, local, tampering
from tests.records import partial_entry
from tests.tampering import (
    Finished,
    Lines,
    line_of,
    records,
    refused,
    rewrite,
)


@pytest.mark.parametrize(("lane", "least"), [("trunk", 3), ("quiet", 4), ("open", 4)])
def test_no_lane_opens_below_the_strictest_floor(lane: str, least: int) -> None:
    """Plan 2, m + c = 3 for all lanes, and the charter's own 4 for those that not everybody holds."""
    group = federation.Federation(5, lane_floor=4)
    plan = federation.small_plan(floor=2)
    step = federation.Run(group, plan)
    step.play()
    one = next(one for one in plan.lanes if one.name == lane)
    entry = partial_entry(Kind.STEP_CLOSED, {})
    for count in range(6):
        slots = {one.contributors_figure: count}
        if count >= least:
            check_floor(group.charter, entry, one, slots)
            continue
        with pytest.raises(EvidenceError, match=f"lanes_open, {lane}: expected at least {least}"):
            check_floor(group.charter, entry, one, slots)
    with pytest.raises(EvidenceError, match="at least 6"):
        check_floor(group.charter, entry, replace(one, floor=6), {one.contributors_figure: 5})


def test_silos_that_all_let_a_lane_open_below_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hospitals in a lane of floor 3, and every silo gave its shares all the same."""
    monkeypatch.setattr(SiloSession, "_check_floor", lambda self, lane, own: None)
    monkeypatch.setattr(SiloSession, "_check_rule", lambda self, names: {})  # two silos are no atom, either
    group = federation.Federation(5)
    weights = federation.holding(group.silos, quiet=2)
    honest = federation.Run(group, federation.small_plan(), weights=weights)
    assert "quiet" not in honest.play()
    below = honest.server.failed["quiet"]
    assert below.code == "SUM_NOT_PROVEN" and "opened for 2 contributors below its floor" in str(below)

    # A server that opens it nevertheless, and silos that sign what it announces:
    with monkeypatch.context() as patch:
        patch.setattr(proof, "check_bounds", lambda *_: None)
        step = federation.Run(group, federation.small_plan(), weights=weights)
        assert "quiet" in step.play()
    evidence, context = step.evidence(), step.context
    checked = evidence.check(context)
    survivors, adverts = checked.survivors.signed, checked.survivors.dealt.cohort.adverts
    record = {
        "transcript": checked.survivors.t3.hex(),
        "survivors": tuple(survivors),
        "slots": checked.figures,
        "lanes_open": tuple(step.opened),
        "lanes_shut": (),
        "upload_digests": {silo: digest("upload", header).hex() for silo, header in survivors.items()},
        "data_commitments": {silo: adverts[silo].data.hex() for silo in survivors},
        "approvals": {silo: adverts[silo].approval.hex() for silo in survivors},
        "holdings": {silo: tuple(adverts[silo].held) for silo in survivors if adverts[silo].held},
    }
    found = LiveStep(evidence, checked)
    with pytest.raises(EvidenceError, match="lanes_open, quiet: expected at least 3 contributors, found 2"):
        check_record(context.plan, context.charter, partial_entry(Kind.STEP_CLOSED, record), found)
    with pytest.raises(SumNotProven, match="'quiet' opened for 2 contributors below its floor"):
        found.replay("quiet", {silo: step.words[silo]["quiet"] for silo in survivors})


@pytest.mark.parametrize("hours", [-2, 48])
def test_an_approval_that_was_not_valid_then(run: Finished, hours: int) -> None:
    rewrite(run.home, lambda lines: tampering.shift(lines, hours=hours))
    error = refused(run)
    assert error.where == f"ledger.jsonl line {line_of(run.home, Kind.APPROVAL)} (approval)"
    assert "not valid then" in error.found and "step 0" in error.expected


def test_an_approval_for_another_purpose_that_the_silo_let_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = local.federation(tmp_path / "f")
    terms = approval_terms.current_terms
    monkeypatch.setattr(Approval, "check", lambda self, terms, *, now, used: None)
    monkeypatch.setattr(
        approval_terms, "current_terms", lambda home, spec: replace(terms(home, spec), purpose="gossip")
    )
    run = tampering.finish(federation.root, local.spec(rounds=1), federation=federation)
    monkeypatch.undo()
    error = refused(run)
    assert error.where.endswith("(approval), purpose") and error.found == "a test"


def test_a_step_that_was_attested_twice(honest: Finished, tmp_path: Path) -> None:
    """Shares of one step under two transcripts: two sums of nearly the same silos, and their difference tells."""
    run = honest.copy(tmp_path / "f")

    def change(lines: Lines) -> None:
        place = next(place for place, line in enumerate(lines) if line[0] == Kind.STEP_ATTESTED)
        lines.insert(place, [lines[place][0], {**lines[place][1], "transcript": "ab" * 32}, lines[place][2]])

    rewrite(run.home, change)
    assert (
        refused(run).where == f"ledger.jsonl line {line_of(run.home, Kind.STEP_ATTESTED)} (step-attested), transcript"
    )


def test_other_survivors_than_were_attested(run: Finished) -> None:
    rewrite(run.home, lambda lines: records(lines, Kind.STEP_ATTESTED)[1]["survivors"].pop())
    assert refused(run).where.endswith("(step-attested), survivors")
