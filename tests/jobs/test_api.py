"""The Python API: arrays, frames and folders, and the notebook that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import verify
from crypto.errors import DataRefused, SpecError
from jobs.api import Federation, Result, draft_schema, simulate
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue

SILOS = ("anna", "berta", "clara")
NOTEBOOK = Path(__file__).parents[2] / "docs" / "examples" / "own-data.ipynb"
SHORT: dict[str, Any] = {"rounds": 2, "local_steps": 5, "learning_rate": 0.1}

#: Runs the notebook's code cells in order, in one namespace.
EXECUTE = """\
import json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
print(json.dumps([names["result"].scores, names["plain"].scores, names["pictured"].scores]))
"""


def pair(seed: int, rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


def frame(seed: int, rows: int = 90) -> pd.DataFrame:
    """Numbers with gaps, whole numbers with gaps, levels, days and truth values."""
    rng = np.random.default_rng(seed)
    ages = rng.integers(20, 90, rows).astype(float)
    ages[::9] = np.nan
    return pd.DataFrame(
        {
            "age": ages,
            "grade": [None if row % 7 == 0 else float(row % 3 + 1) for row in range(rows)],
            "smokes": rng.random(rows) < 0.5,
            "admitted": pd.to_datetime([date(2021, 1 + row % 12, 1) for row in range(rows)]),
            "died": np.where(np.nan_to_num(ages, nan=50) > 55, "yes", "no"),
        }
    )


SCHEMA = """
kind = "table"
classes = ["no", "yes"]
target = "died"
[[columns]]
name = "age"
type = "number"
range = [0, 120]
mean = 55
sd = 20
missing = "indicator"
[[columns]]
name = "grade"
type = "category"
levels = ["1", "2", "3"]
missing = "indicator"
[[columns]]
name = "smokes"
type = "category"
levels = ["false", "true"]
[[columns]]
name = "admitted"
type = "date"
formats = ["%d.%m.%Y"]
origin = 2020-01-01
unit = "years"
range = [0, 10]
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Result, Path]]:
    path = tmp_path_factory.mktemp("api") / "risk.toml"
    path.write_text(SCHEMA)
    with Federation({silo: frame(n) for n, silo in enumerate(SILOS)}, schema=path) as federation:
        yield federation, federation.run(method="fedcoe", finetune_steps=5, **SHORT), path


def test_curves_have_a_row_for_each_step(tables: tuple[Federation, Result, Path]) -> None:
    _, result, _ = tables
    curves = result.curves
    assert list(curves.index) == ["cluster/0", "cluster/1", "train/0", "train/1", "eval/0"]
    assert (curves["silos"] == 3).all() and (curves["seconds"] > 0).all()
    assert curves["global.accuracy"].notna().tolist() == [False, False, True, True, True]
    assert curves.loc["eval/0", "global.accuracy"] == result.scores["global.accuracy"] > 0.6


def test_the_run_is_a_whole_one(tables: tuple[Federation, Result, Path]) -> None:
    federation, result, _ = tables
    home = AggregatorHome(federation.folder / "aggregator")
    assert verify(home.ledger_path, home.open()[1].public) and result.record.finished is not None
    assert federation.silos == SILOS and len(federation.account) == 4


def test_a_model_takes_raw_rows_and_gives_names_of_classes(tables: tuple[Federation, Result, Path]) -> None:
    _, result, _ = tables
    rows = frame(0)
    p = result.model.predict_proba(rows)
    assert p.shape == (90, 2) and np.allclose(p.sum(axis=1), 1)
    labels = result.model.predict(rows)
    assert set(labels) <= {"no", "yes"} and (labels == rows["died"]).mean() > 0.6
    columns = {name: rows[name].tolist() for name in ("age", "smokes", "admitted")} | {"grade": [None] * 90}
    absent = result.model.predict_proba(rows.drop(columns=["died"]).assign(grade=None))
    with pytest.raises(DataRefused, match="'grade': there is no such column"):
        result.model.predict_proba(rows.drop(columns=["grade"]))
    assert np.array_equal(result.model.predict_proba(columns), absent), "a frame is its columns"
    assert not np.array_equal(absent, p)


def test_what_is_read_from_a_frame_is_what_the_encoder_makes_of_it(tables: tuple[Federation, Result, Path]) -> None:
    federation, _, _ = tables
    read = Catalogue(SiloHome(federation.folder / "silos" / "berta"), "berta").resolve("own").data
    schema = federation.schema
    assert schema is not None
    rows = frame(1)
    encoded = schema.encoder.encode(  # type: ignore[union-attr]
        [{key: None if pd.isna(value) else value for key, value in row.items()} for row in rows.to_dict("records")]
    )
    together = np.concatenate([read.x_train, read.x_test])
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, encoded.tolist()))


