"""A model's card: what it is for, what it was made from, what it does not promise, and how to check all that.

Written from the ledger alone, so the same ledger gives the same bytes: ``jobs/<run>/model-card.md``, an artifact of the
model and of its run in MLflow and, as far as it fits, the version's description. It is renewed when an alias moves or
a silo withdraws.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator import absences, privacy
from aggregator.expert_figures import expert_sentences
from aggregator.figures import last_metrics, last_ratios, sentence, withheld_in
from aggregator.ledger.records import Refusal, RunStarted
from aggregator.protocols.interface import Charter
from aggregator.run_record import RunRecord, job_fields
from aggregator.tracking.run_page import safe
from aggregator.tracking.version_facts import cohort, moves, parent_version, remedies_of, withdrawals
from aggregator.verify.approvals import approvals
from aggregator.verify.models import Models, ModelVersion
from crypto.plan import Scope
from crypto.scores import place

CARD_FILE = "model-card.md"
#: MLflow's column for a description has 5000 characters.
BRIEF_LIMIT = 4900

#: A digest, and as much of it as a column shows.
_LONG = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")
_STEPS_SHOWN = 6
_NO_BASELINES = "Baselines: not recorded here."


@dataclass(frozen=True, slots=True)
class Card:
    """``head``: title and standing. ``sections``: title and text, the most asked for first."""

    head: str
    sections: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The whole card, Markdown."""
        return "\n\n".join((self.head, *(f"## {title}\n\n{text}" for title, text in self.sections))) + "\n"

    @property
    def brief(self) -> str:
        """As much of it as a description holds: sections in order, digests by their first 16 digits, and the names of
        what is left out."""
        parts, left = [self.head], list[str]()
        room = BRIEF_LIMIT - len(self.head) - 200
        for title, text in self.sections:
            part = _LONG.sub(r"\1…", f"### {title}\n\n{text}")
            if len(part) + 2 <= room and not left:
                parts.append(part)
                room -= len(part) + 2
            else:
                left.append(title.lower())
        more = f"*In the artifact {CARD_FILE}: {', '.join(left)}.*" if left else ""
        return "\n\n".join((*parts, more) if more else parts)[:BRIEF_LIMIT]


def card(models: Models, version: ModelVersion) -> Card:
    """The card of a finished run. ``models``: all there are (parents are named by their labels)."""
    run = models.ledger.run(version.run)
    start = run.started.record
    job = job_fields(start)
    charter = models.ledger.charters.get(start.charter_digest)
    return Card(
        _head(models, version),
        (
            ("Intended use", _purpose(start)),
            ("Results", _results(run)),
            ("Cohort", _cohort(run)),
            ("Data and approvals", _consent(run, models.ledger.charters)),
            ("How to check this", _verify(run, version, job)),
            ("Privacy", _privacy(start, charter, job)),
            ("Residual risks", _risks(job)),
            ("Drop-outs and refusals", _dropouts(run)),
            ("Method", _method(run, job)),
            ("Lanes", _lanes(run)),
            ("Software", _software(start, version)),
        ),
    )


