"""One model version a run: what it names, what it predicts, who moved an alias, who has withdrawn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.rounds.storage import stage_predictor
from aggregator.tracking import follower, pyfunc
from aggregator.tracking.client import MlflowClient, connect
from aggregator.tracking.compare_runs import compare
from aggregator.verify.models import promote
from crypto.errors import EvidenceError
from silo_agent.methods import Published, method
from tests import made_ledger as made
from tests.made_ledger import PARAMS, RUN, SILOS, STATE, closed, finish, make_home, make_run, start
from tests.records import as_record, partial_entry

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]

FIRST, SECOND = "aaaa0001", "bbbb0002"
#: Names of ours, and one that PyPI has given to somebody else.
OURS = {"consilium", "consilium-fl", "consilium_fl", "crypto", "silo_agent", "aggregator", "jobs"}


def client(home: Path) -> MlflowClient:
    return connect(follower.default_uri(AggregatorHome(home)))


def candidate(home: Path) -> Any:
    return client(home).get_model_version_by_alias("digits", "candidate")


def parent(home: Path, run: str = RUN) -> Any:
    experiment = client(home).get_experiment_by_name("demo").experiment_id
    query = f"tags.`consilium.run` = '{run}' and tags.`consilium.record` = 'job'"
    return client(home).search_runs([experiment], query)[0]


# --- a version ---------------------------------------------------------------------------------------------------


def test_the_version_names_its_evidence(job: Path) -> None:
    version = candidate(job)
    assert str(version.version) == "1" and version.run_id == parent(job).info.run_id
    tags = version.tags
    assert tags["consilium.state_digest"] == made.state_digest(STATE).hex() and tags["consilium.chain"] == "cd" * 32
    assert tags["consilium.global.accuracy"] == "0.5900" and tags["consilium.cohort"] == "2 to 3 of 3 silos in a step"
    assert tags["consilium.purpose"] == made.PURPOSE and tags["consilium.code_digest"] == made.CODE
    weights = AggregatorHome(job).run_folder(RUN).weights_path(19).read_bytes()
    assert tags["consilium.weights_sha256"] == sha256(weights).hexdigest()
    for silo in SILOS:
        assert tags[f"consilium.data.{silo}"] == made.commitment(silo)
        assert tags[f"consilium.approval.{silo}"] == made.APPROVALS[silo]
    assert "consilium.parent_version" not in tags and "consilium.withdrawn_silos" not in tags
    noted = json.loads(AggregatorHome(job).run_folder(RUN).mlflow_path.read_bytes())
    assert (noted["model"], noted["version"], noted["run_id"]) == ("digits", "1", version.run_id)
    assert parent(job).data.tags["consilium.model_version"] == "digits/1"


def test_the_version_shows_its_card(job: Path) -> None:
    """The same text for the version, the run and the model; the whole of it as a file of each."""
    version, card = candidate(job), AggregatorHome(job).run_folder(RUN).model_card_path.read_text()
    assert version.description == parent(job).data.tags["mlflow.note.content"]
    assert version.description.startswith("# digits/1") and len(version.description) < 5000
    for silo in SILOS:
        short = f"{made.commitment(silo)[:16]}… | {made.APPROVALS[silo][:16]}…"
        assert short in version.description and made.commitment(silo) in card
    assert Path(client(job).download_artifacts(version.run_id, "model-card.md")).read_text() == card
    model = client(job).get_logged_model(version.tags["consilium.model_id"])
    assert (Path(model.artifact_location.removeprefix("file://")) / "model-card.md").read_text() == card


def test_searching_leads_from_data_and_approval_to_the_model(job: Path) -> None:
    mlflow, version = client(job), candidate(job)
    for key, value in (("data.silo-1", made.commitment("silo-1")), ("approval.silo-2", made.APPROVALS["silo-2"])):
        query = f"tags.`consilium.{key}` = '{value}'"
        assert [found.version for found in mlflow.search_model_versions(query)] == [version.version]
    experiment = parent(job).info.experiment_id
    data = {"dataset_name": "silo-3", "dataset_digest": made.commitment("silo-3")[:32]}
    query = "metrics.`steps_contributed/silo-3` > 0"
    found = mlflow.search_logged_models([experiment], query, datasets=[data])
    assert [model.model_id for model in found] == [version.tags["consilium.model_id"]]
    other = {**data, "dataset_digest": "0" * 32}
    assert mlflow.search_logged_models([experiment], query, datasets=[other]) == []


def test_a_logged_model_knows_its_data_sets_and_scores(job: Path) -> None:
    model = client(job).get_logged_model(candidate(job).tags["consilium.model_id"])
    assert model.source_run_id == parent(job).info.run_id
    assert model.tags["mlflow.modelVersions"] == '[{"name":"digits","version":"1"}]'  # the page links to the version
    assert model.tags["mlflow.note.content"] == candidate(job).description
    assert model.params == parent(job).data.params and model.params["hidden"] == "4"
    shown = {(one.key, one.value, one.dataset_name) for one in model.metrics}
    contributed = {(f"steps_contributed/{silo}", steps, silo) for silo, steps in zip(SILOS, (20, 20, 18), strict=True)}
    assert shown == contributed | {("global.accuracy", 0.59, None)}


_PREDICT = """
import json, pathlib, sys
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@candidate")
info = model.metadata
x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
try:
    model.predict(x, params={"mode": "personal"})
