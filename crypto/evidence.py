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

from crypto import ring
from crypto.cohort import Cohort, Context, Dealt, Survivors, check_words
from crypto.encoding import VERSION, Reader, Writer
from crypto.errors import BadShare, EvidenceError, Malformed
from crypto.keys import SessionKey
from crypto.messages import SLOTS, Shares


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvidence:
    """Signed adverts of U1, deals of U2, headers of U3, attestations, slot sections of U3, slot and lane shares."""

    adverts: tuple[bytes, ...]
    deals: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    attestations: tuple[bytes, ...]
    sections: tuple[tuple[str, bytes], ...]
    slot_shares: tuple[bytes, ...]
    lane_shares: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        out = Writer().u8(VERSION)
        for blobs in (self.adverts, self.deals, self.headers, self.attestations):
            out.each(blobs, Writer.blob)
        out.each(self.sections, lambda w, item: w.text(item[0]).blob(item[1]))
        return bytes(out.each(self.slot_shares, Writer.blob).each(self.lane_shares, Writer.blob))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        src = Reader(data)
        if (version := src.u8()) != VERSION:
            raise Malformed(f"Evidence of version {version}; this code reads version {VERSION}.")
        adverts, deals, headers, attestations = (src.each(Reader.blob) for _ in range(4))
        sections = src.each(lambda s: (s.text(), s.blob()))
        slot_shares, lane_shares = src.each(Reader.blob), src.each(Reader.blob)
        src.end()
        return cls(
            adverts=adverts,
            deals=deals,
            headers=headers,
            attestations=attestations,
            sections=sections,
            slot_shares=slot_shares,
            lane_shares=lane_shares,
        )

    def survivors(self, context: Context) -> Survivors:
        """U3 with every signature checked and T3 attested by at least t; else the protocol's own errors."""
        survivors = Survivors.form(Dealt.form(Cohort.form(context, self.adverts), self.deals), self.headers)
        survivors.check_attested(self.attestations)
        return survivors

    def check(self, context: Context) -> Checked:
        """Check every signature and open the slots again; else the protocol's own errors, or EvidenceError."""
        survivors = self.survivors(context)
        shares = [survivors.check_slot_shares(signed) for signed in self.slot_shares]
        masks = survivors.recover_masks(shares)
        total = np.zeros(survivors.slot_count, dtype=np.uint64)
        if [silo for silo, _ in self.sections] != list(survivors.signed):
            raise EvidenceError(
                "slot sections", expected=list(survivors.signed), found=[silo for silo, _ in self.sections]
            )
        for silo, section in self.sections:
            np.add(total, survivors.check_section(silo, section), out=total)
        survivors.unmask(SLOTS, total, survivors.recover_seeds(SLOTS, shares), masks)
        released = tuple(survivors.check_lane_shares(signed) for signed in self.lane_shares)
        return Checked(survivors, tuple(int(value) for value in total), masks, released)

    def slots(self, context: Context) -> tuple[int, ...]:
        """The slots, opened again."""
        return self.check(context).slots

    def replay(self, context: Context, lane: str, uploads: Mapping[str, np.ndarray]) -> np.ndarray:
        """The opened sum of a lane, see ``Checked.replay``."""
        return self.check(context).replay(lane, uploads)


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """A step whose signatures all held, its slots opened again. Made by ``StepEvidence.check``.

    ``masks``: mask keys of the dropped silos, ``released``: each survivor's shares of the lanes it let open. Both
    opened what the step opened and nothing else.
    """

    survivors: Survivors
    slots: tuple[int, ...]
    masks: Mapping[str, SessionKey]
    released: tuple[Shares, ...]

    @property
    def context(self) -> Context:
        return self.survivors.dealt.cohort.context

    def lanes_open(self) -> tuple[str, ...]:
        """The lanes that the shares open, in plan order: released by at least t survivors with shares that combine."""
        return tuple(lane.name for lane in self.context.plan.lanes_of(self.context.step) if self._opens(lane.name))

    def replay(self, lane: str, uploads: Mapping[str, np.ndarray]) -> np.ndarray:
        """The opened sum of a lane (uint32) from kept uploads: survivor → masked words, each as its header signed."""
        survivors, plan, step = self.survivors, self.context.plan, self.context.step
        words, wire, bits = plan.words_of(step, lane), plan.wire_words_of(step, lane), plan.ring_bits
        seeds = survivors.recover_seeds(lane, self._shares_of(lane))
        total = np.zeros(words, dtype=np.uint32)
        for silo in survivors.dealt.cohort.holders(lane, survivors.signed):
            if silo not in uploads:
                raise EvidenceError(f"upload of {silo}, lane {lane}", expected="the kept words", found="none")
            upload = check_words(survivors.headers[silo], lane, uploads[silo], wire)
            np.add(total, ring.unpack(upload, words, bits), out=total)
        survivors.unmask(lane, total, seeds, self.masks)
        return ring.reduce(total, bits)

    def _opens(self, lane: str) -> bool:
        shares = self._shares_of(lane)
        if len({one.silo for one in shares}) < self.survivors.dealt.cohort.threshold:
            return False
        try:
            self.survivors.recover_seeds(lane, shares)
        except BadShare:
            return False
        return True

    def _shares_of(self, lane: str) -> list[Shares]:
        return [shares for shares in self.released if any(name == lane for _, name, _ in shares.seeds)]
