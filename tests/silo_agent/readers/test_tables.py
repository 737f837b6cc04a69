"""Tables by a schema: what is read, and which fault of a file is named, with the file and the column."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused
from silo_agent import readers
from silo_agent.data import DataSet
from silo_agent.readers import encoder as encoder_module
from silo_agent.readers.encoder import BadValue, TableEncoder, encoder, level_in
from silo_agent.readers.ranges import findings
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema
from tests.silo_agent.readers.tables import SCHEMA, Row, patients, write_csv


def schema(change: Callable[[dict], None] = lambda raw: None) -> DataSchema:  # type: ignore[type-arg]
    raw = tomllib.loads(SCHEMA)
    change(raw)
    return DataSchema.parse(raw)


def read(path: Path, by: DataSchema | None = None, reader: str | None = None) -> DataSet:
    return Reference.take("risk", path, by or schema(), reader).read("risk")


def with_column(name: str, **fields: object) -> Callable[[dict], None]:  # type: ignore[type-arg]
    """A change of the schema: fields of one column."""

    def change(raw: dict) -> None:  # type: ignore[type-arg]
        next(column for column in raw["columns"] if column["name"] == name).update(fields)

    return change


def test_a_table_becomes_inputs_in_the_schemas_order(tmp_path: Path) -> None:
    data = read(write_csv(tmp_path / "rows.csv", patients()))
    assert data.shape == (9,) and data.classes == 2 and data.x_train.dtype == np.float32
    made = schema().encoder
    assert isinstance(made, TableEncoder)
    assert made.features == [
        *("age", "systolic", "systolic missing", "diastolic", "glucose"),
        *("sex=f", "sex=m", "sex missing", "admitted"),
    ]
    assert len(data.y_train) == 36 and len(data.y_test) == 12
    assert data.y_test.sum() == 3, "every class gives its share of test rows"
    assert findings(data, schema()) == []


def test_values_missing_values_and_dates() -> None:
    rows: list[Row] = [
        {"age": 80, "systolic": 150, "diastolic": 87, "glucose": 10, "sex": "m", "admitted": "2021-01-01"},
        {"age": "65", "glucose": "7.0", "sex": None, "admitted": "01.01.2020"},
    ]
    x = schema().encoder.encode(rows)
    assert x[0].tolist() == pytest.approx([1, 1, 0, 1, 1, 0, 1, 0, (366 / 365.25 - 5) / 5], abs=1e-6)
    assert x[1].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, -1]


def test_the_same_rows_are_read_from_every_spelling_of_a_table(tmp_path: Path) -> None:
    rows = patients()
    plain = read(write_csv(tmp_path / "a.csv", rows))
    turned = [{key: row[key] for key in reversed(list(row))} for row in rows]
    others = [
        write_csv(tmp_path / "b.csv", rows, delimiter=";", encoding="utf-8-sig"),
        write_csv(tmp_path / "c.csv", turned, delimiter="\t"),
    ]
    write_csv(tmp_path / "parts" / "2.csv", rows[20:])
    write_csv(tmp_path / "parts" / "1.csv", rows[:20])
    write_csv(tmp_path / "parts" / ".old" / "0.csv", rows)
    for other in (*others, tmp_path / "parts"):
        data = read(other)
        assert np.array_equal(data.x_train, plain.x_train) and np.array_equal(data.y_test, plain.y_test)


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = patients()
    plain = read(write_csv(tmp_path / "a.csv", rows))
    typed = [
        {
            key: None if value in ("", "NA") else float(value) if isinstance(value, int) else value
            for key, value in row.items()
        }
        for row in rows
    ]
    parquet.write_table(pyarrow.Table.from_pylist(typed), tmp_path / "a.parquet")
    assert np.array_equal(read(tmp_path / "a.parquet").x_train, plain.x_train)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataRefused, match=r"bad\.parquet: is no Parquet file"):
        read(tmp_path / "bad.parquet")


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataRefused, match="pyarrow is not installed") as refused:
        read(tmp_path / "a.parquet")
    assert "[tabular]" in refused.value.remedy


def test_files_may_tell_the_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", patients(30))
    write_csv(tmp_path / "test.csv", patients(10, seed=2))
    data = read(tmp_path)
    assert (len(data.y_train), len(data.y_test)) == (30, 10)
    (tmp_path / "test.csv").write_text((tmp_path / "test.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(DataRefused, match="has no test rows"):
        read(tmp_path)
    (tmp_path / "test.csv").unlink()
    with pytest.raises(DataRefused, match="has no test files"):
        read(tmp_path)
    write_csv(tmp_path / "more.csv", patients(10, seed=3))
    with pytest.raises(DataRefused, match=r"more\.csv: is in neither train nor test"):
        read(tmp_path)


def test_rows_of_one_group_stay_on_one_side(tmp_path: Path) -> None:
    rows = [row | {"patient": f"p{n // 3}"} for n, row in enumerate(patients(60))]

    def by_patient(raw: dict) -> None:  # type: ignore[type-arg]
        raw["split"] = {"test": 0.25, "group": "patient"}

    data = read(write_csv(tmp_path / "a.csv", rows), schema(by_patient))
    assert (len(data.y_train), len(data.y_test)) == (45, 15)
    x = schema().encoder.encode(rows)
    on = {True: set(), False: set()}  # type: ignore[var-annotated]
    for n, row in enumerate(x):
        on[bool((data.x_test == row).all(axis=1).any())].add(n // 3)
    assert not on[True] & on[False]


# --- faults of a file ------------------------------------------------------------------------------------------------


def put(column: str, value: object, every: int = 1) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [row | ({column: value} if n % every == 0 else {}) for n, row in enumerate(rows)]


def swapped(rows: list[Row]) -> list[Row]:
    full = [row | {"systolic": row["systolic"] if row["systolic"] != "NA" else 130} for row in rows]
    full = [row | {"diastolic": row["diastolic"] or 75} for row in full]
    return [row | {"systolic": row["diastolic"], "diastolic": row["systolic"]} for row in full]


def other_unit(rows: list[Row]) -> list[Row]:
    return [row | {"glucose": float(str(row["glucose"])) * 18} for row in rows]


def no_column(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "glucose"} for row in rows]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_column, "a.csv: has no column 'glucose'"),
        (swapped, "'systolic' and 'diastolic' look swapped"),
        (other_unit, "column 'glucose': most values lie outside 1 to 40 mmol/l; their median is 1"),
        (
            put("glucose", 90, every=20),
            r"'glucose': values outside 1 to 40 mmol/l \(row 1, 21, 41\)",
        ),
        (put("sex", "female", every=20), r"column 'sex': level 'female' is not in the schema \(row 1, 21, 41\)"),
        (put("age", "", every=20), r"column 'age': values are missing, .* \(row 1, 21, 41\)"),
        (put("age", "old", every=30), r"column 'age': 'old' is not a number \(row 1, 31\)"),
        (put("glucose", "7,5"), r"decimal point.*\(row 1, 2, 3 and 45 more\)"),
        (put("age", "1e400"), "is not a number"),
        (put("admitted", "31.02.2021"), "is not a date like %Y-%m-%d or %d.%m.%Y"),
        (put("died", "perhaps", every=40), "column 'died', row 1: 'perhaps' is none of the job's classes"),
        (put("died", "", every=40), "column 'died', row 1: the label is missing"),
        (lambda rows: rows[:1], "fewer than 16 training rows"),
    ],
)
def test_a_fault_is_named_with_file_and_column(
    tmp_path: Path, change: Callable[[list[Row]], list[Row]], why: str
) -> None:
    with pytest.raises(DataRefused, match=why) as refused:
        read(write_csv(tmp_path / "a.csv", change(patients())))
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "must name every column"),
        (b"age,age\n1,2\n", "must name every column, each once"),
        ("age,größe\n1,2\n".encode("latin-1"), "is not UTF-8"),
        (b"age,died\n1\n", "line 2 has 1 values, the first line 2"),
        (b'age,died\n"1,2\n', "is no CSV"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataRefused, match=rf"a\.csv: .*{why}"):
        read(tmp_path / "a.csv")


def test_a_column_that_a_silo_may_lack(tmp_path: Path) -> None:
    may = schema(with_column("glucose", absent="allow", missing="indicator"))
    data = read(write_csv(tmp_path / "a.csv", no_column(patients())), may)
    assert findings(data, may) == [
        "Constant: columns 'glucose'. A column with one value teaches nothing; is it filled in?"
    ]


@pytest.mark.parametrize(("rule", "seen"), [("clip", 11.0), ("missing", 0.0)])
def test_outliers_by_the_schemas_rule(tmp_path: Path, rule: str, seen: float) -> None:
    by = schema(with_column("glucose", outside=rule, missing="indicator"))
    rows = [{"age": 70, "glucose": 90, "diastolic": 75, "admitted": "2021-01-01"}]
    rows[0] |= {"systolic": 120, "sex": "f"}
    x = by.encoder.encode(rows)  # type: ignore[arg-type]
    assert x[0, 4] == seen and x[0, 5] == (rule == "missing")


def test_constant_and_far_columns_are_found(tmp_path: Path) -> None:
    data = read(write_csv(tmp_path / "a.csv", put("age", 18)(patients())))
    said = " ".join(findings(data, schema()))
    assert "Far from the schema's mean: columns 'age'" in said and "Constant: columns 'age'" in said
    loose = schema(with_column("glucose", mean=0, sd=1))
    said = " ".join(findings(read(write_csv(tmp_path / "a.csv", patients()), loose), loose))
    assert "Unscaled: columns 'glucose'" in said


# --- the encoder alone -----------------------------------------------------------------------------------------------


def test_the_encoder_needs_nothing_of_ours_and_gives_the_same_bits(tmp_path: Path) -> None:
    rows = patients()
    shutil.copy(encoder_module.__file__, tmp_path / "packed.py")
    (tmp_path / "schema.json").write_text(schema().text)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import packed, pathlib\n"
        f"x = packed.encoder(pathlib.Path({str(tmp_path / 'schema.json')!r}).read_text()).encode({rows!r})\n"
        "assert not any(name.split('.')[0] in ('crypto', 'silo_agent', 'jobs') for name in sys.modules)\n"
        "print(x.tobytes().hex())"
    )
    found = subprocess.run([sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == encoder(schema().text).encode(rows).tobytes().hex()


def test_a_row_alone_is_encoded_as_in_its_table() -> None:
    rows, made = patients(), schema().encoder
    whole = made.encode(rows)
    assert all(np.array_equal(made.encode([row])[0], whole[n]) for n, row in enumerate(rows))


def test_a_column_under_a_wrong_name_is_not_taken_for_missing() -> None:
    """Its missing rule would give a confident prediction."""
    made = schema().encoder
    assert isinstance(made, TableEncoder)
    rows = patients()
    wrong = [{("Systolic" if name == "systolic" else name): value for name, value in row.items()} for row in rows]
    with pytest.raises(BadValue, match="column 'systolic': there is no such column"):
        made.encode(wrong)
    with pytest.raises(BadValue, match="column 'systolic': there is no such column"):
        made.encode_columns({name: [row[name] for row in wrong] for name in wrong[0]}, len(wrong))
    some = [rows[0], {name: value for name, value in rows[1].items() if name != "systolic"}]
    missing = [rows[0], rows[1] | {"systolic": None}]
    assert np.array_equal(made.encode(some), made.encode(missing)), "a row may lack it where others have it"


def test_readers_that_are_not_there_or_do_not_fit(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", patients())
    with pytest.raises(DataRefused, match="reader 'edf' is not installed here") as refused:
        read(path, reader="edf")
    assert "csv" in refused.value.remedy
    with pytest.raises(DataRefused, match="takes schemas of kind 'array'"):
        read(path, reader="arrays")
    with pytest.raises(DataRefused, match="no reader of kind 'table' knows its files"):
        read(path.rename(tmp_path / "a.xlsx"))
    with pytest.raises(DataRefused, match=r"no file or folder .*gone\.csv"):
        read(tmp_path / "gone.csv")
    assert {"arrays", "csv", "parquet"} <= set(readers.names())


@pytest.mark.parametrize(
    ("levels", "value", "expected"),
    [
        (("true", "false"), "True", "true"),
        (("true", "false"), "False", "false"),
        (("true", "false"), True, "true"),
        (("1", "2"), "2.0", "2"),
        (("1", "2"), "2.00", "2"),
        (("-1", "2"), "-1.0", "-1"),
        (("1", "2"), 2.0, "2"),
        (("1", "1.0"), "1.0", "1.0"),  # a schema that tells them apart
        (("True", "true"), "True", "True"),
        (("1", "2"), "2.5", "2.5"),
        (("true", "false"), "TRUE", "true"),
        (("False", "True"), True, "True"),
        (("False", "True"), "true", "True"),
        (("1.0", "2.0"), "2", "2.0"),
        (("1.0", "2.0"), 2, "2.0"),
        (("1.0", "1.00"), "1", "1"),  # two levels would fit
        (("yes", "no"), "True", "True"),
        (("1", "2"), "12.0.0", "12.0.0"),
    ],
)
def test_a_level_in_the_spelling_of_another_library(levels: tuple[str, ...], value: object, expected: str) -> None:
    assert level_in(levels, value) == expected


def test_a_table_that_pandas_wrote_is_read_as_the_schema_spells_it(tmp_path: Path) -> None:
    """A column of truth values, one of whole numbers with a gap, and labels of the same kind."""
    text = """
kind = "table"
classes = ["false", "true"]
target = "died"
[split]
test = 0.5
[[columns]]
name = "smoker"
type = "category"
levels = ["false", "true"]
[[columns]]
name = "stage"
type = "category"
levels = ["1", "2"]
missing = "indicator"
"""
    schema = DataSchema.parse(tomllib.loads(text), "s")
    plain = "smoker,stage,died\n" + "true,1,false\nfalse,,true\nfalse,2,true\n" * 30
    pandas = "smoker,stage,died\n" + "True,1.0,False\nFalse,,True\nFalse,2.0,True\n" * 30
    found = []
    for name, content in (("plain", plain), ("pandas", pandas)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text(content, encoding="utf-8")
        found.append(Reference.take("study", tmp_path / name, schema, "csv").read("study"))
    for part in ("x_train", "x_test", "y_train", "y_test"):
        one, other = (np.sort(getattr(data, part), axis=0) for data in found)
        assert np.array_equal(one, other) and len(one)