except Exception as error:
    refusal = str(error)
print(json.dumps({
    "global": model.predict(x).tolist(), "frame": model.predict(pd.DataFrame(x)).tolist(),
    "cold": model.predict(x, params={"mode": "cold"}).tolist(), "refusal": refusal,
    "dtype": str(model.predict(x).dtype), "metadata": info.metadata, "signature": info.signature.to_dict(),
    "files": sorted(info.flavors["python_function"]["artifacts"]),
    "pickles": [str(p) for p in pathlib.Path(sys.argv[2]).rglob("*.pkl")],
}))
"""


def test_the_version_predicts_in_a_fresh_process_without_pickle(job: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(made.ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    done = subprocess.run(
        [sys.executable, "-c", _PREDICT, follower.default_uri(AggregatorHome(job)), str(job)],
        env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    expected = method("fedavg")(PARAMS).predict(Published(STATE), x, "global").argmax(1).tolist()
    assert told["global"] == told["frame"] == told["cold"] == expected and told["dtype"] == "int64"
    assert "never leave it" in told["refusal"]
    assert told["metadata"]["state_digest"] == made.state_digest(STATE).hex()
    assert len(told["metadata"]["predictor_sha256"]) == 64
    assert [(p["name"], p["default"]) for p in json.loads(told["signature"]["params"])] == [("mode", "global")]
    assert told["files"] == ["input_example", "published", "weights"] and told["pickles"] == []


def test_the_files_name_no_machine_and_need_what_the_job_names(job: Path) -> None:
    model = client(job).get_logged_model(candidate(job).tags["consilium.model_id"])
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert (folder / "requirements.txt").read_text().split() == ["mlflow==3.17.2", "numpy", "torch>=2.13"]
    example = json.loads((folder / "artifacts" / "input_example.json").read_text())
    assert example == {"inputs": [[0.0] * 6]}
    logged = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert folder / "MLmodel" in logged  # __pycache__: what a reader's import left there
    for path in logged:
        assert str(job).encode() not in path.read_bytes(), path


def test_nothing_of_ours_is_installed_for_a_model(job: Path) -> None:
    """Our package is on no index, and the names `consilium` and `crypto` belong to other projects there."""
    model = client(job).get_logged_model(candidate(job).tags["consilium.model_id"])
    folder = Path(model.artifact_location.removeprefix("file://"))
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        lines = [line.lstrip(' -"') for line in (folder / name).read_text().splitlines() if "name:" not in line]
        named = {re.split(r"[^\w.-]", line)[0].lower() for line in lines}
        assert named.isdisjoint(OURS), (name, named)


def test_a_ledger_that_requires_our_package_from_an_index_is_not_followed_in_that() -> None:
    needs, started = ["consilium[silo,lm]==0.1.0", "consilium", "mlflow==3.17.2", "numpy"], Kind.RUN_STARTED
    assert pyfunc._requirements(partial_entry(started, {}).record, {"requirements": needs}) == needs[2:]
    with pytest.raises(EvidenceError, match="consilium-x"):
        pyfunc._requirements(partial_entry(started, {}).record, {"requirements": ["consilium-x==1", *needs]})


_LOAD_WITHOUT_OURS = """
import pathlib, sys
sys.path[:] = [place for place in sys.path if not (pathlib.Path(place) / "silo_agent").is_dir()]
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
try:
    mlflow.pyfunc.load_model("models:/digits@candidate")
