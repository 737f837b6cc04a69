"""What silos tell each other: one encoding, and nothing without the signatures of t(n_min) members."""

import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding import Writer
from crypto.errors import BadSignature, FederationError, Malformed, RosterMismatch, SurvivorInvalid
from crypto.messages import Attestation
from crypto.opened_sets import SessionSets, Told, session_salt
from tests.federation import Federation, identity

FED = Federation(8, n_min=6)  # t(6) = 4
CHARTER = FED.charter
T3, SALT = b"3" * 32, b"s" * 32
Q = [bytes([i]) * 32 for i in range(4)]
IDS = tuple(f"{silo}:{'0' * 16}" for silo in FED.silos)


def some(*places):
    return frozenset(IDS[place - 1] for place in places)


SETS = ((Q[0], some(1, 2, 3)), (Q[1], some(1, 2, 3, 4, 5, 6, 7, 8)), (Q[2], some(8)), (Q[3], some()))
SESSION = SessionSets.of(T3, SALT, IDS, SETS)


def attested(*silos, session=SESSION, by=None, **change):
    """Attestations as signed."""
    told = {"t3": session.t3, "sets": session.digest} | change
    return [Attestation(silo=silo, **told).sign(identity(by or silo)) for silo in silos]


FOUR = FED.silos[:4]
TOLD = Told.of(SESSION, [SETS[0], SETS[2]], attested(*FOUR))


def proven(told: Told) -> Told:
    return Told.proven(bytes(told), CHARTER)


# --- the codec ----------------------------------------------------------------------------------------------------


def test_bytes_and_back():
    assert SessionSets.from_bytes(bytes(SESSION)) == SESSION and Told.from_bytes(bytes(TOLD)) == TOLD == proven(TOLD)
    assert TOLD.sets == (SETS[0], SETS[2])


def test_nothing_shows_what_it_holds():
    assert "silo-1" not in repr(SESSION) and "silo-1" not in repr(TOLD)


def test_sets_have_one_order():
    assert SessionSets.of(T3, SALT, reversed(IDS), reversed(SETS)) == SESSION


def test_equal_and_empty_sets_stay():
    """Two lanes of one quantity with the same contributors, and one without any: as long as other ones."""
    same = SessionSets.of(T3, SALT, IDS, [SETS[0], SETS[0], (Q[1], some())])
    other = SessionSets.of(T3, SALT, IDS, [SETS[0], SETS[1], SETS[2]])
    assert len(same.sets) == 3 and len(bytes(same)) == len(bytes(other))
    assert SessionSets.from_bytes(bytes(same)) == same


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17])
def test_any_number_of_survivors(size):
    silos = [f"s{place:02}" for place in range(size)]
    sets = [(Q[0], frozenset(silos)), (Q[0], frozenset(silos[::2])), (Q[1], frozenset())]
    session = SessionSets.of(T3, SALT, silos, sets)
    assert SessionSets.from_bytes(bytes(session)) == session


def test_a_contributor_that_is_no_survivor_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="no survivors"):
        bytes(SessionSets.of(T3, SALT, IDS[:2], [(Q[0], some(3))]))


@pytest.mark.parametrize("data", [bytes(SESSION), bytes(TOLD)], ids=["session", "told"])
def test_truncated_and_longer_bytes_are_malformed(data):
    read = SessionSets.from_bytes if data == bytes(SESSION) else Told.from_bytes
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            read(data[:cut])
    with pytest.raises(Malformed):
        read(data + b"\x00")


