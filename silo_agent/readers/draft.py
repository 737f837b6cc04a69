"""A first draft of a schema from one table, for a person to finish: ``fed data schema``.

A schema is published with its job, so the draft tells nothing of a few patients: a level or class is written only if at
least ``LEAST`` rows have it, and a range comes from values that at least as many rows lie beyond, widened and rounded.
No mean and no standard deviation is written. Names of columns are.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import numpy as np

from crypto.errors import DataRefused, SpecError
from silo_agent.readers.encoder import BadValue, is_missing, level_of, numbers

#: Fewest rows that have what the draft writes.
LEAST: Final = 10
#: A text column with more levels than this is an identifier or free text, and is left out.
MOST_LEVELS: Final = 32
#: A target with more different numbers than this is a number to predict, not a class.
MOST_CLASSES: Final = 10
#: Ways to write a day that the draft recognises, as in ``strptime``.
FORMATS: Final = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%Y-%m-%d %H:%M:%S", "%Y%m%d")
#: By how much of its width a range is widened on each side, before it is rounded.
_WIDER = 1.0

_HEAD = f"""\
# A draft, made from one file by `fed data schema`. It will be published with the job: read every line.
# Levels and classes are written if at least {LEAST} rows have them; add the others that exist. Ranges are rounded
# guesses: put in what is plausible, from a textbook. Add units, and mean and sd if you know public ones.
"""


def draft(columns: Mapping[str, Sequence[object]], target: str, group: str | None = None) -> str:
    """The TOML text. ``target``: the column of the label; ``group``: of what keeps rows together.

    Raises SpecError for a column that is not there, DataRefused for a target with fewer than two classes.
    """
    for option, name in (("--target", target), ("--group", group)):
        if name is not None and name not in columns:
            raise SpecError(option, got=name, want=f"a column: {', '.join(columns)}")
    parts = [_HEAD, 'kind = "table"', *_target(target, columns[target]), "", "[split]"]
    parts += ["test = 0.2"] + ([] if group is None else [f"group = {_quoted(group)}"])
    for name, values in columns.items():
        if name not in (target, group):
            parts += ["", *_column(name, values)]
    return "\n".join(parts) + "\n"


def _target(name: str, values: Sequence[object]) -> list[str]:
    """Classes; or, of a column of many different numbers, a number to predict with its range."""
    known = [value for value in values if not is_missing(value)]
    if len({level_of(value) for value in known}) > MOST_CLASSES and (made := _numbers(known)) is not None:
        # Also where some of them are frequent, such as days: whoever means classes writes them by hand.
        return ["", "[target]", f"name = {_quoted(name)}", *(line for line in made if not line.startswith("type"))]
    classes = _frequent(values)
    if len(classes) < 2:
        raise DataRefused(
            f"Column {name!r} has fewer than two values that at least {LEAST} rows have.",
            remedy="Name the column of the label with --target, or write the schema by hand.",
        )
    return [f"classes = {_list(classes)}", f"target = {_quoted(name)}"]


def _column(name: str, values: Sequence[object]) -> list[str]:
    known = [value for value in values if not is_missing(value)]
    head = ["[[columns]]", f"name = {_quoted(name)}"]
    gone = ['missing = "indicator"'] if len(known) < len(values) else []
    if len(known) < 2 * LEAST:
        return [f"# left out: {_quoted(name)} has too few values to draft anything from"]
    levels = Counter(level_of(value) for value in known)
    made = None if len(levels) <= 2 else _days(known) or _numbers(known)
    if made is not None:
        return [*head, *made, *gone]
    frequent = _frequent(known)
    if len(levels) > MOST_LEVELS or not frequent:
        return [f"# left out: {_quoted(name)} looks like an identifier or free text"]
    rarer = [] if len(frequent) == len(levels) else ["# there are rarer levels: add those that exist"]
    return [*head, 'type = "category"', *rarer, f"levels = {_list(frequent)}", *gone]


def _numbers(known: Sequence[object]) -> list[str] | None:
    try:
        found = numbers({"name": "", "type": "number"}, known)
    except BadValue:
        return None
    low, high = _rounded(found)
    return ['type = "number"', '# unit = "…"', f"range = [{low:.12g}, {high:.12g}]"]


def _days(known: Sequence[object]) -> list[str] | None:
    column: dict[str, Any] = {"name": "", "type": "date", "origin": "2000-01-01", "unit": "days"}
    for formats in [[form] for form in FORMATS]:
        try:
            found = numbers(column | {"formats": formats}, known)
        except BadValue:
            continue
        years = [date.fromordinal(int(day) + date(2000, 1, 1).toordinal()).year for day in _inner(found)]
        first, last = years[0] // 10 * 10, years[1] // 10 * 10 + 10
        return [
            'type = "date"',
            f"formats = {_list(formats)}",
            f"origin = {first:04d}-01-01",
            'unit = "years"',
            f"range = [0, {last - first}]",
        ]
    return None


def _inner(found: np.ndarray) -> tuple[float, float]:
    """The lowest and highest value that ``LEAST`` rows lie at or beyond."""
    ordered = np.sort(found)
    return float(ordered[LEAST - 1]), float(ordered[-LEAST])


def _rounded(found: np.ndarray) -> tuple[float, float]:
    """A range around most values: widened, and rounded outwards to one digit of its width."""
    low, high = _inner(found)
    width = (high - low) or max(abs(low), 1.0)
    step = 10.0 ** math.floor(math.log10(width))
    wide_low, wide_high = low - _WIDER * width, high + _WIDER * width
    least = 0.0 if low >= 0 > wide_low else math.floor(wide_low / step) * step
    return least, math.ceil(wide_high / step) * step


def _frequent(values: Sequence[object]) -> list[str]:
    """The levels that at least ``LEAST`` rows have, in the order of their texts."""
    found = Counter(level_of(value) for value in values if not is_missing(value))
    return sorted(level for level, rows in found.items() if rows >= LEAST)


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, names))}]"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=not name.isprintable())
