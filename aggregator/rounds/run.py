"""A run: the job's steps in order, each opened, voided or lost, each on the ledger before the next begins.

A generator, as each attempt at a step is (``aggregator.rounds.attempt``). It keeps the state chain. A silo that stayed
away is offered every step, with the results that it missed, but is not waited for. The run ends with the silos'
countersignatures over the final state and the ledger's head.

This module is one file because the order of its writes is the crash safety of a run: store, record, then go on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.errors import RequiredLost, RunAborted
from aggregator.home import RunFolder, file_name
from aggregator.ledger.format import read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import run_of
from aggregator.requirement import NOTHING, Requirement
from aggregator.rounds import metrics
from aggregator.rounds.attempt import STEADY, Attempt, Attendance, Exchange, Opened, Replies, Timeouts
from aggregator.rounds.catch_up import Backlog, Part, check_steps
from aggregator.rounds.cohort_fit import AskedFor
from aggregator.rounds.recorder import Recorder
from aggregator.rounds.resume import RunState, attested_before, most_weight, replay
from aggregator.rounds.storage import (
    UploadStore,
    drop_all_sums,
    prune_checkpoints,
    save_checkpoint,
    save_evidence,
)
from aggregator.run_record import RunRecord
from crypto import blocks, transcript
from crypto.approval import approval_digest
from crypto.charter import Charter
from crypto.cohort import Context
from crypto.encoding import Writer
from crypto.errors import CatchingUp, FederationError, RoundLost, SpecError
from crypto.keys import Identity
from crypto.messages import DECLINE, Closing, Decline, Message, Open, Request, StepResult
from crypto.plan import Plan, Scope, Step

log = logging.getLogger("consilium.aggregator")

#: Attempts at a step before any share may have left.
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run is about. ``job``: the job's text and ``job_digest`` its digest; ``name`` names the model too.

    ``code``: digest of the software; ``versions``: of the packages it uses. ``purpose``: what the job says it is for.
    ``require``: whom it must not go on without.
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
    require: Requirement = NOTHING


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended. ``results`` of each step are on the ledger; this is what a caller prints."""

    run: str
    folder: Path
    steps_released: int
    steps_void: int
    lanes_shut: int
    refusals: int
    state_digest: str
    upload_bytes: int


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
        spec.require.check_members(charter.silos)
        self.spec = spec
        self.charter = charter
        self.ledger = ledger
        self._identity = identity
        digests = {"job": spec.job_digest, "charter": charter.digest}
        if resume is None:
            self._at = RunState.start(spec.plan, **digests, nonce=os.urandom(32) if nonce is None else nonce)
            self.folder = RunFolder(jobs / self._at.id.hex()[:16])
            self._backlog = Backlog(self.folder, charter.silos)
        else:
            self.folder = RunFolder(jobs / file_name("run", resume))
            record = _record(ledger, resume)
            self._at, results, oldest = replay(record, self.folder, spec.plan, **digests, code=spec.code)
            self._backlog = Backlog(self.folder, charter.silos, results, oldest)
        self._goes_on = resume is not None
        self._recorder = Recorder(ledger, self.folder.run)
        #: Called with every exchange before it is made, and with (None, note) at the end.
        self.watch: Callable[[Exchange | None, str], None] = lambda exchange, note: None
        #: The ``predictor`` object of the ledger's run-started record, if versions of this run can predict.
        self.predictor: Mapping[str, Any] | None = None
        #: Who fell out of the attempt that is under way, and where.
        self.attendance = Attendance()
        self._deadline = time.monotonic() + spec.timeouts.job_s
        self._excluded: set[str] = set()
        self._most_weight: dict[str, int] = {}  #: lane of all silos → the largest sum of weights that opened in it
        self._asked_for = AskedFor(spec.plan, charter.honest + charter.colluders)
        if resume is not None:
            self._asked_for.ask_again(attested_before(record))
            self._most_weight = most_weight(record, self.folder, spec.plan) if spec.require.rows else {}

    @property
    def name(self) -> str:
        return self.folder.run

    @property
    def id(self) -> bytes:
        """The whole run id, 32 bytes."""
        return self._at.id

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        """The blocks after the last step."""
        return self._at.blocks

    def run(self) -> Generator[Exchange, Replies, RunOutcome]:
        """Every step, then the countersignatures. Raises RoundLost; the ledger then ends with ``run-failed``.

        A driver ends it early by throwing a ``RunStopped`` in: recorded alike, and the run may be resumed. One that
        just closes the generator, as a process that is stopped does, leaves the run open on the ledger.
        """
        self.folder.root.mkdir(parents=True, exist_ok=True)
        spec, at = self.spec, self._at
        metrics.run_started()
        try:
            first = self._resumed() if self._goes_on else self._started()
            for step in spec.plan.steps[at.k :]:
                yield from self._step(step, first)
                first = 0
            return (yield from self._finish())
        except FederationError as failed:
            aborted = isinstance(failed, RunAborted)
            self._recorder.failed(at.k, failed)
            if not aborted:
                metrics.step_lost()
            metrics.run_ended("aborted" if aborted else "failed")
            self.watch(None, f"failed: {failed}")
            raise

    def _started(self) -> int:
        """The run's first record; the number of its first attempt."""
        spec = self.spec
        self._recorder.started(
            job=spec.job,
            job_digest=spec.job_digest,
            plan=spec.plan,
            charter=self.charter,
            state_digest=self._at.digest,
            model_name=spec.name,
            protocol=transcript.PROTOCOL,
            nonce=self._at.nonce,
            code=spec.code,
            purpose=spec.purpose,
            versions=spec.versions,
            predictor=self.predictor,
        )
        return 0

    def _resumed(self) -> int:
        """Record the resumption; a step whose shares may have left becomes void. Returns the number of the first
        attempt that no silo has seen."""
        at = self._at
        self._recorder.resumed(at.k, at.digest)
        if at.spent is None:
            return at.attempt
        self._void(self.spec.plan.steps[at.k], at.spent, Attendance(), "INTERRUPTED", "unmask-slots", ())
        return 0

    # --- one step -------------------------------------------------------------------------------------------------

    def _step(self, step: Step, first: int) -> Generator[Exchange, Replies, None]:
        """``first``: number of the first attempt."""
        at = self._at
        for number in range(first, first + ATTEMPTS):
            if time.monotonic() > self._deadline:
                raise RoundLost(
                    "open", (), detail="The job's time is up.", remedy="Raise timeouts.job, or look for the slow silo."
                )
            context = Context(
                charter=self.charter, plan=self.spec.plan, run=at.id, k=at.k, attempt=number, chain=at.chain
            )
            attendance = self.attendance = Attendance()
            store = UploadStore(self.folder, at.k, self.spec.keep_uploads)
            for silo in self.charter.silos if number else ():
                store.drop(silo)  # left by an earlier attempt
            attempt = self._attempt(context, store, attendance, step)
            offers = {silo: self._offer(attempt, silo) for silo in self.charter.silos if silo not in self._excluded}
            self._recorder.opened(at.k, step, number, tuple(offers))
            try:
                opened = yield from self._watched(attempt.run(offers, *self._awaited(offers)))
            except RoundLost as lost:
                self._note(step, attendance)
                if attempt.spent:
                    self._void(step, attempt.t3, attendance, lost.code, lost.phase, lost.missing)
                    log.warning("step %s is void: %s", step.name, lost)
                    store.retire(sums=False)
                    return
                steady = sum(code in STEADY for code in attendance.refusals.values())
                if number + 1 == first + ATTEMPTS or len(self.charter.silos) - steady < self.charter.n_min:
                    raise
                log.warning("step %s is tried again: %s", step.name, lost)
            else:
                self._note(step, attendance)
                self._close(step, number, opened, attendance)
                store.retire(sums=bool(opened.sums))
                self._check_rows(step, opened, attendance)
                return

    def _awaited(self, offers: Mapping[str, Message]) -> tuple[int, frozenset[str]]:
        """How many of these silos are waited for: those that are not away, and whom the job requires. And the silos
        that are waited for even if they cannot be reached: they may be on their way back."""
        require, away = self.spec.require, self._at.away
        here = len(offers.keys() - (away - set(require.silos)))
        least = require.least(len(self.charter.silos))
        some_missing = len(offers.keys() - away) < least
        return max(here, least), frozenset(offers if some_missing else require.silos)

    def _check_rows(self, step: Step, opened: Opened, attendance: Attendance) -> None:
        """Raises RequiredLost where the weights of a lane of all silos fall below the job's share of their most."""
        share = self.spec.require.rows
        for lane in self.spec.plan.lanes_of(step) if share else ():
            weight = opened.result.weights.get(lane.name)
            if lane.scope is not Scope.ALL or weight is None:
                continue
            most = self._most_weight[lane.name] = max(weight, self._most_weight.get(lane.name, 0))
            if weight < share * most:
                lacking = f"with {weight / most:.0%} of the rows that it had, and it requires {share:.0%}"
                raise RequiredLost("unmask-lanes", tuple(sorted(attendance.lost)), lacking)

    def _attempt(self, context: Context, store: UploadStore, attendance: Attendance, step: Step) -> Attempt:
        spec = self.spec

        def attested(t3: bytes, survivors: tuple[str, ...]) -> None:
            self._recorder.attested(context.k, step, context.attempt, t3, survivors)

        return Attempt(
            context,
            self._identity,
            store,
            spec.timeouts,
            attendance,
            job=spec.job_digest,
            code=spec.code,
            blocks=self._at.digest,
            asked_for=self._asked_for,
            attested=attested,
            lacking=lambda silos: spec.require.lacking(silos, self.charter.silos),
        )

    def _watched(self, attempt: Generator[Exchange, Replies, Opened]) -> Generator[Exchange, Replies, Opened]:
        """Pass exchanges through; the watcher is called with each."""
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
        part = self._backlog.part(silo)
        return Message("open", attempt.request("open", bytes(self._open(part))).body, part.arrays)

    def _open(self, part: Part) -> Open:
        return Open(
            job=self.spec.job_digest,
            plan=self.spec.plan.digest,
            charter=self.charter.digest,
            code=self.spec.code,
            nonce=self._at.nonce,
            chain=self._at.chain,
            results=part.results,
            proofs=part.proofs,
        )

    def _note(self, step: Step, attendance: Attendance) -> None:
        """Record approvals, refusals and absences. A silo that stayed away is not waited for in the next step; one
        whose messages show its fault, or that more than c others blame, is not asked again in this run."""
        at = self._at
        by_others = {silo for silo, by in attendance.blamed.items() if len(by) > self.charter.colluders}
        for silo in sorted((attendance.convicted | by_others) - self._excluded):
            log.warning("%s is left out of the rest of this run: its messages, or more than c others, blame it", silo)
            self._excluded.add(silo)
        for silo, approval in sorted(attendance.approvals.items()):
            if (digest := approval_digest(approval).hex()) not in at.shown:
                self._recorder.approval(at.k, silo, approval)
                at.shown.add(digest)
        for silo, phase in sorted(attendance.lost.items()):
            if silo in attendance.refusals:
                code = attendance.refusals[silo]
                self._recorder.refusal(at.k, step, silo, phase, code, attendance.declines.get(silo))
                metrics.refused(code)
                at.refusals += 1
            else:
                self._recorder.lost(at.k, step, silo, phase)
                if silo not in at.away:
                    metrics.silo_lost(phase)
                at.away.add(silo)
        for silo in attendance.invited:
            if attendance.lost.get(silo) != "open":
                self._backlog.confirmed(silo)  # its advert was made under our state
            elif attendance.refusals.get(silo) == CatchingUp.code:
                self._backlog.took(silo)
                at.away.discard(silo)
            if silo not in attendance.lost:
                at.away.discard(silo)
        for phase, spent in attendance.phase_ms.items():
            metrics.phase(phase, spent / 1000)

    def _close(self, step: Step, number: int, opened: Opened, attendance: Attendance) -> None:
        at, plan = self._at, self.spec.plan
        result = opened.result
        slots = result.figures(step)
        words = {lane: found.words for lane, found in opened.sums.items()}
        at.blocks = blocks.apply(plan, step, at.blocks, words, result.weights)
        at.chain = transcript.next_chain(at.chain, result.t3, result.digest, released=True)
        shut = [lane.name for lane in plan.lanes_of(step) if lane.name not in opened.sums]
        self._backlog.add(result, opened.proof, [array for found in opened.sums.values() for array in found.wire])
        save_evidence(self.folder, at.k, opened.evidence)
        save_checkpoint(self.folder, at.k, at.blocks, {"chain": at.chain.hex()})
        prune_checkpoints(self.folder, keep=2)
        self._recorder.closed(
            at.k, step, number, opened, attendance,
            slots=slots, lanes_shut=shut, state_digest=at.digest, chain=at.chain,
        )  # fmt: skip
        at.k += 1
        at.released += 1
        at.shut += len(shut)
        at.upload_bytes += attendance.upload_bytes
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
        result = StepResult(step=at.k, chain=at.chain, t3=t3, released=False, slots=(), sums=())
        at.chain = transcript.next_chain(at.chain, t3, b"", released=False)
        self._backlog.add(result, (), ())
        self._recorder.void(at.k, step, attendance, t3=t3, chain=at.chain, reason=reason, phase=phase, missing=missing)
        at.k += 1
        at.void += 1
        metrics.step_void()

    # --- the end --------------------------------------------------------------------------------------------------

    def _finish(self) -> Generator[Exchange, Replies, RunOutcome]:
        at, head = self._at, self._recorder.head
        signatures = yield from self._countersigned(bytes.fromhex(head))
        checkpoint = save_checkpoint(self.folder, at.k - 1, at.blocks, {"chain": at.chain.hex()})
        self._recorder.finished(checkpoint, chain=at.chain, head=head, countersignatures=signatures)
        drop_all_sums(self.folder)
        metrics.run_ended("finished")
        self.watch(None, "finished")
        return RunOutcome(
            self.name,
            self.folder.root,
            at.released,
            at.void,
            at.shut,
            at.refusals,
            checkpoint.digest.hex(),
            at.upload_bytes,
        )

    def _countersigned(self, head: bytes) -> Generator[Exchange, Replies, dict[str, bytes]]:
        """Ask every silo to sign the final chain value and the ledger's head; silo → its signed ``Closing``."""
        at, number = self._at, self._at.resumed + 1 if self._goes_on else 0
        self.attendance = Attendance()
        requests = {}
        for silo in self.charter.silos:
            part = self._backlog.part(silo)
            payload = bytes(Writer().blob(bytes(self._open(part))).fixed(head, transcript.DIGEST_BYTES))
            request = Request(run=at.id, step=at.k - 1, attempt=number, phase="close", payload=payload)
            requests[silo] = Message("close", request.sign(self._identity), part.arrays)
        enough = len(requests.keys() - at.away)
        exchange = Exchange("close", at.k, "close", requests, self.spec.timeouts.phase_s, enough)
        self.watch(exchange, "")
        signatures = {}
        for silo, reply in (yield exchange).items():
            try:
                if reply.phase == DECLINE:
                    declined = Decline.open(reply.body, lambda m: self.charter.member(m.silo).agent)
                    log.warning("%s does not countersign: %s", silo, declined.code)
                    continue
                closing = Closing.open(reply.body, lambda m: self.charter.member(m.silo).agent)
            except FederationError as bad:
                log.warning("%s did not countersign: [%s] %s", silo, bad.code, bad)
                continue
            if (closing.silo, closing.run, closing.chain, closing.ledger) == (silo, at.id, at.chain, head):
                signatures[silo] = reply.body
        return signatures


def _record(ledger: Ledger, run: str) -> RunRecord:
    """The run on the ledger, for going on with it. Raises SpecError for one that is not there, EvidenceError for one
    whose beginning is not."""
    entries = tuple(entry for entry in read(ledger.path) if run_of(entry.record) == run)
    if not entries:
        raise SpecError("--resume", got=run, want="a run on the ledger")
    return RunRecord.among(entries, run)
