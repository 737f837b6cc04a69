"""The steps of a run, checked one after the other from the signed messages and the kept uploads.

Checks 4 to 6 of ``aggregator.verify``. The state chain is carried along: a step's adverts sign T0, which is made from
the chain so far, so a step whose evidence holds also confirms every step before it. Where the masked uploads were kept,
each lane's sum is replayed bit for bit, the step applied, and chain and state digest recomputed. Where they were not,
the ledger's own value goes into the next T0, and the report says which silos signed that and what it leaves open.

Memory: the model, one lane's sum and the largest block three times (float64); uploads are read from disk in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import numpy as np

from aggregator.case import Case, at, job_facts
from aggregator.findings import Report, checking, same
from aggregator.ledger import Entry, Kind
from aggregator.state import evidence_path, load_checkpoint
from crypto import blocks, transcript
from crypto.approval import Approval, approval_digest, check_shown
from crypto.cohort import Context, words_digest
from crypto.errors import EvidenceError, TranscriptMismatch
from crypto.evidence import Checked, StepEvidence
from crypto.messages import StepResult
from crypto.plan import Lane, Scope


@dataclass
class Walk:
    """Goes through the steps in order. ``chain``: S after the last step; ``state``: its blocks, where they are known.

    ``unreplayed``: step → its open lanes whose sums could not be replayed. ``binders``: step → the silos whose signed
    advert of a later step stands on its result.
    """

    case: Case
    chain: bytes
    state: Mapping[str, np.ndarray] | None
    released: int = 0
    void: int = 0
    messages: int = 0
    replayed: int = 0
    largest: int = 0
    recomputed: int = 0
    approvals: dict[str, Approval] = field(default_factory=dict)
    unreplayed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    binders: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def start(cls, case: Case) -> Walk:
        state = blocks.initial_state(case.plan)
        return cls(case, transcript.initial_chain(case.id, blocks.state_digest(state)), state)

    def take(self, entry: Entry) -> None:
        """The next step. Raises EvidenceError that names the line, the file or the upload."""
        if entry.kind is Kind.STEP_VOID:
            self._void(entry)
        else:
            self._closed(entry)
        check_attested(self.case, entry)

    def _void(self, entry: Entry) -> None:
        """Weights stay; the chain goes on from the survivors' transcript that the void step had reached."""
        record = entry.record
        if "transcript" not in record:
            found = "none: an earlier version wrote this line"
            raise EvidenceError(at(entry), expected="the transcript of the void step", found=found)
        self.chain = transcript.next_chain(self.chain, bytes.fromhex(record["transcript"]), b"", released=False)
        same(at(entry, "chain"), self.chain.hex(), record.get("chain"))
        self.void += 1

    def _closed(self, entry: Entry) -> None:
        checked, evidence = open_step(self.case, entry, self.chain)
        check_record(entry, checked)
        check_approvals(self.case, entry, checked, self.approvals)
        for k in self.unreplayed:
            self.binders.setdefault(k, tuple(checked.survivors.dealt.cohort.signed))
        self.released += 1
        self.messages += sum(map(len, (evidence.adverts, evidence.deals, evidence.headers, evidence.attestations)))
        self.messages += len(evidence.slot_shares) + len(evidence.lane_shares)
        self._sums(entry, checked)

    def _sums(self, entry: Entry, checked: Checked) -> None:
        """Replay each open lane and apply it before the next is read: lanes have no block in common."""
        record, k, step = entry.record, int(entry.record["k"]), checked.context.step
        claimed = bytes.fromhex(record.get("chain", ""))
        if missing := not_kept(self.case, checked, record["lanes_open"]):
            self.unreplayed[k] = missing
            self.state = self._from_checkpoint(entry)
            if not claimed:
                raise EvidenceError(at(entry), expected="a chain value", found="none")
            self.chain = claimed
            return
        slots, sums = record["slots"], []
        for lane in record["lanes_open"]:
            words = replay_lane(self.case, checked, lane)
            sums.append((lane, words_digest(words)))
            self.replayed += 1
            self.largest = max(self.largest, words.nbytes)
            if self.state is not None:
                self.state = blocks.apply(self.case.plan, step, self.state, {lane: words}, slots)
        t3 = checked.survivors.t3
        result = StepResult(step=k, t3=t3, released=True, slots=checked.slots, sums=tuple(sums))
        self.chain = transcript.next_chain(self.chain, t3, result.digest, released=True)
        same(at(entry, "chain"), self.chain.hex(), record.get("chain"))
        if self.state is None:
            self.state = self._from_checkpoint(entry)
        else:
            same(at(entry, "state_digest"), blocks.state_digest(self.state).hex(), record["state_digest"])
            self.recomputed += 1

    def _from_checkpoint(self, entry: Entry) -> Mapping[str, np.ndarray] | None:
        """The blocks after a step that could not be recomputed, if a checkpoint of them was kept."""
        k = int(entry.record["k"])
        if not (self.case.folder / "checkpoints" / f"{k:06d}.json").exists():
            return None
        return load_checkpoint(self.case.folder, k, expect=bytes.fromhex(entry.record["state_digest"])).state

    # --- what it says in the end ----------------------------------------------------------------------------------

    def tell(self, report: Report, closers: Sequence[str]) -> None:
        """``closers``: the silos that countersigned the last chain value."""
        void = f", {self.void} void" if self.void else ""
        report.ok(
            "steps",
            f"{self.released} released{void}: {self.messages} signed messages, T0 to T3 and all slots recomputed",
        )
        if self.replayed:
            report.ok(
                "sums",
                f"{self.replayed} lane sums replayed bit for bit from kept uploads, the largest {self.largest} bytes",
            )
        if self.recomputed:
            report.ok("state", f"the blocks after {self.recomputed} of {self.released} steps recomputed from the sums")
        if self.unreplayed:
            self._tell_unreplayed(report, closers)

    def _tell_unreplayed(self, report: Report, closers: Sequence[str]) -> None:
        """What the missing uploads leave open, and who signed what stands on those sums."""
        policy = job_facts(self.case.started).get("keep_uploads", "none")
        steps = ", ".join(map(str, self.unreplayed))
        report.not_checked("sums", f"steps {steps} not replayed: uploads not kept (policy {policy})")
        bound = {k: self.binders.get(k, tuple(closers)) for k in self.unreplayed}
        if signed := [silos for silos in bound.values() if silos]:
            least = min(map(len, signed))
            report.ok(
                "binding",
                f"at least {least} silos signed, after each of {len(signed)} unreplayed steps, a chain with its sums",
            )
        if loose := [k for k, silos in bound.items() if not silos]:
            report.not_checked("binding", f"steps {', '.join(map(str, loose))}: no silo signed anything after them")
        if self.recomputed < self.released:
            report.not_checked(
                "state",
                f"that the blocks follow from the sums is shown for {self.recomputed} of {self.released} steps; else "
                "it is the aggregator's word, until a silo compares the model with its own",
            )


