"""JSONL: texts as bytes, and faults by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused
from silo_agent.data import DataSet
from silo_agent.readers.ranges import findings
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema

BY = DataSchema.parse(
    {
        "kind": "text",
        "classes": ["calm", "urgent"],
        "target": "label",
        "split": {"test": 0.25, "group": "patient"},
        "text": {"field": "note", "length": 12},
    }
)


def lines(count: int = 40) -> list[dict[str, object]]:
    return [
        {"note": f"Größe {n}" + "!" * n, "label": ("calm", "urgent")[n % 2], "patient": n // 2} for n in range(count)
    ]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> DataSet:
    return Reference.take("notes", path, BY).read("notes")


def test_texts_become_bytes(tmp_path: Path) -> None:
    data = read(write(tmp_path / "a.jsonl", lines()))
    assert data.shape == (12,) and (len(data.y_train), len(data.y_test)) == (30, 10) and findings(data, BY) == []
    row = BY.encoder.encode(["Größe"])[0]
    assert row.tolist() == [byte + 1.0 for byte in "Größe".encode()] + [0.0] * 5
    assert any(np.array_equal(BY.encoder.encode(["Größe 3!!!"])[0], x) for x in (*data.x_train, *data.x_test))


def test_several_files_are_one_table(tmp_path: Path) -> None:
    write(tmp_path / "d" / "1.jsonl", lines()[:20])
    write(tmp_path / "d" / "2.jsonl", lines()[20:])
    assert np.array_equal(read(tmp_path / "d").x_train, read(write(tmp_path / "a.jsonl", lines())).x_train)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is no JSON"),
        ("[1]", "is no JSON object"),
        ('{"note": "a", "patient": 1}', "has no 'label'"),
        ('{"label": "calm", "patient": 1}', "has no 'note'"),
        ('{"note": 3, "label": "calm", "patient": 1}', "'note' is no text"),
        ('{"note": "a", "label": "angry", "patient": 1}', "'angry' is none of the job's classes"),
        ('{"note": "a", "label": null, "patient": 1}', "the label is missing"),
    ],
)
def test_faults_name_the_line(tmp_path: Path, line: str, why: str) -> None:
    path = write(tmp_path / "a.jsonl", lines(3))
    with path.open("a") as out:
        out.write(line + "\n")
    with pytest.raises(DataRefused, match=rf"a\.jsonl: line 4: {why}"):
        read(path)


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(DataRefused, match=r"a\.jsonl: is not UTF-8"):
        read(tmp_path / "a.jsonl")


# --- Hugging Face data sets on disk ----------------------------------------------------------------------------------


def saved_to_disk(path: Path, rows: list[dict[str, object]], labels: list[str] | None = None) -> Path:
    """A folder as ``datasets.Dataset.save_to_disk`` leaves it: one Arrow stream with the features, two JSON files."""
    import pyarrow

    table = pyarrow.Table.from_pylist(rows)
    if labels is not None:
        features = {"label": {"names": labels, "_type": "ClassLabel"}, "note": {"dtype": "string", "_type": "Value"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.mkdir(parents=True)
    file = str(path / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(file, "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    for name in ("state.json", "dataset_info.json"):
        (path / name).write_text("{}")
    return path


def test_a_data_set_on_disk_gives_what_jsonl_gives(tmp_path: Path) -> None:
    rows = lines()
    numbered = [row | {"label": ("calm", "urgent").index(str(row["label"]))} for row in rows]
    plain = read(write(tmp_path / "a.jsonl", rows))
    for other in (
        saved_to_disk(tmp_path / "named", rows),
        saved_to_disk(tmp_path / "numbered", numbered, ["calm", "urgent"]),
    ):
        data = read(other)
        assert np.array_equal(data.x_train, plain.x_train) and np.array_equal(data.y_test, plain.y_test)
    told = tmp_path / "told"
    saved_to_disk(told / "train", rows[:30])
    saved_to_disk(told / "test", rows[30:])
    assert len(read(told).y_test) == 10


def test_tables_may_be_data_sets_on_disk(tmp_path: Path) -> None:
    columns = [{"name": "note", "type": "category", "levels": [str(row["note"]) for row in lines()]}]
    by = DataSchema.parse({"kind": "table", "classes": ["calm", "urgent"], "target": "label", "columns": columns})
    path = saved_to_disk(tmp_path / "d", lines())
    assert Reference.take("notes", path, by).read("notes").shape == (40,)
    (path / "data-00000-of-00001.arrow").write_bytes(b"no")
    with pytest.raises(DataRefused, match=r"data-00000-of-00001\.arrow: is no Arrow stream"):
        Reference.take("notes", path, by).read("notes")
    with pytest.raises(DataRefused, match=r"data-00000-of-00001\.arrow: is no Arrow stream"):
        read(path)


def test_a_label_that_has_no_name(tmp_path: Path) -> None:
    rows = [row | {"label": 7} for row in lines()]
    with pytest.raises(DataRefused, match="row 1: '7' is none of the job's classes"):
        read(saved_to_disk(tmp_path / "d", rows, ["calm", "urgent"]))
