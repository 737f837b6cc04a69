"""A newcomer before its first round: a finished model, checked and then tried on the silo's own test rows.

Everything happens at the silo. The model comes as a bundle, or as a run's folder in a copy of the aggregator's home;
its evidence is verified against the consortium's key that this silo has pinned before the model is used. The
prediction is *cold*: from published state and the batch alone. Nothing leaves the silo, and no other silo is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.figures import metrics
from aggregator.home import AggregatorHome
from aggregator.verify.bundle import unpacked
from aggregator.verify.checks import verify_in
from aggregator.verify.report import VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto.errors import EvidenceError, SpecError
from jobs import release
from jobs.evidence.run_summary import published_by, spec_of
from jobs.owner.data_fit import check_rows
from jobs.owner.personal import commonest_right
from silo_agent.home import SiloHome
from silo_agent.language.base_model import with_base_model
from silo_agent.methods import method
from silo_agent.methods.scoring import score, targets
from silo_agent.models import tasks
from silo_agent.models.tasks import Classes
from silo_agent.pysyft.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class ColdTrial:
    """``right``: correct predictions on the ``rows`` test rows of this silo; ``majority``: correct predictions of the
    majority-class baseline; None of a task that has no correct ones. ``metrics``: as a run has them, of these rows.
    Figures of one silo: shown here, sent nowhere.
    """

    silo: str
    model: str
    run: str
    method: str
    data: str
    rows: int
    right: int | None
    majority: int | None
    metrics: Mapping[str, float]
    report: VerificationReport


def cold(home: SiloHome, source: Path, data: str) -> ColdTrial:
    """Verify the model and try it on this silo's data set ``data``.

    ``source``: a bundle (zip), or ``jobs/<run>`` in an aggregator's home. Raises EvidenceError for evidence that
    fails a check or is of another federation, SpecError for a home without a charter, DataRefused for data that the
    model cannot read.
    """
    silo = home.silo
    charter = home.charter()
    found = Catalogue(home, silo).resolve(data)
    rows = found.data
    report = VerificationReport(source.name)
    with _opened(source, report) as (place, run):
        report.target = f"run {run}"
        ledger = read_ledger(place, home.pinned.consortium_path, report)
        record = verify_in(ledger, run, report, release=release.manifest()).record
        federation = record.started.record.federation
        if federation != charter.federation:
            raise EvidenceError(f"run {run}", expected=f"federation {charter.federation!r}", found=federation)
        spec, published = spec_of(record), published_by(place, record)
    check_rows(spec, rows, found.schema, name=data)
    predictor = with_base_model(method(spec.method)(spec.params, silo), home.models_folder)
    predictions = predictor.predict(published, rows.x_test, "cold")
    task = tasks.of(spec.params) if "task" in spec.params else Classes(rows.classes)
    of_classes = isinstance(task, Classes)
    counted = {} if of_classes else score("global", predictions, rows.y_test, task) | targets(rows.y_test, task)
    return ColdTrial(
        silo=silo,
        model=spec.name,
        run=run,
        method=spec.method,
        data=data,
        rows=len(rows.y_test),
        right=int((predictions.argmax(axis=1) == rows.y_test).sum()) if of_classes else None,
        majority=commonest_right(task, rows),
        metrics=metrics(counted | {"test.rows": len(rows.y_test)}),
        report=report,
    )


@contextmanager
def _opened(source: Path, report: VerificationReport) -> Iterator[tuple[AggregatorHome, str]]:
    """(a folder laid out as an aggregator's home, the run)."""
    if source.is_file():
        with unpacked(source, report) as found:
            yield found
    elif source.is_dir() and source.resolve().parent.name == "jobs":
        yield AggregatorHome(source.resolve().parent.parent), source.resolve().name
    else:
        want = "a bundle, or a run's folder: jobs/<run> in a copy of the aggregator's home"
        raise SpecError("--model", got=str(source), want=want)
