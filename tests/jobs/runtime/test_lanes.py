"""Lanes open one by one: two holders of a lane fall away, and it stays shut to everyone while the others open.

Whole jobs in this process. The couriers keep every byte that reached the server, and each silo's session secrets: those
of the colluder for the attack, those of all to know what to look for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from aggregator.home import AggregatorHome, RunFolder
from aggregator.ledger.records import StepClosed
from aggregator.rounds.run import RunOutcome
from aggregator.run_record import RunRecord
from crypto import blocks, shamir, transcript
from crypto.cohort import Context, Survivors, commitment, mask_key
from crypto.errors import SpecError
from crypto.evidence import StepEvidence
from crypto.home import Home
from crypto.masking import apply_streams
from crypto.messages import Message, Request, SharePack, StepResult
from crypto.plan import Plan
from jobs.demo import break_lane
from jobs.demo.console import Shown
from jobs.demo.federation import Federation
from jobs.demo.up import Options, prepare, simulate
from jobs.evidence.run_summary import secure_aggregation, uniformity
from jobs.job import JobSpec
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from tests import local

pytestmark = pytest.mark.slow

#: Heads of 1,290 words: long enough to tell noise from anything else.
JOB = JobSpec.load("fedavg-lanes-digits").with_params(hidden=128, local_steps=3, rounds=3)
STEPS = ("rows/0", "train/0", "train/1", "train/2", "eval/0")
#: The first step that the victims miss, and the one after.
BROKEN, AFTER = 2, 3
#: Lane → those who fall away; every other lane keeps three holders.
VICTIMS = {"expert-0": ("silo-1", "silo-3"), "expert-2": ("silo-1", "silo-5")}
HOLDERS = {
    lane: tuple(f"silo-{i}" for i in numbers)
    for lane, numbers in {
        "trunk": range(1, 9), "expert-0": (1, 2, 3, 4), "expert-1": (5, 6, 7, 8), "expert-2": (1, 2, 5, 6),
        "expert-3": (3, 4, 7, 8),
    }.items()
}  # fmt: skip


class Anyone:
    def verify(self, signature: bytes, message: bytes) -> None:
        """Tests look at requests without the aggregator's key."""


def asked(request: Message) -> Request:
    return Request.open(request.body, lambda _: Anyone())  # type: ignore[arg-type, return-value]


@dataclass(frozen=True)
class Secrets:
    """A silo's session before it releases: the packs it was dealt (its own too), its self seeds, its mask seed."""

    packs: Mapping[str, SharePack]
    seeds: Mapping[str, bytes]
    mask: bytes

    def __bytes__(self) -> bytes:
        return b"|".join([*(bytes(pack) for pack in self.packs.values()), *self.seeds.values(), self.mask])


@dataclass
class Seen:
    """By step: every byte that reached the server, the words it fetched, and each silo's secrets."""

    sent: dict[int, list[bytes]] = field(default_factory=dict)
    words: dict[int, dict[str, tuple[np.ndarray, ...]]] = field(default_factory=dict)
    secrets: dict[int, dict[str, Secrets]] = field(default_factory=dict)


class Wire(InProcess):
    """Keeps what passes. A victim's upload in the step BROKEN arrives with one flipped bit: the server has seen it,
    and the silo is out. It never answers again."""

    def __init__(self, silo: str, agent: Agent, seen: Seen, victims: Iterable[str]) -> None:
        super().__init__(agent)
        self._silo, self._seen, self._victim = silo, seen, silo in victims

    def send(self, request: Message) -> Message | None:
        k = asked(request).step
        if self._victim and k > BROKEN:
            return None
        if request.phase == "fetch":
            session = self.agent._session  # type: ignore[union-attr]
            assert session is not None
            secrets = Secrets(dict(session._packs), dict(session._seeds), session._mask_seed)
            self._seen.secrets.setdefault(k, {})[self._silo] = secrets
        reply = super().send(request)
        assert reply is not None
        self._seen.sent.setdefault(k, []).extend([reply.body, *(words.tobytes() for words in reply.arrays)])
        if request.phase == "fetch":
            arrays = tuple(words.copy() for words in reply.arrays)
            self._seen.words.setdefault(k, {})[self._silo] = arrays
            if self._victim and k == BROKEN:
                last = arrays[-1].copy()
                last[-1] ^= 1
                return Message("fetch", reply.body, (*arrays[:-1], last))
        return reply


