"""FedAvg on models other than the perceptron: what is in the plan, what stays, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

from crypto import blocks
from crypto.errors import DataRefused, SpecError
from crypto.plan import Scope
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published, method
from tests import digits, plain
from tests.models import params, pictures

pytestmark = pytest.mark.slow

LIMITS = Limits(n_max=8)
KIND = method("fedavg")


def silos() -> dict[str, DataSet]:
    return {name: pictures(data) for name, data in digits.silos(digits.turned()).items()}


def cnn(**more: object) -> dict[str, object]:
    return params("cnn", "1 8 8", 10, model_width=8, rounds=3, **more)


def test_the_perceptron_may_be_named_and_changes_nothing() -> None:
    given = {"features": 64, "classes": 10, "seed": 7}
    assert KIND.plan(given, LIMITS) == KIND.plan(given | {"model": "mlp"}, LIMITS)
    for key in ("shape", "start", "model-norm", "local"):
        with pytest.raises(SpecError, match=rf"params\.{key}"):
            KIND.plan(given | {key: "1"}, LIMITS)
    with pytest.raises(SpecError, match=r"params\.features.*one of model, package, shape, classes, start"):
        KIND.plan(cnn() | {"features": 64}, LIMITS)


def test_a_plan_has_codes_and_starts_at_zero() -> None:
    plan = KIND.plan(cnn(), LIMITS)
    assert [block.name for block in plan.blocks] == [f"model.t{n}" for n in range(8)]
    assert not any(array.any() for array in blocks.initial_state(plan, plain.RUN).values())
    assert plan.digest == KIND.plan(cnn(), LIMITS).digest


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_cnn_learns_and_nothing_named_after_a_statistic_is_in_the_plan(norm: str) -> None:
    plan, published, members = plain.federate(KIND, cnn(model_norm=norm), silos(), LIMITS)
    assert set(published.blocks) == {f"model.t{n}" for n in range(8)}
    assert b"running" not in bytes(plan) and b"num_batches" not in bytes(plan)
    first, end = published.slots["train/0"], published.slots["eval/0"]
    assert end["global.correct"] / end["test.rows"] > 0.65 > 0.3 > first["global.correct"] / first["test.rows"]
    x = silos()["silo-1"].x_test
    stranger = KIND(cnn(model_norm=norm))
    assert np.array_equal(stranger.predict(published, x, "cold"), members["silo-2"].predict(published, x, "global"))
    with pytest.raises(DataRefused, match="A batch has shape"):
        stranger.predict(published, x.reshape(len(x), -1), "cold")
    with pytest.raises(DataRefused, match="rows of shape"):
        flat = digits.turned()["silo-1"]
        members["silo-1"].contribute(plan.steps[0], published, flat)


def test_a_step_tried_again_gives_the_same_bytes() -> None:
    plan, data = KIND.plan(cnn(model_norm="batch"), LIMITS), silos()["silo-1"]
    published = Published(blocks.initial_state(plan, plain.RUN))
    one, again = (KIND(cnn(model_norm="batch"), "silo-1").contribute(plan.steps[1], published, data) for _ in range(2))
    assert one.slots == again.slots
    assert all(one.sums[name].tobytes() == again.sums[name].tobytes() for name in one.sums)


def test_values_beyond_the_clip_are_counted() -> None:
    plan, data = KIND.plan(cnn(), LIMITS), silos()["silo-1"]
    published = Published(blocks.initial_state(plan, plain.RUN))
    found = {
        clip: KIND(cnn(clip=clip), "silo-1").contribute(plan.steps[1], published, data).slots["clipped"]
        for clip in (4.0, 0.01, 1e-3)
    }
    assert found[4.0] == 0 < found[0.01] < found[1e-3] <= sum(block.size for block in plan.blocks)


# --- local parts: FedPer ----------------------------------------------------------------------------------------------


def test_a_local_head_is_in_the_plan_and_in_no_sum() -> None:
    given = cnn(shared="features.*", local="head.*")
    plan, published, members = plain.federate(KIND, given, silos(), LIMITS)
    own = {block.name for block in plan.blocks if plan.lane_of(block.name).scope is Scope.LOCAL}
    assert own == {"model.t6", "model.t7"} and not own & published.blocks.keys()
    assert not own & {part.block for step in plan.steps for part in step.sums}
    end = published.slots["eval/0"]
    assert end["personal.correct"] / end["test.rows"] > 0.7
    x = silos()["silo-1"].x_test
    answers = [members[name].predict(published, x, "personal") for name in ("silo-1", "silo-2")]
    assert not np.array_equal(*answers)
    for stranger, mode in ((members["silo-1"], "global"), (KIND(given), "personal")):
        with pytest.raises(DataRefused, match="there is no shared model"):
            stranger.predict(published, x, mode)


def test_local_parts_survive_a_restart_and_two_rounds_are_kept() -> None:
    given, data = cnn(shared="features.*", local="head.*"), silos()["silo-1"]
    plan = KIND.plan(given, LIMITS)
    published = Published(blocks.initial_state(plan, plain.RUN))
    one = KIND(given, "silo-1")
    made = [one.contribute(step, published, data) for step in plan.steps[:4]]
    assert set(one.state_dict()) == {f"{code}/{k}" for code in ("t6", "t7") for k in (1, 2)}
    again = KIND(given, "silo-1")
    again.load_state_dict(one.state_dict())
    repeated = again.contribute(plan.steps[3], published, data)
    assert all(made[3].sums[name].tobytes() == repeated.sums[name].tobytes() for name in repeated.sums)


def test_a_model_with_nothing_to_share_is_refused() -> None:
    with pytest.raises(SpecError, match=r"params\.local"):
        KIND.plan(cnn(local="*"), LIMITS)


def test_frozen_parts_are_in_no_plan() -> None:
    plan = KIND.plan(cnn(frozen="features.*", shared="head.*"), LIMITS)
    assert [block.name for block in plan.blocks] == ["model.t6", "model.t7"]
