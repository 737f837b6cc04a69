"""The probe counts exactly the words that were masked, changes nothing, and is absent unless a silo asks for it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.records import Kind
from aggregator.rounds.run import Run
from crypto import blocks
from crypto.errors import EvidenceError, SpecError
from jobs.runtime.mask_probe import (
    BINS,
    FILE,
    FOLDER,
    Probe,
    ProbedAgent,
    agent_class,
    bin_words,
    chi_square,
    read_probe,
    vector_path,
)
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local, tiny
from tests.plain import fixed_run_id

SILOS = tuple(f"silo-{i}" for i in range(1, 7))
JOB = tiny.spec("fedcoe", keep_uploads="all", params={"rounds": 3, "finetune_steps": 1})
FEDAVG = tiny.spec("fedavg", name="mean", params={"rounds": 2})


@dataclass(frozen=True)
class Done:
    """``run``: of FedCoE. ``first``: of FedAvg, before it, and ``plain``: (step, lane) → all silos' vectors of it."""

    root: Path
    run: Run
    log: str
    first: Run
    plain: Mapping[tuple[int, str], list[np.ndarray]]

    def home(self, silo: str) -> Path:
        return self.root / "silos" / silo

    def probe(self, silo: str) -> Probe:
        probe = read_probe(SiloHome(self.home(silo)), self.run.name)
        assert probe is not None
        return probe


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two runs. In the second silo-5 has a probe that can't be written, and silo-6 none."""
    federation = tiny.federation(tmp_path_factory.mktemp("probed") / "f", len(SILOS), probe="vectors")
    root, everyone = federation.root, federation.homes
    with fixed_run_id(b"1" * 32):  # of some first blocks these few units learn nothing
        _, first, _ = local.run_job(FEDAVG, federation.aggregator, everyone)
    plain = {
        (k, lane.name): [np.load(vector_path(SiloHome(home), k, lane.name)) for home in everyone.values()]
        for k, step in enumerate(first.spec.plan.steps)
        for lane in first.spec.plan.lanes_of(step)
    }
    for home in (everyone["silo-5"], everyone["silo-6"]):
        (home / FILE).unlink()
        shutil.rmtree(home / FOLDER)
    (everyone["silo-5"] / FILE).mkdir()
    (everyone["silo-6"] / "silo.json").write_text(json.dumps({"silo": "silo-6"}))
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("consilium.probe")
    logger.addHandler(handler)
    try:
        with fixed_run_id(b"2" * 32):
            _, run, _ = local.run_job(JOB, federation.aggregator, everyone)
    finally:
        logger.removeHandler(handler)
    return Done(root, run, "\n".join(heard), first, plain)


def test_the_first_and_the_last_training_step_are_binned_and_every_step_is_weighed(done: Done) -> None:
    probe = done.probe("silo-1")
    assert {(one.k, one.step) for one in probe.histograms} == {(2, "train/0"), (4, "train/2")}
    assert [name for _, name, _ in probe.weights] == [step.name for step in done.run.spec.plan.steps]
    assert {one.lane for one in probe.histograms} == {"everyone", "expert-0", "expert-1"}


def test_before_counts_the_plain_words(done: Done) -> None:
    for silo in SILOS[:4]:
        for one in done.probe(silo).histograms:
            words = np.load(vector_path(SiloHome(done.home(silo)), one.k, one.lane))
            assert words.dtype == np.uint32
            assert words.size == one.words == sum(one.before) == sum(one.zoom) + one.outside
            values = words.astype(np.int64) - (words >= 2**31) * 2**32
            assert one.before == tuple(np.histogram(values, bins=BINS, range=(-(2**31), 2**31))[0])
            assert one.zoom == tuple(np.histogram(values, bins=np.linspace(-one.reach, one.reach - 1e-6, BINS + 1))[0])
            assert one.outside <= 0.01 * one.words


def test_after_counts_the_words_that_the_aggregator_stored(done: Done) -> None:
    for silo in SILOS[:4]:
        for one in done.probe(silo).histograms:
            stored = np.fromfile(done.run.folder.upload_path(one.k, silo, one.lane), dtype="<u4")
            assert list(one.after) == bin_words(stored)
            assert sum(one.after) == one.words == stored.size
            plain = np.load(vector_path(SiloHome(done.home(silo)), one.k, one.lane))
            assert not np.array_equal(stored, plain)


