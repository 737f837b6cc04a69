"""Who is left out of a step so that the rule of atoms lets the others open its sums.

Silos keep lanes shut whose sum would, with an earlier one, show too few of them (``crypto.atoms``). The aggregator
knows what it asked for, so before the survivors attest it leaves silos out until the rest may open: as if these had
sent nothing. It counts for the lanes whose contributors it can see: lanes with hidden holdings are the silos' to judge.
A lane of fewer silos than its floor stays shut anyway, and nobody is left out for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from crypto import quantities
from crypto.atoms import Openings
from crypto.plan import Lane, Plan, Scope, Step

#: Silo → the lanes with visible holdings that it announced.
Held = Mapping[str, Collection[str]]


class AskedFor:
    """The sums that a run has asked the silos to open so far: of each quantity, over which silos."""

    def __init__(self, plan: Plan, least: int) -> None:
        """``least``: m + c."""
        self._plan = plan
        self._least = least
        self._openings: dict[bytes, Openings] = {}

    def fit(self, step: Step, blocks: bytes, held: Held) -> tuple[str, ...]:
        """The silos of ``held``, whose uploads are complete, less those to leave out. ``blocks``: digest of the
        published blocks before the step."""
        kept = dict(held)
        while True:
            out: set[str] = set()
            for quantity, silos in self._visible(step, blocks, kept):
                out |= silos - self._openings.get(quantity, Openings()).fit(silos, self._least)
            if not out:
                return tuple(sorted(kept))
            kept = {silo: lanes for silo, lanes in kept.items() if silo not in out}

    def ask(self, step: Step, blocks: bytes, held: Held) -> None:
        """The lanes of these survivors are about to be asked for. What the silos will refuse is not counted."""
        for quantity, silos in self._visible(step, blocks, held):
            before = self._openings.get(quantity, Openings())
            if not before.conflicts(silos, self._least):
                self._openings[quantity] = before.refine(silos)

    def ask_again(self, asked: Iterable[tuple[int, bytes, Iterable[str]]]) -> None:
        """What the run asked for in an earlier process: (step, digest of the blocks before it, survivors), without
        visible holdings, which nobody wrote down."""
        for k, blocks, survivors in asked:
            self.ask(self._plan.steps[k], blocks, dict.fromkeys(survivors, ()))

    def _visible(self, step: Step, blocks: bytes, held: Held) -> Iterator[tuple[bytes, frozenset[str]]]:
        """Quantity and contributors of each lane that may open and whose contributors can be seen."""
        for lane in self._plan.lanes_of(step):
            silos = frozenset(lane.uploaders(sorted(held), held))
            if not _hidden(lane) and len(silos) >= max(self._least, lane.floor):
                for quantity in sorted(quantities.of_lane(self._plan, step, lane.name, blocks)):
                    yield quantity, silos


def _hidden(lane: Lane) -> bool:
    return lane.scope is Scope.HELD and not lane.visible
