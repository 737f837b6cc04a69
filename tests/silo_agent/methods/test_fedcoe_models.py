"""FedCoE on models other than the perceptron: whole experts, experts on a shared trunk, statistics at home."""

from __future__ import annotations

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import SpecError
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published, method
from tests import digits, plain
from tests.models import params, pictures

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
KIND = method("fedcoe")


def silos() -> dict[str, DataSet]:
    return {name: pictures(data) for name, data in digits.silos(digits.turned()).items()}


def cnn(**more: object) -> dict[str, object]:
    quick = {"rounds": 3, "local_steps": 20, "finetune_steps": 10, "learning_rate": 0.1}
    return params("cnn", "1 8 8", 10, model_width=4, **(quick | more))


@pytest.mark.parametrize(
    ("how", "trunk"),
    [
        ({}, 0),
        ({"model_norm": "batch", "shared": "features.*", "expert": "head.*"}, 6),
    ],
)
def test_experts_find_their_styles_and_serve_a_newcomer(how: dict[str, object], trunk: int) -> None:
    given = cnn(**how)
    plan, published, _ = plain.federate(KIND, given, silos(), LIMITS)
    shared = [block for block in plan.blocks if block.name.startswith("trunk.")]
    assert len(shared) == trunk and all(block.lane == "everyone" for block in shared)
    assert sum(block.name.startswith("expert-1.") for block in plan.blocks) == 8 - trunk
    assert not any(block.name.startswith(("expert-", "trunk.", "generalist.")) and block.init for block in plan.blocks)
    for e in range(2):
        assert published.slots["train/0"][f"expert-{e}.contributors"] == 4
    end, first = published.slots["eval/0"], published.slots["train/0"]
    rows = end["test.rows"]
    assert first["global.correct"] / rows < 0.3, "experts that never opened are not used"
    assert end["global.correct"] / rows > 0.7
    assert end["personal.correct"] / rows > 0.8
    newcomer = pictures(digits.turned()["newcomer-1"])
    p_BC = KIND(given).predict(published, newcomer.x_test, "cold")
    assert (p_BC.argmax(axis=1) == newcomer.y_test).mean() > 0.6
    np.testing.assert_allclose(p_BC.sum(axis=1), 1.0, atol=1e-5)


def test_a_trunk_moves_by_what_all_its_models_learn() -> None:
    given = cnn(shared="features.*", expert="head.*", rounds=1, local_steps=3)
    plan, data = KIND.plan(given, LIMITS), silos()["silo-1"]
    published = Published(blocks.initial_state(plan, plain.RUN))
    train = next(step for step in plan.steps if step.task == "train")
    one, again = (KIND(given, "silo-1").contribute(train, published, data) for _ in range(2))
    assert one.sums.keys() == {part.block for part in train.sums}
    assert all(one.sums[name].tobytes() == again.sums[name].tobytes() for name in one.sums)
    assert one.sums["trunk.t0"].any()


@pytest.mark.parametrize(
    ("how", "path"),
    [
        ({"local": "head.*", "expert": "features.*"}, "params.local"),
        ({"shared": "*"}, "params.expert"),
    ],
)
def test_roles_that_do_not_fit_are_refused(how: dict[str, object], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        KIND.plan(cnn(**how), LIMITS)
    assert refused.value.path == path
