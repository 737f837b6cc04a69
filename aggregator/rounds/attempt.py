"""One attempt at one step: a generator that yields requests and is sent the replies.

Its only I/O is staging uploads: a driver (in-process, or NVFlare's controller) carries the messages, so tests and
production run the same code. A silo that refuses, sends a bad reply or none is dropped from the session and noted
with its phase; the others go on if there are enough.

This module is one file because the phases share who is still in and whose fault it was when somebody fell out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from aggregator.errors import RequiredLost
from aggregator.rounds.cohort_fit import AskedFor
from aggregator.rounds.storage import UploadStore
from crypto.approval import check_shown
from crypto.cohort import Context
from crypto.encoding import Writer
from crypto.errors import (
    BadShare,
    BudgetSpent,
    DataRefused,
    FederationError,
    LayoutMismatch,
    Malformed,
    NoSpace,
    NotApproved,
    Replay,
    RoundLost,
    SumNotProven,
    TranscriptMismatch,
    VersionMismatch,
)
from crypto.keys import Identity
from crypto.messages import (
    ARRAY_WORDS,
    DECLINE,
    MESSAGE_ARRAYS,
    Advert,
    Decline,
    Message,
    Request,
    StepResult,
    pack_blobs,
    pack_ranges,
    pack_two,
    pack_words,
    request_digest,
    unpack_two,
)
from crypto.proof import Sum
from crypto.server_session import ServerSession

log = logging.getLogger("consilium.aggregator")

T = TypeVar("T")

#: Words asked for in one fetch: 64 MB.
FETCH_WORDS = 1 << 24


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send these requests and wait for every silo, at most ``timeout_s``; once ``enough`` have answered, only
    briefly. ``wait_for``: silos that are waited for also while they cannot be reached."""

    phase: str
    step: int
    step_name: str
    requests: Mapping[str, Message]
    timeout_s: float
    enough: int
    wait_for: frozenset[str] = frozenset()


