"""The other way round: from a data commitment, a silo or an approval to every run, step and model that used it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregator.ledger.records import Kind
from aggregator.run_record import History
from aggregator.verify.models import LEAST_DIGITS, PREFIX, ancestry, parents, versions
from crypto.errors import SpecError
from jobs.evidence.lineage.steps import spans

#: How many values a refusal lists.
MOST_LISTED = 24


@dataclass(frozen=True, slots=True)
class Use:
    """One silo's part in one run. ``steps``: in whose sums it is; of an approval that was shown and never used, none.

    ``model``: what came of the run, ``descendants``: the versions that started from it.
    """

    run: str
    status: str
    silo: str
    data: tuple[str, ...]
    approvals: tuple[str, ...]
    steps: tuple[str, ...]
    model: str | None
    aliases: tuple[str, ...]
    descendants: tuple[str, ...]

    @property
    def spans(self) -> list[str]:
        return spans(self.steps)


@dataclass(frozen=True, slots=True)
class Uses:
    """``what``: data, silo or approval; ``value``: the whole of it."""

    what: str
    value: str
    found: tuple[Use, ...]


def uses(history: History, what: str, text: str) -> Uses:
    """Every use of the data commitment, approval (8 digits of either will do) or silo.

    Raises SpecError for one that is not on the ledger, and for digits that fit several.
    """
    parts = _parts(history)
    known = sorted({value for part in parts.values() for value in part[what]})
    value = _known(what, text, known)
    found = {one.run: one for one in versions(history)}
    above = parents(history)
    ends = {e.record["run"]: "finished" for e in history.of(Kind.RUN_FINISHED)}
    ends |= {e.record["run"]: f"failed: {e.record['code']}" for e in history.of(Kind.RUN_FAILED)}
    return Uses(
        what,
        value,
        tuple(
            Use(
                run=run,
                status=ends.get(run, "not finished"),
                silo=silo,
                data=tuple(part["data"]),
                approvals=tuple(part["approval"]),
                steps=tuple(part[what][value]),
                model=found[run].label if run in found else None,
                aliases=tuple(found[run].aliases) if run in found else (),
                descendants=tuple(one.label for one in found.values() if run in ancestry(one.run, above)[1:]),
            )
            for (run, silo), part in parts.items()
            if value in part[what]
        ),
    )


#: what → value → names of the steps.
_Part = dict[str, dict[str, list[str]]]


def _parts(history: History) -> dict[tuple[str, str], _Part]:
    """(run, silo) → what it brought into which steps."""
    found: dict[tuple[str, str], _Part] = {}
    for entry in history.entries:
        record = entry.record
        if entry.kind is Kind.APPROVAL:
            _part(found, record, record["silo"])["approval"].setdefault(record["digest"], [])
        elif entry.kind is Kind.STEP_CLOSED:
            for silo in record["survivors"]:
                part = _part(found, record, silo)
                for what, value in (
                    ("silo", silo),
                    ("data", record["data_commitments"].get(silo)),
                    ("approval", record.get("approvals", {}).get(silo)),
                ):
                    if value:
                        part[what].setdefault(value, []).append(record["name"])
    return found


def _part(found: dict[tuple[str, str], _Part], record: Mapping[str, Any], silo: str) -> _Part:
    return found.setdefault((record["run"], silo), {"data": {}, "approval": {}, "silo": {}})


def _known(what: str, text: str, known: list[str]) -> str:
    """The whole value that ``text`` stands for."""
    if what == "silo":
        hits = [text] if text in known else []
    elif PREFIX.fullmatch(text):
        hits = [value for value in known if value.startswith(text)]
    else:
        raise SpecError(f"--{what}", got=text, want=f"{LEAST_DIGITS} to 64 lower-case hexadecimal digits")
    if len(hits) == 1:
        return hits[0]
    some = ", ".join(value[:16] for value in known[:MOST_LISTED]) + (" …" if len(known) > MOST_LISTED else "")
    raise SpecError(
        f"--{what}",
        got=text,
        want=f"one of {', '.join(hits)}" if hits else "one that is on this ledger",
        remedy="" if hits else f"There are: {some}." if known else "The ledger records none.",
    )
