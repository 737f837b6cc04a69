"""How many private rows an aggregator or a member reads by making the model a trap, with and without proven sums.

    python -m tests.benchmarks.trap [--jobs fedavg-digits,…] [--seeds 5,6,7] [--conditions honest,…] [--json]

The jobs are the catalogue's, on the digits of the demonstration; n = 8, c = 1, m = 2. The attack is that of
``tests.benchmarks.trap_model``; a better one would read more. Counted over a whole run are different private training
rows that it claims to the bit and with their labels (``read``); those of them that stood in a sum alone, each pixel
within 1e-3 of the features' range (``alone``); and claims that are no honest silo's row, or have another label
(``wrong``). Conditions:

- honest: true sums only, and the same search for rows in them.
- unchecked: no colluder; silos apply what they are told, as under consilium/1.
- proven: no colluder; the same lies in runs of the real agents. ``refused``: silos that declined with SUM_NOT_PROVEN.
- colluder: silo-8 uploads zeros and signs whatever tags are wanted. Each announced sum passes
  ``crypto.proof.check_bounds``. The clip is the job's; in colluder-2 twice the largest value of an honest update of the
  same job; in colluder-0.1 a tenth of that value.
- member: no sum is false. silo-8 uploads the trap itself, and reads the sums that all silos get: the aggregator takes
  no part in it.

All but *proven* run without masks (``tests.plain``), on the same integers. ``accuracy``: of the job with this clip if
nobody lies, per cent. Last line with --json: one object {rows[]}.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from crypto.errors import SumNotProven
from tests.benchmarks.trap_runs import LIMITS, SILOS, Case, against_agents, honest_run, without_masks


@dataclass(frozen=True, slots=True)
class Condition:
    """``bounded``: the adversary keeps within ``check_bounds``. ``clip``: in largest values of honest updates, or None
    for the job's."""

    name: str
    lies: bool = True
    colluder: bool = False
    bounded: bool = False
    uploads: bool = False
    agents: bool = False
    clip: float | None = None


CONDITIONS = (
    Condition("honest", lies=False),
    Condition("unchecked"),
    Condition("proven", agents=True, bounded=True),
    Condition("colluder", colluder=True, bounded=True),
    Condition("colluder-2", colluder=True, bounded=True, clip=2.0),
    Condition("colluder-0.1", colluder=True, bounded=True, clip=0.1),
    Condition("member", colluder=True, bounded=True, uploads=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One run. ``of``: the honest silos' training rows."""

    job: str
    condition: str
    seed: int
    clip: float
    read: int
    alone: int
    wrong: int
    of: int
    refused: int
    accuracy: float


def measure(job: str, seed: int, conditions: Sequence[Condition] = CONDITIONS) -> list[Row]:
    base, rows = Case.of(job, seed), []
    largest, accuracy = honest_run(base)
    for condition in conditions:
        case, reached = base, accuracy
        if condition.clip is not None:
            case = base.clipped(condition.clip * largest)
            _, reached = honest_run(case)
        adversary = case.adversary(bounded=condition.bounded, lies=condition.lies, uploads=condition.uploads)
        refused = 0
        if condition.agents:
            with TemporaryDirectory(prefix="consilium-trap-") as folder:
                codes, _ = against_agents(case, adversary, Path(folder) / "federation")
            refused = sum(given == {SumNotProven.code} for given in codes.values())
        else:
            without_masks(case, adversary, colluder=condition.colluder)
        counts = case.score(adversary, SILOS[:-1] if condition.colluder else SILOS)
        rows.append(Row(job, condition.name, seed, case.clip, **counts, refused=refused, accuracy=reached))
    return rows


HEAD = "job            condition      clip   read  alone  wrong    of refused accuracy"


def line(rows: Sequence[Row]) -> str:
    """The means over the seeds of one condition."""
    names = ("clip", "read", "alone", "wrong", "of", "refused", "accuracy")
    m = {name: mean(getattr(row, name) for row in rows) for name in names}
    return (
        f"{rows[0].job:<14} {rows[0].condition:<12} {m['clip']:6.2f} {m['read']:6.1f} {m['alone']:6.1f} "
        f"{m['wrong']:6.1f} {m['of']:5.0f} {m['refused']:7.1f} {m['accuracy']:8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="fedavg-digits,fedcoe-digits")
    parser.add_argument("--seeds", default="5,6,7")
    parser.add_argument("--conditions", default=",".join(one.name for one in CONDITIONS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    conditions = [one for one in CONDITIONS if one.name in args.conditions.split(",")]
    logging.getLogger("consilium").setLevel(logging.CRITICAL)  # refusals are counted, not printed
    print(f"n = {len(SILOS)}, c = {LIMITS.colluders}, m = {LIMITS.honest}; means over the seeds {args.seeds}")
    print(HEAD)
    everything = []
    for job in args.jobs.split(","):
        rows = [row for seed in args.seeds.split(",") for row in measure(job, int(seed), conditions)]
        for condition in conditions:
            print(line([row for row in rows if row.condition == condition.name]), flush=True)
        everything += rows
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in everything]}))


if __name__ == "__main__":
    main()
