"""Does MLflow still say what the ledger says? Reads it back and names every difference.

MLflow's database is anybody's who has its password: a metric, a tag or an alias can be changed there and nobody would
see it. The ledger is signed, so the pages are computed from it again (``mlflow_pages``, ``model_card``,
``mlflow_model``) and compared: runs and their state, parameters, tags, every point of every metric, inputs, artifacts
byte by byte, versions with source, description and tags, aliases. People's own tags (any that do not begin with
``consilium.``) and names they gave to runs are theirs and not looked at.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.entities import LoggedModel, LoggedModelStatus, Run, ViewType
from mlflow.entities.model_registry import ModelVersion as Registered
from sqlalchemy.engine import make_url

from aggregator import mlflow_pages as pages
from aggregator.approved import approvals, as_json
from aggregator.history import History
from aggregator.ledger import Entry, Kind
from aggregator.lineage import default_uri, load_cursor
from aggregator.mlflow_client import DOWN, MlflowClient, MlflowException, connect
from aggregator.mlflow_model import model_files
from aggregator.mlflow_pages import Page
from aggregator.mlflow_runs import APPROVALS, JOB, LEDGER, lines_of
from aggregator.model_card import CARD_FILE, Card, card
from aggregator.models import ModelVersion, read_history, versions
from aggregator.registry import NOTE, model_points, model_tags, run_tags
from aggregator.silo_source import SiloSource
from crypto.errors import EvidenceError

_ENDS = (Kind.RUN_FINISHED, Kind.RUN_FAILED)
_NOTHING = "nothing"
#: MLflow writes this file beside what it downloads.
_NOT_OURS = "registered_model_meta"


@dataclass(frozen=True, slots=True)
class Difference:
    """``where`` in MLflow; what the ledger makes of it; what is there."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def compare(home: Path, uri: str | None = None, run: str | None = None) -> list[Difference]:
    """Every difference between the ledger and MLflow at ``uri`` (default: the home's SQLite), or those of one run.

    Reads only. Raises EvidenceError where the ledger, a checkpoint or the predictor does not check, for a run that the
    ledger does not know, and when MLflow does not answer.
    """
    address = uri or default_uri(home)
    if address.startswith("sqlite:") and not Path(make_url(address).database or "").is_file():
        raise EvidenceError("MLflow", expected="a database", found=f"no file {make_url(address).database}")
    history = read_history(home)
    if run is not None and run not in history.runs:
        raise EvidenceError("ledger", expected=f"a run {run}", found="none", remedy=f"There are: {history.runs}.")
    try:
        return list(_Comparison(history, connect(address), address).differences(run))
    except DOWN as down:
        raise EvidenceError("MLflow", expected="an answer", found=str(down).partition("\n")[0]) from down


