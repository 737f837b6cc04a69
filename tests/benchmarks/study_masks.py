"""Masks change nothing: production's rounds and plain sums end in the same bytes, for every method that is measured.

The only place where masks are left out, and no figure comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crypto.blocks import state_digest
from silo_agent.methods import Method
from silo_agent.methods.fedcoe import FedCoE
from silo_agent.methods.fedcoe_samples import FedCoESamples
from tests import plain
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_baselines import IFCA, Ditto, Paired
from tests.benchmarks.method_federation import federate, limits
from tests.benchmarks.study import Bar, Case, Figures, Rule, Setting

#: Method → its own parameters here. Few rounds: every kind of step is in them, with lanes that open and that do not.
METHODS: Mapping[type[Method], Mapping[str, object]] = {
    Paired: {"proximal": 0.1},
    FedCoE: {"experts": 3, "finetune_steps": 5},
    FedCoESamples: {"experts": 3, "warmup": 1, "finetune_steps": 5},
    Ditto: {},
    IFCA: {"clusters": 3},
}


def same(seed: int, setting: Setting, kinds: Iterable[type[Method]] = tuple(METHODS)) -> Figures:
    """``method.same`` of each of ``kinds``: 1 if blocks and slots are equal to the last bit."""
    split = splits.deal(splits.digits(), seed, silos=8, newcomers=0, styles=splits.TURNS[:2], skew=1.0)
    base = {**split.shape, "hidden": 4, "rounds": 2, "local_steps": 2, "seed": seed}
    figures = {}
    for kind in kinds:
        own = METHODS[kind]
        made = federate(kind, {**base, **own}, split.silos)
        masked, of = made.published, limits(len(split.silos))
        _, bare, _ = plain.federate(kind, {**base, **own}, split.silos, of, run_id=made.run)
        alike = state_digest(masked.blocks) == state_digest(bare.blocks) and masked.slots == bare.slots
        figures[f"{kind.name}.same"] = float(alike)
    return figures


CASES = (Case(name="masks", run=same, seeds=(0,)),)
BARS = tuple(
    Bar(
        name=f"{kind.name} the same without masks",
        case="masks",
        value=lambda figures, name=kind.name: figures[f"{name}.same"],  # type: ignore[misc]
        target=1,
        rule=Rule.ALWAYS,
    )
    for kind in METHODS
)
