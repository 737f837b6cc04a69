"""What a step opened: its slots, and each lane from its uploads. Server, silos and auditors make the same values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from crypto import proof, ring, tags
from crypto.cohort import Context, Survivors, commitment, words_digest
from crypto.errors import LayoutMismatch, SumNotProven, SurvivorInvalid
from crypto.keys import SessionKey
from crypto.masking import apply_streams
from crypto.messages import LaneSum, Shares, StepResult
from crypto.tags import Tag

#: Words that are added at a time: they are still in cache when their carries are counted.
_ADDED = 1 << 16

#: (sum of the weights, contributors) of a lane.
Count = tuple[int, int]


@dataclass(frozen=True, slots=True, repr=False)
class Opening:
    """A step whose slots are open. Made by ``form``. ``slots``: in plan order, None where their section stayed shut;
    ``masks``: mask keys of the dropped silos, which open nothing but the survivors' sums."""

    survivors: Survivors
    slots: tuple[int | None, ...]
    masks: Mapping[str, SessionKey]

    @classmethod
    def form(cls, survivors: Survivors, masked: Mapping[str, bytes], slot_shares: Iterable[Shares]) -> Self:
        """Open each section of slots that at least t survivors released. ``masked``: survivor → its masked slots;
        ``slot_shares``: as ``check_slot_shares`` returned them.

        Raises LayoutMismatch or TranscriptMismatch for slots that the headers do not sign, SurvivorInvalid for
        fewer shares than t, BadShare for a dealer whose shares do not combine.
        """
        shares = list(slot_shares)
        if len({one.silo for one in shares}) != len(shares):
            raise LayoutMismatch("A survivor's slot shares appear twice.")
        if len(shares) < (threshold := survivors.dealt.cohort.threshold):
            raise SurvivorInvalid(f"{len(shares)} survivors sent shares; the threshold is {threshold}.")
        if set(masked) != set(survivors.signed):
            raise LayoutMismatch("The masked slots are not those of each survivor.")
        total = np.zeros(len(survivors.step.slots), dtype=np.uint64)
        for silo in survivors.signed:
            np.add(total, survivors.check_slots(silo, masked[silo]), out=total)
        masks = survivors.recover_masks(shares)
        slots: list[int | None] = [None] * total.size
        for section in survivors.step.sections:
            released = [one for one in shares if any(lane == section for _, lane, _ in one.seeds)]
            if len(released) >= threshold:
                places = list(survivors.step.places(section))
                words = total[places]
                survivors.unmask(section, words, survivors.recover_seeds(section, released), masks)
                for place, value in zip(places, words, strict=True):
                    slots[place] = int(value)
        return cls(survivors, tuple(slots), masks)

    @property
    def context(self) -> Context:
        return self.survivors.dealt.cohort.context

    @property
    def figures(self) -> dict[str, int]:
        """Opened slot → its sum."""
        named = zip((slot.name for slot in self.context.step.slots), self.slots, strict=True)
        return {name: value for name, value in named if value is not None}

    def uploaders(self, lane: str) -> tuple[str, ...]:
        """The survivors that uploaded a lane, by id."""
        return self.survivors.dealt.cohort.holders(lane, self.survivors.signed)

    # --- lanes ----------------------------------------------------------------------------------------------------

    def recover(self, lane: str, released: Iterable[Shares]) -> tuple[dict[str, bytes], Count] | None:
        """Survivor → self seed, and the count, of a lane that at least t survivors released with the same count; None
        for another. Raises BadShare for seeds that do not combine."""
        by_count: dict[Count, list[Shares]] = {}
        for shares in released:
            for name, weight, contributors in shares.counts:
                if name == lane:
                    by_count.setdefault((weight, contributors), []).append(shares)
        for count, agreed in by_count.items():  # 2t > n: at most one count has t signers
            if len(agreed) >= self.survivors.dealt.cohort.threshold:
                return self.survivors.recover_seeds(lane, agreed), count
        return None

    def check_seeds(self, lane: str, seeds: Sequence[bytes]) -> dict[str, bytes]:
        """Uploader → self seed, each as its advert committed to. Raises SumNotProven."""
        cohort, uploaders = self.survivors.dealt.cohort, self.uploaders(lane)
        if len(seeds) != len(uploaders):
            raise SumNotProven(f"Lane {lane!r} came with {len(seeds)} seeds for {len(uploaders)} uploads.")
        for silo, seed in zip(uploaders, seeds, strict=True):
            if commitment(silo, lane, seed) != dict(cohort.adverts[silo].commitments)[lane]:
                raise SumNotProven(f"The seed of {silo!r} for lane {lane!r} is not the one it committed to.")
        return dict(zip(uploaders, seeds, strict=True))

    def residue(
        self, silo: str, lane: str, masked: np.ndarray, seed: bytes, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A survivor's upload of an open lane, without its self stream and the dropped silos' pair streams: (words,)
        uint32, canonical. The residues' sum is the lane's, in the ring. ``masked``: as uploaded. ``out``: where to,
        else to a new array."""
        plan, step = self.context.plan, self.context.step
        words = np.empty(plan.words_of(step, lane), dtype=np.uint32) if out is None else out
        np.copyto(words, ring.unpack(masked, words.size, plan.ring_bits))
        apply_streams(words, self.survivors.own_streams(silo, lane, seed, self.masks))
        return ring.reduce(words, plan.ring_bits)

    def tags_of(
        self, result: StepResult, silo: str, masked: Mapping[str, np.ndarray], seeds: Mapping[str, bytes]
    ) -> tuple[Tag, ...]:
        """The tags of one silo's upload in the lanes of a result. ``masked``, ``seeds``: lane → its words, its seed."""
        return tuple(
            tags.tag(self.residue(silo, lane, masked[lane], seeds[lane]), proof.coin_key(result, lane))
            for lane in result.lanes_of(silo)
        )


@dataclass(slots=True, repr=False)
class LaneTotal:
    """The running sum of residues, over the integers: ``words`` + 2^b · ``carries``, b the bits of the ring."""

    bits: int
    words: np.ndarray
    carries: np.ndarray

    @classmethod
    def zero(cls, size: int, bits: int, uploaders: int) -> LaneTotal:
        return cls(bits, np.zeros(size, dtype=np.uint32), np.zeros(size, dtype=proof.carry_type(uploaders)))

    def add(self, residue: np.ndarray) -> None:
        """One more residue (uint32, canonical)."""
        for start in range(0, residue.size, _ADDED):
            part = slice(start, start + _ADDED)
            words, carries = self.words[part], self.carries[part]
            np.add(words, residue[part], out=words)
            if self.bits == 32:
                carries += words < residue[part]
            else:
                carries += (words >> self.bits).astype(carries.dtype)
                ring.reduce(words, self.bits)

    def announced(self, lane: str, uploaders: tuple[str, ...], count: Count) -> LaneSum:
        weight, contributors = count
        return LaneSum(
            lane=lane,
            words=words_digest(self.words),
            carries=words_digest(self.carries),
            uploaders=uploaders,
            weight=weight,
            contributors=contributors,
        )
