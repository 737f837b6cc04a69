"""Models in MLflow: one logged model and one registered version per finished run that can predict; aliases, cards.

What they show is computed beforehand (``version_page``); here it is written. Every write may be repeated at any time.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.entities.model_registry import ModelVersion as Registered

from aggregator.home import MLFLOW_FILE, AggregatorHome
from aggregator.ledger.format import canonical
from aggregator.ledger.records import ModelPublished
from aggregator.run_record import CheckedLedger
from aggregator.tracking.client import MlflowClient, MlflowException, log, shown_address
from aggregator.tracking.mlflow_runs import APPROVALS, Runs, points
from aggregator.tracking.model_card import CARD_FILE
from aggregator.tracking.pyfunc import model_files, write_model
from aggregator.tracking.run_page import DIGEST_CHARS
from aggregator.tracking.version_facts import moves
from aggregator.tracking.version_page import VersionPage
from aggregator.verify.models import CANDIDATE, Models, ModelVersion, registered_name
from crypto import durable
from crypto.errors import EvidenceError

_OURS = "consilium."
_MODEL_ID = "consilium.model_id"


class Registry:
    """Writes models. ``uri``: MLflow's address, which a run's folder names without its password."""

    def __init__(self, client: MlflowClient, home: AggregatorHome, uri: str, runs: Runs) -> None:
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
        page = VersionPage.of(models, version)
        parent = self._runs.parent(run, version.label)
        self._client.log_text(parent.info.run_id, page.approvals, APPROVALS)
        if not page.can_predict:
            self._renew(page)
            return
        number = self._register(page, self._model(ledger, page, parent), parent)
        if not version.version:  # it is new, so it is the newest, and its page gets the number
            version = replace(version, version=number, aliases={**version.aliases, CANDIDATE: ("", version.finished)})
            page = VersionPage.of(models, version)
        if version.version != number:
            raise EvidenceError(
                f"version of run {run} in MLflow",
                expected=f"{version.label}, as {'the ledger' if version.numbered else MLFLOW_FILE} says",
                found=f"{version.name}/{number}",
                remedy="This MLflow has versions that no run made: use one of the federation's own.",
            )
        self._renew(page)
        self._announce(version, parent)

    def moved(self, ledger: CheckedLedger, record: ModelPublished) -> None:
        """An alias was moved: renew the versions that have or had it."""
        models, name = Models.of(ledger), registered_name(record.model_name)
        for version in models.versions:
            if version.name == name and record.alias in moves(ledger, version):
                self._renew(VersionPage.of(models, version))

    def withdrawn(self, ledger: CheckedLedger, silo: str) -> None:
        """A silo withdrew: renew every version that has its data, itself or through its parents."""
        models = Models.of(ledger)
        for version in models.versions:
            if silo in version.withdrawn_silos:
                self._renew(VersionPage.of(models, version))

    def _renew(self, page: VersionPage) -> None:
        """Tags, description, card and aliases of one version, and the marks on its run, as the ledger has them now."""
        version, made = page.version, page.card
        _replace(self._home.run_folder(version.run).model_card_path, made.text.encode())
        parent = self._runs.parent(version.run, version.label).info.run_id
        self._client.log_text(parent, made.text, CARD_FILE)
        log(self._client, parent, tags=page.run_tags)
        registered = self._registered(version.name, parent)
        if registered is None:
            return
        model_id = registered.tags[_MODEL_ID]
        self._tag_version(registered, {**page.tags, _MODEL_ID: model_id})
        self._tag_model(model_id, page)
        if registered.description != made.brief:
            self._client.update_model_version(version.name, registered.version, made.brief)
        for alias in sorted(version.aliases.keys() - set(registered.aliases)):
            self._client.set_registered_model_alias(version.name, alias, registered.version)

    # --- making them ----------------------------------------------------------------------------------------------

    def _model(self, ledger: CheckedLedger, page: VersionPage, parent: Run) -> str:
        """The logged model of a run, made once; one that a crash left unfinished is uploaded again."""
        version, run_id, experiment = page.version, parent.info.run_id, parent.info.experiment_id
        query = f"tags.`consilium.run` = '{version.run}'"
        found = self._client.search_logged_models([experiment], query, max_results=1)
        model = (
            found[0]
            if found
            else self._client.create_logged_model(experiment, version.name, run_id, dict(page.tags), dict(page.params))
        )
        if model.status != LoggedModelStatus.READY:
            outputs = self._client.get_run(run_id).outputs  # log_outputs refuses to say the same twice
            if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
                self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            with tempfile.TemporaryDirectory(prefix="consilium-") as place:
                write_model(Path(place), model_files(ledger, version, model.model_id, run_id))
                self._client.log_model_artifacts(model.model_id, place)
            log(self._client, run_id, metrics=model_points(page, model.model_id))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    def _registered(self, name: str, run_id: str) -> Registered | None:
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
        # Searching leaves out aliases.
        return self._client.get_model_version(name, found[0].version) if found else None

    def _register(self, page: VersionPage, model_id: str, parent: Run) -> str:
        """The number of a run's version, made once."""
        name, run_id = page.version.name, parent.info.run_id
        found = self._registered(name, run_id)
        if found is None:
            try:
                self._client.create_registered_model(name)
            except MlflowException as there:
                if there.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            tags, source = {**page.tags, _MODEL_ID: model_id}, f"models:/{model_id}"
            found = self._client.create_model_version(name, source, run_id, tags, model_id=model_id)
        return str(found.version)

    def _announce(self, version: ModelVersion, parent: Run) -> None:
        """Write into the run's folder what MLflow calls its model; a command may be waiting for the file."""
        facts = {"tracking_uri": shown_address(self._uri), "model": version.name, "version": version.version}
        path = self._home.run_folder(version.run).mlflow_path
        _replace(path, canonical(facts | {"run_id": parent.info.run_id}) + b"\n")

    # --- renewing them --------------------------------------------------------------------------------------------

    def _tag_version(self, registered: Registered, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if registered.tags.get(key) != value:
                self._client.set_model_version_tag(registered.name, registered.version, key, value)
        for key in registered.tags.keys() - tags.keys():
            if key.startswith(_OURS):
                self._client.delete_model_version_tag(registered.name, registered.version, key)

    def _tag_model(self, model_id: str, page: VersionPage) -> None:
        old = self._client.get_logged_model(model_id).tags
        self._client.set_logged_model_tags(model_id, dict(page.model_tags))
        for key in old.keys() - page.model_tags.keys():
            if key.startswith(_OURS):
                self._client.delete_logged_model_tag(model_id, key)
        with tempfile.TemporaryDirectory(prefix="consilium-") as place:
            (Path(place) / CARD_FILE).write_text(page.card.text, encoding="utf-8")
            self._client.log_model_artifact(model_id, str(Path(place) / CARD_FILE))


def model_points(page: VersionPage, model_id: str) -> list[Metric]:
    """Metrics of a logged model: the ratios opened last, and for each data set in how many steps it is summed."""
    shares = [
        Metric(one.key, one.value, one.at, one.step, model_id, silo, digest[:DIGEST_CHARS])
        for (silo, digest), one in sorted(page.shares.items())
    ]
    return points(page.figures, model_id) + shares


def _replace(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        durable.replace(path, data)
