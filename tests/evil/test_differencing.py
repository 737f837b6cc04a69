"""An aggregator that compares sums over chosen cohorts (attacks.md, kind 2), against real homes and agents.

Each attack asks for sums whose difference is one silo's own. The silos keep the last one shut, and go on. The same
requests against silos without the rule give that silo's integers exactly: without that, a test of silence would be
worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from crypto import blocks, ring
from crypto.home import Home
from crypto.messages import Message
from crypto.silo_session import SiloSession
from jobs.demo.federation import Federation
from jobs.job import JobSpec, encode_plan
from jobs.runtime.in_process import InProcess, drive
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local
from tests.evil.server import EvilServer, Play, Relay

pytestmark = pytest.mark.slow

VICTIM = "silo-8"
FEDAVG = local.spec("fedavg", rounds=8, local_steps=1)
#: A job, one of its lanes, and all that a training step opens.
TRAINING = pytest.mark.parametrize(
    ("job", "lane", "opens"),
    [
        pytest.param(FEDAVG, "everyone", ("Static", "everyone"), id="fedavg"),
        pytest.param(
            local.of_state(rounds=8, local_steps=1), "trunk", ("Static", "Fresh", "trunk", "expert-0"), id="of-state"
        ),
    ],
)
#: What only honest silos enforce, switched off: every sum opens whose floors are met.
RULE = "_check_rule"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return local.federation(tmp_path_factory.mktemp("differencing") / "f").root


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> Federation:
    return local.copied(made, tmp_path / "f")


@pytest.fixture(params=["rule", "no-rule"])
def ruled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "no-rule":
        monkeypatch.setattr(SiloSession, RULE, lambda session, names: {})
    return request.param == "rule"


@dataclass
class Seen:
    """What the attacker has, by step: lane → words of the opened sum, and figures. ``shut``: (step, silo) → what it
    kept shut, and why. ``plain``: (step, silo) → what it trained, for the judge alone."""

    sums: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    figures: dict[int, dict[str, int]] = field(default_factory=dict)
    shut: dict[tuple[int, str], dict[str, str]] = field(default_factory=dict)
    agents: dict[str, local.Recording] = field(default_factory=dict)

    def kept_shut(self, step: int) -> set[tuple[str, str]]:
        """(section or lane, code) that each silo of the step kept shut: they all say the same."""
        said = [set(found.items()) for (k, _), found in self.shut.items() if k == step]
        assert said and all(one == said[0] for one in said)
        return said[0]


class Looking(InProcess):
    """Notes what its agent withholds. ``restarts``: the steps at whose start its process is replaced."""

    agent: Agent

    def __init__(self, agent: Agent, seen: Seen, again: Callable[[], Agent], restarts: Iterable[int]) -> None:
        super().__init__(agent)
        self._seen, self._again, self._restarts = seen, again, set(restarts)

    def send(self, request: Message) -> Message | None:
        step, silo = local.asked(request).step, self.agent.site.silo
        if request.phase == "open" and step in self._restarts:
            self._restarts.discard(step)
            self.agent.close()
            self.agent = self._seen.agents[silo] = self._again()  # type: ignore[assignment]
        reply = super().send(request)
        if request.phase == "unmask-lanes" and self.agent._session is not None:
            found = {str(name): why.code for name, why in self.agent._session.withheld.items()}
            self._seen.shut[step, silo] = found
        return reply


def attack(
    federation: Federation,
    job: JobSpec,
    script: Callable[[EvilServer, Seen], Play],
    restarts: Iterable[tuple[str, int]] = (),
) -> Seen:
    """What the script saw. It has the aggregator's key and its own idea of who survives."""
    charter, seen, restarts = Home(federation.aggregator).charter(), Seen(), list(restarts)
    server = EvilServer("differencing", job.text, encode_plan(job.plan(charter)), federation.aggregator)

    def opened(silo: str) -> Agent:
        return local.recording(job.text, SiloHome(federation.homes[silo]))

    seen.agents = {silo: opened(silo) for silo in federation.silos}  # type: ignore[misc]
    couriers = {
        silo: Looking(agent, seen, lambda silo=silo: opened(silo), [k for who, k in restarts if who == silo])  # type: ignore[misc]
        for silo, agent in seen.agents.items()
    }
    try:
        drive(script(server, seen), couriers)  # type: ignore[arg-type]
    finally:
        for courier in couriers.values():
            courier.agent.close()
    return seen


