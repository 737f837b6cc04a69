"""report.html: one run on one page that needs nothing else: no network, no script, no font, no image file.

Drawn from the aggregator's ledger, every line of it checked first; from the silos' own probes where this machine owns
their folders (see ``probe``); and from the accuracy table of the caller. All text goes through the template's
escaping: names of jobs, silos and lanes are other people's. Shapes are computed here, colours are the template's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from aggregator import absences
from aggregator.expert_figures import expert_sentences
from aggregator.figures import last_metrics, sentence
from aggregator.home import AggregatorHome
from aggregator.ledger.records import StepClosed
from aggregator.verify.models import checked_ledger
from crypto.plan import Scope
from crypto.scores import curve, place, scores
from jobs.demo import report_charts
from jobs.demo.report_view import NONE, RunView, is_figure, per_cent
from jobs.evidence.lineage.consent import countersigned
from jobs.runtime.mask_probe import read_probe
from silo_agent.home import SiloHome
from silo_agent.methods import contextual, display_name

BASELINES = (("fedavg", "FedAvg"), ("fedavg_equal_params", "FedAvg, equal parameters"), ("local", "Local only"))
MODES = ("global", "personal", "cold")


def write_report(
    federation: Path, run: str, *, table: Mapping[str, Any] | None = None, out: Path | None = None
) -> Path:
    """Write the report of a run and return its path.

    ``federation``: the folder with ``aggregator/`` and ``silos/``. ``table``: what ``fed up --json`` prints, of which
    ``accuracy`` is read (per cent; what is missing is a dash). ``out``: by default report.html in the run's folder.
    Raises EvidenceError for a run that is not on the ledger and for a ledger or probe that doesn't check.
    """
    home = AggregatorHome(federation / "aggregator")
    shown = RunView.of(checked_ledger(home, under_way=True), run)
    silos = {silo: SiloHome(federation / "silos" / silo) for silo in shown.charter.silos}
    probes = {silo: probe for silo, place in silos.items() if (probe := read_probe(place, run))}
    folder = home.run_folder(run)
    picture = report_charts.picture(shown, probes, folder)
    accuracy = (table or {}).get("accuracy", {})
    view = {
        "it": shown,
        "title": _title(shown),
        "method": display_name(shown.plan.method),
        "contextual": contextual(shown.plan.method),
        "figures": _figures(shown, accuracy),
        "accuracy": _accuracy(shown, accuracy),
        "metrics": _metrics(shown),
        "experts": expert_sentences(shown.plan, shown.record.slots),
        "withheld": sentence(shown.withheld),
        "curve": report_charts.curve(shown, accuracy),
        "timeline": report_charts.timeline(shown),
        "heat": report_charts.heat(shown, probes),
        "picture": picture,
        "seen": _seen(shown, picture["silo"] if picture else shown.charter.silos[0]),
        "evidence": _evidence(shown),
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates")
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
    path = out or folder.report_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.render(view), encoding="utf-8")
    return path


# --- what happened ---


def _title(run: RunView) -> str:
    codes = Counter(entry.record.code for entry in run.record.refusals)
    refusals = ", ".join(f"{code} × {count}" for code, count in sorted(codes.items()))
    parts = [
        f"{len(run.closed)} of {len(run.plan.steps)} steps released",
        f"{len(run.void) or 'none'} void",
        f"{_count(run.shut, 'lane')} stayed shut" if run.shut else "no lane stayed shut",
        _count(sum(codes.values()), "refusal") + f" ({refusals})" if codes else "no refusals",
    ]
    verb = "trained" if run.record.finished else "stopped" if run.record.failed else "is training"
    sentence = f"{display_name(run.plan.method)} {verb} at {len(run.silos)} silos: {', '.join(parts)}."
    if missed := absences.of_run(run.record):
        sentence += f" Missing from some steps: {', '.join(sorted(missed))}."
    if run.record.failed:
        failed = run.record.failed.record
        phase = f" in phase {failed.phase}" if failed.phase else ""
        sentence += f" It ended with {failed.code}{phase}."
    return sentence


def _figures(run: RunView, accuracy: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, unit, label): the four that a reader looks for first."""
    times = [sum(record.phase_ms.values()) for record in run.closed.values()]
    remark = " (contextual)" if contextual(run.plan.method) else ""
    sent = sum(record.upload_bytes for record in run.closed.values())
    return [
        _leading(run) or (per_cent(_own(run, accuracy, "global")), "%", f"global accuracy{remark}"),
        (f"{len(run.closed)}/{len(run.plan.steps)}", "", "steps released"),
        (f"{median(times):,.0f}" if times else NONE, "ms", "median step"),
        (f"{sent / 1e6:,.2f}", "MB", "masked words, all silos"),
    ]


def _leading(run: RunView) -> tuple[str, str, str] | None:
    """The leading metric of the first mode that has any, with what it is to be compared with."""
    for mode, (found, _) in sorted(last_metrics(run.record.closed).items(), key=lambda item: place(item[0])):
        return found[0].text, "", f"{mode} {found[0].title}, baseline {found[0].against}"
    return None


