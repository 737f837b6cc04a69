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

import csv
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aggregator.figures import metrics, ratios
from aggregator.run_record import RunRecord
from crypto.charter import check_new_id
from crypto.errors import DataRefused, SpecError
from jobs.demo import federation as homes
from jobs.demo.own_data import read
from jobs.evidence.run_summary import published_by
from jobs.job import JobSpec, Scalar
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime.in_process import run_job
from silo_agent.agent import Agent
from silo_agent.methods import Method, Published, RoundParams
from silo_agent.methods import method as method_named
from silo_agent.models import registry
from silo_agent.readers.draft import draft
from silo_agent.readers.encoder import BadValue, TableEncoder, TextEncoder, level_of
from silo_agent.readers.extras import needed
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import splits

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

#: The data set's name at every silo, and in the jobs that are made here.
DATASET: Final = "own"
#: Share of rows that are held back for tests where (x, y) are given in one piece, as in a schema.
TEST_SHARE: Final = 0.2

#: What a silo may be given: a table, (x, y), or the arrays x_train, y_train, x_test and y_test.
SiloData = Any


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model, in this process. ``mode``: global, or personal for that of one silo."""

    mode: str
    schema: DataSchema | None
    _method: Method
    _published: Published

    def predict_proba(self, rows: Any) -> np.ndarray:
        """(rows, classes) float64. ``rows``: with a schema raw ones, as the silos' files have them (a frame or columns,
        arrays, texts); without one numbers (rows, …).

        Raises DataRefused or NonFinite for rows that the model cannot read.
        """
        return self._method.predict(self._published, _encoded(self.schema, rows), self.mode)

    def predict(self, rows: Any) -> np.ndarray:
        """(rows,) the likeliest class: its name by the schema, else its number."""
        labels: np.ndarray = self.predict_proba(rows).argmax(axis=1)
        return labels if self.schema is None else np.array(self.schema.classes, dtype=object)[labels]


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
        return Model("personal", self.spec.schema, agent.method, agent.published)


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
        self._temporary = TemporaryDirectory(prefix="consilium-")
        try:
            place = Path(self._temporary.name)
            if isinstance(data, Mapping):
                source = place / "data"
                source.mkdir()
                _write(source, data, self.schema)
            else:
                source = _folder(data)
            dealt = read(DATASET, self.schema, source)
            rows = dealt.references or dealt.silos
            self._homes = homes.Federation.make(place / "federation", "api", rows, DATASET)
        except BaseException:
            self.close()
            raise
        first = next(iter(dealt.silos.values()))
        self._shape, self._classes = first["x_train"].shape[1:], int(first["classes"])
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

        ``features``, ``shape``, ``classes`` and a model's ``start`` are filled in where they are left out. Raises
        SpecError for parameters, and what ends a run.
        """
        spec = self._spec(job, method, params)
        approve_for_demonstration(self._homes.silo_homes.values(), spec)
        outcome, _, agents = run_job(spec, self._homes.aggregator_home, self._homes.silo_homes)
        record = RunRecord.read(self._homes.aggregator_home, outcome.run)
        published = published_by(self._homes.aggregator_home, record)
        model = Model("global", self.schema, method_named(spec.method)(spec.params), published)
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
        params.setdefault("classes", self._classes)
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
    raw = tomllib.loads(draft(_columns(frame), target, group))
    for column in raw["columns"]:
        if column["type"] != "category":
            column["outside"] = outside
    return DataSchema.parse(raw)


# --- rows in and out ----------------------------------------------------------------------------------------------


def _folder(data: str | Path) -> Path:
    if not (found := Path(data).resolve()).is_dir():
        raise SpecError("data", got=str(data), want="a folder with a sub-folder or file for each silo")
    return found


