"""The silo's agent: accept → approve → contribute → answer.

It answers the server's signed requests and trusts nothing that the server claims: it recomputes the plan, keeps the
state itself, counts contributors itself, and writes the journal before bytes leave. A refusal is a signed ``Decline``
with a code; the reason stays in the silo's own log. The same request twice gets the same bytes. A different request
for a phase that was answered gets ``Equivocation``, and the two signed requests are kept as evidence; where they prove
nothing to others (another run, or parts addressed to one silo) it gets ``Replay``.

This module is one file so that everything a silo does with a request can be reviewed in one place; the protocol itself
is in ``crypto.silo_session``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crypto import blocks, equivocation, proof, quantities, scores, transcript
from crypto.approval import Terms, approval_digest
from crypto.atoms import Openings
from crypto.charter import Charter
from crypto.cohort import Context
from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import (
    AlreadyReleased,
    BadShare,
    BadSignature,
    CatchingUp,
    EgressDenied,
    Equivocation,
    FederationError,
    JournalLost,
    LayoutMismatch,
    Leaving,
    Malformed,
    ModelMismatch,
    OutOfRange,
    ProtocolError,
    Replay,
    SumNotProven,
    Unexpected,
    VersionMismatch,
)
from crypto.keys import Identity
from crypto.messages import (
    DECLINE,
    REPEATED,
    Closing,
    Decline,
    Message,
    Open,
    Request,
    StepResult,
    TagRequest,
    pack_two,
    request_digest,
    unpack_blobs,
    unpack_ranges,
    unpack_two,
    unpack_words,
    unsigned_request,
)
from crypto.opened_sets import Told
from crypto.plan import Plan, Step
from crypto.proof import Sum
from crypto.receipt import Applied, Receipt
from crypto.silo_session import SiloSession
from silo_agent import metrics
from silo_agent.approval_store import Approvals
from silo_agent.data import DataSet
from silo_agent.journal import Journal
from silo_agent.methods import Method, Published
from silo_agent.methods.personal import Personal
from silo_agent.methods.private import Releasing
from silo_agent.personal_model import PersonalModel
from silo_agent.policy import Policy
from silo_agent.privacy.account import Account
from silo_agent.privacy.accountant import Release
from silo_agent.run_checkpoint import Progress, Sent, load_progress, save_progress

log = logging.getLogger("consilium.silo")

#: Most answers that an agent keeps for repeated requests: those of two steps, all attempts.
MOST_ANSWERS = 64


class Refusing:
    """Takes the place of an agent that could not be made: declines every request, with the code of the reason."""

    #: Nothing is under way here, as in an agent that has left.
    left = True

    def __init__(self, silo: str, identity: Identity, reason: FederationError) -> None:
        self._silo = silo
        self._identity = identity
        self._reason = reason
        log.error("no agent for this job: [%s] %s", reason.code, reason)

    def handle(self, message: Message) -> Message:
        return Message(DECLINE, refusal(self._silo, message, self._reason.code).sign(self._identity))

    def close(self) -> None:
        """Nothing is open."""


def refusal(silo: str, message: Message, code: str, *, blame: str = "", key: bytes = b"") -> Decline:
    """The refusal of one request. Where its bytes are no request, it names no run: only the digest of the bytes."""
    request = unsigned_request(message.body)
    return Decline(
        silo=silo,
        request=request_digest(message.body),
        run=request.run if request else bytes(transcript.DIGEST_BYTES),
        step=request.step if request else 0,
        attempt=request.attempt if request else 0,
        phase=request.phase if request else "open",
        code=code,
        blame=blame,
        key=key,
    )


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a silo brings to every job: its identity, pinned charter, policy, approvals and records."""

    silo: str
    """Its id in the charter."""
    identity: Identity
    """The agent's signing key; its public half is in the charter."""
    charter: Charter
    """The pinned charter, its signature already checked."""
    policy: Policy
    """This silo's own floors."""
    approvals: Approvals
    """The data owner's signed approvals and denials."""
    journal: Journal
    """The append-only record of joins, attestations and releases. ``Agent.close`` closes it."""
    runs: Path
    """Folder of the progress files, one per run."""
    code: bytes
    """SHA-256 of the software; every party of a run must have the same."""
    now: Callable[[], int]
    """The clock: seconds since 1970, UTC."""
    keep: Callable[[str, bytes], None] = lambda name, evidence: None
    """Stores evidence against others under a file name. May raise OSError."""
    file: Callable[[str, bytes], None] = lambda name, receipt: None
    """Stores a signed receipt under a file name. May raise OSError."""
    personal: Callable[[str, bytes], None] = lambda run, model: None
    """Stores this silo's own model of a run, at this silo. May raise OSError."""
    security: Callable[..., None] = lambda event, **fields: None
    """Logs a security event: its name and fields. May raise NoSpace."""
    leaving: Callable[[], bool] = lambda: False
    """Whether this silo's service is about to end, so that no further step may begin here."""


