"""A small federation in this process, for tests: eight silos on the demonstration's digits, couriers that misbehave."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.home import AggregatorHome
from aggregator.ledger.records import StepClosed
from aggregator.rounds.run import Run, RunOutcome
from crypto import ring
from crypto.blocks import Encoded
from crypto.cohort import words_digest
from crypto.errors import FederationError
from crypto.messages import LaneSum, Message, Request, StepResult
from crypto.plan import Plan, Step
from jobs.demo.digits_data import make
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime import compose as composition
from jobs.runtime import in_process as production
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue

SILOS = 8

#: (request, how to get the silo's answer) → what is delivered, or None for silence.
Fault = Callable[[Message, Callable[[], Message]], Message | None]


def spec(method: str = "fedavg", **params: int | str) -> JobSpec:
    """A job of a few seconds."""
    base = {"features": 64, "classes": 10, "rounds": 2, "local_steps": 3, "seed": 7}
    raw = {
        "name": f"{method}-test",
        "method": method,
        "dataset": "digits",
        "purpose": "a test",
        "keep_uploads": "all",
        "params": base | params,
    }
    return JobSpec.parse(raw)


def of_state(**params: int | str) -> JobSpec:
    """The same steps and rows, of a method whose scores are of basis STATE: its training steps open both sections.
    FedAvg's scores are figures of the data."""
    holders = {"holders-0": " ".join(f"silo-{i}" for i in range(1, SILOS + 1))}
    return spec("fedavg-lanes", experts=1, visible=0, **holders, **params)


def federation(root: Path, silos: int = SILOS, **settings: object) -> Federation:
    data = {name: arrays for name, arrays in make(silos, 7).items() if name.startswith("silo-")}
    return Federation.make(root, "test", data, "digits", settings=settings)


def copied(made: Path, root: Path) -> Federation:
    """A copy of ``federation`` with eight silos, to be changed."""
    shutil.copytree(made, root)
    return Federation(root, "test", tuple(f"silo-{i}" for i in range(1, SILOS + 1)))


def approve(home: SiloHome, job: JobSpec) -> None:
    """The data owner's approval; nothing where there is nothing to approve (a test of bad data)."""
    with suppress(FederationError):
        approve_for_demonstration([home], job)


def run_job(
    job: JobSpec, aggregator: Path, silos: Mapping[str, Path], **how: Any
) -> tuple[RunOutcome, Run, dict[str, Any]]:
    """``jobs.runtime.in_process.run_job`` of a job that every data owner has approved."""
    for home in silos.values():
        approve(SiloHome(home), job)
    homes = {silo: SiloHome(home) for silo, home in silos.items()}
    return production.run_job(job, AggregatorHome(aggregator), homes, **how)


def open_agent(job: str, home: SiloHome) -> Agent:
    """``jobs.runtime.compose.open_agent`` of a job that the data owner has approved."""
    approve(home, JobSpec.from_text(job))
    return composition.open_agent(job, home)


def private_file(home: Path, name: str = "digits") -> Path:
    """Where the catalogue of a silo keeps the private rows of a data set."""
    return Catalogue(SiloHome(home), SiloHome(home).silo).entry(name).private


class Wire(InProcess):
    """Keeps every byte that leaves a silo, in ``sent[silo]``. As a courier: ``partial(Wire, sent)``."""

    def __init__(self, sent: dict[str, list[bytes]], silo: str, agent: Agent) -> None:
        super().__init__(agent)
        self._sent = sent.setdefault(silo, [])

    def send(self, request: Message) -> Message | None:
        answer = super().send(request)
        if answer is not None:
            self._sent += [answer.body, *(array.tobytes() for array in answer.arrays)]
        return answer


class Recording(Agent):
    """Keeps the plain integers of every step before they are masked."""

    plain: dict[int, Encoded]

    def observe(self, step: Step, encoded: Encoded) -> Encoded:
        self.__dict__.setdefault("plain", {})[self.k] = Encoded(
            {lane: words.copy() for lane, words in encoded.lanes.items()}, encoded.slots.copy(), encoded.weights
        )
        return encoded


def recording(job: str, home: SiloHome) -> Agent:
    agent = open_agent(job, home)
    agent.__class__ = Recording
    return agent


def opened_from(
    plan: Plan, closed: StepClosed, chain: bytes, plain: Mapping[str, Encoded], announced: StepResult
) -> tuple[StepResult, dict[str, np.ndarray]]:
    """The result of a step and lane → words, made from the plain integers of its survivors.

    ``chain``: S before the step. ``announced``: only its carries are taken, which depend on the masks and so say
    nothing, and which slots stayed shut.
    """
    step = plan.steps[closed.k]
    slots = sum((plain[silo].slots for silo in closed.survivors), np.zeros(len(step.slots), np.uint64))
    carries = {one.lane: one.carries for one in announced.sums}
    sums, lanes = dict[str, np.ndarray](), []
    for lane in plan.lanes_of(step):
        if lane.name not in closed.lanes_open:
            continue
        uploaders = tuple(lane.uploaders(closed.survivors, closed.holdings or {}))
        weights = [plain[silo].weights[lane.name] for silo in uploaders]
        total = np.zeros(plan.words_of(step, lane.name), np.uint32)
        for silo in uploaders:
            total += plain[silo].lanes[lane.name]
        sums[lane.name] = ring.reduce(total, plan.ring_bits)
        lanes.append(
            LaneSum(
                lane=lane.name,
                words=words_digest(sums[lane.name]),
                carries=carries[lane.name],
                uploaders=uploaders,
                weight=sum(weights),
                contributors=sum(map(bool, weights)),
            )
        )
    result = StepResult(
        step=closed.k,
        chain=chain,
        t3=bytes.fromhex(closed.transcript),
        released=True,
        slots=tuple(None if shut is None else int(value) for value, shut in zip(slots, announced.slots, strict=True)),
        sums=tuple(lanes),
    )
    return result, sums


class Faulty(InProcess):
    """Lets a fault look at each request and answer."""

    def __init__(self, agent: Agent, fault: Fault) -> None:
        super().__init__(agent)
        self._fault = fault

    def send(self, request: Message) -> Message | None:
        return self._fault(request, lambda: self.agent.handle(request))


def play(
    federation: Federation, job: JobSpec, faults: Mapping[str, Fault] | None = None, **how: Any
) -> tuple[RunOutcome, Run, dict[str, Any]]:
    """``run_job`` with agents that keep their plain integers (``Recording``), and a fault for some silos."""

    def courier(silo: str, agent: Agent) -> InProcess:
        return Faulty(agent, faults[silo]) if faults and silo in faults else InProcess(agent)

    return run_job(job, federation.aggregator, federation.homes, agent=recording, courier=courier, **how)


class _Anyone:
    def verify(self, signature: bytes, message: bytes) -> None:
        """Tests look at messages without the sender's key."""


def any_key(message: object) -> Any:
    """In place of a key that checks signatures."""
    return _Anyone()


def asked(request: Message) -> Request:
    """What a request asks, its signature unchecked."""
    return Request.open(request.body, any_key)


def silent_from(phase: str, step: int) -> Fault:
    """Dies at a phase of a step and never comes back."""
    dead = False

    def fault(request: Message, answer: Callable[[], Message]) -> Message | None:
        nonlocal dead
        dead = dead or (asked(request).step == step and request.phase == phase)
        return None if dead else answer()

    return fault
