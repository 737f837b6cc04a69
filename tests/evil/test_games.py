"""Every game of the malicious aggregator against honest agents, in this process. The real thing: test_federation.py."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from aggregator.rounds.resume import Result
from aggregator.verify import checks, models
from crypto import equivocation, ring
from crypto.charter import Charter
from crypto.encoding import VERSION, Reader
from crypto.home import Home
from crypto.keys import Identity
from crypto.messages import Message, Request, Shares
from crypto.silo_session import SiloSession
from jobs.cli import main as cli
from jobs.demo.federation import Federation
from jobs.job import encode_plan
from jobs.runtime import compose
from jobs.runtime.in_process import InProcess, drive
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local
from tests.evil import trojan
from tests.evil.games import GAMES, book_path, served
from tests.evil.logs import Line, heard, lines
from tests.evil.outcome import wrong
from tests.evil.server import ANSWERED, Book, EvilServer
from tests.evil.verdict import judge

pytestmark = pytest.mark.slow

SILOS = 6
#: Games in which shares leave, as they may.
RELEASED = {"both-shares", "wrong-result", "model-split", "second-release", "shut-lane", "void-hop", "two-runs"}
RELEASED |= {"false-sum", "false-past", "invented-slots"}
Spoil = Callable[[Agent, Message, Message], Message]


@dataclass(frozen=True)
class Played:
    """One run of a game. ``logged``: silo → what its agent logged."""

    book: Book
    charter: Charter
    logged: dict[str, Counter[Line]]
    server: EvilServer


def play(name: str, federation: Federation, spoil: Spoil | None = None) -> tuple[Book, Charter]:
    """A game of one run to its end; its book as it was saved. ``spoil``: what a faulty silo makes of its answers."""
    (played,) = play_all(name, federation, spoil)
    return played.book, played.charter


def play_all(
    name: str,
    federation: Federation,
    spoil: Spoil | None = None,
    opened: Callable[[str, SiloHome], Agent] = local.open_agent,
) -> list[Played]:
    """Each run of a game, as it was saved. ``opened``: makes the silos' agents."""
    GAMES[name].register(federation)
    found: list[Played] = []
    for _ in range(GAMES[name].runs):
        found.append(_play(name, federation, [played.book for played in found], spoil, opened))
    return found


def _play(
    name: str,
    federation: Federation,
    earlier: list[Book],
    spoil: Spoil | None,
    opened: Callable[[str, SiloHome], Agent],
    seen: Callable[[EvilServer], object] = lambda server: None,
) -> Played:
    charter = Home(federation.aggregator).charter()
    spec = GAMES[name].job()
    server = EvilServer(name, spec.text, encode_plan(spec.plan(charter)), federation.aggregator, earlier)
    seen(server)
    agents = {silo: opened(spec.text, SiloHome(home)) for silo, home in federation.homes.items()}
    couriers = {silo: _Spoiling(agent, spoil) for silo, agent in agents.items()}
    try:
        drive(served(server, federation.aggregator), couriers)  # type: ignore[arg-type]
    finally:
        for agent in agents.values():
            agent.close()
    book = Book.load(book_path(federation.aggregator, name, len(earlier)))
    return Played(book, charter, {silo: lines("\n".join(one.log)) for silo, one in couriers.items()}, server)


