"""The constants of FedCoE's cold start, chosen under seeds that no bar is measured on.

    python tests/benchmarks/validate_cold_start.py [--seeds 10] [--data DIR]

Prints, for each handicap and slope of ``silo_agent.cluster_gates.information_gate``, the newcomers' accuracy less
FedAvg's on the splits of ``study_fedcoe``, mean over seeds 200, 201, …, and the least slack: (gain − bar) of the split
that is nearest to its bar. The constants with the most slack are the ones to use. Training does not depend on them:
each split is trained once a seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean

from silo_agent import cluster_gates
from silo_agent.methods.fedcoe import FedCoE
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_baselines import Paired
from tests.benchmarks.method_federation import federate
from tests.benchmarks.methods import DATA
from tests.benchmarks.study_fedcoe import TRAINING, accuracy, of

FIRST_SEED = 200
HANDICAPS = (0.0, 0.05, 0.1, 0.2)
SLOPES = (0.05, 0.1, 0.2)

#: Split → (source, experts, styles, skew, the bar of cold − FedAvg).
SPLITS: Mapping[str, tuple[str, int, int, float | str, float]] = {
    "rot4": ("digits", 4, 4, "even", 5.0),
    "dir1 rot3": ("digits", 3, 3, 1.0, 10.0),
    "dir0.5 rot3": ("digits", 3, 3, 0.5, 9.0),
    "path2": ("digits", 4, 1, "path2", -1.0),
    "dir0.1": ("digits", 4, 1, 0.1, -1.0),
    "dir0.5": ("digits", 4, 1, 0.5, -1.0),
    "fashion rot4": ("fashion", 4, 4, "even", 4.0),
    "fashion dir0.5 rot4": ("fashion", 4, 4, 0.5, 5.0),
}


def gains(name: str, seed: int, data: Path) -> dict[tuple[float, float], float]:
    """(handicap, slope) → cold accuracy less FedAvg's, in points."""
    source, k, styles, skew, _ = SPLITS[name]
    newcomers = styles if styles > 1 else 4
    made = splits.digits() if source == "digits" else splits.fashion(data)
    split = splits.deal(made, seed, styles=splits.TURNS[:styles], skew=skew, newcomers=newcomers)
    training = TRAINING[f"{source}, {styles} style{'s' * (styles > 1)}"]
    base = split.shape | dict(training) | {"seed": seed}
    fedavg = federate(Paired, base, split.silos)
    fedcoe = federate(FedCoE, base | {"experts": k}, split.silos)
    plain = accuracy(of(fedavg, "cold"), split.strangers)
    found = {}
    before = cluster_gates.MI_HANDICAP, cluster_gates.MI_SLOPE
    try:
        for handicap, slope in product(HANDICAPS, SLOPES):
            cluster_gates.MI_HANDICAP, cluster_gates.MI_SLOPE = handicap, slope  # type: ignore[misc]
            found[handicap, slope] = accuracy(of(fedcoe, "cold"), split.strangers) - plain
    finally:
        cluster_gates.MI_HANDICAP, cluster_gates.MI_SLOPE = before  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
        tasks = {name: [pool.submit(gains, name, seed, args.data) for seed in seeds] for name in SPLITS}
        by_split = {name: [one.result() for one in asked] for name, asked in tasks.items()}
    print(f"| handicap | slope | {' | '.join(SPLITS)} | least slack |")
    print(f"|{' --- |' * (len(SPLITS) + 3)}")
    for handicap, slope in product(HANDICAPS, SLOPES):
        means = {name: mean(one[handicap, slope] for one in found) for name, found in by_split.items()}
        slack = min(at - SPLITS[name][-1] for name, at in means.items())
        cells = " | ".join(f"{at:+.2f}" for at in means.values())
        print(f"| {handicap:g} | {slope:g} | {cells} | {slack:+.2f} |")


if __name__ == "__main__":
    main()
