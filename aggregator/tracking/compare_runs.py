"""Compares MLflow with the ledger and names every difference.

Anyone with the password of MLflow's database can change a metric, a tag or an alias there, and no signature would show
it. The ledger is signed, so the pages are computed from it again (``run_page``, ``version_page``, ``pyfunc``) and
compared: runs and their state, parameters, tags, every point of every metric, inputs, artifacts byte by byte, versions
with source, description and tags, aliases. Tags that do not begin with ``consilium.`` and names that people gave to
runs are not compared.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.entities import Run, ViewType
from sqlalchemy.engine import make_url

from aggregator.home import AggregatorHome
from aggregator.ledger.records import CharterRecorded, RunFailed, RunFinished
from aggregator.run_record import CheckedLedger, RunRecord
from aggregator.tracking import run_page as pages
from aggregator.tracking.artifact_addresses import check_here, is_own
from aggregator.tracking.client import DOWN, MlflowClient, MlflowException, connect
from aggregator.tracking.compare_models import ModelComparison, ours
from aggregator.tracking.dataset import SiloSource
from aggregator.tracking.diff import NOTHING, Difference, named, same, sets, tables
from aggregator.tracking.follower import LOCK_FILE, default_uri, load_cursor
from aggregator.tracking.mlflow_runs import APPROVALS, JOB, LEDGER, lines_of
from aggregator.tracking.model_card import CARD_FILE
from aggregator.tracking.run_page import Page
from aggregator.tracking.version_page import VersionPage
from aggregator.verify.models import Models, checked_ledger
from crypto import durable
from crypto.errors import EvidenceError


def compare(home: Path, uri: str | None = None, run: str | None = None) -> list[Difference]:
    """Every difference between the ledger and MLflow at ``uri`` (default: the home's SQLite), or those of one run.

    Reads only; a follower at work is waited for. Raises EvidenceError where the ledger, a checkpoint or the predictor
    does not check, for a run that the ledger does not know, and when MLflow does not answer; SpecError for a home that
    was moved since MLflow last followed it.
    """
    address = uri or default_uri(AggregatorHome(home))
    if address.startswith("sqlite:") and not Path(make_url(address).database or "").is_file():
        raise EvidenceError("MLflow", expected="a database", found=f"no file {make_url(address).database}")
    with _still(home):
        ledger = checked_ledger(AggregatorHome(home))
        if run is not None and run not in ledger.runs:
            have = ", ".join(ledger.runs)
            raise EvidenceError("ledger", expected=f"a run {run}", found="none", remedy=f"There are: {have}.")
        try:
            if is_own(AggregatorHome(home), address):
                check_here(AggregatorHome(home))
            return list(_Comparison(ledger, connect(address), address).differences(run))
        except DOWN as down:
            raise EvidenceError("MLflow", expected="an answer", found=str(down).partition("\n")[0]) from down


@contextmanager
def _still(home: Path) -> Iterator[None]:
    """No follower writes meanwhile: a step half copied is no difference."""
    lock = home / LOCK_FILE
    if not lock.exists():  # this home was never followed, or it is a copy
        yield
        return
    with durable.locked(lock, shared=True, create=False):
        yield


class _Comparison:
    def __init__(self, ledger: CheckedLedger, client: MlflowClient, uri: str) -> None:
        self._client = client
        cursor = load_cursor(ledger.home, uri)
        copied = tuple(entry for entry in ledger.entries if entry.seq <= cursor.seq)
        #: What MLflow may be held to: the part the follower has copied; all of it where that is not known.
        self._ledger = replace(ledger, entries=copied) if copied else ledger
        self._behind = len(ledger.entries) - len(self._ledger.entries)
        self._versions = Models.of(self._ledger)
        self._models = ModelComparison(self._versions, client, uri)
        self._experiments = {found.name: found for found in client.search_experiments()}

    def differences(self, only: str | None) -> Iterator[Difference]:
        if self._behind:
            whole = len(self._ledger.entries) + self._behind
            yield Difference("lineage", f"{whole} ledger lines in MLflow", f"{whole - self._behind}")
        for name, run in self._ledger.runs.items():
            if only in (None, name):
                yield from self._run(run)
        if only is None:
            yield from self._charters()
            yield from self._strangers()
        names = {version.name for version in self._versions.versions if only in (None, version.run)}
        for name in sorted(names):
            yield from self._models.names(name)

    # --- runs -----------------------------------------------------------------------------------------------------

    def _run(self, run: RunRecord) -> Iterator[Difference]:
        name = f"run {run.run}"
        parent = yield from self._one(name, pages.job_mark(run.run))
        if parent is None:
            return
        shown = pages.job_page(run)
        version = self._versions.made_by(run.run)
        page = VersionPage.of(self._versions, version) if version is not None else None
        if page is not None:
            contributed = tuple(page.shares.values()) if page.can_predict else ()
            shown = replace(shown, tags={**shown.tags, **page.run_tags}, figures=shown.figures + contributed)
        yield from self._page(name, shown, parent)
        for entry in run.outcomes:
            where = f"{name}, step {entry.record.name}"
            child = yield from self._one(where, pages.step_mark(entry.record))
            if child is not None:
                yield from self._page(where, pages.step_page(entry, parent.info.run_id, run.plan), child)
        yield from self._extra_children(run.run, parent, len(run.outcomes))
        yield from self._artifacts(run, parent, page)
        if page is not None and page.can_predict:
            yield from self._models.of(page, parent)

    def _one(self, where: str, mark: Mapping[str, str]) -> Iterator[Difference] | Any:
        """The one run with these tags, or None after naming the difference."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in mark.items())
        every = [found.experiment_id for found in self._experiments.values()]
        found = list(self._client.search_runs(every, query, ViewType.ALL)) if every else []
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        if len(active) != 1:
            deleted = " that is not deleted" if len(found) > len(active) else ""
            yield Difference(where, f"one run in MLflow{deleted}", f"{len(active)}")
        return active[0] if len(active) == 1 else None

    def _page(self, where: str, page: Page, run: Run) -> Iterator[Difference]:
        yield from same(f"{where}, status", page.status, run.info.status)
        yield from same(f"{where}, start", page.started, run.info.start_time)
        yield from same(f"{where}, end", page.ended, run.info.end_time)
        yield from tables(f"{where}, parameter", page.params, run.data.params)
        yield from tables(f"{where}, tag", page.tags, ours(run.data.tags, page.tags))
        points: dict[str, set[tuple[int, float, int]]] = {}
        for one in page.figures:
            points.setdefault(one.key, set()).add((one.step, one.value, one.at))
        for key in sorted(points.keys() | run.data.metrics.keys()):
            wanted = points.get(key, set())
            history = {(p.step, p.value, p.timestamp) for p in self._client.get_metric_history(run.info.run_id, key)}
            yield from sets(f"{where}, metric {key}", wanted, history)
            if history == wanted:
                last = max(wanted, key=lambda point: (point[0], point[2], point[1]))[1] if wanted else NOTHING
                yield from same(f"{where}, metric {key}, last value", last, run.data.metrics.get(key, NOTHING))
        yield from sets(f"{where}, data", {_input(*pair) for pair in page.data}, _inputs(run))

    def _extra_children(self, run: str, parent: Run, steps: int) -> Iterator[Difference]:
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        found = self._client.search_runs([parent.info.experiment_id], query, max_results=steps + 100)
        if len(found) > steps:
            yield Difference(f"run {run}, steps", f"{steps}", f"{len(found)}")

    def _artifacts(self, run: RunRecord, parent: Run, page: VersionPage | None) -> Iterator[Difference]:
        wanted = {JOB: run.started.record.job.encode()}
        if ends := [entry for entry in run.entries if isinstance(entry.record, RunFinished | RunFailed)]:
            wanted[LEDGER] = lines_of(run, ends[-1])
        if page is not None:
            wanted |= {APPROVALS: page.approvals.encode(), CARD_FILE: page.card.text.encode()}
        for path, content in wanted.items():
            with tempfile.TemporaryDirectory() as place:
                try:
                    found = Path(self._client.download_artifacts(parent.info.run_id, path, place)).read_bytes()
                except (MlflowException, OSError):
                    yield Difference(f"run {run.run}, artifact {path}", named(content), "no file")
                    continue
            yield from same(f"run {run.run}, artifact {path}", named(content), named(found))

    # --- the federation -------------------------------------------------------------------------------------------

    def _charters(self) -> Iterator[Difference]:
        tags: dict[str, str] = {}
        for entry in self._ledger.of(CharterRecorded):
            tags |= pages.charter_tags(entry.record)
        name = self._ledger.charter.federation
        if tags and name not in self._experiments:
            yield Difference(f"experiment {name}", "in MLflow", NOTHING)
        elif tags:
            yield from tables(f"experiment {name}, tag", tags, ours(self._experiments[name].tags, tags))

    def _strangers(self) -> Iterator[Difference]:
        """Jobs that claim to be ours and are not on the ledger."""
        every = [found.experiment_id for found in self._experiments.values()]
        for found in self._client.search_runs(every, "tags.`consilium.record` = 'job'") if every else ():
            if (run := found.data.tags.get("consilium.run")) not in self._ledger.runs:
                yield Difference(f"run {run}", "on the ledger", NOTHING)


def _input(silo: str, digest: str) -> tuple[str, str, str, str]:
    source = SiloSource(silo, digest)
    return (silo, digest[: pages.DIGEST_CHARS], f"{source._get_source_type()} {json.dumps(source.to_dict())}", digest)


def _inputs(run: Run) -> set[tuple[str, str, str, str]]:
    """(silo, digest column, source, commitment in the tag) of each input."""
    found = set()
    for given in run.inputs.dataset_inputs if run.inputs else ():
        tags = {tag.key: tag.value for tag in given.tags}
        data = given.dataset
        found.add((data.name, data.digest, f"{data.source_type} {data.source}", tags.get("commitment", "")))
    return found
