"""A federation on a folder of one's own: what is used, what is registered, and what is refused by name."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused, NonFinite, SpecError
from jobs.demo.own_data import gather
from jobs.demo.up import Options, prepare, simulate
from jobs.job import JobSpec
from silo_agent.pysyft.catalogue import Catalogue

SILOS = ("anna", "berta", "clara")
SCHEMA = """
kind = "table"
classes = ["no", "yes"]
target = "died"
[split]
test = 0.25
[[columns]]
name = "age"
type = "number"
unit = "years"
range = [0, 120]
[[columns]]
name = "sex"
type = "category"
levels = ["f", "m"]
missing = "indicator"
"""
JOB = """
name = "risk-study"
method = "fedavg"
dataset = "risk"
purpose = "To test a folder of one's own."
{schema}
[params]
features = {features}
classes = 2
rounds = 1
local_steps = 2
"""


class Notes:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def table(path: Path, rows: int = 60, *, ages: tuple[int, int] = (20, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.parent.name))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["age", "sex", "note", "died"])
        for row in range(rows):
            out.writerow([rng.integers(*ages), "fm"[row % 2], "free text", ("no", "yes")[row // 2 % 2]])


def arrays(path: Path, features: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, features)).astype(np.float32), np.arange(40) % 2
    np.savez(path, x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:], classes=np.array(2))


def job(folder: Path, *, schema: bool = True, features: int = 4) -> Path:
    (folder / "risk.toml").write_text(SCHEMA)
    path = folder / "risk-job.toml"
    path.write_text(JOB.format(schema='schema = "risk.toml"' if schema else "", features=features))
    return path


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    for silo in SILOS:
        table(tmp_path / "data" / silo / "admissions.csv")
    return tmp_path / "data"


def test_a_simulation_says_what_it_uses_and_trains_on_it(tables: Path, tmp_path: Path) -> None:
    notes = Notes()
    options = Options(job=str(job(tmp_path)), data=tables, runs=tmp_path / "runs", name="own")
    report = simulate(options, notes)  # type: ignore[arg-type]
    assert report["silos"] == 3 and report["rounds_completed"] == 1
    assert report["accuracy"]["cold"] is None and isinstance(report["accuracy"]["local"]["personal"], float)
    started = next(n for n, line in enumerate(notes.said) if line.startswith("simulation"))
    assert [line for line in notes.said[:started] if "rows" in line] == [
        f"{silo}: 44 training rows, 16 test rows" for silo in SILOS
    ]
    assert f"3 silos by the data in {tables}, read by csv and schema" in notes.said[0]


def test_the_files_are_registered_where_they_lie(tables: Path, tmp_path: Path) -> None:
    demo = prepare(Options(job=str(job(tmp_path)), data=tables, runs=tmp_path / "runs", name="own"))
    assert demo.federation.silos == SILOS and set(demo.silos) == set(SILOS) and not demo.newcomers
    for silo, home in demo.federation.silo_homes.items():
        entry = Catalogue(home, silo).entry("risk")
        assert entry.reference is not None and entry.reference.path == tables / silo
        assert not list(home.syftbox_folder.glob("*/private/**/*.npz"))


def test_files_in_place_of_sub_folders_and_npz_without_a_schema(tmp_path: Path) -> None:
    (tmp_path / "six").mkdir()
    for silo in SILOS:
        arrays(tmp_path / "six" / f"{silo}.npz")
    (tmp_path / "six" / "README.md").write_text("of no reader")
    (tmp_path / "six" / ".hidden").mkdir()
    found = gather(JobSpec.load(job(tmp_path, schema=False)), tmp_path / "six", 3)
    assert tuple(found.silos) == SILOS and not found.references
    assert "read by npz" in found.account[0]
    demo = prepare(
        Options(job=str(job(tmp_path, schema=False)), data=tmp_path / "six", runs=tmp_path / "runs", name="own")
    )
    home = demo.federation.silo_homes["anna"]
    assert Catalogue(home, "anna").resolve("risk").data.x_train.tolist() == found.silos["anna"]["x_train"].tolist()


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        (lambda data: (data / "clara" / "admissions.csv").unlink(), "--data", "no file at clara"),
        (lambda data: (data / "clara").rename(data.parent / "away"), "--data", "at least 3"),
        (lambda data: (data / "clara").rename(data / "Klinik C"), "--data", "Klinik C"),
        (
            lambda data: (data / "berta" / "admissions.csv").rename(data / "berta" / "rows.parquet"),
            "--data",
            "anna by csv, berta by parquet",
        ),
        (lambda data: (data / "berta" / "more.parquet").touch(), "--data", "csv and parquet at berta"),
        (
            lambda data: (data / "berta" / "admissions.csv").rename(data / "berta" / "a.png"),
            "--data",
            "a.png at berta",
        ),
        (lambda data: table(data / "dora.csv"), "--data", "anna, dora.csv"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(
    tables: Path, tmp_path: Path, change: Callable[[Path], object], path: str, said: str
) -> None:
    change(tables)
    with pytest.raises(SpecError) as refused:
        prepare(Options(job=str(job(tmp_path)), data=tables, runs=tmp_path / "runs"))
    assert refused.value.path == path and said in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_one_file_for_each_silo(tables: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for silo in SILOS:
        table(flat / f"{silo}.csv")
    assert tuple(gather(JobSpec.load(job(tmp_path)), flat).references) == SILOS
    table(flat / "anna.tsv")
    with pytest.raises(SpecError, match=r"anna\.csv and anna\.tsv"):
        gather(JobSpec.load(job(tmp_path)), flat)


def test_the_folder_decides_how_many_silos_there_are(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--silos"):
        gather(JobSpec.load(job(tmp_path)), tables, 8)


def test_tables_without_a_schema_are_refused_with_the_way_to_one(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="fed data schema FILE") as refused:
        gather(JobSpec.load(job(tmp_path, schema=False)), tables)
    assert refused.value.path == "job.schema"


def test_two_npz_of_a_silo_are_refused(tmp_path: Path) -> None:
    for silo in SILOS:
        arrays(tmp_path / "data" / silo / "rows.npz")
    arrays(tmp_path / "data" / "anna" / "more.npz")
    with pytest.raises(SpecError, match="2 npz files at anna"):
        gather(JobSpec.load(job(tmp_path, schema=False)), tmp_path / "data")


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ({"ages": (200, 300)}, DataRefused, "age"),
        ({"rows": 8}, DataRefused, "fewer than 16"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_silo(
    tables: Path, tmp_path: Path, rows: dict[str, object], error: type[Exception], said: str
) -> None:
    table(tables / "berta" / "admissions.csv", **rows)  # type: ignore[arg-type]
    with pytest.raises(error, match=rf"Silo berta: .*{said}"):
        gather(JobSpec.load(job(tmp_path)), tables)


def test_npz_that_do_not_fit_the_job_are_named_with_their_silo(tmp_path: Path) -> None:
    for silo in SILOS:
        arrays(tmp_path / "data" / f"{silo}.npz", features=5 if silo == "clara" else 4)
    with pytest.raises(DataRefused, match=r"Silo clara: .*5 features, the job wants 4"):
        gather(JobSpec.load(job(tmp_path, schema=False)), tmp_path / "data")
    arrays(tmp_path / "data" / "clara.npz")
    with np.load(tmp_path / "data" / "anna.npz") as found:
        spoiled = dict(found)
    spoiled["x_train"][0] = np.nan
    np.savez(tmp_path / "data" / "anna.npz", allow_pickle=False, **spoiled)
    with pytest.raises(NonFinite, match="Silo anna: "):
        gather(JobSpec.load(job(tmp_path, schema=False)), tmp_path / "data")
