"""A federation's ledger, made up: charter, approvals, steps, a drop-out, a refusal, a void step, a finished run.

For tests of what follows the ledger. The aggregator's home is whole: keys, charter, ledger, checkpoints, predictor.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry
from aggregator.ledger.log import Ledger
from aggregator.rounds.storage import save_checkpoint, stage_predictor
from crypto import transcript
from crypto.approval import Approval, Terms, approval_digest
from crypto.blocks import initial_state, state_digest
from crypto.charter import Charter, Member, SignedCharter
from crypto.release_manifest import PREDICTOR, ReleaseManifest
from crypto.transcript import PROTOCOL
from silo_agent.methods import Limits, method
from tests.federation import identity
from tests.records import as_record

#: SQLAlchemy and MLflow's own: ours stay errors.
MLFLOW_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "ResourceWarning", "FutureWarning")
]

ROOT = Path(__file__).resolve().parents[1]
SILOS = ("silo-1", "silo-2", "silo-3")
RUN = "0123abcd"
STEPS = 20
PARAMS = {"features": 6, "classes": 3, "hidden": 4, "rounds": STEPS}
PURPOSE = "Tell digits apart | for <b>tests</b> only."
JOB = {"name": "digits", "method": "fedavg", "dataset": "digits", "purpose": PURPOSE, "keep_uploads": "all"}
PREDICTOR_CODE = ROOT / "jobs" / "evidence" / "predictor.py"
#: A release of one file.
MANIFEST = ReleaseManifest({PREDICTOR: sha256(PREDICTOR_CODE.read_bytes()).hexdigest()})
CODE, NONCE, POLICY = MANIFEST.digest.hex(), "44" * 32, "55" * 32
RELEASE = {"version": "0.1.0", "code_digest": CODE}
APPROVED_AT, EXPIRES = 1767225600, 1798761600  # 2026-01-01, 2027-01-01

ME = identity("aggregator")
CONSORTIUM = identity("consortium")
OWNERS = {silo: identity(f"{silo}/owner") for silo in SILOS}
CHARTER = Charter(
    federation="demo", epoch=1, previous=bytes(32), aggregator=ME.public, n_min=2, colluders=0, honest=2, lane_floor=2,
    members=tuple(Member(silo, identity(silo).public, OWNERS[silo].public) for silo in SILOS),
    not_before=APPROVED_AT, not_after=EXPIRES,
)  # fmt: skip
SIGNED_CHARTER = bytes(SignedCharter.sign(CHARTER, CONSORTIUM))
PLAN = method("fedavg").plan(PARAMS, Limits(n_max=3, colluders=0, honest=2, lane_floor=2))
FIRST = initial_state(PLAN, bytes(32))
STATE: Mapping[str, np.ndarray] = {name: block + np.float32(0.5) for name, block in FIRST.items()}


class Clock:
    """One second a line."""

    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> str:
        self.seconds += 1
        return f"2026-01-02T03:{self.seconds // 60:02d}:{self.seconds % 60:02d}.250Z"


def commitment(silo: str) -> str:
    return sha256(f"data of {silo}".encode()).hexdigest()


def approval(silo: str) -> bytes:
    """The data owner's signed approval of the job."""
    terms = Terms(
        silo=silo, charter=CHARTER.digest, job=bytes.fromhex("11" * 32), plan=PLAN.digest, policy=bytes.fromhex(POLICY),
        code=bytes.fromhex(CODE), data_uid=f"uid-{silo}", commitment=bytes.fromhex(commitment(silo)), purpose=PURPOSE,
    )  # fmt: skip
    given = Approval(terms=terms, max_runs=3, not_before=APPROVED_AT, not_after=EXPIRES, nonce=silo.encode().ljust(16))
    return given.sign(OWNERS[silo])


APPROVALS = {silo: approval_digest(approval(silo)).hex() for silo in SILOS}


