"""Who was missing from a run's sums, when and why: read from the records of its closed steps.

A run that finishes without one of its silos in some step is complete as to its steps, and partial as to its data. The
status, the report, MLflow and the model card say so in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from aggregator.ledger.records import StepClosed
from aggregator.run_record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """``steps``: how many closed steps have no update of this silo, from the one named ``first`` to ``last``.
    ``phase``, ``code``, ``time``: of the last of them; no code: the silo did not answer; no phase: it was not asked."""

    steps: int
    first: str
    last: str
    phase: str
    code: str
    time: str

    def __str__(self) -> str:
        where = self.first if self.steps == 1 else f"{self.steps} steps, {self.first} to {self.last}"
        why = f"refused: {self.code}" if self.code else "did not answer"
        return f"{where} ({f'{why} in phase {self.phase}' if self.phase else 'left out'}; {self.time})"


def missing_from(closed: StepClosed, silos: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Silo → (phase, code) of each of these silos that is not in the step's sums."""
    away = sorted(set(silos) - set(closed.survivors))
    return {silo: (closed.lost.get(silo, ""), closed.refusals.get(silo, "")) for silo in away}


def with_step(
    before: Mapping[str, Absence], closed: StepClosed, time: str, silos: Sequence[str]
) -> Mapping[str, Absence]:
    """The absences after one more closed step. ``time``: of its line."""
    found = dict(before)
    for silo, (phase, code) in missing_from(closed, silos).items():
        last = Absence(steps=1, first=closed.name, last=closed.name, phase=phase, code=code, time=time)
        earlier = found.get(silo)
        found[silo] = last if earlier is None else replace(last, steps=earlier.steps + 1, first=earlier.first)
    return found


def of_run(run: RunRecord) -> Mapping[str, Absence]:
    """The silos of the run's charter that are not in every closed step."""
    found: Mapping[str, Absence] = {}
    for entry in run.closed:
        found = with_step(found, entry.record, entry.time, run.started.record.silos)
    return found


def sentence(absences: Mapping[str, Absence]) -> str:
    """Who was missing, where and why, in a line; empty if nobody was."""
    return "; ".join(f"{silo} missing from {absence}" for silo, absence in sorted(absences.items()))
