"""What a job may say of privacy, and what is refused by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from crypto.errors import DataRefused, SpecError
from jobs import api
from jobs.job import JobSpec
from silo_agent.methods import RoundParams
from silo_agent.privacy import accountant
from silo_agent.privacy.accountant import Release, epsilon
from silo_agent.privacy.terms import DEFAULTS, Privacy, check_rows, total_steps

TABLE = {
    "mechanism": "local",
    "unit": "record",
    "clip": 1.0,
    "sampling_rate": 0.1,
    "delta": 1e-4,
    "noise_multiplier": 1.5,
}
PARAMS = {"features": 64, "classes": 10, "rounds": 4, "local_steps": 5}
RAW = {"name": "p", "method": "fedavg", "dataset": "digits", "purpose": "a test", "params": PARAMS}


def job(**changes: Any) -> JobSpec:
    table = {key: value for key, value in (TABLE | changes).items() if value is not None}
    return JobSpec.parse(RAW | {"privacy": table})


def test_epsilon_is_computed_from_the_noise() -> None:
    made = job().privacy
    assert made is not None
    truth = epsilon([Release(1.5, 0.1, 20)], 1e-4)
    assert truth <= made.epsilon <= truth + 1e-4
    assert made.accountant == accountant.name()


def test_the_noise_is_computed_from_epsilon() -> None:
    made = job(noise_multiplier=None, epsilon=2.0).privacy
    assert made is not None
    assert made.epsilon == 2.0
    assert epsilon([Release(made.noise_multiplier, 0.1, 20)], 1e-4) <= 2.0
    assert epsilon([Release(made.noise_multiplier - 0.001, 0.1, 20)], 1e-4) > 2.0


def test_the_canonical_text_has_both_and_needs_no_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    made = job()
    monkeypatch.setattr(accountant, "_library", lambda: pytest.fail("the accountant was asked"))
    accountant._epsilon.cache_clear()
    again = JobSpec.from_text(made.text)
    assert again == made and again.digest == made.digest


def test_a_job_without_privacy_has_the_text_that_it_always_had() -> None:
    assert '"privacy"' not in JobSpec.parse(RAW).text


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"mechanism": "distributed"}, "mechanism"),
        ({"mechanism": None}, "mechanism"),
        ({"unit": "patient"}, "unit"),
        ({"unit": None}, "unit"),
        ({"clip": 0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"clip": True}, "clip"),
        ({"clip": "1"}, "clip"),
        ({"sampling_rate": 0}, "sampling_rate"),
        ({"sampling_rate": 1.0001}, "sampling_rate"),
        ({"sampling_rate": -0.1}, "sampling_rate"),
        ({"delta": 0}, "delta"),
        ({"delta": 1}, "delta"),
        ({"delta": None}, "delta"),
        ({"epsilon": 0, "noise_multiplier": None}, "epsilon"),
        ({"epsilon": -1, "noise_multiplier": None}, "epsilon"),
        ({"epsilon": float("inf"), "noise_multiplier": None}, "epsilon"),
        ({"noise_multiplier": 0}, "noise_multiplier"),
        ({"noise_multiplier": 0.01}, "noise_multiplier"),
        ({"noise_multiplier": None}, "privacy"),
        ({"accountant": ""}, "accountant"),
        ({"accountant": 3}, "accountant"),
        ({"sigma": 1.0}, "sigma"),
    ],
)
def test_what_is_no_promise_is_refused_by_name(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        job(**changes)
    assert refused.value.path.rpartition(".")[2] == path


@pytest.mark.parametrize("method", ["fedcoe", "fedavg-lanes", "flex-moe", "metamoe", "fedcoe-samples", "flex"])
def test_other_methods_refuse_by_name(method: str) -> None:
    with pytest.raises(SpecError, match=rf"method {method}"):
        JobSpec.parse(RAW | {"method": method, "privacy": TABLE})


def test_a_schema_that_groups_rows_is_refused() -> None:
    """Several rows of one person are not protected as one."""
    schema = {
        "kind": "table",
        "classes": ["no", "yes"],
        "target": "died",
        "split": {"test": 0.2, "group": "patient"},
        "columns": [{"name": "age", "type": "number", "unit": "a", "range": [0, 120]}],
    }
    params = {"rounds": 2, "local_steps": 2, "features": 1, "classes": 2}
    raw = RAW | {"params": params, "schema": schema, "privacy": TABLE}
    with pytest.raises(SpecError, match="'patient'"):
        JobSpec.parse(raw)
    alone = schema | {"split": {"test": 0.2}}
    assert JobSpec.parse(raw | {"schema": alone}).privacy is not None


def test_a_claim_that_is_too_small_is_found_out() -> None:
    made = job()
    assert made.privacy is not None
    made.privacy.check_claim(PARAMS)
    honest = made.privacy.fields
    lying = Privacy(**(honest | {"epsilon": honest["epsilon"] / 2}))
    with pytest.raises(SpecError, match="at least"):
        lying.check_claim(PARAMS)
    other = Privacy(**(honest | {"accountant": "PLD of dp-accounting 99"}))
    other.check_claim(PARAMS)  # another version's claim holds if ours finds no more
    with pytest.raises(SpecError, match="dp-accounting 99"):
        Privacy(**(other.fields | {"epsilon": 0.1})).check_claim(PARAMS)


def test_more_rounds_are_accounted_for_anew() -> None:
    made, more = job(), job().with_params(rounds=8)
    assert made.privacy is not None and more.privacy is not None
    assert more.privacy.noise_multiplier == made.privacy.noise_multiplier
    assert more.privacy.epsilon > made.privacy.epsilon
    assert job().with_params(seed=8).privacy == made.privacy


@pytest.mark.parametrize(("params", "steps"), [({}, 240), ({"rounds": 3}, 60), ({"rounds": 3, "local_steps": 1}, 3)])
def test_total_steps(params: dict[str, int], steps: int) -> None:
    assert total_steps(params) == steps


def test_a_data_set_that_is_too_small() -> None:
    made = job(delta=1e-2).privacy
    assert made is not None
    check_rows(made, {"batch": 16}, 99)
    with pytest.raises(DataRefused, match="delta"):
        check_rows(made, {"batch": 16}, 100)
    with pytest.raises(DataRefused, match="batch"):
        check_rows(made, {"batch": 100}, 99)


def test_the_defaults_are_those_of_the_method() -> None:
    assert {one.name: one.default for one in fields(RoundParams) if one.name in DEFAULTS} == DEFAULTS


def test_a_run_in_python_keeps_the_promise_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """`jobs.api` fills in parameters; it must not lose the table on the way."""
    federation = api.Federation.__new__(api.Federation)
    federation.schema, federation._shape, federation._task = None, (64,), {"classes": 10}
    assert federation._spec(job(), None, {}).privacy == job().privacy
    more = federation._spec(job(), None, {"rounds": 8}).privacy
    assert more is not None and more == job().with_params(rounds=8).privacy