def _metrics(run: RunView) -> dict[str, Any]:
    """Modes, and for each metric its title, its text in each mode and its baseline; of the first mode the calibration
    curve, and where a task has no accuracy the leading metric of each step. Nothing where no metric opened."""
    last = last_metrics(run.record.closed)
    found = {mode: {one.key: one for one in those} for mode, (those, _) in last.items()}
    if not found:
        return {}
    modes = sorted(found, key=place)
    rows = [
        (one.title, [found[mode][name].text if name in found[mode] else NONE for mode in modes], one.against)
        for name, one in found[modes[0]].items()
    ]
    calibrated = curve(last[modes[0]][1].slots, modes[0])
    points = calibrated.points if calibrated is not None else ()
    shown = [(f"{chance:.3f}", f"{came:.3f}", f"{count:,}") for count, chance, came in points]
    by_step = []
    for k, record in sorted(run.closed.items()):
        if not run.scored() and (read := scores(record.slots, modes[0])):
            by_step.append((run.plan.steps[k].name, read[0].text))
    return {"modes": modes, "rows": rows, "calibration": shown, "by_step": by_step}


def _accuracy(run: RunView, accuracy: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of the table: label, and for each mode the figure and how far it is from FedAvg's."""
    own = {mode: _own(run, accuracy, mode) for mode in MODES}
    base = accuracy.get("fedavg", {}) if run.plan.method != "fedavg" else {}
    cells = [(per_cent(own[mode]), _apart(own[mode], base.get(mode))) for mode in MODES]
    rows = [(display_name(run.plan.method), cells)]
    for key, label in BASELINES:
        if key != run.plan.method:
            rows.append((label, [(per_cent(accuracy.get(key, {}).get(mode)), "") for mode in MODES]))
    return rows


def _apart(own: Any, base: Any) -> str:
    return f"{own - base:+.1f}".replace("-", "−") if is_figure(own) and is_figure(base) else ""


def _own(run: RunView, accuracy: Mapping[str, Any], mode: str) -> Any:
    """The run's figure of a mode: the caller's, else the last that the ledger opened."""
    if is_figure(accuracy.get(mode)):
        return accuracy[mode]
    for _, found in reversed(run.scored()):
        if f"{mode}.accuracy" in found:
            part, whole = found[f"{mode}.accuracy"]
            return 100 * part / whole
    return None


# --- what the aggregator saw, and what there is to check ---------------------------------------------------------


def _seen(run: RunView, silo: str) -> dict[str, Any]:
    """The fixed list of what the aggregator learns of one silo, with this run's values."""
    records = list(run.closed.values())
    present = [record for record in records if silo in record.survivors]
    refused = Counter(entry.record.code for entry in run.record.refusals if entry.record.silo == silo)
    lost = [f"{entry.record.name} ({entry.record.phase})" for entry in run.record.lost if entry.record.silo == silo]
    data = list(dict.fromkeys(r.data_commitments[silo] for r in present if silo in r.data_commitments))
    approvals = list(
        dict.fromkeys(r.approvals[silo] for r in records if r.approvals is not None and silo in r.approvals)
    )
    held = [lane for lane in run.plan.lanes if lane.scope == Scope.HELD]
    shown = {lane for record in present for lane in (record.holdings or {}).get(silo, [])}
    visible = [lane.name for lane in held if lane.name in shown]
    hidden = [lane.name for lane in held if lane.hidden]
    sizes = [
        sum(4 * run.plan.wire_words_of(run.plan.steps[r.k], lane) for lane in _uploads(run, r, silo)) for r in present
    ]
    absent = f"away: {', '.join(lost)}" if lost else "never away"
    rows = [
        ("Identity", f"{silo}, agent key {run.charter.member(silo).agent.fingerprint}", "signs every message"),
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


def _uploads(run: RunView, record: StepClosed, silo: str) -> list[str]:
    """The lanes a silo uploads in a step, as far as the ledger can tell."""
    step = run.plan.steps[record.k]
    held = record.holdings or {}
    return [lane.name for lane in run.plan.lanes_of(step) if lane.uploaders([silo], held)]


def _evidence(run: RunView) -> list[tuple[str, str, str]]:
    """(what, digest or figure, remark)."""
    started, finished = run.record.started.record, run.record.finished
    ended = finished or run.record.failed
    rows = [
        ("Run", run.run, f"started {run.record.started.time}" + (f", ended {ended.time}" if ended else "")),
        ("Job", started.job_digest, "the job file's canonical text"),
        ("Plan", started.plan_digest, "what is summed; every silo recomputed it"),
        ("Charter", started.charter_digest, f"epoch {run.charter.epoch}: members, keys, floors"),
        ("First state", started.state_digest, "seeded initial blocks"),
    ]
    if finished is not None:
        signed = len(countersigned(run.ledger, run.record, run.charter))
        rows += [
            (
                "Final state",
                finished.record.state_digest,
                "reached by the aggregator and by every silo that signs below",
            ),
            ("Ledger head", finished.record.ledger_head or NONE, "what the silos signed"),
            (
                "Countersignatures",
                f"{signed} of {len(run.silos)} silos",
                "over the end of the state chain and the ledger head; checked for this page",
            ),
            ("Weights file", finished.record.weights_sha256, finished.record.checkpoint),
        ]
    published = [entry.record for entry in run.record.published]
    rows += [("Model", f"{one.model_name} version {one.version}", f"alias {one.alias}") for one in published]
    rows.append(
        (
            "Ledger",
            f"{len(run.ledger.entries)} lines to {run.ledger.head}",
            "chain and the aggregator's signature of each checked for this page",
        )
    )
    return rows


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
