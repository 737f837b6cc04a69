"""What a run writes on the ledger: one method a record, from the values that the round works with."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from aggregator.errors import RunStopped
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import (
    ApprovalShown,
    Refusal,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SiloLost,
    StepAttested,
    StepClosed,
    StepOpened,
    StepVoid,
)
from aggregator.rounds.attempt import Attendance, Opened
from aggregator.rounds.storage import Checkpoint
from crypto import transcript
from crypto.approval import approval_digest
from crypto.charter import Charter
from crypto.errors import FederationError, RoundLost
from crypto.plan import Plan, Step


class Recorder:
    """Writes the records of one run. ``run``: its short id. Each method raises what ``Ledger.append`` raises."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self.run = run
        self._ledger = ledger

    @property
    def head(self) -> str:
        """Digest of the ledger's last line, hex."""
        return self._ledger.head

    def started(
        self,
        *,
        job: str,
        job_digest: bytes,
        plan: Plan,
        charter: Charter,
        state_digest: bytes,
        model_name: str,
        protocol: str,
        nonce: bytes,
        code: bytes,
        purpose: str,
        versions: Mapping[str, str],
        predictor: Mapping[str, Any] | None,
    ) -> None:
        self._ledger.append(
            RunStarted(
                run=self.run,
                job=job,
                job_digest=job_digest.hex(),
                plan=b64encode(bytes(plan)).decode(),
                plan_digest=plan.digest.hex(),
                charter_digest=charter.digest.hex(),
                state_digest=state_digest.hex(),
                method=plan.method,
                model_name=model_name,
                silos=charter.silos,
                threshold=charter.threshold(len(charter.members)),
                protocol=protocol,
                federation=charter.federation,
                nonce=nonce.hex(),
                code_digest=code.hex(),
                purpose=purpose,
                versions=dict(versions),
                predictor=None if predictor is None else dict(predictor),
            )
        )

    def resumed(self, k: int, state_digest: bytes) -> None:
        self._ledger.append(RunResumed(run=self.run, k=k, state_digest=state_digest.hex()))

    def opened(self, k: int, step: Step, attempt: int, invited: Sequence[str]) -> None:
        self._ledger.append(
            StepOpened(run=self.run, k=k, name=step.name, invited=tuple(sorted(invited)), attempt=attempt)
        )

    def attested(self, k: int, step: Step, attempt: int, t3: bytes, survivors: tuple[str, ...]) -> None:
        self._ledger.append(
            StepAttested(run=self.run, k=k, name=step.name, attempt=attempt, transcript=t3.hex(), survivors=survivors)
        )

    def approval(self, k: int, silo: str, signed: bytes) -> None:
        digest = approval_digest(signed).hex()
        self._ledger.append(ApprovalShown(run=self.run, k=k, silo=silo, digest=digest, approval=signed.hex()))

    def lost(self, k: int, step: Step, silo: str, phase: str) -> None:
        self._ledger.append(SiloLost(run=self.run, k=k, name=step.name, silo=silo, phase=phase))

    def refusal(self, k: int, step: Step, silo: str, phase: str, code: str, decline: bytes | None) -> None:
        self._ledger.append(
            Refusal(
                run=self.run,
                k=k,
                name=step.name,
                silo=silo,
                phase=phase,
                code=code,
                decline=None if decline is None else decline.hex(),
            )
        )

    def closed(
        self,
        k: int,
        step: Step,
        attempt: int,
        opened: Opened,
        attendance: Attendance,
        *,
        slots: Mapping[str, int],
        lanes_shut: Sequence[str],
        state_digest: bytes,
        chain: bytes,
    ) -> None:
        uploads = {silo: transcript.digest("upload", header).hex() for silo, header in opened.headers.items()}
        self._ledger.append(
            StepClosed(
                run=self.run,
                k=k,
                name=step.name,
                attempt=attempt,
                transcript=opened.result.t3.hex(),
                invited=attendance.invited,
                survivors=opened.survivors,
                lost=attendance.lost,
                refusals=attendance.refusals,
                lanes_open=tuple(opened.sums),
                lanes_shut=tuple(lanes_shut),
                slots=slots,
                state_digest=state_digest.hex(),
                chain=chain.hex(),
                upload_digests=uploads,
                upload_bytes=attendance.upload_bytes,
                phase_ms=attendance.phase_ms,
                evidence_sha256=sha256(opened.evidence).hexdigest(),
                data_commitments={silo: digest.hex() for silo, digest in opened.data.items()},
                approvals={silo: approval_digest(attendance.approvals[silo]).hex() for silo in opened.survivors},
                holdings={silo: held for silo, held in opened.held.items() if held},
            )
        )

    def void(
        self,
        k: int,
        step: Step,
        attendance: Attendance,
        *,
        t3: bytes,
        chain: bytes,
        reason: str,
        phase: str,
        missing: tuple[str, ...],
    ) -> None:
        self._ledger.append(
            StepVoid(
                run=self.run,
                k=k,
                name=step.name,
                reason=reason,
                phase=phase,
                missing=missing,
                transcript=t3.hex(),
                chain=chain.hex(),
                invited=attendance.invited,
                lost=attendance.lost,
                refusals=attendance.refusals,
            )
        )

    def failed(self, k: int, error: FederationError) -> None:
        """``k``: the step that the run had reached."""
        lost = error if isinstance(error, RoundLost) else None
        self._ledger.append(
            RunFailed(
                run=self.run,
                code=error.code,
                phase=error.phase if isinstance(error, RoundLost | RunStopped) else "",
                missing=tuple(lost.missing) if lost else (),
                k=k,
                detail=lost.why if lost else error.detail,
            )
        )

    def finished(
        self, checkpoint: Checkpoint, *, chain: bytes, head: str, countersignatures: Mapping[str, bytes]
    ) -> None:
        """``countersignatures``: silo → its signed ``Closing`` over run, ``chain`` and ``head``."""
        self._ledger.append(
            RunFinished(
                run=self.run,
                state_digest=checkpoint.digest.hex(),
                chain=chain.hex(),
                ledger_head=head,
                countersignatures={silo: signed.hex() for silo, signed in countersignatures.items()},
                weights_sha256=checkpoint.weights_sha256,
                checkpoint=checkpoint.path,
            )
        )
