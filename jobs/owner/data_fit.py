"""Whether a data set is what a job asks for: asked before an approval is signed, and again before a job begins;
and of a silo that tries a model."""

from __future__ import annotations

from crypto.errors import DataRefused
from jobs.job import JobSpec
from silo_agent.data import CLASS, LABELS, TARGETS, DataSet
from silo_agent.models import tasks
from silo_agent.models.registry import shape_of
from silo_agent.models.tasks import check_targets
from silo_agent.privacy import terms
from silo_agent.pysyft.mock import Schema
from silo_agent.readers.schema import DataSchema, difference


def check_fit(spec: JobSpec, shape: Schema, schema: DataSchema | None, *, name: str = "") -> None:
    """Raise DataRefused that names the first difference between a job and a data set.

    ``shape``: the data set's, as inputs; ``schema``: what its rows are read by, where it was registered by reference;
    ``name``: the data set's, default: the job's.
    """
    name = name or spec.dataset
    if spec.schema is not None and schema is None:
        raise DataRefused(
            f"Data set {name!r} was registered without a schema, the job has one.",
            remedy="Register it by the job's schema: `fed data add --from --schema`.",
        )
    if schema is not None and spec.schema is None:
        raise DataRefused(
            f"Data set {name!r} is read by a schema, the job names none: nobody could tell what its inputs are.",
            remedy="Ask for a job with this schema (schema = FILE in the job file), or register rows as an npz.",
        )
    if spec.schema is not None and schema is not None and spec.schema.digest != schema.digest:
        raise DataRefused(
            f"Data set {name!r} was registered by another schema: {difference(schema, spec.schema)}.",
            remedy="Register it by the job's schema, or ask for a job with the registered one.",
        )
    wants: dict[str, object] = {}
    task = tasks.of(spec.params) if "task" in spec.params else None
    target = CLASS if task is None else task.target
    if shape.target != target:
        raise DataRefused(
            f"Data set {name!r} has {TARGETS[shape.target]}; the job learns {TARGETS[target]}.",
            remedy="Name another data set for this job, or ask for another job.",
        )
    wants["classes"] = spec.params.get("classes", shape.classes) if task is None else task.classes
    if spec.params.keys() & {"features", "shape"}:
        wants["features"] = _sides(shape_of(spec.params))
    words = "labels" if shape.target == LABELS else "classes"
    for key, found in {"features": _sides(shape.shape), "classes": shape.classes}.items():
        if wants.get(key, found) != found:
            raise DataRefused(
                f"Data set {name!r} has {found} {words if key == 'classes' else key}, the job wants {wants[key]}.",
                remedy="Name another data set for this job, or ask for another job.",
            )


def check_rows(spec: JobSpec, data: DataSet, schema: DataSchema | None, *, name: str = "") -> None:
    """``check_fit`` of the rows of a data set, and whether there are enough for the δ and the batch of a private job,
    and whether a job's bounds hold all numbers to predict. Raises DataRefused."""
    check_fit(spec, Schema.of(data), schema, name=name)
    if spec.privacy is not None:
        terms.check_rows(spec.privacy, spec.params, data.rows)
    if "task" in spec.params:
        check_targets(tasks.of(spec.params), name or spec.dataset, data.y_train, data.y_test)


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
