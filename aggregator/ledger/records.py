"""The records of the ledger: one frozen class a kind, each field with the shape that its JSON value must have.

A record is the contents of a line; ``format`` has the line around it. Digests are lower-case hex, counts and
milliseconds are whole numbers, codes and reasons come from a closed list (``REASONS``), times are the line's. A field
whose default is None is optional: None means that the line does not have it. Anything else (an unknown kind, a missing
or an unknown field, another shape) is refused at append and at verification.

This module is one file because it is the list of all records: an auditor reads it from top to bottom.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from aggregator.errors import RequiredLost, RunAborted, RunGivenUp
from crypto.errors import BY_CODE, FederationError, SpecError
from crypto.messages import PHASES

#: Why a silo dropped out of a step, a step is void or a run ended: the codes of refusals, what a server that was
#: restarted says of the step it had begun, that the run was ended from outside, and that its job requires more.
REASONS = frozenset(BY_CODE) | {
    *(FederationError.code, "INTERRUPTED", RunAborted.code, RunGivenUp.code, RequiredLost.code)
}

_HEX = re.compile(r"(?:[0-9a-f]{2})+")


class Kind(StrEnum):
    CHARTER = "charter"
    RUN_STARTED = "run-started"
    RUN_RESUMED = "run-resumed"
    APPROVAL = "approval"
    STEP_OPENED = "step-opened"
    STEP_ATTESTED = "step-attested"
    SILO_LOST = "silo-lost"
    REFUSAL = "refusal"
    STEP_VOID = "step-void"
    STEP_CLOSED = "step-closed"
    RUN_FINISHED = "run-finished"
    RUN_FAILED = "run-failed"
    MODEL_PUBLISHED = "model-published"
    WITHDRAWAL = "withdrawal"
    RECOVERED = "recovered"


# --- shapes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """What a JSON value must look like: in words, as a test, and how it becomes the field's value."""

    want: str
    holds: Callable[[Any], bool]
    load: Callable[[Any], Any] = lambda value: value


def _map(of: Shape) -> Shape:
    return Shape(
        f"object of {of.want}",
        lambda value: isinstance(value, dict) and all(map(of.holds, value.values())),
        lambda value: {key: of.load(item) for key, item in value.items()},
    )


