"""A small federation in this process, for tests: eight silos on the demonstration's digits, couriers that misbehave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crypto.blocks import Encoded
from crypto.messages import Message
from crypto.plan import Step
from jobs.demo_data import make
from jobs.homes import Federation
from jobs.local import InProcess
from jobs.run import open_agent
from jobs.spec import JobSpec
from silo_agent.agent import Agent

SILOS = 8


def spec(method: str = "fedavg", **params: int) -> JobSpec:
    """A job of a few seconds."""
    base = {"features": 64, "classes": 10, "rounds": 2, "local_steps": 3, "seed": 7}
    raw = {
        "name": f"{method}-test",
        "method": method,
        "dataset": "digits",
        "keep_uploads": "all",
        "params": base | params,
    }
    return JobSpec.parse(raw)


def federation(root: Path, silos: int = SILOS, **settings: object) -> Federation:
    data = {name: arrays for name, arrays in make(silos, 7).items() if name.startswith("silo-")}
    return Federation.make(root, "test", data, "digits", settings=settings)


class Recording(Agent):
    """Keeps the plain integers of every step before they are masked."""

    plain: dict[int, Encoded]

    def observe(self, step: Step, encoded: Encoded) -> Encoded:
        self.__dict__.setdefault("plain", {})[self.k] = Encoded(
            {lane: words.copy() for lane, words in encoded.lanes.items()}, encoded.slots.copy()
        )
        return encoded


def recording(job: str, home: Path) -> Agent:
    agent = open_agent(job, home)
    agent.__class__ = Recording
    return agent


class Faulty(InProcess):
    """Lets a fault look at each request and answer. It returns the answer to deliver, or None for silence."""

    def __init__(self, agent: Agent, fault: Callable[[Message, Callable[[], Message]], Message | None]) -> None:
        super().__init__(agent)
        self._fault = fault

    def send(self, request: Message) -> Message | None:
        return self._fault(request, lambda: self.agent.handle(request))
