"""H4: the code that a published model runs is a file of the release that the data owners approved."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from aggregator.verify.bundle import verify_bundle, write_bundle
from aggregator.verify.checks import verify_run
from aggregator.verify.models import models, promote
from aggregator.verify.report import CheckOutcome
from crypto.errors import EvidenceError
from crypto.release_manifest import PREDICTOR, ReleaseManifest
from jobs import release
from jobs.evidence.try_model import cold
from silo_agent.home import SiloHome
from tests.tampering import Finished, Lines, countersign, refused, rewrite, started

pytestmark = pytest.mark.slow

TROJAN = b"import os\n"
OTHER = ReleaseManifest({PREDICTOR: sha256(b"another release").hexdigest()})


def trojan(run: Finished, **more: Any) -> None:
    """What the aggregator can do: other code, its digest on a ledger that all silos countersign."""
    (run.folder / "predictor.py").write_bytes(TROJAN)
    digest = sha256(TROJAN).hexdigest()
    rewrite(run.home, lambda lines: (started(lines)["predictor"].update(sha256=digest), started(lines).update(more)))
    countersign(run)


def mine(run: Finished) -> None:
    """A manifest that lists the trojan."""
    files = release.manifest().files | {PREDICTOR: sha256(TROJAN).hexdigest()}
    (run.folder / "release.sha256").write_bytes(bytes(ReleaseManifest(files)))


def test_the_honest_one_is_checked_whatever_is_installed_here(honest: Finished, tmp_path: Path) -> None:
    bundle = write_bundle(honest.home, honest.run, tmp_path / "b.zip").path
    reports = [verify_run(honest.home, honest.run, release=here) for here in (release.manifest(), OTHER, None)] + [
        verify_bundle(bundle, release=OTHER)
    ]
    for report in reports:
        said = next(line for line in report.lines if line.name == "predictor")
        assert said.outcome is CheckOutcome.OK and release.digest().hex()[:16] in said.detail
        assert "data owners of silo-1, silo-2" in said.detail


@pytest.mark.parametrize("here", [release.manifest(), OTHER, None], ids=["same", "another", "unknown"])
def test_a_trojan_is_refused(run: Finished, here: ReleaseManifest | None, tmp_path: Path) -> None:
    """H4: in the home, in a bundle, at `fed try` and at `fed promote`."""
    trojan(run)
    error = refused(run, release=here)
    assert (
        error.where == f"{run.run}/predictor.py" and f"{PREDICTOR} of the release that was approved" in error.expected
    )
    bundle = write_bundle(run.home, run.run, tmp_path / "b.zip").path
    with pytest.raises(EvidenceError, match=r"predictor\.py"):
        verify_bundle(bundle, release=here)
    for source in (bundle, run.folder):
        with pytest.raises(EvidenceError, match=r"predictor\.py"):
            cold(SiloHome(run.federation.silo("silo-1")), source, "digits")
    (run.folder / "mlflow.json").write_text('{"model": "fedavg-test", "version": "1"}')
    with pytest.raises(EvidenceError, match=r"predictor\.py"):
        promote(run.home, models(run.home)[0].label, "champion", "board")


def test_a_manifest_of_the_aggregators_own_is_not_the_approved_release(run: Finished) -> None:
    trojan(run)
    mine(run)
    error = refused(run)
    assert error.where == f"{run.run}/release.sha256" and release.digest().hex() in error.expected
    digest = ReleaseManifest.from_bytes((run.folder / "release.sha256").read_bytes()).digest.hex()
    trojan(run, code_digest=digest)  # then it is not what the data owners approved
    assert "approval" in refused(run).where


def test_a_run_without_the_manifest_is_refused(run: Finished) -> None:
    """Only a run of consilium/1 may lack it, see ``tests.aggregator.verify.test_old_bundle``."""
    (run.folder / "release.sha256").unlink()
    for here in (release.manifest(), OTHER, None):
        error = refused(run, release=here)
        assert error.where == f"{run.run}/release.sha256" and release.digest().hex() in error.expected
        assert error.found == "No such file or directory"


FACTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a package": (lambda facts: facts["requirements"].append("evil==1.0"), "requirements"),
    "an address": (lambda facts: facts["requirements"].append("torch @ https://evil.example/t.whl"), "requirements"),
    "an option": (lambda facts: facts["requirements"].append("--index-url=https://evil.example"), "requirements"),
    "a second line": (lambda facts: facts["requirements"].append("torch==2.0\n--pre"), "requirements"),
    "no list": (lambda facts: facts.update(requirements="torch"[:0]), "requirements"),
    "another method": (lambda facts: facts.update(settings='{"method": "fedcoe", "params": {}}'), r"settings\.method"),
    "settings that are a list": (lambda facts: facts.update(settings="[]"), "settings"),
    "settings that are no JSON": (lambda facts: facts.update(settings="[" * 100_000), "settings"),
    "a shape of terabytes": (lambda facts: facts.update(shape=[2**42]), "shape"),
    "an unknown field": (lambda facts: facts.update(more=1), "fields"),
    "a missing field": (lambda facts: facts.pop("modes"), "fields"),
}


@pytest.mark.parametrize("name", FACTS)
def test_what_stands_beside_the_code_is_the_jobs(run: Finished, name: str) -> None:
    """H4: an installation runs code, too, and a shape sizes an allocation."""
    change, where = FACTS[name]

    def forge(lines: Lines) -> None:
        change(started(lines)["predictor"])

    rewrite(run.home, forge)
    countersign(run)
    assert where.replace("\\", "") in refused(run).where