@dataclass(frozen=True)
class Played:
    lane: str
    federation: Federation
    outcome: RunOutcome
    agents: Mapping[str, Agent]
    seen: Seen

    @cached_property
    def record(self) -> RunRecord:
        return RunRecord.read(AggregatorHome(self.federation.aggregator), self.outcome.run)

    @cached_property
    def plan(self) -> Plan:
        return self.record.plan

    @cached_property
    def closed(self) -> dict[int, StepClosed]:
        return {one.record.k: one.record for one in self.record.of(StepClosed)}

    def announced(self, k: int) -> StepResult:
        folder = AggregatorHome(self.federation.aggregator).run_folder(self.outcome.run)
        return StepResult.from_bytes(StepEvidence.from_bytes(folder.evidence_path(k).read_bytes()).result)

    def plain(self, silos: Iterable[str], k: int, lane: str) -> np.ndarray:
        """The sum of these silos' integers, from before they were masked."""
        total = np.zeros(self.plan.words_of(self.plan.steps[k], lane), np.uint32)
        for silo in silos:
            total += self.agents[silo].plain[k].lanes[lane]  # type: ignore[attr-defined]
        return total


def play(root: Path, job: JobSpec, lane: str, victims: Iterable[str]) -> Played:
    federation, seen = local.federation(root), Seen()
    outcome, _, agents = local.run_job(
        job,
        federation.aggregator,
        federation.homes,
        agent=local.recording,
        courier=lambda silo, agent: Wire(silo, agent, seen, victims),  # type: ignore[arg-type]
    )
    return Played(lane, federation, outcome, agents, seen)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=sorted(VICTIMS))
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(tmp_path_factory.mktemp(request.param) / "f", JOB, request.param, VICTIMS[request.param])


# --- the others open, and are exact ------------------------------------------------------------------------------


def test_the_lane_stays_shut_and_the_others_open(broken: Played) -> None:
    assert [one.name for one in broken.closed.values()] == list(STEPS)
    for k, one in broken.closed.items():
        shut = (broken.lane,) if k in (BROKEN, AFTER) else ()
        assert one.lanes_shut == shut and len(one.lanes_open) == (5 - len(shut)) * (0 < k < 4)
    shown = {one.name: one.slots.get(f"{broken.lane}.contributors") for one in broken.closed.values()}
    assert shown == dict.fromkeys(STEPS) | {"train/0": 4}, "of a shut lane not even the count"
    left = {k: len(set(HOLDERS[broken.lane]) & set(one.survivors)) for k, one in broken.closed.items() if 0 < k < 4}
    assert left == {1: 4, BROKEN: 2, AFTER: 2}
    assert (broken.outcome.steps_void, secure_aggregation(broken.record)["lanes_closed"]) == (0, 2)
    assert broken.closed[AFTER].survivors == tuple(sorted(set(broken.agents) - set(VICTIMS[broken.lane])))


def test_opened_sums_are_the_plain_sums_and_the_shut_lanes_blocks_stand_still(broken: Played) -> None:
    """State and chain on the ledger are recomputed from the silos' plain integers: one other bit, another chain."""
    run = next(iter(broken.agents.values()))._run
    plan, state = broken.plan, blocks.initial_state(broken.plan, run)
    chain, states = transcript.initial_chain(run, blocks.state_digest(state)), {}
    for k, one in broken.closed.items():
        mine = {silo: broken.agents[silo].plain[k] for silo in one.survivors}  # type: ignore[attr-defined]
        result, sums = local.opened_from(plan, one, chain, mine, broken.announced(k))
        assert one.slots == result.figures(plan.steps[k])
        chain = transcript.next_chain(chain, result.t3, result.digest, released=True)
        assert chain.hex() == one.chain
        state = states[k] = blocks.apply(plan, plan.steps[k], state, sums, result.weights)
    assert blocks.state_digest(state).hex() == broken.outcome.state_digest
    for name in state:
        stood = np.array_equal(states[BROKEN - 1][name], state[name])
        assert stood == (plan.block(name).lane == broken.lane), name