def raw(silos=IDS, sets=None):
    """A session as it would be written without any order."""
    out = Writer().fixed(T3, 32).fixed(SALT, 32).each(silos, Writer.text)
    listed = [(Q[0], b"\xe0"), (Q[1], b"\xff")] if sets is None else sets
    return bytes(out.each(listed, lambda w, one: w.fixed(one[0], 32).blob(one[1])))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (raw(silos=IDS[::-1]), "not in ascending order"),
        (raw(silos=(*IDS, IDS[7])), "not in ascending order"),
        (raw(sets=[(Q[1], b"\xff"), (Q[0], b"\xe0")]), "not in order"),
        (raw(sets=[(Q[0], b"\x01"), (Q[0], b"\xff")]), "not in order"),
        (raw(silos=IDS[:7], sets=[(Q[0], b"\x01")]), "behind its last silo"),
        (raw(silos=IDS[:7], sets=[(Q[0], b"\xff")]), "behind its last silo"),
        (raw(sets=[(Q[0], b"\xff\x00")]), "has 2 bytes"),
        (raw(sets=[(Q[0], b"")]), "has 0 bytes"),
        (raw(silos=(), sets=[(Q[0], b"\x00")]), "has 1 bytes"),
    ],
)
def test_there_is_one_encoding(data, said):
    assert SessionSets.from_bytes(raw()).sets == SETS[:2]
    with pytest.raises(Malformed, match=said):
        SessionSets.from_bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"opened": (2, 0)}, "places in ascending order"),
        ({"opened": (0, 0)}, "places in ascending order"),
        ({"opened": (4,)}, "places in ascending order"),
        ({"opened": (2**32 - 1,)}, "places in ascending order"),
        ({"signatures": TOLD.signatures[::-1]}, "one a silo in ascending order"),
        ({"signatures": (TOLD.signatures[0], *TOLD.signatures[:3])}, "one a silo in ascending order"),
    ],
)
def test_places_and_signatures_have_one_order(change, said):
    for read in (Told.from_bytes, lambda data: Told.proven(data, CHARTER)):
        with pytest.raises(Malformed, match=said):
            read(bytes(replace(TOLD, **change)))


@given(st.data())
def test_any_session_round_trips(data):
    silos = data.draw(st.lists(st.text(max_size=5), max_size=20, unique=True))
    of = st.tuples(st.sampled_from(Q), st.frozensets(st.sampled_from(silos)) if silos else st.just(frozenset()))
    session = SessionSets.of(T3, SALT, silos, data.draw(st.lists(of, max_size=6)))
    assert SessionSets.from_bytes(bytes(session)) == session
    places = data.draw(st.sets(st.integers(0, len(session.sets) - 1)) if session.sets else st.just(set()))
    names = data.draw(st.lists(st.text(max_size=5), max_size=4, unique=True))
    told = Told(session, tuple(sorted(places)), tuple((name, bytes(64)) for name in sorted(names)))
    assert Told.from_bytes(bytes(told)) == told
    assert told.sets == tuple(session.sets[place] for place in sorted(places))


