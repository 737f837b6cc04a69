"""What `fed egress` promises, byte by byte: every job of the catalogue runs, everything that leaves a silo and all that
the aggregator keeps is searched for what must stay at home.

Searched for: rows, single updates, integers before they are masked, slots of one silo, what a method remembers (fitness
rows, choices, its own router or experts), local experts, personal predictions. Each is looked for as the bytes that it
is in memory. The same search does find the published blocks at the aggregator and the uploads in the messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.run_record import RunRecord
from crypto.blocks import Contribution, Encoded
from crypto.home import Home
from crypto.messages import Advert, Message, unpack_two
from crypto.plan import Plan, Scope, Step
from jobs.demo.datasets import DEALERS
from jobs.demo.federation import Federation
from jobs.demo.language_base_model import ground
from jobs.evidence.run_summary import published_by
from jobs.job import JobSpec, catalogue
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from silo_agent.methods import Published
from tests import local
from tests.jobs.demo.test_datasets import hospitals

pytestmark = pytest.mark.slow

#: Bytes looked for at a time, and how many different ones make them worth looking for: zeros are everywhere.
NEEDLE, DISTINCT = 24, 8
PLACES = 16

#: As short as a job can be and still do all that it does.
SHORT = {"rounds": 2, "local_steps": 3, "warm_rounds": 1}


@dataclass
class Watched:
    """One silo: what it sent, and what it had that it should not have sent."""

    sent: list[Message] = field(default_factory=list)
    private: dict[str, bytes] = field(default_factory=dict)

    def keep(self, name: str, array: np.ndarray) -> None:
        self.private[name] = np.ascontiguousarray(array).tobytes()


@dataclass
class Ran:
    plan: Plan
    federation: Federation
    silos: dict[str, Watched]
    published: Published


class Watching(Agent):
    """Keeps the integers of every step as they are before masking."""

    watched: Watched

    def observe(self, step: Step, encoded: Encoded) -> Encoded:
        for lane, words in encoded.lanes.items():
            self.watched.keep(f"{step.name} {lane} before masking", words)
        self.watched.keep(f"{step.name} slots", encoded.slots)
        return encoded


def watch(agent: Agent, watched: Watched) -> None:
    """From here on, what this agent trains, counts and remembers is kept for the search."""
    agent.__class__ = Watching
    agent.watched = watched  # type: ignore[attr-defined]
    for part in ("x_train", "x_test"):
        watched.keep(part, getattr(agent.data, part))
    contribute = agent.method.contribute

    def seen(step: Step, *rest: Any) -> Contribution:
        made = contribute(step, *rest)
        for name, array in made.sums.items():
            watched.keep(f"{step.name} {name}", array)
        for name, array in agent.method.state_dict().items():
            watched.keep(f"remembered {name} in {step.name}", array)
        return made

    agent.method.contribute = seen  # type: ignore[method-assign]


def after(agent: Agent, watched: Watched, published: Published) -> None:
    """What a silo has made of the published state for itself."""
    watched.keep("personal predictions", agent.method.predict(published, agent.data.x_test, "personal"))
    if hasattr(agent.method, "personalise"):
        own = agent.method.personalise(published, agent.data)
        for name in (each.name for each in fields(own)):
            value = getattr(own, name)
            for part, array in value.items() if isinstance(value, Mapping) else [("", value)]:
                if isinstance(array, np.ndarray):
                    watched.keep(f"own {name} {part}", array)


def play(root: Path, name: str) -> Ran:
    spec = JobSpec.load(name)
    spec = spec.with_params(**{key: value for key, value in SHORT.items() if key in spec.params})
    dealt = hospitals() if spec.dataset == "heart" else DEALERS[spec.dataset](None, 7, None).silos
    federation = Federation.make(root, "test", dealt, spec.dataset)
    spec = ground(spec, federation)
    watched = {silo: Watched() for silo in federation.silos}

    def agent(job: str, home: SiloHome) -> Agent:
        found = local.open_agent(job, home)
        watch(found, watched[found.site.silo])
        return found

    class Carrying(InProcess):
        def __init__(self, silo: str, agent: Any) -> None:
            super().__init__(agent)
            self._silo = silo

        def send(self, request: Message) -> Message | None:
            answer = super().send(request)
            watched[self._silo].sent.append(answer)
            return answer

    outcome, run, agents = local.run_job(spec, federation.aggregator, federation.homes, agent=agent, courier=Carrying)
    published = published_by(
        AggregatorHome(federation.aggregator), RunRecord.read(AggregatorHome(federation.aggregator), outcome.run)
    )
    for silo, one in agents.items():
        after(one, watched[silo], published)
    return Ran(run.spec.plan, federation, watched, published)


@pytest.fixture(scope="module", params=catalogue())
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return play(tmp_path_factory.mktemp("egress") / "f", request.param)


def needles(data: bytes) -> Iterator[bytes]:
    """Some pieces of these bytes that can't be anything else."""
    step = max(1, (len(data) - NEEDLE) // PLACES)
    for at in range(0, len(data) - NEEDLE + 1, step):
        piece = data[at : at + NEEDLE]
        if len(set(piece)) >= DISTINCT:
            yield piece


def found_in(haystack: bytes, data: bytes, but: bytes = b"") -> bool:
    """Whether a piece of the data is there, ``but`` for pieces that are public: a tuned expert keeps some weights."""
    return any(piece in haystack and piece not in but for piece in needles(data))


def common(ran: Ran) -> list[bytes]:
    """What every silo has alike is no secret of one: derived from published state."""
    first, *others = (set(map(bytes, silo.private.values())) for silo in ran.silos.values())
    return list(first.intersection(*others))


def sent(watched: Watched) -> bytes:
    """Every byte that left a silo: bodies, and the arrays that travel beside them."""
    parts = (part for one in watched.sent for part in (one.body, *(array.tobytes() for array in one.arrays)))
    return b"\0".join(parts)


def kept(ran: Ran) -> bytes:
    """All that the aggregator has written down, run files and ledger and NVFlare's store alike."""
    return b"\0".join(path.read_bytes() for path in ran.federation.aggregator.rglob("*") if path.is_file())


def test_nothing_private_is_in_what_silos_send_or_the_aggregator_keeps(ran: Ran) -> None:
    alike = common(ran)
    everything = {silo: sent(watched) for silo, watched in ran.silos.items()}
    at_home, public = kept(ran), b"".join(block.tobytes() for block in ran.published.blocks.values())
    searched = 0
    for silo, watched in ran.silos.items():
        for what, data in watched.private.items():
            if data in alike:
                continue
            searched += sum(1 for _ in needles(data))
            assert not found_in(everything[silo], data, public), f"{silo} sent its {what}"
            assert not found_in(at_home, data, public), f"the aggregator has {what} of {silo}"
    assert searched > 50 * len(ran.silos)


def test_the_search_finds_what_is_there(ran: Ran) -> None:
    at_home = kept(ran)
    moved = [name for name, block in ran.published.blocks.items() if len(list(needles(block.tobytes()))) > 3]
    assert moved and all(
        found_in(at_home, np.ascontiguousarray(ran.published.blocks[name]).tobytes()) for name in moved
    )
    silo, watched = next(iter(ran.silos.items()))
    secret = max(watched.private.values(), key=len)
    for leak in (
        Message("open", b"header" + secret),
        Message("fetch", b"", (np.frombuffer(secret[: len(secret) // 4 * 4], dtype="<u4"),)),
    ):
        assert found_in(sent(Watched([leak])), secret), silo


def test_choices_are_told_where_the_plan_says_that_holdings_are_visible(ran: Ran) -> None:
    visible = {lane.name for lane in ran.plan.lanes if lane.scope is Scope.HELD and not lane.hidden}
    charter = Home(ran.federation.aggregator).charter()
    told: set[str] = set()
    for watched in ran.silos.values():
        for message in watched.sent:
            if message.phase == "open":
                told |= set(
                    Advert.open(unpack_two(message.body)[0][0], lambda advert: charter.member(advert.silo).agent).held
                )
    assert told == visible


def test_a_local_block_is_in_no_step(ran: Ran) -> None:
    summed = {part.block for step in ran.plan.steps for part in step.sums}
    local_blocks = {block.name for block in ran.plan.blocks if ran.plan.lane_of(block.name).scope is Scope.LOCAL}
    assert not summed & local_blocks
