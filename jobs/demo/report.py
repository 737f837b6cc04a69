"""report.html: one run on one page that needs nothing else: no network, no script, no font, no image file.

Drawn from the aggregator's ledger, every line of it checked first; from the silos' own probes where this machine owns
their folders (see ``probe``); and from the accuracy table of the caller. All text goes through the template's
escaping: names of jobs, silos and lanes are other people's. Shapes are computed here, colours are the template's.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote

import jinja2
import numpy as np

from aggregator.ledger.format import GENESIS, Entry, ledger_path, ratios, read, verify
from aggregator.ledger.records import Kind
from aggregator.rounds.storage import run_folder
from crypto.charter import Charter
from crypto.errors import EvidenceError, FederationError
from crypto.home import Home
from crypto.keys import PublicIdentity
from crypto.messages import STEP_PHASES, Closing
from crypto.plan import Lane, Plan, Scope, Step
from jobs.demo.mask_probe import BINS, Histogram, Probe, bin_words, chi_square, read_probe
from silo_agent.home import SiloHome
from silo_agent.methods import contextual, display_name

BASELINES = (("fedavg", "FedAvg"), ("fedavg_equal_params", "FedAvg, equal parameters"), ("local", "Local only"))
MODES = ("global", "personal", "cold")
NONE = "–"

#: Rows of the timeline; of a longer run the first, the last and the eventful steps are drawn.
ROWS = 60
_FIRST = 10


def write_report(
    federation: Path, run: str, *, table: Mapping[str, Any] | None = None, out: Path | None = None
) -> Path:
    """Write the report of a run and return its path.

    ``federation``: the folder with ``aggregator/`` and ``silos/``. ``table``: what ``fed up --json`` prints, of which
    ``accuracy`` is read (per cent; what is missing is a dash). ``out``: by default report.html in the run's folder.
    Raises EvidenceError for a run that is not on the ledger and for a ledger or probe that doesn't check.
    """
    home = federation / "aggregator"
    charter = Home(home).charter()
    facts = _facts(ledger_path(home), charter, run)
    probes = {
        silo: probe for silo in charter.silos if (probe := read_probe(SiloHome(federation / "silos" / silo), run))
    }
    folder = run_folder(home, run)
    picture = _picture(facts, probes, folder)
    accuracy = (table or {}).get("accuracy", {})
    view = {
        "facts": facts,
        "title": _title(facts),
        "method": display_name(facts.plan.method),
        "contextual": contextual(facts.plan.method),
        "figures": _figures(facts, accuracy),
        "accuracy": _accuracy(facts, accuracy),
        "curve": _curve(facts, accuracy),
        "timeline": _timeline(facts),
        "heat": _heat(facts, probes),
        "picture": picture,
        "seen": _seen(facts, picture["silo"] if picture else charter.silos[0]),
        "evidence": _evidence(facts),
        "charter": charter,
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates")
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
    path = out or folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.render(view), encoding="utf-8")
    return path


# --- the ledger's facts ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """One run as the ledger tells it. ``closed``: number of the step → its step-closed record."""

    run: str
    charter: Charter
    plan: Plan
    started: Entry
    ended: Entry | None
    closed: Mapping[int, Mapping[str, Any]]
    void: Mapping[int, Mapping[str, Any]]
    opened: Sequence[int]
    absences: Sequence[Entry]
    published: Sequence[Mapping[str, Any]]
    lines: int
    head: str

    @property
    def finished(self) -> Mapping[str, Any] | None:
        return self.ended.record if self.ended is not None and self.ended.kind is Kind.RUN_FINISHED else None

    @property
    def failed(self) -> Mapping[str, Any] | None:
        return self.ended.record if self.ended is not None and self.ended.kind is Kind.RUN_FAILED else None

    @property
    def silos(self) -> tuple[str, ...]:
        return tuple(self.started.record["silos"])

    @property
    def refusals(self) -> list[Mapping[str, Any]]:
        return [entry.record for entry in self.absences if entry.kind is Kind.REFUSAL]

    @property
    def shut(self) -> int:
        return sum(len(record["lanes_shut"]) for record in self.closed.values())

    def trained(self) -> list[int]:
        """Closed steps of the task ``train``; of all with open lanes where none is called so."""
        closed = [k for k in self.closed if self.plan.steps[k].sums]
        return [k for k in closed if self.plan.steps[k].task == "train"] or closed


def _facts(path: Path, charter: Charter, run: str) -> Facts:
    entries = _checked(path, charter.aggregator)
    mine = [entry for entry in entries if entry.record.get("run") == run]
    by_kind = {kind: [entry for entry in mine if entry.kind is kind] for kind in Kind}
    if not by_kind[Kind.RUN_STARTED]:
        runs = sorted({str(entry.record["run"]) for entry in entries if entry.kind is Kind.RUN_STARTED})
        raise EvidenceError(path.name, expected=f"a run {run!r}", found=f"the runs {', '.join(runs) or NONE}")
    started = by_kind[Kind.RUN_STARTED][0]
    ends = by_kind[Kind.RUN_FINISHED] + by_kind[Kind.RUN_FAILED]
    return Facts(
        run=run,
        charter=charter,
        plan=_plan(started.record),
        started=started,
        ended=ends[-1] if ends else None,
        closed={entry.record["k"]: entry.record for entry in by_kind[Kind.STEP_CLOSED]},
        void={entry.record["k"]: entry.record for entry in by_kind[Kind.STEP_VOID]},
        opened=sorted({entry.record["k"] for entry in by_kind[Kind.STEP_OPENED]}),
        absences=[entry for entry in mine if entry.kind in (Kind.REFUSAL, Kind.SILO_LOST)],
        published=[entry.record for entry in by_kind[Kind.MODEL_PUBLISHED]],
        lines=len(entries),
        head=entries[-1].digest,
    )


def _checked(path: Path, key: PublicIdentity) -> list[Entry]:
    """The ledger's whole lines, chain and signatures checked. A line that is being written is left alone."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise EvidenceError(path.name, expected="a ledger", found="no file") from None
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data[: data.rfind(b"\n") + 1])
        entries = list(read(copy))
        verify(copy, key, head=entries[-1].digest if entries else GENESIS)
    return entries


