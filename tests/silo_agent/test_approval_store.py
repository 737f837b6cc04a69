"""What lies in approvals/ counts by the owner's signature alone; a denial outweighs what came before it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.approval import Approval, Denial, Terms, approval_digest
from crypto.errors import BadSignature, Malformed, NoSpace, NotApproved
from silo_agent.approval_store import Approvals
from tests.federation import identity

OWNER = identity("owner")
TERMS = Terms(
    silo="silo-1", charter=b"c" * 32, job=b"j" * 32, plan=b"p" * 32, policy=b"y" * 32, code=b"o" * 32,
    data_uid="uid", commitment=b"d" * 32, purpose="a test",
)  # fmt: skip


def never(digest: str) -> int:
    return 0


def approval(*, at: int = 100, until: int = 200, runs: int = 1, terms: Terms = TERMS, nonce: int = 0) -> bytes:
    return Approval(terms=terms, max_runs=runs, not_before=at, not_after=until, nonce=bytes([nonce] * 16)).sign(OWNER)


def denial(at: int, job: bytes = TERMS.job) -> bytes:
    return Denial(silo="silo-1", job=job, reason="not this one", at=at).sign(OWNER)


@pytest.fixture
def store(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "approvals", OWNER.public)


def put(store: Approvals, signed: Iterable[bytes]) -> None:
    for one in signed:
        store.add(one)


def test_nothing_kept_is_nothing_approved(store: Approvals) -> None:
    with pytest.raises(NotApproved, match="there is no approval of it") as refused:
        store.grant(TERMS, now=150, uses=never)
    assert refused.value.digest == TERMS.job.hex()
    assert not store.folder.exists()


def test_what_covers_the_terms_is_granted_and_private(store: Approvals) -> None:
    signed = approval()
    assert store.add(signed) == approval_digest(signed)
    assert store.grant(TERMS, now=150, uses=never) == signed
    assert [path.stat().st_mode & 0o777 for path in store.folder.iterdir()] == [0o600]
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_the_one_that_comes_closest_says_why(store: Approvals) -> None:
    put(store, [approval(until=120), approval(terms=replace(TERMS, job=bytes(32)))])
    with pytest.raises(NotApproved, match="expired"):
        store.grant(TERMS, now=150, uses=never)
    with pytest.raises(NotApproved, match="the data have changed"):
        store.grant(replace(TERMS, commitment=bytes(32)), now=110, uses=never)


def test_uses_are_counted_for_each_approval(store: Approvals) -> None:
    first, second = approval(at=100), approval(at=101, nonce=1)
    put(store, [first, second])
    used = {approval_digest(second).hex(): 1}
    assert store.grant(TERMS, now=150, uses=lambda digest: used.get(digest, 0)) == first
    used[approval_digest(first).hex()] = 1
    with pytest.raises(NotApproved, match="used up"):
        store.grant(TERMS, now=150, uses=lambda digest: used.get(digest, 0))


def test_a_denial_ends_what_came_before_it_and_no_more(store: Approvals) -> None:
    store.add(approval(at=100))
    store.deny(denial(at=100))
    store.deny(denial(at=300, job=bytes(32)))  # another job's
    with pytest.raises(NotApproved, match="the data owner has denied it"):
        store.grant(TERMS, now=150, uses=never)
    later = approval(at=101)
    store.add(later)
    assert store.grant(TERMS, now=150, uses=never) == later


def test_only_the_owners_signature_gets_in(store: Approvals) -> None:
    forged = Approval.open(approval(), lambda _: OWNER.public).sign(identity("somebody"))
    with pytest.raises(BadSignature):
        store.add(forged)
    with pytest.raises(BadSignature):
        store.deny(Denial(silo="silo-1", job=TERMS.job, reason="", at=1).sign(identity("somebody")))
    with pytest.raises(Malformed):
        store.add(b"yes")


def test_files_that_others_put_there_are_nobodys_word(store: Approvals) -> None:
    good = approval()
    store.add(good)
    forged = Approval.open(approval(nonce=7), lambda _: OWNER.public).sign(identity("somebody"))
    (store.folder / "a.approval").write_bytes(forged)
    (store.folder / "b.approval").write_bytes(b"yes")
    (store.folder / "c.approval").mkdir()
    (store.folder / "d.denial").write_bytes(
        Denial(silo="silo-1", job=TERMS.job, reason="", at=999).sign(identity("somebody"))
    )
    assert [signed for signed, _ in store.all()] == [good]
    assert store.grant(TERMS, now=150, uses=never) == good


def test_a_copy_from_another_silo_approves_nothing(store: Approvals) -> None:
    store.add(approval(terms=replace(TERMS, silo="silo-2")))
    with pytest.raises(NotApproved, match="another silo"):
        store.grant(TERMS, now=150, uses=never)


def test_a_full_disk_is_named_and_leaves_nothing_half(store: Approvals, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace):
        store.add(approval())
    assert store.all() == []
