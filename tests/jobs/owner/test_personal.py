"""The model that stays at a silo: kept after a run, the agent's own to the bit, used and exported there, forgotten."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from aggregator.run_record import RunRecord
from crypto.errors import DataRefused, SpecError
from crypto.keys import Identity
from jobs.cli import personal as verbs
from jobs.demo.federation import Federation
from jobs.demo.own_data import gather
from jobs.job import JobSpec
from jobs.membership.accept import accept
from jobs.membership.propose import next_epoch, sign
from jobs.owner import personal
from jobs.security_log import retention
from jobs.security_log.writer import SecurityLog
from silo_agent.home import SiloHome
from silo_agent.methods.personal import Personal
from silo_agent.models import registry
from silo_agent.personal_model import PersonalModel
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.readers.reference import Reference
from tests import digits, local, tiny
from tests.jobs.demo.test_own_data import SILOS as NAMED
from tests.jobs.demo.test_own_data import job as table_job
from tests.jobs.demo.test_own_data import table
from tests.models import params
from tests.silo_agent.models.zoo import FACTORIES

pytestmark = pytest.mark.slow

SILO = "silo-1"
#: ONNX where the extra [export] is installed.
FORMS = ["torch", *(["onnx"] if find_spec("onnxruntime") and find_spec("onnxscript") else [])]
ROLES = {"frozen": "0.bias", "local": "head.*", "shared": "0.weight 1.*"}


STAY = """
kind = "table"
[target]
name = "stay"
unit = "days"
range = [0, 60]
[[columns]]
name = "age"
type = "number"
range = [0, 120]
"""
STAY_JOB = """
name = "stay"
method = "fedcoe"
dataset = "stays"
purpose = "To test."
schema = "stay.toml"
[params]
features = 1
rounds = 3
finetune_steps = 3
"""


def pictures() -> dict[str, dict[str, np.ndarray]]:
    hands = list(digits.silos(digits.turned()).values())[:4]
    return {
        f"silo-{n}": {
            **{f"x_{part}": getattr(data, f"x_{part}").reshape(-1, 1, 8, 8) for part in ("train", "test")},
            **{f"y_{part}": getattr(data, f"y_{part}") for part in ("train", "test")},
            "classes": np.array(10),
        }
        for n, data in enumerate(hands, 1)
    }


def spec_of(name: str) -> JobSpec:
    short: dict[str, Any] = {"rounds": 2, "local_steps": 5, "learning_rate": 0.1}
    given: dict[str, Any] = {
        "fedcoe": {"features": 64, "classes": 10, "finetune_steps": 5, **short},
        "fedcoe-samples": {"features": 64, "classes": 10, "finetune_steps": 5, **short},
        "fedavg": params("zoo-normed", "64", 10, **short, **ROLES),
        "fedcoe-cnn": params(
            "cnn",
            "1 8 8",
            10,
            model_width=4,
            model_norm="batch",
            finetune_steps=3,
            shared="*",
            expert="head.*",
            **short,
        ),
    }[name]
    where = "pictures" if name == "fedcoe-cnn" else "digits"
    method = name.removesuffix("-cnn")
    return JobSpec.parse({"name": name, "method": method, "dataset": where, "purpose": "a test", "params": given})


class Seen:
    """Personal probabilities of the agents' own last evaluations. ``wrapped``: an agent that keeps them."""

    def __init__(self) -> None:
        self.of: dict[str, np.ndarray] = {}
        self.right: dict[str, int] = {}

    def wrapped(self, job: str, home: SiloHome) -> Any:
        agent, silo = local.open_agent(job, home), home.silo
        contribute = agent.method.contribute

        def watched(step: Any, published: Any, data: Any) -> Any:
            found = contribute(step, published, data)
            if step.task == "eval":
                self.right[silo] = found.slots["personal.correct"]
                assert isinstance(agent.method, Personal)
                self.of[silo] = agent.method.predict_personal(published, data.x_test, data.x_train)
            return found

        agent.method.contribute = watched
        return agent