except ModuleNotFoundError as missing:
    print(missing)
"""


def test_where_our_package_is_missing_the_model_says_which_release_to_install(job: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_WITHOUT_OURS, follower.default_uri(AggregatorHome(job))],
        env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"own Python packages, and (silo_agent|jobs) is not installed here", done.stdout), done.stdout
    assert f"Consilium 0.1.0, software digest {made.CODE}" in done.stdout
    assert "pip install --no-deps ./consilium_fl-0.1.0-py3-none-any.whl" in done.stdout


def test_a_job_that_cannot_predict_has_a_card_and_no_version(home: Path) -> None:
    ledger = make_home(home)
    start(home, ledger, predictor=None)
    ledger.append(as_record("step-closed", closed(0)))
    finish(home, ledger)
    follower.sync(home)
    assert client(home).search_model_versions() == [] and not AggregatorHome(home).run_folder(RUN).mlflow_path.exists()
    assert AggregatorHome(home).run_folder(RUN).model_card_path.read_text().startswith("# 0123abcd")
    assert compare(home) == []


def test_altered_weights_or_code_are_not_registered(home: Path) -> None:
    ledger = make_home(home)
    start(home, ledger)
    ledger.append(as_record("step-closed", closed(0)))
    finish(home, ledger)
    folder = AggregatorHome(home).run_folder(RUN).root
    for file in (folder / "predictor.py", folder / "checkpoints" / "000000.safetensors"):
        good = file.read_bytes()
        file.write_bytes(good + b"#")
        with pytest.raises(EvidenceError, match=r"predictor\.py|safetensors"):
            follower.sync(home)
        assert client(home).search_model_versions() == []
        file.write_bytes(good)
    follower.sync(home)
    assert len(client(home).search_model_versions()) == 1


def test_a_predictor_that_is_not_the_releases_is_not_registered(home: Path) -> None:
    """H4: the ledger names other code, signed by the aggregator; the approved release does not."""
    ledger, trojan = make_home(home), b"import os\n"
    facts = stage_predictor(
        AggregatorHome(home).run_folder(RUN), made.PREDICTOR_CODE, release=made.MANIFEST, requirements=["numpy"],
        settings=json.dumps({"method": "fedavg", "params": made.PARAMS}), shape=[6],
    )  # fmt: skip
    start(home, ledger, predictor=facts | {"sha256": sha256(trojan).hexdigest()})  # type: ignore[arg-type]
    ledger.append(as_record("step-closed", closed(0)))
    finish(home, ledger)
    AggregatorHome(home).run_folder(RUN).predictor_path.write_bytes(trojan)
    with pytest.raises(EvidenceError, match="of the release that was approved"):
        follower.sync(home)
    assert client(home).search_model_versions() == []


@pytest.mark.parametrize("line", ["evil==1.0", "torch==2.0\n--index-url=https://evil.example", "numpy @ file:///x"])
def test_what_pip_would_install_is_a_closed_list(home: Path, line: str) -> None:
    """H4: the requirements of a model run code when they are installed."""
    ledger = make_home(home)
    facts = stage_predictor(
        AggregatorHome(home).run_folder(RUN), made.PREDICTOR_CODE, release=made.MANIFEST, requirements=[line],
        settings=json.dumps({"method": "fedavg", "params": made.PARAMS}), shape=[6],
    )  # fmt: skip
    start(home, ledger, predictor=facts)  # type: ignore[arg-type]
    ledger.append(as_record("step-closed", closed(0)))
    finish(home, ledger)
    with pytest.raises(EvidenceError, match="requirements"):
        follower.sync(home)


def test_an_altered_ledger_makes_no_version(home: Path) -> None:
    """What the cursor has passed is checked again, signatures and all, before anything is published."""
    ledger = make_home(home)
    start(home, ledger)
    follower.sync(home)
    ledger.append(as_record("step-closed", closed(0)))
    finish(home, ledger)
    lines = ledger.path.read_bytes()
    ledger.path.write_bytes(lines.replace(b"Tell digits", b"Sell digits", 1))
    with pytest.raises(EvidenceError):
        follower.sync(home)
    assert client(home).search_model_versions() == []


# --- more than one -----------------------------------------------------------------------------------------------


def two_versions(home: Path) -> Ledger:
    ledger = make_home(home)
    for run in (FIRST, SECOND):
        make_run(home, ledger, run)
        follower.sync(home)
    return ledger


def version(home: Path, number: int) -> Any:
    return client(home).get_model_version("digits", number)


def test_a_second_job_is_a_second_version_and_takes_the_alias(home: Path) -> None:
    two_versions(home)
    assert candidate(home).tags["consilium.run"] == SECOND
    tags = candidate(home).tags
    assert tags["consilium.parent_version"] == "digits/1" and tags["consilium.parent_relation"] == "the version before"
    assert compare(home) == []


def test_a_promotion_moves_the_alias_and_says_who_and_when(home: Path) -> None:
    two_versions(home)
    promote(AggregatorHome(home), "digits/1", "champion", "ethics board")
    follower.sync(home)
    first = client(home).get_model_version_by_alias("digits", "champion")
    assert (first.tags["consilium.run"], first.tags["consilium.champion.by"]) == (FIRST, "ethics board")
    assert "Alias champion: set by ethics board" in first.description
    promote(AggregatorHome(home), "digits/2", "champion", "chief of medicine")
    follower.sync(home)
    first, second = version(home, 1), version(home, 2)
    assert sorted(second.aliases) == ["candidate", "champion"] and first.aliases == []
    assert second.tags["consilium.champion.by"] == "chief of medicine"
    assert first.tags["consilium.champion.until"] == second.tags["consilium.champion.at"]
    assert compare(home) == []
    promote(AggregatorHome(home), "digits/1", "champion", "ethics board")  # and back
    follower.sync(home)
    assert "consilium.champion.until" not in version(home, 1).tags
    assert "consilium.champion.until" in version(home, 2).tags and compare(home) == []


def test_a_follower_that_starts_over_moves_no_alias_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads the champion meanwhile never gets the one before."""
    two_versions(home)
    promote(AggregatorHome(home), "digits/1", "champion", "board")
    promote(AggregatorHome(home), "digits/2", "champion", "board")
    follower.sync(home)
    moved = []
    real = MlflowClient.set_registered_model_alias
    monkeypatch.setattr(
        MlflowClient, "set_registered_model_alias", lambda self, *args: (moved.append(args), real(self, *args))
    )
    (home / "lineage.json").unlink()
    follower.sync(home)
    assert moved == [] and compare(home) == []