def test_the_plain_vectors_add_up_to_what_opened(done: Done) -> None:
    """Sums of the silos' vectors, applied step by step with the ledger's slots, give the run's state bit for bit."""
    plan = done.first.spec.plan
    state = blocks.initial_state(plan, done.first.id)
    closed = [
        e.record for e in read(AggregatorHome(done.root / "aggregator").ledger_path) if e.kind is Kind.STEP_CLOSED
    ]
    for record in (record for record in closed if record.run == done.first.name):
        step = plan.steps[record.k]
        lanes = [lane.name for lane in plan.lanes_of(step)]
        sums = {lane: np.add.reduce(done.plain[record.k, lane], dtype=np.uint32) for lane in lanes}
        weights = {lane: record.slots[f"{lane}.weight"] for lane in lanes}
        state = blocks.apply(plan, step, state, sums, weights)
    assert blocks.state_digest(state) == blocks.state_digest(done.first.state)


def test_a_new_run_clears_the_vectors_and_keeps_the_figures(done: Done) -> None:
    home = done.home("silo-1")
    assert {path.name.split("-", 1)[1] for path in (home / FOLDER).iterdir()} == {
        f"{lane.name}.npy" for lane in done.run.spec.plan.lanes
    }
    before = read_probe(SiloHome(home), done.first.name)
    assert before is not None
    assert {one.lane for one in before.histograms} == {"everyone"}


def test_weights_in_the_probe_add_up_to_what_opened(done: Done) -> None:
    closed = [
        e.record for e in read(AggregatorHome(done.root / "aggregator").ledger_path) if e.kind is Kind.STEP_CLOSED
    ]
    train = next(record for record in closed if record.run == done.run.name and record.name == "train/0")
    weights = [{k: lanes for k, _, lanes in done.probe(silo).weights}[train.k] for silo in SILOS[:4]]
    assert all(lane["everyone"] for lane in weights)
    assert sum(lane["everyone"] for lane in weights) < train.slots["everyone.weight"]  # two silos drew nothing


def test_a_broken_probe_and_no_probe_change_nothing(done: Done) -> None:
    """silo-5 said in its log that it could not draw, silo-6 runs the production agent; both countersigned."""
    entries = read(AggregatorHome(done.root / "aggregator").ledger_path)
    end = next(e.record for e in entries if e.kind is Kind.RUN_FINISHED and e.record.run == done.run.name)
    assert sorted(end.countersignatures) == sorted(SILOS)
    assert "the probe could not be written" in done.log


def test_the_production_agent_leaves_no_probe(done: Done) -> None:
    home = done.home("silo-6")
    assert agent_class(SiloHome(home)) is Agent
    assert not (home / FILE).exists()
    assert not (home / FOLDER).exists()
    assert read_probe(SiloHome(home), done.run.name) is None


def test_probe_files_are_for_the_owner_only(done: Done) -> None:
    assert (done.home("silo-1") / FILE).stat().st_mode & 0o777 == 0o600
    assert (done.home("silo-1") / FOLDER).stat().st_mode & 0o777 == 0o700
    assert not list(done.home("silo-1").glob("*.new"))


def test_every_lane_has_a_vector_that_masking_did_not_touch(done: Done) -> None:
    """A lane of weight 0 is zeros before masking; the vectors were copied before masks were added in place."""
    plan = done.run.spec.plan
    for k, name, lanes in done.probe("silo-1").weights:
        for lane, weight in lanes.items():
            words = np.load(vector_path(SiloHome(done.home("silo-1")), k, lane))
            assert words.size == plan.words_of(plan.steps[k], lane)
            assert words.any() == bool(weight), (name, lane)


def test_silo_json_chooses_the_class(tmp_path: Path) -> None:
    for kind in ("histogram", "vectors"):
        (tmp_path / "silo.json").write_text(json.dumps({"silo": "a", "probe": kind}))
        assert issubclass(agent_class(SiloHome(tmp_path)), ProbedAgent)
    (tmp_path / "silo.json").write_text(json.dumps({"silo": "a", "probe": "everything"}))
    with pytest.raises(SpecError, match="histogram, vectors"):
        agent_class(SiloHome(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format":2}', '{"format":1,"silo":"a","runs":{"r":{}}}', '{"format":1,"silo":"a","runs":7}'],
)
def test_a_file_that_no_probe_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(EvidenceError, match="what a probe writes"):
        read_probe(SiloHome(tmp_path), "r")


def test_bins_are_exact_at_their_edges() -> None:
    words = np.array([2**31, 2**31 + 2**26 - 1, 2**31 + 2**26, 2**32 - 1, 0, 2**31 - 1], dtype=np.uint32)
    counts = bin_words(words)
    assert {at: count for at, count in enumerate(counts) if count} == {0: 2, 1: 1, 31: 1, 32: 1, 63: 1}


def test_chi_square() -> None:
    assert chi_square([5] * BINS) == 0.0
    assert chi_square([BINS] + [0] * (BINS - 1)) == pytest.approx(BINS * (BINS - 1))
    assert chi_square([0] * BINS) == 0.0