def _table(header: Sequence[str], rows: Iterator[Sequence[object]] | Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


# --- sections ----------------------------------------------------------------------------------------------------


def _head(models: Models, version: ModelVersion) -> str:
    started = models.ledger.run(version.run).started
    lines = [f"# {safe(version.label)}", ""]
    for entry in withdrawals(models.ledger, version):
        record = entry.record
        remedies = remedies_of(record, version)
        remedy = f" Remedy: {', '.join(map(safe, remedies))}." if remedies else ""
        lines += [
            f"**{safe(record.silo)} has withdrawn** (charter epoch {record.epoch}, {entry.time}): "
            f"{safe(record.reason)}. Its contributions are in this model.{remedy}",
            "",
        ]
    federation = safe(started.record.federation or "not recorded")
    lines.append(f"Run {version.run} of federation {federation}, {started.time} to {version.finished}.")
    if parent := parent_version(models, version):
        lines.append(f"Parent version: {safe(parent[0])} ({parent[1]}).")
    for alias, (by, at, until) in moves(models.ledger, version).items():
        lines.append(f"Alias {safe(alias)}: set by {safe(by)}, {at}{f', moved on {until}' if until else ''}.")
    return "\n".join(lines)


def _purpose(start: RunStarted) -> str:
    purpose = safe(start.purpose) if start.purpose is not None else "Not recorded here."
    return f"{purpose}\n\nData owners approved this purpose and no other. Another use needs their approval again."


def _results(run: RunRecord) -> str:
    """The metrics, each beside its baseline and led by the task's own; then what was counted."""
    metrics = [
        (safe(mode), one.title, one.text, one.against, safe(step.name), len(step.survivors))
        for mode, (found, step) in sorted(last_metrics(run.closed).items(), key=lambda item: place(item[0]))
        for one in found
    ]
    judged = _table(("mode", "metric", "value", "baseline", "opened in step", "silos summed"), metrics)
    explained = (
        "±: how far the figure of all rows together can be from that of the opened sums. Baseline: always the most "
        "common class, the shares of the classes as probabilities, or a ranking by chance; for a number its mean, for "
        "masks every place as one class."
    )
    rows = [
        (safe(name), f"{part / whole:.4f}", f"{part} of {whole}", safe(step.name), len(step.survivors))
        for name, (part, whole, step) in sorted(last_ratios(run.closed).items())
    ]
    table = _table(("figure", "value", "count", "opened in step", "silos summed"), rows)
    intro = "Sums over silos, each on its own held-out rows; no figure of one silo."
    missing = withheld_in(run.plan, run.closed)
    note = f"{safe(sentence(missing))} A score is of the last step that opened both of its counts." if missing else ""
    counted = table if rows else "No scores were opened."
    experts = safe(" ".join(expert_sentences(run.plan, run.slots)))
    tail = (counted, experts, note)
    parts = (intro, judged, explained, *tail) if metrics else (intro, *tail, _NO_BASELINES)
    return "\n\n".join(filter(None, parts))


def _cohort(run: RunRecord) -> str:
    invited = [len(entry.record.invited) for entry in run.closed] or [0]
    signed = len(run.finished.record.countersignatures) if run.finished is not None else 0
    span = str(min(invited)) if min(invited) == max(invited) else f"{min(invited)} to {max(invited)}"
    return (
        f"Enrolled: {', '.join(map(safe, run.started.record.silos))}. Summed: {cohort(run)}, {span} invited. "
        f"{len(run.closed)} steps released, {len(run.void)} void. {signed} silos countersigned the final state. "
        f"{_complete(run)}"
    )


def _complete(run: RunRecord) -> str:
    """Whether every silo is in every step, and if not, who was missing, when and why."""
    missed = absences.sentence(absences.of_run(run))
    return f"**Partial**: {safe(missed)}." if missed else "Complete: every silo's update is in every step."


def _consent(run: RunRecord, charters: Mapping[str, Charter]) -> str:
    """One row for each silo, data set and approval."""
    given = {one.digest: one for one in approvals(run, charters)}
    steps: Counter[tuple[str, str, str]] = Counter()
    for entry in run.closed:
        shown = entry.record.approvals or {}
        steps.update((silo, data, shown.get(silo, "")) for silo, data in entry.record.data_commitments.items())
    rows = []
    for (silo, commitment, digest), count in sorted(steps.items()):
        one = given.get(digest)
        until, runs = (one.not_after, one.max_runs) if one and not one.problem else ("", "")
        note = "not recorded" if one is None else safe(one.problem)
        rows.append((safe(silo), count, commitment, digest or "not recorded", until or note, runs))
    table = _table(("silo", "steps", "data commitment", "approval", "valid until", "runs allowed"), rows)
    whole = (
        "Whole digests are in the tags `consilium.data.SILO` and `consilium.approval.SILO`, the approvals in the run's "
        "artifact `evidence/approvals.json`."
    )
    return f"{table}\n\n{whole}" if rows else "No step was released."


def _verify(run: RunRecord, version: ModelVersion, job: Mapping[str, Any]) -> str:
    with_sums = [entry.record for entry in run.closed if entry.record.lanes_open]
    last = f"those of step {with_sums[-1].k} ({safe(with_sums[-1].name)})" if with_sums else ""
    kept = {
        "all": f"those of all {len(with_sums)} steps that opened sums, each of which can be replayed bit for bit",
        "last": f"{last}, whose sums can be replayed bit for bit; no others" if last else "none: no step opened a sum",
        "none": "none: sums are bound by signatures and cannot be replayed",
    }.get(str(job.get("keep_uploads")), "not recorded here")
    label = version.label
    return (
        f"    fed verify {label} --home AGGREGATOR\n"
        f"    fed lineage {label} --bundle evidence.zip --home AGGREGATOR\n\n"
        "Offline, AGGREGATOR being the aggregator's home; the bundle verifies on any machine with the base install. "
        f"Masked uploads kept, by the job's keep_uploads = {safe(job.get('keep_uploads', 'not recorded'))}: {kept}. "
        "`fed verify` says which sums it replayed and which it could not."
    )


def _privacy(start: RunStarted, charter: Charter | None, job: Mapping[str, Any]) -> str:
    said = safe(privacy.sentence(job))
    return f"{said}\n\n{_of_sums(start, charter)}"


def _of_sums(start: RunStarted, charter: Charter | None) -> str:
    text = (
        "Adversary: an aggregator that may do anything, and up to c silos that pool what they know with it. It learns "
        "sums over silos and what they tell together, and of one silo only what `fed egress` lists."
    )
    if charter is None:
        return f"{text} The charter of this run is not in this home, so its numbers are not shown."
    return (
        f"{text} Here c = {charter.colluders}; a sum has at least {charter.honest} honest inputs, a step at least "
        f"{charter.n_min} silos, and {start.threshold} silos must agree to open it."
    )


def _risks(job: Mapping[str, Any]) -> str:
    """What is left. With a claim of privacy: what the claim does not say."""
    first = _WITHOUT_NOISE if privacy.claim(job) is None else _BESIDE_NOISE
    return f"{first}\n{_RISKS}"


_WITHOUT_NOISE = """\
- A secure sum is not differential privacy: no noise was added and no ε is claimed.
- The model may reveal training data to anyone who can query it (membership inference, inversion)."""
_BESIDE_NOISE = """\
- The ε is for one training row. A patient with several rows has less protection, by the number of rows.
- The ε is of this run. What other runs on the same rows cost is in each silo's account (`fed privacy` there).
- An ε bounds what one row can change. It does not stop inferences about people like those in the rows."""
_RISKS = """\
- No combination of the opened sums of one quantity depends on fewer than m honest silos (rule of atoms). Updates of
  successive steps are different quantities: where a cohort changes by one silo, their difference tells something of
  that silo's update.
- A member that colludes with the aggregator can replace a sum by any other within the clip.
- c colluding silos shrink every cohort by c. More than c, and nothing of the above is claimed.
- A member may have sent anything that keeps the mean within the clip; a sum does not show it.
- The silos' machines and the software they run are trusted by their owners; digests name it, they don't prove it ran.
- How well it serves people other than those in these silos' data was not measured."""


def _dropouts(run: RunRecord) -> str:
    steps: dict[tuple[str, str, str], dict[str, None]] = {}

    def note(step: str, silo: str, phase: str, reason: str) -> None:
        steps.setdefault((silo, phase, reason), {})[step] = None

    for entry in run.absences:
        record = entry.record
        reason = f"refused: {record.code}" if isinstance(record, Refusal) else "no answer"
        note(record.name, record.silo, record.phase, reason)
    for outcome in run.outcomes:
        lost, refusals = outcome.record.lost or {}, outcome.record.refusals or {}
        for silo in sorted(lost.keys() | refusals.keys()):
            reason = f"refused: {refusals[silo]}" if silo in refusals else "no answer"
            note(outcome.record.name, silo, lost.get(silo, "not recorded"), reason)
    void = [
        f"- {safe(entry.record.name)} ended void in phase {safe(entry.record.phase)}: "
        f"{safe(entry.record.reason)}; weights stayed"
        for entry in run.void
    ]
    if not steps and not void:
        return "None."
    rows = [
        (safe(silo), safe(phase), safe(reason), len(names), _first(names))
        for (silo, phase, reason), names in sorted(steps.items())
    ]
    table = _table(("silo", "phase", "reason", "steps", "which"), rows) if rows else ""
    return "\n\n".join(part for part in (table, "\n".join(void)) if part)


def _first(names: Mapping[str, None]) -> str:
    shown = ", ".join(map(safe, list(names)[:_STEPS_SHOWN]))
    return shown if len(names) <= _STEPS_SHOWN else f"{shown}, …"


def _method(run: RunRecord, job: Mapping[str, Any]) -> str:
    start, note = run.started.record, run.reader.note
    text = f"{safe(start.method)}, protocol {safe(start.protocol)}{f': {note}' if note else ''}."
    rows = [(safe(key), safe(value)) for key, value in sorted(job.get("params", {}).items())]
    rows = [("data set", safe(job["dataset"])), *rows] if "dataset" in job else rows
    return f"{text}\n\n{_table(('parameter', 'value'), rows)}" if rows else text


def _lanes(run: RunRecord) -> str:
    """A lane is masked, floored and opened on its own; below its floor it stays shut."""
    opened = Counter(lane for entry in run.closed for lane in entry.record.lanes_open)
    shut = Counter(lane for entry in run.closed for lane in entry.record.lanes_shut)
    who: dict[str, str] = {Scope.ALL: "everyone", Scope.GROUP: "a group", Scope.LOCAL: "never leaves"}
    rows = [
        (safe(lane.name), who.get(lane.scope, "hidden" if lane.hidden else "visible"), lane.floor,
         ", ".join(map(str, lane.grid)), opened[lane.name], shut[lane.name])
        for lane in run.plan.lanes
    ]  # fmt: skip
    table = _table(("lane", "holders", "opens from", "weights", "opened", "stayed shut"), rows)
    return (
        f"{table}\n\nEach silo held back its shares below the strictest floor of charter, plan and its own "
        "policy; a lane opened if enough silos to open it released it."
    )


def _software(start: RunStarted, version: ModelVersion) -> str:
    rows = [(safe(name), safe(number)) for name, number in sorted((start.versions or {}).items())]
    rows += [("code (SHA-256)", start.code_digest or "not recorded")]
    rows += [("predictor (SHA-256)", start.predictor["sha256"])] if start.predictor is not None else []
    rows += [("weights (SHA-256)", version.weights_sha256), ("state digest", version.state_digest)]
    rows += [("job digest", start.job_digest), ("plan digest", start.plan_digest)]
    rows += [("charter digest", start.charter_digest)]
    return _table(("what", "which"), rows)