class _Comparison:
    def __init__(self, history: History, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri
        cursor = load_cursor(history.home, uri)
        copied = tuple(entry for entry in history.entries if entry.seq <= cursor.seq)
        #: What MLflow may be held to: the part the follower has copied; all of it where that is not known.
        self._history = replace(history, entries=copied) if copied else history
        self._behind = len(history.entries) - len(self._history.entries)
        self._versions = versions(self._history)
        self._experiments = {found.name: found for found in client.search_experiments()}

    def differences(self, only: str | None) -> Iterator[Difference]:
        if self._behind:
            whole = len(self._history.entries) + self._behind
            yield Difference("lineage", f"{whole} ledger lines in MLflow", f"{whole - self._behind}")
        for run in self._history.runs:
            if only in (None, run):
                yield from self._run(run)
        if only is None:
            yield from self._charters()
            yield from self._strangers()
        names = {version.name for version in self._versions if only in (None, version.run)}
        for name in sorted(names):
            yield from self._aliases(name)

    # --- runs -----------------------------------------------------------------------------------------------------

    def _run(self, run: str) -> Iterator[Difference]:
        entries = [entry for entry in self._history.entries if entry.record.get("run") == run]
        parent = yield from self._one(f"run {run}", pages.job_mark(run))
        if parent is None:
            return
        page, version = pages.job_page(entries), self._version(run)
        made = card(self._history, self._versions, version) if version else None
        tags = dict(page.tags) | (run_tags(self._history, version, made) if version and made else {})
        contributed = _contributed(self._history, run) if self._can_predict(entries) and version else ()
        page = replace(page, tags=tags, figures=page.figures + contributed)
        yield from self._page(f"run {run}", page, parent)
        steps = [entry for entry in entries if entry.kind in (Kind.STEP_CLOSED, Kind.STEP_VOID)]
        for entry in steps:
            where = f"run {run}, step {entry.record['name']}"
            child = yield from self._one(where, pages.step_mark(entry))
            if child is not None:
                yield from self._page(where, pages.step_page(entry, parent.info.run_id), child)
        yield from self._extra_children(run, parent, len(steps))
        yield from self._artifacts(run, entries, parent, made)
        if version is not None and made is not None and self._can_predict(entries):
            yield from self._model(version, parent, made)

    def _one(self, where: str, mark: Mapping[str, str]) -> Iterator[Difference] | Any:
        """The one run with these tags, or None after naming what is amiss."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in mark.items())
        every = [found.experiment_id for found in self._experiments.values()]
        found = list(self._client.search_runs(every, query, ViewType.ALL)) if every else []
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        if len(active) != 1:
            deleted = " that is not deleted" if len(found) > len(active) else ""
            yield Difference(where, f"one run in MLflow{deleted}", f"{len(active)}")
        return active[0] if len(active) == 1 else None

    def _page(self, where: str, page: Page, run: Run) -> Iterator[Difference]:
        yield from _same(f"{where}, status", page.status, run.info.status)
        yield from _same(f"{where}, start", page.started, run.info.start_time)
        yield from _same(f"{where}, end", page.ended, run.info.end_time)
        yield from _tables(f"{where}, parameter", page.params, run.data.params)
        yield from _tables(f"{where}, tag", page.tags, _ours(run.data.tags, page.tags))
        points: dict[str, set[tuple[int, float, int]]] = {}
        for one in page.figures:
            points.setdefault(one.key, set()).add((one.step, one.value, one.at))
        for key in sorted(points.keys() | run.data.metrics.keys()):
            wanted = points.get(key, set())
            history = {(p.step, p.value, p.timestamp) for p in self._client.get_metric_history(run.info.run_id, key)}
            yield from _sets(f"{where}, metric {key}", wanted, history)
            if history == wanted:
                last = max(wanted, key=lambda point: (point[0], point[2], point[1]))[1] if wanted else _NOTHING
                yield from _same(f"{where}, metric {key}, last value", last, run.data.metrics.get(key, _NOTHING))
        yield from _sets(f"{where}, data", {_input(*pair) for pair in page.data}, _inputs(run))

    def _extra_children(self, run: str, parent: Run, steps: int) -> Iterator[Difference]:
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        found = self._client.search_runs([parent.info.experiment_id], query, max_results=steps + 100)
        if len(found) > steps:
            yield Difference(f"run {run}, steps", f"{steps}", f"{len(found)}")

    def _artifacts(self, run: str, entries: Sequence[Entry], parent: Run, made: Card | None) -> Iterator[Difference]:
        wanted = {JOB: entries[0].record["job"].encode()}
        if ends := [entry for entry in entries if entry.kind in _ENDS]:
            wanted[LEDGER] = lines_of(self._history.home, ends[-1])
        if made is not None:
            wanted |= {APPROVALS: as_json(approvals(self._history, run)).encode(), CARD_FILE: made.text.encode()}
        for path, content in wanted.items():
            with tempfile.TemporaryDirectory() as place:
                try:
                    found = Path(self._client.download_artifacts(parent.info.run_id, path, place)).read_bytes()
                except (MlflowException, OSError):
                    yield Difference(f"run {run}, artifact {path}", _digest(content), "no file")
                    continue
            yield from _same(f"run {run}, artifact {path}", _digest(content), _digest(found))

    # --- models ---------------------------------------------------------------------------------------------------

    def _start(self, run: str) -> Mapping[str, Any]:
        return next(self._history.of(Kind.RUN_STARTED, run)).record

    def _version(self, run: str) -> ModelVersion | None:
        return next((version for version in self._versions if version.run == run), None)

    def _can_predict(self, entries: Sequence[Entry]) -> bool:
        return "predictor" in entries[0].record

    def _model(self, version: ModelVersion, parent: Run, made: Card) -> Iterator[Difference]:
        where = f"logged model of run {version.run}"
        query = f"tags.`consilium.run` = '{version.run}'"
        found = list(self._client.search_logged_models([parent.info.experiment_id], query))
        if len(found) != 1:
            yield Difference(where, "one in MLflow", f"{len(found)}")
            return
        model = found[0]
        tags = pages.version_tags(self._history, self._versions, version)
        yield from _same(f"{where}, name", version.name, model.name)
        yield from _same(f"{where}, status", str(LoggedModelStatus.READY), str(model.status))
        yield from _same(f"{where}, source run", parent.info.run_id, model.source_run_id)
        shown = model_tags(tags, version, made)
        yield from _tables(f"{where}, tag", shown, _ours(model.tags, shown))
        yield from _tables(f"{where}, parameter", pages.job_params(self._start(version.run)), model.params or {})
        closed = list(self._history.of(Kind.STEP_CLOSED, version.run))
        wanted = {_point(metric) for metric in model_points(closed, model.model_id)}
        yield from _sets(f"{where}, metrics", wanted, {_point(metric) for metric in model.metrics or ()})
        yield from self._files(where, version, model, parent.info.run_id, made)
        yield from self._registered(version, model, parent, tags, made)

    def _files(
        self, where: str, version: ModelVersion, model: LoggedModel, run_id: str, made: Card
    ) -> Iterator[Difference]:
        files: dict[str, bytes | Path] = {CARD_FILE: made.text.encode()}
        wanted = {
            name: _digest(content)
            for name, content in (files | model_files(self._history, version, model.model_id, run_id)).items()
        }
        with tempfile.TemporaryDirectory() as place:
            try:
                root = Path(
                    mlflow.artifacts.download_artifacts(
                        f"models:/{model.model_id}", dst_path=place, tracking_uri=self._uri
                    )
                )
            except (MlflowException, OSError) as missing:
                yield Difference(f"{where}, files", f"{len(wanted)} files", str(missing).partition("\n")[0])
                return
            there = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
            there.pop(_NOT_OURS, None)
            yield from _tables(f"{where}, file", wanted, {name: _digest(path) for name, path in there.items()})

    def _registered(
        self, version: ModelVersion, model: LoggedModel, parent: Run, tags: Mapping[str, str], made: Card
    ) -> Iterator[Difference]:
        name, where = version.name, f"version {version.label}"
        query = f"name = '{name}' and run_id = '{parent.info.run_id}'"
        found: list[Registered] = list(self._client.search_model_versions(query))
        if len(found) != 1:
            yield Difference(where, "one version of the run in MLflow", f"{len(found)}")
            return
        one = found[0]
        yield from _same(where, version.version, str(one.version))
        yield from _same(f"{where}, source", f"models:/{model.model_id}", one.source)
        location = self._client.get_model_version_download_uri(name, one.version)
        yield from _same(f"{where}, files loaded from", model.artifact_location, location)
        yield from _same(f"{where}, description", made.brief, one.description)
        tags = dict(tags) | {"consilium.model_id": model.model_id}
        yield from _tables(f"{where}, tag", tags, _ours(one.tags, tags))

    def _aliases(self, name: str) -> Iterator[Difference]:
        """Every alias points where the ledger says, and there is none besides; no version that no run made."""
        wanted = {
            alias: version.version
            for version in self._versions
            if version.name == name and version.version
            for alias in version.aliases
        }
        try:
            found = self._client.get_registered_model(name).aliases
        except MlflowException:
            found = {}
        there = {alias: str(number) for alias, number in found.items()}
        yield from _tables(f"model {name}, alias", wanted, there)
        ours = {version.version for version in self._versions if version.name == name}
        for one in self._client.search_model_versions(f"name = '{name}'"):
            if str(one.version) not in ours:
                yield Difference(f"version {name}/{one.version}", "no such version", f"one of run {one.run_id}")

    # --- the federation -------------------------------------------------------------------------------------------

    def _charters(self) -> Iterator[Difference]:
        tags: dict[str, str] = {}
        for entry in self._history.of(Kind.CHARTER):
            tags |= pages.charter_tags(entry)
        name = self._history.charter.federation
        if tags and name not in self._experiments:
            yield Difference(f"experiment {name}", "in MLflow", _NOTHING)
        elif tags:
            yield from _tables(f"experiment {name}, tag", tags, _ours(self._experiments[name].tags, tags))

    def _strangers(self) -> Iterator[Difference]:
        """Jobs that claim to be ours and are not on the ledger."""
        every = [found.experiment_id for found in self._experiments.values()]
        for found in self._client.search_runs(every, "tags.`consilium.record` = 'job'") if every else ():
            if (run := found.data.tags.get("consilium.run")) not in self._history.runs:
                yield Difference(f"run {run}", "on the ledger", _NOTHING)


# --- small change ------------------------------------------------------------------------------------------------


def _contributed(history: History, run: str) -> tuple[pages.Figure, ...]:
    """The points that a logged model adds to the page of its run."""
    return tuple(pages.shares(list(history.of(Kind.STEP_CLOSED, run))).values())


def _ours(found: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The tags that are our business."""
    return {key: value for key, value in found.items() if key.startswith("consilium.") or key in wanted or key == NOTE}


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


def _point(metric: Any) -> tuple[Any, ...]:
    return (metric.key, metric.value, metric.timestamp, metric.step, metric.dataset_name, metric.dataset_digest)


def _digest(content: bytes | Path) -> str:
    return f"SHA-256 {sha256(content.read_bytes() if isinstance(content, Path) else content).hexdigest()}"


def _same(where: str, expected: object, found: object) -> Iterator[Difference]:
    if expected != found:
        yield Difference(where, _shown(expected), _shown(found))


def _tables(where: str, expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Difference]:
    for key in sorted(expected.keys() | found.keys()):
        yield from _same(f"{where} {key}", expected.get(key, _NOTHING), found.get(key, _NOTHING))


def _sets(where: str, expected: set[Any], found: set[Any]) -> Iterator[Difference]:
    if expected != found:
        yield Difference(where, _listed(expected - found), _listed(found - expected))


def _listed(values: set[Any]) -> str:
    shown = "; ".join(", ".join(map(str, value)) for value in sorted(values, key=str)[:3])
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return f"({shown}{more})" if values else _NOTHING


def _shown(value: object) -> str:
    """Long texts from where they begin; two long texts that begin alike are told apart by their digests."""
    text = str(value)
    return text if len(text) <= 160 else f"{text[:120]}… (SHA-256 {sha256(text.encode()).hexdigest()[:16]})"
