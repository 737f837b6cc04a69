"""The same round, in one process: couriers that hand messages to agents, and faults that can be injected.

``drive`` is what NVFlare's controller is in production: it takes a run's exchanges one by one, carries the requests
and brings the answers. A ``Courier`` is one method, so a test's faulty courier is a few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from typing import Protocol

from aggregator.home import AggregatorHome
from aggregator.rounds.attempt import Exchange, Replies
from aggregator.rounds.run import Run, RunOutcome
from crypto.messages import Message
from jobs.job import JobSpec, encode_plan
from jobs.membership.accept import running
from jobs.runtime.compose import answering_agent, open_run
from silo_agent.agent import Agent, Refusing
from silo_agent.home import SiloHome


class Courier(Protocol):
    """Carries one request to one silo. None: it did not answer."""

    def send(self, request: Message) -> Message | None: ...


class InProcess:
    """The honest courier of one agent in this process."""

    def __init__(self, agent: Agent | Refusing) -> None:
        self.agent = agent

    def send(self, request: Message) -> Message | None:
        return self.agent.handle(request)


def drive(run: Generator[Exchange, Replies, RunOutcome], couriers: Mapping[str, Courier]) -> RunOutcome:
    """Run to the end. Whatever the run raises comes out; the generator is closed either way.

    Nothing is carried that NVFlare's courier would not carry.
    """
    try:
        replies: dict[str, Message] | None = None
        while True:
            try:
                exchange = run.send(replies) if replies is not None else next(run)
            except StopIteration as done:
                outcome: RunOutcome = done.value
                return outcome
            replies = {}
            for silo, request in exchange.requests.items():
                request.check()
                if (answer := couriers[silo].send(request)) is not None:
                    answer.check()
                    replies[silo] = answer
    finally:
        run.close()


def run_job(
    spec: JobSpec,
    home: AggregatorHome,
    silos: Mapping[str, SiloHome],
    *,
    agent: Callable[[str, SiloHome], Agent | Refusing] = answering_agent,
    courier: Callable[[str, Agent | Refusing], Courier] = lambda silo, agent: InProcess(agent),
    watch: Callable[[Exchange | None, str], None] | None = None,
    nonce: bytes | None = None,
    resume: str | None = None,
) -> tuple[RunOutcome, Run, dict[str, Agent | Refusing]]:
    """A whole job over homes on this machine. ``home``: the aggregator's; ``silos``: silo → its home.

    ``agent`` and ``courier`` make a silo's agent and its courier; ``watch`` is called at each exchange and at the end;
    ``nonce`` and ``resume`` as in ``open_run``. Returns the outcome, the run (its final state) and the closed agents.
    """
    plan = encode_plan(spec.plan(home.charter()))
    run = open_run(spec.text, plan, home, nonce=nonce, resume=resume)
    if watch is not None:
        run.watch = watch
    agents: dict[str, Agent | Refusing] = {}
    with ExitStack() as stack:
        stack.enter_context(running(home))
        for silo, silo_home in silos.items():
            agents[silo] = agent(spec.text, silo_home)
            stack.callback(agents[silo].close)
        outcome = drive(run.run(), {silo: courier(silo, one) for silo, one in agents.items()})
    return outcome, run, agents
