"""The methods, measured: ``python tests/benchmarks/methods.py [--suite test|full] [--data DIR] [--json]``.

    --suite test   digits of scikit-learn, the first seeds, the baselines that bars ask for (default);
                   ``full``: all cases, seeds and baselines (``make bench-methods``)
    --data DIR     folder of the data that no package brings (default ../shared/data)
    --only CASE    the case of this name, and its bars; again for more cases
    --seeds A,B,C  these seeds instead of the suite's
    --jobs N       processes (default: one a core)
    --page PAGE    write the tables to PAGE
    --json         last line: {"suite", "seconds", "cases": {case: {figure: {mean, se, values}}},
                   "bars": {name: {value, se, target, pass, rule, values, missed}}}

A case has seeds 0 to 4, a few have fewer; all methods of a case share its split and its seed, so their differences are
paired.
A federated figure comes from ``method_federation.federate``: production's rounds, rings, masks, floors and weight rule.
Accuracies are per cent of test rows. Exit code 1 if a bar is missed without a reason that is known (``Bar.missed``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

from tests.benchmarks.study import Bar, Case, Figures, Setting, Verdict, judge, standard_error

#: Modules with CASES and BARS; a new method adds its own here.
STUDIES = ("study_masks", "study_fedcoe", "study_never_worse", "study_flex_moe", "study_flex_language", "study_metamoe")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True, slots=True)
class Results:
    """Case → figures, one a seed; and the bars of those cases."""

    figures: Mapping[str, Sequence[Figures]]
    bars: Sequence[Bar]

    def verdicts(self) -> dict[str, Verdict]:
        return {bar.name: judge(bar, self.figures[bar.case]) for bar in self.bars}


def cases(suite: str, only: Sequence[str] = ()) -> list[tuple[str, Case]]:
    """(study, case) of a suite, or those that ``only`` names. SystemExit for a name that the suite does not have."""
    found = [(study, case) for study in STUDIES for case in _study(study).CASES if suite in case.suites]
    names = [case.name for _, case in found]
    if unknown := [name for name in only if name not in names]:
        raise SystemExit(f"Suite {suite} has no case {unknown[0]!r}. It has: {'; '.join(names)}.")
    return [(study, case) for study, case in found if not only or case.name in only]


def tasks(suite: str, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[tuple[str, str, int]]:
    """(study, name of the case, seed) of a suite. ``seeds``: instead of each case's own."""
    return [(study, case.name, seed) for study, case in cases(suite, only) for seed in seeds or case.seeds_in(suite)]


def run(
    suite: str,
    setting: Setting,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    jobs: int = 1,
    say: Any = lambda text: None,
) -> Results:
    """The cases of a suite under the suite's seeds, in ``jobs`` processes. ``only``, ``seeds``: as in ``tasks``."""
    wanted = tasks(suite, only, seeds)
    figures: dict[str, list[Figures]] = {name: [] for _, name, _ in wanted}
    # One torch thread a process, and no fork of a process that has threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for (_, name, seed), found in zip(wanted, pool.map(_task, wanted, [setting] * len(wanted)), strict=True):
            figures[name].append(found)
            say(f"{name}, seed {seed}: {found['seconds']:.0f} s")
    bars = [bar for study in STUDIES for bar in _study(study).BARS if bar.case in figures]
    return Results(figures, bars)


def _task(task: tuple[str, str, int], setting: Setting) -> Figures:
    study, name, seed = task
    (case,) = (case for case in _study(study).CASES if case.name == name)
    began = time.monotonic()
    return {**case.run(seed, setting), "seconds": time.monotonic() - began}


def _study(name: str) -> Any:
    return import_module(f"tests.benchmarks.{name}")


# --- what people read ---------------------------------------------------------------------------------------------


def summary(figures: Sequence[Figures]) -> dict[str, tuple[float, float]]:
    """Figure → (mean, standard error) over seeds."""
    names = figures[0]
    return {name: (mean(f[name] for f in figures), standard_error([f[name] for f in figures])) for name in names}


def case_table(name: str, figures: Sequence[Figures]) -> str:
    """Methods down, figures across; figures are named ``method.figure``."""
    found = summary(figures)
    methods = list(dict.fromkeys(key.split(".", 1)[0] for key in found if "." in key))
    columns = list(dict.fromkeys(key.split(".", 1)[1] for key in found if "." in key))
    lines = [["method", *columns], ["---"] * (1 + len(columns))]
    for method in methods:
        cells = [found.get(f"{method}.{column}") for column in columns]
        lines.append(
            [
                method,
                *("" if cell is None else _cell(column, *cell) for column, cell in zip(columns, cells, strict=True)),
            ]
        )
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {name}\n\n{rows}\n"


