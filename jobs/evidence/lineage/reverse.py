"""The other way round: from a data commitment, a silo or an approval to every run, step and model that used it."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.ledger.records import ApprovalShown, StepClosed
from aggregator.run_record import CheckedLedger
from aggregator.verify.models import LEAST_DIGITS, PREFIX, ancestry, parents, versions
from crypto.errors import SpecError
from jobs.evidence.lineage.steps import spans

#: How many values an error lists.
MOST_LISTED = 24


@dataclass(frozen=True, slots=True)
class Use:
    """One silo's part in one run. ``steps``: those whose sums it is in; none for an approval that was never used.

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


def uses(ledger: CheckedLedger, what: str, text: str) -> Uses:
    """Every use of the data commitment, approval (8 digits of either will do) or silo.

    Raises SpecError for one that is not on the ledger, and for digits that fit several.
    """
    parts = _parts(ledger)
    known = sorted({value for part in parts.values() for value in part[what]})
    value = _known(what, text, known)
    found = {one.run: one for one in versions(ledger)}
    above = parents(ledger)
    return Uses(
        what,
        value,
        tuple(
            Use(
                run=run,
                status=ledger.run(run).status,
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


def _parts(ledger: CheckedLedger) -> dict[tuple[str, str], _Part]:
    """(run, silo) → what the silo contributed to which steps."""
    found: dict[tuple[str, str], _Part] = {}
    for entry in ledger.entries:
        record = entry.record
        if isinstance(record, ApprovalShown):
            _part(found, record.run, record.silo)["approval"].setdefault(record.digest, [])
        elif isinstance(record, StepClosed):
            for silo in record.survivors:
                part = _part(found, record.run, silo)
                for what, value in (
                    ("silo", silo),
                    ("data", record.data_commitments.get(silo)),
                    ("approval", (record.approvals or {}).get(silo)),
                ):
                    if value:
                        part[what].setdefault(value, []).append(record.name)
    return found


def _part(found: dict[tuple[str, str], _Part], run: str, silo: str) -> _Part:
    return found.setdefault((run, silo), {"data": {}, "approval": {}, "silo": {}})


def _known(what: str, text: str, known: list[str]) -> str:
    """The full value that ``text`` abbreviates."""
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