def test_the_champion_at_the_start_is_the_parent(home: Path) -> None:
    ledger = two_versions(home)
    promote(AggregatorHome(home), "digits/1", "champion", "board")
    make_run(home, ledger, "cccc0003")
    follower.sync(home)
    tags = version(home, 3).tags
    assert tags["consilium.parent_version"] == "digits/1"
    assert tags["consilium.parent_relation"] == "champion when its run started"
    make_run(home, ledger, "dddd0004", parent=made.state_digest(STATE).hex())
    follower.sync(home)
    assert version(home, 4).tags["consilium.parent_relation"] == "its run started from it" and compare(home) == []


def test_a_withdrawal_marks_every_version_with_the_silos_data(home: Path) -> None:
    ledger = two_versions(home)
    record = made.withdrawal("silo-3", ["digits/1", "digits/2"], {"digits/1": ["retrain expert-2 from digits/0"]})
    ledger.append(as_record("withdrawal", record))
    follower.sync(home)
    for number, run in ((1, FIRST), (2, SECOND)):
        found = version(home, number)
        assert found.tags["consilium.withdrawn_silos"] == '["silo-3"]'
        assert parent(home, run).data.tags["consilium.withdrawn_silos"] == '["silo-3"]'
        assert "**silo-3 has withdrawn**" in found.description and "consent was withdrawn" in found.description
        assert "has withdrawn" in AggregatorHome(home).run_folder(run).model_card_path.read_text()
    assert "retrain expert-2" in version(home, 1).description
    (marks,) = (value for key, value in found.tags.items() if key.startswith("consilium.withdrawal."))
    assert json.loads(marks)["epoch"] == 2 and compare(home) == []