@given(st.integers(0, len(bytes(TOLD)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_read_as_it_is_and_never_proven(at, flip):
    """But for the places, which are the teller's own word, every byte is signed."""
    data = bytearray(bytes(TOLD))
    data[at] ^= flip
    with suppress(Malformed):
        assert bytes(Told.from_bytes(bytes(data))) == data
    places = 4 + len(bytes(SESSION)) + 4
    if not places <= at < places + 8:
        with pytest.raises(FederationError):
            Told.proven(bytes(data), CHARTER)


# --- what proves it -----------------------------------------------------------------------------------------------


def test_t_of_the_smallest_cohort_prove_it_and_no_other_number():
    assert CHARTER.threshold(CHARTER.n_min) == 4
    for count in (0, 3, 5, 8):
        with pytest.raises(SurvivorInvalid, match=f"{count} members"):
            proven(Told.of(SESSION, [], attested(*FED.silos[:count])))


@pytest.mark.parametrize("place", range(4))
def test_a_false_signature_proves_nothing(place):
    forged = list(TOLD.signatures)
    forged[place] = (forged[place][0], forged[place][1][:-1] + bytes([forged[place][1][-1] ^ 1]))
    with pytest.raises(BadSignature):
        proven(replace(TOLD, signatures=tuple(forged)))


def test_a_member_signs_for_itself_only():
    by_one = Told.of(SESSION, [], [attested(silo, by="silo-1")[0] for silo in FOUR])
    assert len(by_one.signatures) == 4
    with pytest.raises(BadSignature):
        proven(by_one)


def test_strangers_prove_nothing():
    told = Told.of(SESSION, [], attested(*FOUR[:3], "silo-9"))
    with pytest.raises(RosterMismatch):
        proven(told)


@pytest.mark.parametrize(
    "change",
    [
        {"t3": bytes(32)},
        {"salt": bytes(32)},
        {"silos": (*IDS, "silo-9")},
        {"sets": SETS[:3]},
        {"sets": ((Q[0], some(1, 2)), *SETS[1:])},
        {"sets": ((Q[1], some(1, 2, 3)), *SETS[1:])},
    ],
    ids=["t3", "salt", "survivors", "fewer sets", "a contributor less", "another quantity"],
)
def test_signatures_under_other_sets_prove_nothing(change):
    other = replace(SESSION, **change)
    told = Told(SessionSets.of(other.t3, other.salt, other.silos, other.sets), (0,), TOLD.signatures)
    with pytest.raises(BadSignature):
        proven(told)


def test_an_attestation_is_of_one_kind():
    """A signature of the same member over other bytes, or under another label, is none."""
    other = [Attestation(silo=silo, t3=SESSION.digest, sets=SESSION.t3).sign(identity(silo)) for silo in FOUR]
    swapped = replace(TOLD, signatures=tuple((silo, one[-64:]) for silo, one in zip(FOUR, other, strict=True)))
    with pytest.raises(BadSignature):
        proven(swapped)


# --- large lies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2**16, 2**31, 2**32 - 1])
@pytest.mark.parametrize("where", ["silos", "sets", "places", "signatures"])
def test_a_length_alone_makes_nothing_large(where, count):
    number = struct.pack(">I", count)
    session = bytes(64) + (number if where == "silos" else bytes(4) + (number if where == "sets" else bytes(4)))
    rest = {"places": number, "signatures": bytes(4) + number}.get(where, bytes(8))
    with pytest.raises(FederationError):
        Told.from_bytes(struct.pack(">I", len(session)) + session + rest)


def test_what_is_not_signed_is_not_even_read(monkeypatch):
    """A member's invention of a megabyte of sets costs its bytes and no more: the signatures come first."""
    monkeypatch.setattr(SessionSets, "from_bytes", lambda data: pytest.fail("read"))
    silos = [f"{place:05}" for place in range(1000)]
    large = SessionSets.of(T3, SALT, silos, [(Q[0], frozenset(silos))] * 1000)
    with pytest.raises(BadSignature):
        proven(Told(large, (), TOLD.signatures))
    with pytest.raises(SurvivorInvalid):
        proven(Told(large, (), ()))
    with pytest.raises(Malformed):
        Told.proven(
            bytes(Writer().blob(b"short").u32(0).each(TOLD.signatures, lambda w, s: w.text(s[0]).fixed(s[1], 64))),
            CHARTER,
        )


# --- what a silo keeps and tells ----------------------------------------------------------------------------------


def test_only_signatures_under_these_sets_are_kept():
    others = attested("silo-5", sets=bytes(32)) + attested("silo-6", t3=bytes(32))
    kept = Told.of(SESSION, [], [*others, *attested(*FOUR)])
    assert [silo for silo, _ in kept.signatures] == list(FOUR) and kept.opened == ()


def test_opened_sets_that_the_session_does_not_have_are_not_told():
    assert Told.of(SESSION, [(Q[0], some(1, 2))], attested(*FOUR)).sets == ()


def test_it_tells_with_as_many_signatures_as_it_takes():
    everyone = Told.of(SESSION, SETS, attested(*FED.silos))
    assert len(everyone.signatures) == 8 and everyone.sets == SETS
    telling = everyone.under(CHARTER)
    assert telling == Told.of(SESSION, SETS, attested(*FOUR)) == proven(telling)


def test_a_charter_with_other_keys_or_members_takes_the_others():
    """silo-1 has a new key, silo-2 has left: four of the six others prove it under the new charter."""
    members = tuple(
        replace(one, agent=identity("new").public) if one.silo == "silo-1" else one
        for one in CHARTER.members
        if one.silo != "silo-2"
    )
    later = replace(CHARTER, members=members, epoch=2, n_min=6)
    everyone = Told.of(SESSION, SETS, attested(*FED.silos))
    telling = everyone.under(later)
    assert [silo for silo, _ in telling.signatures] == ["silo-3", "silo-4", "silo-5", "silo-6"]
    assert Told.proven(bytes(telling), later) == telling
    with pytest.raises(BadSignature):
        Told.proven(bytes(everyone.under(CHARTER)), later)


def test_what_too_few_attested_to_is_not_told():
    assert Told.of(SESSION, SETS, attested(*FOUR[:3])).under(CHARTER) is None
    assert Told.of(SESSION, SETS, attested(*FOUR[:3], "silo-9")).under(CHARTER) is None


def test_the_salt_needs_every_nonce():
    nonces = {silo: bytes([place]) * 32 for place, silo in enumerate(FED.silos)}
    salts = {
        session_salt(nonces),
        session_salt({**nonces, "silo-1": b"n" * 32}),
        session_salt(dict(list(nonces.items())[1:])),
    }
    assert len(salts) == 3 and session_salt(dict(reversed(nonces.items()))) == session_salt(nonces)
    assert SESSION.digest != replace(SESSION, salt=session_salt(nonces)).digest
