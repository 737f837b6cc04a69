"""What pages say of differential privacy is what the job says, and that there is none where it says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.privacy import NONE, claim, sentence, short, tags

TABLE = {
    "mechanism": "local",
    "unit": "record",
    "clip": 1.0,
    "sampling_rate": 0.05,
    "delta": 1e-05,
    "epsilon": 4.0,
    "noise_multiplier": 1.225,
    "accountant": "PLD of dp-accounting 0.6.0",
}


def test_a_private_job_says_epsilon_delta_unit_adversary_and_accountant() -> None:
    job = {"privacy": TABLE}
    said = sentence(job)
    for part in ("epsilon 4 at delta 1e-05", "one training record", "everybody", "PLD of dp-accounting 0.6.0", "1.225"):
        assert part in said
    assert short(job) == "epsilon 4 at delta 1e-05 for one record, local, PLD of dp-accounting 0.6.0"
    found = tags(job)
    assert found["consilium.privacy"] == short(job)
    assert (found["consilium.privacy.epsilon"], found["consilium.privacy.delta"]) == ("4", "1e-05")
    assert found["consilium.privacy.unit"] == "record" and "everybody" in found["consilium.privacy.adversary"]


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"privacy": None},
        {"privacy": "much"},
        {"privacy": {}},
        {"privacy": TABLE | {"mechanism": "magic"}},
        {"privacy": TABLE | {"epsilon": "4"}},
        {"privacy": TABLE | {"epsilon": True}},
        {"privacy": {key: value for key, value in TABLE.items() if key != "delta"}},
        {"privacy": TABLE | {"accountant": None}},
    ],
)
def test_anything_else_promises_nothing_and_says_so(job: dict[str, Any]) -> None:
    assert claim(job) is None
    assert sentence(job) == NONE and short(job) == "no differential privacy"
    assert tags(job) == {"consilium.privacy": "none"}
