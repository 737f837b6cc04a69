"""A run: the job's steps in order, each opened, voided or lost, each on the ledger before the next begins.

A generator like its steps (see ``round``). It keeps the state chain, stops inviting on credit (a silo that
stayed away is offered every step, with what it missed, but no longer waited for), and ends with the silos'
countersignatures over the final state and the ledger's head.
"""

from __future__ import annotations

import logging
import os
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.errors import RunAborted, RunStopped
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.rounds import metrics
from aggregator.rounds.attempt import STEADY, Attempt, Attendance, Exchange, Opened, Replies, Timeouts
from aggregator.rounds.catch_up import Backlog, check_steps
from aggregator.rounds.resume import Standing, replay
from aggregator.rounds.storage import (
    UploadStore,
    drop_all_sums,
    prune_checkpoints,
    save_checkpoint,
    save_evidence,
)
from crypto import blocks, transcript
from crypto.approval import approval_digest
from crypto.charter import Charter
from crypto.cohort import Context, words_digest
from crypto.encoding import Writer
from crypto.errors import CatchingUp, FederationError, RoundLost, SpecError
from crypto.keys import Identity
from crypto.messages import DECLINE, Closing, Decline, Message, Open, StepResult
from crypto.plan import Plan, Step

log = logging.getLogger("consilium.aggregator")

#: Attempts at a step before any share may have left.
ATTEMPTS = 3
PROTOCOL = "consilium/1"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run is about. ``job``: the job's text and ``job_digest`` its digest; ``name`` names the model too.

    ``code``: digest of the software; ``versions``: of what it stands on. ``purpose``: what the job says it is for.
    """

    job: str
    job_digest: bytes
    name: str
    plan: Plan
    timeouts: Timeouts
    code: bytes
    purpose: str
    versions: Mapping[str, str] = field(default_factory=dict)
    keep_uploads: str = "none"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. ``results`` of each step are on the ledger; this is what a caller prints."""

    run: str
    folder: Path
    steps_released: int
    steps_void: int
    lanes_shut: int
    refusals: int
    state_digest: str
    upload_bytes: int


@dataclass(slots=True)
class _Chain:
    """Where the run stands."""

    value: bytes
    state: Mapping[str, np.ndarray]
    backlog: Backlog
    k: int = 0
    away: set[str] = field(default_factory=set)
    released: int = 0
    void: int = 0
    shut: int = 0
    refusals: int = 0
    shown: set[str] = field(default_factory=set)  # approvals that are on the ledger
    bytes: int = 0


