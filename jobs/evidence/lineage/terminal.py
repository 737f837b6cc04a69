"""Lineage on a terminal. Names and purposes are untrusted text: control characters are shown as a dot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from aggregator.verify.models import ModelVersion
from crypto.text import printable
from jobs.evidence.lineage.model import Lineage, RunFacts, SiloPart
from jobs.evidence.lineage.reverse import Uses
from jobs.evidence.lineage.steps import VOID, StepGroup

#: Digits of a digest that people compare; --json has them all.
SHORT = 16
#: Columns where the output is no terminal.
WIDE = 400
UNKNOWN = "not recorded"


def show(tree: Tree) -> None:
    """Print it: wrapped on a terminal, a line a fact elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE)
    console.print(tree)


def tree(lineage: Lineage) -> Tree:
    """Model → run → steps → cohort → data and approvals; then family, withdrawals, and what isn't proven."""
    model, run = lineage.model, lineage.run
    root = Tree(_line(lineage.subject, _name_of(model) if model else f"run of {run.job}, which made no model"))
    if model is not None:
        _leaf(root, "weights", f"SHA-256 {short(model.weights_sha256)}, state {short(model.state_digest)}")
        for alias, (by, at) in sorted(model.aliases.items()):
            _leaf(root, f"@{alias}", f"moved here by {by}, {minute(at)}")
    of_run = root.add(_line(f"run {run.run}", f"{run.status}, {minute(run.started)} to {minute(run.ended)}"))
    for label, text in run_lines(run):
        _leaf(of_run, label, text)
    released = sum(len(group.names) for group in lineage.steps if group.outcome == "released")
    void = sum(len(group.names) for group in lineage.steps if group.outcome == VOID)
    steps = of_run.add(_line("steps", f"{released} released, {void} void"))
    for group in lineage.steps:
        branch = steps.add(_line(group.label, step_line(group)))
        for text in trouble(group):
            branch.add(_line("", text, "yellow"))
    taking = [part for part in lineage.silos if part.steps]
    countersigned = sum(part.countersigned for part in taking)
    cohort = of_run.add(_line("cohort", f"{len(taking)} silos in its sums, {countersigned} of them countersigned"))
    for part in lineage.silos:
        branch = cohort.add(_line(part.silo, part_line(part)))
        for label, text in part_facts(part):
            _leaf(branch, label, text)
    _family(root, "from", lineage.parents, "no earlier version on this ledger")
    _family(root, "went into", lineage.descendants, "no later version on this ledger")
    if lineage.newer:
        _leaf(root, "newer", f"{lineage.newer} is the newest version of this name")
    for one in lineage.withdrawals:
        branch = root.add(_line("withdrawn", f"{one.silo}, {minute(one.at)}, epoch {one.epoch}: {one.reason}", "red"))
        for name, remedies in sorted(one.remedies.items()):
            _leaf(branch, name, "; ".join(remedies))
    ledger = f"{lineage.lines} lines, chain and signatures checked, head {short(lineage.head)}"
    _leaf(root, "ledger", ledger)
    _leaf(root, "consortium", f"key {lineage.consortium}")
    limits = root.add(_line("not proven"))
    for sentence in lineage.unproven:
        limits.add(_line("", sentence))
    _leaf(root, "check it", " or elsewhere: ".join(lineage.commands))
    return root


def uses_tree(found: Uses) -> Tree:
    """Every run that used it, with the steps and what came of them."""
    root = Tree(_line(f"{found.what} {found.value}", _runs(len({use.run for use in found.found}))))
    for use in found.found:
        named = use.model if use.model != use.run else None
        what = f"{named}{_at(use.aliases)}" if named else "a model without a number" if use.model else "no model"
        branch = root.add(_line(f"run {use.run}", f"{use.status} → {what}"))
        _leaf(branch, use.silo, f"in {len(use.steps)} sums: {', '.join(use.spans)}" if use.steps else "in no sum")
        for label, values in (("data", use.data), ("approval", use.approvals)):
            for value in values:
                _leaf(branch, label, value)
        if use.descendants:
            _leaf(branch, "went into", ", ".join(use.descendants))
    return root