def check_attested(case: Case, entry: Entry) -> None:
    """Shares of a step left under one transcript only: the one that the step ended with."""
    for line in case.of(Kind.STEP_ATTESTED):
        if line.record["k"] == entry.record["k"]:
            same(at(line, "transcript"), entry.record.get("transcript"), line.record["transcript"])
            same(
                at(line, "survivors"), entry.record.get("survivors", line.record["survivors"]), line.record["survivors"]
            )


# --- 5: what was signed ------------------------------------------------------------------------------------------


def open_step(case: Case, entry: Entry, chain: bytes) -> tuple[Checked, StepEvidence]:
    """A released step's evidence under the context made from charter, plan, run and the chain so far: every signature,
    T0 to T3, the attestations of at least t, and the slots opened again."""
    k, record = int(entry.record["k"]), entry.record
    where = f"{case.run}/evidence/{k:06d}.bin"
    if "evidence_sha256" not in record:
        raise EvidenceError(at(entry), expected="the digest of the step's evidence", found="none")
    try:
        data = evidence_path(case.folder, k).read_bytes()
    except OSError as missing:
        raise EvidenceError(where, expected=f"SHA-256 {record['evidence_sha256']}", found=missing.strerror) from missing
    same(where, f"SHA-256 {record['evidence_sha256']}", f"SHA-256 {sha256(data).hexdigest()}")
    if not 0 <= (attempt := record.get("attempt", 0)) < 2**32:
        raise EvidenceError(at(entry, "attempt"), expected="a number of 32 bits", found=attempt)
    with checking(where, f"messages that prove step {k} under the chain so far"):
        evidence = StepEvidence.from_bytes(data)
        context = Context(charter=case.charter, plan=case.plan, run=case.id, k=k, attempt=attempt, chain=chain)
        return evidence.check(context), evidence


def check_record(entry: Entry, checked: Checked) -> None:
    """Everything the ledger says of a released step that the signed messages say too."""
    survivors, context = checked.survivors, checked.context
    adverts = survivors.dealt.cohort.adverts
    slots = dict(zip((slot.name for slot in context.plan.slots_of(context.step)), checked.slots, strict=True))
    opened = list(checked.lanes_open())
    lanes = [lane.name for lane in context.plan.lanes_of(context.step)]
    uploads = {silo: transcript.digest("upload", header).hex() for silo, header in survivors.signed.items()}
    said: dict[str, object] = {
        "transcript": survivors.t3.hex(),
        "survivors": list(survivors.signed),
        "slots": slots,
        "lanes_open": opened,
        "lanes_shut": [lane for lane in lanes if lane not in opened],
        "upload_digests": uploads,
        "data_commitments": {silo: adverts[silo].data.hex() for silo in survivors.signed},
        "approvals": {silo: adverts[silo].approval.hex() for silo in survivors.signed},
        "holdings": {silo: list(adverts[silo].held) for silo in survivors.signed if adverts[silo].held},
    }
    for name, value in said.items():
        same(at(entry, name), value, entry.record.get(name))
    for lane in context.plan.lanes_of(context.step):
        if lane.name in opened:
            _floor(entry, lane, checked, slots)


