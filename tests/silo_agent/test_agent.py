"""One agent refuses by name what it can't prove safe. Whole runs: ``tests/jobs/runtime/test_agent.py``."""

from __future__ import annotations

import errno
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from crypto import blocks, durable
from crypto.errors import DataRefused
from crypto.keys import Identity
from crypto.messages import DECLINE, STEP_PHASES, Decline, Message, Request, request_digest
from crypto.session import SessionState
from silo_agent.agent import MOST_ANSWERS, Refusing
from tests.one_agent import SILO, OneAgent, code_of, read


@pytest.fixture
def one(tmp_path: Path) -> OneAgent:
    return OneAgent(tmp_path)


def test_an_expired_charter_is_declined(one: OneAgent) -> None:
    agent = one.open()
    try:
        object.__setattr__(agent.site, "now", lambda: 2**40)
        assert code_of(agent.handle(one.first_open())) == "SPEC"
    finally:
        agent.close()


def test_first_blocks_come_from_plan_and_run_id_also_after_a_restart(one: OneAgent) -> None:
    digests: dict[bytes, bytes] = {}
    for nonce in (b"m" * 32, b"n" * 32, b"m" * 32):  # the last is the first run again, resumed from its progress file
        agent, request = one.open(), one.first_open(nonce)
        try:
            assert not agent.state, "which run it is, the silo learns when it is asked to join"
            agent.handle(request)
            found = blocks.state_digest(agent.state)
            assert found == blocks.state_digest(blocks.initial_state(one.plan, read(request).run))
            assert digests.setdefault(nonce, found) == found
        finally:
            agent.close()
    assert len(set(digests.values())) == 2


def test_requests_that_the_aggregator_did_not_sign_are_declined(one: OneAgent) -> None:
    agent = one.open()
    try:
        good = one.first_open()
        request = read(good)
        forged = Message("open", request.sign(Identity.generate()))
        assert code_of(agent.handle(forged)) == "BAD_SIGNATURE"
        assert code_of(agent.handle(Message("open", b""))) == "MALFORMED"
        assert code_of(agent.handle(Message("deal", good.body))) == "MALFORMED"
        assert agent.handle(good).phase == "open"
    finally:
        agent.close()


def test_a_refusal_names_the_request_that_it_refuses(one: OneAgent) -> None:
    """Also where the request's signature is false: else the refusal could be shown as the answer to any request."""
    agent, key = one.open(), one.federation.aggregator
    refusing = Refusing(SILO, agent.site.identity, DataRefused("no rows"))
    try:
        request = replace(read(one.first_open()), step=3, attempt=2, phase="deal", payload=b"")
        bodies = {"UNEXPECTED": request.sign(key), "BAD_SIGNATURE": request.sign(Identity.generate())}
        for code, body in bodies.items():
            for told, by in ((code, agent), ("DATA_REFUSED", refusing)):
                decline = Decline.open(by.handle(Message("deal", body)).body, lambda _: agent.site.identity.public)
                assert (decline.silo, decline.code, decline.request) == (SILO, told, request_digest(body))
                where = (decline.run, decline.step, decline.attempt, decline.phase)
                assert where == (request.run, 3, 2, "deal")
        assert len({request_digest(body) for body in bodies.values()}) == 2
        for body in (b"", b"no request", request.sign(key)[:-1]):
            decline = Decline.open(agent.handle(Message("deal", body)).body, lambda _: agent.site.identity.public)
            assert (decline.code, decline.request) == ("MALFORMED", request_digest(body))
            known = body.startswith(request.sign(key)[:-1])
            assert decline.run == (request.run if known else bytes(32)), "of bytes that are no request, no run"
    finally:
        agent.close()