def _cell(column: str, at: float, error: float) -> str:
    if column in ("bytes_round", "seconds"):
        return f"{at:,.0f}" if at >= 100 else f"{at:.1f}"
    return f"{at:.2f}" if abs(at) < 2 else f"{at:.1f} ± {error:.1f}"


def bars_table(results: Results) -> str:
    """Every bar, held or missed."""
    lines = ["| bar | rule | target | mean | SE | |", "| --- | --- | --- | --- | --- | --- |"]
    for bar, verdict in zip(results.bars, results.verdicts().values(), strict=True):
        held = "held" if verdict.holds else "**missed**"
        lines.append(f"| {bar.name} | {bar.rule} | {bar.target:g} | {verdict.mean:.2f} | {verdict.se:.2f} | {held} |")
    missed = [
        textwrap.fill(f"- {bar.name}: {bar.missed}.", 120, subsequent_indent="  ") for bar in results.bars if bar.missed
    ]
    return "\n".join([*lines, "", *missed, ""]) if missed else "\n".join([*lines, ""])


PAGE = """# The methods, measured

Written by the command below; every figure on this page comes from that one run.

```sh
python tests/benchmarks/methods.py --suite {suite} --data DIR --page docs/methods/measured.md
```

Accuracies are per cent of test rows: mean ± standard error over {seeds}. `global`: every silo's test rows under
published state; `personal`: with what the silo kept; `worst`: the silo that `personal` serves worst; `cold`: newcomers,
without labels or training; `+em`: the same after label-shift EM. `bytes_round`: a silo's upload in a training step.
`seconds`: processor time of the federation. Splits and baselines: `tests/benchmarks/method_splits.py`,
`tests/benchmarks/method_baselines.py`.

## Bars

{bars}
## Figures

{cases}"""


def page(suite: str, results: Results) -> str:
    tables = [case_table(name, figures) for name, figures in results.figures.items()]
    seeds = "the first seeds of a case" if suite == "test" else "seeds 0 to 4"
    return PAGE.format(suite=suite, seeds=seeds, bars=bars_table(results), cases="\n".join(tables))


def as_json(suite: str, results: Results, seconds: float) -> str:
    """The last line of --json."""
    found: dict[str, Any] = {}
    for name, figures in results.figures.items():
        found[name] = {
            key: {"mean": round(at, 3), "se": round(error, 3), "values": [round(f[key], 3) for f in figures]}
            for key, (at, error) in summary(figures).items()
        }
    bars = {
        bar.name: {
            "value": round(verdict.mean, 3),
            "se": round(verdict.se, 3),
            "target": bar.target,
            "pass": verdict.holds,
            "rule": bar.rule.value,
            "values": [round(value, 3) for value in verdict.values],
            "missed": bar.missed,
        }
        for bar, verdict in zip(results.bars, results.verdicts().values(), strict=True)
    }
    return json.dumps({"suite": suite, "seconds": round(seconds, 1), "cases": found, "bars": bars})


def unexplained(results: Results) -> list[str]:
    """Bars that are missed, with no reason on record."""
    verdicts: Iterable[tuple[Bar, Verdict]] = zip(results.bars, results.verdicts().values(), strict=True)
    return [bar.name for bar, verdict in verdicts if not verdict.holds and not bar.missed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("test", "full"), default="test")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", action="append", default=[], metavar="CASE")
    parser.add_argument("--seeds", default="", metavar="A,B,C")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    began = time.monotonic()
    setting = Setting(full=args.suite == "full", data=args.data)
    seeds = [int(seed) for seed in args.seeds.split(",") if seed]
    results = run(
        args.suite, setting, only=args.only, seeds=seeds, jobs=args.jobs, say=lambda text: print(text, flush=True)
    )
    for name, figures in results.figures.items():
        print("\n" + case_table(name, figures))
    print(bars_table(results))
    if args.page is not None:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(page(args.suite, results))
    if args.json:
        print(as_json(args.suite, results, time.monotonic() - began))
    return 1 if unexplained(results) else 0


if __name__ == "__main__":
    sys.exit(main())
