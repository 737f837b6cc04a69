"""Whether an announced result is true: the check of everyone who applies it, present, absent or auditing.

After a lane has opened the server knows each survivor's *residue*: its upload without the streams that opening took
off. What is left are pair streams with other survivors, which cancel. So the residues add up, over the integers, to
``words + 2^b · carries``, where ``words`` are the lane's sum in the ring. Each survivor computes the tag of its own
residue (``crypto.tags``), under a coin that is a hash of the whole announced result, and signs it. If a survivor is
gone by then, another one stands in for it: it gets the masked upload, checks it against the digest in the signed
header, and computes the same tag. Nothing here is secret from the server, so tags are not masked.

A result is proven if
- at least m + c members signed it, each after it opened the slots and counted the weights itself;
- for every lane the signed tags of exactly its uploaders add up to the tag of the announced words and carries;
- weights, contributors and words are within what the charter's floors, the lane's grid and the clip allow.

Then each lane's words are the sum of the honest survivors' uploads plus a vector D that the colluding survivors chose.
Without a colluder among the survivors D = 0, but for the chance that ``crypto.tags`` states: the sum is exact, whatever
the server says. With colluders, D is any vector that keeps the sum within the clip: a member can upload what it likes,
and together with the server it can choose its tag after it has seen the sum. No sum prevents the first, and only
differential privacy at record level answers both. What D does within the clip is measured: ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crypto import ring, tags
from crypto.charter import Charter
from crypto.cohort import words_digest
from crypto.errors import SumNotProven
from crypto.messages import LaneSum, StepResult, Tags
from crypto.plan import Lane, Plan
from crypto.tags import Tag
from crypto.transcript import digest


@dataclass(frozen=True, slots=True, repr=False)
class Sum:
    """An opened lane's arrays: (words,) uint32 and (words,) uint8 or uint16."""

    words: np.ndarray
    carries: np.ndarray

    @property
    def wire(self) -> tuple[np.ndarray, np.ndarray]:
        """Both as uint32 words that a message carries: the carries in as few as hold their bytes."""
        packed = np.zeros(carry_words(self.words.size, self.carries.itemsize), dtype="<u4")
        packed.view(np.uint8)[: self.carries.nbytes] = self.carries.astype(self.carries.dtype.newbyteorder("<")).view(
            np.uint8
        )
        return self.words, packed

    @classmethod
    def from_wire(cls, words: np.ndarray, packed: np.ndarray, uploaders: int) -> Sum:
        """``packed``: carries of ``uploaders`` uploads, as ``wire`` packed them."""
        narrow = carry_type(uploaders)
        flat = np.ascontiguousarray(packed, dtype="<u4").view(np.uint8)[: words.size * narrow.itemsize]
        return cls(words, flat.view(narrow.newbyteorder("<")).astype(narrow, copy=False))


