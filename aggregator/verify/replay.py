"""The steps of a run in order: the state chain recomputed, and the sums replayed from the kept uploads.

Check 6 of ``aggregator.verify.checks``; 4 and 5 (``aggregator.verify.steps``) are made for each step. A
step's adverts sign T0, which is made from the chain so far, so a step whose evidence holds also confirms every step
before it. Where the masked uploads were kept, each lane's sum is replayed bit for bit, the step applied, and chain and
state digest recomputed. Where they were not, the chain is made from the result that at least m + c silos signed, and
the report says how many did. In a protocol without a signed result the ledger's own chain value goes into the next T0,
and the report says how many silos signed that.

Memory, at most: 8 bytes a word of the model, 28 more a word of its largest block, 4 a word of one lane. Uploads are
read from disk in place, about 1 GB a second and core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aggregator.ledger.format import Entry, at, is_of
from aggregator.ledger.records import StepClosed, StepVoid
from aggregator.protocols.interface import Approval, CheckedStep, State
from aggregator.rounds.storage import load_checkpoint
from aggregator.verify.report import VerificationReport, checking, same
from aggregator.verify.steps import check_approvals, check_attested, check_record, open_step
from aggregator.verify.verified_run import VerifiedRun
from crypto.errors import EvidenceError, TranscriptMismatch


@dataclass
class RunReplay:
    """The state of the replay. ``chain``: S after the last step; ``state``: its blocks, where they are known.

    ``unreplayed``: step → its open lanes whose sums could not be replayed. ``signed_by``: step → the silos that signed
    its result, where the protocol has such a message; else ``confirmed_by``: step → the silos whose signed advert of a
    later step covers its result; ``unconfirmed``: those of which there was none so far.
    """

    run: VerifiedRun
    chain: bytes
    state: State | None
    released: int = 0
    void: int = 0
    messages: int = 0
    replayed: int = 0
    largest: int = 0
    recomputed: int = 0
    approvals: dict[str, Approval] = field(default_factory=dict)
    unreplayed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    signed_by: dict[int, tuple[str, ...]] = field(default_factory=dict)
    unconfirmed: list[int] = field(default_factory=list)
    confirmed_by: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def start(cls, run: VerifiedRun) -> RunReplay:
        state = run.reader.initial_state(run.plan, run.id)
        return cls(run, run.reader.initial_chain(run.id, run.reader.state_digest(state)), state)

    def take(self, entry: Entry[StepClosed] | Entry[StepVoid]) -> None:
        """The next step. Raises EvidenceError that names the line, the file or the upload."""
        if is_of(entry, StepVoid):
            self._void(entry)
        elif is_of(entry, StepClosed):
            self._closed(entry)
        check_attested(self.run, entry)

    def _void(self, entry: Entry[StepVoid]) -> None:
        """Weights stay; the chain goes on from the survivors' transcript that the void step had reached."""
        record = entry.record
        if record.transcript is None:
            found = "none: an earlier version wrote this line"
            raise EvidenceError(at(entry), expected="the transcript of the void step", found=found)
        self.chain = self.run.reader.void_chain(self.chain, bytes.fromhex(record.transcript))
        same(at(entry, "chain"), self.chain.hex(), record.chain)
        self.void += 1

    def _closed(self, entry: Entry[StepClosed]) -> None:
        checked = open_step(self.run, entry, self.chain)
        check_record(self.run.plan, self.run.charter, entry, checked)
        check_approvals(self.run, entry, checked, self.approvals)
        for k in self.unconfirmed:
            self.confirmed_by[k] = tuple(checked.adverts)
        self.unconfirmed.clear()
        self.released += 1
        self.messages += checked.messages
        self._sums(entry, checked)

    def _sums(self, entry: Entry[StepClosed], checked: CheckedStep) -> None:
        """Replay each open lane and apply it before the next is read: lanes have no block in common."""
        record, k, use = entry.record, entry.record.k, self.run.reader
        claimed = bytes.fromhex(record.chain or "")
        if missing := not_kept(self.run, k, checked, record.lanes_open):
            self.unreplayed[k] = missing
            if checked.signers:
                self.signed_by[k] = checked.signers
            else:
                self.unconfirmed.append(k)
            self.state = self._from_checkpoint(entry)
            if not claimed:
                raise EvidenceError(at(entry), expected="a chain value", found="none")
            self.chain = checked.chain_after(None) or claimed
            same(at(entry, "chain"), self.chain.hex(), record.chain)
            return
        slots, sums = record.slots, []
        for lane in record.lanes_open:
            words = replay_lane(self.run, k, checked, lane)
            sums.append((lane, use.words_digest(words)))
            self.replayed += 1
            self.largest = max(self.largest, words.nbytes)
            if self.state is not None:
                self.state = use.apply(self.run.plan, checked.step, self.state, {lane: words}, slots)
        self.chain = checked.chain_after(sums) or b""
        same(at(entry, "chain"), self.chain.hex(), record.chain)
        if self.state is None:
            self.state = self._from_checkpoint(entry)
        else:
            same(at(entry, "state_digest"), use.state_digest(self.state).hex(), record.state_digest)
            self.recomputed += 1

    def _from_checkpoint(self, entry: Entry[StepClosed]) -> State | None:
        """The blocks after a step that could not be recomputed, if a checkpoint of them was kept."""
        k = entry.record.k
        if not self.run.folder.checkpoint_path(k).exists():
            return None
        return load_checkpoint(self.run.folder, k, expect=bytes.fromhex(entry.record.state_digest)).state

    # --- the report -----------------------------------------------------------------------------------------------

    def report_to(self, report: VerificationReport, closers: Sequence[str]) -> None:
        """Add the lines of checks 5 and 6. ``closers``: the silos that countersigned the last chain value."""
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
            self._report_unreplayed(report, closers)

    def _report_unreplayed(self, report: VerificationReport, closers: Sequence[str]) -> None:
        """What could not be checked without the uploads, and which silos signed the result or a later chain value."""
        policy = self.run.record.job.get("keep_uploads", "none")
        report.not_checked("sums", f"steps {_listed(self.unreplayed)} not replayed: uploads not kept (policy {policy})")
        if self.signed_by:
            counts: dict[int, list[int]] = {}
            for k, silos in self.signed_by.items():
                counts.setdefault(len(silos), []).append(k)
            signers = "; ".join(f"of steps {_listed(steps)} by {count} silos" for count, steps in counts.items())
            report.ok("binding", f"the sums were signed: {signers}")
        confirmed = {k: self.confirmed_by.get(k, tuple(closers)) for k in self.unreplayed if k not in self.signed_by}
        if signed := [silos for silos in confirmed.values() if silos]:
            least = min(map(len, signed))
            report.ok(
                "binding",
                f"at least {least} silos signed, after each of {len(signed)} unreplayed steps, a chain with its sums",
            )
        if loose := [k for k, silos in confirmed.items() if not silos]:
            report.not_checked("binding", f"steps {_listed(loose)}: no silo signed anything after them")
        if self.recomputed < self.released:
            report.not_checked(
                "state",
                f"blocks were recomputed from the sums for {self.recomputed} of {self.released} steps; for the others "
                "there is only the aggregator's statement, until a silo compares the model with its own",
            )