def models_tree(found: Sequence[ModelVersion]) -> Tree:
    """Every version there is."""
    root = Tree(_line("models", "" if found else "none: no run has finished on this ledger"))
    for one in found:
        left = f"; withdrawn since: {', '.join(one.withdrawn_silos)}" if one.withdrawn_silos else ""
        name = "" if one.version else f"{one.name}, not numbered by MLflow; "
        root.add(_line(f"{one.label}{_at(one.aliases)}", f"{name}run {one.run}, {minute(one.finished)}{left}"))
    return root


# --- sentences that the page shares --------------------------------------------------------------------------------


def run_lines(run: RunFacts) -> Iterator[tuple[str, str]]:
    yield "purpose", run.purpose or UNKNOWN
    yield "job", f"{run.job}, digest {short(run.job_digest)}"
    yield "method", f"{run.method}, plan {short(run.plan_digest)}, threshold {run.threshold} of {len(run.members)}"
    epoch = f"epoch {run.epoch}" if run.epoch is not None else "not at hand"
    yield "charter", f"{epoch}, digest {short(run.charter_digest)}"
    yield "software", short(run.code_digest) if run.code_digest else UNKNOWN


def step_line(group: StepGroup) -> str:
    many = f"{len(group.names)} steps, each " if len(group.names) > 1 else ""
    if group.outcome == VOID:
        return f"{many}void: {group.reason}; no result, the weights stayed"
    if group.outcome != "released":
        return f"{many}{group.outcome}"
    lanes = f"opened {', '.join(group.opened)}" if group.opened else "no lane" if group.withheld else "counts only"
    return f"{many}{len(group.cohort)} of {len(group.invited)} silos; {lanes}"


def trouble(group: StepGroup) -> Iterator[str]:
    """The faults of these steps, a sentence each."""
    for lane, why in group.shut.items():
        yield f"lane {lane} stayed shut: {why}"
    if group.withheld:
        yield f"figures withheld by the silos: {', '.join(group.withheld)}"
    for absence in group.absent:
        yield str(absence)


def part_line(part: SiloPart) -> str:
    signed = "countersigned" if part.countersigned else "did not countersign"
    left = f", withdrew {minute(part.withdrew)}" if part.withdrew else ""
    return f"in {part.steps} sums, {signed}{left}" if part.steps else f"in no sum, {signed}"


def part_facts(part: SiloPart) -> Iterator[tuple[str, str]]:
    for commitment in part.data or (UNKNOWN,):
        yield "data", short(commitment)
    consent = part.consent
    if consent is not None:
        use = (
            f"run {consent.uses} of {consent.max_runs}"
            if consent.uses == 1
            else f"{consent.uses} of {consent.max_runs} runs"
        )
        yield "approval", f"{short(consent.digest)}, until {consent.until}, {use}, owner {consent.owner}"
    else:
        yield "approval", f"{short(part.approval)}, not on this ledger" if part.approval else UNKNOWN
    yield "policy", short(part.policy) if part.policy else UNKNOWN


def short(digest: str) -> str:
    return digest[:SHORT]


def minute(time: str | None) -> str:
    """A ledger's time, to the minute."""
    return f"{time[:10]} {time[11:16]} UTC" if time else "–"


# --- helpers -----------------------------------------------------------------------------------------------------


def _family(root: Tree, label: str, members: Sequence[ModelVersion], none: str) -> None:
    branch = root.add(_line(label, "" if members else none))
    for one in members:
        branch.add(_line(one.label, f"{_name_of(one)}, run {one.run}, {minute(one.finished)}"))


def _name_of(model: ModelVersion) -> str:
    return f"{model.name}{_at(model.aliases)}" if model.version else f"{model.name}, not numbered by MLflow"


def _at(aliases: Iterable[str]) -> str:
    return "".join(f" @{alias}" for alias in sorted(aliases))


def _leaf(root: Tree, label: str, text: str) -> None:
    root.add(_line(label, text))


def _line(label: str, text: str = "", style: str = "") -> Text:
    """Label and text, without markup and control characters."""
    return Text.assemble((printable(label, "·"), "bold"), "  " if label and text else "", (printable(text, "·"), style))


def _runs(count: int) -> str:
    return f"in {count} run{'' if count == 1 else 's'}"