_text = Shape("text", lambda value: isinstance(value, str))
_count = Shape("whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_hex = Shape("lower-case hex", lambda value: isinstance(value, str) and _HEX.fullmatch(value) is not None)
_table = Shape("object", lambda value: isinstance(value, dict))
_phase = Shape("a phase of a step, or nothing", lambda value: value == "" or value in PHASES)
_code = Shape("a code of the error tree", lambda value: isinstance(value, str) and value in REASONS)
_texts = Shape("list of text", lambda value: isinstance(value, list) and all(map(_text.holds, value)), tuple)

Text = Annotated[str, _text]
Count = Annotated[int, _count]
Hex = Annotated[str, _hex]
Phase = Annotated[str, _phase]
Code = Annotated[str, _code]
Texts = Annotated[tuple[str, ...], _texts]
Table = Annotated[Mapping[str, Any], _table]
TextOf = Annotated[Mapping[str, str], _map(_text)]
HexOf = Annotated[Mapping[str, str], _map(_hex)]
PhaseOf = Annotated[Mapping[str, str], _map(_phase)]
CodeOf = Annotated[Mapping[str, str], _map(_code)]
CountOf = Annotated[Mapping[str, int], _map(_count)]
TextsOf = Annotated[Mapping[str, tuple[str, ...]], _map(_texts)]


# --- records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The contents of one line. Maps are by silo unless their field says otherwise."""

    kind: ClassVar[Kind]

    def fields(self) -> dict[str, Any]:
        """The JSON object of the line: fields that are None are left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfRun(Record):
    """A record of one run. ``run``: the first 16 digits of the run's id, the name of its folder."""

    run: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class OfStep(OfRun):
    """A record of one step. ``k``: its number, from 0; ``name``: its name in the plan."""

    k: Count
    name: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class CharterRecorded(Record):
    """An epoch of the charter, before the first run under it. ``charter``: the bytes that the consortium signed."""

    kind = Kind.CHARTER

    epoch: Count
    charter_digest: Hex
    charter: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(OfRun):
    """The first record of a run."""

    kind = Kind.RUN_STARTED

    #: The job's canonical text, which data owners approve by its digest.
    job: Text
    job_digest: Hex
    #: The plan's bytes in base64.
    plan: Text
    plan_digest: Hex
    charter_digest: Hex
    #: Of the initial blocks.
    state_digest: Hex
    method: Text
    model_name: Text
    #: The members of the charter, sorted.
    silos: Texts
    #: How many silos must give shares to open a sum.
    threshold: Count
    protocol: Text
    #: What makes the run's whole id, with job and charter.
    nonce: Hex | None = None
    #: Digest of the release that the aggregator ran.
    code_digest: Hex | None = None
    purpose: Text | None = None
    #: As made by ``storage.stage_predictor``; None: versions of this run cannot predict.
    predictor: Table | None = None
    federation: Text | None = None
    attempt: Count | None = None
    #: State or weights digest of the run whose result this one starts from.
    parent: Hex | None = None
    #: Package → its version.
    versions: TextOf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalShown(OfRun):
    """A data owner's approval, when a silo first shows it. ``approval``: the bytes that the owner signed."""

    kind = Kind.APPROVAL

    k: Count
    silo: Text
    digest: Hex
    approval: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(OfRun):
    """A run that was interrupted goes on with step ``k`` from the state of that digest."""

    kind = Kind.RUN_RESUMED

    k: Count
    state_digest: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOpened(OfStep):
    """Silos are invited to a step. ``attempt``: counted from 0; None in old ledgers, which had one."""

    kind = Kind.STEP_OPENED

    invited: Texts
    attempt: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttested(OfStep):
    """The survivors of an attempt; written before their shares are asked for. ``transcript``: T3."""

    kind = Kind.STEP_ATTESTED

    attempt: Count
    transcript: Hex
    survivors: Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloLost(OfStep):
    """A silo did not answer in ``phase``."""

    kind = Kind.SILO_LOST

    silo: Text
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(OfStep):
    """A silo refused in ``phase``. ``decline``: the bytes that it signed, None where the aggregator noted the
    refusal."""

    kind = Kind.REFUSAL

    silo: Text
    phase: Phase
    code: Code
    decline: Hex | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVoid(OfStep):
    """A step without a result, whose shares may have left: weights stay. ``transcript``: T3; ``chain``: S after it."""

    kind = Kind.STEP_VOID

    reason: Code
    phase: Phase
    missing: Texts
    transcript: Hex | None = None
    chain: Hex | None = None
    invited: Texts | None = None
    lost: PhaseOf | None = None
    refusals: CodeOf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepClosed(OfStep):
    """A released step."""

    kind = Kind.STEP_CLOSED

    #: T3.
    transcript: Hex
    invited: Texts
    survivors: Texts
    #: The phase in which each silo fell out.
    lost: PhaseOf
    refusals: CodeOf
    lanes_open: Texts
    lanes_shut: Texts
    #: Slot → opened sum; without those that the silos withheld.
    slots: CountOf
    #: Of the blocks after the step.
    state_digest: Hex
    #: Of each survivor's signed header.
    upload_digests: HexOf
    upload_bytes: Count
    #: Phase → milliseconds.
    phase_ms: CountOf
    data_commitments: HexOf
    evidence_sha256: Hex | None = None
    #: S after the step.
    chain: Hex | None = None
    attempt: Count | None = None
    #: Digest of the approval that each survivor showed.
    approvals: HexOf | None = None
    #: The visible lanes that a silo holds; silos without any are left out.
    holdings: TextsOf | None = None
    policies: HexOf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(OfRun):
    """The end of a run that went through all its steps. ``checkpoint``: path of the final blocks in the run's folder.

    ``countersignatures``: each silo's signed ``Closing`` over run, ``chain`` and ``ledger_head``.
    """

    kind = Kind.RUN_FINISHED

    state_digest: Hex
    chain: Hex
    countersignatures: HexOf
    weights_sha256: Hex
    checkpoint: Text
    ledger_head: Hex | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(OfRun):
    """The end of a run that did not. ``code``: the error's; ``ABORTED`` by the administrator, ``GIVEN_UP`` by NVFlare.

    ``k``: the step it had reached.
    """

    kind = Kind.RUN_FAILED

    code: Code
    phase: Phase
    missing: Texts
    k: Count | None = None
    detail: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPublished(OfRun):
    """An alias was moved to the run's model version. ``by``: who typed it."""

    kind = Kind.MODEL_PUBLISHED

    model_name: Text
    version: Text
    alias: Text
    weights_sha256: Hex
    by: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal(Record):
    """A silo left with charter epoch ``epoch``. ``remedies``: what is planned for each model version that has it."""

    kind = Kind.WITHDRAWAL

    silo: Text
    reason: Text
    epoch: Count
    charter_digest: Hex
    models: Texts
    #: Model version → remedies.
    remedies: TextsOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(Record):
    """The next writer cut off this many bytes, which a killed writer had left without a newline."""

    kind = Kind.RECOVERED

    bytes: Count
    sha256: Hex


RECORDS: Mapping[Kind, type[Record]] = {
    cls.kind: cls
    for cls in (
        CharterRecorded, RunStarted, RunResumed, ApprovalShown, StepOpened, StepAttested, SiloLost, Refusal, StepVoid,
        StepClosed, RunFinished, RunFailed, ModelPublished, Withdrawal, Recovered,
    )
}  # fmt: skip


# --- from and to JSON --------------------------------------------------------------------------------------------


def _fields(cls: type[Record]) -> tuple[dict[str, Shape], dict[str, Shape]]:
    hints = get_type_hints(cls, include_extras=True)
    found = {one.name: (_shape(hints[one.name]), one.default is MISSING) for one in fields(cls)}
    return (
        {name: shape for name, (shape, needed) in found.items() if needed},
        {name: shape for name, (shape, needed) in found.items() if not needed},
    )


def _shape(hint: Any) -> Shape:
    if shape := next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Shape)), None):
        return shape
    return next(_shape(option) for option in get_args(hint) if option is not type(None))


