"""``fed egress``: everything that may leave a silo under a job, and what the aggregator sees of one silo.

The manifest is computed from the plan. Only the list of what the aggregator sees is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crypto import ring
from crypto.charter_defaults import Floors
from crypto.plan import Lane, Plan, Scope
from crypto.scores import families
from jobs.job import JobSpec
from silo_agent.methods import Limits, method
from silo_agent.methods.networks import OfNetwork
from silo_agent.models.description import Role

#: All that the aggregator ever knows of a single silo. DESIGN: identity, timing, upload size, visible holdings, ….
SEEN_OF_ONE_SILO = (
    "its id and public keys (the charter)",
    "when it answers, and when it stays away",
    "the size of its upload (fixed by the plan)",
    "which lanes with visible holdings it holds",
    "a refusal's code and whom it blames: never a text, never a count",
    "the salted commitment of its data set",
    "its data owner's signed approval: digests, purpose, runs and dates",
    "how many releases it has made",
    "its signatures: adverts, deals, headers, attestations, results of steps, the closing of a run",
    "tags of its masked uploads in lanes that opened: 80 bytes a lane, which the aggregator could compute itself",
    "if it complains of a peer's row: the key of that one channel, which opens that row and the one back",
    "masked words: noise without the shares of t silos",
)


#: Role of a parameter → whether its change leaves.
LEAVES = {
    Role.SHARED: "masked, in the sum of all silos",
    Role.EXPERT: "masked, in the sum of an expert's silos",
    Role.LOCAL: "never",
    Role.FROZEN: "never",
}


def manifest(spec: JobSpec, silos: int) -> dict[str, Any]:
    """``manifest_of`` a job under the demonstration's charter, for so many silos."""
    charter = Floors()
    limits = Limits(n_max=silos, colluders=charter.colluders, honest=charter.honest, lane_floor=charter.lane_floor)
    plan = spec.plan_within(limits)
    return manifest_of(spec, plan, {lane.name: lane.floor for lane in plan.lanes})


def manifest_of(spec: JobSpec, plan: Plan, floors: Mapping[str, int]) -> dict[str, Any]:
    """Lanes, steps and slots of a job with this plan. ``floors``: lane → fewest contributors for which it opens."""
    elements = sum(plan.words_of(step, lane.name) for step in plan.steps for lane in plan.lanes_of(step))
    slots = sum(len(step.slots) for step in plan.steps)
    return {
        "job": spec.digest.hex(),
        "plan": plan.digest.hex(),
        "method": spec.method,
        "dataset": spec.dataset,
        "lanes": [
            {
                "name": lane.name,
                "scope": lane.scope.value,
                "floor": floors[lane.name],
                "holdings": _holdings(lane),
                "quantities": sorted({b.quantity for b in plan.blocks if b.lane == lane.name and b.quantity}),
                "weights": list(lane.grid),
                "parameters": sum(block.size for block in plan.blocks if block.lane == lane.name),
                "leaves": "never" if lane.scope is Scope.LOCAL else "masked, opened as a sum above the floor",
            }
            for lane in plan.lanes
        ],
        "steps": [
            {
                "name": step.name,
                "lanes": {lane.name: plan.words_of(step, lane.name) for lane in plan.lanes_of(step)},
                "slots": [slot.name for slot in step.slots],
            }
            for step in plan.steps
        ],
        "model": _model(spec),
        "ring_bits": plan.ring_bits,
        "resolution": max(block.clip / ring.limit(plan.n_max, plan.ring_bits) for block in plan.blocks),
        "bytes_per_silo": plan.ring_bits // 8 * elements + 8 * slots,
        "aggregator_sees_of_one_silo": list(SEEN_OF_ONE_SILO),
    }


def _model(spec: JobSpec) -> list[dict[str, Any]]:
    """Every parameter of the model that the job names, and what becomes of it; nothing for the perceptron."""
    if "model" not in spec.params:
        return []
    made = method(spec.method)(spec.params)
    parts = (*made.experts.parts, *made.experts.frozen) if isinstance(made, OfNetwork) else ()
    return [
        {
            "code": part.code,
            "name": part.name,
            "shape": list(part.shape),
            "role": part.role.value,
            "leaves": LEAVES[part.role],
        }
        for part in parts
    ]


def _holdings(lane: Lane) -> str:
    """Who contributes to a lane, as far as others learn of it."""
    match lane.scope:
        case Scope.HELD:
            return "hidden" if lane.hidden else "visible"
        case Scope.GROUP:
            return " ".join(lane.members)
        case Scope.LOCAL:
            return "this silo alone"
    return "everyone"


def print_manifest(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(
        f"job {found['job'][:16]}  plan {found['plan'][:16]}  method {found['method']}  data set {found['dataset']}\n"
    )
    lanes = Table(
        "lane",
        "scope",
        "opens from",
        "who holds it",
        "weights",
        "parameters",
        "of data alone",
        title="Lanes: masked, opened as sums or not at all",
        title_justify="left",
    )
    for lane in found["lanes"]:
        lanes.add_row(
            lane["name"],
            lane["scope"],
            "never" if lane["leaves"] == "never" else f"{lane['floor']} silos",
            lane["holdings"],
            ", ".join(map(str, lane["weights"])),
            str(lane["parameters"]),
            ", ".join(lane["quantities"]) or "–",
        )
    console.print(lanes)
    steps = Table("steps", "lanes", "slots: the only metrics that leave", title="Steps, by kind", title_justify="left")
    alike: dict[tuple[str, str], list[str]] = {}
    for step in found["steps"]:
        slots = (f"{name} ({n} sums)" if n > 1 else name for name, n in families(step["slots"]).items())
        row = (", ".join(step["lanes"]) or "–", ", ".join(slots) or "–")
        alike.setdefault(row, []).append(step["name"])
    for row, names in alike.items():
        steps.add_row(names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}: {len(names)} steps", *row)
    console.print(steps)
    if found["model"]:
        parts = Table(
            "code",
            "parameter",
            "shape",
            "role",
            "leaves",
            title="The model: a block is the name of a model, a dot and a code",
            title_justify="left",
        )
        for part in found["model"]:
            shape = " × ".join(map(str, part["shape"]))
            parts.add_row(part["code"], escape(part["name"]), shape, part["role"], part["leaves"])
        console.print(parts)
        console.print("No buffer of the model is ever sent: running statistics stay at the silo.")
    console.print("Besides: for each lane that opens, the sum of the weights and the count of contributors.")
    console.print("The other silos, not the aggregator, learn this silo's weight in each lane: a place on its grid.")
    console.print(
        f"A value travels as {found['ring_bits']} bits; rounding moves a mean by at most {2 * found['resolution']:.1e}."
    )
    some = any(lane["holdings"] == "visible" for lane in found["lanes"])
    at_most = " at most, if it held every visible lane" if some else ""
    console.print(f"One silo uploads {found['bytes_per_silo'] / 1e6:.2f} MB in all{at_most}.\n")
    console.print("What the aggregator sees of one silo:")
    for item in found["aggregator_sees_of_one_silo"]:
        console.print(f"  · {item}")
    console.print(
        "\nNo message has anything else in it: no rows, labels, gradients, single updates, local experts or accuracies."
    )
