"""The models that a silo has kept for itself: listed, used on rows of its own, tested, and exported by its people.

Everything happens in the silo's home. Only what someone writes with --out is anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.figures import metrics
from crypto import durable
from crypto.errors import DataRefused, SpecError
from jobs.job import JobSpec
from jobs.owner.data_fit import check_rows
from silo_agent.data import UNREADABLE, DataSet
from silo_agent.home import SiloHome
from silo_agent.methods import method
from silo_agent.methods.networks import OfNetwork
from silo_agent.methods.personal import OfRows, Personal
from silo_agent.methods.scoring import score, targets
from silo_agent.models import tasks
from silo_agent.models.tasks import Classes, Number, Task, output_name
from silo_agent.personal_model import PersonalModel
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.readers.encoder import BadValue, TableEncoder, ValueEncoder
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.tables import columns_of

#: Digits of a run's id that name it at least.
LEAST_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A kept model, ready to be used. ``trainer``: the method, with what the silo kept."""

    home: SiloHome
    kept: PersonalModel
    spec: JobSpec
    trainer: Personal

    @property
    def task(self) -> Task:
        """What the job learns."""
        return tasks.of(self.spec.params)

    @property
    def classes(self) -> list[str]:
        """Names of the classes or labels; their numbers where the job has no schema. Of a number one name: its
        column's, or "value"."""
        if isinstance(self.task, Number):
            number = self.spec.schema.number if self.spec.schema is not None else None
            return [str((number or {}).get("name", "value"))]
        if self.spec.schema is not None:
            return list(self.spec.schema.classes)
        return [str(number) for number in range(self.task.classes)]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The predictions of encoded rows, such as p_BC. The silo's registered rows serve running statistics, while
        they are here."""
        return self.trainer.predict_personal(self.kept.published, x, self._home_rows())

    def _home_rows(self) -> np.ndarray | None:
        try:
            return self.data().x_train
        except DataRefused:
            return None

    def data(self) -> DataSet:
        """The job's data set as it is registered now. Raises DataRefused or NonFinite."""
        found = Catalogue(self.home, self.kept.silo).resolve(self.spec.dataset, thorough=False)
        check_rows(self.spec, found.data, found.schema)
        return found.data


def listed(home: SiloHome) -> list[dict[str, Any]]:
    """Every kept model, the newest first. ``amiss``: why it cannot be used; empty if it can."""
    found = []
    for path in home.personal_folder.glob("*.safetensors"):
        try:
            kept = PersonalModel.load(path)
            if home.personal_path(kept.run) != path:
                raise DataRefused(f"{path.name} holds the model of run {kept.run[:64]!r}.", remedy="Rename it back.")
            spec = JobSpec.from_text(kept.job)
        except (DataRefused, SpecError) as refused:
            found.append({"run": path.stem, "kept_at": path.stat().st_mtime, "amiss": str(refused)})
            continue
        facts = {name: getattr(kept, name) for name in ("run", "step", "data", "code", "digest", "kept_at")}
        about = {"job": spec.name, "method": spec.method, "dataset": spec.dataset, "bytes": path.stat().st_size}
        found.append(about | facts | {"amiss": ""})
    return sorted(found, key=lambda one: (-one["kept_at"], one["run"]))


def job_texts(home: SiloHome) -> list[str]:
    """The canonical texts of the jobs of every kept model that can be read."""
    found = []
    for path in sorted(home.personal_folder.glob("*.safetensors")):
        try:
            found.append(PersonalModel.load(path).job)
        except DataRefused:
            continue  # ``listed`` says what is amiss
    return found


def opened(home: SiloHome, run: str | None = None) -> Opened:
    """A kept model. ``run``: its id or first digits; default: the newest.

    Raises DataRefused where there is none, it is damaged or another silo's, SpecError for a job that this release
    cannot read, or a prefix of several.
    """
    there = listed(home)
    fitting = [one for one in there if run is None or (len(run) >= LEAST_DIGITS and one["run"].startswith(run))]
    if not fitting:
        raise DataRefused(
            f"There is no personal model {'yet' if run is None else f'of run {run[:64]!r}'} in {home.root}.",
            remedy="`fed personal list` shows them. fedcoe makes them, and fedavg with local parameters.",
        )
    if run is not None and len(fitting) > 1:
        raise SpecError("RUN", got=run, want=f"more digits: {', '.join(one['run'][:16] for one in fitting)}")
    if fitting[0]["amiss"]:
        raise DataRefused(fitting[0]["amiss"])
    kept = PersonalModel.load(home.personal_path(fitting[0]["run"]))
    if kept.silo != home.silo:
        raise DataRefused(f"The model is that of silo {kept.silo}.", remedy=f"Use it in that home, not {home.silo}'s.")
    spec = JobSpec.from_text(kept.job)
    trainer = method(spec.method)(spec.params, kept.silo)
    if not isinstance(trainer, Personal):
        raise SpecError("method", got=spec.method, want="one that makes a model for each silo")
    trainer.load_state_dict(kept.own)
    return Opened(home, kept, spec, trainer)


def predict(model: Opened, file: Path) -> np.ndarray:
    """The predictions of the rows in a file: a table by the job's schema, or numbers in .npy or .npz (its only array,
    or x).

    Raises DataRefused or NonFinite.
    """
    rows = _rows(model.spec.schema, file)
    if not len(rows):
        raise DataRefused(f"{file.name} has no rows.", remedy="Give at least one.")
    return model.predict(rows)


