"""The shapes of the report: curves, timeline, weights of the silos, and a lane before and after its mask.

Shapes are computed here, in squares and boxes of their own units; colours are the template's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median
from typing import Any
from urllib.parse import unquote

import numpy as np

from aggregator.home import RunFolder
from aggregator.ledger.records import Refusal
from aggregator.protocols.interface import Lane
from crypto.messages import STEP_PHASES
from crypto.plan import Scope
from jobs.demo.report_view import NONE, RunView, is_figure, per_cent
from jobs.runtime.mask_probe import BINS, Histogram, Probe, bin_words, chi_square
from silo_agent.methods import contextual

#: Rows of the timeline; of a longer run the first, the last and the eventful steps are drawn.
ROWS = 60
_FIRST = 10


def curve(run: RunView, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Lines in a square of 1000 × 1000, y down; ticks in per cent of the width."""
    scored = run.scored()
    numbers = [k for k, _ in scored] or [0]
    first, width = numbers[0], max(numbers[-1] - numbers[0], 1)
    names = {name for _, found in scored for name in found}
    lines = []
    for name in sorted(names, key=lambda name: (not name.startswith("global"), name)):
        mine = [(k, found[name]) for k, found in scored if name in found]
        points = [(1000 * (k - first) / width, 1000 - 1000 * part / whole) for k, (part, whole) in mine]
        part, whole = mine[-1][1]
        label = name.removesuffix("accuracy").removesuffix(".") or "accuracy"
        lines.append(
            {
                "label": f"{label} (contextual)" if label == "global" and contextual(run.plan.method) else label,
                "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
                "dots": " ".join(f"M{x:.1f} {y:.1f}h0" for x, y in points),
                "last": per_cent(100 * part / whole),
                "single": len(points) == 1,
            }
        )
    wanted = [first + width * quarter / 4 for quarter in range(5)]
    ticks = dict.fromkeys(min(numbers, key=lambda k, at=at: abs(k - at)) for at in wanted)  # type: ignore[misc]
    base = accuracy.get("fedavg", {}).get("global")
    return {
        "lines": lines,
        "ticks": [(100 * (k - first) / width, run.plan.steps[k].name) for k in ticks],
        "base": round(1000 - 10 * base, 1) if is_figure(base) else None,
        "base_label": per_cent(base),
    }


def timeline(run: RunView) -> dict[str, Any]:
    """A row per opened step: its phases as widths in per cent of the longest step, and what went wrong in it."""
    times = {k: {phase: record.phase_ms.get(phase, 0) for phase in STEP_PHASES} for k, record in run.closed.items()}
    longest = max((sum(spent.values()) for spent in times.values()), default=0) or 1
    rows: list[dict[str, Any]] = []
    for k in sorted({entry.record.k for entry in run.record.opened}):
        spent = times.get(k, {})
        bars = [{"phase": phase, "ms": ms, "wide": 100 * ms / longest} for phase, ms in spent.items() if ms]
        ms = sum(spent.values()) if spent else None
        rows.append({"k": k, "name": run.plan.steps[k].name, "bars": bars, "ms": ms, "notes": _notes(run, k)})
    kept = _shortened(rows)
    typical = {phase: [r.phase_ms[phase] for r in run.closed.values() if phase in r.phase_ms] for phase in STEP_PHASES}
    return {
        "rows": kept,
        "left_out": len(rows) - len(kept),
        "typical": [(phase, f"{median(values):,.0f}") for phase, values in typical.items() if values],
        "total": f"{sum(row['ms'] or 0 for row in rows) / 1000:,.1f}",
    }


def _notes(run: RunView, k: int) -> list[tuple[str, str]]:
    """(kind, text) of everything about a step that is not as it should be."""
    notes = []
    closed, void = run.closed.get(k), run.void.get(k)
    if closed is None:
        notes.append(("void", f"void: {void.reason} in {void.phase}" if void else "not finished"))
    elif closed.attempt:
        notes.append(("plain", f"attempt {closed.attempt + 1}"))
    for entry in run.record.absences:
        record = entry.record
        if record.k == k and isinstance(record, Refusal):
            notes.append(("refused", f"{record.silo} refused in {record.phase}: {record.code}"))
        elif record.k == k:
            notes.append(("lost", f"{record.silo} lost in {record.phase}"))
    if closed is not None and closed.lanes_shut:
        notes.append(("shut", f"shut: {', '.join(closed.lanes_shut)}"))
    if closed is not None and (missing := run.withheld.get(closed.name)):
        notes.append(("withheld", f"figures withheld by the silos: {', '.join(missing)}"))
    return notes