def _floor(entry: Entry, lane: Lane, checked: Checked, slots: Mapping[str, int]) -> None:
    """No lane opened below the floors of charter and plan. (A silo's own, stricter floor is not known here.)"""
    charter = checked.context.charter
    floor = max(lane.floor, charter.honest + charter.colluders)
    if lane.scope is not Scope.ALL:
        floor = max(floor, charter.lane_floor)
    if (count := slots[lane.contributors_slot]) < floor:
        where = at(entry, f"lanes_open, {lane.name}")
        raise EvidenceError(where, expected=f"at least {floor} contributors", found=count)


# --- 4: who approved ---------------------------------------------------------------------------------------------


def check_approvals(case: Case, entry: Entry, checked: Checked, seen: dict[str, Approval]) -> None:
    """Each survivor's advert names an approval on the ledger that its data owner signed, for this run and these data,
    and that was valid when the step was under way. ``seen`` collects them by digest."""
    started = case.started.record
    since, until = case.window(entry)
    shown = {line.record["digest"]: line for line in case.of(Kind.APPROVAL) if line.seq < entry.seq}
    for silo in checked.survivors.signed:
        advert = checked.survivors.dealt.cohort.adverts[silo]
        if (line := shown.get(advert.approval.hex())) is None:
            expected = f"a line approval before it with {silo}'s {advert.approval.hex()}"
            raise EvidenceError(at(entry, f"approvals, {silo}"), expected=expected, found="none")
        where = at(line)
        same(f"{where}, silo", silo, line.record["silo"])
        signed = bytes.fromhex(line.record["approval"])
        same(f"{where}, digest", approval_digest(signed).hex(), line.record["digest"])
        with checking(where, f"an approval of {silo}'s data owner for this run and these data"):
            approval = check_shown(
                signed, advert, case.charter, job=bytes.fromhex(started["job_digest"]),
                plan=case.plan.digest, code=bytes.fromhex(started.get("code_digest", "")),
            )  # fmt: skip
        same(f"{where}, purpose", approval.terms.purpose, started.get("purpose"))
        if until < approval.not_before or since > approval.not_after:
            expected = f"step {entry.record['k']} between {approval.not_before} and {approval.not_after}"
            raise EvidenceError(where, expected=expected, found=f"{since} to {until}: not valid then")
        if "policies" in entry.record:
            same(at(entry, f"policies, {silo}"), approval.terms.policy.hex(), entry.record["policies"].get(silo))
        seen[line.record["digest"]] = approval


# --- 6: what was summed ------------------------------------------------------------------------------------------


def upload_path(folder: Path, k: int, silo: str, lane: str) -> Path:
    """Where a masked lane lies, if it was kept (``aggregator.state``)."""
    return folder / "uploads" / f"{k:06d}" / silo / f"{quote(lane, safe='')}.u32"


def not_kept(case: Case, checked: Checked, lanes: Iterable[str]) -> tuple[str, ...]:
    """The open lanes of a step whose uploads are gone: none of the step's, or EvidenceError, since some without the
    others is no policy."""
    k, missing, kept = checked.context.k, [], 0
    for lane in lanes:
        for silo in checked.survivors.dealt.cohort.holders(lane, checked.survivors.signed):
            path = upload_path(case.folder, k, silo, lane)
            if path.exists():
                kept += 1
            else:
                missing.append((lane, path))
    if missing and kept:
        raise EvidenceError(_where(case, missing[0][1]), expected="the kept words, as of the others", found="no file")
    return tuple(dict.fromkeys(lane for lane, _ in missing))


def replay_lane(case: Case, checked: Checked, lane: str) -> np.ndarray:
    """The opened sum of a lane, each upload being the one that its silo signed."""
    survivors, k = checked.survivors, checked.context.k
    want = 4 * checked.context.plan.wire_words_of(checked.context.step, lane)
    uploads: dict[str, np.ndarray] = {}
    for silo in survivors.dealt.cohort.holders(lane, survivors.signed):
        path = upload_path(case.folder, k, silo, lane)
        same(_where(case, path), f"{want} bytes", f"{path.stat().st_size} bytes")
        uploads[silo] = np.memmap(path, dtype="<u4", mode="r")
    try:
        return checked.replay(lane, uploads)
    except TranscriptMismatch:
        for silo, words in uploads.items():
            signed = dict(survivors.headers[silo].lanes)[lane].hex()
            where = f"{_where(case, upload_path(case.folder, k, silo, lane))}, signed by {silo}"
            same(where, f"SHA-256 {signed}", f"SHA-256 {words_digest(words).hex()}")
        raise


def _where(case: Case, path: Path) -> str:
    return f"{case.run}/{path.relative_to(case.folder).as_posix()}"