def test_a_personal_model_is_the_agents_own(tables: tuple[Federation, Result, Path]) -> None:
    _, result, _ = tables
    rows = frame(0)
    assert not np.array_equal(result.personal("anna").predict_proba(rows), result.personal("berta").predict_proba(rows))
    with pytest.raises(SpecError, match="one of anna, berta, clara"):
        result.personal("dora")


def test_rows_that_do_not_fit_are_named(tables: tuple[Federation, Result, Path]) -> None:
    _, result, _ = tables
    with pytest.raises(DataRefused, match="age"):
        result.model.predict(frame(0).assign(age=500.0))


def test_arrays_need_no_schema_and_parameters_are_filled_in() -> None:
    result = simulate({silo: pair(n) for n, silo in enumerate(SILOS)}, method="fedavg", **SHORT)
    assert (result.spec.params["features"], result.spec.params["classes"]) == (4, 2)
    x, y = pair(9)
    assert (result.model.predict(x) == y).mean() > 0.7 and result.personal("anna").predict(x).dtype.kind == "i"


def test_pictures_and_a_model_whose_start_is_filled_in() -> None:
    rng = np.random.default_rng(0)
    data = {}
    for silo in SILOS:
        y = np.arange(40) % 3
        x = rng.normal(size=(40, 1, 6, 6)).astype(np.float32) + y[:, None, None, None]
        data[silo] = {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}
    result = simulate(data, method="fedavg", model="cnn", model_width=4, rounds=1, local_steps=1)
    assert result.spec.params["shape"] == "1 6 6" and len(str(result.spec.params["start"])) == 64
    assert result.model.predict_proba(data["anna"]["x_test"]).shape == (10, 3)


def test_a_folder_and_a_job_file(tmp_path: Path) -> None:
    for n, silo in enumerate(SILOS):
        (tmp_path / "data" / silo).mkdir(parents=True)
        frame(n).assign(admitted="01.02.2021", grade="1", smokes="true").to_csv(
            tmp_path / "data" / silo / "rows.csv", index=False
        )
    (tmp_path / "risk.toml").write_text(SCHEMA)
    job = tmp_path / "job.toml"
    job.write_text('name = "x"\nmethod = "fedavg"\ndataset = "risk"\npurpose = "To test."\n[params]\nrounds = 5\n')
    result = simulate(tmp_path / "data", schema=tmp_path / "risk.toml", job=job, rounds=1)
    assert (result.spec.name, result.spec.dataset, result.spec.params["rounds"]) == ("x", "own", 1)
    assert result.curves["silos"].tolist() == [3, 3, 3]


def test_a_drafted_schema_can_clip() -> None:
    drafted = draft_schema(frame(0, 300)[["age", "died"]], "died", outside="clip")
    assert drafted.classes == ("no", "yes") and drafted.columns[0]["outside"] == "clip"
    assert draft_schema(frame(0, 300)[["age", "died"]], "died").columns[0]["outside"] == "refuse"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({silo: frame(0) for silo in SILOS}, "a schema of kind table"),
        ({"anna": pair(0), "Berta B": pair(0), "clara": pair(0)}, "Berta B"),
        ({"anna": pair(0), "berta": pair(0)}, "at least 3"),
        ({**dict.fromkeys(SILOS, pair(0)), "dora": [1, 2, 3]}, "silo dora"),
        (
            {**dict.fromkeys(SILOS, pair(0)), "dora": (pair(0)[0], pair(0)[1] / 2)},
            "integer labels of a class",
        ),
        ({**dict.fromkeys(SILOS, pair(0)), "dora": (pair(0)[0], pair(0)[1][:5])}, "90 rows and 5 labels"),
    ],
)
def test_what_cannot_be_a_silos_data_is_named(data: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Federation(data)


def test_what_a_file_would_be_refused_for_names_the_silo(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"Silo berta: .*fewer than 16"):
        Federation({"anna": pair(0), "berta": pair(1, rows=10), "clara": pair(2)})
    with pytest.raises(SpecError, match="a folder"):
        Federation(tmp_path / "nowhere")


def test_a_run_has_a_method_or_a_job() -> None:
    with Federation({silo: pair(n) for n, silo in enumerate(SILOS)}) as federation:
        for wrong in ({}, {"job": "fedavg-digits", "method": "fedavg"}):
            with pytest.raises(SpecError, match=r"job=…, or method=…"):
                federation.run(**wrong)
        with pytest.raises(SpecError, match=r"params\.epochs"):
            federation.run(method="fedavg", epochs=3)
        folder = federation.folder
    assert not folder.exists()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(scores["global.accuracy"] > 0.5 for scores in found), found
    assert not list(tmp_path.iterdir())
