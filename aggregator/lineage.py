"""MLflow follows the ledger: runs, rounds, data commitments and one model version per finished job.

    python -m aggregator.lineage --home DIR --follow

The ledger is the truth; this process reads it and writes MLflow, and nothing waits for it. When MLflow is down it
tries again later; when it is killed half-way it goes on from its cursor, and finds by tag what it had already made, so
nothing is there twice: metrics carry the time of their ledger line, inputs and tags are sets.

    job      → parent run   tags: consilium.{run, job_digest, plan_digest, charter_digest, method, …, ledger_head}
    step     → child run    metrics: slots/*, *.accuracy, cohort/*, lanes/*, upload/*, phase_ms/*; tags: who, lost
    data     → inputs       one per silo: a salted commitment, never a path or a count; on child and parent
    finished → one version  pyfunc from code + safetensors, alias ``candidate``, weights digest in metadata and tag

The room has no torch: logging a model imports the predictor file (checked against its digest in the ledger first), and
that file imports its method only when a version is loaded.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from aggregator.ledger import GENESIS, Entry, Kind, canonical, ledger_path, ratios, read, sync_folder, write_synced
from aggregator.state import load_checkpoint, run_folder
from crypto.errors import EvidenceError, FederationError, SpecError

# MLflow reads these once, when it is imported.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
logging.getLogger("alembic").setLevel(logging.WARNING)

with warnings.catch_warnings():  # MLflow warns about its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    from mlflow import MlflowClient
    from mlflow.data.dataset_source import DatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import (
        DatasetInput,
        InputTag,
        LoggedModel,
        LoggedModelOutput,
        LoggedModelStatus,
        Metric,
        Param,
        Run,
        RunTag,
    )
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
    from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger("consilium.lineage")
logging.getLogger("mlflow").setLevel(logging.WARNING)

#: The alias every new version gets. People promote further, after their checks.
ALIAS = "candidate"
#: What "MLflow is down" looks like: retried. Anything else is a fault of ours or of the ledger, and is raised.
DOWN = (MlflowException, SQLAlchemyError, OSError)

_SERVERS = ("sqlite:///", "postgresql", "mysql", "http://", "https://")
_TAG_LIMIT = 5000
_DIGEST_CHARS = 32  # MLflow's column has 36; the whole commitment is in a tag
_NO_NAME = re.compile(r"[^A-Za-z0-9 _-]")


class SiloSource(DatasetSource):  # type: ignore[misc]
    """Where a data set is: at a silo, which does not hand it out. Only its commitment is known here."""

    def __init__(self, silo: str, commitment: str) -> None:
        self.silo, self.commitment = silo, commitment

    @staticmethod
    def _get_source_type() -> str:
        return "consilium-silo"

    def load(self) -> Any:
        raise EvidenceError(
            f"data of {self.silo}", expected="a look at the data", found="a commitment to it",
            remedy="The data never leaves its silo. Ask the silo to disclose the salt to an auditor.",
        )  # fmt: skip

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> SiloSource:
        raise NotImplementedError("a silo's data is not found by an address")

    def to_dict(self) -> dict[str, Any]:
        return {"silo": self.silo, "commitment": self.commitment}

    @classmethod
    def from_dict(cls, source_dict: Mapping[str, Any]) -> SiloSource:
        return cls(source_dict["silo"], source_dict["commitment"])


#: In a run's folder: the registered model of the run, once there is one.
MLFLOW_FILE = "mlflow.json"


# --- the cursor --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last ledger line that is in MLflow: its number (−1: none), digest and end in the file."""

    seq: int = -1
    digest: str = GENESIS
    end: int = 0


def default_uri(home: Path) -> str:
    """SQLite in the aggregator's home."""
    return f"sqlite:///{home.resolve() / 'mlflow.db'}"