class Run:
    """One job under one charter. ``folder``: ``jobs/<run>`` in the aggregator's home.

    ``resume``: the run to go on with, instead of a new one. Raises SpecError if it can't be (see ``resume``).
    """

    def __init__(
        self,
        spec: RunSpec,
        charter: Charter,
        identity: Identity,
        ledger: Ledger,
        jobs: Path,
        *,
        nonce: bytes | None = None,
        resume: str | None = None,
    ) -> None:
        if identity.public != charter.aggregator:
            raise SpecError(
                "aggregator key",
                got="another key",
                want="the one the charter names",
                remedy="Use the key that the consortium enrolled.",
            )
        if spec.plan.n_max < len(charter.members):
            raise SpecError(
                "plan.n_max", got=spec.plan.n_max, want=f"at least {len(charter.members)}, the charter's members"
            )
        check_steps(spec.plan)
        self.spec = spec
        self.charter = charter
        self.ledger = ledger
        self._identity = identity
        self._nonce = os.urandom(32) if nonce is None else nonce
        self.id = transcript.run_id(spec.job_digest, charter.digest, self._nonce)
        self.folder = jobs / self.id.hex()[:16]
        #: Called with every exchange before it is made, and with (None, note) at the end.
        self.watch: Callable[[Exchange | None, str], None] = lambda exchange, note: None
        #: The ``predictor`` object of the ledger's run-started record, if versions of this run can predict.
        self.predictor: Mapping[str, Any] | None = None
        #: Who fell out of the attempt that is under way, and where.
        self.attendance = Attendance()
        self._deadline = time.monotonic() + spec.timeouts.job_s
        self._standing: Standing | None = None
        if resume is None:
            state = blocks.initial_state(spec.plan)
            chain = transcript.initial_chain(self.id, blocks.state_digest(state))
            self._at = _Chain(chain, state, Backlog(self.folder, charter.silos))
        else:
            self._go_on(jobs / resume)

    def _go_on(self, folder: Path) -> None:
        """Stand where the ledger says that the run stands."""
        spec = self.spec
        at = self._standing = replay(
            self.ledger.path,
            folder,
            spec.plan,
            job=spec.job_digest,
            charter=self.charter.digest,
            code=spec.code,
        )
        self._nonce, self.id, self.folder = at.nonce, at.run, folder
        self._at = _Chain(
            at.chain,
            at.state,
            Backlog(folder, self.charter.silos, at.results, at.oldest),
            k=at.k,
            released=at.released,
            void=at.void,
            shut=at.shut,
            refusals=at.refusals,
            shown=at.shown,
            bytes=at.bytes,
        )

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        return self._at.state

    def run(self) -> Generator[Exchange, Replies, Outcome]:
        """Every step, then the countersignatures. Raises RoundLost; the ledger then ends with ``run-failed``.

        A driver ends it early by throwing a ``RunStopped`` in: recorded alike, and the run may be resumed. One that
        just closes the generator, as a process that is stopped does, leaves the run open on the ledger.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        spec, at = self.spec, self._at
        metrics.run_started()
        try:
            first = self._resumed() if self._standing is not None else self._started()
            for step in spec.plan.steps[at.k :]:
                yield from self._step(step, first)
                first = 0
            return (yield from self._finish())
        except FederationError as failed:
            lost = failed if isinstance(failed, RoundLost) else None
            aborted = isinstance(failed, RunAborted)
            record = {
                "run": self.name,
                "code": failed.code,
                "phase": failed.phase if isinstance(failed, RoundLost | RunStopped) else "",
                "missing": list(lost.missing) if lost else [],
                "k": at.k,
                "detail": lost.why if lost else failed.detail,
            }
            self.ledger.append(Kind.RUN_FAILED, record)
            if not aborted:
                metrics.step_lost()
            metrics.run_ended("aborted" if aborted else "failed")
            self.watch(None, f"failed: {failed}")
            raise

    def _started(self) -> int:
        """The run's first record; the number of its first attempt."""
        spec = self.spec
        started = {
            "run": self.name,
            "job": spec.job,
            "job_digest": spec.job_digest.hex(),
            "plan": b64encode(bytes(spec.plan)).decode(),
            "plan_digest": spec.plan.digest.hex(),
            "charter_digest": self.charter.digest.hex(),
            "state_digest": blocks.state_digest(self._at.state).hex(),
            "method": spec.plan.method,
            "model_name": spec.name,
            "silos": list(self.charter.silos),
            "threshold": self.charter.threshold(len(self.charter.members)),
            "protocol": PROTOCOL,
            "federation": self.charter.federation,
            "nonce": self._nonce.hex(),
            "code_digest": spec.code.hex(),
            "purpose": spec.purpose,
            "versions": dict(spec.versions),
        }
        if self.predictor is not None:
            started["predictor"] = dict(self.predictor)
        self.ledger.append(Kind.RUN_STARTED, started)
        return 0

    def _resumed(self) -> int:
        """A run that goes on: what was spent becomes void. The number of the first attempt that nobody heard of."""
        at, standing = self._at, self._standing
        assert standing is not None
        resumed = {"run": self.name, "k": at.k, "state_digest": blocks.state_digest(at.state).hex()}
        self.ledger.append(Kind.RUN_RESUMED, resumed)
        if standing.spent is None:
            return standing.attempt
        self._void(self.spec.plan.steps[at.k], standing.spent, Attendance(), "INTERRUPTED", "unmask-slots", ())
        return 0

    # --- one step -------------------------------------------------------------------------------------------------

    def _step(self, step: Step, first: int) -> Generator[Exchange, Replies, None]:
        """``first``: number of the first attempt."""
        at = self._at
        excluded: set[str] = set()
        for number in range(first, first + ATTEMPTS):
            if time.monotonic() > self._deadline:
                raise RoundLost(
                    "open", (), detail="The job's time is up.", remedy="Raise timeouts.job, or look for the slow silo."
                )
            context = Context(
                charter=self.charter, plan=self.spec.plan, run=self.id, k=at.k, attempt=number, chain=at.value
            )
            attendance = self.attendance = Attendance()
            store = UploadStore(self.folder, at.k, self.spec.keep_uploads)
            for silo in self.charter.silos if number else ():
                store.drop(silo)  # what an attempt before left there
            attempt = self._attempt(context, store, attendance, step)
            offers = {silo: self._offer(attempt, silo) for silo in self.charter.silos if silo not in excluded}
            self.ledger.append(
                Kind.STEP_OPENED,
                {"run": self.name, "k": at.k, "name": step.name, "invited": sorted(offers), "attempt": number},
            )
            try:
                opened = yield from self._watched(attempt.run(offers, len(offers.keys() - at.away)))
            except RoundLost as lost:
                self._note(step, attendance)
                if attempt.spent:
                    self._void(step, attempt.t3, attendance, lost.code, lost.phase, lost.missing)
                    log.warning("step %s is void: %s", step.name, lost)
                    store.retire()
                    return
                excluded |= {silo for silo, by in attendance.blamed.items() if len(by) > self.charter.colluders}
                steady = sum(code in STEADY for code in attendance.refusals.values())
                if number + 1 == first + ATTEMPTS or len(self.charter.silos) - steady < self.charter.n_min:
                    raise
                log.warning("step %s is tried again: %s", step.name, lost)
            else:
                self._note(step, attendance)
                self._close(step, number, opened, attendance)
                store.retire()
                return

    def _attempt(self, context: Context, store: UploadStore, attendance: Attendance, step: Step) -> Attempt:
        spec = self.spec

        def attested(t3: bytes, survivors: tuple[str, ...]) -> None:
            facts = {"attempt": context.attempt, "transcript": t3.hex(), "survivors": list(survivors)}
            self.ledger.append(Kind.STEP_ATTESTED, {"run": self.name, "k": context.k, "name": step.name, **facts})

        return Attempt(
            context,
            self._identity,
            store,
            spec.timeouts,
            attendance,
            job=spec.job_digest,
            code=spec.code,
            attested=attested,
        )

    def _watched(self, attempt: Generator[Exchange, Replies, Opened]) -> Generator[Exchange, Replies, Opened]:
        """Pass exchanges through and tell the watcher of each."""
        replies: Replies | None = None
        while True:
            try:
                exchange = attempt.send(replies) if replies is not None else next(attempt)
            except StopIteration as done:
                opened: Opened = done.value
                return opened
            self.watch(exchange, "")
            replies = yield exchange

    def _offer(self, attempt: Attempt, silo: str) -> Message:
        results, arrays = self._at.backlog.part(silo)
        return Message("open", attempt.request("open", bytes(self._open(results))).body, arrays)

    def _open(self, results: tuple[StepResult, ...]) -> Open:
        return Open(
            job=self.spec.job_digest,
            plan=self.spec.plan.digest,
            charter=self.charter.digest,
            code=self.spec.code,
            nonce=self._nonce,
            chain=self._at.value,
            results=results,
        )

    def _note(self, step: Step, attendance: Attendance) -> None:
        """Refusals and absences are records too; whoever stayed away is not waited for next time."""
        at = self._at
        for silo, approval in sorted(attendance.approvals.items()):
            if (digest := approval_digest(approval).hex()) not in at.shown:
                shown = {"run": self.name, "k": at.k, "silo": silo, "digest": digest, "approval": approval.hex()}
                self.ledger.append(Kind.APPROVAL, shown)
                at.shown.add(digest)
        base = {"run": self.name, "k": at.k, "name": step.name}
        for silo, phase in sorted(attendance.lost.items()):
            if silo in attendance.refusals:
                code = attendance.refusals[silo]
                signed = {"decline": attendance.declines[silo].hex()} if silo in attendance.declines else {}
                self.ledger.append(Kind.REFUSAL, {**base, "silo": silo, "phase": phase, "code": code, **signed})
                metrics.refused(code)
                at.refusals += 1
            else:
                self.ledger.append(Kind.SILO_LOST, {**base, "silo": silo, "phase": phase})
                if silo not in at.away:
                    metrics.silo_lost(phase)
                at.away.add(silo)
        for silo in attendance.invited:
            if attendance.lost.get(silo) != "open":
                at.backlog.confirmed(silo)  # its advert was made under our state
            elif attendance.refusals.get(silo) == CatchingUp.code:
                at.backlog.took(silo)
                at.away.discard(silo)
            if silo not in attendance.lost:
                at.away.discard(silo)
        for phase, spent in attendance.phase_ms.items():
            metrics.phase(phase, spent / 1000)

    def _close(self, step: Step, number: int, opened: Opened, attendance: Attendance) -> None:
        at, plan = self._at, self.spec.plan
        result = StepResult(
            step=at.k,
            t3=opened.t3,
            released=True,
            slots=opened.slots,
            sums=tuple((lane, words_digest(words)) for lane, words in opened.sums.items()),
        )
        slots = dict(zip((slot.name for slot in plan.slots_of(step)), opened.slots, strict=True))
        at.state = blocks.apply(plan, step, at.state, opened.sums, slots)
        at.value = transcript.next_chain(at.value, opened.t3, result.digest, released=True)
        shut = [lane.name for lane in plan.lanes_of(step) if lane.name not in opened.sums]
        at.backlog.add(result, tuple(opened.sums.values()))
        record = {
            "run": self.name,
            "k": at.k,
            "name": step.name,
            "attempt": number,
            "transcript": opened.t3.hex(),
            "invited": list(attendance.invited),
            "survivors": list(opened.survivors),
            "lost": attendance.lost,
            "refusals": attendance.refusals,
            "lanes_open": list(opened.sums),
            "lanes_shut": shut,
            "slots": slots,
            "state_digest": blocks.state_digest(at.state).hex(),
            "chain": at.value.hex(),
            "upload_digests": {
                silo: transcript.digest("upload", header).hex() for silo, header in opened.headers.items()
            },
            "upload_bytes": attendance.upload_bytes,
            "phase_ms": attendance.phase_ms,
            "evidence_sha256": sha256(opened.evidence).hexdigest(),
            "data_commitments": {silo: digest.hex() for silo, digest in opened.data.items()},
            "approvals": {silo: approval_digest(attendance.approvals[silo]).hex() for silo in opened.survivors},
            "holdings": {silo: list(held) for silo, held in opened.held.items() if held},
        }
        save_evidence(self.folder, at.k, opened.evidence)
        save_checkpoint(self.folder, at.k, at.state, {"chain": at.value.hex()})
        prune_checkpoints(self.folder, keep=2)
        self.ledger.append(Kind.STEP_CLOSED, record)
        at.k += 1
        at.released += 1
        at.shut += len(shut)
        at.bytes += attendance.upload_bytes
        metrics.step_closed(
            survivors=len(opened.survivors),
            invited=len(attendance.invited),
            lanes_open=list(opened.sums),
            lanes_shut=shut,
            upload_bytes=attendance.upload_bytes,
            slots=slots,
        )

    def _void(
        self, step: Step, t3: bytes, attendance: Attendance, reason: str, phase: str, missing: tuple[str, ...]
    ) -> None:
        """Shares may have left, so the step can't be tried again: weights stay, the chain goes on."""
        at = self._at
        at.value = transcript.next_chain(at.value, t3, b"", released=False)
        at.backlog.add(StepResult(step=at.k, t3=t3, released=False, slots=(), sums=()), ())
        self.ledger.append(
            Kind.STEP_VOID,
            {
                "run": self.name,
                "k": at.k,
                "name": step.name,
                "reason": reason,
                "phase": phase,
                "missing": list(missing),
                "transcript": t3.hex(),
                "chain": at.value.hex(),
                "invited": list(attendance.invited),
                "lost": attendance.lost,
                "refusals": attendance.refusals,
            },
        )
        at.k += 1
        at.void += 1
        metrics.step_void()

    # --- the end --------------------------------------------------------------------------------------------------

    def _finish(self) -> Generator[Exchange, Replies, Outcome]:
        at = self._at
        head = self.ledger.head
        context = Context(
            charter=self.charter,
            plan=self.spec.plan,
            run=self.id,
            k=len(self.spec.plan.steps) - 1,
            attempt=0 if self._standing is None else self._standing.resumed + 1,
            chain=at.value,
        )
        self.attendance = Attendance()
        attempt = self._attempt(context, UploadStore(self.folder, at.k), self.attendance, self.spec.plan.steps[-1])
        requests = {}
        for silo in self.charter.silos:
            results, arrays = at.backlog.part(silo)
            payload = bytes(
                Writer().blob(bytes(self._open(results))).fixed(bytes.fromhex(head), transcript.DIGEST_BYTES)
            )
            requests[silo] = Message("close", attempt.request("close", payload).body, arrays)
        enough = len(requests.keys() - at.away)
        exchange = Exchange("close", at.k, "close", requests, self.spec.timeouts.phase_s, enough)
        self.watch(exchange, "")
        replies = yield exchange
        signatures = {}
        for silo, reply in replies.items():
            try:
                if reply.phase == DECLINE:
                    declined = Decline.open(reply.body, lambda m: self.charter.member(m.silo).agent)
                    log.warning("%s does not countersign: %s", silo, declined.code)
                    continue
                closing = Closing.open(reply.body, lambda m: self.charter.member(m.silo).agent)
            except FederationError as bad:
                log.warning("%s did not countersign: [%s] %s", silo, bad.code, bad)
                continue
            if (closing.silo, closing.run, closing.chain, closing.ledger) == (
                silo,
                self.id,
                at.value,
                bytes.fromhex(head),
            ):
                signatures[silo] = reply.body.hex()
        checkpoint = save_checkpoint(self.folder, at.k - 1, at.state, {"chain": at.value.hex()})
        self.ledger.append(
            Kind.RUN_FINISHED,
            {
                "run": self.name,
                "state_digest": checkpoint.digest.hex(),
                "chain": at.value.hex(),
                "ledger_head": head,
                "countersignatures": signatures,
                "weights_sha256": checkpoint.weights_sha256,
                "checkpoint": checkpoint.path,
            },
        )
        drop_all_sums(self.folder)
        metrics.run_ended("finished")
        self.watch(None, "finished")
        return Outcome(
            self.name, self.folder, at.released, at.void, at.shut, at.refusals, checkpoint.digest.hex(), at.bytes
        )