def carry_type(uploaders: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest type that counts the carries of so many uploads: fewer than there are uploads."""
    return np.dtype(np.uint8 if uploaders <= 1 << 8 else np.uint16)


def carry_words(words: int, size: int) -> int:
    """uint32 words that hold the carries of a lane of ``words`` words, ``size`` bytes each."""
    return -(-words * size // 4)


def wire_sizes(plan: Plan, result: StepResult) -> list[int]:
    """The lengths in uint32 words of the arrays of a result: for each lane its words and its carries."""
    sizes = []
    for one in result.sums:
        words = plan.words_of(plan.steps[result.step], one.lane)
        sizes += [words, carry_words(words, carry_type(len(one.uploaders)).itemsize)]
    return sizes


def coin_key(result: StepResult, lane: str) -> bytes:
    """The key of a lane's public coin: a hash of everything that is announced of the step."""
    return digest("coin", result.digest, lane)[:16]


def check_bounds(charter: Charter, plan: Plan, step: int, one: LaneSum, words: np.ndarray) -> None:
    """Raise SumNotProven unless the sum of a lane (uint32) is within what its weights allow."""
    lane = _lane(plan, step, one.lane)
    if list(one.uploaders) != sorted(set(one.uploaders)) or not set(one.uploaders) <= set(charter.silos):
        raise SumNotProven(f"The uploaders of lane {lane.name!r} are not distinct members in order.")
    if not charter.floor(lane) <= one.contributors <= len(one.uploaders):
        raise SumNotProven(f"Lane {lane.name!r} opened for {one.contributors} contributors below its floor or roster.")
    if not one.contributors * lane.grid[0] <= one.weight <= one.contributors * lane.grid[-1]:
        raise SumNotProven(f"No {one.contributors} weights of lane {lane.name!r} add up to {one.weight}.")
    if words.dtype != np.uint32 or words.shape != (plan.words_of(plan.steps[step], lane.name),):
        raise SumNotProven(f"The sum of lane {lane.name!r} has {words.shape} words of {words.dtype}.")
    if plan.ring_bits < 32 and int(words.max()) >> plan.ring_bits:
        raise SumNotProven(f"The sum of lane {lane.name!r} has words of more than {plan.ring_bits} bits.")
    most = ring.bound(
        plan.n_max, plan.ring_bits, weight=one.weight, heaviest=lane.grid[-1], contributors=one.contributors
    )
    total = ring.signed(words, plan.ring_bits)
    if max(int(total.max()), -int(total.min())) > most:
        raise SumNotProven(
            f"The mean of lane {lane.name!r} is beyond the clip.", remedy="A survivor did not clip its upload."
        )


def lane_tag(plan: Plan, result: StepResult, lane: str, found: Sum) -> Tag:
    """The tag of an announced sum: what the uploaders' tags must add up to."""
    return tags.tag(found.words, coin_key(result, lane), carries=found.carries, bits=plan.ring_bits)


def open_tags(charter: Charter, result: StepResult, signed: bytes) -> Tags:
    """One member's tags of this result. Raises BadSignature, RosterMismatch, Malformed; SumNotProven for those of
    another result or with another number of lanes."""
    found = Tags.open(signed, lambda m: charter.member(m.silo).agent)
    if (found.t3, found.result) != (result.t3, result.digest):
        raise SumNotProven(f"{found.silo!r} signed another result of step {result.step}.")
    if len(found.tags) != (want := len(result.lanes_of(found.owner))):
        raise SumNotProven(f"{found.silo!r} sent {len(found.tags)} tags for the {want} lanes of {found.owner!r}.")
    return found


def check_signed(charter: Charter, plan: Plan, result: StepResult, signed_tags: Sequence[bytes]) -> dict[str, Tags]:
    """Owner → its tags, by itself or another: at least m + c members signed this result, and no upload in it is without
    tags. Raises SumNotProven, and what ``open_tags`` raises."""
    if result.step >= len(plan.steps):
        raise SumNotProven(f"A result of step {result.step} came for a plan of {len(plan.steps)} steps.")
    step = plan.steps[result.step]
    uploaders = {silo for one in result.sums for silo in one.uploaders}
    if not result.released or len(result.slots) != len(step.slots):
        raise SumNotProven(f"Step {step.name!r} has {len(step.slots)} slots; {len(result.slots)} were announced.")
    for section in step.sections:
        if len({result.slots[place] is None for place in step.places(section)}) > 1:
            raise SumNotProven(f"Section {section} of the slots of step {step.name!r} is announced open in part.")
    found = [open_tags(charter, result, signed) for signed in signed_tags]
    signers = {one.silo for one in found}
    for signed in found:
        if signed.owner != signed.silo and signed.silo not in uploaders:
            raise SumNotProven(f"{signed.silo!r} stood in for {signed.owner!r} without having uploaded itself.")
    if len(signers) < (least := charter.honest + charter.colluders):
        raise SumNotProven(f"{len(signers)} members signed the result of step {step.name!r}; it takes m + c = {least}.")
    owners = {one.owner: one for one in found}
    if len(owners) != len(found):
        raise SumNotProven(f"Two members' tags for one upload came with the result of step {step.name!r}.")
    for one in result.sums:
        if not set(one.uploaders) <= owners.keys():
            raise SumNotProven(f"The sum of lane {one.lane!r} came without the tags of all its uploads.")
    return owners


def check_result(
    charter: Charter, plan: Plan, result: StepResult, sums: Mapping[str, Sum], signed_tags: Sequence[bytes]
) -> None:
    """Raise SumNotProven unless the signed tags prove a released result with these sums (lane → arrays)."""
    owners = check_signed(charter, plan, result, signed_tags)
    for one in result.sums:
        if one.lane not in sums:
            raise SumNotProven(f"The sum of lane {one.lane!r} is missing.")
        check_lane(charter, plan, result, one, sums[one.lane], owners)


def check_lane(
    charter: Charter, plan: Plan, result: StepResult, one: LaneSum, found: Sum, owners: Mapping[str, Tags]
) -> None:
    """Raise SumNotProven unless the tags prove one lane's sum. ``owners``: as ``check_signed`` returned them."""
    check_bounds(charter, plan, result.step, one, found.words)
    _check_digests(one, found)
    total = tags.add([tags.read(_of_lane(result, owners[silo], one.lane)) for silo in one.uploaders])
    if total != lane_tag(plan, result, one.lane, found):
        raise SumNotProven(f"The sum of lane {one.lane!r} is not the sum of its {len(one.uploaders)} uploads.")


def _check_digests(one: LaneSum, found: Sum) -> None:
    if words_digest(found.words) != one.words or words_digest(found.carries) != one.carries:
        raise SumNotProven(f"The words of lane {one.lane!r} are not those announced.")


def _of_lane(result: StepResult, found: Tags, lane: str) -> bytes:
    return found.tags[result.lanes_of(found.owner).index(lane)]


def _lane(plan: Plan, step: int, name: str) -> Lane:
    for lane in plan.lanes_of(plan.steps[step]):
        if lane.name == name:
            return lane
    raise SumNotProven(f"Step {plan.steps[step].name!r} has no lane {name!r}.")
