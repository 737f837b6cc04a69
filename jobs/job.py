"""A job file and its digest: TOML for people, one canonical text for everyone else.

    name = "fedcoe-digits"      # names the run folder and the registered model
    method = "fedcoe"           # see silo_agent.methods
    dataset = "digits"          # resolved by each silo in its own catalogue
    purpose = "…"               # what for, in a sentence: data owners read it and approve it
    keep_uploads = "all"        # masked uploads kept, for bit-exact replay: none | last | all (default none)
    schema = "risk.toml"        # how raw rows are read, beside the job file; it becomes part of the job. Optional
    [params]                    # the method's own, checked by the method
    [timeouts]                  # seconds: phase, step (training), job
    [privacy]                   # differential privacy: mechanism and noise (silo_agent.privacy.terms). Optional
    [require]                   # whom the run must not go on without: see aggregator.requirement. Optional
    [resume]                    # whether an interrupted run goes on by itself: see aggregator.resume_policy. Optional

An unknown field, a wrong type or an unknown method is a ``SpecError`` that names path, value and wish.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any

from aggregator.requirement import Requirement
from aggregator.resume_policy import ResumePolicy
from crypto import text_files
from crypto.charter import Charter
from crypto.errors import SpecError
from crypto.plan import Plan
from crypto.transcript import digest
from silo_agent.data import NAME as DATASET
from silo_agent.methods import METHODS, Limits, Method, method
from silo_agent.methods.private import check_can, private
from silo_agent.models.registry import shape_of
from silo_agent.privacy.terms import Privacy, total_steps
from silo_agent.readers.schema import DataSchema

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
TIMEOUTS = {"phase": 60.0, "step": 600.0, "job": 7200.0}
KEEP = ("none", "last", "all")
_TOP = ("name", "method", "dataset", "purpose", "keep_uploads", "params", "timeouts")
#: Fields that the text of a job has only where the job has them.
_OPTIONAL = ("schema", "privacy", "require", "resume")
_TABLES: Mapping[str, type[Requirement] | type[ResumePolicy]] = {"require": Requirement, "resume": ResumePolicy}
#: Longest purpose: a sentence or two.
MOST_PURPOSE = 300
#: Longest text of a job, longest encoded plan, and most parameters and characters of one.
MOST_TEXT, MOST_PLAN, MOST_PARAMS, MOST_PARAM = 1 << 16, 1 << 26, 256, 1 << 14

Scalar = int | float | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A checked job file. Equal jobs have equal ``text``, so ``digest`` is what is approved and hashed."""

    name: str
    method: str
    dataset: str
    purpose: str
    keep_uploads: str = "none"
    params: Mapping[str, Scalar] = field(default_factory=dict)
    timeouts: Mapping[str, float] = field(default_factory=lambda: dict(TIMEOUTS))
    schema: DataSchema | None = None
    """How raw rows become inputs and labels; a data set must be registered by the same schema."""
    privacy: Privacy | None = None
    """Mechanism, noise and ε of the whole job; None: the job promises no differential privacy."""
    require: Requirement | None = None
    """Whom the run must not go on without; None: it goes on with those that are there."""
    resume: ResumePolicy | None = None
    """Whether an interrupted run goes on by itself; None: the defaults."""

    @classmethod
    def parse(cls, raw: Mapping[str, object], where: str = "job") -> JobSpec:
        for key in raw:
            if key not in (*_TOP, *_OPTIONAL):
                names = ", ".join((*_TOP, *_OPTIONAL))
                raise SpecError(f"{where}.{key}", got=raw[key], want=f"one of the fields {names}")
        texts = {}
        for key in ("name", "method", "dataset", "purpose"):
            value = raw.get(key)
            if not isinstance(value, str):
                raise SpecError(f"{where}.{key}", got=value, want="text")
            texts[key] = value
        if not _NAME.fullmatch(texts["name"]):
            raise SpecError(f"{where}.name", got=texts["name"], want="lower-case letters, digits and -, at most 48")
        if not DATASET.fullmatch(texts["dataset"]):
            raise SpecError(
                f"{where}.dataset", got=texts["dataset"], want="lower-case letters, digits and . _ -, at most 63"
            )
        if not 1 <= len(texts["purpose"]) <= MOST_PURPOSE or not texts["purpose"].isprintable():
            raise SpecError(
                f"{where}.purpose", got=texts["purpose"][:80], want=f"a sentence of at most {MOST_PURPOSE} characters"
            )
        keep = raw.get("keep_uploads", "none")
        if keep not in KEEP:
            raise SpecError(f"{where}.keep_uploads", got=keep, want=f"one of {', '.join(KEEP)}")
        params = _table(raw.get("params", {}), f"{where}.params")
        if len(params) > MOST_PARAMS:
            raise SpecError(f"{where}.params", got=f"{len(params)} of them", want=f"at most {MOST_PARAMS}")
        for key, value in params.items():
            if isinstance(value, str) and len(value) > MOST_PARAM:
                got, want = f"{len(value)} characters", f"at most {MOST_PARAM} characters"
                raise SpecError(f"{where}.params.{key}", got=got, want=want)
            if not isinstance(value, int | float | str | bool) or (isinstance(value, float) and not isfinite(value)):
                raise SpecError(f"{where}.params.{key}", got=value, want="a finite number, a text or a boolean")
        times = dict(TIMEOUTS)
        for key, value in _table(raw.get("timeouts", {}), f"{where}.timeouts").items():
            if key not in times:
                raise SpecError(f"{where}.timeouts.{key}", got=value, want=f"one of {', '.join(times)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 7 * 86400:
                raise SpecError(f"{where}.timeouts.{key}", got=value, want="seconds, from 1 to 604800")
            times[key] = float(value)
        if texts["method"] not in METHODS:
            raise SpecError(f"{where}.method", got=texts["method"], want=f"one of {', '.join(sorted(METHODS))}")
        schema = None
        if "schema" in raw:
            schema = DataSchema.parse(_table(raw["schema"], f"{where}.schema"), f"{where}.schema")
            params = _by_schema(schema, params, where)
        privacy = None
        if "privacy" in raw:
            check_can(texts["method"], where)
            privacy = Privacy.parse(_table(raw["privacy"], f"{where}.privacy"), params, f"{where}.privacy")
            _check_unit(schema, where)
        made: dict[str, Any] = {**texts, "keep_uploads": keep, "params": params, "timeouts": times, "schema": schema}
        for name, table in _TABLES.items():
            if name in raw:
                made[name] = table.parse(_table(raw[name], f"{where}.{name}"), f"{where}.{name}")
        return cls(**made, privacy=privacy)

    @classmethod
    def load(cls, source: str | Path) -> JobSpec:
        """A job file's path, or the name of a job in the catalogue."""
        path = Path(source)
        if path.suffix == ".toml" or "/" in str(source):
            folder: Path | None = path.parent
            raw = text_files.read_toml(path, "a job file", remedy=_hint())
        else:
            entry = resources.files("jobs") / "catalogue" / f"{source}.toml"
            if not entry.is_file():
                raise SpecError("job", got=str(source), want="a job file or a catalogue name", remedy=_hint())
            raw, folder = tomllib.loads(entry.read_text(encoding="utf-8")), None
        if folder is not None and isinstance(named := raw.get("schema"), str):
            raw["schema"] = DataSchema.load(folder / named).fields
        return cls.parse(raw, path.name or str(source))

    @classmethod
    def from_text(cls, text: str) -> JobSpec:
        """The spec of a canonical text, exactly: another spelling of the same job is refused."""
        if len(text) > MOST_TEXT:
            raise SpecError("job text", got=f"{len(text)} characters", want=f"at most {MOST_TEXT} characters")
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as bad:
            raise SpecError("job text", got=text[:40], want="canonical JSON") from bad
        if not isinstance(raw, dict):
            raise SpecError("job text", got=text[:40], want="a JSON object")
        spec = cls.parse(raw)
        if spec.text != text:
            raise SpecError("job text", got=text[:40], want="the canonical form that `fed export` writes")
        return spec

    @property
    def text(self) -> str:
        return json.dumps(self._fields(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> bytes:
        return digest("job", self.text)

    def with_params(self, **changes: Scalar) -> JobSpec:
        """The same job with some parameters changed; a private one keeps its noise, and its ε is computed again where
        it has another number of steps."""
        params, fields = {**self.params, **changes}, self._fields()
        fields |= {"privacy": self.privacy_of(params)} if self.privacy is not None else {}
        return JobSpec.parse({**fields, "params": params})

    def privacy_of(self, params: Mapping[str, object]) -> dict[str, object] | None:
        """The fields of the same noise in a job with these parameters; None for a job without privacy."""
        if self.privacy is None or total_steps(params) == total_steps(self.params):
            return None if self.privacy is None else self.privacy.fields
        return self.privacy.with_steps(params).fields

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {key: getattr(self, key) for key in _TOP}
        tables = {name: table.fields for name in _OPTIONAL if (table := getattr(self, name)) is not None}
        return fields | tables

    def plan(self, charter: Charter) -> Plan:
        """What would be summed under this charter. Raises SpecError for the method's own parameters."""
        limits = Limits(
            n_max=len(charter.members),
            colluders=charter.colluders,
            honest=charter.honest,
            lane_floor=charter.lane_floor,
        )
        return self.plan_within(limits)

    def plan_within(self, limits: Limits) -> Plan:
        """The same, under these limits."""
        if self.privacy is not None:
            return private(self.method).private_plan(self.params, limits, self.privacy)
        return method(self.method).plan(self.params, limits)

    def trainer(self, silo: str) -> Method:
        """The method at a silo. Raises SpecError for its own parameters."""
        if self.privacy is not None:
            return private(self.method)(self.params, silo, privacy=self.privacy)
        return method(self.method)(self.params, silo)


def encode_plan(plan: Plan) -> str:
    """The plan as it travels in a job: base64 of its bytes."""
    return base64.b64encode(bytes(plan)).decode()


def decode_plan(text: str) -> Plan:
    """The plan again. Raises SpecError for what is no base64, Malformed for what is no plan."""
    if len(text) > MOST_PLAN:
        raise SpecError("plan", got=f"{len(text)} characters", want=f"at most {MOST_PLAN} characters")
    try:
        return Plan.from_bytes(base64.b64decode(text, validate=True))
    except ValueError as bad:  # binascii.Error, or text that is not ASCII
        raise SpecError("plan", got=text[:24], want="base64 of a plan") from bad


def catalogue() -> list[str]:
    """Names of the jobs that come with the package."""
    return sorted(
        entry.name[:-5] for entry in (resources.files("jobs") / "catalogue").iterdir() if entry.name.endswith(".toml")
    )


def _by_schema(schema: DataSchema, params: Mapping[str, object], where: str) -> dict[str, object]:
    """The parameters, with what the schema says of the task: several labels, masks, or a number and its scale; and of a
    table, where the job does not, how many inputs and classes there are.

    Raises SpecError where they say another shape of rows, another task or number of classes than the schema."""
    key = "shape" if "shape" in params else "features"
    if key in params and shape_of(params) != schema.shape:
        sides = " ".join(map(str, schema.shape))
        raise SpecError(f"{where}.params.{key}", got=params[key], want=f"{sides}, as its schema says")
    of_task = dict(schema.params)
    if params.get("classes", of_task.get("classes")) != of_task.get("classes"):
        want = f"{of_task['classes']}, by its schema" if "classes" in of_task else "none: its schema has a number"
        raise SpecError(f"{where}.params.classes", got=params["classes"], want=want)
    if schema.columns:
        filled: dict[str, object] = {} if key in params else {"features": schema.shape[0]}
        params = filled | {name: of_task[name] for name in ("classes",) if name in of_task} | dict(params)
    if "task" not in of_task:
        return dict(params)
    for name, value in of_task.items():
        if params.get(name, value) != value:
            raise SpecError(f"{where}.params.{name}", got=params[name], want=f"{value}, by its schema")
    return {**of_task, **params}


def _check_unit(schema: DataSchema | None, where: str) -> None:
    """Raise SpecError where the schema says that several rows are of one person: the promise is for one row."""
    if schema is not None and (group := schema.fields["split"].get("group")):
        raise SpecError(
            f"{where}.privacy",
            got=f"a schema with the group {group!r}",
            want="rows that are each of another person",
            remedy="One row is protected, not all rows of a person: register one row a person, without a group.",
        )


def _hint() -> str:
    return f"The catalogue has: {', '.join(catalogue())}."


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise SpecError(where, got=value, want="a table")
    return dict(value)
