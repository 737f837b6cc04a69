"""An approval covers exactly what it names, for as often and as long as it says, under the owner's key alone."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.approval import MOST_TEXT, Approval, Denial, Terms, approval_digest, check_shown, open_approval
from crypto.errors import BadSignature, Malformed, NotApproved, RosterMismatch
from crypto.messages import Advert
from tests.federation import Federation, identity

FED = Federation(5)
OWNER = identity("silo-1/owner")
TERMS = Terms(
    silo="silo-1", charter=FED.charter.digest, job=b"j" * 32, plan=b"p" * 32, policy=b"y" * 32, code=b"o" * 32,
    data_uid="uid", commitment=b"d" * 32, purpose="a test",
)  # fmt: skip
APPROVAL = Approval(terms=TERMS, max_runs=2, not_before=100, not_after=200, nonce=b"n" * 16)
SIGNED = APPROVAL.sign(OWNER)
ADVERT = Advert(
    silo="silo-1", t0=b"0" * 32, channels=(b"1" * 32,), mask=b"2" * 32, commitments=(), held=(), releases=0,
    data=b"d" * 32, approval=approval_digest(SIGNED), nonce=b"n" * 16,
)  # fmt: skip


def shown(signed: bytes = SIGNED, advert: Advert = ADVERT, **changes: bytes) -> Approval:
    run = {"job": TERMS.job, "plan": TERMS.plan, "code": TERMS.code} | changes
    return check_shown(signed, advert, FED.charter, **run)


def signed_for(**changes: object) -> tuple[bytes, Advert]:
    """A well-signed approval with other terms, and an advert that names it."""
    signed = replace(APPROVAL, terms=replace(TERMS, **changes)).sign(OWNER)  # type: ignore[arg-type]
    return signed, replace(ADVERT, approval=approval_digest(signed))


def other(value: object) -> object:
    return value + "x" if isinstance(value, str) else bytes(len(value))  # type: ignore[arg-type,operator]


def test_it_covers_its_terms_now() -> None:
    for now, used in ((100, 0), (200, 1)):
        APPROVAL.check(TERMS, now=now, used=used)


@pytest.mark.parametrize("name", [part.name for part in fields(Terms)])
def test_a_change_of_any_term_voids_it(name: str) -> None:
    with pytest.raises(NotApproved) as refused:
        APPROVAL.check(replace(TERMS, **{name: other(getattr(TERMS, name))}), now=150, used=0)
    assert refused.value.digest and refused.value.remedy


@pytest.mark.parametrize(("now", "used", "why"), [(99, 0, "not valid yet"), (201, 0, "expired"), (150, 2, "used up")])
def test_it_ends(now: int, used: int, why: str) -> None:
    with pytest.raises(NotApproved, match=why):
        APPROVAL.check(TERMS, now=now, used=used)


def test_the_owners_key_alone_approves() -> None:
    owner = {member.silo: member.owner for member in FED.charter.members}
    assert open_approval(SIGNED, owner.__getitem__) == APPROVAL
    for forger in (identity("silo-2/owner"), identity("silo-1"), identity("aggregator")):
        with pytest.raises(BadSignature):
            open_approval(APPROVAL.sign(forger), owner.__getitem__)


def test_others_check_what_an_advert_stands_on() -> None:
    assert shown() == APPROVAL
    with pytest.raises(BadSignature, match="another approval"):
        shown(advert=replace(ADVERT, approval=bytes(32)))
    forged = APPROVAL.sign(identity("silo-2/owner"))
    with pytest.raises(BadSignature):
        shown(forged, replace(ADVERT, approval=approval_digest(forged)))
    # silo-2's approval, well signed by silo-2's owner, under silo-1's advert
    foreign = replace(APPROVAL, terms=replace(TERMS, silo="silo-2")).sign(identity("silo-2/owner"))
    with pytest.raises(RosterMismatch):
        shown(foreign, replace(ADVERT, approval=approval_digest(foreign)))
    with pytest.raises(RosterMismatch):
        shown(*signed_for(silo="silo-9"))


@pytest.mark.parametrize("name", ["charter", "job", "plan", "code", "commitment"])
def test_others_see_an_approval_of_something_else(name: str) -> None:
    with pytest.raises(NotApproved):
        shown(*signed_for(**{name: bytes(32)}))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    for kind in (Approval, Denial):
        with pytest.raises((Malformed, BadSignature)):
            kind.open(data, lambda _: OWNER.public)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused(place: int, flip: int) -> None:
    bad = bytearray(SIGNED)
    bad[place] ^= flip
    with pytest.raises((Malformed, BadSignature)):
        Approval.open(bytes(bad), lambda _: OWNER.public)


def test_names_and_texts_are_bounded() -> None:
    for terms in (replace(TERMS, silo="../x"), replace(TERMS, purpose="p" * (MOST_TEXT + 1))):
        with pytest.raises(Malformed):
            Approval.from_bytes(bytes(replace(APPROVAL, terms=terms)))
    denial = Denial(silo="silo-1", job=b"j" * 32, reason="no", at=5)
    assert Denial.from_bytes(bytes(denial)) == denial
    for bad in (replace(denial, silo="a/b"), replace(denial, reason="r" * (MOST_TEXT + 1))):
        with pytest.raises(Malformed):
            Denial.from_bytes(bytes(bad))