class _Spoiling(InProcess):
    """Keeps what the agent logs in ``log``."""

    def __init__(self, agent: Agent, spoil: Spoil | None) -> None:
        super().__init__(agent)
        self._spoil = spoil
        self.log: list[str] = []

    def send(self, request: Message) -> Message | None:
        with heard(self.log):
            answer = self.agent.handle(request)
        return answer if self._spoil is None else self._spoil(self.agent, request, answer)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One for all games: each is a run of its own, as on a server that tries one after the other."""
    return local.federation(tmp_path_factory.mktemp("evil") / "f", SILOS)


@pytest.mark.parametrize("name", sorted(GAMES))
def test_every_silo_that_must_refuse_does_and_no_share_breaks_the_rule(name: str, federation: Federation) -> None:
    refused = 0
    for played in play_all(name, federation):
        book = played.book
        verdict = judge(book.entries, played.charter, book.shut)
        assert wrong(book, verdict, played.logged) == []
        refused += sum(code != ANSWERED for trick in book.tricks for code in trick.got.values()) + len(book.withheld)
        assert bool(verdict.shares) == (name in RELEASED)  # the scan does find the shares that may leave
        if name == "shut-lane":
            assert "everyone" in verdict.lanes(book.shut[0][0])
    assert refused


def test_a_silo_keeps_proof_of_being_asked_twice(federation: Federation) -> None:
    book, charter = play("both-shares", federation)
    victim, *rest = federation.silos
    for silo in rest:
        kept = sorted(
            path for path in (federation.silo(silo) / "evidence").iterdir() if path.name[:16] == book.run[:16]
        )
        assert [path.name.split("-", 1)[1] for path in kept] == ["1-1-attest.bin", "1-1-unmask-slots.bin"]
        for path in kept:
            assert path.stat().st_mode & 0o777 == 0o600
            assert equivocation.verify(path.read_bytes(), charter).signer == "aggregator"
    assert not any(book.run[:16] in path.name for path in federation.silo(victim).glob("evidence/*"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("false-sum", ["2-0-unproven.bin", "2-1-tag.bin"]),
        ("false-past", ["2-0-unproven.bin"]),
        ("invented-slots", ["1-0-unproven.bin"]),
    ],
)
def test_a_silo_keeps_what_was_announced_and_not_proven(name: str, kept: list[str], tmp_path: Path) -> None:
    federation = local.federation(tmp_path / "f", SILOS)
    book, charter = play(name, federation)
    late = ["2-1-unproven.bin", "2-2-unproven.bin", "2-3-unproven.bin"] if name == "false-past" else []
    for silo in federation.silos:
        found = sorted(path for path in federation.silo(silo).glob("evidence/*") if path.name[:16] == book.run[:16])
        want = sorted([*kept, *(late if silo == federation.silos[-1] else [])])
        assert [path.name.split("-", 1)[1] for path in found] == want
        for path in found:
            assert path.stat().st_mode & 0o777 == 0o600
            if path.name.endswith("-unproven.bin"):
                src = Reader(path.read_bytes())
                assert src.u8() == VERSION
                request = Request.open(src.blob(), lambda _: charter.aggregator)
                assert (request.run.hex(), request.phase) == (book.run, "open")


# --- without the check, the attack succeeds ---------------------------------------------------------------------------


@pytest.fixture
def no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silos that let every set of contributors open."""
    monkeypatch.setattr(SiloSession, "_check_rule", lambda self, names: {})


@pytest.mark.usefixtures("no_rule")
def test_without_the_rule_a_void_hop_shows_an_update(federation: Federation) -> None:
    agents: dict[str, local.Recording] = {}

    def opened(job: str, home: SiloHome) -> Agent:
        agents[home.silo] = agent = local.recording(job, home)
        return agent

    server = until_wrong("void-hop", federation, opened)
    victim = federation.silos[0]
    (whole, less) = (one for one in server.loot if one.result.sums)
    found = ring.reduce(whole.sums[0] - less.sums[0], server.plan.ring_bits)
    update = agents[victim].plain[1].lanes["everyone"]
    assert np.array_equal(found, ring.reduce(update, server.plan.ring_bits)) and update.any()
    count = server.plan.steps[1].slots.index(
        next(slot for slot in server.plan.steps[1].slots if slot.name == "test.rows")
    )
    assert _figure(whole, count) - _figure(less, count) == len(agents[victim].data.y_test)


@pytest.mark.usefixtures("no_rule")
def test_without_the_rule_two_runs_show_the_rows_of_one_silo(federation: Federation) -> None:
    agents: dict[str, Agent] = {}

    def opened(job: str, home: SiloHome) -> Agent:
        agents[home.silo] = agent = local.open_agent(job, home)
        return agent

    GAMES["two-runs"].register(federation)
    first = _play("two-runs", federation, [], None, opened)
    server = until_wrong("two-runs", federation, opened, [first.book])
    rows = [slot.name for slot in server.plan.steps[0].slots].index("rows")
    difference = _figure(first.server.loot[0], rows) - _figure(server.loot[0], rows)
    assert difference == agents[federation.silos[0]].data.rows


