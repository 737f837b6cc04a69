"""Where an interrupted run stands, from the ledger: replay its records, and what they say is where it goes on.

The ledger is the truth. A step counts when it is closed or void there; a step whose survivor set was attested but
which has neither is spent, since shares may have left, so it becomes void. Blocks come from the checkpoint that the
ledger's digest names. Results that silos may lack are rebuilt from the ledger's slots and the kept sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aggregator.ledger.format import read
from aggregator.ledger.records import Kind
from aggregator.rounds.storage import checkpoint_steps, drop_checkpoint, kept_sums, load_checkpoint
from crypto import blocks, transcript
from crypto.cohort import words_digest
from crypto.errors import EvidenceError, SpecError
from crypto.messages import StepResult
from crypto.plan import Plan

Result = tuple[StepResult, tuple[np.ndarray, ...]]


@dataclass(slots=True)
class Standing:
    """Where a run stands before step ``k``. ``spent``: T3 of step k, if shares may have left for it. ``attempt``: the
    first number that no silo has heard of. ``results``: of the steps from ``oldest`` on; before it all silos have
    them. ``resumed``: how often the run was resumed before."""

    run: bytes
    nonce: bytes
    chain: bytes
    state: Mapping[str, np.ndarray]
    k: int = 0
    attempt: int = 0
    spent: bytes | None = None
    oldest: int = 0
    results: list[Result] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)
    resumed: int = 0
    released: int = 0
    void: int = 0
    shut: int = 0
    refusals: int = 0
    bytes: int = 0


def replay(ledger: Path, folder: Path, plan: Plan, *, job: bytes, charter: bytes, code: bytes) -> Standing:
    """Where the run in ``jobs/<folder>`` stands. Raises SpecError for a run that can't be resumed: unknown, finished,
    of another job, charter or code; EvidenceError where ledger and folder don't fit."""
    run = folder.name
    entries = [entry for entry in read(ledger) if entry.record.get("run") == run]
    if not entries:
        raise SpecError("--resume", got=run, want="a run on the ledger")
    if any(entry.kind is Kind.RUN_FINISHED for entry in entries):
        raise SpecError("--resume", got=run, want="a run that has not finished", remedy="Submit the job as a new run.")
    start = entries[0].record
    for name, now in (("job_digest", job), ("plan_digest", plan.digest), ("charter_digest", charter)):
        _same(run, name, start[name], now)
    _same(run, "code_digest", start.get("code_digest", ""), code)
    nonce = bytes.fromhex(start["nonce"])
    state = blocks.initial_state(plan)
    id_ = transcript.run_id(job, charter, nonce)
    at = Standing(id_, nonce, transcript.initial_chain(id_, blocks.state_digest(state)), state)
    last: tuple[int, str] | None = None
    for entry in entries:
        record = entry.record
        match entry.kind:
            case Kind.STEP_OPENED:
                at.attempt = record.get("attempt", 0) + 1
            case Kind.STEP_ATTESTED:
                at.spent = bytes.fromhex(record["transcript"])
            case Kind.STEP_CLOSED | Kind.STEP_VOID:
                at.k, at.attempt, at.spent = record["k"] + 1, 0, None
                at.chain = bytes.fromhex(record["chain"])
                if entry.kind is Kind.STEP_CLOSED:
                    last = (record["k"], record["state_digest"])
                    at.released += 1
                    at.shut += len(record["lanes_shut"])
                    at.bytes += record["upload_bytes"]
                else:
                    at.void += 1
            case Kind.APPROVAL:
                at.shown.add(record["digest"])
            case Kind.REFUSAL:
                at.refusals += 1
            case Kind.RUN_RESUMED:
                at.resumed += 1
            case _:
                pass
    if last is not None:
        at.state = load_checkpoint(folder, last[0], expect=bytes.fromhex(last[1])).state
    for step in checkpoint_steps(folder):
        if last is None or step > last[0]:
            drop_checkpoint(folder, step)  # written, but its step was never closed
    outcomes = [entry for entry in entries if entry.kind in (Kind.STEP_CLOSED, Kind.STEP_VOID)]
    at.oldest = at.k
    for entry in reversed(outcomes):
        result = _result(folder, plan, entry.kind, entry.record)
        if result is None:
            break
        at.results.insert(0, result)
        at.oldest -= 1
    return at


def _same(run: str, name: str, then: str, now: bytes) -> None:
    if then != now.hex():
        raise SpecError(
            f"--resume {run}, {name}",
            got=now.hex()[:16],
            want=then[:16],
            remedy="A run goes on with what it began with: the same job, charter and release. Or start a new run.",
        )


def _result(folder: Path, plan: Plan, kind: Kind, record: Mapping[str, object]) -> Result | None:
    """A step's result again, or None where its sums are gone: then every silo had them."""
    k = int(str(record["k"]))
    t3 = bytes.fromhex(str(record["transcript"]))
    if kind is Kind.STEP_VOID:
        return StepResult(step=k, t3=t3, released=False, slots=(), sums=()), ()
    step = plan.steps[k]
    lanes: list[str] = record["lanes_open"]  # type: ignore[assignment]
    sums = kept_sums(folder, k)
    if len(sums) != len(lanes):
        return None
    slots: dict[str, int] = record["slots"]  # type: ignore[assignment]
    result = StepResult(
        step=k,
        t3=t3,
        released=True,
        slots=tuple(slots[slot.name] for slot in plan.slots_of(step)),
        sums=tuple((lane, words_digest(words)) for lane, words in zip(lanes, sums, strict=True)),
    )
    for lane, words in zip(lanes, sums, strict=True):
        if words.size != (want := plan.words_of(step, lane)):
            raise EvidenceError(f"{folder.name}/sums/{k:06d}, lane {lane}", expected=f"{want} words", found=words.size)
    return result, sums
