"""Numbers, several labels and masks as targets: read by the schema, and refused by file, column and row."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.errors import DataRefused, NonFinite, SpecError
from silo_agent.data import LABELS, MASK, NUMBER, DataSet, check, commitment, load
from silo_agent.pysyft.mock import Schema, arrays_of
from silo_agent.readers.draft import draft
from silo_agent.readers.mock_rows import made_up
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import Source
from silo_agent.readers.targets import target_of

STAY: dict[str, Any] = {
    "kind": "table",
    "target": {"name": "stay", "unit": "days", "range": [0, 60], "mean": 9, "sd": 8},
    "columns": [{"name": "age", "type": "number", "range": [0, 120]}],
}
SEVERAL: dict[str, Any] = {"kind": "table", "targets": ["stroke", "infarct"], "columns": STAY["columns"]}


def table(path: Path, header: str, line: Callable[[int], str], rows: int = 30) -> Path:
    path.write_text("\n".join([header, *(line(n) for n in range(rows))]) + "\n")
    return path


def read(path: Path, raw: dict[str, Any]) -> DataSet:
    return Reference.take("d", path, DataSchema.parse(raw)).read("d")


def test_a_number_keeps_its_unit(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "age,stay", lambda n: f"{20 + n},{n / 2}")
    found = read(path, STAY)
    assert (found.target, found.classes, found.y_train.dtype) == (NUMBER, 1, np.float64)
    assert sorted([*found.y_train, *found.y_test]) == [n / 2 for n in range(30)] and len(found.y_test) == 6
    assert DataSchema.parse(STAY).params == {
        "task": "regression",
        "target_low": 0,
        "target_high": 60,
        "target_mean": 9,
        "target_sd": 8,
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", r"a\.csv: column 'stay', row 4: the target is missing"),
        ("NaN", r"a\.csv: column 'stay', row 4: the target is missing"),
        ("inf", r"a\.csv: column 'stay': 'inf' is not a number \(row 4\)"),
        ("long", r"a\.csv: column 'stay': 'long' is not a number \(row 4\)"),
        ("7,5", r"a\.csv"),
        ("61", r"a\.csv: column 'stay', row 4: values outside 0 to 60 days; the median of the column is"),
    ],
)
def test_a_faulty_number_names_file_column_and_row(tmp_path: Path, value: str, said: str) -> None:
    path = table(tmp_path / "a.csv", "age;stay", lambda n: f"{20 + n};{value if n == 3 else n}")
    with pytest.raises(DataRefused, match=said):
        read(path, STAY)


def test_numbers_beyond_the_range_may_be_clipped(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "age,stay", lambda n: f"{20 + n},{n * 3}")
    found = read(path, STAY | {"target": STAY["target"] | {"outside": "clip"}})
    assert max(found.y_train.max(), found.y_test.max()) == 60


def test_labels_of_yes_and_no(tmp_path: Path) -> None:
    written = ["1,yes", "0,NO", "1.0,True", "false,0"]
    path = table(tmp_path / "a.csv", "age,stroke,infarct", lambda n: f"{20 + n},{written[n % 4]}")
    found = read(path, SEVERAL)
    assert (found.target, found.classes) == (LABELS, 2) and found.y_train.shape == (24, 2)
    assert sorted(map(tuple, [*found.y_train, *found.y_test]))[:7] == [(0, 0)] * 7
    path = table(tmp_path / "a.csv", "age,stroke,infarct", lambda n: f"{20 + n},{'maybe' if n == 2 else 1},0")
    with pytest.raises(DataRefused, match=r"a\.csv: column 'stroke', row 3: 'maybe' is neither yes nor no"):
        read(path, SEVERAL)
    path = table(tmp_path / "a.csv", "age,stroke", lambda n: f"{20 + n},1")
    with pytest.raises(DataRefused, match="has no column 'infarct'"):
        read(path, SEVERAL)


def test_a_row_of_text_names_its_line(tmp_path: Path) -> None:
    raw = {"kind": "text", "target": STAY["target"], "text": {"length": 8}}
    source = Source("d", tmp_path, ("a.jsonl",), DataSchema.parse(raw))
    assert target_of(source, "a.jsonl: line 2", {"stay": 4}) == 4
    with pytest.raises(DataRefused, match=r"a\.jsonl: line 2: 'stay': the target is missing"):
        target_of(source, "a.jsonl: line 2", {"stay": None})


def arrays(**changed: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {"x_train": rng.normal(size=(20, 3)), "x_test": rng.normal(size=(6, 3))}
    return made | {"y_train": np.linspace(0, 9, 20), "y_test": np.linspace(1, 2, 6)} | changed


def test_an_npz_of_numbers_needs_no_classes_and_one_of_labels_says_how_many(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", allow_pickle=False, **arrays())
    found = load(tmp_path / "n.npz", "n")
    assert found.target == NUMBER and found.y_test.tolist() == np.linspace(1, 2, 6).tolist()
    ys = {"y_train": np.eye(20, 2, dtype=np.int64), "y_test": np.eye(6, 2, dtype=np.int64), "labels": np.array(2)}
    several = check("s", arrays(**ys))
    assert (several.target, several.classes) == (LABELS, 2)
    for one in (found, several):
        again = check("again", arrays_of(one))
        assert Schema.of(again) == Schema.of(one) and commitment(again, b"s" * 16) == commitment(one, b"s" * 16)
    assert commitment(found, b"s" * 16) != commitment(several, b"s" * 16)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        (
            {"y_train": np.r_[np.zeros(18), np.nan, np.inf]},
            NonFinite,
            "y_train is NaN or infinite in row 19 and 1 more",
        ),
        ({"y_train": np.zeros(20)}, DataRefused, "one value in y_train"),
        ({"y_train": np.zeros((20, 2))}, DataRefused, "one number a row"),
        ({"y_train": np.arange(20)}, DataRefused, "lacks classes"),
        ({"classes": np.array(2)}, DataRefused, "not class labels"),
        ({"labels": np.array(65)}, DataRefused, "labels is no integer from 1 to 64"),
        ({"labels": np.array(2), "classes": np.array(2)}, DataRefused, "both classes and labels"),
        (
            {"labels": np.array(2), "y_train": np.full((20, 2), 2), "y_test": np.eye(6, 2, dtype=int)},
            DataRefused,
            "outside 0 … 1",
        ),
        (
            {"labels": np.array(3), "y_train": np.eye(20, 2, dtype=int), "y_test": np.eye(6, 2, dtype=int)},
            DataRefused,
            "of 3 labels",
        ),
        (
            {"labels": np.array(2), "y_train": np.zeros((20, 2), int), "y_test": np.eye(6, 2, dtype=int)},
            DataRefused,
            "one answer",
        ),
    ],
)
def test_faulty_targets_are_named(changed: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check("d", arrays(**changed))


def test_arrays_by_a_schema(tmp_path: Path) -> None:
    raw: dict[str, Any] = {
        "kind": "array",
        "target": {"range": [0, 10]},
        "values": {"shape": [3], "range": [-9, 9], "mean": 0, "sd": 1},
    }
    np.savez(tmp_path / "n.npz", allow_pickle=False, **arrays())
    assert read(tmp_path / "n.npz", raw).target == NUMBER
    np.savez(tmp_path / "n.npz", allow_pickle=False, **arrays(y_test=np.array([1, 2, 11.0, 3, 4, 5])))
    with pytest.raises(DataRefused, match=r"n\.npz: targets, row 3: values outside 0 to 10"):
        read(tmp_path / "n.npz", raw)
    labels = {"y_train": np.eye(20, 2) > 0, "y_test": np.eye(6, 2) > 0}
    np.savez(tmp_path / "n.npz", allow_pickle=False, **arrays(**labels))
    several = {"kind": "array", "targets": ["a", "b"], "values": raw["values"]}
    assert read(tmp_path / "n.npz", several).target == LABELS


def test_pictures_have_their_number_in_labels_csv(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for n in range(20):
        image.fromarray(np.full((4, 4), n, np.uint8)).save(tmp_path / f"{n}.png")
    raw: dict[str, Any] = {
        "kind": "image",
        "target": {"range": [0, 100], "name": "age"},
        "values": {"shape": [1, 4, 4], "range": [0, 255]},
    }
    with pytest.raises(DataRefused, match=r"labels\.csv: is not there, and the schema says a number a row"):
        read(tmp_path, raw)
    table(tmp_path / "labels.csv", "file,age", lambda n: f"{n}.png,{n}", 20)
    assert sorted(read(tmp_path, raw).y_train)[-1] <= 19 and read(tmp_path, raw).target == NUMBER
    table(tmp_path / "labels.csv", "file,age", lambda n: f"{n}.png,{'' if n == 4 else n}", 20)
    with pytest.raises(DataRefused, match=r"labels\.csv: column 'age', row 5: the target is missing"):
        read(tmp_path, raw)
    table(tmp_path / "labels.csv", "file,a,b", lambda n: f"{n}.png,{n % 2},1", 20)
    several = {"kind": "image", "targets": ["a", "b"], "values": raw["values"]}
    assert read(tmp_path, several).y_train.shape == (16, 2)


@pytest.mark.parametrize("raw", [STAY, SEVERAL])
def test_a_mock_is_made_from_the_schema_alone(raw: dict[str, Any]) -> None:
    schema = DataSchema.parse(raw)
    made = check("mock", made_up(schema))
    assert made.target == schema.target and Schema.of(made).arrays["y_test"].startswith(("float64", "int64 (rows, 2)"))
    assert DataSchema.from_text(schema.text) == schema and schema.target in (NUMBER, LABELS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": ["no", "yes"]}, r"schema\.classes: got 'classes and \[target\]'"),
        ({"targets": ["a"]}, r"schema\.classes"),
        ({"target": {"range": [0, 60]}}, r"schema\.target\.name"),
        ({"target": STAY["target"] | {"range": [0]}}, r"schema\.target\.range"),
        ({"target": STAY["target"] | {"mean": 99}}, r"schema\.target\.mean"),
        ({"target": STAY["target"] | {"sd": 1e-9}}, r"schema\.target\.sd: got 1e-09, want more than 0"),
        ({"target": STAY["target"] | {"range": [0, 1e30], "sd": 1e28}}, r"schema\.target\.range: .*take another unit"),
        ({"target": STAY["target"] | {"outside": "missing"}}, r"schema\.target\.outside"),
        ({"target": STAY["target"] | {"levels": []}}, r"schema\.target\.levels"),
        ({"target": STAY["target"] | {"name": "age"}}, "another column than the target"),
        ({"target": "stay"}, r"schema\.classes: got None"),
    ],
)
def test_what_a_schema_may_not_say_of_a_target(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        DataSchema.parse(STAY | change)


def test_a_draft_of_a_target_of_many_numbers() -> None:
    columns: dict[str, list[object]] = {"age": [*range(40)], "stay": [n / 3 for n in range(40)]}
    schema = DataSchema.parse(tomllib.loads(draft(columns, "stay")))
    assert schema.target == NUMBER and schema.number is not None and schema.number["range"][0] <= 0
    assert MASK not in schema.params.values()
