"""The list of what the aggregator sees of one silo is complete: each field of a message that a silo signs is on it."""

from __future__ import annotations

from dataclasses import fields

from crypto import messages
from crypto.messages import Advert, Attestation, Closing, Deal, Decline, Header, Row, Shares, Tags, Wire
from jobs.owner.egress_manifest import SEEN_OF_ONE_SILO

#: What a field may tell, by the words of the list. Hashes and keys that are fresh in each session tell nothing more
#: than that the silo signed: they are "signatures".
ID, HOLDS, REFUSAL = "its id", "visible holdings", "a refusal's code"
DATA, APPROVAL, RELEASES = "data set", "data owner's signed approval", "how many releases"
SIGNED, MASKED = "its signatures", "masked words"
TAGS, COMPLAINT = "tags of its masked uploads", "complains of a peer's row"
#: Which silos and lanes of the step a message is about: all parties know it, or it follows from what they know.
PLACE = "when it answers"

TELLS: dict[type, dict[str, str]] = {
    Advert: {
        "silo": ID, "t0": SIGNED, "channels": SIGNED, "mask": SIGNED, "commitments": HOLDS, "held": HOLDS,
        "releases": RELEASES, "data": DATA, "approval": APPROVAL, "nonce": SIGNED,
    },
    Deal: {"silo": ID, "t1": SIGNED, "manifest": SIGNED, "rows": SIGNED},
    Row: {"sealed": MASKED, "hashes": SIGNED},
    Header: {"silo": ID, "t2": SIGNED, "lanes": HOLDS},
    Attestation: {"silo": ID, "t3": SIGNED, "sets": SIGNED},  # salted with what only the silos know
    # Shares of fresh seeds, released under the rules; a lane's counts are sums over the survivors.
    Shares: {"silo": ID, "t3": SIGNED, "masks": SIGNED, "seeds": SIGNED, "counts": PLACE},
    Tags: {"silo": ID, "t3": SIGNED, "owner": PLACE, "result": SIGNED, "tags": TAGS},
    Decline: {
        "silo": ID, "request": SIGNED, "run": PLACE, "step": PLACE, "attempt": PLACE, "phase": PLACE, "code": REFUSAL,
        "blame": REFUSAL, "key": COMPLAINT,
    },
    Closing: {"silo": ID, "run": PLACE, "chain": SIGNED, "ledger": SIGNED},
}  # fmt: skip

#: Signed by the aggregator, or a part of what it signs.
ITS_OWN = {"Request", "StepResult", "Open"}


def test_every_field_of_a_silos_messages_is_on_the_list() -> None:
    for message, told in TELLS.items():
        assert {field.name for field in fields(message)} == set(told), message.__name__
    for words in {words for told in TELLS.values() for words in told.values()}:
        assert sum(words in item for item in SEEN_OF_ONE_SILO) == 1, words


def test_every_message_is_a_silos_or_the_aggregators() -> None:
    kinds = {
        kind.__name__
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Wire) and kind is not Wire
    }
    assert kinds == {message.__name__ for message in TELLS if message is not Row} | ITS_OWN
