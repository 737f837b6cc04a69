"""Train in Python, on arrays, pandas frames or folders, through the round code of a real federation.

    from jobs.api import simulate

    result = simulate({"anna": frame_a, "berta": frame_b, "clara": frame_c}, schema="risk.toml", method="fedavg")
    result.curves                                # a pandas DataFrame, one row a step
    result.model.predict_proba(new_patients)     # a frame with the schema's columns → (rows, classes)

Every silo has a home, keys and a signed approval of its own in a folder on this machine, and every sum is masked,
proven and recorded, as in ``fed simulate``. The data never leave this process. pandas comes with the extra
[aggregator].
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aggregator.figures import metrics, ratios
from aggregator.run_record import RunRecord
from crypto.errors import SpecError
from jobs.demo import federation as homes
from jobs.demo.arrays_and_frames import SiloData, columns_of, encoded, folder_of, write
from jobs.demo.own_data import read
from jobs.evidence.run_summary import published_by
from jobs.job import JobSpec, Scalar
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime.in_process import run_job
from silo_agent.agent import Agent
from silo_agent.methods import Method, Published, RoundParams
from silo_agent.methods import method as method_named
from silo_agent.models import registry, tasks
from silo_agent.models.tasks import Classes, Number, Task
from silo_agent.readers.draft import draft
from silo_agent.readers.extras import needed
from silo_agent.readers.schema import DataSchema

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

#: The data set's name at every silo, and in the jobs that are made here.
DATASET: Final = "own"


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model, in this process. ``mode``: global, or personal for that of one silo."""

    mode: str
    schema: DataSchema | None
    _params: Mapping[str, Scalar]
    _method: Method
    _published: Published

    def predict_proba(self, rows: Any) -> np.ndarray:
        """(rows, classes) float64; of several labels (rows, labels), of masks (rows, classes, *sides). ``rows``: with a
        schema raw ones, as the silos' files have them (a frame, columns, a list of dicts or one dict, arrays, texts);
        without one numbers (rows, …).

        Raises DataRefused or NonFinite for rows that the model cannot read, SpecError for a model of a number.
        """
        if isinstance(self._task, Number):
            raise SpecError("predict_proba", got="a model of a number", want="a model of classes: use predict")
        return self._predictions(rows)

    def predict(self, rows: Any) -> np.ndarray:
        """(rows,) the likeliest class: its name by the schema, else its number. Of several labels (rows, labels) of 0
        and 1, of masks (rows, *sides) of class numbers; a number in the target's unit."""
        named = self._task.named(self._predictions(rows))
        if self.schema is None or not isinstance(self._task, Classes):
            return named
        found: np.ndarray = np.array(self.schema.classes, dtype=object)[named]
        return found

    @property
    def _task(self) -> Task:
        return tasks.of(self._params)

    def _predictions(self, rows: Any) -> np.ndarray:
        return self._method.predict(self._published, encoded(self.schema, rows), self.mode)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    spec: JobSpec
    record: RunRecord
    """The run on the ledger."""
    model: Model
    """What was published: the global model."""
    _agents: Mapping[str, Agent]

    @property
    def curves(self) -> pd.DataFrame:
        """One row a step that was released, under its name: ``silos`` that took part, ``seconds``, and each ratio and
        metric over the silos' test rows that the step opened, such as ``global.accuracy``. NaN where it did not."""
        with needed("Curves as a DataFrame", "aggregator"):
            import pandas as pd
        rows = {}
        for entry in self.record.closed:
            step = entry.record
            found: dict[str, float] = {"silos": len(step.survivors), "seconds": sum(step.phase_ms.values()) / 1000}
            rows[step.name] = found | _figures(step.slots)
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def scores(self) -> dict[str, float]:
        """Ratio or metric → its last value, over the test rows of all silos."""
        return {name: value for entry in self.record.closed for name, value in _figures(entry.record.slots).items()}

    def personal(self, silo: str) -> Model:
        """The model of this silo alone; the global one where the method has none. Raises SpecError for another name."""
        if silo not in self._agents:
            raise SpecError("silo", got=silo, want=f"one of {', '.join(self._agents)}")
        agent = self._agents[silo]
        return Model("personal", self.spec.schema, self.spec.params, agent.method, agent.published)