def load_cursor(home: Path, tracking_uri: str) -> Cursor:
    """The stored cursor; the start for another MLflow than last time, or when there is none."""
    try:
        fields = json.loads((home / "lineage.json").read_bytes())
        if fields["server"] == _server(tracking_uri):
            return Cursor(fields["seq"], fields["digest"], fields["end"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as bad:
        log.warning("lineage.json is unreadable (%s): starting over; nothing will be logged twice", type(bad).__name__)
    return Cursor()


def _save_cursor(home: Path, tracking_uri: str, cursor: Cursor) -> None:
    data = canonical({"server": _server(tracking_uri), "seq": cursor.seq, "digest": cursor.digest, "end": cursor.end})
    new = home / "lineage.json.new"
    write_synced(new, data + b"\n")
    os.replace(new, home / "lineage.json")
    sync_folder(home)


def _server(tracking_uri: str) -> str:
    """Names a tracking server without the password that its address may hold."""
    return sha256(tracking_uri.encode()).hexdigest()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One follower at a time; a second one waits."""
    fd = os.open(home / "lineage.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# --- following ---------------------------------------------------------------------------------------------------


def sync(home: Path, tracking_uri: str | None = None) -> Cursor:
    """Bring MLflow up to the ledger's end; returns the new cursor.

    Safe to call again at any time. Sets MLflow's process-wide tracking address. Raises one of ``DOWN`` when MLflow
    cannot be reached (the stored cursor then names the last line that is complete), EvidenceError when the ledger or a
    checkpoint does not check, SpecError for a tracking address MLflow should not be used with.
    """
    uri = tracking_uri or default_uri(home)
    if not uri.startswith(_SERVERS):
        raise SpecError(
            "tracking_uri", got=uri.split("://")[0], want="sqlite:///…, postgresql+psycopg2://… or http(s)://…"
        )
    ledger = ledger_path(home)
    with _alone(home):
        cursor = load_cursor(home, uri)
        writer: _Writer | None = None
        for entry in read(ledger, after=(cursor.seq, cursor.digest, cursor.end)) if ledger.exists() else ():
            writer = writer or _Writer(home, uri)
            writer.write(entry)
            cursor = Cursor(entry.seq, entry.digest, entry.end)
            _save_cursor(home, uri, cursor)
    return cursor


class Stop(Protocol):
    """A threading.Event, or a test's stand-in that does not sleep."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


def follow(home: Path, tracking_uri: str | None, stop: Stop, *, poll_s: float = 1.0, longest_s: float = 60.0) -> None:
    """Sync whenever the ledger grows, until ``stop``, and once more then.

    While MLflow is down: again after 1, 2, 4 … ``longest_s``.
    """
    ledger = ledger_path(home)
    done, pause = -1, 1.0
    while True:
        last = stop.is_set()
        size = ledger.stat().st_size if ledger.exists() else 0
        wait = poll_s
        if size != done:
            try:
                done, pause = sync(home, tracking_uri).end, 1.0
            except DOWN as down:
                log.warning("MLflow did not take a record: %s", str(down).partition("\n")[0])
                wait, pause = pause, min(2 * pause, longest_s)
        if last:
            return
        stop.wait(wait)


# --- writing -----------------------------------------------------------------------------------------------------


class _Writer:
    """Turns ledger entries into MLflow writes, each of which may be repeated."""

    def __init__(self, home: Path, uri: str) -> None:
        self._home = home
        self._uri = uri
        mlflow.set_tracking_uri(uri)  # creating a version looks its source up in MLflow's process-wide address
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._local = not uri.startswith("http")
        self._experiments: dict[str, str] = {}
        self._parents: dict[str, Run] = {}

    def write(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.RUN_STARTED:
                self._start(entry)
            case Kind.STEP_CLOSED:
                self._step(entry, _closed_metrics(entry), "FINISHED")
            case Kind.STEP_VOID:
                self._step(entry, {}, "FAILED")
            case Kind.RUN_FINISHED:
                self._finish(entry)
            case Kind.RUN_FAILED:
                facts = {key: entry.record[key] for key in ("code", "phase", "missing")}
                self._end(entry, "FAILED", {f"consilium.failed.{key}": value for key, value in facts.items()})
            case Kind.MODEL_PUBLISHED | Kind.WITHDRAWAL | Kind.RUN_RESUMED:
                self._tag(entry)
            case _:  # step-opened, silo-lost, refusal, recovered: the closing record of the step repeats them
                pass

    def _experiment(self, federation: str) -> str:
        if federation not in self._experiments:
            if found := self._client.get_experiment_by_name(federation):
                self._experiments[federation] = found.experiment_id
            else:
                place = (self._home.resolve() / "mlartifacts").as_uri() if self._local else None
                self._experiments[federation] = self._client.create_experiment(federation, artifact_location=place)
        return self._experiments[federation]

    def _search(self, experiments: list[str], tags: Mapping[str, object]) -> Run | None:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs(experiments, query, max_results=1)
        return found[0] if found else None

    def _start(self, entry: Entry) -> None:
        record = entry.record
        experiment = self._experiment(record.get("federation", "consilium"))
        mark = {"consilium.run": record["run"], "consilium.record": "job"}
        facts = (
            "job_digest",
            "plan_digest",
            "charter_digest",
            "state_digest",
            "protocol",
            "method",
            "threshold",
            "parent",
        )
        tags = {f"consilium.{key}": record[key] for key in facts if key in record}
        tags |= mark | {"consilium.silos": record["silos"], "consilium.cohort_size": len(record["silos"])}
        run = self._search([experiment], mark) or self._client.create_run(
            experiment, _millis(entry), _texts(tags), f"{record['model_name']} {record['run'][:8]}"
        )
        self._client.log_batch(
            run.info.run_id,
            params=[Param(key, str(record[key])) for key in ("method", "model_name", "protocol", "threshold")],
            tags=[RunTag(key, value) for key, value in _texts({**tags, "consilium.ledger_head": entry.digest}).items()],
        )
        self._client.log_text(run.info.run_id, record["job"], "evidence/job.txt")
        self._parents[record["run"]] = run

    def _parent(self, entry: Entry) -> Run:
        name = entry.record["run"]
        if name not in self._parents:
            experiments = [found.experiment_id for found in self._client.search_experiments()]
            found = self._search(experiments, {"consilium.run": name, "consilium.record": "job"})
            if found is None:
                raise EvidenceError(
                    f"ledger line {entry.seq + 1}", expected=f"run {name} started before", found="no such run"
                )
            self._parents[name] = found
        return self._parents[name]

    def _step(self, entry: Entry, figures: Mapping[str, float], status: str) -> None:
        record, parent = entry.record, self._parent(entry)
        at, spent = _millis(entry), sum(record.get("phase_ms", {}).values())
        mark = {"consilium.run": record["run"], "consilium.record": "step", "consilium.k": record["k"]}
        tags = mark | {"mlflow.parentRunId": parent.info.run_id, "consilium.step": record["name"]}
        child = self._search([parent.info.experiment_id], mark) or self._client.create_run(
            parent.info.experiment_id, at - spent, _texts(tags), record["name"]
        )
        facts = (
            "transcript",
            "state_digest",
            "chain",
            "invited",
            "survivors",
            "lost",
            "refusals",
            "lanes_open",
            "lanes_shut",
        )
        told = {f"consilium.{key}": record[key] for key in (*facts, "reason", "phase", "missing") if key in record}
        told |= {f"consilium.data.{silo}": digest for silo, digest in record.get("data_commitments", {}).items()}
        told |= {"consilium.ledger_head": entry.digest, "consilium.cohort_size": len(record.get("survivors", ()))}
        metrics = [Metric(key, value, at, record["k"]) for key, value in figures.items()]
        data = [_commitment(silo, digest) for silo, digest in sorted(record.get("data_commitments", {}).items())]
        self._client.log_batch(child.info.run_id, metrics=metrics, tags=_tags(told))
        self._client.log_batch(parent.info.run_id, metrics=metrics, tags=_tags({"consilium.ledger_head": entry.digest}))
        if data:
            self._client.log_inputs(child.info.run_id, datasets=data)
            self._client.log_inputs(parent.info.run_id, datasets=data)
        self._client.set_terminated(child.info.run_id, status, at)

    def _tag(self, entry: Entry) -> None:
        facts = {key: value for key, value in entry.record.items() if key != "run"}
        tags = _tags({f"consilium.{entry.kind}.{entry.seq}": facts, "consilium.ledger_head": entry.digest})
        self._client.log_batch(self._parent(entry).info.run_id, tags=tags)

    def _end(self, entry: Entry, status: str, facts: Mapping[str, Any]) -> None:
        parent = self._parent(entry).info.run_id
        lines = b"".join(line.line() for line in _of_run(self._home, entry.record["run"], entry.seq))
        self._client.log_text(parent, lines.decode(), "evidence/ledger.jsonl")
        self._client.log_batch(parent, tags=_tags({**facts, "consilium.ledger_head": entry.digest}))
        self._client.set_terminated(parent, status, _millis(entry))

    def _finish(self, entry: Entry) -> None:
        record, parent = entry.record, self._parent(entry)
        facts = {f"consilium.{key}": record[key] for key in ("state_digest", "chain", "weights_sha256", "checkpoint")}
        facts["consilium.countersigned_by"] = sorted(record["countersignatures"])
        history = list(_of_run(self._home, record["run"], entry.seq))
        start = next(line.record for line in history if line.kind is Kind.RUN_STARTED)
        if "predictor" in start:
            model_id = self._model(entry, start, history, parent)
            version = self._version(entry, start, history, parent, model_id)
            facts["consilium.model_version"] = version
            self._announce(record["run"], version, parent.info.run_id)
        self._end(entry, "FINISHED", facts)

    def _announce(self, run: str, version: str, run_id: str) -> None:
        """Leave in the run's folder where the model is, for whoever waits for it. The address loses its password."""
        name, _, number = version.rpartition("/")
        address = urlsplit(self._uri)
        shown = self._uri.replace(f"{address.username}:{address.password}@", "") if address.password else self._uri
        facts = {"tracking_uri": shown, "model": name, "version": number, "run_id": run_id}
        place = run_folder(self._home, run) / MLFLOW_FILE
        new = place.with_name(place.name + ".new")
        write_synced(new, canonical(facts) + b"\n")
        os.replace(new, place)

    def _model(self, entry: Entry, start: Mapping[str, Any], history: list[Entry], parent: Run) -> str:
        """The LoggedModel of a run, made once; one that a crash left unfinished is uploaded again."""
        record, run_id = entry.record, parent.info.run_id
        experiment = parent.info.experiment_id
        query = f"tags.`consilium.run` = '{record['run']}'"
        found = self._client.search_logged_models([experiment], query, max_results=1)
        name = _NO_NAME.sub("-", start["model_name"])
        tags = {"consilium.run": record["run"], "consilium.weights_sha256": record["weights_sha256"]}
        model = found[0] if found else self._client.create_logged_model(experiment, name, run_id, tags)
        if model.status != LoggedModelStatus.READY:
            outputs = self._client.get_run(run_id).outputs  # log_outputs refuses to say the same twice
            if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
                self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            with tempfile.TemporaryDirectory(prefix="consilium-") as place:
                _save_model(Path(place), self._home, entry, start, history, model, run_id)
                self._client.log_model_artifacts(model.model_id, str(Path(place) / "model"))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    def _version(self, entry: Entry, start: Mapping[str, Any], history: list[Entry], parent: Run, model_id: str) -> str:
        """The registered version of a run, made once, with its alias."""
        record, run_id, name = entry.record, parent.info.run_id, _NO_NAME.sub("-", start["model_name"])
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
        if found:
            version = found[0].version
        else:
            try:
                self._client.create_registered_model(name)
            except MlflowException as there:
                if there.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            facts = ("job_digest", "plan_digest", "charter_digest", "method", "protocol")
            tags = {f"consilium.{key}": start[key] for key in facts}
            tags |= {f"consilium.{key}": record[key] for key in ("run", "weights_sha256", "state_digest", "chain")}
            tags |= {"consilium.ledger_head": entry.digest, "consilium.predictor_sha256": start["predictor"]["sha256"]}
            tags |= {"consilium.model_id": model_id, "consilium.silos": start["silos"]}
            tags |= {f"consilium.{key}": f"{part / whole:.4f}" for key, (part, whole) in _last_ratios(history).items()}
            version = self._client.create_model_version(
                name,
                f"models:/{model_id}",
                run_id,
                _texts(tags),
                model_id=model_id,
                description=_describe(start, history),
            ).version
        self._client.set_registered_model_alias(name, ALIAS, version)
        return f"{name}/{version}"


def _save_model(
    place: Path,
    home: Path,
    entry: Entry,
    start: Mapping[str, Any],
    history: list[Entry],
    model: LoggedModel,
    run_id: str,
) -> None:
    """Write ``place/model``: the predictor's code, the blocks, what was published, a row of zeros as example."""
    record, facts = entry.record, start["predictor"]
    folder = run_folder(home, record["run"])
    code = folder / facts["file"]
    found = sha256(code.read_bytes()).hexdigest() if code.parent == folder and code.is_file() else "no such file"
    if found != facts["sha256"]:
        raise EvidenceError(f"{folder.name}/{facts['file']}", expected=f"SHA-256 {facts['sha256']}", found=found)
    step = int(Path(record["checkpoint"]).stem)
    checkpoint = load_checkpoint(folder, step, expect=bytes.fromhex(record["state_digest"]))
    if checkpoint.weights_sha256 != record["weights_sha256"]:
        raise EvidenceError(checkpoint.path, expected=record["weights_sha256"], found=checkpoint.weights_sha256)
    slots = {line.record["name"]: line.record["slots"] for line in history if line.kind is Kind.STEP_CLOSED}
    published = {"settings": json.loads(facts["settings"]), "slots": slots, "state_digest": record["state_digest"]}
    (place / "published.json").write_text(json.dumps(published, sort_keys=True))
    zeros = np.zeros((1, *facts["shape"]), dtype=facts["dtype"])
    (place / "input_example.json").write_text(json.dumps({"inputs": zeros.tolist()}))
    digests = {key: start[key] for key in ("job_digest", "plan_digest", "charter_digest", "method")}
    digests |= {key: record[key] for key in ("run", "weights_sha256", "state_digest", "chain")}
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(facts["dtype"]), (-1, *facts["shape"]))]),
        Schema([TensorSpec(np.dtype("int64"), (-1,))]),
        ParamSchema([ParamSpec("mode", "string", "global")]),
    )
    with warnings.catch_warnings():
        # An example given the official way would be run, and here is no torch to run it with.
        warnings.filterwarnings("ignore", ".*input example was not provided", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(place / "model"),
            python_model=str(code),
            artifacts={
                "weights": str(folder / checkpoint.path),
                "published": str(place / "published.json"),
                "input_example": str(place / "input_example.json"),
            },
            signature=signature,
            pip_requirements=facts["requirements"],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                model_id=model.model_id,
                run_id=run_id,
                metadata={
                    **digests,
                    "predictor_sha256": facts["sha256"],
                    "ledger_head": entry.digest,
                    "modes": facts["modes"],
                },
            ),
        )


