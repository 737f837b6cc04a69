"""One ledger with runs of two protocols, ``consilium/1`` and the one in use after it: each is read as what it is."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.protocols.live import Live
from aggregator.protocols.protocol1.reader import Protocol1
from aggregator.run_record import CheckedLedger
from aggregator.tracking.model_card import card
from aggregator.verify.bundle import verify_bundle, write_bundle
from aggregator.verify.checks import verify_run
from aggregator.verify.models import Models
from aggregator.verify.receipts import check_receipt, compare
from aggregator.verify.report import CheckOutcome, VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto import transcript
from crypto.charter import SignedCharter
from jobs.demo.digits_data import make
from jobs.demo.federation import Federation, add_data
from jobs.evidence.lineage.trace import trace_in
from jobs.membership.contributions import contributions
from jobs.membership.propose import first_epoch
from tests import local
from tests.protocol1 import CONSORTIUM, RUN, SILOS, OldFederation

pytestmark = pytest.mark.slow

NOTE = "the opened sums were not proven to the silos"


@dataclass(frozen=True)
class Mixed:
    """``old``: what was there; ``new``: the federation after its second epoch; ``run``: its first run under that."""

    old: OldFederation
    new: Federation
    run: str

    @property
    def home(self) -> AggregatorHome:
        return self.new.aggregator_home

    def ledger(self) -> CheckedLedger:
        return read_ledger(self.home, CONSORTIUM, VerificationReport("ledger"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """The second epoch has new keys for everyone; the consortium and the silos' names are the same."""
    root = tmp_path_factory.mktemp("mixed")
    old = OldFederation.unpack(root / "old")
    new = Federation(root / "new", "test", SILOS)
    aggregator = new.aggregator_home.make()
    members = [home.make(silo, None) for silo, home in new.silo_homes.items()]
    first = first_epoch("test", members, aggregator, now=int(time.time()))
    charter = SignedCharter.sign(replace(first, epoch=2, previous=old.charter().digest), old.key("consortium"))
    for home in (new.aggregator_home, *new.silo_homes.values()):
        home.pinned.pin(charter, old.key("consortium").public)
    for part in ("ledger", f"jobs/{RUN}"):
        shutil.copytree(old.home.root / part, new.aggregator / part, dirs_exist_ok=True)
    data = make(6, 7)
    for silo, home in new.silo_homes.items():
        add_data(home, silo, "digits", data[silo])
    outcome, _, _ = local.run_job(local.spec(), new.aggregator, new.homes)
    return Mixed(old, new, outcome.run)


def test_each_run_is_read_with_its_own_protocol(mixed: Mixed) -> None:
    ledger = mixed.ledger()
    assert [charter.epoch for charter in ledger.epochs.charters] == [1, 2]
    assert isinstance(ledger.run(RUN).reader, Protocol1) and isinstance(ledger.run(mixed.run).reader, Live)
    assert ledger.run(mixed.run).started.record.protocol == transcript.PROTOCOL != "consilium/1"


def test_both_runs_hold_and_only_the_old_one_has_the_note(mixed: Mixed) -> None:
    before = verify_run(mixed.old.home, RUN, consortium=CONSORTIUM)
    old, new = (verify_run(mixed.home, run, consortium=CONSORTIUM) for run in (RUN, mixed.run))
    assert old.verdict == before.verdict
    assert [line.name for line in old.lines] == [line.name for line in before.lines]
    assert [NOTE in line.detail for line in old.of(CheckOutcome.NOTE)] == [True]
    assert not [line for line in new.of(CheckOutcome.NOTE) if NOTE in line.detail]
    assert {"steps", "sums", "state", "closing"} <= {line.name for line in new.of(CheckOutcome.OK)}


def test_receipts_of_both_hold_against_the_ledger(mixed: Mixed) -> None:
    ledger, new = mixed.ledger(), mixed.new.silo("silo-1") / "receipts" / f"{mixed.run}.bin"
    for path, notes in ((mixed.old.receipt("silo-1"), 1), (new, 0)):
        report = VerificationReport("receipt")
        compare(ledger, check_receipt(path, ledger.epochs, report), report)
        assert [line.name for line in report.of(CheckOutcome.OK)][-1] == "history"
        assert len([line for line in report.of(CheckOutcome.NOTE) if NOTE in line.detail]) == notes


def test_bundles_of_both_hold(mixed: Mixed, tmp_path: Path) -> None:
    for run in (RUN, mixed.run):
        write_bundle(mixed.home, run, tmp_path / f"{run}.zip")
        assert verify_bundle(tmp_path / f"{run}.zip", consortium=CONSORTIUM).target == f"run {run}"


def test_lineage_and_card_of_the_old_version_say_what_was_not_proven(mixed: Mixed) -> None:
    ledger = mixed.ledger()
    models = Models.of(ledger)
    for run, said in ((RUN, True), (mixed.run, False)):
        version = models.made_by(run)
        assert version is not None
        text = card(models, version).text
        assert (NOTE in text) is said and f"protocol {ledger.run(run).started.record.protocol}" in text
        lineage = trace_in(ledger, run)
        assert len([line for line in lineage.unproven if NOTE in line]) == said
        assert all(part.consent is not None and part.countersigned for part in lineage.silos)


def test_contributions_of_both_are_known(mixed: Mixed) -> None:
    """The lanes of an old plan are those of a new one to whoever asks for a withdrawal."""
    old, new = contributions(mixed.ledger())
    lanes = {lane.lane.name: lane for lane in old.lanes}
    assert all(lane.trains for lane in lanes.values())
    assert lanes["expert-0"].sure("silo-1") == (1, 3) and lanes["expert-0"].sure("silo-4") == ()
    assert lanes["expert-0"].maybe("silo-4") == () and lanes["expert-1"].maybe("silo-5") == (3,)
    assert [lane.lane.name for lane in new.lanes] == ["everyone"]