Replies = Mapping[str, Message]
Talk = Generator[Exchange, Replies, dict[str, Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The only three: a phase, a step's training (``contribute``), the job."""

    phase_s: float = 60.0
    step_s: float = 600.0
    job_s: float = 3600.0


@dataclass(slots=True)
class Attendance:
    """Who was invited, lost and refused in this attempt, and how long each phase took. It goes on the ledger."""

    invited: tuple[str, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    declines: dict[str, bytes] = field(default_factory=dict)  # the refusals that silos signed
    approvals: dict[str, bytes] = field(default_factory=dict)
    blamed: dict[str, set[str]] = field(default_factory=dict)
    convicted: set[str] = field(default_factory=set)  # silos whose own signed messages show their fault
    phase_ms: dict[str, int] = field(default_factory=dict)
    upload_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A finished attempt: what opened, under which transcript, from whom, and the signed tags that prove it.

    ``sums``: lane → arrays, in the order of the result's lanes."""

    result: StepResult
    proof: tuple[bytes, ...]
    survivors: tuple[str, ...]
    sums: Mapping[str, Sum]
    headers: Mapping[str, bytes]
    data: Mapping[str, bytes]
    held: Mapping[str, tuple[str, ...]]  # survivor → the lanes with visible holdings that it announced
    evidence: bytes


#: What to do where silos refused for these reasons, the last that fits. They refuse again until it is done.
_WAYS_OUT = {
    DataRefused.code: "Each of them registers the data set with `fed data add`; then submit the job again.",
    VersionMismatch.code: "Bring every site to one release, job and charter; then submit the job again.",
    BudgetSpent.code: "What was granted to this job, or to the data set, is used up: the weights of the last step are "
    "kept. A data owner may grant more with `fed approve --epsilon` or `fed data grant`; then submit the job again.",
    NotApproved.code: "Each data owner decides with `fed requests` and `fed approve`; then submit the job again.",
}
#: Refusals that another attempt would not change.
STEADY = frozenset(_WAYS_OUT)


class Attempt:
    """One session with the silos. ``spent`` turns true before the first request that lets shares leave.

    ``job``, ``code``: digests that each silo's approval must name. ``blocks``: digest of the published blocks before
    the step; ``asked_for``: the sums that the run asked for so far. ``attested``: called with T3 and the survivors just
    before; a restarted server must know them. ``lacking``: what the job requires and these silos do not meet, in words.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        store: UploadStore,
        timeouts: Timeouts,
        attendance: Attendance,
        *,
        job: bytes,
        code: bytes,
        blocks: bytes,
        asked_for: AskedFor,
        attested: Callable[[bytes, tuple[str, ...]], None] = lambda t3, survivors: None,
        lacking: Callable[[Collection[str]], str] = lambda silos: "",
    ) -> None:
        self.context = context
        self.session = ServerSession(context)
        self.attendance = attendance
        self.spent = False
        self._identity = identity
        self._store = store
        self._timeouts = timeouts
        self._job = job
        self._code = code
        self._blocks = blocks
        self._asked_for = asked_for
        self._attested = attested
        self._lacking = lacking
        self._out: set[str] = set()

    def run(
        self, offers: Mapping[str, Message], awaited: int, wait_for: frozenset[str] = frozenset()
    ) -> Generator[Exchange, Replies, Opened]:
        """``offers``: the open request of each silo; ``awaited``: how many of them are known to be up, or are
        ``wait_for``, which are waited for in any case.

        Raises RoundLost when too few are left, RequiredLost when not those whom the job requires. Before ``spent`` the
        step may be tried again with fresh keys.
        """
        session = self.session
        self.attendance.invited = tuple(sorted(offers))
        for silo, reply in (yield from self._ask("open", offers, enough=awaited, wait_for=wait_for)).items():
            self._take(silo, "open", self._advert, silo, reply.body)
        adverts = self._fix("open", session.close_adverts)
        self._require("open", session.cohort.signed)

        request = self.request("deal", pack_blobs(adverts))
        for silo, reply in (yield from self._ask("deal", dict.fromkeys(session.cohort.signed, request))).items():
            self._take(silo, "deal", self._deal, silo, reply.body)
        deals, rows = self._fix("deal", session.close_deals)
        self._require("deal", session.dealt.signed)

        requests = {silo: self.request("contribute", pack_two(deals, mine)) for silo, mine in rows.items()}
        uploading = []
        for silo, reply in (yield from self._ask("contribute", requests, timeout_s=self._timeouts.step_s)).items():
            if self._take(silo, "contribute", self._header, silo, reply.body):
                uploading.append(silo)
        yield from self._fetch(uploading)
        headers = self._fix("fetch", lambda: session.close_uploads(self._fitting()))
        survivors, threshold = tuple(session.survivors.signed), session.cohort.threshold
        self._require("fetch", survivors)

        request = self.request("attest", pack_blobs(headers))
        for silo, reply in (yield from self._ask("attest", dict.fromkeys(survivors, request), least=threshold)).items():
            self._take(silo, "attest", session.attestation, silo, reply.body)
        attestations, masked = self._fix("attest", session.close_attestations)
        for silo in session.strayed:
            self._convict(silo, "attest", TranscriptMismatch.code)

        self._attested(session.survivors.t3, survivors)
        self.spent = True
        requests = dict.fromkeys(survivors, self.request("unmask-slots", pack_two(attestations, masked)))
        for silo, reply in (yield from self._ask("unmask-slots", requests, least=threshold)).items():
            self._take(silo, "unmask-slots", session.slot_shares, silo, reply.body)
        slot_shares = self._fix("unmask-slots", session.open_slots)

        self._asked_for.ask(self.context.step, self._blocks, self._held(survivors))
        requests = dict.fromkeys(survivors, self.request("unmask-lanes", pack_blobs(slot_shares)))
        for silo, reply in (yield from self._ask("unmask-lanes", requests, least=threshold)).items():
            self._take(silo, "unmask-lanes", session.lane_shares, silo, reply.body)
        announced = self._fix("unmask-lanes", lambda: session.open_lanes(self._upload))
        for failed in session.failed.values():
            if failed.blame:
                self._convict(failed.blame, "unmask-lanes", failed.code)

        request = self.request("tag", bytes(announced))
        least = self.context.charter.honest + self.context.charter.colluders
        for silo, reply in (yield from self._ask("tag", dict.fromkeys(survivors, request), least=least)).items():
            self._take(silo, "tag", session.tags, silo, reply.body)
        proof = yield from self._prove()
        adverts_of = session.cohort.adverts
        return Opened(
            result=session.result,
            proof=proof,
            survivors=survivors,
            sums=session.sums,
            headers=session.survivors.signed,
            data={silo: adverts_of[silo].data for silo in survivors},
            held=self._held(survivors),
            evidence=bytes(session.evidence()),
        )

    def _require(self, phase: str, silos: Collection[str]) -> None:
        """Raises RequiredLost where the job requires more than these silos."""
        if lacking := self._lacking(silos):
            raise RequiredLost(phase, tuple(sorted(self.attendance.lost)), lacking)

    def _fitting(self) -> tuple[str, ...]:
        """Those whose uploads are complete, less silos without which the rule of atoms lets the others open.

        All of them where too few would be left: better a step whose lanes stay shut than none."""
        uploaded = self.session.uploaded
        kept = self._asked_for.fit(self.context.step, self._blocks, self._held(uploaded))
        if len(kept) < self.session.cohort.threshold:
            return uploaded
        for silo in uploaded:
            if silo not in kept:
                log.warning(
                    "step %s goes on without %s: with its upload, this sum and an earlier one would show too few silos",
                    self.context.step.name,
                    silo,
                )
                self._out.add(silo)
        return kept

    def _held(self, silos: Iterable[str]) -> dict[str, tuple[str, ...]]:
        return {silo: self.session.cohort.adverts[silo].held for silo in silos}

    def _prove(self) -> Generator[Exchange, Replies, tuple[bytes, ...]]:
        """The tags that prove the result. False ones are found and left out, and silos that are still up stand in for
        those that sent none, each for one upload at a time. Raises RoundLost where nobody is left to do it."""
        session, asked = self.session, set[tuple[str, str]]()
        while True:
            if not session.untagged:
                try:
                    return session.close_tags()
                except SumNotProven as unproven:
                    if not self._blame_false_tags():
                        raise RoundLost("tag", tuple(sorted(self.attendance.lost)), detail=str(unproven)) from unproven
            requests = dict[str, Message]()
            owner_of = dict[str, str]()
            free = sorted(session.uploaders - self._out)
            for owner in session.untagged:
                if silo := next(
                    (s for s in free if s not in requests and s != owner and (s, owner) not in asked), None
                ):
                    requests[silo], owner_of[silo] = self._stand_in(owner), owner
                    asked.add((silo, owner))
            if not requests:
                missing = ", ".join(session.untagged) or "the signatures of more members"
                raise RoundLost(
                    "stand-in",
                    tuple(sorted(self.attendance.lost)),
                    detail=f"The opened sums can't be proven: no silo is left that could vouch for {missing}.",
                )
            for silo, reply in (yield from self._ask("stand-in", requests)).items():
                owner = owner_of[silo]
                self._take(silo, "stand-in", lambda s, b, o: session.tags(s, b, owner=o), silo, reply.body, owner)

    def _blame_false_tags(self) -> bool:
        """Leave the silos out whose tags are false, and note them. Whether there was one."""
        found = False
        for silo in self.session.drop_false_tags(self._upload):
            if silo not in self._out:
                self._convict(silo, "tag", SumNotProven.code)
                found = True
        return found

    def _stand_in(self, owner: str) -> Message:
        arrays = pack_words([self._upload(owner, lane) for lane in self.session.result.lanes_of(owner)])
        body = self.request("stand-in", bytes(Writer().text(owner))).body
        return Message("stand-in", body, arrays)

    def _upload(self, silo: str, lane: str) -> np.ndarray:
        """A whole upload again, from the disk."""
        return self._store.complete(silo, lane, self.context.plan.wire_words_of(self.context.step, lane))

    @property
    def t3(self) -> bytes:
        return self.session.survivors.t3

    def request(self, phase: str, payload: bytes) -> Message:
        request = Request(
            run=self.context.run, step=self.context.k, attempt=self.context.attempt, phase=phase, payload=payload
        )
        return Message(phase, request.sign(self._identity))

    def _ask(
        self,
        phase: str,
        requests: Mapping[str, Message],
        *,
        enough: int | None = None,
        timeout_s: float | None = None,
        least: int = 0,
        wait_for: frozenset[str] = frozenset(),
    ) -> Talk:
        """The replies, without the silos that declined or did not answer: each of these is noted once, with its
        phase. If fewer than ``least`` answered, those that did not are asked a second time: a silo gives the same
        request the same answer."""
        began = time.monotonic()
        asked = {silo: message for silo, message in requests.items() if silo not in self._out}
        if not asked:
            return {}
        where = (phase, self.context.k, self.context.step.name)
        seconds = timeout_s or self._timeouts.phase_s
        wanted = len(asked) if enough is None else min(enough, len(asked))
        replies = yield Exchange(*where, asked, seconds, wanted, wait_for & asked.keys())
        answered = sum(reply.phase != DECLINE for reply in replies.values())
        missing = {silo: message for silo, message in asked.items() if silo not in replies}
        if missing and answered < least:
            replies = {**replies, **(yield Exchange(*where, missing, seconds, min(least - answered, len(missing))))}
        spent = self.attendance.phase_ms.get(phase, 0) + round(1000 * (time.monotonic() - began))
        self.attendance.phase_ms[phase] = spent
        answers = {}
        for silo in asked:
            if silo not in replies:
                self._lose(silo, phase)
            elif not self._declined(silo, phase, asked[silo], replies[silo]):
                answers[silo] = replies[silo]
        return answers

    def _declined(self, silo: str, phase: str, asked: Message, reply: Message) -> bool:
        if reply.phase != DECLINE:
            return False
        self._take(silo, phase, self._decline, silo, asked.body, reply.body)
        self._lose(silo, phase)
        return True

    def _decline(self, silo: str, asked: bytes, body: bytes) -> None:
        refused = Decline.open(body, lambda _: self.context.charter.member(silo).agent)
        if refused.request != request_digest(asked):
            raise Replay(f"{silo!r} sent the refusal of another request.")
        self.attendance.refusals[silo] = refused.code
        self.attendance.declines[silo] = body
        if refused.key:
            self._convict(self.session.at_fault(silo, refused.blame, refused.key), refused.phase, BadShare.code)
        elif refused.blame:
            self.attendance.blamed.setdefault(refused.blame, set()).add(silo)

    def _take(self, silo: str, phase: str, check: Callable[..., object], *given: object) -> bool:
        """Give one silo's reply to the session. A bad one drops that silo only."""
        try:
            check(*given)
        except NoSpace:
            raise  # our own disk: no silo's fault
        except FederationError as bad:
            self.attendance.refusals[silo] = bad.code
            self._lose(silo, phase)
            return False
        return True

    def _fix(self, phase: str, close: Callable[[], T]) -> T:
        """Close a phase. Too few left is a RoundLost that names the missing."""
        try:
            return close()
        except FederationError as lost:
            if lost.blame:
                self._convict(lost.blame, phase, lost.code)
            why = f"[{lost.code}] {lost.detail}"
            if refused := self.attendance.refusals:
                why += f" Refused: {', '.join(f'{silo} {code}' for silo, code in sorted(refused.items()))}."
            remedy = lost.remedy
            for code, way_out in _WAYS_OUT.items():
                remedy = way_out if code in refused.values() else remedy
            raise RoundLost(phase, tuple(sorted(self.attendance.lost)), detail=why, remedy=remedy) from lost

    def _convict(self, silo: str, phase: str, code: str) -> None:
        """Note whose fault it was. The session checks each share against the hash that its dealer signed, so seeds that
        do not combine to what was committed to are the dealer's."""
        self.attendance.convicted.add(silo)
        self.attendance.refusals[silo] = code
        self._lose(silo, phase)

    def _lose(self, silo: str, phase: str) -> None:
        self.attendance.lost.setdefault(silo, phase)
        self._out.add(silo)

    def _advert(self, silo: str, body: bytes) -> None:
        """An advert counts with the owner's approval that it names, and that covers this run."""
        signed, approvals = _signed_and_blobs(body)
        if [owner for owner, _ in approvals] != [silo]:
            raise Malformed(f"{silo!r} sent approvals of {[owner for owner, _ in approvals]}.")
        charter = self.context.charter
        advert = Advert.open(signed, lambda _: charter.member(silo).agent)
        check_shown(approvals[0][1], advert, charter, job=self._job, plan=self.context.plan.digest, code=self._code)
        self.session.advert(silo, signed)
        self.attendance.approvals[silo] = approvals[0][1]

    def _deal(self, silo: str, body: bytes) -> None:
        deal, rows = _signed_and_blobs(body)
        self.session.deal(silo, deal, dict(rows))

    def _header(self, silo: str, body: bytes) -> None:
        header, sections = _signed_and_blobs(body)
        if [owner for owner, _ in sections] != [silo]:
            raise Malformed(f"{silo!r} sent slot sections of {[owner for owner, _ in sections]}.")
        self.session.header(silo, header, sections[0][1])

    def _fetch(self, silos: Iterable[str]) -> Generator[Exchange, Replies, None]:
        """Pull every lane in ranges, staged on disk; add a silo's upload when it is whole and is what it signed."""
        plan, step = self.context.plan, self.context.step
        missing: dict[str, list[tuple[str, int, int]]] = {}
        for silo in silos:
            lanes = self.session.cohort.words_of(silo)
            missing[silo] = list(_ranges([(lane, plan.wire_words_of(step, lane)) for lane in lanes]))
        while any(missing.values()):
            batch = {silo: _batch(ranges) for silo, ranges in missing.items() if ranges}
            requests = {silo: self.request("fetch", pack_ranges(ranges)) for silo, ranges in batch.items()}
            replies = yield from self._ask("fetch", requests)
            for silo, ranges in batch.items():
                missing[silo] = missing[silo][len(ranges) :]
                if silo not in replies or not self._take(silo, "fetch", self._stage, silo, ranges, replies[silo]):
                    missing[silo] = []
        for silo in silos:
            if silo not in self._out:
                self._take(silo, "fetch", self._add, silo)

    def _stage(self, silo: str, ranges: list[tuple[str, int, int]], reply: Message) -> None:
        if [words.size for words in reply.arrays] != [stop - start for _, start, stop in ranges]:
            raise LayoutMismatch(f"{silo!r} sent other ranges than those asked for.")
        for (lane, _, _), words in zip(ranges, reply.arrays, strict=True):
            self._store.append(silo, lane, words)
            self.attendance.upload_bytes += words.nbytes

    def _add(self, silo: str) -> None:
        plan, step = self.context.plan, self.context.step
        lanes = self.session.cohort.words_of(silo)
        self.session.words(
            silo, {lane: self._store.complete(silo, lane, plan.wire_words_of(step, lane)) for lane in lanes}
        )


def _signed_and_blobs(body: bytes) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """One signed message and its blobs by silo; anything else is Malformed."""
    signed, blobs = unpack_two(body)
    if len(signed) != 1:
        raise Malformed(f"Expected one signed message, got {len(signed)}.")
    return signed[0], blobs


def _ranges(lanes: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int, int]]:
    for lane, words in lanes:
        for start in range(0, words, ARRAY_WORDS):
            yield lane, start, min(start + ARRAY_WORDS, words)


def _batch(ranges: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """As many ranges from the front as one fetch may ask for, at least one."""
    taken: list[tuple[str, int, int]] = []
    words = 0
    for lane, start, stop in ranges:
        if taken and (words + stop - start > FETCH_WORDS or len(taken) == MESSAGE_ARRAYS):
            break
        taken.append((lane, start, stop))
        words += stop - start
    return taken
