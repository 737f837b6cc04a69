"""Whom a run must not go on without: the table ``[require]`` of a job.

    [require]
    silos = ["clinic-a"]   # each of them is in every sum
    fraction = 0.75        # of the charter's silos are in every sum
    rows = 0.8             # of the weight of training rows that the run had at its best, in every step that trains

Each line is optional. Without the table a run goes on with those that are there, as the charter's floors allow, and
says who was missing.

``silos`` and ``fraction`` are looked at before shares leave: such a step is tried again with fresh keys, and the silos
are waited for. ``rows`` can be looked at only in what has opened: weights follow the rows of each silo, on the lane's
grid, and their sum is opened with each lane.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from crypto.charter import SILO_ID
from crypto.errors import SpecError

_KNOWN = ("silos", "fraction", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """``silos``: their ids, sorted. ``fraction``, ``rows``: from 0, which requires nothing, to 1."""

    silos: tuple[str, ...] = ()
    fraction: float = 0.0
    rows: float = 0.0

    @classmethod
    def parse(cls, raw: Mapping[str, object], where: str) -> Requirement:
        """Raises SpecError that names the field."""
        for key in raw:
            if key not in _KNOWN:
                raise SpecError(f"{where}.{key}", got=raw[key], want=f"one of the fields {', '.join(_KNOWN)}")
        if not raw:
            raise SpecError(where, got="an empty table", want=f"one of the fields {', '.join(_KNOWN)}")
        silos = raw.get("silos", [])
        if not isinstance(silos, list) or not all(isinstance(one, str) and SILO_ID.fullmatch(one) for one in silos):
            raise SpecError(f"{where}.silos", got=silos, want="a list of silos' ids")
        if len(set(silos)) != len(silos) or ("silos" in raw and not silos):
            raise SpecError(f"{where}.silos", got=silos, want="at least one silo, none of them twice")
        return cls(silos=tuple(sorted(silos)), fraction=_share(raw, "fraction", where), rows=_share(raw, "rows", where))

    @property
    def fields(self) -> dict[str, object]:
        shares = {name: value for name in ("fraction", "rows") if (value := getattr(self, name))}
        return ({"silos": list(self.silos)} if self.silos else {}) | shares

    def check_members(self, members: Collection[str]) -> None:
        """Raises SpecError for a silo that the charter does not name: the run could never have it."""
        if strangers := sorted(set(self.silos) - set(members)):
            raise SpecError("job.require.silos", got=strangers, want="silos that the charter names")

    def least(self, members: int) -> int:
        """How many silos must be in each sum."""
        return max(len(self.silos), ceil(self.fraction * members - 1e-9))

    def lacking(self, present: Collection[str], members: Sequence[str]) -> str:
        """What is not met by a sum over these silos, in words; empty if nothing."""
        if away := sorted(set(self.silos) - set(present)):
            return f"without {', '.join(away)}"
        if len(present) < (least := self.least(len(members))):
            return f"with {len(present)} of {len(members)} silos, and it requires {least}"
        return ""


#: Of a job without the table.
NOTHING: Final = Requirement()


def _share(raw: Mapping[str, object], name: str, where: str) -> float:
    if name not in raw:
        return 0.0
    value = raw[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise SpecError(f"{where}.{name}", got=value, want="more than 0 and at most 1")
    return float(value)
