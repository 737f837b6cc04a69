"""What the opened figures of released steps say: ratios, metrics, the last of each, and what the silos withheld.

A step may be released without some of its slots: the silos gave no shares for them, because with sums that opened
before they could show one silo's own. Such a figure is missing in the record's ``slots``; it is never 0. Everything
that shows figures reads them here, so that a missing one is said in the same words everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aggregator.ledger.format import Entry
from aggregator.ledger.records import StepClosed
from aggregator.protocols.interface import Plan
from crypto.scores import Score, families, headline, modes, scores

#: Steps that ``sentence`` names before it counts.
STEPS_NAMED = 6


def ratios(slots: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Name → (part, whole) for slots that count hits: ``X.correct`` over ``X.total``, ``X.rows`` or ``test.rows`` is
    ``X.accuracy``; bare ``correct`` is over ``total`` or ``rows``. Pairs are left out whose whole is 0, or of which a
    half did not open.
    """
    found = {}
    for name, part in slots.items():
        head, _, tail = name.rpartition(".")
        if tail != "correct":
            continue
        prefix = f"{head}." if head else ""
        names = (f"{prefix}total", f"{prefix}rows", "test.rows")
        if whole := next((slots[other] for other in names if other in slots), 0):
            found[f"{prefix}accuracy"] = (part, whole)
    return found


def last_ratios(closed: Iterable[Entry[StepClosed]]) -> dict[str, tuple[int, int, StepClosed]]:
    """Name → (part, whole, the last step that opened both)."""
    found: dict[str, tuple[int, int, StepClosed]] = {}
    for entry in closed:
        found |= {name: (*pair, entry.record) for name, pair in ratios(entry.record.slots).items()}
    return found


def last_headline(closed: Sequence[Entry[StepClosed]]) -> str:
    """The leading metric beside its baseline, of the last step that opened any; "" if none did."""
    return next((line for entry in reversed(closed) if (line := headline(entry.record.slots))), "")


def metrics(slots: Mapping[str, int]) -> dict[str, float]:
    """Name → value of the metrics that opened (``crypto.scores``), and their baselines and certificates as
    ``NAME.baseline`` and ``NAME.within``. Without accuracies, which are ``ratios``, and what is undefined."""
    found: dict[str, float] = {}
    for score in (one for mode in modes(slots) for one in scores(slots, mode)):
        if score.value is not None and score.metric != "accuracy":
            found[score.name] = score.value
            found |= {f"{score.name}.within": score.within} if score.within else {}
        found |= {f"{score.name}.baseline": score.baseline} if score.baseline is not None else {}
    return found


def last_metrics(closed: Iterable[Entry[StepClosed]]) -> dict[str, tuple[tuple[Score, ...], StepClosed]]:
    """Mode → (its metrics, the last step that opened them)."""
    found: dict[str, tuple[tuple[Score, ...], StepClosed]] = {}
    for entry in closed:
        slots = entry.record.slots
        found |= {mode: (read, entry.record) for mode in modes(slots) if (read := scores(slots, mode))}
    return found


def withheld(plan: Plan, record: StepClosed) -> tuple[str, ...]:
    """The slots of a released step that did not open, in the plan's order; the cells of a metric by its family."""
    steps = [step for step in plan.steps if step.name == record.name]
    return tuple(families(slot.name for step in steps for slot in step.slots if slot.name not in record.slots))


def withheld_in(plan: Plan, closed: Iterable[Entry[StepClosed]]) -> dict[str, tuple[str, ...]]:
    """Name of the step → its slots that did not open, of the steps that lack any."""
    found = {entry.record.name: withheld(plan, entry.record) for entry in closed}
    return {step: names for step, names in found.items() if names}


def sentence(missing: Mapping[str, Sequence[str]]) -> str:
    """For people: which figures of which steps are missing, and why; "" if none is. ``missing``: see ``withheld_in``.

    Plain text; names in it are those of the plan, which other people wrote.
    """
    steps: dict[tuple[str, ...], list[str]] = {}
    for step, names in missing.items():
        steps.setdefault(tuple(names), []).append(step)
    parts = [f"{', '.join(names)} of {_shortened(those)}" for names, those in steps.items()]
    why = "because with sums that opened before they could show one silo's own"
    return f"Figures withheld by the silos, {why}: {'; '.join(parts)}." if parts else ""


def _shortened(steps: Sequence[str]) -> str:
    more = len(steps) - STEPS_NAMED
    return ", ".join(steps[:STEPS_NAMED]) + (f" and {more} more step{'s' * (more > 1)}" if more > 0 else "")
