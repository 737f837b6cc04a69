"""Data by reference, from registration to a finished run: what does not fit a job is neither approved nor used."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.errors import DataRefused, SpecError
from jobs.cli import main as cli
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from jobs.owner import decisions
from jobs.owner.data_fit import check_fit
from jobs.owner.render import review_lines
from jobs.owner.review import OwnerView
from jobs.runtime.compose import answering_agent, open_agent
from silo_agent.agent import Refusing
from silo_agent.home import SiloHome
from silo_agent.pysyft.mock import Schema
from silo_agent.readers.schema import DataSchema
from tests import local
from tests.silo_agent.readers.tables import SCHEMA, patients, write_csv

JOB = """
name = "risk-study"
method = "fedavg"
dataset = "risk"
purpose = "To see who is at risk."
schema = "risk.toml"
[params]
features = 9
classes = 2
rounds = 2
local_steps = 3
seed = 7
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four homes; a CSV of each hospital, registered by reference; the schema and the job beside them."""
    root = tmp_path_factory.mktemp("fit")
    rng = np.random.default_rng(0)
    other = {"classes": np.array(2)}
    for part in ("train", "test"):
        other |= {f"x_{part}": rng.normal(size=(20, 9)).astype(np.float32), f"y_{part}": np.arange(20) % 2}
    Federation.make(root / "f", "test", {f"silo-{n}": other for n in range(1, 5)}, "plain")
    (root / "risk.toml").write_text(SCHEMA)
    (root / "job.toml").write_text(JOB)
    for n in range(1, 5):
        write_csv(root / "csv" / f"silo-{n}.csv", patients(48, seed=n))
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "t")
    return tmp_path / "t"


def federation(place: Path) -> Federation:
    return Federation(place / "f", "test", tuple(f"silo-{n}" for n in range(1, 5)))


def home(place: Path, silo: str = "silo-1") -> SiloHome:
    return SiloHome(federation(place).silo(silo))


def register(place: Path, silo: str = "silo-1", **how: Any) -> None:
    source, schema = place / "csv" / f"{silo}.csv", place / "risk.toml"
    decisions.add_reference(OwnerView(home(place, silo)), "risk", source, schema, **how)


def test_a_job_on_csv_files_from_registration_to_its_end(place: Path) -> None:
    spec = JobSpec.load(place / "job.toml")
    for silo in federation(place).silos:
        register(place, silo)
    outcome, run, _ = local.run_job(spec, federation(place).aggregator, federation(place).homes)
    steps = len(spec.plan(home(place).charter()).steps)
    assert (outcome.steps_released, outcome.steps_void, outcome.refusals) == (steps, 0, 0)
    assert JobSpec.from_text(run.spec.job) == spec, "the schema travels in the job"
    at_the_aggregator = b"".join(
        path.read_bytes() for path in federation(place).aggregator.rglob("*") if path.is_file()
    )
    for private in (b"Patient", str(place / "csv").encode(), b"silo-1.csv"):
        assert private not in at_the_aggregator


def test_the_schema_is_part_of_the_jobs_digest(place: Path) -> None:
    spec = JobSpec.load(place / "job.toml")
    assert spec.schema is not None and spec.with_params(rounds=3).schema == spec.schema
    (place / "risk.toml").write_text(SCHEMA.replace("mmol/l", "mg/dl"))
    assert JobSpec.load(place / "job.toml").digest != spec.digest
    raw = json.loads(spec.text)
    del raw["schema"]
    assert "schema" not in JobSpec.parse(raw).text, "the text of a job without one is as before"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda raw: raw["params"].update(features=8), r"job\.params\.features"),
        (lambda raw: raw["params"].update(classes=3), r"job\.params\.classes"),
        (lambda raw: raw.update(schema="risk.toml"), r"job\.schema"),
        (lambda raw: raw["schema"].update(kind="sheet"), r"job\.schema\.kind"),
    ],
)
def test_a_job_that_contradicts_its_schema(change: Callable[[dict], None], field: str) -> None:  # type: ignore[type-arg]
    raw = tomllib.loads(JOB) | {"schema": tomllib.loads(SCHEMA)}
    change(raw)
    with pytest.raises(SpecError, match=field):
        JobSpec.parse(raw)


def test_a_schema_file_that_is_not_there(place: Path) -> None:
    (place / "risk.toml").unlink()
    with pytest.raises(SpecError, match=r"risk\.toml"):
        JobSpec.load(place / "job.toml")


def no_schema(raw: dict[str, Any]) -> None:
    del raw["schema"]


def other_unit(raw: dict[str, Any]) -> None:
    raw["schema"]["columns"][3]["unit"] = "mg/dl"


def other_set(raw: dict[str, Any]) -> None:
    raw["dataset"] = "plain"


def no_set(raw: dict[str, Any]) -> None:
    raw["dataset"] = "nothing"


def more_features(raw: dict[str, Any]) -> None:
    no_schema(raw)
    raw["dataset"], raw["params"]["features"] = "plain", 31


def test_rows_of_another_shape_do_not_fit() -> None:
    given = {"model": "cnn", "shape": "1 8 8", "classes": 10}
    raw = {"name": "pictures", "method": "fedavg", "dataset": "scans", "purpose": "a test", "params": given}
    spec = JobSpec.parse(raw)
    check_fit(spec, Schema(shape=(1, 8, 8), classes=10), None)
    for sides in ((64,), (8, 8, 1)):
        with pytest.raises(DataRefused, match="the job wants 1 × 8 × 8"):
            check_fit(spec, Schema(shape=sides, classes=10), None)
    with pytest.raises(DataRefused, match="has 9 classes"):
        check_fit(spec, Schema(shape=(1, 8, 8), classes=9), None)
    with pytest.raises(DataRefused, match="Data set 'mine' has 9 classes"):
        check_fit(spec, Schema(shape=(1, 8, 8), classes=9), None, name="mine")
    with pytest.raises(DataRefused, match="has masks; the job learns one label a row"):
        check_fit(spec, Schema(shape=(1, 8, 8), classes=10, target="mask"), None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_schema, "the job names none"),
        (other_unit, "column 'glucose': unit is \"mmol/l\" here, in the job column 'glucose': unit is \"mg/dl\""),
        (other_set, "was registered without a schema, the job has one"),
        (more_features, "has 9 features, the job wants 31"),
        (no_set, "not in this silo's catalogue"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_what_does_not_fit_is_not_approved_and_not_used(
    place: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    register(place)
    raw = tomllib.loads(JOB) | {"schema": tomllib.loads(SCHEMA)}
    change(raw)
    spec = JobSpec.parse(raw)
    view = OwnerView(home(place))
    with pytest.raises(DataRefused, match=why):
        decisions.approve(view, spec)
    assert not view.approvals.all()
    with pytest.raises(DataRefused, match=why):
        open_agent(spec.text, home(place))
    if change is not no_set:
        assert any("not fit" in line for line in review_lines(view.review(spec)))


def test_a_file_that_changed_after_the_approval_stops_the_job(place: Path) -> None:
    register(place)
    spec = JobSpec.load(place / "job.toml")
    decisions.approve(OwnerView(home(place)), spec)
    open_agent(spec.text, home(place)).close()
    write_csv(place / "csv" / "silo-1.csv", patients(48, seed=9))
    with pytest.raises(DataRefused, match=r"silo-1\.csv has changed since"):
        open_agent(spec.text, home(place))
    refusing = answering_agent(spec.text, home(place))
    assert isinstance(refusing, Refusing)
    state = OwnerView(home(place)).approval_state(spec)
    assert (state.state, "silo-1.csv has changed" in state.why) == ("void", True)


def test_the_owner_sees_what_to_look_at(place: Path) -> None:
    write_csv(place / "csv" / "silo-1.csv", [row | {"age": 66} for row in patients()])
    register(place)
    lines = review_lines(OwnerView(home(place)).review(JobSpec.load(place / "job.toml")))
    assert any(line.startswith("  look at   Constant: columns 'age'") for line in lines)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("CONSILIUM_HOME", str(home(place).root))

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fed", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()  # type: ignore[return-value]

    return run


def test_registered_by_command(fed, place: Path) -> None:  # type: ignore[no-untyped-def]
    source = place / "csv" / "silo-1.csv"
    add = ("data", "add", "risk", "--from", source, "--schema", place / "risk.toml")
    code, out, _ = fed(*add, "--summary", "Admissions")
    assert code == 0 and "9 features, 2 classes, by csv and schema" in out and f"files       {source}" in out
    assert f"Nothing is copied: {source} must stay as it is." in out
    code, out, _ = fed(*add, "--replace", "--json")
    assert json.loads(out.splitlines()[-1])["reference"]["reader"] == "csv"
    assert "risk  Admissions" not in fed("data", "list")[1]
    source.unlink()
    assert "risk  cannot be used: Data set 'risk': " in fed("data", "list")[1]


def test_a_schema_is_drafted(fed, place: Path) -> None:  # type: ignore[no-untyped-def]
    table, out = write_csv(place / "a.csv", patients(200)), place / "new.toml"
    code, printed, _ = fed("data", "schema", table, "--target", "died")
    assert code == 0 and printed.startswith("# A draft") and DataSchema.parse(tomllib.loads(printed))
    code, said, _ = fed("data", "schema", table, "--target", "died", "--out", out)
    assert code == 0 and "is a draft" in said and out.read_text(encoding="utf-8") == printed
    code, _, err = fed("data", "schema", table, "--target", "died", "--out", out)
    assert code == 10 and "a new file" in err
    code, _, err = fed("data", "schema", place / "gone.csv", "--target", "died")
    assert code == 30 and "gone.csv: No such file" in err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--from", "a.csv"),
        ("--private", "a.npz"),
        ("--from", "a.csv", "--schema", "s.toml", "--private", "a.npz"),
        ("--private", "a.npz", "--mock", "m.npz", "--schema", "s.toml"),
    ],
)
def test_other_combinations_of_options(fed, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    code, _, err = fed("data", "add", "risk", *words)
    assert code == 10 and "want --from and --schema, or --private and --mock" in err


def test_a_fault_is_named_by_command_and_nothing_is_registered(fed, place: Path) -> None:  # type: ignore[no-untyped-def]
    rows = patients()
    rows[3]["sex"] = "x"
    write_csv(place / "csv" / "silo-1.csv", rows)
    code, _, err = fed("data", "add", "risk", "--from", place / "csv" / "silo-1.csv", "--schema", place / "risk.toml")
    assert code == 30 and "silo-1.csv: column 'sex': level 'x' is not in the schema (row 4)" in err
    assert "risk" not in fed("data", "list")[1]


def test_unscaled_rows_of_an_npz_are_named(fed, place: Path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    for name in ("p", "m"):
        made: dict[str, np.ndarray] = {"classes": np.array(2)}
        for part in ("train", "test"):
            made |= {f"x_{part}": rng.integers(0, 256, size=(40, 6)), f"y_{part}": np.arange(40) % 2}
        np.savez(place / f"{name}.npz", allow_pickle=False, **made)
    code, out, _ = fed("data", "add", "scans", "--private", place / "p.npz", "--mock", place / "m.npz")
    assert code == 0 and "look at     Unscaled: columns '0', '1'" in out and "range from" in out
