"""Which experts a run made, who is served by none, and what the generalist alone would give: from opened figures.

For methods whose plan has a lane ``expert-e`` for each expert and a lane ``everyone`` for the generalist beside them.
"""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.figures import ratios
from aggregator.protocols.interface import Plan
from crypto.standing import rounds, standing

_EXPERT, _EVERYONE = "expert-", "everyone"

#: Silos round the loads that they report: a smaller share of the rows than this says nothing.
LEAST_SHARE = 0.02


def expert_sentences(plan: Plan, slots: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """For people, in plain text; nothing for a plan without experts beside a generalist, or before a round was
    released. ``slots``: step → what opened. The names of lanes in it are those of the plan, which other people wrote.
    """
    names = [lane.name for lane in plan.lanes]
    experts = [name for name in names if name.startswith(_EXPERT)]
    general = rounds(slots, _EVERYONE)
    if not experts or _EVERYONE not in names or not general:
        return ()
    found = [f"Trained rounds, of the generalist's {general}: {', '.join(_trained(slots, name) for name in experts)}."]
    last = next((seen for seen in reversed(list(slots.values())) if "test.rows" in seen), {})
    loads = [last.get(f"load-{name.removeprefix(_EXPERT)}") for name in experts]
    rows = last.get("test.rows", 0)
    if rows and None not in loads:
        none = max(0, rows - sum(load for load in loads if load is not None))
        share = f"About {none} of {rows} test rows belong to no expert that was trained; the generalist serves them."
        found.append(share if none > LEAST_SHARE * rows else f"Experts serve all {rows} test rows.")
    if (alone := ratios(last).get("generalist.accuracy")) is not None:
        found.append(f"The generalist alone gives {100 * alone[0] / alone[1]:.1f} % of {alone[1]} test rows.")
    return tuple(found)


def _trained(slots: Mapping[str, Mapping[str, int]], lane: str) -> str:
    """How often an expert's lane opened, and what that means where it was not often enough."""
    times, counts = rounds(slots, lane), standing(slots, lane)
    if not times:
        return f"{lane} 0 (not used)"
    return f"{lane} {times}" + (
        f" (counts for {100 * counts:.0f} %, the generalist for the rest)" if counts < 1 else ""
    )
