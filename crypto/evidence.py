"""The signed messages of one released step, as bytes that a stranger can check.

With the charter and the plan anyone can recompute T0 to T3 from them, open the slots again, and, where the masked
uploads were kept, replay every opened sum bit for bit. Nothing in it is secret any more: the shares are exactly those
that opened what the step opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from crypto import proof
from crypto.cohort import Cohort, Context, Dealt, Survivors, check_words
from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import EvidenceError, Malformed
from crypto.messages import Shares, StepResult, Tags
from crypto.opening import Count, LaneTotal, Opening
from crypto.proof import Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvidence:
    """Signed adverts of U1, deals of U2, headers of U3, attestations, masked slots of U3, slot and lane shares; the
    announced result and the signed tags that prove it."""

    adverts: tuple[bytes, ...]
    deals: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    attestations: tuple[bytes, ...]
    slots: tuple[tuple[str, bytes], ...]
    slot_shares: tuple[bytes, ...]
    lane_shares: tuple[bytes, ...]
    result: bytes
    tags: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        out = Writer().u8(VERSION)
        for blobs in (self.adverts, self.deals, self.headers, self.attestations):
            out.each(blobs, Writer.blob)
        out.each(self.slots, lambda w, item: w.text(item[0]).blob(item[1]))
        out.each(self.slot_shares, Writer.blob).each(self.lane_shares, Writer.blob).blob(self.result)
        return bytes(out.each(self.tags, Writer.blob))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        if (version := src.u8()) != VERSION:
            raise Malformed(f"Evidence of version {version}; this code reads version {VERSION}.")
        adverts, deals, headers, attestations = (src.each(Reader.blob) for _ in range(4))
        slots = src.each(lambda s: (s.text(), s.blob()))
        slot_shares, lane_shares = src.each(Reader.blob), src.each(Reader.blob)
        result, tags = src.blob(), src.each(Reader.blob)
        src.end()
        return cls(
            adverts=adverts,
            deals=deals,
            headers=headers,
            attestations=attestations,
            slots=slots,
            slot_shares=slot_shares,
            lane_shares=lane_shares,
            result=result,
            tags=tags,
        )

    def survivors(self, context: Context) -> Survivors:
        """U3 with every signature checked and T3 attested by at least t; else the protocol's own errors."""
        survivors = Survivors.form(Dealt.form(Cohort.form(context, self.adverts), self.deals), self.headers)
        survivors.check_attested(self.attestations)
        return survivors

    def check(self, context: Context) -> Checked:
        """Check every signature, open the slots again and compare the announced result with what the shares open; else
        the protocol's own errors, or EvidenceError."""
        survivors = self.survivors(context)
        if [silo for silo, _ in self.slots] != list(survivors.signed):
            raise EvidenceError("masked slots", expected=list(survivors.signed), found=[silo for silo, _ in self.slots])
        shares = [survivors.check_slot_shares(signed) for signed in self.slot_shares]
        opening = Opening.form(survivors, dict(self.slots), shares)
        released = [survivors.check_lane_shares(signed) for signed in self.lane_shares]
        result = StepResult.from_bytes(self.result)
        owners = proof.check_signed(context.charter, context.plan, result, self.tags)
        expected = (context.k, context.chain, survivors.t3, opening.slots)
        if (found := (result.step, result.chain, result.t3, result.slots)) != expected:
            raise EvidenceError("the announced step, state, transcript and slots", expected=expected, found=found)
        opened = {one.lane: _opened(opening, released, one.lane) for one in result.sums}
        for one in result.sums:
            what = (one.uploaders, (one.weight, one.contributors))
            if what != (want := (opening.uploaders(one.lane), opened[one.lane][1])):
                raise EvidenceError(f"uploads and weights of lane {one.lane}", expected=want, found=what)
        return Checked(opening, result, owners, opened)


def _opened(opening: Opening, released: list[Shares], lane: str) -> tuple[dict[str, bytes], Count]:
    if (found := opening.recover(lane, released)) is None:
        raise EvidenceError(f"shares of lane {lane}", expected="those of at least t survivors", found="fewer")
    return found


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """A step whose signatures all held, its slots opened again. Made by ``StepEvidence.check``.

    ``result``: as announced, signed by at least m + c members; ``owners``: upload's owner → its signed tags;
    ``opened``: lane → the self seeds of its uploads and its count. All of it opened what the step opened and nothing
    else.
    """

    opening: Opening
    result: StepResult
    owners: Mapping[str, Tags]
    opened: Mapping[str, tuple[Mapping[str, bytes], Count]]

    @property
    def survivors(self) -> Survivors:
        return self.opening.survivors

    @property
    def context(self) -> Context:
        return self.opening.context

    @property
    def figures(self) -> dict[str, int]:
        """Slot → opened sum, and of each open lane its weight and contributors."""
        return self.result.figures(self.context.step)

    @property
    def signers(self) -> tuple[str, ...]:
        """The silos that signed the result, by id."""
        return tuple(sorted({one.silo for one in self.owners.values()}))

    def lanes_open(self) -> tuple[str, ...]:
        """The lanes of the result, in plan order."""
        return tuple(one.lane for one in self.result.sums)

    def replay(self, lane: str, uploads: Mapping[str, np.ndarray]) -> Sum:
        """The opened sum of a lane from kept uploads: survivor → masked words, each as its header signed."""
        plan, step, survivors = self.context.plan, self.context.step, self.survivors
        words, wire = plan.words_of(step, lane), plan.wire_words_of(step, lane)
        seeds, _ = self.opened[lane]
        total = LaneTotal.zero(words, plan.ring_bits, len(seeds))
        scratch = np.empty_like(total.words)
        for silo, seed in seeds.items():
            if silo not in uploads:
                raise EvidenceError(f"upload of {silo}, lane {lane}", expected="the kept words", found="none")
            masked = check_words(survivors.headers[silo], lane, uploads[silo], wire)
            total.add(self.opening.residue(silo, lane, masked, seed, out=scratch))
        return Sum(total.words, total.carries)

    def prove(self, lane: str, found: Sum) -> None:
        """Raise SumNotProven unless this is the announced sum of a lane, proven by the signed tags."""
        (one,) = (one for one in self.result.sums if one.lane == lane)
        proof.check_lane(self.context.charter, self.context.plan, self.result, one, found, self.owners)