def make_home(home: Path) -> Ledger:
    """An aggregator's home with charter and an open ledger that has the charter on it."""
    (home / "consortium.pub").write_bytes(CONSORTIUM.public.raw)
    (home / "charter.bin").write_bytes(SIGNED_CHARTER)
    (home / "keys").mkdir()
    ME.save(home / "keys" / "aggregator.key")
    ledger = Ledger.open(AggregatorHome(home).ledger_path, ME, clock=Clock())
    facts = {"epoch": 1, "charter_digest": CHARTER.digest.hex(), "charter": SIGNED_CHARTER.hex()}
    ledger.append(as_record("charter", facts))
    return ledger


def start(home: Path, ledger: Ledger, run: str = RUN, **more: str | None) -> None:
    """The first record of a run. ``more``: other values; None leaves a field out."""
    settings = json.dumps({"method": "fedavg", "params": PARAMS, "release": RELEASE})
    needs = ["numpy", "torch>=2.13"]
    predictor = stage_predictor(
        AggregatorHome(home).run_folder(run),
        PREDICTOR_CODE,
        release=MANIFEST,
        requirements=needs,
        settings=settings,
        shape=(6,),
    )
    facts = {
        "run": run, "job": json.dumps({**JOB, "params": PARAMS}), "job_digest": "11" * 32, "plan_digest":
        PLAN.digest.hex(), "plan": base64.b64encode(bytes(PLAN)).decode(), "charter_digest": CHARTER.digest.hex(),
        "state_digest": state_digest(FIRST).hex(), "method": "fedavg", "model_name": "digits", "silos": list(SILOS),
        "threshold": 2, "protocol": PROTOCOL, "predictor": predictor, "federation": "demo", "purpose": PURPOSE,
        "nonce": NONCE, "code_digest": CODE, "versions": {"mlflow": "3.17.2", "numpy": "2.4.6"}, **more,
    }  # fmt: skip
    ledger.append(as_record("run-started", {key: value for key, value in facts.items() if value is not None}))


def approve(ledger: Ledger, run: str = RUN) -> None:
    for silo in SILOS:
        signed = approval(silo)
        ledger.append(
            as_record(
                "approval", {"run": run, "k": 0, "silo": silo, "digest": APPROVALS[silo], "approval": signed.hex()}
            )
        )


def closed(k: int, run: str = RUN) -> dict[str, Any]:
    """A step as it closed: silo-3 is lost in step 5, refuses in step 6."""
    there = list(SILOS[:2] if k in (5, 6) else SILOS)
    return {
        "run": run, "k": k, "name": f"train/{k}", "transcript": f"{k:064x}", "invited": list(SILOS), "survivors": there,
        "lost": {5: {"silo-3": "contribute"}, 6: {"silo-3": "open"}}.get(k, {}),
        "refusals": {"silo-3": "NOT_APPROVED"} if k == 6 else {}, "lanes_open": ["everyone"], "lanes_shut": [],
        "state_digest": state_digest(STATE).hex(), "slots": {"everyone.weight": 3, "test.rows": 100, "global.correct":
        40 + k}, "upload_digests": dict.fromkeys(there, "ab" * 32), "upload_bytes": 216, "phase_ms": {"open": 3,
        "deal": 5}, "data_commitments": {silo: commitment(silo) for silo in there},
        "approvals": {silo: APPROVALS[silo] for silo in there},
    }  # fmt: skip


def finish(home: Path, ledger: Ledger, run: str = RUN, k: int = 0) -> Entry:
    """The end of a run after step ``k``, with its checkpoint."""
    saved = save_checkpoint(AggregatorHome(home).run_folder(run), k, STATE, {"chain": "cd" * 32})
    facts = {
        "run": run, "state_digest": state_digest(STATE).hex(), "chain": "cd" * 32, "checkpoint": saved.path,
        "countersignatures": dict.fromkeys(SILOS, "ef" * 64), "weights_sha256": saved.weights_sha256,
    }  # fmt: skip
    return ledger.append(as_record("run-finished", facts))