def evaluate(model: Opened) -> dict[str, Any]:
    """Correct predictions on the silo's registered test rows: of the personal model, the global one (None where there
    is none), and of the commonest training label; all None of a task that has no correct ones. ``metrics``: as a run
    has them, of these rows. ``same_data``: whether it was trained on the data as they are now."""
    data, task = model.data(), model.task
    p_BC = model.trainer.predict_personal(model.kept.published, data.x_test, data.x_train)
    shared: int | None = None
    try:
        global_BC = method(model.spec.method)(model.spec.params).predict(model.kept.published, data.x_test, "global")
        shared = _right(task, global_BC, data)
    except DataRefused:  # no global model, or too few rows for its running statistics
        pass
    registered = Catalogue(model.home, model.kept.silo).entry(model.spec.dataset).commitment.hex()
    counted = score("personal", p_BC, data.y_test, task) | targets(data.y_test, task) | {"test.rows": len(data.y_test)}
    return {
        "run": model.kept.run,
        "rows": len(data.y_test),
        "personal": _right(task, p_BC, data),
        "global": shared,
        "majority": commonest_right(task, data),
        "metrics": metrics(counted),
        "same_data": registered == model.kept.data,
    }


def export(model: Opened, form: str, out: Path) -> dict[str, Any]:
    """Write the model of a row alone as ``form`` to ``out``, and beside it ``out``.json: classes, shape and schema.

    Both are 0600. Raises SpecError for a form, a method or a network that cannot be exported, and a file that is there
    already or cannot be written.
    """
    from silo_agent.models.portable import Mixture, exported

    trainer = model.trainer
    if not isinstance(trainer, OfRows) or not isinstance(trainer, OfNetwork):
        raise SpecError(
            "fed personal export",
            got=model.spec.method,
            want="fedavg or fedcoe",
            remedy="Its answers are no mixture of networks; use `fed personal predict`.",
        )
    of, home_rows = trainer.experts, model._home_rows()
    parts = [
        (one.share, of.module(one.weights, home_rows), one.log_prior)
        for one in trainer.of_rows(model.kept.published)
        if one.share
    ]
    for path in (out, Path(f"{out}.json")):  # the second is written last: nothing is left where it cannot be
        if path.exists() or path.is_symlink():
            raise SpecError("--out", got=f"{path}: it is there already", want="a new file, and none beside it")
    content = exported(Mixture(parts, of.task), of.shape, form)
    schema = model.spec.schema
    about = {
        "run": model.kept.run,
        "silo": model.kept.silo,
        "job": model.spec.name,
        "method": model.spec.method,
        "model_digest": model.kept.digest,
        "input": {"name": "rows", "type": "float32", "shape": ["rows", *of.shape]},
        "task": of.task.name,
        "output": {"name": output_name(of.task), "type": "float32", "classes": model.classes},
        "schema": None if schema is None else schema.fields,
    }
    write(out, content)
    try:
        write(Path(f"{out}.json"), json.dumps(about, indent=1).encode() + b"\n")
    except BaseException:
        out.unlink()
        raise
    return {"file": str(out), "about": f"{out}.json", "form": form, "bytes": len(content), "run": model.kept.run}


def write(path: Path, content: bytes) -> None:
    """A new file, 0600. Raises SpecError for one that is there already or cannot be written."""
    try:
        durable.create(path, content)
    except OSError as failed:
        raise SpecError("--out", got=f"{path}: {failed.strerror}", want="a new file that can be written") from failed


def _rows(schema: DataSchema | None, file: Path) -> np.ndarray:
    encoder = None if schema is None else schema.encoder
    try:
        if isinstance(encoder, TableEncoder):
            columns = columns_of(file)
            return encoder.encode_columns(columns, max(map(len, columns.values()), default=0))
        if encoder is None:
            return _array(file)
        if isinstance(encoder, ValueEncoder):
            return encoder.encode(_array(file))
    except BadValue as bad:
        raise DataRefused(f"{file.name}: {bad}.", remedy="Give rows as the job's schema says.") from bad
    raise DataRefused(
        f"{file.name}: rows of kind {schema.kind if schema else 'array'} cannot be given as a file here.",
        remedy="Register them as a data set, and use `fed personal evaluate`.",
    )


def _array(file: Path) -> np.ndarray:
    try:
        found: Any = np.load(file, allow_pickle=False)
        if isinstance(found, Mapping):
            names = list(found)
            found = found["x" if "x" in names or len(names) != 1 else names[0]]
        return np.asarray(found)
    except (*UNREADABLE, KeyError) as bad:
        raise DataRefused(
            f"{file.name} is no .npy, nor an .npz with one array or an array x.", remedy="Save rows with numpy."
        ) from bad


def commonest_right(task: Task, data: DataSet) -> int | None:
    """Test rows that have the commonest label of the training rows; None of another task than one class a row."""
    if not isinstance(task, Classes):
        return None
    commonest = int(np.bincount(data.y_train, minlength=data.classes).argmax())
    return int((data.y_test == commonest).sum())


def _right(task: Task, p_BC: np.ndarray, data: DataSet) -> int | None:
    return int((task.named(p_BC) == data.y_test).sum()) if isinstance(task, Classes) else None