def test_the_ledger_names_visible_holders_and_no_others(broken: Played) -> None:
    visible = {
        silo: tuple(lane for lane in ("expert-0", "expert-1") if silo in HOLDERS[lane]) for silo in broken.agents
    }
    assert broken.closed[1].holdings == visible
    assert secure_aggregation(broken.record)["masked_bytes_per_parameter"] > 4.0  # the victims' lost uploads


def test_a_lane_that_loses_one_holder_still_opens(tmp_path: Path) -> None:
    played = play(tmp_path / "f", JOB.with_params(rounds=2), "", ["silo-1"])
    assert played.closed[BROKEN].survivors == tuple(sorted(set(played.agents) - {"silo-1"}))
    assert not any(one.lanes_shut for one in played.closed.values())


# --- everything the server saw, and a colluder -------------------------------------------------------------------


class Attack:
    """All that the server saw of a step, all that the colluders have, and what follows from both."""

    def __init__(self, played: Played, k: int, colluders: Iterable[str]) -> None:
        one, plan = played.closed[k], played.plan
        self.colluders = tuple(colluders)
        self.secrets = played.seen.secrets[k]
        folder = played.federation.aggregator / "jobs" / played.outcome.run
        evidence = RunFolder(folder).evidence_path(k).read_bytes()
        kept = [path.read_bytes() for path in (folder / "uploads" / f"{k:06d}").rglob("*.u32")]
        assert kept
        had = [bytes(self.secrets[silo]) for silo in self.colluders]
        self.everything = b"|".join([*played.seen.sent[k], *kept, evidence, *had])
        chain = bytes.fromhex(played.closed[k - 1].chain)
        run, attempt = next(iter(played.agents.values()))._run, int(str(one.attempt))
        charter = Home(played.federation.aggregator).charter()
        context = Context(charter=charter, plan=plan, run=run, k=k, attempt=attempt, chain=chain)
        self.survivors: Survivors = StepEvidence.from_bytes(evidence).survivors(context)
        self.dealt, self.cohort = self.survivors.dealt, self.survivors.dealt.cohort
        self._seeds: dict[tuple[str, str], bytes | None] = {}
        self.words = {
            silo: dict(zip(self.cohort.words_of(silo), arrays, strict=True))
            for silo, arrays in played.seen.words[k].items()
        }

    def shares(self, dealer: str, lane: str) -> dict[int, bytes]:
        """Point → share of a secret ("" for the mask seed), each found as raw bytes in what is there to be seen."""
        place = ("", *self.cohort.lanes_of(dealer)).index(lane)
        found = {}
        for holder, secrets in self.secrets.items():
            pack = secrets.packs[dealer]
            share = (pack.mask, *pack.self_seeds)[place]
            if share in self.everything:
                found[self.cohort.points[holder]] = share
        return found

    def seed(self, dealer: str, lane: str) -> bytes | None:
        """A self seed (or mask seed): a colluder's own, or from t shares."""
        if (dealer, lane) not in self._seeds:
            self._seeds[dealer, lane] = self._find(dealer, lane)
        return self._seeds[dealer, lane]

    def _find(self, dealer: str, lane: str) -> bytes | None:
        if dealer in self.colluders:
            return self.secrets[dealer].seeds[lane] if lane else self.secrets[dealer].mask
        shares = self.shares(dealer, lane)
        if len(shares) < self.cohort.threshold:
            return None
        seed = shamir.combine(shares, self.cohort.threshold)
        if lane:
            assert commitment(dealer, lane, seed) == dict(self.cohort.adverts[dealer].commitments)[lane]
        return seed

    def unmask(self, lane: str, silos: Iterable[str]) -> np.ndarray:
        """The sum of these silos' masked words, less every stream whose key is to be had."""
        silos = tuple(silos)
        total = np.zeros(self.words[silos[0]][lane].size, np.uint32)
        streams = []
        for silo in silos:
            total += self.words[silo][lane]
            if (seed := self.seed(silo, lane)) is not None:
                streams.append((self.dealt.self_key(seed, silo, lane), -1))
            for peer in self.cohort.holders(lane, self.dealt.signed):
                if peer not in silos and (secret := self._pair(silo, peer)) is not None:
                    streams.append((self.dealt.pair_key(secret, silo, peer, lane), -1 if silo < peer else 1))
        apply_streams(total, streams)
        return total

    def _pair(self, one: str, other: str) -> bytes | None:
        for mine, theirs in ((one, other), (other, one)):
            if (seed := self.seed(mine, "")) is not None:
                return mask_key(seed).agree(self.cohort.adverts[theirs].mask)
        return None