def step(server: EvilServer, seen: Seen, among: Iterable[str], *, void: bool = False) -> Iterator[object]:
    """The present step with these silos. ``void``: it keeps what opened to itself and says that nothing did."""
    among = list(among)
    attempt = server.attempt(0, among=among)
    relay = Relay(server, attempt, dict.fromkeys(among, server.offer(attempt)))
    yield from relay.until("tag")
    k, session = server.k, attempt.session
    seen.sums[k] = {lane: found.words.copy() for lane, found in session.sums.items()}
    seen.figures[k] = session.result.figures(attempt.context.step)
    if void:
        server.void(attempt.t3)
    else:
        yield from relay.finish()


def without(server: EvilServer, *gone: str) -> list[str]:
    return [silo for silo in server.silos if silo not in gone]


def difference(one: np.ndarray, *others: np.ndarray, bits: int = 32) -> np.ndarray:
    total = one.copy()
    for other in others:
        total -= other
    return ring.reduce(total, bits)


# --- void steps ------------------------------------------------------------------------------------------------------


def void_hop(server: EvilServer, seen: Seen) -> Play:
    yield from step(server, seen, server.silos)  # rows/0
    yield from step(server, seen, server.silos, void=True)  # train/0: the sum of all opens, and it says it did not
    yield from step(server, seen, without(server, VICTIM))  # train/1 from the same blocks
    yield from step(server, seen, server.silos)  # train/2: all are back


@TRAINING
def test_a_void_step_and_one_silo_less_do_not_show_its_update(
    federation: Federation, ruled: bool, job: JobSpec, lane: str, opens: tuple[str, ...]
) -> None:
    """attacks.md C2b: the lane sums of a step declared void did open at the aggregator."""
    seen = attack(federation, job, void_hop)
    own = seen.agents[VICTIM].plain[1].lanes[lane]
    assert lane in seen.sums[1] and seen.agents[VICTIM].plain.keys() == ({0, 1} if ruled else {0, 1, 3})
    if not ruled:
        assert np.array_equal(difference(seen.sums[1][lane], seen.sums[2][lane]), own)
        rows = seen.figures[1]["test.rows"] - seen.figures[2]["test.rows"]
        assert rows == len(seen.agents[VICTIM].data.y_test), "and how many test rows it has"
        return
    assert seen.kept_shut(2) == {(name, "COHORT_DIFFERENCE") for name in opens}
    assert seen.sums[2] == {} and seen.figures[2] == {}
    assert seen.kept_shut(3) == set(), "with all eight it is the sum that opened before"
    assert np.array_equal(seen.sums[3][lane], seen.sums[1][lane]), "the same integers, not trained again"


@pytest.mark.parametrize("k", [2, 3])
def test_a_restarted_silo_sends_what_it_sent_before(federation: Federation, k: int) -> None:
    """Else the difference of two sums over the same eight silos would be what its two trainings differ by. It restarts
    when it has been told that the step was void (3), or before (2)."""
    seen = attack(federation, FEDAVG, void_hop, restarts=[("silo-3", k), ("silo-5", k)])
    assert 1 not in seen.agents["silo-3"].__dict__.get("plain", {}), "another process"
    assert 3 not in seen.agents["silo-3"].__dict__.get("plain", {}), "which trained nothing"
    assert np.array_equal(seen.sums[3]["everyone"], seen.sums[1]["everyone"])


def test_from_other_blocks_a_silo_trains_anew(federation: Federation) -> None:
    def honest(server: EvilServer, seen: Seen) -> Play:
        for _ in range(3):
            yield from step(server, seen, server.silos)

    seen = attack(federation, FEDAVG, honest, restarts=[("silo-3", 2)])
    for silo, agent in seen.agents.items():
        assert agent.plain.keys() == ({2} if silo == "silo-3" else {0, 1, 2})
    assert not np.array_equal(seen.sums[1]["everyone"], seen.sums[2]["everyone"])


# --- two runs --------------------------------------------------------------------------------------------------------


