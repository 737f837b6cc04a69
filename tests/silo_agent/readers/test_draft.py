"""A drafted schema reads the table that it was drafted from, and tells nothing of a few patients."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from crypto.errors import DataRefused, SpecError
from silo_agent.readers.draft import LEAST, draft
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.tables import columns_of
from tests.silo_agent.readers.tables import Row, patients, write_csv


def columns(rows: list[Row]) -> dict[str, list[object]]:
    return {name: [str(row[name]) for row in rows] for name in rows[0]}


def one_date(rows: list[Row]) -> list[Row]:
    return [row | {"admitted": f"202{n % 5}-03-1{n % 10}"} for n, row in enumerate(rows)]


def test_a_draft_reads_its_own_table(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", one_date(patients(200)))
    schema = DataSchema.parse(tomllib.loads(draft(columns_of(path), "died")))
    assert {column["name"]: column["type"] for column in schema.columns} == {
        **dict.fromkeys(("age", "systolic", "diastolic", "glucose"), "number"),
        "sex": "category",
        "admitted": "date",
    }, "names are left out"
    assert schema.classes == ("no", "yes")
    rules = {column["name"]: column["missing"] for column in schema.columns}
    assert rules["systolic"] == "indicator" and rules["age"] == "refuse"
    data = Reference.take("a", path, schema).read("a")
    assert data.rows == 160


def test_what_few_rows_have_is_not_written() -> None:
    rows = one_date(patients(200))
    for n in range(LEAST - 1):
        rows[n] |= {"sex": "intersex", "age": 9999, "glucose": -4321, "died": "unknown", "admitted": "1873-01-01"}
    text = draft(columns(rows), "died", group="name")
    for secret in ("intersex", "9999", "4321", "unknown", "1873", "Patient"):
        assert secret not in text, secret
    assert "# there are rarer levels" in text and 'group = "name"' in text
    found = {column["name"]: column for column in tomllib.loads(text)["columns"]}
    assert found["age"]["range"][1] <= 200
    assert "mean" not in text.split("[split]")[1] and "sd" not in text.split("[split]")[1]


def test_ranges_are_round() -> None:
    rows = [row | {"glucose": 3.1234 + n % 50 / 7.77} for n, row in enumerate(patients(200))]
    found = {column["name"]: column for column in tomllib.loads(draft(columns(rows), "died"))["columns"]}
    assert found["glucose"]["range"] == [0, 15]


def test_free_text_and_columns_with_few_values_are_left_out() -> None:
    rows = [row | {"note": f"he said {n}", "rare": "" if n > 5 else n} for n, row in enumerate(patients(100))]
    text = draft(columns(rows), "died")
    assert '# left out: "note" looks like an identifier' in text and '# left out: "rare" has too few values' in text
    assert "he said" not in text


@pytest.mark.parametrize("name", ['a "quoted"', "back\\slash", "größe", "tab\there"])
def test_any_name_is_written_as_toml(name: str) -> None:
    rows = [row | {name: n % 2} for n, row in enumerate(patients(100))]
    found = tomllib.loads(draft(columns(rows), "died"))["columns"]
    assert found[-1]["name"] == name and found[-1]["levels"] == ["0", "1"]


def test_columns_that_are_not_there_and_targets_of_one_class() -> None:
    with pytest.raises(SpecError, match="--target"):
        draft(columns(patients()), "dead")
    with pytest.raises(SpecError, match="--group"):
        draft(columns(patients()), "died", "ward")
    with pytest.raises(DataRefused, match="fewer than two values"):
        draft(columns([row | {"died": "no"} for row in patients()]), "died")
