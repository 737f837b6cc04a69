"""Models in MLflow: one logged model and one registered version per finished run that can predict; aliases, cards.

``publish`` makes them, ``renew`` brings a version up to what the ledger says now: who moved an alias, which silos have
withdrawn. Both may be repeated at any time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.entities.model_registry import ModelVersion as Registered

from aggregator.ledger.format import Entry, canonical
from aggregator.ledger.records import ModelPublished, StepClosed
from aggregator.rounds.storage import run_folder
from aggregator.run_record import CheckedLedger
from aggregator.tracking import run_page as pages
from aggregator.tracking import version_page
from aggregator.tracking.client import MlflowClient, MlflowException, log, shown_address
from aggregator.tracking.model_card import CARD_FILE, Card, card
from aggregator.tracking.pyfunc import model_files, write_model
from aggregator.tracking.runs import APPROVALS, Runs, points
from aggregator.verify.approvals import approvals, as_json
from aggregator.verify.models import (
    CANDIDATE,
    MLFLOW_FILE,
    Models,
    ModelVersion,
    registered_name,
)
from crypto import durable
from crypto.errors import EvidenceError

#: MLflow shows this tag of a logged model as its versions.
VERSIONS = "mlflow.modelVersions"
_OURS = "consilium."


class Registry:
    """Writes models. ``uri``: MLflow's address, which a run's folder names without its password."""

    def __init__(self, client: MlflowClient, home: Path, uri: str, runs: Runs) -> None:
        self._client = client
        self._home = home
        self._uri = uri
        self._runs = runs

    def publish(self, ledger: CheckedLedger, run: str) -> None:
        """The end of a run: its evidence and card, and a version if the run can predict. Once the version is complete,
        ``mlflow.json`` in the run's folder says so."""
        models = Models.of(ledger)
        version = models.made_by(run)
        assert version is not None  # its end is on the ledger
        record = ledger.run(run)
        parent = self._runs.parent(run, version.label)
        self._client.log_text(parent.info.run_id, as_json(approvals(record, ledger.charters)), APPROVALS)
        if record.started.record.predictor is None:
            self.renew(models, version)
            return
        tags = version_page.version_tags(models, version)
        number = self._register(version, self._model(ledger, version, parent, tags), parent, tags)
        if not version.version:  # it is new, so it is the newest
            version = replace(version, version=number, aliases={**version.aliases, CANDIDATE: ("", version.finished)})
        if version.version != number:
            raise EvidenceError(
                f"version of run {run} in MLflow",
                expected=f"{version.label}, as {'the ledger' if version.numbered else MLFLOW_FILE} says",
                found=f"{version.name}/{number}",
                remedy="This MLflow has versions that no run made: use one of the federation's own.",
            )
        self.renew(models, version)
        self._announce(version, parent)

    def moved(self, ledger: CheckedLedger, record: ModelPublished) -> None:
        """An alias was moved: renew the versions that have or had it."""
        models, name = Models.of(ledger), registered_name(record.model_name)
        for version in models.versions:
            if version.name == name and record.alias in version_page.moves(ledger, version):
                self.renew(models, version)

    def withdrawn(self, ledger: CheckedLedger, silo: str) -> None:
        """A silo withdrew: renew every version that has its data, itself or through its parents."""
        models = Models.of(ledger)
        for version in models.versions:
            if silo in version.withdrawn_silos:
                self.renew(models, version)

    def renew(self, models: Models, version: ModelVersion) -> None:
        """Tags, description, card and aliases of one version, and the marks on its run, as the ledger has them now."""
        found = card(models, version)
        write_card(self._home, version.run, found)
        parent = self._runs.parent(version.run, version.label).info.run_id
        self._client.log_text(parent, found.text, CARD_FILE)
        log(self._client, parent, tags=run_tags(models.ledger, version, found))
        registered = self._registered(version.name, parent)
        if registered is None:
            return
        tags = version_page.version_tags(models, version)
        self._tag_version(registered, tags | {"consilium.model_id": registered.tags["consilium.model_id"]})
        self._tag_model(registered.tags["consilium.model_id"], model_tags(tags, version, found), found)
        if registered.description != found.brief:
            self._client.update_model_version(version.name, registered.version, found.brief)
        for alias in sorted(version.aliases.keys() - set(registered.aliases)):
            self._client.set_registered_model_alias(version.name, alias, registered.version)

    # --- making them ----------------------------------------------------------------------------------------------

    def _model(self, ledger: CheckedLedger, version: ModelVersion, parent: Run, tags: Mapping[str, str]) -> str:
        """The logged model of a run, made once; one that a crash left unfinished is uploaded again."""
        run_id, experiment = parent.info.run_id, parent.info.experiment_id
        query = f"tags.`consilium.run` = '{version.run}'"
        found = self._client.search_logged_models([experiment], query, max_results=1)
        run = ledger.run(version.run)
        params = pages.job_params(run.started.record)
        model = found[0] if found else self._client.create_logged_model(experiment, version.name, run_id, tags, params)
        if model.status != LoggedModelStatus.READY:
            outputs = self._client.get_run(run_id).outputs  # log_outputs refuses to say the same twice
            if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
                self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            with tempfile.TemporaryDirectory(prefix="consilium-") as place:
                write_model(Path(place), model_files(ledger, version, model.model_id, run_id))
                self._client.log_model_artifacts(model.model_id, place)
            log(self._client, run_id, metrics=model_points(run.closed, model.model_id))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    def _registered(self, name: str, run_id: str) -> Registered | None:
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
        # Searching leaves out aliases.
        return self._client.get_model_version(name, found[0].version) if found else None

    def _register(self, version: ModelVersion, model_id: str, parent: Run, tags: Mapping[str, str]) -> str:
        """The number of a run's version, made once."""
        run_id = parent.info.run_id
        found = self._registered(version.name, run_id)
        if found is None:
            try:
                self._client.create_registered_model(version.name)
            except MlflowException as there:
                if there.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            tags = {**tags, "consilium.model_id": model_id}
            source = f"models:/{model_id}"
            found = self._client.create_model_version(version.name, source, run_id, tags, model_id=model_id)
        return str(found.version)

    def _announce(self, version: ModelVersion, parent: Run) -> None:
        """Leave in the run's folder what MLflow calls its model, for whoever waits for it."""
        facts = {"tracking_uri": shown_address(self._uri), "model": version.name, "version": version.version}
        place = run_folder(self._home, version.run) / MLFLOW_FILE
        _replace(place, canonical(facts | {"run_id": parent.info.run_id}) + b"\n")

    # --- renewing them --------------------------------------------------------------------------------------------

    def _tag_version(self, registered: Registered, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if registered.tags.get(key) != value:
                self._client.set_model_version_tag(registered.name, registered.version, key, value)
        for key in registered.tags.keys() - tags.keys():
            if key.startswith(_OURS):
                self._client.delete_model_version_tag(registered.name, registered.version, key)

    def _tag_model(self, model_id: str, tags: dict[str, str], found: Card) -> None:
        old = self._client.get_logged_model(model_id).tags
        self._client.set_logged_model_tags(model_id, tags)
        for key in old.keys() - tags.keys():
            if key.startswith(_OURS):
                self._client.delete_logged_model_tag(model_id, key)
        with tempfile.TemporaryDirectory(prefix="consilium-") as place:
            (Path(place) / CARD_FILE).write_text(found.text)
            self._client.log_model_artifact(model_id, str(Path(place) / CARD_FILE))


def run_tags(ledger: CheckedLedger, version: ModelVersion, found: Card) -> dict[str, str]:
    """What a finished run's page says of its model."""
    facts = version_page.withdrawal_tags(ledger, version) | {pages.NOTE: found.brief}
    return pages.texts(facts | ({"consilium.model_version": version.label} if version.version else {}))


def model_tags(tags: dict[str, str], version: ModelVersion, found: Card) -> dict[str, str]:
    """The tags of a logged model: the version's, and what MLflow's page of it shows."""
    listed = canonical([{"name": version.name, "version": version.version}]).decode()
    return tags | {pages.NOTE: found.brief} | ({VERSIONS: listed} if version.version else {})


def model_points(closed: Sequence[Entry[StepClosed]], model_id: str) -> list[Metric]:
    """Metrics of a logged model: the ratios opened last, and for each data set in how many steps it is summed."""
    shares = [
        Metric(one.key, one.value, one.at, one.step, model_id, silo, digest[: pages.DIGEST_CHARS])
        for (silo, digest), one in sorted(version_page.shares(closed).items())
    ]
    return points(version_page.model_figures(closed), model_id) + shares


def write_card(home: Path, run: str, found: Card) -> None:
    """``jobs/<run>/model-card.md``."""
    _replace(run_folder(home, run) / CARD_FILE, found.text.encode())


def _replace(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        durable.replace(path, data)
