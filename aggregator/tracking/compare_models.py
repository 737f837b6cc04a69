"""The second half of ``check``: logged models, their files byte by byte, registered versions and aliases."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion as Registered

from aggregator.tracking.client import MlflowClient, MlflowException
from aggregator.tracking.diff import Difference, named, same, sets, tables
from aggregator.tracking.model_card import CARD_FILE
from aggregator.tracking.pyfunc import model_files
from aggregator.tracking.registry import model_points
from aggregator.tracking.version_page import VersionPage
from aggregator.verify.models import Models

#: MLflow writes this file beside what it downloads.
_NOT_OURS = "registered_model_meta"


class ModelComparison:
    """Compares the models of a ledger with those in MLflow."""

    def __init__(self, models: Models, client: MlflowClient, uri: str) -> None:
        self._models = models
        self._client = client
        self._uri = uri

    def of(self, page: VersionPage, parent: Run) -> Iterator[Difference]:
        """The logged model and the registered version of a run that can predict. ``parent``: the job's MLflow run."""
        version, where = page.version, f"logged model of run {page.version.run}"
        query = f"tags.`consilium.run` = '{version.run}'"
        found = list(self._client.search_logged_models([parent.info.experiment_id], query))
        if len(found) != 1:
            yield Difference(where, "one in MLflow", f"{len(found)}")
            return
        model = found[0]
        yield from same(f"{where}, name", version.name, model.name)
        yield from same(f"{where}, status", str(LoggedModelStatus.READY), str(model.status))
        yield from same(f"{where}, source run", parent.info.run_id, model.source_run_id)
        yield from tables(f"{where}, tag", page.model_tags, ours(model.tags, page.model_tags))
        yield from tables(f"{where}, parameter", page.params, model.params or {})
        wanted = {_point(metric) for metric in model_points(page, model.model_id)}
        yield from sets(f"{where}, metrics", wanted, {_point(metric) for metric in model.metrics or ()})
        yield from self._files(where, page, model, parent.info.run_id)
        yield from self._registered(page, model, parent)

    def _files(self, where: str, page: VersionPage, model: LoggedModel, run_id: str) -> Iterator[Difference]:
        files = model_files(self._models.ledger, page.version, model.model_id, run_id)
        wanted = {name: named(content) for name, content in {**files, CARD_FILE: page.card.text.encode()}.items()}
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
            yield from tables(f"{where}, file", wanted, {name: named(path) for name, path in there.items()})

    def _registered(self, page: VersionPage, model: LoggedModel, parent: Run) -> Iterator[Difference]:
        version, where = page.version, f"version {page.version.label}"
        query = f"name = '{version.name}' and run_id = '{parent.info.run_id}'"
        found: list[Registered] = list(self._client.search_model_versions(query))
        if len(found) != 1:
            yield Difference(where, "one version of the run in MLflow", f"{len(found)}")
            return
        one = found[0]
        yield from same(where, version.version, str(one.version))
        yield from same(f"{where}, source", f"models:/{model.model_id}", one.source)
        location = self._client.get_model_version_download_uri(version.name, one.version)
        yield from same(f"{where}, files loaded from", model.artifact_location, location)
        yield from same(f"{where}, description", page.card.brief, one.description)
        tags = {**page.tags, "consilium.model_id": model.model_id}
        yield from tables(f"{where}, tag", tags, ours(one.tags, tags))

    def names(self, name: str) -> Iterator[Difference]:
        """Aliases are those of the ledger, no more and no fewer; every version was made by a run."""
        wanted = {
            alias: version.version
            for version in self._models.versions
            if version.name == name and version.version
            for alias in version.aliases
        }
        try:
            found = self._client.get_registered_model(name).aliases
        except MlflowException:
            found = {}
        there = {alias: str(number) for alias, number in found.items()}
        yield from tables(f"model {name}, alias", wanted, there)
        ours = {version.version for version in self._models.versions if version.name == name}
        for one in self._client.search_model_versions(f"name = '{name}'"):
            if str(one.version) not in ours:
                yield Difference(f"version {name}/{one.version}", "no such version", f"one of run {one.run_id}")


def ours(found: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The tags that are our business."""
    return {key: value for key, value in found.items() if key.startswith("consilium.") or key in wanted}


def _point(metric: Any) -> tuple[Any, ...]:
    return (metric.key, metric.value, metric.timestamp, metric.step, metric.dataset_name, metric.dataset_digest)
