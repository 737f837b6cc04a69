"""A federation of agents in this process, for benchmarks of methods: production's round, rings, masks and floors.

``federate`` plays a whole job with ``aggregator.rounds.run.Run`` at one end and one ``silo_agent.agent.Agent`` a silo
at the other; nothing of a round is written again here. What is left out is what no figure depends on: homes, PySyft's
catalogue and MLflow. Journals, ledger and uploads lie in memory where the machine has such a folder, so that the time
is the round's and not the disk's.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.rounds.attempt import Timeouts
from aggregator.rounds.run import Run, RunSpec
from crypto.approval import NONCE_BYTES, Approval, Terms
from crypto.charter import Charter, Member, least_cohort
from crypto.keys import Identity, PublicIdentity
from crypto.messages import Wire
from crypto.plan import Plan
from crypto.transcript import digest
from jobs import release
from jobs.runtime.in_process import InProcess, drive
from silo_agent.agent import Agent, Site
from silo_agent.approval_store import Approvals
from silo_agent.data import DataSet, commitment
from silo_agent.journal import Journal
from silo_agent.methods import Limits, Method, Published
from silo_agent.policy import Policy

#: Assumed colluders, honest inputs of a sum, smallest lane floor: the demonstration's charter.
COLLUDERS, HONEST, LANE_FLOOR = 1, 2, 3

#: Signed messages whose check is remembered: those of a few steps.
MOST_SEEN = 4096


@contextmanager
def shared_checks() -> Iterator[None]:
    """A signed message that one party of this process has opened and verified is not verified again by the next.

    Thirteen parties check each message of a step; that was half the time. ``Wire.open`` is a function of the bytes and
    the key, so who asks makes no difference. All else is done by each party itself.
    """
    real = Wire.__dict__["open"]
    seen: dict[tuple[type[Wire], bytes], tuple[Wire, PublicIdentity]] = {}

    def once(kind: type[Wire], signed: bytes, key: Callable[[Any], PublicIdentity]) -> Wire:
        known = seen.get((kind, signed))
        if known is None or known[1] != key(known[0]):
            message = real.__func__(kind, signed, key)
            if len(seen) >= MOST_SEEN:
                seen.clear()
            known = seen[kind, signed] = message, key(message)
        return known[0]

    try:
        Wire.open = classmethod(once)  # type: ignore[assignment,method-assign]
        yield
    finally:
        Wire.open = real  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federated:
    """What came of a job. ``methods``: each silo's own, with what it kept at home; ``stranger``: one that kept nothing.
    ``bytes_round``: what a silo uploads in a training step, on average. ``shut``: (step, lane) that stayed shut.
    ``seconds``: of processor time. ``run``: the run id."""

    plan: Plan
    run: bytes
    published: Published
    methods: Mapping[str, Method]
    stranger: Method
    bytes_round: float
    shut: tuple[tuple[str, str], ...]
    seconds: float


@cache
def identity(name: str) -> Identity:
    """Fixed keys: a benchmark has no secrets."""
    return Identity(sha256(f"consilium/benchmark/{name}".encode()).digest())


@cache
def charter(silos: tuple[str, ...]) -> Charter:
    return Charter(
        federation="benchmark",
        epoch=1,
        previous=bytes(32),
        members=tuple(Member(s, identity(s).public, identity(f"{s}/owner").public) for s in sorted(silos)),
        aggregator=identity("aggregator").public,
        n_min=least_cohort(len(silos), COLLUDERS),
        colluders=COLLUDERS,
        honest=HONEST,
        lane_floor=LANE_FLOOR,
        not_before=0,
        not_after=2**40,
    )


def limits(silos: int) -> Limits:
    return Limits(n_max=silos, colluders=COLLUDERS, honest=HONEST, lane_floor=LANE_FLOOR)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory, or on disk where there is none: nothing of a benchmark needs to be durable."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="consilium-", dir=memory if memory.is_dir() else None) as place:
        yield Path(place)


@contextmanager
def quiet() -> Iterator[None]:
    """Lanes that stay shut are in the result; the agents' logs would say so once for each silo and step."""
    log = logging.getLogger("consilium.silo")
    before = log.level
    try:
        log.setLevel(logging.ERROR)
        yield
    finally:
        log.setLevel(before)


def federate(kind: type[Method], params: Mapping[str, object], cohort: Mapping[str, DataSet]) -> Federated:
    """Play a job of this method with these silos to its end.

    The run id depends on seed and silos alone, so a figure is the same each time, and methods that are compared start
    from the same first blocks where these have the same names.
    """
    began = time.process_time()
    members = charter(tuple(sorted(cohort)))
    plan = kind.plan(params, limits(len(cohort)))
    job = json.dumps({"benchmark": "methods", "seed": plan.seed})
    spec = RunSpec(
        job=job,
        job_digest=digest("job", job),
        name=f"{kind.name}-benchmark",
        plan=plan,
        timeouts=Timeouts(phase_s=3600, step_s=3600, job_s=86400),
        code=release.digest(),
        purpose="a benchmark",
    )
    with memory_folder() as place, ExitStack() as stack, shared_checks(), quiet():
        aggregator = identity("aggregator")
        ledger = Ledger.open(AggregatorHome(place).ledger_path, aggregator)
        run = Run(spec, members, aggregator, ledger, place / "jobs", nonce=bytes(32))
        agents = {}
        for silo, data in cohort.items():
            agents[silo] = _agent(place / silo, silo, spec, members, kind(params, silo), data)
            stack.callback(agents[silo].close)
        drive(run.run(), {silo: InProcess(agent) for silo, agent in agents.items()})
        closed = [entry.record for entry in read(AggregatorHome(place).ledger_path) if entry.kind is Kind.STEP_CLOSED]
        slots = {record.name: dict(record.slots) for record in closed}
        published = Published({name: np.array(block) for name, block in run.state.items()}, slots)
    return Federated(
        plan=plan,
        run=run.id,
        published=published,
        methods={silo: agent.method for silo, agent in agents.items()},
        stranger=kind(params),
        bytes_round=float(np.mean([record.upload_bytes for record in closed if record.name.startswith("train/")]))
        / len(cohort),
        shut=tuple((record.name, lane) for record in closed for lane in record.lanes_shut),
        seconds=time.process_time() - began,
    )


def _agent(home: Path, silo: str, spec: RunSpec, members: Charter, method: Method, data: DataSet) -> Agent:
    home.mkdir()
    owner = identity(f"{silo}/owner")
    terms = Terms(
        silo=silo,
        charter=members.digest,
        job=spec.job_digest,
        plan=spec.plan.digest,
        policy=Policy().digest,
        code=spec.code,
        data_uid="benchmark",
        commitment=commitment(data, bytes(16)),
        purpose=spec.purpose,
    )
    approvals = Approvals(home / "approvals", owner.public)
    approvals.add(
        Approval(terms=terms, max_runs=1, not_before=0, not_after=2**40, nonce=bytes(NONCE_BYTES)).sign(owner)
    )
    site = Site(
        silo=silo,
        identity=identity(silo),
        charter=members,
        policy=Policy(),
        approvals=approvals,
        journal=Journal(home / "journal.jsonl"),
        runs=home / "runs",
        code=spec.code,
        now=lambda: 1,
    )
    return Agent(site, terms=terms, plan=spec.plan, method=method, data=data)