def test_a_full_disk_at_the_journal_lets_no_advert_leave(one: OneAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record comes first: what can't be recorded isn't signed, and is asked for again in another attempt."""
    agent = one.open()
    append = durable.append

    def full(fd: int, data: bytes, **how: bool) -> None:
        if b'"advertised"' in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(fd, data, **how)

    try:
        first = one.first_open()
        with monkeypatch.context() as patched:
            patched.setattr("crypto.durable.append", full)
            assert code_of(agent.handle(first)) == "NO_SPACE"
        assert code_of(agent.handle(first)) == "NO_SPACE", "the answer stands"
        again = Message("open", replace(read(first), attempt=1).sign(one.federation.aggregator))
        assert agent.handle(again).phase == "open"
    finally:
        agent.close()


def test_a_request_for_a_step_far_away_makes_no_agent_forget(one: OneAgent) -> None:
    """Else the aggregator could have two adverts signed under one T0, and blame the silo."""
    agent = one.open()
    try:
        first = one.first_open()
        answer = agent.handle(first)
        request = read(first)
        far = Message("open", replace(request, step=10**6).sign(one.federation.aggregator))
        assert code_of(agent.handle(far)) == "MODEL_MISMATCH"
        assert agent.handle(first).body == answer.body
        assert code_of(agent.handle(one.again(first))) == "EQUIVOCATION"
        for attempt in range(MOST_ANSWERS + 2):  # so many that the first answer is forgotten
            agent.handle(Message("open", replace(request, step=10**6 + attempt).sign(one.federation.aggregator)))
        assert code_of(agent.handle(first)) == "REPLAY"
    finally:
        agent.close()


def test_attempts_only_count_up(one: OneAgent) -> None:
    agent = one.open()
    try:
        first = one.first_open()
        request = read(first)
        for attempt, phase in ((2, "open"), (1, DECLINE), (3, "open"), (0, DECLINE)):
            reply = agent.handle(Message("open", replace(request, attempt=attempt).sign(one.federation.aggregator)))
            assert reply.phase == phase
            assert phase == "open" or code_of(reply) == "REPLAY"
            assert agent._session is not None and agent._session.state is SessionState.ADVERTISED
    finally:
        agent.close()


def test_a_refusal_too_is_an_answer_that_no_second_request_changes(one: OneAgent) -> None:
    agent = one.open()
    try:
        first = one.first_open()
        spoilt = one.again(first)
        assert code_of(agent.handle(spoilt)) == "MALFORMED"
        assert code_of(agent.handle(first)) == "EQUIVOCATION"
    finally:
        agent.close()


def test_a_full_disk_keeps_no_evidence_and_changes_no_refusal(one: OneAgent) -> None:
    agent = one.open()

    def full(name: str, evidence: bytes) -> None:
        raise OSError(28, "No space left on device")

    object.__setattr__(agent.site, "keep", full)
    try:
        first = one.first_open()
        assert agent.handle(first).phase == "open"
        assert code_of(agent.handle(one.again(first))) == "EQUIVOCATION"
    finally:
        agent.close()


def test_a_request_of_another_run_for_an_answered_phase_is_a_replay(one: OneAgent) -> None:
    agent = one.open()
    try:
        answer = agent.handle(one.first_open())
        assert answer.phase == "open"
        assert code_of(agent.handle(one.first_open(b"m" * 32))) == "REPLAY"  # another nonce, so another run's request
    finally:
        agent.close()


def test_phases_out_of_order_are_unexpected_and_change_nothing(one: OneAgent) -> None:
    agent = one.open()
    try:
        first = one.first_open()
        request = read(first)
        for phase in STEP_PHASES[1:]:
            early = Request(run=request.run, step=0, attempt=0, phase=phase, payload=b"")
            assert code_of(agent.handle(Message(phase, early.sign(one.federation.aggregator)))) == "UNEXPECTED"
        assert agent.handle(first).phase == "open"
    finally:
        agent.close()


@pytest.mark.parametrize(("notes", "code"), [("kept", "REPLAY"), ("gone", "JOURNAL_LOST"), ("cut", "JOURNAL_LOST")])
def test_a_restarted_agent_never_makes_a_second_advert_for_one_place(one: OneAgent, notes: str, code: str) -> None:
    """Two adverts for one place would prove an honest silo a liar. Without its notes it stays out of the run."""
    first = one.first_open()
    agent = one.open()
    assert agent.handle(first).phase == "open"
    agent.close()
    (path,) = (one.root / "runs").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    if notes == "gone":
        path.unlink()
    elif notes == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    again = one.open()
    try:
        assert code_of(again.handle(first)) == code
    finally:
        again.close()


def test_neither_data_nor_keys_show_in_reprs(one: OneAgent) -> None:
    agent = one.open()
    try:
        seed = sha256(b"consilium/test/identity/silo-1").digest()
        shown = f"{agent.site!r} {agent.data!r} {agent.site.identity!r}"
        assert seed.hex() not in shown and str(seed) not in shown
        assert "secret" in repr(agent.site.identity)
    finally:
        agent.close()
