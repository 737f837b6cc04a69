"""A receipt is checked by itself: the run's id and the chain follow from what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto import transcript
from crypto.errors import BadSignature, EvidenceError
from crypto.receipt import Applied, Receipt
from tests.federation import identity

STEPS = (Applied(0, b"3" * 32, b"r" * 32, True), Applied(1, b"4" * 32, bytes(32), False))
RUN = transcript.run_id(b"j" * 32, b"c" * 32, b"n" * 32)
CHAIN = transcript.next_chain(
    transcript.next_chain(transcript.initial_chain(RUN, b"i" * 32), b"3" * 32, b"r" * 32, released=True),
    b"4" * 32, b"", released=False,
)  # fmt: skip
RECEIPT = Receipt(
    silo="silo-1", run=RUN, job=b"j" * 32, plan=b"p" * 32, charter=b"c" * 32, code=b"o" * 32, nonce=b"n" * 32,
    approval=b"a" * 32, data=b"d" * 32, initial=b"i" * 32, chain=CHAIN, ledger=b"l" * 32, steps=STEPS,
)  # fmt: skip


def test_it_checks_and_travels() -> None:
    RECEIPT.check()
    me = identity("silo-1")
    assert Receipt.open(RECEIPT.sign(me), lambda _: me.public) == RECEIPT
    with pytest.raises(BadSignature):
        Receipt.open(RECEIPT.sign(identity("silo-2")), lambda _: me.public)


@pytest.mark.parametrize(
    "changed",
    [
        replace(RECEIPT, job=bytes(32)),
        replace(RECEIPT, nonce=bytes(32)),
        replace(RECEIPT, initial=bytes(32)),
        replace(RECEIPT, chain=bytes(32)),
        replace(RECEIPT, steps=STEPS[:1]),
        replace(RECEIPT, steps=STEPS[::-1]),
        replace(RECEIPT, steps=(replace(STEPS[0], result=bytes(32)), STEPS[1])),
        replace(RECEIPT, steps=(replace(STEPS[0], released=False), STEPS[1])),
    ],
)
def test_a_changed_fact_is_named(changed: Receipt) -> None:
    with pytest.raises(EvidenceError, match="receipt of silo-1"):
        changed.check()


def test_steps_are_numbered_from_0_without_gaps() -> None:
    """The chain does not depend on the numbers."""
    with pytest.raises(EvidenceError, match="expected step 1, found step 2"):
        replace(RECEIPT, steps=(STEPS[0], replace(STEPS[1], k=2))).check()