def _write(folder: Path, data: Mapping[str, SiloData], schema: DataSchema | None) -> None:
    """A file for each silo, as ``read`` takes them: CSV of frames, npz of arrays."""
    for silo in data:
        check_new_id(silo, "data")
    frames = {silo: found for silo, found in data.items() if _is_frame(found)}
    dates: Mapping[str, str] = {}
    if schema is not None and schema.kind == "table":
        dates = {column["name"]: column["formats"][0] for column in schema.columns if column["type"] == "date"}
    elif frames:
        raise SpecError(
            "schema",
            got="none" if schema is None else schema.kind,
            want="a schema of kind table, since frames are given",
            remedy="See docs/data.md; `jobs.api.draft_schema` drafts one.",
        )
    for silo, frame in frames.items():
        with (folder / f"{silo}.csv").open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            columns = _columns(frame)
            out.writerow(columns)
            texts = ([_text(value, dates.get(name)) for value in values] for name, values in columns.items())
            out.writerows(zip(*texts, strict=True))
    arrays = {silo: _arrays(silo, found) for silo, found in data.items() if silo not in frames}
    classes = max((int(found["classes"]) for found in arrays.values()), default=0)
    for silo, found in arrays.items():
        kept = found | {"classes": np.array(classes)} if schema is None else {**found}
        if schema is None and "x" in kept:
            x, y = kept.pop("x"), kept.pop("y")
            test = splits(y, None, TEST_SHARE)
            kept |= {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}
        elif schema is not None:
            kept.pop("classes")
        np.savez(folder / f"{silo}.npz", allow_pickle=False, **kept)


def _arrays(silo: str, found: SiloData) -> dict[str, np.ndarray]:
    """x and y, or x_train, y_train, x_test and y_test; and classes: given, or one more than the largest label."""
    if isinstance(found, Mapping):
        made = {name: np.asarray(array) for name, array in found.items()}
    elif isinstance(found, Sequence) and len(found) == 2:
        made = {"x": np.asarray(found[0]), "y": np.asarray(found[1])}
    else:
        made = {}
    named = made.keys() - {"classes"}
    if named not in ({"x", "y"}, {"x_train", "y_train", "x_test", "y_test"}):
        raise SpecError(
            f"data, silo {silo}",
            got=sorted(made) or type(found).__name__,
            want="a frame, (x, y), or a mapping with x_train, y_train, x_test and y_test",
        )
    labels = [made[name] for name in sorted(named) if name.startswith("y")]
    if any(y.dtype.kind not in "iu" or not y.size for y in labels):
        raise SpecError(f"data, silo {silo}", got=f"labels of {labels[0].dtype}", want="integer labels from 0 on")
    lengths = [(len(made[name]), len(made[f"y{name[1:]}"])) for name in named if name.startswith("x")]
    if any(x != y for x, y in lengths):
        raise SpecError(f"data, silo {silo}", got=f"{lengths[0][0]} rows and {lengths[0][1]} labels", want="one a row")
    made.setdefault("classes", np.array(max(2, 1 + max(int(y.max()) for y in labels))))
    return made


def _encoded(schema: DataSchema | None, rows: Any) -> np.ndarray:
    if schema is None:
        return np.asarray(rows)
    made = schema.encoder
    try:
        if isinstance(made, TableEncoder):
            columns = _columns(rows) if _is_frame(rows) else {name: list(values) for name, values in rows.items()}
            return made.encode_columns(columns, max(map(len, columns.values()), default=0))
        return made.encode(list(rows)) if isinstance(made, TextEncoder) else made.encode(np.asarray(rows))
    except BadValue as bad:
        raise DataRefused(f"These rows cannot be read: {bad}.", remedy="Give them as the schema says.") from bad


def _figures(slots: Mapping[str, int]) -> dict[str, float]:
    return {name: part / whole for name, (part, whole) in ratios(slots).items()} | metrics(slots)


def _is_frame(found: object) -> bool:
    return hasattr(found, "columns") and hasattr(found, "notna")


def _columns(frame: Any) -> dict[str, list[object]]:
    """Column → values, None where pandas has one of its missing values."""
    return {str(name): [*frame[name].astype(object).where(frame[name].notna(), None)] for name in frame.columns}


def _text(value: object, form: str | None) -> str:
    """A value as a reader of CSV takes it. ``form``: of the column's dates."""
    if value is None:
        return ""
    return value.strftime(form) if form and isinstance(value, date) else level_of(value)