#: kind → (required fields, optional fields), each with its shape.
SCHEMA: Mapping[Kind, tuple[Mapping[str, Shape], Mapping[str, Shape]]] = {
    kind: _fields(cls) for kind, cls in RECORDS.items()
}


def check_fields(kind: Kind, found: Mapping[str, Any]) -> None:
    """Raise SpecError unless the object has every required field, no unknown one, and values of the right shape."""
    required, optional = SCHEMA[kind]
    if missing := sorted(required.keys() - found.keys()):
        raise SpecError(f"ledger {kind}", got=sorted(found), want=f"also {', '.join(missing)}")
    if unknown := sorted(found.keys() - required.keys() - optional.keys()):
        raise SpecError(f"ledger {kind}", got=unknown, want=f"only {', '.join(sorted({**required, **optional}))}")
    for key, value in found.items():
        shape = required.get(key) or optional[key]
        if not shape.holds(value):
            raise SpecError(f"ledger {kind}.{key}", got=value, want=shape.want)


def parse_record(name: str, found: Mapping[str, Any]) -> Record:
    """The record of a line's JSON object. Raises SpecError for an unknown kind or another shape."""
    try:
        kind = Kind(name)
    except ValueError:
        raise SpecError("ledger kind", got=name, want=f"one of {', '.join(Kind)}") from None
    check_fields(kind, found)
    required, optional = SCHEMA[kind]
    known = {**required, **optional}
    return RECORDS[kind](**{key: known[key].load(value) for key, value in found.items()})


def run_of(record: Record) -> str:
    """The run that a record is of; empty for one that is no run's."""
    return record.run if isinstance(record, OfRun) else ""


def is_hex(value: object) -> bool:
    return _hex.holds(value)


def is_count(value: object) -> bool:
    return _count.holds(value)