# --- 6: what was summed ------------------------------------------------------------------------------------------


def not_kept(run: VerifiedRun, k: int, checked: CheckedStep, lanes: Iterable[str]) -> tuple[str, ...]:
    """The open lanes of a step whose uploads were removed. Raises EvidenceError where only some of the step's uploads
    are missing: retention keeps all of a step or none."""
    missing, kept = [], 0
    for lane in lanes:
        for silo in checked.holders(lane):
            path = run.folder.upload_path(k, silo, lane)
            if path.exists():
                kept += 1
            else:
                missing.append((lane, path))
    if missing and kept:
        raise EvidenceError(_where(run, missing[0][1]), expected="the kept words, as of the others", found="no file")
    return tuple(dict.fromkeys(lane for lane, _ in missing))


def replay_lane(run: VerifiedRun, k: int, checked: CheckedStep, lane: str) -> np.ndarray:
    """The opened sum of a lane, from uploads that are each checked against the digest that its silo signed."""
    want = 4 * run.plan.wire_words_of(checked.step, lane)
    uploads: dict[str, np.ndarray] = {}
    for silo in checked.holders(lane):
        path = run.folder.upload_path(k, silo, lane)
        same(_where(run, path), f"{want} bytes", f"{path.stat().st_size} bytes")
        uploads[silo] = np.memmap(path, dtype="<u4", mode="r")
    with checking(f"{run.run}, step {k}, lane {lane}", "uploads and shares that open it"):
        try:
            return checked.replay(lane, uploads)
        except TranscriptMismatch as bad:
            digests = {silo: run.reader.words_digest(words) for silo, words in uploads.items()}
            silo = next(silo for silo in uploads if digests[silo] != checked.words_signed(silo, lane))
            where = f"{_where(run, run.folder.upload_path(k, silo, lane))}, signed by {silo}"
            expected = f"SHA-256 {checked.words_signed(silo, lane).hex()}"
            raise EvidenceError(where, expected=expected, found=f"SHA-256 {digests[silo].hex()}") from bad


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(map(str, steps))


def _where(run: VerifiedRun, path: Path) -> str:
    return f"{run.run}/{path.relative_to(run.folder.root).as_posix()}"