def test_a_withdrawal_of_somebody_else_marks_nothing(home: Path) -> None:
    ledger = make_home(home)
    make_run(home, ledger)
    ledger.append(as_record("withdrawal", made.withdrawal("silo-9", [])))
    follower.sync(home)
    assert "consilium.withdrawn_silos" not in candidate(home).tags and compare(home) == []


def test_a_new_mlflow_gets_everything_again_with_the_same_numbers(home: Path, tmp_path: Path, empty_db: Path) -> None:
    two_versions(home)
    promote(AggregatorHome(home), "digits/1", "champion", "board")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    (tmp_path / "other.db").write_bytes(empty_db.read_bytes())
    follower.sync(home, other)
    assert compare(home, other) == []
    assert connect(other).get_model_version_by_alias("digits", "champion").tags["consilium.run"] == FIRST


@pytest.mark.parametrize("signed", [True, False])
def test_another_number_than_before_is_refused(home: Path, tmp_path: Path, empty_db: Path, signed: bool) -> None:
    """Somebody registered a version by hand in the new MLflow, so it would call ours by another number."""
    two_versions(home)
    if signed:
        promote(AggregatorHome(home), "digits/1", "champion", "board")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    (tmp_path / "other.db").write_bytes(empty_db.read_bytes())
    connect(other).create_registered_model("digits")
    connect(other).create_model_version("digits", "file:///nowhere")
    with pytest.raises(EvidenceError, match="digits/1, as the ledger" if signed else "as mlflow.json") as caught:
        follower.sync(home, other)
    assert caught.value.found == "digits/2"
    assert json.loads(AggregatorHome(home).run_folder(FIRST).mlflow_path.read_bytes())["version"] == "1"


def test_whoever_waits_for_the_version_finds_it_complete(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow.json is there once alias, description and tags are."""
    make_run(home, make_home(home))
    place = AggregatorHome(home).run_folder(RUN).mlflow_path
    seen = []

    def watched(real: Any) -> Any:
        return lambda *args, **more: (seen.append(place.exists()), real(*args, **more))[1]

    for verb in ("set_registered_model_alias", "update_model_version", "log_model_artifact", "set_logged_model_tags"):
        monkeypatch.setattr(MlflowClient, verb, watched(getattr(MlflowClient, verb)))
    follower.sync(home)
    assert seen == [False] * 4 and place.exists() and compare(home) == []
