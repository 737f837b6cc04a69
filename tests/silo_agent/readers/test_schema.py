"""Schemas: one canonical text, and what a schema may not say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import SpecError
from silo_agent.data import check
from silo_agent.readers.mock_rows import made_up
from silo_agent.readers.schema import DataSchema, difference
from tests.silo_agent.readers.tables import SCHEMA

IMAGES = {"kind": "image", "classes": ["a", "b"], "values": {"shape": [1, 8, 8], "range": [0, 255]}}
TEXTS = {"kind": "text", "classes": ["a", "b"], "target": "label", "text": {"length": 16}}


def table(change: Callable[[dict], object] = lambda raw: None) -> DataSchema:  # type: ignore[type-arg]
    raw = tomllib.loads(SCHEMA)
    change(raw)
    return DataSchema.parse(raw)


def test_a_schema_has_one_text_whatever_its_spelling(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SCHEMA, encoding="utf-8")
    one = DataSchema.load(tmp_path / "s.toml")
    turned = DataSchema.parse(dict(reversed(list(tomllib.loads(SCHEMA).items()))))
    assert one == turned == DataSchema.from_text(one.text) and one.digest == turned.digest
    assert '"outside":"refuse"' in one.text, "defaults are written out"
    assert table(lambda raw: raw["split"].update(test=0.2)).digest != one.digest
    assert DataSchema.parse(IMAGES).fields["values"]["mean"] == 127.5, "without mean and sd the range becomes −1 … 1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda raw: raw.update(kind="sheet"), "schema.kind"),
        (lambda raw: raw.update(colums=[]), "schema.colums"),
        (lambda raw: raw.pop("classes"), "schema.classes.*a number to predict"),
        (lambda raw: raw.update(classes=["yes"]), "schema.classes"),
        (lambda raw: raw.update(classes=["yes", "yes"]), "schema.classes"),
        (lambda raw: raw.update(classes=["yes", "NA"]), "schema.classes"),
        (lambda raw: raw.pop("target"), "schema.target"),
        (lambda raw: raw.update(split={"test": 1.0}), "schema.split.test"),
        (lambda raw: raw.update(split={"group": "age"}), "another column than the target"),
        (lambda raw: raw.update(target="age"), "another column than the target"),
        (lambda raw: raw.update(columns=[]), "schema.columns"),
        (lambda raw: raw["columns"].append(raw["columns"][0]), "a name that no other column has"),
        (lambda raw: raw["columns"][0].update(type="float"), "'age'.type"),
        (lambda raw: raw["columns"][0].update(levels=["a"]), "'age'.levels"),
        (lambda raw: raw["columns"][0].update(range=[9, 1]), "'age'.range"),
        (lambda raw: raw["columns"][0].pop("range"), "'age'.range"),
        (lambda raw: raw["columns"][0].pop("sd"), "'age'.sd"),
        (lambda raw: raw["columns"][0].update(sd=0), "'age'.sd"),
        (lambda raw: raw["columns"][0].update(mean=float("nan")), "'age'.mean"),
        (lambda raw: raw["columns"][0].update(missing=400), "'age'.missing"),
        (lambda raw: raw["columns"][0].update(missing="mean"), "'age'.missing"),
        (lambda raw: raw["columns"][0].update(outside="missing"), "'age'.missing"),
        (lambda raw: raw["columns"][0].update(absent="allow"), "'age'.missing"),
        (lambda raw: raw["columns"][4].update(levels=[]), "'sex'.levels"),
        (lambda raw: raw["columns"][4].update(missing="x"), "'sex'.missing"),
        (lambda raw: raw["columns"][5].update(origin="1.1.2020"), "'admitted'.origin"),
        (lambda raw: raw["columns"][5].update(unit="weeks"), "'admitted'.unit"),
        (lambda raw: raw["columns"][5].update(formats=["%d %B %Y"]), "'admitted'.formats"),
        (lambda raw: raw["columns"][0].update(unit="x" * 40000), "'age'.unit"),
    ],
)
def test_what_a_schema_may_not_say(change: Callable[[dict], object], field: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SpecError, match=field.replace(".", r"\.").replace(r"\.*", ".*")):
        table(change)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"shape": [8, 8], "range": [0, 1]}, "values.shape"),
        ({"shape": [1, 0, 8], "range": [0, 1]}, "values.shape"),
        ({"shape": [1, 1 << 20, 1 << 20], "range": [0, 1]}, "values.shape"),
        ({"shape": [1, 8, 8, 8], "range": [0, 1], "fit": "resize"}, "values.fit"),
        ({"shape": [1, 8, 8]}, "values.range"),
        ({"shape": [1, 8, 8], "range": [0, 1], "window": "lung"}, "values.window"),
    ],
)
def test_what_a_schema_of_images_may_not_say(values: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError, match=field):
        DataSchema.parse(IMAGES | {"values": values})


def test_masks_need_sides() -> None:
    raw = {"kind": "array", "classes": ["a", "b"], "labels": "masks", "values": {"shape": [4], "range": [0, 1]}}
    with pytest.raises(SpecError, match=r"schema\.labels"):
        DataSchema.parse(raw)
    made = DataSchema.parse(IMAGES | {"labels": "masks"})
    mock = check("mock", made_up(made))
    assert made.masks and mock.masks and mock.y_train.shape[1:] == (8, 8)


def test_files_that_are_no_schema(tmp_path: Path) -> None:
    for content, why in ((b"kind = ", "a schema in TOML"), ("kind = 'tablé'".encode("latin-1"), "a schema in UTF-8")):
        (tmp_path / "s.toml").write_bytes(content)
        with pytest.raises(SpecError, match=why):
            DataSchema.load(tmp_path / "s.toml")
    with pytest.raises(SpecError, match="No such file"):
        DataSchema.load(tmp_path / "gone.toml")
    for text in ("", "[1]", "{"):
        with pytest.raises(SpecError):
            DataSchema.from_text(text)


def test_the_schemas_of_the_page_are_schemas() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
    blocks = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if block.startswith("kind")]
    assert [DataSchema.parse(tomllib.loads(block)).kind for block in blocks][:2] == ["table", "array"]


def test_the_first_difference_is_named() -> None:
    other = table(lambda raw: raw["columns"][3].update(unit="mg/dl"))
    assert difference(other, table()) == (
        "column 'glucose': unit is \"mg/dl\" here, in the job column 'glucose': unit is \"mmol/l\""
    )
    turned = table(lambda raw: raw["columns"].reverse())
    assert difference(turned, table()).startswith("columns is [")
    assert difference(table(lambda raw: raw["columns"].pop()), table()).startswith("columns is [")
    assert difference(table(), table()) == ""


@pytest.mark.parametrize("raw", [tomllib.loads(SCHEMA), IMAGES, TEXTS], ids=["table", "image", "text"])
def test_a_mock_is_made_from_the_schema(raw: dict[str, object]) -> None:
    schema = DataSchema.parse(raw)
    mock = check("mock", made_up(schema))
    assert mock.shape == schema.shape and mock.classes == len(schema.classes)
    assert np.array_equal(mock.x_train, made_up(schema)["x_train"]), "the same at every silo"


def test_a_mock_of_yes_and_no_columns() -> None:
    columns = [{"name": f"c{n}", "type": "category", "levels": ["no", "yes"]} for n in range(3)]
    schema = DataSchema.parse({"kind": "table", "classes": ["a", "b"], "target": "y", "columns": columns})
    mock = check("mock", made_up(schema))
    assert set(np.unique(mock.x_train)) == {0, 1} and mock.shape == (6,)


def test_a_mock_of_volumes_has_few_rows() -> None:
    values = {"shape": [1, 64, 64, 64], "range": [-1000, 1000]}
    mock = made_up(DataSchema.parse(IMAGES | {"values": values}))
    assert mock["x_train"].shape == (16, 1, 64, 64, 64) and len(mock["x_test"]) == 16
