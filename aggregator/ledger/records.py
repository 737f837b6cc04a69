"""The records of the ledger: closed kinds, each with its fields and the shape of each value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aggregator.errors import RunAborted, RunGivenUp
from crypto.errors import BY_CODE, FederationError, SpecError
from crypto.messages import PHASES

#: Why a silo dropped out of a step, a step is void or a run ended: refusals' codes, what a server says that came back,
#: and that it was ended from outside.
REASONS = frozenset(BY_CODE) | {FederationError.code, "INTERRUPTED", RunAborted.code, RunGivenUp.code}


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


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value in a record must look like: the words for people, and the test."""

    want: str
    holds: Callable[[Any], bool]


def _map(of: Shape) -> Shape:
    return Shape(f"object of {of.want}", lambda value: isinstance(value, dict) and all(map(of.holds, value.values())))


_text = Shape("text", lambda value: isinstance(value, str))
_count = Shape("whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_hex = Shape("lower-case hex", lambda value: isinstance(value, str) and _HEX.fullmatch(value) is not None)
_table = Shape("object", lambda value: isinstance(value, dict))
_phase = Shape("a phase of a step, or nothing", lambda value: value == "" or value in PHASES)
_code = Shape("a code of the error tree", lambda value: isinstance(value, str) and value in REASONS)
_texts = Shape("list of text", lambda value: isinstance(value, list) and all(map(_text.holds, value)))


def _keys(**shapes: Shape) -> dict[str, Shape]:
    return shapes


_STEP = _keys(run=_text, k=_count, name=_text)

#: kind → (required keys, optional keys), each with its shape.
SCHEMA: dict[Kind, tuple[dict[str, Shape], dict[str, Shape]]] = {
    Kind.CHARTER: (_keys(epoch=_count, charter_digest=_hex, charter=_hex), {}),
    Kind.RUN_STARTED: (
        _keys(
            run=_text, job=_text, job_digest=_hex, plan=_text, plan_digest=_hex, charter_digest=_hex, state_digest=_hex
        )
        | _keys(method=_text, model_name=_text, silos=_texts, threshold=_count, protocol=_text),
        _keys(predictor=_table, federation=_text, attempt=_count, parent=_hex, versions=_map(_text))
        | _keys(nonce=_hex, code_digest=_hex, purpose=_text),
    ),
    Kind.RUN_RESUMED: (_keys(run=_text, k=_count, state_digest=_hex), {}),
    Kind.APPROVAL: (_keys(run=_text, k=_count, silo=_text, digest=_hex, approval=_hex), {}),
    Kind.STEP_OPENED: (_STEP | _keys(invited=_texts), _keys(attempt=_count)),
    Kind.STEP_ATTESTED: (_STEP | _keys(attempt=_count, transcript=_hex, survivors=_texts), {}),
    Kind.SILO_LOST: (_STEP | _keys(silo=_text, phase=_phase), {}),
    Kind.REFUSAL: (_STEP | _keys(silo=_text, phase=_phase, code=_code), _keys(decline=_hex)),
    Kind.STEP_VOID: (
        _STEP | _keys(reason=_code, phase=_phase, missing=_texts),
        _keys(invited=_texts, lost=_map(_phase), refusals=_map(_code), transcript=_hex, chain=_hex),
    ),
    Kind.STEP_CLOSED: (
        _STEP
        | _keys(transcript=_hex, invited=_texts, survivors=_texts, lost=_map(_phase), refusals=_map(_code))
        | _keys(lanes_open=_texts, lanes_shut=_texts, slots=_map(_count), state_digest=_hex)
        | _keys(upload_digests=_map(_hex), upload_bytes=_count, phase_ms=_map(_count), data_commitments=_map(_hex)),
        _keys(
            evidence_sha256=_hex,
            chain=_hex,
            attempt=_count,
            approvals=_map(_hex),
            holdings=_map(_texts),
            policies=_map(_hex),
        ),
    ),
    Kind.RUN_FINISHED: (
        _keys(run=_text, state_digest=_hex, chain=_hex, countersignatures=_map(_hex), weights_sha256=_hex)
        | _keys(checkpoint=_text),
        _keys(ledger_head=_hex),
    ),
    Kind.RUN_FAILED: (_keys(run=_text, code=_code, phase=_phase, missing=_texts), _keys(k=_count, detail=_text)),
    Kind.MODEL_PUBLISHED: (
        _keys(run=_text, model_name=_text, version=_text, alias=_text, weights_sha256=_hex),
        _keys(by=_text),
    ),
    Kind.WITHDRAWAL: (
        _keys(silo=_text, reason=_text, epoch=_count, charter_digest=_hex, models=_texts, remedies=_map(_texts)),
        {},
    ),
    Kind.RECOVERED: (_keys(bytes=_count, sha256=_hex), {}),
}


def check_record(kind: Kind, record: Mapping[str, Any]) -> None:
    """Raise SpecError unless the record has every required key, no unknown one, and values of the right shape."""
    required, optional = SCHEMA[kind]
    if missing := sorted(required.keys() - record.keys()):
        raise SpecError(f"ledger {kind}", got=sorted(record), want=f"also {', '.join(missing)}")
    if unknown := sorted(record.keys() - required.keys() - optional.keys()):
        raise SpecError(f"ledger {kind}", got=unknown, want=f"only {', '.join(sorted(required | optional))}")
    for key, value in record.items():
        shape = (required | optional)[key]
        if not shape.holds(value):
            raise SpecError(f"ledger {kind}.{key}", got=value, want=shape.want)


def is_hex(value: object) -> bool:
    return _hex.holds(value)


def is_count(value: object) -> bool:
    return _count.holds(value)
