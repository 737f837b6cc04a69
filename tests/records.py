"""Ledger records from plain objects, as tests like to write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from aggregator.ledger.format import Entry, plain
from aggregator.ledger.records import RECORDS, Kind, Record, StepClosed, parse_record
from aggregator.run_record import RunRecord


def as_record(kind: str, found: Mapping[str, Any]) -> Record:
    """The record of that kind. Raises SpecError as reading its line would."""
    return parse_record(kind, plain(found))


def partial_entry(kind: Kind, found: Mapping[str, Any], *, seq: int = 0, time: str = "") -> Entry[Record]:
    """An unsigned line of which only ``found`` is known: for rules that read nothing else of it."""
    unknown = {one.name: None for one in fields(RECORDS[kind]) if one.default is MISSING}
    return Entry(seq, time, "", RECORDS[kind](**{**unknown, **found}), "", "", 0)


def withholding(run: RunRecord, withheld: Callable[[str, str], bool]) -> RunRecord:
    """The run as if the silos had withheld these figures of its released steps. ``withheld``: of step and slot."""

    def cut(entry: Entry[Record]) -> Entry[Record]:
        if not isinstance(record := entry.record, StepClosed):
            return entry
        slots = {name: count for name, count in record.slots.items() if not withheld(record.name, name)}
        return replace(entry, record=replace(record, slots=slots))

    return RunRecord(run.run, tuple(map(cut, run.entries)))
