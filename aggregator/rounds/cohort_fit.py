"""Who is left out of a step so that the rule of atoms lets the others open its sums.

Silos keep lanes shut whose sum would, with an earlier one, show too few of them (``crypto.atoms``). The aggregator
knows what it asked for, so before the survivors attest it leaves silos out until the rest may open: as if these had
sent nothing. It counts for the lanes whose contributors it can see: lanes with hidden holdings are the silos' to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crypto import quantities
from crypto.atoms import Openings
from crypto.cohort import Context
from crypto.messages import Advert
from crypto.plan import Lane, Scope


class AskedFor:
    """The sums that a run has asked the silos to open so far: of each quantity, over which silos."""

    def __init__(self) -> None:
        self._openings: dict[bytes, Openings] = {}

    def fit(self, context: Context, blocks: bytes, adverts: Mapping[str, Advert]) -> tuple[str, ...]:
        """The silos of ``adverts``, whose uploads are complete, less those to leave out. ``blocks``: digest of the
        published blocks before the step."""
        least = context.charter.honest + context.charter.colluders
        kept = dict(adverts)
        while True:
            out: set[str] = set()
            for quantity, of in self._visible(context, blocks, kept):
                may = self._openings.get(quantity, Openings()).fit(of, least)
                out |= {of[one] for one in of.keys() - may}
            if not out:
                return tuple(sorted(kept))
            kept = {silo: advert for silo, advert in kept.items() if silo not in out}

    def ask(self, context: Context, blocks: bytes, adverts: Mapping[str, Advert]) -> None:
        """The survivors' lanes are about to be asked for."""
        for quantity, of in self._visible(context, blocks, adverts):
            self._openings[quantity] = self._openings.get(quantity, Openings()).refine(of)

    def _visible(
        self, context: Context, blocks: bytes, adverts: Mapping[str, Advert]
    ) -> Iterable[tuple[bytes, dict[str, str]]]:
        """(quantity, contributor's id → silo) for each lane whose contributors can be seen."""
        plan, step = context.plan, context.step
        holdings = {silo: advert.held for silo, advert in adverts.items()}
        for lane in plan.lanes_of(step):
            if _hidden(lane):
                continue
            uploaders = lane.uploaders(sorted(adverts), holdings)
            of = {quantities.contributor(silo, adverts[silo].data): silo for silo in uploaders}
            for quantity in sorted(quantities.of_lane(plan, step, lane.name, blocks)):
                yield quantity, of


def _hidden(lane: Lane) -> bool:
    return lane.scope is Scope.HELD and not lane.visible
