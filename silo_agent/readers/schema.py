"""A schema: what a job's rows look like, in public. One file for all silos of a job; every approval binds it.

    kind = "table"                       # table | array | image | text
    classes = ["no", "yes"]              # names of the labels, in order: label 0 is "no"
    target = "died"                      # table, text: the column of the label
    [split]                              # of rows that are not in train/ and test/ already
    test = 0.2                           # share of test rows
    group = "patient"                    # table, text: rows with one value of it stay on one side

    [[columns]]                          # table: what is read, in this order; other columns of a file are not
    name = "glucose"
    type = "number"                      # number | category | date
    unit = "mmol/l"
    range = [1, 40]                      # what is plausible; anything else is a fault, or:
    outside = "refuse"                   #   refuse | clip | missing
    mean = 6.0                           # public constants; without them the range is brought to −1 … 1
    sd = 2.0
    missing = "indicator"                # refuse (default) | indicator: 0 and a column of its own | a value
    absent = "refuse"                    # a silo without this column: refuse | allow, and it is missing in every row

Instead of ``classes`` and the name of a ``target``, a number to predict, or several labels of each row:

    [target]
    name = "stay"                        # table, text: its column. Images: the column of labels.csv; arrays: none
    unit = "days"
    range = [0, 60]                      # public bounds: beyond them a silo's target is a fault, or:
    outside = "refuse"                   #   refuse | clip. A missing target always is one
    mean = 9                             # public scaling of what is learned
    sd = 8

    targets = ["stroke", "infarct"]      # columns of yes and no: 1 and 0, true and false, yes and no

A category has ``levels`` (texts) and no numbers; a date has ``formats`` (as in Python's strptime), ``origin`` and the
unit days or years. Arrays and images have ``[values]`` with ``shape`` (images: channels first), ``range``, ``outside``
(refuse | clip), ``mean`` and ``sd``; images also ``fit`` (refuse | pad | resize) for another size, and ``window``
(none, or file: a DICOM file's own window, as 0 … 1). ``labels = "masks"`` at the top: each row has a mask of class
numbers, of its shape without channels. Text has ``[text]`` with ``field`` and ``length`` in bytes.

Every number in it is a constant that somebody chose in public. Never compute one from a silo's rows: it would be
published with the job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from math import isfinite, prod
from pathlib import Path
from typing import Any, Final

from crypto import text_files
from crypto.encoding import Writer
from crypto.errors import SpecError
from silo_agent.data import CLASS, LABELS, MASK, MOST_LABELS, NUMBER, scale_fault
from silo_agent.readers.encoder import MISSING, TableEncoder, TextEncoder, ValueEncoder, encoder

KINDS: Final = ("table", "array", "image", "text")
TYPES: Final = ("number", "category", "date")
#: Most columns of a table, levels of one, classes, and characters of a schema's canonical text.
MOST_COLUMNS, MOST_LEVELS, MOST_CLASSES, MOST_TEXT = 4096, 1024, 2**18, 1 << 15
#: Most elements of one row: a volume of 256 × 256 × 256.
MOST_ELEMENTS = 1 << 24

#: What a date's format may use. Names of months and days depend on a machine's language.
_DIRECTIVES: Final = set("YymdHMSf")

#: Fields of a number to predict that has no column.
_UNNAMED = ("unit", "range", "outside", "mean", "sd")
_TOP = {
    "table": ("kind", "classes", "target", "targets", "split", "columns"),
    "array": ("kind", "classes", "target", "targets", "labels", "split", "values"),
    "image": ("kind", "classes", "target", "targets", "labels", "split", "values"),
    "text": ("kind", "classes", "target", "targets", "split", "text"),
}
_COLUMN = {
    "number": ("name", "type", "unit", "range", "outside", "mean", "sd", "missing", "absent"),
    "category": ("name", "type", "levels", "missing", "absent"),
    "date": ("name", "type", "unit", "range", "outside", "mean", "sd", "missing", "absent", "formats", "origin"),
}


@dataclass(frozen=True, slots=True)
class DataSchema:
    """A checked schema. Equal schemas have equal ``text``; ``digest`` is what approvals and registrations bind."""

    fields: Mapping[str, Any]
    """Plain values with every default filled in, as in ``text``."""

    @classmethod
    def parse(cls, raw: Mapping[str, object], where: str = "schema") -> DataSchema:
        """Raises SpecError that names the field."""
        kind = raw.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise SpecError(f"{where}.kind", got=kind, want=f"one of {', '.join(KINDS)}")
        _known(raw, _TOP[kind], where)
        fields: dict[str, Any] = {"kind": kind} | _target(raw, kind, where)
        fields["split"] = _split(_table(raw.get("split", {}), f"{where}.split"), kind, f"{where}.split")
        if kind == "table":
            fields["columns"] = _columns(raw.get("columns"), fields, f"{where}.columns")
        elif kind == "text":
            fields["text"] = _text_fields(_table(raw.get("text"), f"{where}.text"), f"{where}.text")
        else:
            if "classes" in fields:
                fields["labels"] = _choice(raw, "labels", where, ("classes", "masks"))
            elif "labels" in raw:
                raise SpecError(f"{where}.labels", got=raw["labels"], want="none, beside target or targets")
            fields["values"] = _values(_table(raw.get("values"), f"{where}.values"), kind, f"{where}.values")
            if fields.get("labels") == "masks" and len(fields["values"]["shape"]) < 2:
                raise SpecError(f"{where}.labels", got="masks", want="classes, for rows without channels and sides")
        made = cls(fields)
        if len(made.text) > MOST_TEXT:
            raise SpecError(where, got=f"{len(made.text)} characters", want=f"at most {MOST_TEXT} characters")
        return made

    @classmethod
    def load(cls, path: Path) -> DataSchema:
        """A schema file: TOML in UTF-8. Raises SpecError."""
        found = text_files.read_toml(path, "a schema", remedy="`fed data schema FILE` drafts one.")
        return cls.parse(found, path.name)

    @classmethod
    def from_text(cls, text: str) -> DataSchema:
        """The schema of a canonical text. Raises SpecError."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as bad:
            raise SpecError("schema text", got=text[:40], want="canonical JSON") from bad
        return cls.parse(_table(raw, "schema text"))

    @property
    def text(self) -> str:
        """Canonical JSON: with ``readers/encoder.py`` it is all that a model needs to take raw rows."""
        return json.dumps(self.fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    @property
    def digest(self) -> bytes:
        return sha256(bytes(Writer().text("consilium/1/schema").text(self.text))).digest()

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them. Of several labels a row theirs; of a number none."""
        return tuple(self.fields.get("classes", self.targets))

    @property
    def target(self) -> str:
        """The kind of target: one of ``silo_agent.data.KINDS``."""
        if self.number is not None:
            return NUMBER
        return LABELS if self.targets else MASK if self.masks else CLASS

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the labels, where a row has several."""
        return tuple(self.fields.get("targets", ()))

    @property
    def number(self) -> Mapping[str, Any] | None:
        """The number to predict: as a column of a table."""
        found = self.fields.get("target")
        return found if isinstance(found, Mapping) else None

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns, or fields, that have the target of a table or text; of images, beside ``labels.csv``'s own."""
        if self.number is not None:
            return (str(self.number["name"]),) if "name" in self.number else ()
        return self.targets or ((str(self.fields["target"]),) if "target" in self.fields else ())

    @property
    def params(self) -> Mapping[str, float | str | int]:
        """What a job on such data has to say of its task; "classes" is of every job but those of a number."""
        if (number := self.number) is not None:
            low, high = number["range"]
            scale = {"target_low": low, "target_high": high, "target_mean": number["mean"], "target_sd": number["sd"]}
            return {"task": "regression"} | scale
        found: dict[str, float | str | int] = {"classes": len(self.classes)}
        if task := {LABELS: "multilabel", MASK: "segmentation"}.get(self.target):
            found["task"] = task
        return found

    @property
    def columns(self) -> tuple[Mapping[str, Any], ...]:
        """The columns of a table; of another kind none."""
        return tuple(self.fields.get("columns", ()))

    @property
    def masks(self) -> bool:
        """Whether each row has a mask of class numbers in place of one label."""
        return self.fields.get("labels") == "masks"

    @property
    def encoder(self) -> TableEncoder | ValueEncoder | TextEncoder:
        return encoder(self.text)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded row."""
        return self.encoder.shape


def difference(have: DataSchema, want: DataSchema) -> str:
    """The first thing that two schemas say differently, for a message; "" if they are equal."""
    mine, theirs = _flat(have.fields), _flat(want.fields)
    for key in [*theirs, *mine]:
        if mine.get(key) != theirs.get(key):
            shown = (
                f"{key} is {json.dumps(found)}" if found is not None else f"no {key}"
                for found in (mine.get(key), theirs.get(key))
            )
            return " here, in the job ".join(shown)
    return ""


def _flat(fields: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted path → value; a column is found by its name, and its place is a value too."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        if key == "columns":
            found["columns"] = [column["name"] for column in value]
            for column in value:
                found |= _flat(column, f"column {column['name']!r}: ")
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


# --- the parts of a schema -------------------------------------------------------------------------------------------


def _known(raw: Mapping[str, object], names: tuple[str, ...], where: str) -> None:
    for key in raw:
        if key not in names:
            raise SpecError(f"{where}.{key}", got=raw[key], want=f"one of the fields {', '.join(names)}")


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise SpecError(where, got=value, want="a table")
    return dict(value)


def _text(raw: Mapping[str, object], key: str, where: str, default: str | None = None) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        raise SpecError(f"{where}.{key}", got=value, want="text of 1 to 200 printable characters")
    return value


def _number(raw: Mapping[str, object], key: str, where: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise SpecError(f"{where}.{key}", got=value, want="a finite number")
    return float(value)


def _choice(raw: Mapping[str, object], key: str, where: str, choices: tuple[str, ...]) -> str:
    value = raw.get(key, choices[0])
    if not isinstance(value, str) or value not in choices:
        raise SpecError(f"{where}.{key}", got=value, want=f"one of {', '.join(choices)}")
    return value


def _names(value: object, where: str, least: int, most: int) -> list[str]:
    if not isinstance(value, list) or not least <= len(value) <= most or len(set(map(str, value))) != len(value):
        raise SpecError(where, got=value, want=f"{least} to {most} different texts")
    for name in value:
        if not isinstance(name, str) or not name or name != name.strip() or name in MISSING or not name.isprintable():
            raise SpecError(where, got=name, want="a printable text that does not stand for a missing value")
    return list(value)


def _target(raw: Mapping[str, object], kind: str, where: str) -> dict[str, Any]:
    """``classes`` and the name of the ``target``; or a table ``target``; or ``targets``."""
    target = raw.get("target")
    given = [name for name in ("classes", "targets") if name in raw]
    given += ["[target]"] if isinstance(target, Mapping) else []
    if len(given) != 1:
        raise SpecError(
            f"{where}.classes",
            got=" and ".join(given) or None,
            want="one of classes (the names of the classes, in order), targets (columns of yes and no), and [target] "
            "(a number to predict, with its range)",
        )
    if isinstance(target, Mapping):
        return {"target": _number_target(dict(target), kind, f"{where}.target")}
    if "targets" in raw:
        if target is not None:
            raise SpecError(f"{where}.target", got=target, want="none, beside targets")
        return {"targets": _names(raw["targets"], f"{where}.targets", 1, MOST_LABELS)}
    found: dict[str, Any] = {"classes": _names(raw["classes"], f"{where}.classes", 2, MOST_CLASSES)}
    if kind in ("table", "text"):
        return found | {"target": _text(raw, "target", where)}
    if target is not None:
        raise SpecError(f"{where}.target", got=target, want="none, beside classes: only tables and texts name a column")
    return found


def _number_target(raw: dict[str, object], kind: str, where: str) -> dict[str, Any]:
    named = kind != "array"
    _known(raw, ("name", "unit", "range", "outside", "mean", "sd") if named else _UNNAMED, where)
    made: dict[str, Any] = {"name": _text(raw, "name", where, "label" if kind == "image" else None)} if named else {}
    if "unit" in raw:
        made["unit"] = _text(raw, "unit", where)
    made |= _scaling(raw, where) | {"outside": _choice(raw, "outside", where, ("refuse", "clip"))}
    low, high = made["range"]
    if fault := scale_fault(low, high, made["mean"], made["sd"]):
        raise SpecError(f"{where}.{fault[0]}", got=fault[1], want=fault[2])
    return made


def _split(raw: dict[str, object], kind: str, where: str) -> dict[str, Any]:
    _known(raw, ("test", "group") if kind in ("table", "text") else ("test",), where)
    share = _number({"test": raw.get("test", 0.2)}, "test", where)
    if not 0 < share < 1:
        raise SpecError(f"{where}.test", got=share, want="a share between 0 and 1")
    return {"test": share} | ({"group": _text(raw, "group", where)} if "group" in raw else {})


def _columns(value: object, fields: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_COLUMNS:
        raise SpecError(where, got=type(value).__name__, want=f"1 to {MOST_COLUMNS} tables [[columns]]")
    made = [_column(_table(raw, f"{where}[{n}]"), f"{where}[{n}]") for n, raw in enumerate(value)]
    names = [column["name"] for column in made]
    target = fields.get("target")
    own = [target["name"]] if isinstance(target, Mapping) else [target]
    reserved = {*own, *fields.get("targets", ()), fields["split"].get("group")}
    for n, name in enumerate(names):
        if name in names[:n]:
            raise SpecError(f"{where}[{n}].name", got=name, want="a name that no other column has")
        if name in reserved:
            raise SpecError(f"{where}[{n}].name", got=name, want="another column than the target and the group")
    return made


def _column(raw: dict[str, object], where: str) -> dict[str, Any]:
    name = _text(raw, "name", where)
    where = f"{where} {name!r}"
    if (kind := raw.get("type")) not in TYPES:
        raise SpecError(f"{where}.type", got=kind, want=f"one of {', '.join(TYPES)}")
    _known(raw, _COLUMN[str(kind)], where)
    made: dict[str, Any] = {
        "name": name,
        "type": str(kind),
        "absent": _choice(raw, "absent", where, ("refuse", "allow")),
    }
    if kind == "category":
        made["levels"] = _names(raw.get("levels"), f"{where}.levels", 1, MOST_LEVELS)
        allowed = ("refuse", "indicator", *made["levels"])
        made["missing"] = _choice(raw, "missing", where, allowed)
    else:
        if kind == "date":
            made |= _date_fields(raw, where)
        elif "unit" in raw:
            made["unit"] = _text(raw, "unit", where)
        made |= _scaling(raw, where) | {"outside": _choice(raw, "outside", where, ("refuse", "clip", "missing"))}
        rule = raw.get("missing", "refuse")
        made["missing"] = rule if rule in ("refuse", "indicator") else _number({"missing": rule}, "missing", where)
        low, high = made["range"]
        if isinstance(made["missing"], float) and not low <= made["missing"] <= high:
            raise SpecError(f"{where}.missing", got=rule, want="refuse, indicator, or a number inside the range")
        if made["outside"] == "missing" and made["missing"] == "refuse":
            raise SpecError(
                f"{where}.missing", got="refuse", want='another rule, because outside = "missing" needs one'
            )
    if made["absent"] == "allow" and made["missing"] == "refuse":
        raise SpecError(f"{where}.missing", got="refuse", want='another rule, because absent = "allow" needs one')
    return made


def _date_fields(raw: Mapping[str, object], where: str) -> dict[str, Any]:
    formats = _names(raw.get("formats", ["%Y-%m-%d"]), f"{where}.formats", 1, 8)
    for form in formats:
        if not set(re.findall("%(.?)", form)) <= _DIRECTIVES:
            want = f"only {', '.join('%' + one for one in sorted(_DIRECTIVES))}: names of months differ by language"
            raise SpecError(f"{where}.formats", got=form, want=want)
    origin = raw.get("origin")
    text = origin.isoformat() if isinstance(origin, date) else origin
    try:
        date.fromisoformat(str(text))
    except ValueError as bad:
        raise SpecError(f"{where}.origin", got=origin, want="a day, YYYY-MM-DD") from bad
    return {"formats": formats, "origin": str(text), "unit": _choice(raw, "unit", where, ("days", "years"))}


def _scaling(raw: Mapping[str, object], where: str) -> dict[str, Any]:
    """range, mean and sd; without mean and sd those that bring the range to −1 … 1."""
    pair = raw.get("range")
    if not isinstance(pair, list) or len(pair) != 2:
        raise SpecError(f"{where}.range", got=pair, want="two numbers: the least and the most that is plausible")
    low, high = (_number({"range": end}, "range", where) for end in pair)
    if not low < high:
        raise SpecError(f"{where}.range", got=pair, want="the lower number first")
    if ("mean" in raw) != ("sd" in raw):
        raise SpecError(f"{where}.{'sd' if 'mean' in raw else 'mean'}", got=None, want="both mean and sd, or neither")
    mean, sd = (low + high) / 2, (high - low) / 2
    if "mean" in raw:
        mean, sd = _number(raw, "mean", where), _number(raw, "sd", where)
    if not (sd > 0 and isfinite((high - mean) / sd) and isfinite((low - mean) / sd)):
        raise SpecError(f"{where}.sd", got=sd, want="more than 0, and not too small for the range")
    return {"range": [low, high], "mean": mean, "sd": sd}


def _values(raw: dict[str, object], kind: str, where: str) -> dict[str, Any]:
    names = ("shape", "range", "outside", "mean", "sd")
    _known(raw, (*names, "fit", "window") if kind == "image" else names, where)
    shape = raw.get("shape")
    sides = shape if isinstance(shape, list) else []
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        sides = []
    if not (sides and prod(sides) <= MOST_ELEMENTS and (kind == "array" or len(sides) in (3, 4))):
        want = "whole numbers" if kind == "array" else "channels, height, width, or channels, depth, height, width"
        raise SpecError(f"{where}.shape", got=shape, want=f"{want}, at most {MOST_ELEMENTS} values in all")
    made = {"shape": list(sides), "outside": _choice(raw, "outside", where, ("refuse", "clip"))} | _scaling(raw, where)
    if kind == "image":
        made["fit"] = _choice(raw, "fit", where, ("refuse", "pad", "resize") if len(sides) == 3 else ("refuse", "pad"))
        made["window"] = _choice(raw, "window", where, ("none", "file"))
    return made


def _text_fields(raw: dict[str, object], where: str) -> dict[str, Any]:
    _known(raw, ("field", "length"), where)
    length = raw.get("length")
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= 1 << 16:
        raise SpecError(f"{where}.length", got=length, want="bytes, from 1 to 65536")
    return {"field": _text(raw, "field", where, "text"), "length": length}
