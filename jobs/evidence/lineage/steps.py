"""The steps of a run as a reader wants them: those that went alike as one line, whatever went wrong named."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aggregator.ledger.format import Entry
from aggregator.ledger.records import Kind
from aggregator.run_record import History
from crypto.errors import EvidenceError, FederationError
from crypto.plan import Plan

RELEASED, VOID, OPEN = "released", "void", "not finished"


@dataclass(frozen=True, slots=True)
class Absence:
    """A silo that was invited and is not in the sum: lost or, with a ``code``, refusing in ``phase``."""

    silo: str
    phase: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.silo} refused in {self.phase}: {self.code}" if self.code else f"{self.silo} lost in {self.phase}"


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of one kind that went alike. ``cohort``: whose uploads are in the sums. ``shut``: lane → why it stayed
    shut, as far as the opened counts tell. ``reason``: of a void step."""

    names: tuple[str, ...]
    outcome: str
    invited: tuple[str, ...]
    cohort: tuple[str, ...]
    absent: tuple[Absence, ...]
    opened: tuple[str, ...]
    shut: Mapping[str, str]
    reason: str = ""

    @property
    def label(self) -> str:
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} … {self.names[-1]}"

    @property
    def eventful(self) -> bool:
        return bool(self.absent or self.shut) or self.outcome != RELEASED


def plan_of(started: Entry) -> Plan:
    """The plan that a run-started record carries, its digest checked."""
    record = started.record
    try:
        plan = Plan.from_bytes(base64.b64decode(record["plan"], validate=True))
    except (binascii.Error, FederationError) as bad:
        raise EvidenceError(f"plan of run {record['run']}", expected="a plan", found=str(bad)) from bad
    if plan.digest.hex() != record["plan_digest"]:
        raise EvidenceError(f"plan of run {record['run']}", expected=record["plan_digest"], found=plan.digest.hex())
    return plan


def steps_of(history: History, run: str, plan: Plan) -> tuple[Steps, ...]:
    """The steps in order, those of one task that went alike as one."""
    latest: dict[str, int] = {}
    groups: list[Steps] = []
    for k, step in _single_steps(history, run, plan).items():
        task = plan.steps[k].task if k < len(plan.steps) else step.names[0]
        at = latest.get(task)
        if at is not None and replace(groups[at], names=()) == replace(step, names=()):
            groups[at] = replace(groups[at], names=groups[at].names + step.names)
        else:
            latest[task] = len(groups)
            groups.append(step)
    return tuple(groups)


def _single_steps(history: History, run: str, plan: Plan) -> dict[int, Steps]:
    found: dict[int, Steps] = {}
    for entry in history.entries:
        record = entry.record
        if record.get("run") != run:
            continue
        if entry.kind is Kind.STEP_OPENED:
            found[record["k"]] = Steps((record["name"],), OPEN, tuple(record["invited"]), (), (), (), {})
        elif entry.kind in (Kind.SILO_LOST, Kind.REFUSAL):
            step = found[record["k"]]
            absence = Absence(record["silo"], record["phase"], record.get("code", ""))
            found[record["k"]] = replace(step, absent=(*step.absent, absence))
        elif entry.kind is Kind.STEP_VOID:
            reason = f"{record['reason']} in {record['phase']}"
            found[record["k"]] = replace(found[record["k"]], outcome=VOID, reason=reason, absent=_absent(record))
        elif entry.kind is Kind.STEP_CLOSED:
            found[record["k"]] = Steps(
                names=(record["name"],),
                outcome=RELEASED,
                invited=tuple(record["invited"]),
                cohort=tuple(record["survivors"]),
                absent=_absent(record),
                opened=tuple(record["lanes_open"]),
                shut={lane: _why_shut(plan, lane, record["slots"]) for lane in record["lanes_shut"]},
            )
    return found


def _absent(record: Mapping[str, Any]) -> tuple[Absence, ...]:
    refused = record.get("refusals", {})
    lost = {**dict.fromkeys(refused, "–"), **record.get("lost", {})}
    return tuple(Absence(silo, phase, refused.get(silo, "")) for silo, phase in sorted(lost.items()))


def _why_shut(plan: Plan, lane: str, slots: Mapping[str, int]) -> str:
    floor = next((one.floor for one in plan.lanes if one.name == lane), None)
    count = slots.get(f"{lane}.contributors")
    if count is None or floor is None:
        return "withheld by the silos"
    if count < floor:
        return f"{count} contributors, floor {floor}"
    return f"{count} contributors; withheld by the silos under a stricter rule"


def spans(names: Sequence[str]) -> list[str]:
    """Names of steps in short: those of one task as the first, the last and how many."""
    tasks: dict[str, list[str]] = {}
    for name in names:
        tasks.setdefault(name.partition("/")[0], []).append(name)
    return [one[0] if len(one) == 1 else f"{one[0]} … {one[-1]} ({len(one)})" for one in tasks.values()]