@pytest.fixture(scope="module", params=["fedcoe", "fedcoe-samples", "fedavg", "fedcoe-cnn"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(federation, job, what the agents predicted, what left, the run's id)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BUILT_IN, "zoo-normed", FACTORIES["zoo-normed"])  # type: ignore[arg-type]
        spec, root = spec_of(request.param), tmp_path_factory.mktemp("personal") / "f"
        if request.param == "fedcoe-cnn":
            federation = Federation.make(root, "test", pictures(), "pictures")
        else:
            federation = local.federation(root)
        seen, sent = Seen(), dict[str, list[bytes]]()
        _, run, _ = local.run_job(
            spec,
            federation.aggregator,
            federation.homes,
            agent=seen.wrapped,
            courier=partial(local.Wire, sent),
        )
        yield federation, spec, seen, sent, run.id.hex()


def test_a_kept_model_predicts_what_the_agent_did_in_its_last_evaluation(made: Any) -> None:
    federation, spec, seen, _, run = made
    assert sorted(seen.of) == sorted(federation.homes)
    for silo, home in federation.silo_homes.items():
        model = personal.opened(home)
        assert (model.kept.run, model.spec.text) == (run, spec.text)
        assert np.array_equal(model.predict(model.data().x_test), seen.of[silo]), "to the bit"
        found = personal.evaluate(model)
        assert found["personal"] == seen.right[silo] and found["same_data"]
        assert 0 < found["metrics"]["personal.log-loss"] < 10
        assert (found["global"] is None) == (spec.method == "fedavg")
        assert 0 < found["majority"] < found["rows"]


def test_it_lies_in_the_silos_home_alone_and_for_its_user_only(made: Any) -> None:
    federation, spec, _, sent, run = made
    for silo, home in federation.silo_homes.items():
        path = home.personal_path(run)
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        (one,) = personal.listed(home)
        assert (one["run"], one["step"], one["job"]) == (run, len(spec.plan(home.charter()).steps), spec.name)
        kept = PersonalModel.load(path)
        assert one["digest"] == kept.digest and kept.silo == silo
        everything = b"\0".join(sent[silo])
        for name, array in kept.own.items():
            if array.size > 10:
                assert array.reshape(-1)[:10].tobytes() not in everything, name
    assert not list(federation.aggregator.rglob("personal*"))
    for path, kind in retention.contents(federation.silo(SILO)):
        assert kind is not None, path


def test_one_changed_byte_is_damage(made: Any, tmp_path: Path) -> None:
    federation, _, _, _, run = made
    whole = federation.silo_homes[SILO].personal_path(run).read_bytes()
    path = tmp_path / "changed.safetensors"
    for at in (20, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        path.chmod(0o600)
        with pytest.raises(DataRefused, match="is damaged"):
            PersonalModel.load(path)
    path.chmod(0o640)
    with pytest.raises(DataRefused, match="mode 640"):
        PersonalModel.load(path)


def run_file(form: str, path: Path, x: np.ndarray) -> np.ndarray:
    """The probabilities that another program gets from an exported file."""
    if form == "torch":
        import torch

        loaded = torch.export.load(path).module()
        return np.asarray(loaded(torch.tensor(x)))
    import onnxruntime  # type: ignore[import-not-found]

    (found,) = onnxruntime.InferenceSession(path).run(["probabilities"], {"rows": np.asarray(x)})
    return np.asarray(found)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_alone_is_exported_as_it_is_predicted(made: Any, form: str, tmp_path: Path) -> None:
    federation, spec, _, _, _ = made
    model, out = personal.opened(federation.silo_homes[SILO]), tmp_path / "model"
    if spec.method == "fedcoe-samples":
        with pytest.raises(SpecError, match="fedavg or fedcoe"):
            personal.export(model, form, out)
        return
    told = personal.export(model, form, out)
    assert out.stat().st_mode & 0o777 == 0o600 and told["bytes"] == out.stat().st_size
    about = json.loads(Path(told["about"]).read_text())
    assert about["input"]["shape"] == ["rows", *model.data().shape] and len(about["output"]["classes"]) == 10
    for rows in (1, 7):
        x = model.data().x_test[:rows]
        alone = np.concatenate([model.predict(row[None]) for row in x])
        np.testing.assert_allclose(run_file(form, out, x), alone, atol=2e-6)
    with pytest.raises(SpecError, match="a new file"):
        personal.export(model, form, out)
    with pytest.raises(SpecError, match="one of onnx, torch"):
        personal.export(model, "pickle", tmp_path / "other")


# --- one federation for the rest ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> SiloHome:
    """A silo with a personal model of a job on tables."""
    for silo in NAMED:
        table(tmp_path / "data" / silo / "admissions.csv")
    spec = JobSpec.load(table_job(tmp_path))
    spec = JobSpec.parse({**json.loads(spec.text), "method": "fedcoe", "params": {**spec.params, "finetune_steps": 2}})
    federation = Federation.make(tmp_path / "f", "test", gather(spec, tmp_path / "data").references, "risk")
    local.run_job(spec, federation.aggregator, federation.homes)
    return federation.silo_homes["anna"]


@pytest.fixture
def fed() -> Callable[..., str]:
    app = typer.Typer()
    verbs.register(app)

    def run(*args: object) -> str:
        done = CliRunner().invoke(app, ["personal", *map(str, args)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_the_commands(home: SiloHome, fed: Callable[..., str], tmp_path: Path) -> None:
    listed = fed("list", "--home", home.root)
    assert "risk-study, fedcoe on risk, 4 steps" in listed and "digest " in listed
    source = tmp_path / "data" / "anna" / "admissions.csv"
    rows = list(csv.DictReader(fed("predict", "--home", home.root, "--from", source).splitlines()))
    assert len(rows) == 60 and list(rows[0]) == ["no", "yes"]
    assert all(abs(float(row["no"]) + float(row["yes"]) - 1) < 1e-5 for row in rows)
    out = tmp_path / "scores.csv"
    fed("predict", "--home", home.root, "--from", source, "--out", out)
    assert out.stat().st_mode & 0o777 == 0o600 and len(out.read_text().splitlines()) == 61
    shown = fed("evaluate", "--home", home.root)
    assert "of 16 correct" in shown and "auroc" in shown
    told = fed("export", "--home", home.root, "--to", "torch", "--out", tmp_path / "m.pt2", "--json")
    about = json.loads(Path(json.loads(told.splitlines()[-1])["about"]).read_text())
    assert about["output"]["classes"] == ["no", "yes"] and about["schema"]["target"] == "died"


def test_an_export_leaves_nothing_where_it_cannot_be_whole(home: SiloHome, tmp_path: Path) -> None:
    about = tmp_path / "m.pt2.json"
    about.write_text("mine")
    with pytest.raises(SpecError, match=r"m\.pt2\.json: it is there already"):
        personal.export(personal.opened(home), "torch", tmp_path / "m.pt2")
    assert about.read_text() == "mine" and not (tmp_path / "m.pt2").exists()


def test_a_model_of_a_number_is_used_in_its_unit(tmp_path: Path, fed: Callable[..., str]) -> None:
    for n, silo in enumerate(NAMED):
        (tmp_path / "data" / silo).mkdir(parents=True)
        rows = "".join(f"{20 + row},{(row + n) / 2}\n" for row in range(60))
        (tmp_path / "data" / silo / "stays.csv").write_text(f"age,stay\n{rows}")
    (tmp_path / "stay.toml").write_text(STAY)
    (tmp_path / "job.toml").write_text(STAY_JOB)
    spec = JobSpec.load(tmp_path / "job.toml")
    assert (spec.params["task"], spec.params["target_high"]) == ("regression", 60)
    assert JobSpec.from_text(spec.text).digest == spec.digest
    federation = Federation.make(tmp_path / "f", "test", gather(spec, tmp_path / "data").references, "stays")
    local.run_job(spec, federation.aggregator, federation.homes)
    home = federation.silo_homes["anna"]
    source = tmp_path / "data" / "anna" / "stays.csv"
    rows = list(csv.DictReader(fed("predict", "--home", home.root, "--from", source).splitlines()))
    assert list(rows[0]) == ["stay"] and 0 < float(rows[30]["stay"]) < 40
    shown = fed("evaluate", "--home", home.root)
    assert "rmse" in shown and "r2" in shown and "correct" not in shown
    model, out = personal.opened(home), tmp_path / "m.pt2"
    told = personal.export(model, "torch", out)
    assert json.loads(Path(told["about"]).read_text())["output"] == {
        "name": "values",
        "type": "float32",
        "classes": ["stay"],
    }
    x = model.data().x_test
    alone = np.concatenate([model.predict(row[None]) for row in x])
    np.testing.assert_allclose(run_file("torch", out, x), alone, rtol=1e-5)


def test_rows_that_the_job_cannot_read_are_named(home: SiloHome, tmp_path: Path) -> None:
    model = personal.opened(home)
    table(tmp_path / "old.csv", ages=(200, 300))
    with pytest.raises(DataRefused, match=r"old\.csv: column 'age'"):
        personal.predict(model, tmp_path / "old.csv")
    (tmp_path / "none.csv").write_text("age,sex\n")
    with pytest.raises(DataRefused, match=r"none\.csv has no rows"):
        personal.predict(model, tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff")
    with pytest.raises(DataRefused, match=r"x\.csv: is not UTF-8"):
        personal.predict(model, tmp_path / "x.csv")


def test_numbers_come_as_npy_or_npz(made: Any, tmp_path: Path) -> None:
    federation, _, _, _, _ = made
    model = personal.opened(federation.silo_homes[SILO])
    x = model.data().x_test
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", allow_pickle=False, x=x, names=np.zeros(3))
    np.savez(tmp_path / "two.npz", allow_pickle=False, a=x, b=x)
    for name in ("x.npy", "x.npz"):
        assert np.array_equal(personal.predict(model, tmp_path / name), model.predict(x))
    with pytest.raises(DataRefused, match=r"two\.npz"):
        personal.predict(model, tmp_path / "two.npz")


def test_what_is_not_there_is_said(home: SiloHome, tmp_path: Path) -> None:
    for run in ("ffff", "12"):
        with pytest.raises(DataRefused, match="no personal model of run"):
            personal.opened(home, run)
    (tmp_path / "f" / "silos" / "berta" / "personal").joinpath("x").write_bytes(b"")
    other = SiloHome(tmp_path / "f" / "silos" / "berta")
    mine = next(home.personal_folder.iterdir())
    other.personal_path(mine.stem).unlink()
    with pytest.raises(DataRefused, match="no personal model yet"):
        personal.opened(other)
    other.keep_personal(mine.stem, mine.read_bytes())
    with pytest.raises(DataRefused, match="that of silo anna"):
        personal.opened(other)
    mine.write_bytes(b"damaged")
    assert "damaged" in personal.listed(home)[0]["amiss"]


def test_data_registered_anew_are_named(home: SiloHome, tmp_path: Path) -> None:
    table(tmp_path / "data" / "anna" / "admissions.csv", rows=80)
    with pytest.raises(DataRefused, match="has changed since it was registered"):
        personal.evaluate(personal.opened(home))
    spec = personal.opened(home).spec
    assert spec.schema is not None
    reference = Reference.take("risk", tmp_path / "data" / "anna", spec.schema)
    Catalogue(home, "anna").add_reference("risk", reference, replace=True)
    assert not personal.evaluate(personal.opened(home))["same_data"]


def test_a_full_disk_loses_the_model_and_not_the_countersignature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = tiny.federation(tmp_path / "f", 4)
    homes = federation.silo_homes
    homes[SILO].personal_folder.write_text("a file where the folder belongs")
    job = tiny.spec("fedcoe", params={"rounds": 1, "finetune_steps": 1})
    _, run, _ = local.run_job(job, federation.aggregator, federation.homes)
    finished = RunRecord.read(federation.aggregator_home, run.name).finished
    assert finished is not None and sorted(finished.record.countersignatures) == sorted(homes)
    assert "own model" in caplog.text and not personal.listed(homes[SILO])
    assert len(personal.listed(homes["silo-2"])) == 1


def test_a_method_without_models_of_silos_keeps_none(tmp_path: Path) -> None:
    federation = tiny.federation(tmp_path / "f", 4)
    local.run_job(tiny.spec("fedavg", params={"rounds": 1}), federation.aggregator, federation.homes)
    assert not any(home.personal_folder.exists() for home in federation.silo_homes.values())


def test_it_expires_after_a_year(home: SiloHome) -> None:
    (path,) = home.personal_folder.iterdir()
    now = time.time()
    assert path not in {one.path for one in retention.plan(home.root, now + 364 * retention.DAY)}
    expired = [one for one in retention.plan(home.root, now + 366 * retention.DAY) if one.path == path]
    assert [one.kind.name for one in expired] == ["personal-model"]
    retention.apply(home.root, expired, SecurityLog(home))
    assert not path.exists() and "personal-model" in (home.root / "security.jsonl").read_text()


def test_a_silo_that_leaves_forgets_it(home: SiloHome, tmp_path: Path) -> None:
    (path,) = home.personal_folder.iterdir()
    federation = Federation(tmp_path / "f", "test", NAMED)
    consortium = Identity.load(federation.consortium_key_path)
    fourth = SiloHome(tmp_path / "dora").make("dora")
    with_dora = next_epoch(home.charter(), add=[fourth], now=int(time.time()))
    accept(home, bytes(sign(with_dora, consortium)))
    assert path.exists(), "a member keeps it"
    without = next_epoch(with_dora, remove=["anna"], now=int(time.time()))
    accept(home, bytes(sign(without, consortium)))
    assert not path.exists() and "personal-model" in (home.root / "security.jsonl").read_text()
    accept(home, bytes(sign(without, consortium)))


def test_without_the_packages_the_extra_is_named(home: SiloHome, tmp_path: Path) -> None:
    code = (
        "from importlib import util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name.startswith('onnx') else find(name, *more)\n"
        "from pathlib import Path\n"
        "from jobs.owner import personal\n"
        "from silo_agent.home import SiloHome\n"
        "from crypto.errors import SpecError\n"
        f"model = personal.opened(SiloHome(Path({str(home.root)!r})))\n"
        "try:\n"
        f"    personal.export(model, 'onnx', Path({str(tmp_path / 'm.onnx')!r}))\n"
        "except SpecError as refused:\n"
        "    print(refused)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[export]" in done.stdout and "--to torch" in done.stdout and not (tmp_path / "m.onnx").exists()


def test_a_file_under_another_runs_name_is_not_used(home: SiloHome) -> None:
    """Which file is opened follows from its name, not from what the file says of itself."""
    (path,) = home.personal_folder.glob("*.safetensors")
    path.rename(path.with_name("0123456789abcdef.safetensors"))
    (found,) = personal.listed(home)
    assert found["run"] == "0123456789abcdef" and "holds the model of run" in found["amiss"]
    with pytest.raises(DataRefused, match="holds the model of run"):
        personal.opened(home)