def until_wrong(
    name: str, federation: Federation, opened: Callable[[str, SiloHome], Agent], earlier: list[Book] | None = None
) -> EvilServer:
    """The server of a game that ends because more opened than must."""
    GAMES[name].register(federation)
    servers: list[EvilServer] = []
    with pytest.raises(AssertionError, match="opened"):
        _play(name, federation, earlier or [], None, opened, servers.append)
    return servers[0]


def _figure(one: Result, place: int) -> int:
    value = one.result.slots[place]
    assert value is not None
    return value


# --- the trojan predictor ---------------------------------------------------------------------------------------------


def finished(federation: Federation, way: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run whose predictor is the aggregator's own."""
    with monkeypatch.context() as patched:
        if way == trojan.WAYS[1]:
            patched.setattr(compose, "stage_predictor", trojan.stager(federation.aggregator))
        outcome, _, _ = local.run_job(trojan.job(), federation.aggregator, federation.homes)
    if way == trojan.WAYS[0]:
        trojan.replace_after(federation.aggregator_home, outcome.run)
    return outcome.run


def fed(words: Sequence[str]) -> tuple[int, str]:
    """``fed WORDS`` in this process."""
    with (
        redirect_stdout(StringIO()) as out,
        redirect_stderr(out),
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(SystemExit) as ended,
    ):
        patched.setattr(sys, "argv", ["fed", *words])
        cli.main()
    return int(ended.value.code or 0), out.getvalue()


@pytest.mark.parametrize("way", trojan.WAYS)
def test_a_trojan_predictor_is_refused_by_name_and_never_run(
    way: str, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = trojan.tried(federation, finished(federation, way, monkeypatch), way, tmp_path, fed)
    assert outcome.wrong == () and len(outcome.told) == 7


def test_without_the_check_a_trojan_predictor_passes(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = trojan.WAYS[1]
    run = finished(federation, way, monkeypatch)
    monkeypatch.setattr(checks.PredictorCheck, "of", lambda *given: None)
    monkeypatch.setattr(models, "checked_predictor", lambda *given: None)
    outcome = trojan.tried(federation, run, way, tmp_path, fed)
    assert len(outcome.wrong) == 5, "of each command that refuses with the check"
    assert all("exit code 0" in line for line in outcome.wrong), outcome.wrong
    assert trojan.lives(federation, run)


# --- the verdict is no rubber stamp --------------------------------------------------------------------------------


def gives_both(agent: Agent, request: Message, answer: Message) -> Message:
    """silo-2 adds its share of silo-1's mask seed to the noise behind a refusal."""
    session = agent._session
    if (agent.site.silo, agent.k, request.phase) == ("silo-2", 1, "unmask-slots") and session and session._packs:
        return replace(answer, body=answer.body, arrays=(_words(session._packs["silo-1"].mask),))
    return answer


def _words(data: bytes):  # type: ignore[no-untyped-def]
    return np.frombuffer(data + bytes(3), dtype="<u4")


def test_the_verdict_sees_a_mask_share_beside_a_self_share(federation: Federation) -> None:
    book, charter = play("both-shares", federation, gives_both)
    assert judge(book.entries, charter).broken == ["silo-2 sent both kinds of share of silo-1 in step 1"]


def test_the_verdict_sees_a_second_release(federation: Federation) -> None:
    book, charter = play("both-shares", federation)
    agent = federation.silo("silo-3") / "keys" / "agent.key"
    at = max(i for i, one in enumerate(book.entries) if one.silo == "silo-3" and one.phase == "unmask-slots")
    shares = Shares.open(book.entries[at].reply, lambda m: charter.member(m.silo).agent)
    second = replace(shares, t3=bytes(32)).sign(Identity.load(agent))
    broken = judge([*book.entries, replace(book.entries[at], reply=second)], charter).broken
    assert broken == ["silo-3 released step 1 for two survivor sets"]


def test_the_verdict_sees_shares_of_a_lane_that_must_stay_shut(federation: Federation) -> None:
    book, charter = play("both-shares", federation)
    assert judge(book.entries, charter, [(1, "everyone")]).broken == ["shares of the shut lane everyone of step 1 left"]


def test_the_evil_server_is_not_in_the_package() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        "crypto",
        "silo_agent",
        "aggregator",
        "jobs",
    ]