def _plan(started: Mapping[str, Any]) -> Plan:
    try:
        plan = Plan.from_bytes(base64.b64decode(started["plan"], validate=True))
    except (binascii.Error, FederationError) as bad:
        raise EvidenceError("run-started.plan", expected="a plan", found=str(bad)) from bad
    if plan.digest.hex() != started["plan_digest"]:
        raise EvidenceError("run-started.plan_digest", expected=plan.digest.hex(), found=started["plan_digest"])
    return plan


# --- what happened -----------------------------------------------------------------------------------------------


def _title(facts: Facts) -> str:
    codes = Counter(record["code"] for record in facts.refusals)
    refusals = ", ".join(f"{code} × {count}" for code, count in sorted(codes.items()))
    parts = [
        f"{len(facts.closed)} of {len(facts.plan.steps)} steps released",
        f"{len(facts.void) or 'none'} void",
        f"{_count(facts.shut, 'lane')} stayed shut" if facts.shut else "no lane stayed shut",
        _count(sum(codes.values()), "refusal") + f" ({refusals})" if codes else "no refusals",
    ]
    verb = "trained" if facts.finished else "stopped" if facts.failed else "is training"
    sentence = f"{display_name(facts.plan.method)} {verb} at {len(facts.silos)} silos: {', '.join(parts)}."
    if facts.failed:
        phase = f" in phase {facts.failed['phase']}" if facts.failed["phase"] else ""
        sentence += f" It ended with {facts.failed['code']}{phase}."
    return sentence


def _figures(facts: Facts, accuracy: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, unit, label): the four that a reader looks for first."""
    times = [sum(record["phase_ms"].values()) for record in facts.closed.values()]
    remark = " (contextual)" if contextual(facts.plan.method) else ""
    sent = sum(record["upload_bytes"] for record in facts.closed.values())
    return [
        (_percent(_own(facts, accuracy, "global")), "%", f"global accuracy{remark}"),
        (f"{len(facts.closed)}/{len(facts.plan.steps)}", "", "steps released"),
        (f"{median(times):,.0f}" if times else NONE, "ms", "median step"),
        (f"{sent / 1e6:,.2f}", "MB", "masked words, all silos"),
    ]


def _accuracy(facts: Facts, accuracy: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of the table: label, and for each mode the figure and how far it is from FedAvg's."""
    own = {mode: _own(facts, accuracy, mode) for mode in MODES}
    base = accuracy.get("fedavg", {}) if facts.plan.method != "fedavg" else {}
    cells = [(_percent(own[mode]), _apart(own[mode], base.get(mode))) for mode in MODES]
    rows = [(display_name(facts.plan.method), cells)]
    for key, label in BASELINES:
        if key != facts.plan.method:
            rows.append((label, [(_percent(accuracy.get(key, {}).get(mode)), "") for mode in MODES]))
    return rows