class Agent:
    """One silo in one job. ``handle`` answers one signed request; ``close`` ends it.

    An agent serves one run, from its first step or from where the progress file of an earlier process left it.
    """

    def __init__(
        self,
        site: Site,
        *,
        terms: Terms,
        plan: Plan,
        method: Method,
        data: DataSet,
        job: str = "",
        account: Account | None = None,
    ) -> None:
        """``terms``: what the data owner must have approved, all of it recomputed by this silo. ``plan``: of the job,
        recomputed by this silo. ``method``: made for this job and silo. ``data``: the checked data set. ``job``: its
        canonical text, which a model of this silo alone is kept with. ``account``: of the data set, in a private job;
        its method says what each step costs."""
        self.site = site
        self.terms = terms
        self.plan = plan
        self.method = method
        self.data = data
        self.job = job
        self.account = account
        self.k = 0
        self.state: blocks.State = {}  # until a run is joined or resumed
        self._blocks = self._initial = b""
        self._nonce = b""
        self._approval = b""
        self._applied: list[Applied] = []
        self._ended = False
        self._leaving = False
        self.slots: dict[str, dict[str, int]] = {}
        self.own: dict[str, dict[str, int]] = {}
        self._run = b""
        self._chain = b""
        self._session: SiloSession | None = None
        self._weights: dict[str, int] = {}
        self._sent: Sent | None = None  # what it trained last, to be sent again from the same state
        self._counted: Sent | None = None  # the figures of the last step that trains nothing, for a further attempt
        self._answers: dict[tuple[int, int, str], tuple[bytes, Message]] = {}  # place → signed request, answer
        self._phases: dict[str, Callable[[Request, Message], Message]] = {
            "open": self._open,
            "deal": self._deal,
            "contribute": self._contribute,
            "fetch": self._fetch,
            "attest": self._attest,
            "unmask-slots": self._unmask_slots,
            "unmask-lanes": self._unmask_lanes,
            "tag": self._tag,
            "stand-in": self._stand_in,
            "close": self._close,
        }

    @property
    def left(self) -> bool:
        """Whether nothing is under way here: the run is over, or this silo declined a step because its service ends."""
        return self._leaving or self._ended

    @property
    def published(self) -> Published:
        return Published(self.state, self.slots)

    def handle(self, message: Message) -> Message:
        """Answer one request: a Message of the same phase, or of ``DECLINE``.

        A FederationError becomes a signed Decline with its code. What is raised is a programming error or an OSError of
        the silo's own disk."""
        try:
            request = Request.open(message.body, lambda _: self.site.charter.aggregator)
            if request.phase != message.phase:
                raise Malformed(f"A request for {request.phase!r} came as {message.phase!r}.")
        except FederationError as refused:
            log.warning("refused %s: [%s] %s", message.phase, refused.code, refused)
            if isinstance(refused, BadSignature):
                self.site.security("bad-signature", signer="aggregator")
            return self._decline(message, refused)
        place = (request.step, request.attempt, request.phase)
        try:
            if place in self._answers and request.phase not in REPEATED:
                before, answer = self._answers[place]
                if before != message.body:
                    raise self._refuse_second(request, before, message.body)
                return answer
            with metrics.phase(request.phase):
                answer = self._phases[request.phase](request, message)
        except FederationError as refused:
            log.warning("refused %s of step %d: [%s] %s", request.phase, request.step, refused.code, refused)
            if isinstance(refused, BadSignature):  # a peer's: the request's own signature held
                where = {"run": request.run.hex(), "step": request.step, "phase": request.phase}
                self.site.security("bad-signature", signer="peer", **where)
            answer = self._decline(message, refused)
            if isinstance(refused, (Equivocation, Replay, Unexpected)):
                return answer  # the first answer stays the recorded one
        if request.phase not in REPEATED:
            # Counted from our own step: a request for a distant step must not evict the present answers.
            kept = {key: value for key, value in self._answers.items() if key[0] >= self.k - 1}
            self._answers = dict(list(kept.items())[-MOST_ANSWERS:]) | {place: (message.body, answer)}
        return answer

    def _refuse_second(self, request: Request, before: bytes, now: bytes) -> FederationError:
        """The refusal of a different request for an answered phase. If the two are evidence, it is kept first."""
        what = f"Phase {request.phase!r} of step {request.step} was answered to another request"
        evidence = equivocation.twice(before, now, self.site.charter)
        if evidence is None:
            return Replay(f"{what}.")
        name = f"{request.run.hex()[:16]}-{request.step}-{request.attempt}-{request.phase}.bin"
        try:
            self.site.keep(name, evidence)
        except OSError as failed:
            log.error("evidence %s could not be kept: %s", name, failed)
        return Equivocation(
            f"{what}, signed by the same key.",
            evidence=(before, now),
            remedy=f"Show evidence/{name} to the other members: `fed verify`.",
        )

    def close(self) -> None:
        """Wipe the session and close the journal."""
        if self._session is not None:
            self._session.wipe()
        if self._run and not self._ended:
            self.site.security("run-ended", run=self._run.hex())
        self.site.journal.close()

    # --- phases ---------------------------------------------------------------------------------------------------

    def _open(self, request: Request, message: Message) -> Message:
        offer = Open.from_bytes(request.payload)
        self._accept(request, offer)
        self._catch_up(request, offer, message)
        self._check_not_leaving()
        approval = self._approved()
        self._check_state(offer, request.step)
        if self._released() is not None:
            raise AlreadyReleased(f"Shares of step {self.k} have left this silo: it is released or void.")
        context = self._context(request)
        self._check_budget(context.step)
        self.site.journal.advertise(self._run.hex(), self.k, request.attempt)  # one advert, so one signed T0, for each
        if self._session is not None:
            self._session.wipe()
        self._session = SiloSession(context, self.site.silo, self.site.identity, blocks=self._blocks)
        self._weights = self._weigh(context.step)
        advert = self._session.advert(
            weights=self._weights,
            releases=self.site.journal.releases,
            data=self.terms.commitment,
            approval=approval_digest(approval),
        )
        return Message("open", pack_two([advert], [(self.site.silo, approval)]))

    def _check_not_leaving(self) -> None:
        """Raises Leaving if this silo's service is about to end."""
        if self.site.leaving():
            self._leaving = True
            raise Leaving(f"This silo's service ends; it takes part in no step from {self.k} on.")

    def _check_budget(self, step: Step) -> None:
        """Raises BudgetSpent if a private job's step would cost more than the data owner has granted."""
        if self.account is not None and self._sent_before(step) is None:
            self.account.check(self._releases(step))

    def _spend(self, step: Step) -> None:
        """Record what a private job's new contribution costs, before it is kept and leaves: masked words that have
        left can be opened by the other silos without us. Raises BudgetSpent or NoSpace."""
        if self.account is not None:
            self.account.spend(self._run.hex(), self.k, self._releases(step))
            data = self.terms.commitment.hex()
            self.site.security("privacy-spent", run=self._run.hex(), step=self.k, data=data)

    def _releases(self, step: Step) -> tuple[Release, ...]:
        if not isinstance(self.method, Releasing):
            raise EgressDenied(step.name, remedy="The method of a private job must say what a step costs.")
        return self.method.releases(step)

    def _deal(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        of_step = quantities.of_step(self.plan, session.context.step, self._blocks)
        told = self.site.journal.told(frozenset().union(*of_step.values()), self.site.charter)
        deal, rows = session.deal(unpack_blobs(request.payload), told=told)
        self.site.journal.see_peers({silo: advert.releases for silo, advert in session.peers.items()})
        return Message("deal", pack_two([deal], list(rows.items())))

    def _contribute(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        deals, rows = unpack_two(request.payload)
        session.open_rows(deals, dict(rows))
        encoded = self._contributed(session.context.step)
        with metrics.masking(sum(4 * words.size for words in encoded.lanes.values())):
            header, section = session.upload(encoded)
        return Message("contribute", pack_two([header], [(self.site.silo, section)]))

    def _contributed(self, step: Step) -> blocks.Encoded:
        """This silo's integers for step ``k``. A further attempt, and a step after one that changed nothing, send the
        same ones: the rule of atoms is about sums of one value for each silo, and training takes time."""
        if (sent := self._sent_before(step)) is None:
            with metrics.training():
                contribution = self.method.contribute(step, self.published, self.data)
            encoded = self.observe(step, blocks.encode(self.plan, step, contribution, self._weights))
            self._spend(step)
            self._set_metrics(contribution.slots)
            self.own[step.name] = {name: int(count) for name, count in contribution.slots.items()}
            sent = Sent(self.k, self._blocks, encoded)
            if step.sums:
                self._sent = sent
                self._save_progress()  # before it leaves: others may open it without us, also after a restart of ours
            else:
                self._counted = sent
        return sent.encoded

    def _sent_before(self, step: Step) -> Sent | None:
        """What was trained for this step, or from the same published blocks for one with the same task and parts."""
        sent = self._sent if step.sums else self._counted
        if sent is None or sent.k == self.k:
            return sent
        before = self.plan.steps[sent.k]
        alike = (before.task, before.sums, before.slots) == (step.task, step.sums, step.slots)
        return sent if step.sums and alike and sent.blocks == self._blocks else None

    def _set_metrics(self, slots: Mapping[str, int]) -> None:
        """Set this silo's own metrics. They are served at this silo's /metrics and never leave by the protocol."""
        metrics.rows(self.data.rows)
        for name, count in slots.items():
            if name.endswith(".correct") and slots.get("test.rows"):
                metrics.accuracy(name.removesuffix(".correct"), count / slots["test.rows"])
        for mode in scores.modes(slots):
            for score in (one for one in scores.scores(slots, mode) if not one.of):  # a label alone is no series
                metrics.metric(score)

    def observe(self, step: Step, encoded: blocks.Encoded) -> blocks.Encoded:
        """A hook for the demonstration's histogram and for tests; here it does nothing."""
        return encoded

    def _fetch(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        arrays = []
        for lane, start, stop in unpack_ranges(request.payload):
            words = session.masked.get(lane)
            if words is None or not 0 <= start < stop <= words.size:
                raise LayoutMismatch(f"There are no words {start}…{stop} of lane {lane!r} to fetch.")
            arrays.append(words[start:stop])
        metrics.uploaded(sum(words.nbytes for words in arrays))
        return Message("fetch", b"", tuple(arrays))

    def _attest(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        session.survivors(unpack_blobs(request.payload))
        self.site.journal.attest(self._run.hex(), self.k, request.attempt, session.t3.hex())
        return Message("attest", session.attest())

    def _unmask_slots(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        attestations, masked = unpack_two(request.payload)
        journal, run = self.site.journal, self._run.hex()

        def record(told: Told) -> None:
            where = {"run": self._run.hex(), "step": self.k, "attempt": request.attempt}
            self.site.security("shares-released", t3=session.t3.hex(), **where)
            journal.release(run, self.k, session.t3.hex(), session.cohort)
            journal.open(run, self.k, told)

        shares = session.release_slots(attestations, dict(masked), known=self._opened_before(session), record=record)
        metrics.released()
        return Message("unmask-slots", shares)

    def _opened_before(self, session: SiloSession) -> Callable[[bytes], Openings]:
        """Quantity → the sets that this silo counts as opened by its journal. Releases under a protocol that recorded
        no sets count for all that depends on data alone, as if each silo had had the data that it has now."""
        journal, data = self.site.journal, {silo: advert.data for silo, advert in session.peers.items()}
        data[self.site.silo] = self.terms.commitment
        ids = {silo: quantities.contributor(silo, commitment) for silo, commitment in data.items()}
        earlier = Openings(frozenset(frozenset(ids.get(s, s) for s in cohort) for cohort in journal.earlier_cohorts))
        static = quantities.static(self.plan, session.context.step)
        return lambda quantity: journal.openings(quantity) | (earlier if quantity in static else Openings())

    def _unmask_lanes(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        shares = session.release_lanes(
            unpack_blobs(request.payload),
            floors=self.site.policy.floors,
            record=lambda told: self.site.journal.open(self._run.hex(), self.k, told),
        )
        for name, refused in session.withheld.items():
            log.warning("%s stays shut for us: [%s] %s", name, refused.code, refused)
            metrics.refused(refused.code)
        return Message("unmask-lanes", shares)

    def _tag(self, request: Request, message: Message) -> Message:
        return Message("tag", self._current(request).tag(TagRequest.from_bytes(request.payload)))

    def _stand_in(self, request: Request, message: Message) -> Message:
        session = self._current(request)
        src = Reader(request.payload)
        owner = src.text()
        src.end()
        result, step = session.result, session.context.step
        lanes = result.lanes_of(owner) if result is not None else ()
        words = unpack_words(message.arrays, [self.plan.wire_words_of(step, lane) for lane in lanes])
        return Message("stand-in", session.stand_in(owner, dict(zip(lanes, words, strict=True))))

    def _close(self, request: Request, message: Message) -> Message:
        src = Reader(request.payload)
        offer, head = Open.from_bytes(src.blob()), src.fixed(transcript.DIGEST_BYTES)
        src.end()
        self._accept(request, offer)
        self._catch_up(request, offer, message)
        self._check_state(offer, len(self.plan.steps))
        self.site.security("run-ended", run=self._run.hex(), chain=self._chain.hex())
        self._ended = True
        log.info("run %s has finished: this silo signs its end", self._run.hex()[:16])
        closing = Closing(silo=self.site.silo, run=self._run, chain=self._chain, ledger=head)
        self._file_receipt(head)
        self._keep_personal()
        return Message("close", closing.sign(self.site.identity))

    # --- what the phases share ------------------------------------------------------------------------------------

    def _accept(self, request: Request, offer: Open) -> None:
        """Check that run, job, plan, charter and code are ours, and join the run if this is its first request.

        Raises VersionMismatch, ModelMismatch, JournalLost, NotApproved or Leaving; SpecError for an expired charter.
        """
        self.site.charter.check_validity(self.site.now())
        for what, have, want, remedy in (
            ("the charter", self.site.charter.digest, offer.charter, "Pin the same epoch at both ends."),
            ("the code", self.site.code, offer.code, "Install the same release at every silo and the aggregator."),
            ("the job", self.terms.job, offer.job, "Submit the job again."),
            ("the plan", self.plan.digest, offer.plan, "Run the same version of the package at both ends."),
        ):
            if have != want:
                raise VersionMismatch(what, site=self.site.silo, have=have.hex(), want=want.hex(), remedy=remedy)
        run = transcript.run_id(offer.job, offer.charter, offer.nonce)
        if request.run != run or (self._run and run != self._run):
            raise ModelMismatch("The run's id is not made from this job, charter and nonce.")
        if not self._run:
            self._check_not_leaving()  # before a run is joined, which would use an approval
            if self.site.journal.knows(run.hex()):
                self._resume(run, offer.nonce)
                return
            if request.step != 0 and not (offer.results and offer.results[0].step == 0):
                raise JournalLost("The run is under way and this silo has no journal of it.")
            used = approval_digest(self._approved(run)).hex()
            start = blocks.initial_state(self.plan, run)
            job = self.terms.job.hex()
            self.site.security("approval-used", job=job, approval=used, run=run.hex())
            self.site.journal.join(run.hex(), used)
            self.site.security("run-joined", run=run.hex(), job=job)
            log.info("run %s joined, job %s", run.hex()[:16], job[:16])
            self._run, self._nonce = run, offer.nonce
            self._set_state(start)
            self._initial = self._blocks
            self._chain = transcript.initial_chain(run, self._initial)
            self._save_progress()

    def _resume(self, run: bytes, nonce: bytes) -> None:
        """Restore this run's state from the local progress file of an earlier process."""
        progress = load_progress(self._progress_path(run))
        start = blocks.initial_state(self.plan, run)
        if progress is None or progress.nonce != nonce or progress.state.keys() != start.keys():
            raise JournalLost(
                "This silo joined this run before a restart, and its progress file is missing or another run's."
            )
        self._run, self._nonce, self._initial = run, nonce, blocks.state_digest(start)
        self.k, self._chain = progress.k, progress.chain
        self.slots = {name: dict(slots) for name, slots in progress.slots.items()}
        self.own = {name: dict(slots) for name, slots in progress.own.items()}
        self._applied, self._sent = list(progress.applied), progress.sent
        self._set_state(progress.state)
        self.method.load_state_dict(progress.kept)
        log.info("run %s is resumed before step %d", run.hex()[:16], self.k)

    def _save_progress(self) -> None:
        """Save this run's progress file, which ``_resume`` reads."""
        progress = Progress(
            k=self.k,
            chain=self._chain,
            nonce=self._nonce,
            state=self.state,
            slots=self.slots,
            own=self.own,
            applied=tuple(self._applied),
            sent=self._sent,
            kept=self.method.state_dict(),
        )
        save_progress(self._progress_path(self._run), progress)

    def _progress_path(self, run: bytes) -> Path:
        return self.site.runs / f"{run.hex()[:16]}.safetensors"

    def _released(self) -> str | None:
        """T3 of this silo's release of step ``k``, in this process or an earlier one, by the journal."""
        return self.site.journal.release_of(self._run.hex(), self.k)

    def _approved(self, run: bytes = b"") -> bytes:
        """The approval that covers this job, looked up again for each step, so that a denial takes effect at once."""
        joining = (run or self._run).hex()
        self._approval = self.site.approvals.grant(
            self.terms, now=self.site.now(), uses=lambda digest: self.site.journal.uses(digest, besides=joining)
        )
        return self._approval

    def _file_receipt(self, head: bytes) -> None:
        """Store this silo's own record of the run. A full disk loses the receipt, not the countersignature."""
        receipt = Receipt(
            silo=self.site.silo,
            run=self._run,
            job=self.terms.job,
            plan=self.plan.digest,
            charter=self.site.charter.digest,
            code=self.site.code,
            nonce=self._nonce,
            approval=approval_digest(self._approval),
            data=self.terms.commitment,
            initial=self._initial,
            chain=self._chain,
            ledger=head,
            steps=tuple(self._applied),
        )
        try:
            self.site.file(f"{self._run.hex()[:16]}.bin", receipt.sign(self.site.identity))
        except OSError as failed:
            log.error("the receipt of run %s could not be kept: %s", self._run.hex()[:16], failed.strerror)

    def _keep_personal(self) -> None:
        """Store this silo's own model, if it has one. A full disk loses the model, not the countersignature."""
        if not isinstance(self.method, Personal) or not self.method.has_personal:
            return
        run = self._run.hex()
        model = PersonalModel(
            silo=self.site.silo,
            run=run,
            job=self.job,
            step=self.k,
            data=self.terms.commitment.hex(),
            code=self.site.code.hex(),
            kept_at=self.site.now(),
            published=self.published,
            own=self.method.state_dict(),
        )
        try:
            self.site.personal(run, bytes(model))
        except OSError as failed:
            log.error("this silo's own model of run %s could not be kept: %s", run[:16], failed.strerror)

    def _catch_up(self, request: Request, offer: Open, message: Message) -> None:
        """Apply the opened steps that are not applied yet, each proven, and checked against what this silo saw of it.

        Raises SumNotProven for one that is not, ModelMismatch for one of another state or session, and what is wrong
        with its signatures: this silo's state is unchanged, and what was announced is kept.
        """
        for result in offer.results:
            if not 0 <= result.step < len(self.plan.steps):
                raise ModelMismatch(f"The plan has no step {result.step}.")
            for one in result.sums:
                if one.lane not in {lane.name for lane in self.plan.lanes_of(self.plan.steps[result.step])}:
                    raise ModelMismatch(f"Step {result.step} has no lane {one.lane!r}.")
        arrays = iter(
            unpack_words(
                message.arrays, [size for result in offer.results for size in proof.wire_sizes(self.plan, result)]
            )
        )
        for result, tags in zip(offer.results, offer.proofs, strict=True):
            sums = {one.lane: Sum.from_wire(next(arrays), next(arrays), len(one.uploaders)) for one in result.sums}
            if result.step > self.k:
                raise ModelMismatch(f"This silo needs the result of step {self.k} before that of step {result.step}.")
            if result.step == self.k:
                try:
                    self._apply(result, sums, tags)
                except ProtocolError:
                    self._keep_unproven(request, message)
                    raise

    def _keep_unproven(self, request: Request, message: Message) -> None:
        """Store the signed request and its arrays: what the aggregator announced and could not prove."""
        name = f"{request.run.hex()[:16]}-{request.step}-{request.attempt}-unproven.bin"
        out = Writer().u8(VERSION).blob(message.body)
        out.each(message.arrays, lambda w, words: w.blob(words.tobytes()))
        try:
            self.site.keep(name, bytes(out))
        except OSError as failed:
            log.error("evidence %s could not be kept: %s", name, failed)

    def _check_state(self, offer: Open, step: int) -> None:
        """Raises ModelMismatch unless our state is the server's before ``step``; CatchingUp if results are missing."""
        if self.k < step and offer.results and offer.results[-1].step == self.k - 1:
            raise CatchingUp(f"This silo has the results before step {self.k}; the server is at step {step}.")
        if (self.k, self._chain) != (step, offer.chain):
            raise ModelMismatch(
                f"This silo is before step {self.k}; its state is not the server's state before step {step}."
            )

    def _apply(self, result: StepResult, sums: Mapping[str, Sum], tags: tuple[bytes, ...]) -> None:
        step = self.plan.steps[self.k]
        if result.chain != self._chain:
            raise ModelMismatch(f"The result of step {step.name!r} was made from another state than this silo's.")
        session, released = self._session, self._released()
        mine = session if session is not None and session.context.k == self.k and session.spent else None
        if not result.released:
            if result.slots or result.sums:
                raise Malformed("A void step with a result.")
            self._chain = transcript.next_chain(self._chain, result.t3, b"", released=False)
            self._applied.append(Applied(self.k, result.t3, bytes(transcript.DIGEST_BYTES), False))
            self.k += 1
            self._save_progress()
            log.info("step %s is void: nothing is applied", step.name)
            metrics.step("void")
            return
        if released is not None and released != result.t3.hex():
            raise ModelMismatch(f"The result of step {step.name!r} is not that of the session we took part in.")
        if mine is not None and mine.result is not None and mine.result != result:
            raise SumNotProven(f"The result of step {step.name!r} is not the one that this silo signed.")
        proof.check_result(self.site.charter, self.plan, result, sums, tags)
        words = {lane: found.words for lane, found in sums.items()}
        self._set_state(blocks.apply(self.plan, step, self.state, words, result.weights))
        self.slots[step.name] = result.figures(step)
        self._chain = transcript.next_chain(self._chain, result.t3, result.digest, released=True)
        self._applied.append(Applied(self.k, result.t3, result.digest, True))
        self.k += 1
        self._save_progress()
        part = "with" if released is not None else "without"
        log.info("step %s (%d of %d) applied, %s this silo", step.name, self.k, len(self.plan.steps), part)
        metrics.step("released" if released is not None else "missed")

    def _set_state(self, state: blocks.State) -> None:
        """Take these published blocks; what was trained from others is not sent again."""
        self.state, self._blocks = dict(state), blocks.state_digest(state)
        if self._sent is not None and self._sent.blocks != self._blocks:
            self._sent = None

    def _weigh(self, step: Step) -> dict[str, int]:
        """The method's weights, each checked to be 0 or on its lane's grid. They are fixed before training."""
        if (sent := self._sent_before(step)) is not None:
            return dict(sent.encoded.weights)
        weights = self.method.weights(step, self.published, self.data)
        lanes = {lane.name: lane for lane in self.plan.lanes_of(step)}
        for name, weight in weights.items():
            if name not in lanes:
                raise EgressDenied(name)
            if weight not in (0, *lanes[name].grid):
                raise OutOfRange(f"Weight {weight} of lane {name!r} is not on its grid.")
        return weights

    def _context(self, request: Request) -> Context:
        return Context(
            charter=self.site.charter,
            plan=self.plan,
            run=self._run,
            k=self.k,
            attempt=request.attempt,
            chain=self._chain,
        )

    def _current(self, request: Request) -> SiloSession:
        session = self._session
        if session is None or (request.run, request.step, request.attempt) != (
            self._run,
            self.k,
            session.context.attempt,
        ):
            raise Unexpected(f"No session for step {request.step}, attempt {request.attempt}.")
        return session

    def _decline(self, message: Message, refused: FederationError) -> Message:
        blame, key = refused.blame, refused.key if isinstance(refused, BadShare) else b""
        decline = refusal(self.site.silo, message, refused.code, blame=blame, key=key)
        metrics.refused(refused.code)
        fields = {"step": decline.step, "attempt": decline.attempt, "phase": decline.phase, "code": refused.code}
        fields |= {"blame": blame} if blame else {}
        self.site.security("refusal", run=decline.run.hex(), **fields)
        return Message(DECLINE, decline.sign(self.site.identity))
