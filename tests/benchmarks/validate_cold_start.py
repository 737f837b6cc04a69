"""The constants of FedCoE's cold start, chosen under seeds that no bar is measured on.

    python tests/benchmarks/validate_cold_start.py [--seeds 10]

Prints, for each handicap and slope of ``silo_agent.gates.information_gate``, the newcomers' accuracy less FedAvg's on
the splits of ``study_fedcoe``, mean over seeds 200, 201, …, and the least slack: (gain − bar) of the split that is
nearest to its bar. The constants with the most slack are the ones to use. Training does not depend on them: each split
is trained once a seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from statistics import mean

from silo_agent import gates
from silo_agent.methods.fedcoe import FedCoE
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_baselines import Paired
from tests.benchmarks.method_federation import federate
from tests.benchmarks.study_fedcoe import TRAINING, accuracy, of

FIRST_SEED = 200
HANDICAPS = (0.0, 0.05, 0.1, 0.2)
SLOPES = (0.05, 0.1, 0.2)

#: Split → (experts, styles, skew, the bar of cold − FedAvg).
SPLITS: Mapping[str, tuple[int, int, float | str, float]] = {
    "rot4": (4, 4, "even", 5.0),
    "dir1 rot3": (3, 3, 1.0, 10.0),
    "dir0.5 rot3": (3, 3, 0.5, 9.0),
    "path2": (4, 1, "path2", -1.0),
    "dir0.1": (4, 1, 0.1, -1.0),
    "dir0.5": (4, 1, 0.5, -1.0),
}


def gains(name: str, seed: int) -> dict[tuple[float, float], float]:
    """(handicap, slope) → cold accuracy less FedAvg's, in points."""
    k, styles, skew, _ = SPLITS[name]
    newcomers = styles if styles > 1 else 4
    split = splits.deal(splits.digits(), seed, styles=splits.TURNS[:styles], skew=skew, newcomers=newcomers)
    training = TRAINING[f"digits, {styles} style{'s' * (styles > 1)}"]
    base = split.shape | dict(training) | {"seed": seed}
    fedavg = federate(Paired, base, split.silos)
    fedcoe = federate(FedCoE, base | {"experts": k}, split.silos)
    plain = accuracy(of(fedavg, "cold"), split.strangers)
    found = {}
    before = gates.MI_HANDICAP, gates.MI_SLOPE
    try:
        for handicap, slope in product(HANDICAPS, SLOPES):
            gates.MI_HANDICAP, gates.MI_SLOPE = handicap, slope  # type: ignore[misc]
            found[handicap, slope] = accuracy(of(fedcoe, "cold"), split.strangers) - plain
    finally:
        gates.MI_HANDICAP, gates.MI_SLOPE = before  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    by_split = {name: [gains(name, FIRST_SEED + i) for i in range(args.seeds)] for name in SPLITS}
    print(f"| handicap | slope | {' | '.join(SPLITS)} | least slack |")
    print(f"|{' --- |' * (len(SPLITS) + 3)}")
    for handicap, slope in product(HANDICAPS, SLOPES):
        means = {name: mean(one[handicap, slope] for one in found) for name, found in by_split.items()}
        slack = min(at - SPLITS[name][3] for name, at in means.items())
        cells = " | ".join(f"{at:+.2f}" for at in means.values())
        print(f"| {handicap:g} | {slope:g} | {cells} | {slack:+.2f} |")


if __name__ == "__main__":
    main()