class Federation:
    """Silos with their data, for several jobs. Use it in a ``with`` block, or ``close`` it: that removes its folder."""

    def __init__(
        self,
        data: str | Path | Mapping[str, SiloData],
        *,
        schema: DataSchema | str | Path | None = None,
    ) -> None:
        """``data``: a folder as for ``fed simulate --data``, or silo → its data (see ``SiloData``), at least 3.
        ``schema``: its file, or what ``draft_schema`` gives; frames need one.

        Raises SpecError, DataRefused or NonFinite that name the silo and what is wrong.
        """
        self.schema = DataSchema.load(Path(schema)) if isinstance(schema, str | Path) else schema
        if not isinstance(self.schema, DataSchema | None):
            want = "a schema's file, or what draft_schema gives"
            raise SpecError("schema", got=type(schema).__name__, want=want)
        self._temporary = TemporaryDirectory(prefix="consilium-")
        try:
            place = Path(self._temporary.name)
            if isinstance(data, Mapping):
                source = place / "data"
                source.mkdir()
                write(source, data, self.schema)
            else:
                source = folder_of(data)
            dealt = read(DATASET, self.schema, source)
            rows = dealt.references or dealt.silos
            self._homes = homes.Federation.make(place / "federation", "api", rows, DATASET)
        except BaseException:
            self.close()
            raise
        first = next(iter(dealt.silos.values()))
        self._shape = first["x_train"].shape[1:]
        self._task = _task_of(first)
        self.account = dealt.account
        """What was read: a line for each silo."""

    @property
    def silos(self) -> tuple[str, ...]:
        return self._homes.silos

    @property
    def folder(self) -> Path:
        """Where the homes, the ledger and the models lie, until it is closed."""
        return self._homes.root

    def run(self, *, job: JobSpec | str | Path | None = None, method: str | None = None, **params: Scalar) -> Result:
        """Run one job to its end. ``job``: a job file or a name of the catalogue, run on these data; or ``method``
        with its parameters. ``params``: of the method, written with _ for -; they replace the job's.

        ``features``, ``shape``, ``classes``, ``task`` and a model's ``start`` are filled in where they are left out.
        Numbers to predict without a schema need ``target_low`` and ``target_high``. Raises SpecError for parameters,
        and what ends a run.
        """
        spec = self._spec(job, method, params)
        approve_for_demonstration(self._homes.silo_homes.values(), spec)
        outcome, _, agents = run_job(spec, self._homes.aggregator_home, self._homes.silo_homes)
        record = RunRecord.read(self._homes.aggregator_home, outcome.run)
        published = published_by(self._homes.aggregator_home, record)
        model = Model("global", self.schema, spec.params, method_named(spec.method)(spec.params), published)
        took_part = {silo: agent for silo, agent in agents.items() if isinstance(agent, Agent)}
        return Result(spec, record, model, took_part)

    def close(self) -> None:
        """Remove what is temporary."""
        self._temporary.cleanup()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _spec(self, job: JobSpec | str | Path | None, name: str | None, given: Mapping[str, Scalar]) -> JobSpec:
        if (job is None) == (name is None):
            raise SpecError("run", got="both or neither", want="job=…, or method=… with its parameters")
        base = job if isinstance(job, JobSpec) else None if job is None else JobSpec.load(job)
        params: dict[str, object] = dict(base.params) if base else {}
        for key, value in given.items():
            params[key.replace("_", "-") if key.startswith("model_") else key] = value
        other = "model" in params and params["model"] != registry.PERCEPTRON
        if other:
            params.setdefault("shape", " ".join(map(str, self._shape)))
        elif len(self._shape) == 1:
            params.setdefault("features", self._shape[0])
        params = {**(self._task if self.schema is None else self.schema.params), **params}
        if other and "start" not in params:
            about, rest = registry.split(params)
            params["start"] = registry.start_of(about, int(str(rest.get("seed", RoundParams().seed))))
        raw: dict[str, object] = {
            "name": base.name if base else f"{name}-{DATASET}",
            "method": base.method if base else name,
            "dataset": DATASET,
            "purpose": base.purpose if base else "to train on the data of one owner, in one process",
            "params": params,
        }
        if base:
            raw |= {"timeouts": dict(base.timeouts), "keep_uploads": base.keep_uploads}
            raw |= {"privacy": base.privacy_of(params)} if base.privacy is not None else {}
        if self.schema is not None:
            raw["schema"] = self.schema.fields
        return JobSpec.parse(raw)


def simulate(
    data: str | Path | Mapping[str, SiloData],
    *,
    schema: DataSchema | str | Path | None = None,
    job: JobSpec | str | Path | None = None,
    method: str | None = None,
    **params: Scalar,
) -> Result:
    """One run on a federation that is removed afterwards; see ``Federation`` and ``Federation.run``."""
    with Federation(data, schema=schema) as federation:
        return federation.run(job=job, method=method, **params)


def draft_schema(frame: pd.DataFrame, target: str, *, group: str | None = None, outside: str = "refuse") -> DataSchema:
    """The schema that ``fed data schema`` drafts from a table: look at its ``fields``. Ranges are rounded guesses and
    rare levels are left out. ``outside``: what happens to numbers beyond the ranges: refuse, clip or missing.

    Raises SpecError or DataRefused.
    """
    raw = tomllib.loads(draft(columns_of("frame", frame), target, group))
    for column in raw["columns"]:
        if column["type"] != "category":
            column["outside"] = outside
    if isinstance(raw["target"], dict) and outside == "clip":
        raw["target"]["outside"] = outside
    return DataSchema.parse(raw)


# --- what a run tells ---------------------------------------------------------------------------------------------


def _task_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Scalar]:
    """What a job has to say of the task of these arrays of a data set, but for the bounds of a number."""
    if "labels" in arrays:
        return {"task": "multilabel", "classes": int(arrays["labels"])}
    if "classes" not in arrays:
        return {"task": "regression"}
    masks = {"task": "segmentation"} if arrays["y_train"].ndim > 1 else {}
    return {**masks, "classes": int(arrays["classes"])}


def _figures(slots: Mapping[str, int]) -> dict[str, float]:
    return {name: part / whole for name, (part, whole) in ratios(slots).items()} | metrics(slots)
