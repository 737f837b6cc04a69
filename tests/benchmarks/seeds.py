"""Means over seeds of the demonstration: ``python -m tests.benchmarks.seeds [--seeds 0,1,2,3,4] [--silos 8] [--json]``.

Each seed is one ``fed simulate``: the round code of production, masks, floors and the weight rule on, and the baselines
on the same split. Run ids are made from the seed, so that first blocks, and figures, are the same each time.
Differences are paired by seed; SE is the standard error of their mean. Last line with --json: one object
{seeds, rows[], means{}, differences{name: {mean, se, values[]}}}.
"""

from __future__ import annotations

import argparse
import json
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from jobs.demo.up import Options, simulate
from tests.plain import fixed_run_id

PAIRS = {
    "global - fedavg": (("global",), ("fedavg", "global")),
    "global - equal parameters": (("global",), ("fedavg_equal_params", "global")),
    "cold - fedavg": (("cold",), ("fedavg", "cold")),
    "cold - equal parameters": (("cold",), ("fedavg_equal_params", "cold")),
    "personal - local": (("personal",), ("local", "personal")),
}


class Silent:
    """A view that shows nothing."""

    def say(self, text: str) -> None: ...

    def phase(self, *_: object) -> None: ...

    def done(self) -> None: ...

    def result(self, *_: object) -> None: ...


def at(accuracy: dict[str, Any], path: tuple[str, ...]) -> float:
    value: Any = accuracy
    for key in path:
        value = value[key]
    return float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--silos", type=int, default=8)
    parser.add_argument("--job", default="fedcoe-digits")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows = []
    for seed in seeds:
        with TemporaryDirectory(prefix="consilium-seeds-") as runs, fixed_run_id(sha256(b"seed %d" % seed).digest()):
            report = simulate(Options(job=args.job, silos=args.silos, seed=seed, runs=Path(runs)), Silent())
        rows.append({"seed": seed, **report["accuracy"]})
        print(f"seed {seed}: {json.dumps(report['accuracy'])}", flush=True)
    paths = [("global",), ("personal",), ("cold",), *[pair for both in PAIRS.values() for pair in both[1:]]]
    means = {".".join(path): round(mean(at(row, path) for row in rows), 2) for path in dict.fromkeys(paths)}
    differences = {}
    for name, (ours, theirs) in PAIRS.items():
        values = [round(at(row, ours) - at(row, theirs), 2) for row in rows]
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        differences[name] = {"mean": round(mean(values), 2), "se": round(error, 2), "values": values}
        print(f"{name:<28} {mean(values):+5.1f}  (SE {error:.1f})  {values}")
    if args.json:
        print(json.dumps({"seeds": seeds, "rows": rows, "means": means, "differences": differences}))


if __name__ == "__main__":
    main()
