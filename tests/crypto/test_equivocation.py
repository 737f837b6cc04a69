"""Evidence that somebody signed two things in one place: what proves it, and everything that only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from crypto.encoding import Writer
from crypto.equivocation import Pair, twice, verify
from crypto.errors import EvidenceError
from crypto.messages import (
    Advert,
    Attestation,
    Closing,
    Deal,
    Header,
    Open,
    Request,
    StepResult,
    TagRequest,
    Tags,
    pack_two,
)
from crypto.transcript import t3
from tests.federation import Federation, identity

FED = Federation(5)
CHARTER = FED.charter
T2 = b"2" * 32

REQUEST = Request(run=b"r" * 32, step=3, attempt=1, phase="attest", payload=b"one")
ADVERT = Advert(
    silo="silo-1", t0=b"0" * 32, channels=(b"c" * 32,), mask=b"m" * 32, commitments=(), held=(), releases=0,
    data=bytes(32), approval=bytes(32), nonce=bytes(16),
)  # fmt: skip
DEAL = Deal(silo="silo-1", t1=b"1" * 32, manifest=bytes(32), rows=(bytes(32),))
HEADER = Header(silo="silo-1", t2=T2, lanes=(("everyone", bytes(32)),))
TAGS = Tags(silo="silo-1", t3=b"3" * 32, owner="silo-1", result=bytes(32), tags=(bytes(80),))
SHOWN = ((b"header one", b"header two"), (b"header one",))
ATTESTATIONS = [Attestation(silo="silo-1", t3=t3(T2, shown), sets=bytes(32)) for shown in SHOWN]

Signed = Request | Advert | Deal | Header | Attestation | Tags


def signed(message: Signed, by: str | None = None) -> bytes:
    return message.sign(identity(by or ("aggregator" if isinstance(message, Request) else message.silo)))


def pair(first: Signed, second: Signed) -> bytes:
    return bytes(Pair(signed(first), signed(second)))


def refused(evidence: bytes, why: str) -> None:
    with pytest.raises(EvidenceError, match=why):
        verify(evidence, CHARTER)


def test_two_requests_for_one_place_prove_that_the_aggregator_lied() -> None:
    proven = verify(pair(REQUEST, replace(REQUEST, payload=b"two")), CHARTER)
    assert (proven.signer, proven.kind) == ("aggregator", "Request")
    assert proven.fingerprint == FED.aggregator.public.fingerprint
    assert "'attest' of step 3, attempt 1, run " + "72" * 8 in str(proven)
    assert len(set(proven.digests)) == 2


@pytest.mark.parametrize(
    ("first", "second", "label"),
    [
        (ADVERT, replace(ADVERT, releases=7), "T0 " + "30" * 8),
        (DEAL, replace(DEAL, rows=()), "T1 " + "31" * 8),
        (DEAL, replace(DEAL, manifest=b"m" * 32), "T1 " + "31" * 8),
        (HEADER, replace(HEADER, lanes=()), "T2 " + "32" * 8),
        (TAGS, replace(TAGS, result=b"r" * 32), "T3 and owner " + "33" * 8),
        (TAGS, replace(TAGS, tags=()), "T3 and owner " + "33" * 8),
    ],
)
def test_two_messages_of_a_member_under_one_transcript(first: Signed, second: Signed, label: str) -> None:
    proven = verify(pair(first, second), CHARTER)
    assert (proven.signer, proven.kind, proven.place) == ("silo-1", type(first).__name__, label)
    assert proven.fingerprint == FED.identities["silo-1"].public.fingerprint


def test_two_attestations_come_with_the_headers_that_make_their_t3() -> None:
    one, other = (signed(attestation) for attestation in ATTESTATIONS)
    proven = verify(bytes(Pair(one, other, T2, SHOWN)), CHARTER)
    assert (proven.signer, proven.kind, proven.place) == ("silo-1", "Attestation", "T2 " + "32" * 8)
    refused(bytes(Pair(one, other)), "headers that each T3 is made from")
    refused(bytes(Pair(one, other, b"x" * 32, SHOWN)), "headers that each T3 is made from")
    refused(bytes(Pair(one, other, T2, (SHOWN[0], SHOWN[0]))), "headers that each T3 is made from")
    refused(bytes(Pair(one, one, T2, (SHOWN[0], SHOWN[0]))), "same one twice")


@pytest.mark.parametrize("message", [REQUEST, ADVERT, DEAL, HEADER, TAGS])
def test_the_same_message_twice_proves_nothing(message: Signed) -> None:
    refused(pair(message, message), "same one twice")


@pytest.mark.parametrize(
    "change", [{"run": bytes(32)}, {"step": 4}, {"attempt": 2}, {"phase": "deal"}, {"phase": "attest", "step": 0}]
)
def test_requests_for_two_places_prove_nothing(change: dict[str, object]) -> None:
    refused(pair(REQUEST, replace(REQUEST, payload=b"two", **change)), "requests for two places")  # type: ignore[arg-type]


# --- what an honest aggregator tells each silo of its own is no proof ----------------------------------------------

OPEN = Open(
    job=b"j" * 32, plan=b"p" * 32, charter=b"c" * 32, code=b"o" * 32, nonce=b"n" * 32, chain=b"s" * 32, results=(),
    proofs=(),
)  # fmt: skip
RESULTS = tuple(
    StepResult(step=step, chain=OPEN.chain, t3=bytes([step]) * 32, released=True, slots=(step,), sums=())
    for step in (0, 1, 2)
)


def ask(phase: str, payload: bytes) -> Request:
    return replace(REQUEST, phase=phase, payload=payload)


def offer(**fields: Any) -> bytes:
    """Each result comes with a proof; proofs may differ from silo to silo."""
    given = {"proofs": tuple((b"tags",) for _ in fields.get("results", ())), **fields}
    return bytes(replace(OPEN, **given))


def opening(**fields: Any) -> Request:
    return ask("open", offer(**fields))


def closing(head: bytes = bytes(32), **fields: Any) -> Request:
    return ask("close", bytes(Writer().blob(offer(**fields)).fixed(head, 32)))


def contributing(deals: list[bytes], row: bytes) -> Request:
    return ask("contribute", pack_two(deals, [("silo-2", row)]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (opening(), opening(results=RESULTS)),
        (opening(results=RESULTS[1:]), opening(results=RESULTS)),
        (opening(results=RESULTS, proofs=((), (b"x",), ())), opening(results=RESULTS)),
        (closing(results=RESULTS[2:]), closing(results=RESULTS[1:])),
        (contributing([b"deal"], b"to silo-1"), contributing([b"deal"], b"to silo-3")),
    ],
)
def test_two_silos_cannot_frame_an_honest_aggregator(first: Request, second: Request) -> None:
    refused(pair(first, second), "parts addressed to two silos")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (opening(), opening(chain=bytes(32))),
        (opening(), opening(plan=bytes(32))),
        (opening(results=RESULTS), opening(results=(replace(RESULTS[1], t3=bytes(32)),))),
        (closing(), closing(head=b"h" * 32)),
        (closing(results=RESULTS), closing(results=(replace(RESULTS[2], slots=(7,)),))),
        (contributing([b"deal"], b"row"), contributing([b"another"], b"row")),
        (opening(), ask("open", b"no offer")),
        (ask("close", b""), closing()),
        (contributing([b"deal"], b"row"), ask("contribute", b"")),
    ],
)
def test_what_all_are_told_alike_is_signed_once(first: Request, second: Request) -> None:
    assert verify(pair(first, second), CHARTER).signer == "aggregator"


@pytest.mark.parametrize("phase", ["fetch", "stand-in"])
def test_fetches_and_stand_ins_are_many(phase: str) -> None:
    request = replace(REQUEST, phase=phase)
    refused(pair(request, replace(request, payload=b"two")), "asked often")


def test_two_announced_results_for_one_step_prove_that_the_aggregator_lied() -> None:
    one, other = (
        ask("tag", bytes(TagRequest(result, ()))) for result in (RESULTS[0], replace(RESULTS[0], slots=(99,)))
    )
    assert verify(pair(one, other), CHARTER).signer == "aggregator"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ADVERT, replace(ADVERT, t0=bytes(32))),
        (DEAL, replace(DEAL, t1=bytes(32))),
        (HEADER, replace(HEADER, t2=bytes(32))),
        (TAGS, replace(TAGS, t3=bytes(32))),
        (TAGS, replace(TAGS, owner="silo-2")),
    ],
)
def test_messages_under_two_transcripts_prove_nothing(first: Signed, second: Signed) -> None:
    refused(pair(first, second), "two of them")


def test_messages_of_two_silos_prove_nothing() -> None:
    refused(pair(DEAL, replace(DEAL, silo="silo-2")), "silo-1 and silo-2")


@pytest.mark.parametrize(
    "evidence",
    [
        bytes(Pair(signed(REQUEST), signed(replace(REQUEST, payload=b"two"), "silo-1"))),
        bytes(Pair(signed(REQUEST, "silo-1"), signed(replace(REQUEST, payload=b"two"), "silo-1"))),
        bytes(Pair(signed(DEAL), signed(replace(DEAL, rows=()), "aggregator"))),
    ],
    ids=["second forged", "both forged", "framed by the aggregator"],
)
def test_signatures_of_others_prove_nothing(evidence: bytes) -> None:
    refused(evidence, "does not verify")


def test_a_stranger_and_another_federations_charter_prove_nothing() -> None:
    stranger = replace(DEAL, silo="silo-9")
    refused(pair(stranger, replace(stranger, rows=())), "not in the charter")
    with pytest.raises(EvidenceError):
        verify(pair(REQUEST, replace(REQUEST, payload=b"two")), replace(CHARTER, aggregator=identity("another").public))


def test_messages_of_two_kinds_prove_nothing() -> None:
    refused(bytes(Pair(signed(DEAL), signed(HEADER))), "Expected Deal")


def test_messages_without_a_place_prove_nothing() -> None:
    closing = Closing(silo="silo-1", run=bytes(32), chain=bytes(32), ledger=bytes(32))
    other = replace(closing, ledger=b"l" * 32)
    refused(bytes(Pair(closing.sign(identity("silo-1")), other.sign(identity("silo-1")))), "kind 10")


def _evidence() -> bytes:
    return pair(REQUEST, replace(REQUEST, payload=b"two"))


@pytest.mark.parametrize(
    "damage",
    [lambda e: b"", lambda e: e[:-1], lambda e: e + b"\0", lambda e: b"\1" + e[1:], lambda e: b"noise" * 9],
)
def test_damaged_evidence_is_no_evidence(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(EvidenceError):
        verify(damage(_evidence()), CHARTER)


def test_another_version_is_named() -> None:
    refused(b"\1" + _evidence()[1:], "version 1")


def test_a_message_with_trailing_bytes_is_no_message() -> None:
    whole = signed(REQUEST)
    two = signed(replace(REQUEST, payload=b"two"))
    for first, second in ((whole + b"\0", two), (whole, two + b"\0"), (bytes(Writer().blob(b"")), whole)):
        with pytest.raises(EvidenceError):
            verify(bytes(Pair(first, second)), CHARTER)


def test_evidence_is_canonical() -> None:
    evidence = Pair(b"a", b"b", T2, SHOWN)
    assert Pair.from_bytes(bytes(evidence)) == evidence


def test_twice_tells_evidence_from_coincidence() -> None:
    two = signed(replace(REQUEST, payload=b"two"))
    evidence = twice(signed(REQUEST), two, CHARTER)
    assert evidence is not None and verify(evidence, CHARTER).signer == "aggregator"
    assert twice(signed(REQUEST), signed(REQUEST), CHARTER) is None
    assert twice(signed(REQUEST), signed(replace(REQUEST, run=bytes(32))), CHARTER) is None
    assert twice(signed(REQUEST), b"", CHARTER) is None
