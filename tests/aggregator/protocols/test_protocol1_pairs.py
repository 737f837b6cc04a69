"""Two signed messages of ``consilium/1`` that contradict each other, and what is no contradiction."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.protocols.choice import verify_pair
from aggregator.protocols.protocol1.transcript import digest
from crypto.errors import EvidenceError
from tests.protocol1 import PAIR, OldFederation, body, encode, fields_of, signed

Fields = dict[str, Any]
NONE = bytes(32)


def pair(first: bytes, second: bytes, **more: object) -> bytes:
    none: list[bytes] = []
    fields = {"version": 1, "first": first, "second": second, "t2": NONE, "ones": none, "others": none} | more
    return encode(PAIR, fields)


def request(old: OldFederation, **changes: object) -> bytes:
    fields = {"run": NONE, "step": 1, "attempt": 0, "phase": "deal", "payload": b"one"} | changes
    return signed("request", fields, old.key("aggregator"))


def offer(*results: Fields, **changes: object) -> bytes:
    names = ("job", "plan", "charter", "code", "nonce", "chain")
    return body("open", dict.fromkeys(names, NONE) | {"results": [body("result", one) for one in results]} | changes)


def result(step: int, **changes: object) -> Fields:
    return {"step": step, "t3": NONE, "released": 1, "slots": [3], "sums": [{"name": "a", "digest": NONE}]} | changes


def refusal(old: OldFederation, evidence: bytes) -> str:
    with pytest.raises(EvidenceError) as caught:
        verify_pair(evidence, old.charter())
    return f"{caught.value.expected}; {caught.value.found}"


def test_two_requests_for_one_place_are_proof(old: OldFederation) -> None:
    first, second = request(old), request(old, payload=b"two")
    proven = verify_pair(pair(first, second), old.charter())
    assert (proven.signer, proven.fingerprint, proven.kind) == (
        "aggregator", old.key("aggregator").public.fingerprint, "Request",
    )  # fmt: skip
    assert proven.place.startswith("phase 'deal' of step 1, attempt 0, run 0000")
    assert proven.digests == tuple(digest("evidence", one[4:-64]).hex()[:16] for one in (first, second))
    assert str(proven).startswith("aggregator (key ") and proven.digests[1] in str(proven)


def test_requests_that_are_no_proof(old: OldFederation) -> None:
    one = request(old)
    for other, text in (
        (one, "the same one twice"),
        (request(old, step=2), "requests for two places"),
        (request(old, phase="tea"), "is not a phase"),
        (old.receipt("silo-1").read_bytes(), "Expected Request"),
        (one[:-1] + b"x", "does not verify"),
    ):
        assert text in refusal(old, pair(one, other))
    fetches = [request(old, phase="fetch", payload=payload) for payload in (b"1", b"2")]
    assert "fetch, which is asked often" in refusal(old, pair(*fetches))


@pytest.mark.parametrize("phase", ["open", "close", "contribute"])
def test_each_silo_gets_parts_of_its_own(old: OldFederation, phase: str) -> None:
    def payload(*results: Fields, common: bytes = NONE) -> bytes:
        if phase == "contribute":
            rows = b"".join(encode({"silo": "t", "words": "b"}, {"silo": "a", "words": b"r"}) for _ in results)
            return encode(["b"], [common]) + len(results).to_bytes(4, "big") + rows
        asked = offer(*results, chain=common)
        return asked if phase == "open" else encode("b", asked) + NONE

    def asked(data: bytes) -> bytes:
        return request(old, phase=phase, payload=data)

    alike = pair(asked(payload()), asked(payload(result(0))))
    assert "parts addressed to two silos" in refusal(old, alike)
    for other in (payload(common=b"\1" * 32), payload() + b"x"):
        assert verify_pair(pair(asked(payload(result(0))), asked(other)), old.charter()).signer == "aggregator"


@pytest.mark.parametrize(
    "other",
    [
        result(0, slots=[4]),
        result(1, released=0),
        result(1, released=2),
        result(1, sums=[{"name": "a", "digest": NONE}] * 2),
    ],
    ids=["another result", "void with a result", "no flag", "a lane twice"],
)
def test_no_honest_aggregator_signs_these_results(old: OldFederation, other: Fields) -> None:
    first, second = (request(old, phase="open", payload=offer(one)) for one in (result(0), other))
    assert verify_pair(pair(first, second), old.charter()).kind == "Request"


@pytest.mark.parametrize(
    ("name", "part", "field", "label"), [
        ("advert", "adverts", "t0", "T0"), ("deal", "deals", "t1", "T1"), ("header", "headers", "t2", "T2"),
    ],
)  # fmt: skip
def test_a_silo_signs_one_message_in_a_place(old: OldFederation, name: str, part: str, field: str, label: str) -> None:
    first = old.evidence(3)[part][0]
    fields, key = fields_of(name, first), old.key("silo-1.agent")
    repeated = {"advert": "held", "deal": "rows", "header": "lanes"}[name]
    second = signed(name, fields | {repeated: []}, key)
    proven = verify_pair(pair(first, second), old.charter())
    assert (proven.signer, proven.place) == ("silo-1", f"{label} {fields[field].hex()[:16]}")
    assert "the same one twice" in refusal(old, pair(first, first))
    assert f"under one {label}" in refusal(old, pair(first, signed(name, fields | {field: NONE}, key)))
    assert "silo-1 and silo-2" in refusal(old, pair(first, old.evidence(3)[part][1]))
    assert "does not verify" in refusal(old, pair(first, signed(name, fields, old.key("silo-2.agent"))))


def test_two_attestations_under_one_t2(old: OldFederation) -> None:
    fields, key = old.evidence(3), old.key("silo-1.agent")
    t2, headers = fields_of("header", fields["headers"][0])["t2"], fields["headers"]
    t3 = digest("T3", t2, *headers[:4])
    first, second = fields["attestations"][0], signed("attest", {"silo": "silo-1", "t3": t3}, key)
    proven = verify_pair(pair(first, second, t2=t2, ones=headers, others=headers[:4]), old.charter())
    assert (proven.kind, proven.place) == ("Attestation", f"T2 {t2.hex()[:16]}")
    for ones, others in ((headers[:3], headers[:4]), (headers, headers)):
        assert "others" in refusal(old, pair(first, second, t2=t2, ones=ones, others=others))


def test_other_bytes_are_no_evidence(old: OldFederation) -> None:
    closing = {"run": NONE, "chain": NONE, "ledger": NONE, "silo": "silo-1"}
    message = signed("closing", closing, old.key("silo-1.agent"))
    assert "kind 10" in refusal(old, pair(message, message))
    assert "kind 0" in refusal(old, pair(encode("b", b"") + bytes(64), message))
    assert "follow the last field" in refusal(old, pair(request(old), request(old, payload=b"two")) + b"x")
    assert "runs past the end" in refusal(old, b"")
    assert "Version 9" in refusal(old, b"\x09" + pair(message, message)[1:])
