"""The state of an interrupted run, rebuilt from its records on the ledger.

The ledger is the truth. A step counts when it is closed or void there; a step whose survivor set was attested but
which has neither is spent, since shares may have left, so it becomes void. Blocks come from the checkpoint that the
ledger's digest names. Results that silos may lack are read from the steps' evidence, with the kept sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from aggregator.home import RunFolder
from aggregator.ledger.records import Record, RunResumed, StepAttested, StepClosed, StepOpened, StepVoid
from aggregator.rounds.storage import checkpoint_steps, drop_checkpoint, kept_sums, load_checkpoint, load_evidence
from aggregator.run_record import RunRecord
from crypto import transcript
from crypto.blocks import initial_state, state_digest
from crypto.errors import EvidenceError, SpecError
from crypto.messages import StepResult
from crypto.plan import Plan, Scope
from crypto.proof import wire_sizes


@dataclass(frozen=True, slots=True)
class Result:
    """What a step opened. ``proof``: the signed tags; ``sums``: for each lane its words and its packed carries."""

    result: StepResult
    proof: tuple[bytes, ...]
    sums: tuple[np.ndarray, ...]


@dataclass(slots=True)
class RunState:
    """Where a run is, before step ``k``. ``chain``: S; ``blocks``: name → float32 array; ``away``: silos that stayed
    away and are offered every step but not waited for; ``shown``: digests of the approvals that are on the ledger."""

    id: bytes
    nonce: bytes
    chain: bytes
    blocks: Mapping[str, np.ndarray]
    k: int = 0
    away: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    released: int = 0
    void: int = 0
    shut: int = 0
    refusals: int = 0
    upload_bytes: int = 0
    #: Number of the first attempt at step k that no silo has heard of.
    attempt: int = 0
    #: T3 of step k, if shares may have left for it.
    spent: bytes | None = None
    #: How often the run was resumed.
    resumed: int = 0

    @classmethod
    def start(cls, plan: Plan, *, job: bytes, charter: bytes, nonce: bytes) -> RunState:
        """Before the first step: the initial blocks of this plan and run."""
        run = transcript.run_id(job, charter, nonce)
        state = initial_state(plan, run)
        return cls(run, nonce, transcript.initial_chain(run, state_digest(state)), state)

    @property
    def digest(self) -> bytes:
        """Of the blocks."""
        return state_digest(self.blocks)


def replay(
    record: RunRecord, folder: RunFolder, plan: Plan, *, job: bytes, charter: bytes, code: bytes
) -> tuple[RunState, list[Result], int]:
    """The state of the run in ``folder``, the results of its last steps, and the first step of those; every silo has
    the results before it. Raises SpecError for a run that can't be resumed (finished, or of another protocol,
    job, charter or code), EvidenceError where ledger and folder do not match."""
    run, start = record.run, record.started.record
    if record.finished is not None:
        raise SpecError("--resume", got=run, want="a run that has not finished", remedy="Submit the job as a new run.")
    if start.protocol != (ours := transcript.PROTOCOL):
        remedy = "A run goes on under the protocol that it began with. Submit the job as a new run."
        raise SpecError(f"--resume {run}, protocol", got=ours, want=start.protocol, remedy=remedy)
    _same(run, "job_digest", start.job_digest, job)
    _same(run, "plan_digest", start.plan_digest, plan.digest)
    _same(run, "charter_digest", start.charter_digest, charter)
    _same(run, "code_digest", start.code_digest or "", code)
    at = RunState.start(plan, job=job, charter=charter, nonce=bytes.fromhex(start.nonce or ""))
    start_chain = at.chain
    for entry in record.entries:
        _follow(at, entry.record)
    at.shown = {entry.record.digest for entry in record.approvals}
    at.resumed = sum(1 for _ in record.of(RunResumed))
    at.released, at.void, at.refusals = len(record.closed), len(record.void), len(record.refusals)
    at.shut = sum(len(entry.record.lanes_shut) for entry in record.closed)
    at.upload_bytes = sum(entry.record.upload_bytes for entry in record.closed)
    last = record.closed[-1].record if record.closed else None
    if last is not None:
        at.blocks = load_checkpoint(folder, last.k, expect=bytes.fromhex(last.state_digest)).state
    for step in checkpoint_steps(folder):
        if last is None or step > last.k:
            drop_checkpoint(folder, step)  # written, but its step was never closed
    outcomes = [entry.record for entry in record.outcomes]
    before = [start_chain, *(bytes.fromhex(outcome.chain or "") for outcome in outcomes)]
    results: list[Result] = []
    for outcome, chain in reversed(list(zip(outcomes, before, strict=False))):
        result = _result(folder, plan, outcome, chain)
        if result is None:
            break
        results.insert(0, result)
    return at, results, at.k - len(results)


def attested_before(record: RunRecord) -> Iterator[tuple[int, bytes, tuple[str, ...]]]:
    """(Step, digest of the blocks before it, survivors) of each attempt whose shares were asked for."""
    blocks = bytes.fromhex(record.started.record.state_digest)
    for entry in record.entries:
        match entry.record:
            case StepAttested(k=k, survivors=survivors):
                yield k, blocks, tuple(survivors)
            case StepClosed(state_digest=digest):
                blocks = bytes.fromhex(digest)


def most_weight(record: RunRecord, folder: RunFolder, plan: Plan) -> dict[str, int]:
    """Lane of all silos → the largest sum of weights that opened in it so far, by the steps' evidence."""
    most: dict[str, int] = {}
    shared = {lane.name for lane in plan.lanes if lane.scope is Scope.ALL}
    for entry in record.closed:
        if not shared & set(entry.record.lanes_open):
            continue
        evidence = load_evidence(folder, entry.record.k, expect=entry.record.evidence_sha256 or "")
        for lane, weight in StepResult.from_bytes(evidence.result).weights.items():
            if lane in shared:
                most[lane] = max(weight, most.get(lane, 0))
    return most


def _follow(at: RunState, record: Record) -> None:
    """Bring the place in the run up to date by one line: step, attempt, chain, and whether the step is spent."""
    match record:
        case StepOpened():
            at.attempt = (record.attempt or 0) + 1
        case StepAttested():
            at.spent = bytes.fromhex(record.transcript)
        case StepClosed() | StepVoid():
            at.k, at.attempt, at.spent = record.k + 1, 0, None
            at.chain = bytes.fromhex(record.chain or "")


def _same(run: str, name: str, then: str, now: bytes) -> None:
    if then != now.hex():
        raise SpecError(
            f"--resume {run}, {name}",
            got=now.hex()[:16],
            want=then[:16],
            remedy="A run goes on with what it began with: the same job, charter and release. Or start a new run.",
        )


def _result(folder: RunFolder, plan: Plan, record: StepClosed | StepVoid, before: bytes) -> Result | None:
    """A step's result again, or None where its sums are gone: then every silo had them. ``before``: S before it."""
    k = record.k
    if isinstance(record, StepVoid):
        t3 = bytes.fromhex(record.transcript or "")
        return Result(StepResult(step=k, chain=before, t3=t3, released=False, slots=(), sums=()), (), ())
    sums = kept_sums(folder, k)
    if len(sums) != 2 * len(record.lanes_open):  # words and carries
        return None
    evidence = load_evidence(folder, k, expect=record.evidence_sha256 or "")
    result = StepResult.from_bytes(evidence.result)
    if (found := [words.size for words in sums]) != (want := wire_sizes(plan, result)):
        raise EvidenceError(f"{folder.run}/sums/{k:06d}", expected=f"{want} words", found=found)
    return Result(result, evidence.tags, sums)