def chi(words: np.ndarray) -> float:
    """Of the bytes against uniform, standardised: within a few units for noise."""
    statistic, freedom = uniformity(words)
    return (statistic - freedom) / (2 * freedom) ** 0.5


def correlation(words: np.ndarray, plain: np.ndarray) -> float:
    """As signed numbers, in units of 1/√d."""
    one, other = (part.view(np.int32).astype(np.float64) for part in (words, plain))
    return float(np.corrcoef(one, other)[0, 1] * words.size**0.5)


@pytest.mark.parametrize("colluder", ["silo-2", "silo-8"], ids=["a-holder", "no-holder"])
@pytest.mark.parametrize("k", [BROKEN, AFTER])
def test_everything_that_was_seen_and_a_colluder_do_not_open_the_shut_lane(
    broken: Played, k: int, colluder: str
) -> None:
    attack, lane = Attack(broken, k, [colluder]), broken.lane
    uploaders = attack.cohort.holders(lane, attack.words)
    gone = VICTIMS[lane]
    if k == BROKEN:
        assert set(gone) <= set(uploaders) and set(attack.survivors.dropped) == set(gone)
        assert all(attack.seed(silo, "") is not None for silo in gone)  # their mask seeds are opened, as they must be
    # Of each self seed there is the one share that the colluder was dealt: t shares are needed, t − 1 say nothing.
    for silo in set(uploaders) - {colluder}:
        assert len(attack.shares(silo, lane)) == 1 < attack.cohort.threshold
    # Every sum of uploads, freed of every mask there is a key for.
    looked = 0
    for size in range(1, len(uploaders) + 1):
        for silos in combinations(uploaders, size):
            words, plain = attack.unmask(lane, silos), broken.plain(silos, k, lane)
            if silos == (colluder,):
                assert np.array_equal(words, plain)
                continue
            assert abs(chi(words)) < 7, silos
            if plain.any():
                assert abs(correlation(words, plain)) < 7, silos
                looked += 1
    assert looked >= 2


@pytest.mark.parametrize("k", [BROKEN, AFTER])
def test_the_same_procedure_opens_what_is_open(broken: Played, k: int) -> None:
    """Positive control: from the same bytes every opened lane comes out exactly, and it is nothing like noise."""
    attack = Attack(broken, k, ["silo-2"])
    opened = [lane for lane in HOLDERS if lane != broken.lane]
    assert set(broken.closed[k].lanes_open) == set(opened)
    for lane in opened:
        uploaders = attack.cohort.holders(lane, attack.survivors.signed)
        words = attack.unmask(lane, uploaders)
        assert np.array_equal(words, broken.plain(uploaders, k, lane)), lane
        assert abs(chi(words)) > 7


@pytest.mark.parametrize("k", [BROKEN, AFTER])
def test_the_shut_lane_opens_to_t_silos_and_to_no_fewer(broken: Played, k: int) -> None:
    """The same procedure with more colluders than the charter assumes: what shuts the lane is that shares stay home."""
    survivors = Attack(broken, k, []).survivors
    holders = survivors.dealt.cohort.holders(broken.lane, survivors.signed)
    others = [silo for silo in survivors.signed if silo not in HOLDERS[broken.lane]]
    colluders = [*others, *HOLDERS[broken.lane]]
    t = survivors.dealt.cohort.threshold
    able, short = (Attack(broken, k, [silo for silo in colluders if silo in survivors.signed][:n]) for n in (t, t - 1))
    assert np.array_equal(able.unmask(broken.lane, holders), broken.plain(holders, k, broken.lane))
    assert abs(chi(short.unmask(broken.lane, holders))) < 7