def _apart(own: Any, base: Any) -> str:
    return f"{own - base:+.1f}".replace("-", "−") if _known(own) and _known(base) else ""


def _own(facts: Facts, accuracy: Mapping[str, Any], mode: str) -> Any:
    """The run's figure of a mode: the caller's, else the last that the ledger opened."""
    if _known(accuracy.get(mode)):
        return accuracy[mode]
    for _, found in reversed(_scored(facts)):
        if f"{mode}.accuracy" in found:
            part, whole = found[f"{mode}.accuracy"]
            return 100 * part / whole
    return None


def _scored(facts: Facts) -> list[tuple[int, dict[str, tuple[int, int]]]]:
    """(number of the step, name.accuracy → (part, whole)) of the steps that opened any."""
    steps = [(k, ratios(record["slots"])) for k, record in sorted(facts.closed.items())]
    return [(k, found) for k, found in steps if found]


def _curve(facts: Facts, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Lines in a square of 1000 × 1000, y down; ticks in per cent of the width."""
    scored = _scored(facts)
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
                "label": f"{label} (contextual)" if label == "global" and contextual(facts.plan.method) else label,
                "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
                "dots": " ".join(f"M{x:.1f} {y:.1f}h0" for x, y in points),
                "last": _percent(100 * part / whole),
                "single": len(points) == 1,
            }
        )
    wanted = [first + width * quarter / 4 for quarter in range(5)]
    ticks = dict.fromkeys(min(numbers, key=lambda k, at=at: abs(k - at)) for at in wanted)  # type: ignore[misc]
    base = accuracy.get("fedavg", {}).get("global")
    return {
        "lines": lines,
        "ticks": [(100 * (k - first) / width, facts.plan.steps[k].name) for k in ticks],
        "base": round(1000 - 10 * base, 1) if _known(base) else None,
        "base_label": _percent(base),
    }


def _timeline(facts: Facts) -> dict[str, Any]:
    """A row per opened step: its phases as widths in per cent of the longest step, and what went wrong in it."""
    times = {
        k: {phase: record["phase_ms"].get(phase, 0) for phase in STEP_PHASES} for k, record in facts.closed.items()
    }
    longest = max((sum(spent.values()) for spent in times.values()), default=0) or 1
    rows: list[dict[str, Any]] = []
    for k in facts.opened:
        spent = times.get(k, {})
        bars = [{"phase": phase, "ms": ms, "wide": 100 * ms / longest} for phase, ms in spent.items() if ms]
        ms = sum(spent.values()) if spent else None
        rows.append({"k": k, "name": facts.plan.steps[k].name, "bars": bars, "ms": ms, "notes": _notes(facts, k)})
    kept = _shortened(rows)
    typical = {
        phase: [r["phase_ms"][phase] for r in facts.closed.values() if phase in r["phase_ms"]] for phase in STEP_PHASES
    }
    return {
        "rows": kept,
        "left_out": len(rows) - len(kept),
        "typical": [(phase, f"{median(values):,.0f}") for phase, values in typical.items() if values],
        "total": f"{sum(row['ms'] or 0 for row in rows) / 1000:,.1f}",
    }


def _notes(facts: Facts, k: int) -> list[tuple[str, str]]:
    """(kind, text) of everything about a step that is not as it should be."""
    notes = []
    closed, void = facts.closed.get(k), facts.void.get(k)
    if closed is None:
        notes.append(("void", f"void: {void['reason']} in {void['phase']}" if void else "not finished"))
    elif closed.get("attempt"):
        notes.append(("plain", f"attempt {closed['attempt'] + 1}"))
    for entry in facts.absences:
        record = entry.record
        if record["k"] == k and entry.kind is Kind.REFUSAL:
            notes.append(("refused", f"{record['silo']} refused in {record['phase']}: {record['code']}"))
        elif record["k"] == k:
            notes.append(("lost", f"{record['silo']} lost in {record['phase']}"))
    if closed is not None and closed["lanes_shut"]:
        notes.append(("shut", f"shut: {', '.join(closed['lanes_shut'])}"))
    return notes


def _shortened(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= ROWS:
        return rows
    eventful = [row["k"] for row in rows[_FIRST:] if row["notes"]][: ROWS // 2]
    keep = {row["k"] for row in rows[:_FIRST]} | set(eventful)
    keep |= {row["k"] for row in rows[-(ROWS - len(keep)) :]}
    return [row for row in rows if row["k"] in keep]


# --- what the silos saw ------------------------------------------------------------------------------------------


def _heat(facts: Facts, probes: Mapping[str, Probe]) -> dict[str, Any] | None:
    """Weights of each silo in each lane of the last training step, beside the sums that everyone saw open."""
    trained = facts.trained()
    if not probes or not trained:
        return None
    k = trained[-1]
    step, opened = facts.plan.steps[k], facts.closed[k]["slots"]
    lanes = facts.plan.lanes_of(step)
    rows, steady = [], True
    for silo in facts.charter.silos:
        history = {number: weights for number, _, weights in (probes[silo].weights if silo in probes else ())}
        mine = history.get(k) if silo in facts.closed[k]["survivors"] else None
        steady &= mine is None or all(weights == mine for number, weights in history.items() if number in trained)
        cells = [_cell(None if mine is None else mine.get(lane.name, 0), lane) for lane in lanes]
        rows.append({"silo": silo, "cells": cells})
    return {
        "step": step.name,
        "lanes": [(lane.name, _who(lane)) for lane in lanes],
        "rows": rows,
        "sums": [(opened[lane.weight_slot], opened[lane.contributors_slot]) for lane in lanes],
        "steady": steady and len(trained) > 1,
        "trained": len(trained),
    }


def _cell(weight: int | None, lane: Lane) -> dict[str, Any]:
    """``level``: 0 for nothing, 1…4 for quarters of the lane's largest weight."""
    if weight is None:
        return {"text": NONE, "level": "none"}
    return {"text": str(weight) if weight else "·", "level": -(-4 * weight // lane.grid[-1])}


def _who(lane: Lane) -> str:
    if lane.scope is Scope.HELD:
        return "hidden holders" if lane.hidden else "visible holders"
    return "every silo" if lane.scope is Scope.ALL else "named silos"


def _picture(facts: Facts, probes: Mapping[str, Probe], folder: Path) -> dict[str, Any] | None:
    """One silo's lane before and after masking, and as the aggregator stored it. None: neither probe nor upload."""
    drawn = _drawn(facts, probes)
    silo, shown = drawn if drawn else ("", None)
    if shown is None:
        kept = sorted((folder / "uploads").glob("*/*/*.u32"), key=lambda path: (-path.stat().st_size, path))
        path = next((path for path in kept if path.parent.name in facts.charter.silos), None)
        if path is None:
            return None
        silo, k, lane = path.parent.name, int(path.parts[-3]), unquote(path.stem)
    else:
        k, lane = shown.k, shown.lane
        path = folder / "uploads" / f"{k:06d}" / silo / f"{quote(lane, safe='')}.u32"
    stored = np.memmap(path, dtype="<u4", mode="r") if path.exists() else None
    after = shown.after if shown is not None else tuple(bin_words(stored)) if stored is not None else ()
    words = sum(after)
    return {
        "silo": silo,
        "step": facts.plan.steps[k].name,
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


def _drawn(facts: Facts, probes: Mapping[str, Probe]) -> tuple[str, Histogram] | None:
    """The first silo's largest lane that it contributed to, earliest step; a held lane before one that all hold."""
    for silo, probe in probes.items():
        weights = {k: lanes for k, _, lanes in probe.weights}
        held = {lane.name for lane in facts.plan.lanes if lane.scope is Scope.HELD}
        able = [
            one for one in probe.histograms if one.k < len(facts.plan.steps) and weights.get(one.k, {}).get(one.lane)
        ]
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


# --- what the aggregator saw, and what there is to check ---------------------------------------------------------


def _seen(facts: Facts, silo: str) -> dict[str, Any]:
    """The fixed list of what the aggregator learns of one silo, with this run's values."""
    records = list(facts.closed.values())
    present = [record for record in records if silo in record["survivors"]]
    refused = Counter(record["code"] for record in facts.refusals if record["silo"] == silo)
    lost = [
        f"{e.record['name']} ({e.record['phase']})"
        for e in facts.absences
        if e.kind is Kind.SILO_LOST and e.record["silo"] == silo
    ]
    data = list(dict.fromkeys(r["data_commitments"][silo] for r in present if silo in r["data_commitments"]))
    approvals = list(dict.fromkeys(r["approvals"][silo] for r in records if silo in r.get("approvals", {})))
    held = [lane for lane in facts.plan.lanes if lane.scope is Scope.HELD]
    shown = {lane for record in present for lane in record.get("holdings", {}).get(silo, [])}
    visible = [lane.name for lane in held if lane.name in shown]
    hidden = [lane.name for lane in held if lane.hidden]
    sizes = [
        sum(4 * facts.plan.wire_words_of(facts.plan.steps[r["k"]], lane) for lane in _uploads(facts, r, silo))
        for r in present
    ]
    absent = f"away: {', '.join(lost)}" if lost else "never away"
    rows = [
        ("Identity", f"{silo}, agent key {facts.charter.member(silo).agent.fingerprint}", "signs every message"),
        ("Timing", f"in {len(present)} of {len(records)} released steps; {absent}", "when each answer arrives"),
        ("Upload size", f"{sum(sizes):,} bytes of masked words", "follows from the plan, not from the data"),
        (
            "Visible holdings",
            ", ".join(visible) or "none",
            f"hidden, everyone uploads them: {', '.join(hidden)}" if hidden else "",
        ),
        (
            "Refusal codes",
            ", ".join(f"{code} × {n}" for code, n in sorted(refused.items())) or "none",
            "a code, never a reason or a count",
        ),
        ("Data commitment", ", ".join(data) or NONE, "HMAC under a salt that only the silo has"),
        ("Approvals", ", ".join(approvals) or "none on this ledger", "signed by the data owner"),
    ]
    return {"silo": silo, "rows": rows}


def _uploads(facts: Facts, record: Mapping[str, Any], silo: str) -> list[str]:
    """The lanes a silo uploads in a step, as far as the ledger can tell."""
    step: Step = facts.plan.steps[record["k"]]
    held = record.get("holdings", {})
    return [lane.name for lane in facts.plan.lanes_of(step) if lane.uploaders([silo], held)]


def _evidence(facts: Facts) -> list[tuple[str, str, str]]:
    """(what, digest or figure, remark)."""
    started, finished = facts.started.record, facts.finished
    rows = [
        ("Run", facts.run, f"started {facts.started.time}" + (f", ended {facts.ended.time}" if facts.ended else "")),
        ("Job", started["job_digest"], "the job file's canonical text"),
        ("Plan", started["plan_digest"], "what is summed; every silo recomputed it"),
        ("Charter", started["charter_digest"], f"epoch {facts.charter.epoch}: members, keys, floors"),
        ("First state", started["state_digest"], "seeded initial blocks"),
    ]
    if finished is not None:
        signed = _countersigned(facts, finished)
        rows += [
            ("Final state", finished["state_digest"], "reached by the aggregator and by every silo that signs below"),
            ("Ledger head", finished.get("ledger_head", NONE), "what the silos signed"),
            (
                "Countersignatures",
                f"{signed} of {len(facts.silos)} silos",
                "over the end of the state chain and the ledger head; checked for this page",
            ),
            ("Weights file", finished["weights_sha256"], finished["checkpoint"]),
        ]
    rows += [("Model", f"{r['model_name']} version {r['version']}", f"alias {r['alias']}") for r in facts.published]
    rows.append(
        (
            "Ledger",
            f"{facts.lines} lines to {facts.head}",
            "chain and the aggregator's signature of each checked for this page",
        )
    )
    return rows


def _countersigned(facts: Facts, finished: Mapping[str, Any]) -> int:
    """How many countersignatures check: the member's key, this run, its last state and the head before the end."""
    good = 0
    for silo, signed in finished["countersignatures"].items():
        try:
            closing = Closing.open(bytes.fromhex(signed), lambda message: facts.charter.member(message.silo).agent)
        except FederationError as bad:
            raise EvidenceError(f"countersignature of {silo}", expected="one that checks", found=bad.code) from bad
        found = (closing.silo, closing.run.hex()[: len(facts.run)], closing.chain.hex(), closing.ledger.hex())
        if found != (silo, facts.run, finished["chain"], finished.get("ledger_head")):
            raise EvidenceError(f"countersignature of {silo}", expected="this run's end", found="another")
        good += 1
    return good


# --- words -------------------------------------------------------------------------------------------------------


def _known(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _percent(value: Any) -> str:
    return f"{value:.1f}" if _known(value) else NONE


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