@TRAINING
def test_a_second_run_without_one_silo_does_not_show_its_update(
    federation: Federation,
    ruled: bool,
    job: JobSpec,
    lane: str,
    opens: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """attacks.md C2: two runs of one job. Their first blocks depend on the run's id; here they are the same."""
    first_blocks = blocks.initial_state
    monkeypatch.setattr(blocks, "initial_state", lambda plan, run: first_blocks(plan, bytes(32)))

    def script(*gone: str) -> Callable[[EvilServer, Seen], Play]:
        def play(server: EvilServer, seen: Seen) -> Play:
            yield from step(server, seen, server.silos)  # rows/0: the weights are the same in both runs
            yield from step(server, seen, without(server, *gone))
            yield from step(server, seen, without(server, *gone))

        return play

    first, second = attack(federation, job, script()), attack(federation, job, script(VICTIM))
    if not ruled:
        words = difference(first.sums[1][lane], second.sums[1][lane])
        assert np.array_equal(words, first.agents[VICTIM].plain[1].lanes[lane])
        return
    shut = {(name, "COHORT_DIFFERENCE") for name in opens}
    assert second.kept_shut(0) == set() and second.kept_shut(1) == second.kept_shut(2) == shut
    third = attack(federation, job, script())
    assert third.kept_shut(1) == third.kept_shut(2) == set(), "with all eight it is the run of before"
    assert np.array_equal(third.sums[2][lane], first.sums[2][lane])


# --- chains of cohorts -----------------------------------------------------------------------------------------------

#: Survivors of steps in a row, by number. From one to the next none or three change on each side; together they show
#: silo 1: ½ · ((1 2 6 7 8) + (1 3 6 7 8) − (2 3 6 7 8) − (6 7 8)).
CHAIN = ("12345678", "12345", "12678", "12345", "13678", "12345", "23678")


def test_a_chain_of_cohorts_does_not_show_a_figure(federation: Federation, ruled: bool) -> None:
    """attacks.md H1: each cohort is far enough from the one before, and their sums are not."""

    def script(server: EvilServer, seen: Seen) -> Play:
        yield from step(server, seen, server.silos)
        for numbers in CHAIN:
            survivors = [f"silo-{i}" for i in numbers]
            attempt = server.attempt(0, among=survivors)
            relay = Relay(server, attempt, dict.fromkeys(server.silos, server.offer(attempt)))
            yield from relay.finish()
            seen.figures[server.k - 1] = attempt.session.result.figures(attempt.context.step)

    seen = attack(federation, FEDAVG, script)
    rows = [seen.figures[k].get("test.rows") for k in range(1, 1 + len(CHAIN))]
    if not ruled:
        everyone, five, one_two, _, one_three, _, two_three = map(int, filter(None, rows))
        others = everyone - five
        found = (one_two - others) + (one_three - others) - (two_three - others)
        assert found == 2 * len(seen.agents["silo-1"].data.y_test)
        return
    assert [found is not None for found in rows] == [True, True, False, True, False, True, False]
    for k in range(1, 1 + len(CHAIN)):
        assert seen.kept_shut(k) == ({("Static", "COHORT_DIFFERENCE")} if rows[k - 1] is None else set())
        assert seen.figures[k]["everyone.contributors"] == len(CHAIN[k - 1]), "the model goes on"


# --- two lanes of one quantity ---------------------------------------------------------------------------------------


def test_all_less_both_halves_do_not_show_a_signature(federation: Federation, ruled: bool) -> None:
    """attacks.md H2: silo 8 drops out between the sum of all signatures and those of the two halves."""
    job = local.spec("fedcoe", rounds=1, hidden=4, finetune_steps=1)

    def script(server: EvilServer, seen: Seen) -> Play:
        yield from step(server, seen, server.silos)  # cluster/0
        yield from step(server, seen, without(server, VICTIM))  # cluster/1
        yield from step(server, seen, server.silos)  # train/0

    seen = attack(federation, job, script)
    halves, plan = ("cluster-0", "cluster-1"), seen.agents[VICTIM].plan
    size = plan.words_of(plan.steps[1], "cluster-0")
    if not ruled:
        left, right = (seen.sums[1][lane] for lane in halves)
        found = difference(seen.sums[0]["cluster-0"][:size], left, right, bits=plan.ring_bits)
        own = ring.reduce(seen.agents[VICTIM].plain[0].lanes["cluster-0"][:size], plan.ring_bits)
        assert np.array_equal(found, own) and own.any()
        return
    assert seen.kept_shut(1) == {(lane, "COHORT_DIFFERENCE") for lane in halves} and seen.sums[1] == {}
    assert "everyone" in seen.sums[2] and "COHORT_DIFFERENCE" not in dict(map(reversed, seen.kept_shut(2)))  # type: ignore[arg-type]
