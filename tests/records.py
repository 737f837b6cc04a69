"""Ledger records from plain objects, as tests like to write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from aggregator.ledger.format import Entry, plain
from aggregator.ledger.records import RECORDS, Kind, Record, parse_record


def as_record(kind: str, found: Mapping[str, Any]) -> Record:
    """The record of that kind. Raises SpecError as reading its line would."""
    return parse_record(kind, plain(found))


def partial_entry(kind: Kind, found: Mapping[str, Any], *, seq: int = 0, time: str = "") -> Entry[Record]:
    """An unsigned line of which only ``found`` is known: for rules that read nothing else of it."""
    unknown = {one.name: None for one in fields(RECORDS[kind]) if one.default is MISSING}
    return Entry(seq, time, "", RECORDS[kind](**{**unknown, **found}), "", "", 0)