# --- fed … --break -----------------------------------------------------------------------------------------------


def holdings(**lanes: Iterable[int]) -> dict[str, frozenset[str]]:
    return {name.replace("_", "-"): frozenset(f"silo-{i}" for i in numbers) for name, numbers in lanes.items()}


def test_victims_bring_down_one_lane_and_no_other(tmp_path: Path) -> None:
    charter = Home(local.federation(tmp_path / "f").aggregator).charter()
    plan = JOB.plan(charter)
    held = {lane: frozenset(names) for lane, names in HOLDERS.items()}
    for wanted, lane in [("lane", "expert-0"), *((f"expert-{e}", f"expert-{e}") for e in range(4))]:
        chosen = break_lane.choose(plan, charter, held, wanted)
        assert (chosen.lane, chosen.floor, chosen.left) == (lane, 3, 2)
        left = {name: len(names - set(chosen.silos)) for name, names in held.items()}
        assert {name for name, count in left.items() if count < 3} == {lane}
        assert len(charter.silos) - len(chosen.silos) >= charter.n_min
    # A lane that is shut already is neither a target nor spared; of a pair that share their holders none can fall.
    some = held | holdings(expert_0=(1, 2), expert_1=(5, 6, 7))
    assert break_lane.choose(plan, charter, some, "lane") == break_lane.Break("expert-1", 3, ("silo-5",), 2)
    twins = held | holdings(expert_0=(1, 2, 3), expert_1=(1, 2, 3), expert_2=(1, 2, 3), expert_3=(1, 2, 3))
    # All eight hold every expert: with so many gone the cohort would be too small.
    for hopeless in (twins, held | dict.fromkeys(("expert-0", "expert-1", "expert-2", "expert-3"), held["trunk"])):
        with pytest.raises(SpecError, match="fall below its floor"):
            break_lane.choose(plan, charter, hopeless, "lane")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"job": "fedavg-digits", "breaks": "lane"}, "a HELD lane"),
        ({"job": "fedavg-lanes-digits", "breaks": "lane", "rounds": 1}, "train/1"),
        ({"job": "fedavg-lanes-digits", "breaks": "trunk"}, "expert-0, expert-1"),
        ({"job": "fedavg-lanes-digits", "breaks": ""}, "expert-0, expert-1"),
    ],
)
def test_a_job_without_a_lane_to_break_is_refused(tmp_path: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        prepare(Options(runs=tmp_path / "runs", **options))  # type: ignore[arg-type]
    assert refused.value.path == "--break" and not (tmp_path / "runs").exists()


def test_simulate_breaks_a_lane_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(*given: object) -> dict[str, dict[str, float]]:
        return {"fedavg": {}, "fedavg_equal_params": {}, "local": {}}

    monkeypatch.setattr("jobs.demo.baselines.measure", nothing)
    options = Options(job="fedavg-lanes-digits", rounds=3, runs=tmp_path, breaks="lane")
    report = simulate(options, Shown(json=True))
    assert report["broken"] == {
        "lane": "expert-0",
        "killed": list(VICTIMS["expert-0"]),
        "shut_in_steps": ["train/1", "train/2"],
        "stayed_shut": True,
        "holders_left": 2,
        "floor": 3,
        "others_shut": [],
    }
    sums = report["secure_aggregation"]
    assert (sums["lanes_closed"], sums["steps_void"], sums["masked_bytes_per_parameter"]) == (2, 0, 4.0)
    assert "lane expert-0 stayed shut from train/1: 2 holders left, floor 3" in capsys.readouterr().err


def test_what_came_of_it_is_said_as_it_is() -> None:
    broken = {
        "lane": "e",
        "killed": ["a", "b"],
        "shut_in_steps": ["train/1", "train/3"],
        "stayed_shut": False,
        "holders_left": 2,
        "floor": 3,
        "others_shut": ["f"],
    }
    assert break_lane.sentence(broken) == "lane e was shut in train/1 and train/3: 2 holders left, floor 3; f shut too"
    assert "never shut: a and b" in break_lane.sentence(broken | {"shut_in_steps": []})