def make_run(home: Path, ledger: Ledger, run: str = RUN, **more: str | None) -> None:
    """A short run: approvals, one step, a version."""
    start(home, ledger, run, **more)
    approve(ledger, run)
    ledger.append(as_record("step-closed", closed(0, run)))
    finish(home, ledger, run)


def make_job(home: Path) -> Ledger:
    """A finished job of 20 steps and one void one."""
    ledger = make_home(home)
    start(home, ledger)
    for k in range(STEPS):
        ledger.append(as_record("step-opened", {"run": RUN, "k": k, "name": f"train/{k}", "invited": list(SILOS)}))
        if k == 0:
            approve(ledger)
        if k == 6:
            refusal = {"silo": "silo-3", "phase": "open", "code": "NOT_APPROVED"}
            ledger.append(as_record("refusal", {"run": RUN, "k": k, "name": f"train/{k}", **refusal}))
        ledger.append(as_record("step-closed", closed(k)))
    void = {"reason": "COHORT_TOO_SMALL", "phase": "deal", "missing": ["silo-2"]}
    ledger.append(as_record("step-void", {"run": RUN, "k": STEPS, "name": f"train/{STEPS}", **void}))
    finish(home, ledger, k=STEPS - 1)
    return ledger


def published(home: Path, ledger: Ledger, run: str, version: str, alias: str = "champion", by: str = "board") -> None:
    """Somebody moved an alias."""
    weights = save_checkpoint(AggregatorHome(home).run_folder(run), 0, STATE, {"chain": "cd" * 32}).weights_sha256
    facts = {"run": run, "model_name": "digits", "version": version, "alias": alias, "weights_sha256": weights}
    ledger.append(as_record("model-published", {**facts, "by": by}))


def withdrawal(silo: str, models: list[str], remedies: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    facts = {"silo": silo, "reason": "consent was withdrawn", "epoch": 2, "charter_digest": "77" * 32}
    return {**facts, "models": models, "remedies": dict(remedies or {})}


def under_way(home: Path, steps: int) -> Ledger:
    """A run that verifies: under way, with that many void steps, each attested."""
    plan = method("fedavg").plan(PARAMS | {"rounds": steps}, Limits(n_max=3, honest=2, lane_floor=2))
    job = json.dumps(JOB | {"params": PARAMS | {"rounds": steps}})
    digest = transcript.digest("job", job)
    run = transcript.run_id(digest, CHARTER.digest, bytes.fromhex(NONCE))
    first = state_digest(initial_state(plan, run))
    chain, short = transcript.initial_chain(run, first), run.hex()[:16]
    ledger = make_home(home)
    start(
        home, ledger, short, job=job, job_digest=digest.hex(), plan_digest=plan.digest.hex(),
        plan=base64.b64encode(bytes(plan)).decode(), state_digest=first.hex(), predictor=None,
    )  # fmt: skip
    for k, step in enumerate(plan.steps[:steps]):
        place, t3 = {"run": short, "k": k, "name": step.name}, bytes([k % 256]) * 32
        chain = transcript.next_chain(chain, t3, b"", released=False)
        ledger.append(as_record("step-opened", place | {"invited": list(SILOS), "attempt": 0}))
        attested = {"attempt": 0, "transcript": t3.hex(), "survivors": list(SILOS)}
        ledger.append(as_record("step-attested", place | attested))
        ended = {"reason": "COHORT_TOO_SMALL", "phase": "unmask-slots", "missing": [], "transcript": t3.hex()}
        ledger.append(as_record("step-void", place | ended | {"chain": chain.hex()}))
    return ledger


def short_of(home: Path) -> str:
    """The run of a home made by ``under_way``."""
    return next(path.name for path in (home / "jobs").iterdir() if path.name != RUN)