# --- small change ------------------------------------------------------------------------------------------------


def _of_run(home: Path, run: str, upto: int) -> Iterator[Entry]:
    for entry in read(ledger_path(home)):
        if entry.seq > upto:
            return
        if entry.record.get("run") == run:
            yield entry


def _closed_metrics(entry: Entry) -> dict[str, float]:
    record = entry.record
    figures: dict[str, float] = {_metric_name(f"slots/{name}"): float(value) for name, value in record["slots"].items()}
    figures |= {_metric_name(name): part / whole for name, (part, whole) in ratios(record["slots"]).items()}
    counts = {"cohort/invited": "invited", "cohort/survivors": "survivors", "cohort/refusals": "refusals"}
    counts |= {"lanes/open": "lanes_open", "lanes/shut": "lanes_shut"}
    figures |= {name: float(len(record[key])) for name, key in counts.items()}
    figures["upload/bytes"] = float(record["upload_bytes"])
    return figures | {f"phase_ms/{phase}": float(value) for phase, value in record["phase_ms"].items()}


def _metric_name(name: str) -> str:
    """MLflow refuses names that a path would shorten (``a//b``, ``a/``); a colon is never special."""
    return name if os.path.normpath(name) == name else name.replace("/", ":")


def _last_ratios(history: list[Entry]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for line in history:
        if line.kind is Kind.STEP_CLOSED:
            found |= ratios(line.record["slots"])
    return found


def _describe(start: Mapping[str, Any], history: list[Entry]) -> str:
    closed = [line.record for line in history if line.kind is Kind.STEP_CLOSED]
    void = sum(line.kind is Kind.STEP_VOID for line in history)
    scores = ", ".join(f"{name} {part / whole:.3f}" for name, (part, whole) in sorted(_last_ratios(history).items()))
    fewest = min((len(record["survivors"]) for record in closed), default=0)
    return (
        f"{start['method']} over {len(start['silos'])} silos; {len(closed)} steps summed with at least {fewest} silos "
        f"each, {void} void. Sums over all contributing silos: {scores or 'no scores were opened'}. "
        "A secure sum is not differential privacy. The signed ledger is the evidence; see the run's artifacts."
    )


def _commitment(silo: str, digest: str) -> DatasetInput:
    source = SiloSource(silo, digest)
    data = MetaDataset(source, name=silo, digest=digest[:_DIGEST_CHARS])
    tags = [InputTag("mlflow.data.context", "training"), InputTag("commitment", digest)]
    return DatasetInput(data._to_mlflow_entity(), tags)


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Tag values: text as it is, the rest as JSON; cut to MLflow's limit (the ledger has it whole)."""
    texts = {key: value if isinstance(value, str) else canonical(value).decode() for key, value in facts.items()}
    return {key: text if len(text) <= _TAG_LIMIT else f"{text[: _TAG_LIMIT - 1]}…" for key, text in texts.items()}


def _tags(facts: Mapping[str, Any]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in _texts(facts).items()]


def _millis(entry: Entry) -> int:
    return round(datetime.fromisoformat(entry.time).timestamp() * 1000)


# --- the process -------------------------------------------------------------------------------------------------


class _UntilOrphaned(threading.Event):
    """Set by SIGTERM, or when the process that started us is gone."""

    def __init__(self) -> None:
        super().__init__()
        self._starter = os.getppid()

    def is_set(self) -> bool:
        return super().is_set() or os.getppid() != self._starter


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m aggregator.lineage", description="Copy the ledger into MLflow.")
    parser.add_argument("--home", type=Path, required=True, help="the aggregator's home folder")
    parser.add_argument("--tracking-uri", help="default: SQLite in the home folder")
    parser.add_argument("--follow", action="store_true", help="keep following until SIGTERM")
    args = parser.parse_args(argv)
    os.umask(0o077)  # MLflow makes its database and artifacts readable to all
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    try:
        if not args.follow:
            sync(args.home, args.tracking_uri)
            return 0
        stop = _UntilOrphaned()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        follow(args.home, args.tracking_uri, stop)
        return 0
    except FederationError as error:
        log.error("%s", error)
        return error.exit_code
    except DOWN as down:
        log.error("MLflow did not take a record: %s", str(down).partition("\n")[0])
        return 1


if __name__ == "__main__":
    sys.exit(main())
