"""What the aggregator can know of who gave what, and the narrowest remedy for it: from ledgers made by hand."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.epochs import Epochs
from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind
from aggregator.rounds.storage import save_checkpoint
from aggregator.run_record import CheckedLedger
from crypto.errors import EvidenceError
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from crypto.transcript import PROTOCOL
from jobs.membership import withdrawal_plan
from jobs.membership.contributions import RunHistory, contributions
from jobs.membership.withdrawal_plan import UNDONE, Remedy, plan_for, spans
from tests.members import Bare
from tests.records import partial_entry

SILOS = ("silo-1", "silo-2", "silo-3", "silo-4")
LANES = (
    Lane(name="trunk", scope=Scope.ALL, floor=2),
    Lane(name="seen", scope=Scope.HELD, floor=2, hidden=False),
    Lane(name="secret", scope=Scope.HELD, floor=2),
    Lane(name="pair", scope=Scope.GROUP, floor=2, members=("silo-1", "silo-2")),
    Lane(name="sums", scope=Scope.HELD, floor=2),
)
BLOCKS = tuple(Block(name=f"{lane.name}.w", shape=(2,), lane=lane.name, clip=1.0, init=0.5) for lane in LANES)
TRAINED = tuple(Sum(f"{name}.w", Apply.AVERAGE) for name in ("trunk", "seen", "secret", "pair"))
STEPS = (
    Step(task="rows", index=0, slots=(Slot("rows", 9, Basis.STATE),)),
    Step(task="sums", index=0, sums=(Sum("sums.w", Apply.PUBLISH),)),
    *(Step(task="train", index=k, sums=TRAINED) for k in range(3)),
)
PLAN = Plan(method="fedavg", seed=7, n_max=4, lanes=LANES, blocks=BLOCKS, steps=STEPS)
NAMES = [step.name for step in STEPS]


class Story:
    """A ledger's lines, written down one by one."""

    def __init__(self, home: AggregatorHome) -> None:
        self.home = home
        self.entries: list[Entry] = []

    def line(self, kind: Kind, **record: Any) -> None:
        self.entries.append(partial_entry(kind, record, seq=len(self.entries), time="2026-01-01T00:00:00.000Z"))

    def start(self, run: str, plan: Plan = PLAN, *, digest: str = "", **more: str) -> None:
        self.line(
            Kind.RUN_STARTED, run=run, plan=b64encode(bytes(plan)).decode(), plan_digest=digest or plan.digest.hex(),
            model_name="job", protocol=PROTOCOL, state_digest="00", silos=list(SILOS), **more,
        )  # fmt: skip

    def close(
        self,
        run: str,
        k: int,
        survivors: Sequence[str] = SILOS,
        *,
        opened: Mapping[str, int] | None = None,
        holdings: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """``opened``: lane → how many had a weight."""
        slots = {f"{lane}.contributors": count for lane, count in (opened or {}).items()}
        held = {} if holdings is None else {"holdings": {silo: list(lanes) for silo, lanes in holdings.items()}}
        self.line(
            Kind.STEP_CLOSED, run=run, k=k, name=NAMES[k], survivors=list(survivors), lanes_open=list(opened or {}),
            slots=slots, **held,
        )  # fmt: skip

    def finish(self, run: str, state: str, version: str = "") -> None:
        self.line(Kind.RUN_FINISHED, run=run, state_digest=state, weights_sha256=state * 2)
        folder = self.home.run_folder(run).root
        folder.mkdir(parents=True, exist_ok=True)
        if version:
            (folder / "mlflow.json").write_text(json.dumps({"model": "job", "version": version}))

    def history(self) -> CheckedLedger:
        return CheckedLedger(self.home, Epochs(None, ()), tuple(self.entries))  # type: ignore[arg-type]

    def one(self) -> RunHistory:
        (run,) = contributions(self.history())
        return run


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(AggregatorHome(tmp_path))


def known(run: RunHistory, lane: str, silo: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    (found,) = (one for one in run.lanes if one.lane.name == lane)
    return found.sure(silo), found.maybe(silo)


# --- what can be known -------------------------------------------------------------------------------------------


def test_in_a_lane_of_all_every_survivor_contributed_if_as_many_had_a_weight(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS[:3], opened={"trunk": 3})
    story.close("r", 3, SILOS, opened={"trunk": 3})
    run = story.one()
    assert known(run, "trunk", "silo-1") == ((2,), (3,))
    assert known(run, "trunk", "silo-4") == ((), (3,))
    assert run.took_part == {"silo-1": (2, 3), "silo-2": (2, 3), "silo-3": (2, 3), "silo-4": (3,)}


def test_visible_holders_contributed_and_nobody_else(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS, opened={"seen": 2}, holdings={"silo-1": ["seen"], "silo-2": ["seen"]})
    run = story.one()
    assert known(run, "seen", "silo-1") == ((2,), ())
    assert known(run, "seen", "silo-3") == ((), ())


def test_without_a_manifest_on_the_ledger_every_survivor_may_have(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS, opened={"seen": 2})
    assert known(story.one(), "seen", "silo-3") == ((), (2,))


def test_of_a_hidden_lane_only_the_number_is_known(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS, opened={"secret": 2})
    story.close("r", 3, SILOS, opened={"secret": 4})
    assert known(story.one(), "secret", "silo-1") == ((3,), (2,))


def test_a_group_is_named_in_the_plan(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS, opened={"pair": 2})
    story.close("r", 3, SILOS, opened={"pair": 1})
    run = story.one()
    assert known(run, "pair", "silo-1") == ((2,), (3,))
    assert known(run, "pair", "silo-3") == ((), ())


def test_a_lane_that_stayed_shut_took_nothing(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS, opened={"trunk": 4})
    assert known(story.one(), "secret", "silo-1") == ((), ())


def test_who_fell_away_gave_nothing(story: Story) -> None:
    story.start("r")
    story.close("r", 2, SILOS[:3], opened={"trunk": 3, "secret": 2})
    run = story.one()
    assert known(run, "trunk", "silo-4") == known(run, "secret", "silo-4") == ((), ())
    assert "silo-4" not in run.took_part


def test_a_plan_that_is_not_the_one_of_its_digest_is_found(story: Story) -> None:
    story.start("r", digest="ab" * 32)
    with pytest.raises(EvidenceError, match=r"run-started.*, plan_digest"):
        contributions(story.history())


# --- remedies ----------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(story: Story, monkeypatch: pytest.MonkeyPatch) -> Story:
    """``plan_for`` reads what the story tells."""
    monkeypatch.setattr(withdrawal_plan, "_ledger", lambda home: story.history())
    return story


def lanes_of(found: withdrawal_plan.WithdrawalPlan, at: int = 0) -> dict[str, withdrawal_plan.LanePlan]:
    return {lane.lane: lane for lane in found.models[at].lanes}


def test_each_lane_has_the_narrowest_remedy(planned: Story) -> None:
    planned.start("r")
    planned.close("r", 0)
    planned.close("r", 1, opened={"sums": 3})
    holders = {"silo-1": ["seen"], "silo-2": ["seen"]}
    planned.close("r", 2, SILOS[:2], opened={"seen": 2, "trunk": 2, "secret": 2}, holdings=holders)
    planned.close("r", 3, opened={"trunk": 4, "seen": 3, "secret": 2}, holdings=holders | {"silo-3": ["seen"]})
    planned.finish("r", "aa", "1")
    found = plan_for(planned.home, "silo-3")
    lanes = lanes_of(found)
    assert {name: lane.remedy for name, lane in lanes.items()} == {
        "trunk": Remedy.WHOLE,
        "seen": Remedy.RESET,
        "secret": Remedy.RESET,
        "pair": Remedy.NOTHING,
        "sums": Remedy.REOPEN,
    }
    assert (lanes["seen"].contributed, lanes["seen"].possible, lanes["seen"].clean) == ((3,), (), 2)
    assert (lanes["secret"].contributed, lanes["secret"].possible) == ((), (3,))
    assert "train/0, has no checkpoint any more" in lanes["seen"].advice
    assert lanes["pair"].advice == "pair never opened: nothing of anybody is in it"
    text = "\n".join(found.lines())
    assert "seen           contributed in train/1 (weights are hidden)" in text
    assert "secret         may have contributed in train/1 (holdings or weights are hidden)" in text
    (one,) = found.models
    assert (one.label, one.took_part, one.through) == ("job/1", (0, 1, 3), ())
    assert [words.partition(":")[0] for words in one.remedies] == ["trunk", "seen", "secret", "sums"]
    assert "retrain the whole model without silo-3" in one.remedies[0]


def test_a_lane_is_retrained_from_a_checkpoint_that_still_has_its_clean_blocks(planned: Story) -> None:
    planned.start("r")
    planned.close("r", 2, SILOS[:2], opened={"secret": 2})
    planned.close("r", 3, SILOS[:2], opened={"trunk": 2})
    planned.close("r", 4, opened={"secret": 3})
    planned.finish("r", "aa", "1")
    state = {"w": np.zeros(2, np.float32)}
    for k in (1, 3, 4):
        save_checkpoint(planned.home.run_folder("r"), k, state, {})
    lane = lanes_of(plan_for(planned.home, "silo-3"))["secret"]
    assert (lane.clean, lane.checkpoint, lane.remedy) == (2, 3, Remedy.RETRAIN)
    assert lane.advice == "retrain secret without silo-3 from run r, train/0 (checkpoint of train/1 is there)"


def test_what_it_was_in_from_the_start_is_reset_to_the_initial_blocks(planned: Story) -> None:
    planned.start("r")
    planned.close("r", 2, opened={"secret": 2})
    planned.finish("r", "aa")
    save_checkpoint(planned.home.run_folder("r"), 1, {"w": np.zeros(2, np.float32)}, {})
    found = plan_for(planned.home, "silo-3")
    lane = lanes_of(found)["secret"]
    assert (lane.clean, lane.checkpoint, lane.remedy) == (-1, None, Remedy.RESET)
    assert lane.advice == "reset secret to its initial blocks and retrain it without silo-3"
    assert found.models[0].label == "r"  # MLflow has not numbered it


def test_a_silo_that_gave_counts_only_leaves_nothing_to_retrain(planned: Story) -> None:
    planned.start("r")
    planned.close("r", 0)
    planned.close("r", 2, SILOS[:3], opened={"trunk": 3})
    planned.finish("r", "aa", "1")
    found = plan_for(planned.home, "silo-4")
    assert found.models[0].remedies == ("nothing to retrain: silo-4 gave counts only, in rows/0",)
    lane = lanes_of(found)["trunk"]
    assert (lane.remedy, lane.indirect) == (Remedy.NOTHING, True)
    assert "indirectly: trained beside what it gave" in "\n".join(found.lines())


def test_a_lane_that_opened_before_its_first_step_only_is_not_touched_even_indirectly(planned: Story) -> None:
    planned.start("r")
    planned.close("r", 1, SILOS[:3], opened={"sums": 3})
    planned.close("r", 2, opened={"trunk": 4})
    planned.finish("r", "aa", "1")
    lane = lanes_of(plan_for(planned.home, "silo-4"))["sums"]
    assert (lane.touched, lane.indirect, lane.remedy) == (False, False, Remedy.NOTHING)


def test_versions_without_it_are_named_as_untouched(planned: Story) -> None:
    for number, (run, survivors) in enumerate((("a", SILOS[:3]), ("b", SILOS), ("c", SILOS[:3])), start=1):
        planned.start(run)
        planned.close(run, 2, survivors, opened={"trunk": len(survivors)})
        planned.finish(run, f"{number:02}", str(number))
    found = plan_for(planned.home, "silo-4")
    assert [one.label for one in found.models] == ["job/2"] and found.untouched == ("job/1", "job/3")


def test_what_started_from_its_result_descends_from_it(planned: Story) -> None:
    planned.start("a")
    planned.close("a", 2, opened={"trunk": 4})
    planned.finish("a", "11", "1")
    planned.start("b", parent="11")
    planned.close("b", 2, SILOS[:3], opened={"trunk": 3})
    planned.finish("b", "22", "2")
    planned.start("c", parent="22")
    found = plan_for(planned.home, "silo-4")
    assert [(one.label, one.through) for one in found.models] == [
        ("job/1", ()),
        ("job/2", ("job/1",)),
        ("c", ("job/1",)),
    ]
    assert found.models[1].lanes == () and found.models[1].took_part == ()
    assert found.models[1].remedies == ("it descends from job/1: remedy that first, then run it again",)
    assert "not itself, through job/1" in "\n".join(found.lines())
    both = plan_for(planned.home, "silo-1").models[1]
    assert both.remedies[0].startswith("it descends from job/1") and "trunk" in both.remedies[1]


def test_a_run_that_failed_is_listed_too(planned: Story) -> None:
    planned.start("r")
    planned.close("r", 2, opened={"trunk": 4})
    planned.line(Kind.RUN_FAILED, run="r", code="ROUND_LOST", phase="open", missing=[])
    assert [one.label for one in plan_for(planned.home, "silo-3").models] == ["r"]


def test_the_plan_says_what_it_does_not_undo(planned: Story) -> None:
    planned.start("r")
    found = plan_for(planned.home, "silo-3")
    assert found.models == () and found.lines()[0] == "no model and no run holds anything of silo-3"
    assert all(f"  - {words}" in found.lines() for words in UNDONE)
    assert found.facts() == {"silo": "silo-3", "models": [], "untouched": [], "does_not_undo": list(UNDONE)}


def test_before_the_first_run_there_is_nothing(tmp_path: Path) -> None:
    bare = Bare(tmp_path)
    assert plan_for(AggregatorHome(bare.aggregator), "silo-3").models == ()


def test_steps_are_told_shortly() -> None:
    names = ["rows/0", "train/0", "train/1", "train/2", "eval/0"]
    assert spans(names, (0, 1, 2, 3, 4)) == "rows/0, train/0 … train/2, eval/0"
    assert spans(names, (1, 3)) == "train/0, train/2"
    assert spans(names, ()) == ""
