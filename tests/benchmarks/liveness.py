"""How many steps of a run go through while silos drop out: under the rule of atoms, no rule, and the rule before it.

    python -m tests.benchmarks.liveness [--runs 100] [--steps 100] [--seed 0] [--json]

The model is that of ``tests.benchmarks.liveness_model``. Three tables: the rules; the protocol as built and
changed; static figures in ten runs on the same data, for a quarter as many data sets as ``--runs``. Last line with
--json: one object {setting, rows[], variants[], static[], missed[]}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from statistics import mean, stdev

import numpy as np

from tests.benchmarks.liveness_model import FLOORS, TAG, End, Records, Rule, Run, Setting, threshold, weather

#: Per cent of the steps that have to go through, by p; for all sizes but 4.
TARGETS = {0.01: 99.0, 0.05: 95.0}
SIZES = (4, 8, 16, 64)
#: Which of the runs on the same data are shown.
STATIC_RUNS = (1, 2, 3, 10)


@dataclass(frozen=True, slots=True)
class Row:
    """Per cent of all steps of all runs; ``se``: of the mean over the runs. ``broken``: per cent of the runs in which
    a step was lost. ``stall``: the longest of all runs, in steps."""

    setting: Setting
    through: float
    se: float
    lost: float
    void: float
    shut: float
    refused: float
    figures: float
    broken: float
    stall: int


def measure(setting: Setting, runs: int, seed: int) -> Row:
    """Each run on data of its own. Equal seeds drop the same silos in the same places, whatever the rule."""
    rng = np.random.default_rng([seed, setting.silos])
    tallies = [Run(setting, Records(setting.silos)).tally(weather(setting, rng)) for _ in range(runs)]
    share = {end: 100 * mean(tally.ends[end] / setting.steps for tally in tallies) for end in End}
    through = [100 * tally.ends[End.THROUGH] / setting.steps for tally in tallies]
    return Row(
        setting=setting,
        through=share[End.THROUGH],
        se=stdev(through) / sqrt(runs) if runs > 1 else float("nan"),
        lost=share[End.LOST],
        void=share[End.VOID],
        shut=share[End.SHUT],
        refused=share[End.REFUSED],
        figures=100 * mean(tally.figures / max(1, tally.ends[End.THROUGH]) for tally in tallies),
        broken=100 * mean(tally.ends[End.LOST] > 0 for tally in tallies),
        stall=max(tally.stall for tally in tallies),
    )


@dataclass(frozen=True, slots=True)
class Static:
    """Static figures in the ``run``-th run on the same data: per cent of the runs in which they opened, and in which
    they opened in the first step."""

    setting: Setting
    run: int
    opened: float
    at_once: float


def measure_static(setting: Setting, series: int, seed: int, runs: Sequence[int] = STATIC_RUNS) -> list[Static]:
    """``series``: how many data sets, each with as many runs as the last of ``runs``."""
    rng = np.random.default_rng([seed, setting.silos, 1])
    at: dict[int, list[int | None]] = {run: [] for run in runs}
    for _ in range(series):
        static = Records(setting.silos)
        for run in range(1, max(runs) + 1):
            found = Run(setting, static).static_opens(weather(setting, rng))
            if run in at:
                at[run].append(found)
    share = lambda hits: 100 * mean(hits)  # noqa: E731
    return [
        Static(setting, run, share([k is not None for k in found]), share([k == 0 for k in found]))
        for run, found in at.items()
    ]


def rules(base: Setting) -> dict[str, Setting]:
    """The protocol before decision 23; the one as built, without the rule of atoms and with it. *Died*: who misses a
    request does not answer a second time."""
    before = replace(base, rule=Rule.LAST, again=(), n_min=threshold(base.silos), told=False, fitted=False)
    none = replace(base, rule=Rule.NONE)
    return {
        "last release": before,
        "no rule": none,
        "no rule, died": replace(none, died=True),
        "atoms": base,
        "atoms, died": replace(base, died=True),
    }


def variants(base: Setting) -> dict[str, Setting]:
    """The protocol as built, with changes."""
    no_tag = replace(base, again=tuple(phase for phase in base.again if phase != TAG))
    return {
        "tag not asked again": no_tag,
        "nor remembered": replace(no_tag, remembers=False),
        "nor remembered, died": replace(no_tag, remembers=False, died=True),
        "n_min of before, untold": replace(base, told=False, n_min=threshold(base.silos)),
        "five attempts": replace(base, attempts=5),
        "cohort not fitted": replace(base, fitted=False),
        "each phase asked twice": replace(base, asks=2),
    }


def misses(rows: Sequence[tuple[str, Row]]) -> list[str]:
    """The targets that the protocol as built misses, and why."""
    by_name = {(row.setting.silos, row.setting.drop, name): row for name, row in rows}
    found = []
    for (silos, drop, name), row in by_name.items():
        if name.startswith("atoms") and silos != 4 and row.through < (target := TARGETS[drop]):
            without = by_name[silos, drop, name.replace("atoms", "no rule")]
            reasons = ["too few silos are left to unmask"] if without.through < target else []
            blocked = row.lost + row.refused - without.lost
            reasons += ["the sum of a shut lane is in the way of the next"] if blocked >= 0.1 else []
            found.append(
                f"{name}, n = {silos}, p = {drop:.0%}: {row.through:.1f} % of {target:.0f} %, without a rule "
                f"{without.through:.1f} %: " + " and ".join(reasons)
            )
    return found


# --- the command -----------------------------------------------------------------------------------------------------

HEAD = "through    ±SE   lost   void   shut refused figures broken stall"


def line(row: Row) -> str:
    parts = (row.lost, row.void, row.shut, row.refused, row.figures)
    widths = (6, 6, 6, 7, 7)
    middle = " ".join(f"{value:{width}.2f}" for value, width in zip(parts, widths, strict=True))
    return f"{row.through:7.2f} {row.se:6.2f} {middle} {row.broken:6.1f} {row.stall:5}"


def plain(row: Row | Static) -> dict[str, object]:
    return {**asdict(row.setting), **{key: value for key, value in asdict(row).items() if key != "setting"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    print(f"{args.runs} runs of {args.steps} steps; c = {FLOORS.colluders}, m = {FLOORS.honest}; per cent of the steps")
    print(f"   p   n  rule                          {HEAD}")
    bases = [Setting(silos=silos, drop=drop, steps=args.steps) for drop in TARGETS for silos in SIZES]
    rows, changed = list[tuple[str, Row]](), list[tuple[str, Row]]()
    for base in bases:
        for name, setting in rules(base).items():
            rows.append((name, measure(setting, args.runs, args.seed)))
            print(f"{base.drop:4.0%} {base.silos:3}  {name:<29} {line(rows[-1][1])}", flush=True)
    print(f"\n   p   n  the rule of atoms             {HEAD}")
    for base in (base for base in bases if base.silos < 64):
        for name, setting in variants(base).items():
            changed.append((name, measure(setting, args.runs, args.seed)))
            print(f"{base.drop:4.0%} {base.silos:3}  {name:<29} {line(changed[-1][1])}", flush=True)
    print("\nStatic figures: per cent of the runs on the same data in which they open (in the first step)")
    print("   p   n " + "".join(f"{f'run {run}':>16}" for run in STATIC_RUNS))
    static = []
    for base in bases:
        static += (found := measure_static(base, max(1, args.runs // 4), args.seed))
        cells = "".join(f"{f'{one.opened:.0f} ({one.at_once:.0f})':>16}" for one in found)
        print(f"{base.drop:4.0%} {base.silos:3} {cells}", flush=True)
    print("\nTargets missed: " + ("; ".join(missed := misses(rows)) or "none"))
    if args.json:
        result = {
            "setting": {"runs": args.runs, "steps": args.steps, "seed": args.seed, "floors": asdict(FLOORS)},
            "rows": [{"name": name, **plain(row)} for name, row in rows],
            "variants": [{"name": name, **plain(row)} for name, row in changed],
            "static": [plain(one) for one in static],
            "missed": missed,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
