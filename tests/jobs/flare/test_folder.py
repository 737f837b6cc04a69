"""M3: what a job folder names is checked where it enters, by field: whoever may submit a job wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from crypto.errors import SpecError
from jobs.flare.folder import check_arguments, decode_job, encode_job, sites_in
from jobs.job import MOST_PARAM, MOST_TEXT, JobSpec, decode_plan
from silo_agent.methods import Limits, method

FITS: dict[str, Any] = {"job": "e30=", "plan": "", "grace_s": 2.0, "resume": ""}


def test_what_fed_submit_writes_is_taken() -> None:
    check_arguments(**FITS)
    check_arguments(**FITS | {"grace_s": 0, "resume": "0123456789abcdef"})


@pytest.mark.parametrize(
    "field",
    [
        {"resume": "../../outside"},
        {"resume": "/tmp/outside"},
        {"resume": "0123456789abcde"},
        {"resume": "0123456789ABCDEF"},
        {"resume": "0123456789abcdef\n"},
        {"resume": None},
        {"resume": ["0123456789abcdef"]},
        {"grace_s": -1},
        {"grace_s": 61},
        {"grace_s": float("nan")},
        {"grace_s": float("inf")},
        {"grace_s": "2"},
        {"grace_s": True},
        {"grace_s": None},
        {"job": b"e30="},
        {"job": None},
        {"plan": {"a": 1}},
    ],
    ids=str,
)
def test_other_arguments_are_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(field))):
        check_arguments(**FITS | field)


@pytest.mark.parametrize(
    "meta",
    [
        None,
        [],
        {},
        {"deploy_map": None},
        {"deploy_map": []},
        {"deploy_map": {"app": "server"}},
        {"deploy_map": {"app": ["server", "../x"]}},
        {"deploy_map": {"app": ["server", 5]}},
        {"deploy_map": {"app": [["silo-1"]]}},
    ],
    ids=str,
)
def test_other_deploy_maps_are_refused(meta: Any) -> None:
    with pytest.raises(SpecError, match="deploy_map"):
        sites_in(meta)


def test_the_sites_are_without_the_server() -> None:
    assert sites_in({"deploy_map": {"app": ["server", "silo-2", "silo-1"]}}) == ("silo-1", "silo-2")


def test_texts_are_bounded_and_decoded_by_name() -> None:
    deep = encode_job("[" * 60_000)
    for text in (decode_job(deep), " " * (MOST_TEXT + 1), "[" * 5000, "1" * 5000, '"\\ud800"', "NaN"):
        with pytest.raises(SpecError, match="job text"):
            JobSpec.from_text(text)
    for encoded in ("é", "=", "ab", "\ud800"):
        with pytest.raises(SpecError):
            decode_job(encoded)
        with pytest.raises(SpecError, match="plan"):
            decode_plan(encoded)


def test_parameters_are_bounded() -> None:
    fields: dict[str, Any] = {"name": "j", "method": "fedavg", "dataset": "d", "purpose": "a test"}
    with pytest.raises(SpecError, match="at most 256"):
        JobSpec.parse(fields | {"params": {f"p{i}": 1 for i in range(257)}})
    with pytest.raises(SpecError, match=r"params\.text"):
        JobSpec.parse(fields | {"params": {"text": "x" * (MOST_PARAM + 1)}})
    for rounds in (10**400, 10_001, -1):
        with pytest.raises(SpecError, match=r"params\.rounds"):
            method("fedavg").plan({"features": 4, "classes": 2, "rounds": rounds}, Limits(n_max=3))
