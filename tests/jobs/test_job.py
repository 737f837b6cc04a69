"""Job files: one canonical text, and a named refusal for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crypto.errors import SpecError
from jobs.demo.up import Options, prepare
from jobs.job import JobSpec, catalogue
from tests import local

GOOD = {
    "name": "a-job",
    "method": "fedavg",
    "dataset": "digits",
    "purpose": "p",
    "params": {"features": 4, "classes": 2},
}


def test_the_catalogue_parses_and_plans() -> None:
    assert catalogue() == [
        "fedavg-digits",
        "fedavg-lanes-digits",
        "fedcoe-cnn-digits",
        "fedcoe-digits",
        "fedcoe-heart",
        "fedcoe-samples-digits",
        "flex-language",
        "flex-moe-digits",
        "metamoe-digits",
    ]
    for name in catalogue():
        assert JobSpec.load(name).name == name


def test_text_and_digest_are_canonical() -> None:
    spec = JobSpec.parse(GOOD)
    assert JobSpec.from_text(spec.text) == spec
    reordered = dict(reversed(GOOD.items()))
    assert JobSpec.parse(reordered).digest == spec.digest
    assert JobSpec.parse({**GOOD, "params": {"features": 5, "classes": 2}}).digest != spec.digest
    spaced = json.dumps(json.loads(spec.text), indent=1)
    with pytest.raises(SpecError, match="canonical"):
        JobSpec.from_text(spaced)
    for bad in ("", "[]", "{", '{"name":1}'):
        with pytest.raises(SpecError):
            JobSpec.from_text(bad)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"extra": 1}, "job.extra"),
        ({"method": "fedsgd"}, "job.method"),
        ({"method": 3}, "job.method"),
        ({"name": "No Capitals"}, "job.name"),
        ({"name": "../evil"}, "job.name"),
        ({"dataset": "a/b"}, "job.dataset"),
        ({"keep_uploads": "some"}, "job.keep_uploads"),
        ({"params": 3}, "job.params"),
        ({"params": {"features": float("nan")}}, "job.params.features"),
        ({"params": {"features": [1]}}, "job.params.features"),
        ({"timeouts": {"phase": 0}}, "job.timeouts.phase"),
        ({"timeouts": {"phase": True}}, "job.timeouts.phase"),
        ({"timeouts": {"hour": 1}}, "job.timeouts.hour"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        JobSpec.parse({**GOOD, **change})
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"features": 4}, "params.classes"),
        ({"features": 4, "classes": 2, "depth": 3}, "params.depth"),
        ({"features": "4", "classes": 2}, "params.features"),
    ],
)
def test_wrong_parameters_are_named_by_the_method(tmp_path: Path, params: dict[str, object], path: str) -> None:
    federation = local.federation(tmp_path / "f")
    from crypto.home import Home

    with pytest.raises(SpecError) as refused:
        JobSpec.parse({**GOOD, "params": params}).plan(Home(federation.aggregator).charter())
    assert refused.value.path == path


def test_missing_files_name_the_catalogue(tmp_path: Path) -> None:
    for source in ("no-such-job", tmp_path / "none.toml"):
        with pytest.raises(SpecError, match="fedcoe-digits"):
            JobSpec.load(source)
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(SpecError, match="TOML"):
        JobSpec.load(broken)


@pytest.mark.parametrize(
    "options",
    [
        {"silos": 6},
        {"silos": 9},
        {"silos": 0},
        {"silos": 900},
        {"rounds": 0},
        {"seed": -1},
        {"job": "nothing"},
        {"data": Path("anywhere")},
        {"job": "fedcoe-heart"},
        {"job": "fedcoe-heart", "silos": 8},
    ],
)
def test_a_refused_demonstration_leaves_nothing_behind(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        prepare(Options(runs=tmp_path / "runs", **options))  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_a_name_that_exists_is_refused(tmp_path: Path) -> None:
    first = prepare(Options(runs=tmp_path, name="mine"))
    before = sorted(first.federation.root.rglob("*"))
    with pytest.raises(SpecError, match="not taken"):
        prepare(Options(runs=tmp_path, name="mine"))
    assert sorted(first.federation.root.rglob("*")) == before
    assert prepare(Options(runs=tmp_path)).federation.name == "fedcoe-digits-1"
    assert prepare(Options(runs=tmp_path)).federation.name == "fedcoe-digits-2"


TABLE = {
    "kind": "table",
    "target": "died",
    "classes": ["no", "yes"],
    "columns": [
        {"name": "age", "type": "number", "range": [0, 130]},
        {"name": "sex", "type": "category", "levels": ["f", "m"]},
    ],
}


def test_a_table_s_schema_says_how_many_inputs_and_classes_there_are() -> None:
    bare = JobSpec.parse({**GOOD, "params": {"rounds": 3}, "schema": TABLE})
    (shape,) = bare.schema.shape if bare.schema is not None else (0,)
    assert bare.params == {"rounds": 3, "features": shape, "classes": 2}
    said = JobSpec.parse({**GOOD, "params": {"rounds": 3, "features": shape, "classes": 2}, "schema": TABLE})
    assert said.text == bare.text
    for wrong in ({"features": shape + 1}, {"classes": 3}):
        with pytest.raises(SpecError, match=r"as its schema says|by its schema"):
            JobSpec.parse({**GOOD, "params": wrong, "schema": TABLE})
    number = {key: value for key, value in TABLE.items() if key != "classes"}
    number |= {"target": {"name": "stay", "range": [0, 60], "mean": 10.0, "sd": 5.0}}
    stay = JobSpec.parse({**GOOD, "params": {}, "schema": number})
    assert stay.params["task"] == "regression" and stay.params["features"] == shape and "classes" not in stay.params