def _shortened(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= ROWS:
        return rows
    eventful = [row["k"] for row in rows[_FIRST:] if row["notes"]][: ROWS // 2]
    keep = {row["k"] for row in rows[:_FIRST]} | set(eventful)
    keep |= {row["k"] for row in rows[-(ROWS - len(keep)) :]}
    return [row for row in rows if row["k"] in keep]


# --- what the silos saw ------------------------------------------------------------------------------------------


def heat(run: RunView, probes: Mapping[str, Probe]) -> dict[str, Any] | None:
    """Weights of each silo in each lane of the last training step, beside the sums that everyone saw open."""
    trained = run.trained()
    if not probes or not trained:
        return None
    k = trained[-1]
    step, opened = run.plan.steps[k], run.closed[k].slots
    lanes = run.plan.lanes_of(step)
    rows, steady = [], True
    for silo in run.charter.silos:
        history = {number: weights for number, _, weights in (probes[silo].weights if silo in probes else ())}
        mine = history.get(k) if silo in run.closed[k].survivors else None
        steady &= mine is None or all(weights == mine for number, weights in history.items() if number in trained)
        cells = [_cell(None if mine is None else mine.get(lane.name, 0), lane) for lane in lanes]
        rows.append({"silo": silo, "cells": cells})
    return {
        "step": step.name,
        "lanes": [(lane.name, _who(lane)) for lane in lanes],
        "rows": rows,
        "sums": [(opened.get(lane.weight_figure, NONE), opened.get(lane.contributors_figure, NONE)) for lane in lanes],
        "steady": steady and len(trained) > 1,
        "trained": len(trained),
    }


def _cell(weight: int | None, lane: Lane) -> dict[str, Any]:
    """``level``: 0 for nothing, 1…4 for quarters of the lane's largest weight."""
    if weight is None:
        return {"text": NONE, "level": "none"}
    return {"text": str(weight) if weight else "·", "level": -(-4 * weight // lane.grid[-1])}


def _who(lane: Lane) -> str:
    if lane.scope == Scope.HELD:
        return "hidden holders" if lane.hidden else "visible holders"
    return "every silo" if lane.scope == Scope.ALL else "named silos"


def picture(run: RunView, probes: Mapping[str, Probe], folder: RunFolder) -> dict[str, Any] | None:
    """One silo's lane before and after masking, and as the aggregator stored it. None: neither probe nor upload."""
    drawn = _drawn(run, probes)
    silo, shown = drawn if drawn else ("", None)
    if shown is None:
        kept = sorted(folder.uploads_folder.glob("*/*/*.u32"), key=lambda path: (-path.stat().st_size, path))
        path = next((path for path in kept if path.parent.name in run.charter.silos), None)
        if path is None:
            return None
        silo, k, lane = path.parent.name, int(path.parts[-3]), unquote(path.stem)
    else:
        k, lane = shown.k, shown.lane
        path = folder.upload_path(k, silo, lane)
    stored = np.memmap(path, dtype="<u4", mode="r") if path.exists() else None
    after = shown.after if shown is not None else tuple(bin_words(stored)) if stored is not None else ()
    words = sum(after)
    return {
        "silo": silo,
        "step": run.plan.steps[k].name,
        "lane": lane,
        "words": words,
        "probed": shown is not None,
        "panels": _panels(shown, after),
        "chi": f"{chi_square(after):.1f}",
        "freedom": BINS - 1,
        "spread": f"{sqrt(2 * (BINS - 1)):.0f}",
        "hex": stored[:8].tobytes().hex(" ", 4).split(" ") if stored is not None else None,
        "same": stored is not None and tuple(bin_words(stored)) == after,
        "others": _uniformity(probes[silo]) if silo in probes else [],
    }


def _drawn(run: RunView, probes: Mapping[str, Probe]) -> tuple[str, Histogram] | None:
    """The first silo's largest lane that it contributed to, earliest step; a held lane before one that all hold."""
    for silo, probe in probes.items():
        weights = {k: lanes for k, _, lanes in probe.weights}
        held = {lane.name for lane in run.plan.lanes if lane.scope == Scope.HELD}
        able = [one for one in probe.histograms if one.k < len(run.plan.steps) and weights.get(one.k, {}).get(one.lane)]
        if able:
            return silo, min(able, key=lambda one: (one.k, one.lane not in held, -one.words, one.lane))
    return None


def _panels(shown: Histogram | None, after: Sequence[int]) -> list[dict[str, Any]]:
    panels = []
    if shown is not None:
        note = f"{shown.outside:,} of {shown.words:,} words lie outside" if shown.outside else "all words lie inside"
        panels.append(
            _panel("before the mask, zoomed", shown.zoom, f"2{_raised(shown.reach.bit_length() - 1)}", note, "before")
        )
        filled = sum(map(bool, shown.before))
        near = f"{filled} of {BINS} bins {'holds' if filled == 1 else 'hold'} every word"
        panels.append(_panel("before the mask, the whole range", shown.before, "2³¹", near, "before"))
    panels.append(_panel("after the mask, the whole range", after, "2³¹", "dashed: equal counts", "after"))
    return panels


def _panel(title: str, counts: Sequence[int], reach: str, note: str, kind: str) -> dict[str, Any]:
    """A staircase in a box of 64 × 100, y down; ``mean``: where equal counts would lie."""
    mean = sum(counts) / len(counts)
    top = max(*counts, 1.5 * mean, 1)
    steps = "".join(f"V{100 - 100 * count / top:.2f}H{at + 1}" for at, count in enumerate(counts))
    level = round(100 - 100 * mean / top, 2) if kind == "after" else None
    return {"title": title, "path": f"M0 100{steps}V100Z", "mean": level, "reach": reach, "note": note, "kind": kind}


def _uniformity(probe: Probe) -> list[tuple[str, str, str, str, str, str]]:
    """(step, lane, words, the silo's weight, χ² before, χ² after) of all that the probe binned."""
    weights = {k: lanes for k, _, lanes in probe.weights}
    return [
        (
            one.step,
            one.lane,
            f"{one.words:,}",
            str(weights.get(one.k, {}).get(one.lane, NONE)),
            f"{chi_square(one.before):,.0f}",
            f"{chi_square(one.after):.1f}",
        )
        for one in sorted(probe.histograms, key=lambda one: (one.k, one.lane))
    ]


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
