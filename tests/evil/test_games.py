"""Every game of the malicious aggregator against honest agents, in this process. The real thing: test_federation.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crypto import equivocation
from crypto.charter import Charter
from crypto.encoding import VERSION, Reader
from crypto.home import Home
from crypto.keys import Identity
from crypto.messages import Message, Request, Shares
from jobs.demo.federation import Federation
from jobs.job import encode_plan
from jobs.runtime.in_process import InProcess, drive
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local
from tests.evil.games import GAMES, book_path, evil_run
from tests.evil.server import ANSWERED, Book
from tests.evil.verdict import judge

pytestmark = pytest.mark.slow

SILOS = 6
Spoil = Callable[[Agent, Message, Message], Message]


def play(name: str, federation: Federation, spoil: Spoil | None = None) -> tuple[Book, Charter]:
    """A game to its end; its book as it was saved. ``spoil``: what a faulty silo makes of its answers."""
    charter = Home(federation.aggregator).charter()
    spec = GAMES[name].job()
    agents = {silo: local.open_agent(spec.text, SiloHome(home)) for silo, home in federation.homes.items()}
    couriers = {silo: _Spoiling(agent, spoil) for silo, agent in agents.items()}
    try:
        drive(evil_run(name, spec.text, encode_plan(spec.plan(charter)), federation.aggregator), couriers)  # type: ignore[arg-type]
    finally:
        for agent in agents.values():
            agent.close()
    return Book.load(book_path(federation.aggregator, name)), charter


class _Spoiling(InProcess):
    def __init__(self, agent: Agent, spoil: Spoil | None) -> None:
        super().__init__(agent)
        self._spoil = spoil

    def send(self, request: Message) -> Message | None:
        answer = self.agent.handle(request)
        return answer if self._spoil is None else self._spoil(self.agent, request, answer)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One for all games: each is a run of its own, as on a server that tries one after the other."""
    return local.federation(tmp_path_factory.mktemp("evil") / "f", SILOS)


@pytest.mark.parametrize("name", sorted(GAMES))
def test_every_silo_that_must_refuse_does_and_no_share_breaks_the_rule(name: str, federation: Federation) -> None:
    book, charter = play(name, federation)
    assert book.over and not book.error
    for trick in book.tricks:
        assert trick.got == trick.expected, (trick.text, trick.phase)
    refused = [code for trick in book.tricks for code in trick.got.values() if code != ANSWERED]
    assert refused
    verdict = judge(book.entries, charter, book.shut)
    assert verdict.broken == []
    released = {"both-shares", "wrong-result", "model-split", "second-release", "shut-lane"}
    released |= {"false-sum", "false-past", "invented-slots"}
    assert bool(verdict.shares) == (name in released)  # the scan does find the shares that may leave
    if book.shut:
        assert "everyone" in verdict.lanes(book.shut[0][0])


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


# --- the verdict is no rubber stamp --------------------------------------------------------------------------------


def gives_both(agent: Agent, request: Message, answer: Message) -> Message:
    """silo-2 adds its share of silo-1's mask seed to the noise behind a refusal."""
    session = agent._session
    if (agent.site.silo, agent.k, request.phase) == ("silo-2", 1, "unmask-slots") and session and session._packs:
        return replace(answer, body=answer.body, arrays=(_words(session._packs["silo-1"].mask),))
    return answer


def _words(data: bytes):  # type: ignore[no-untyped-def]
    import numpy as np

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
