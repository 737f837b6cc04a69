"""Roles, names and starts: exactly one role a parameter, one part a tensor, nothing that is no real number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crypto.errors import SpecError
from silo_agent.models.description import Model, Role
from silo_agent.models.layout import Layout, layout
from silo_agent.models.roles import assigned
from tests.silo_agent.models import zoo

pytestmark = pytest.mark.slow

ALL = [role.value for role in Role]


def made(module: nn.Module, **model: object) -> Layout:
    given = Model(module=module, **model)  # type: ignore[arg-type]
    return layout(given, given.roles)


def test_an_exact_name_is_no_prefix() -> None:
    names = [f"fc{n}.weight" for n in range(1, 12)]
    assert assigned({"fc1.weight": "local"}, names, ALL, "roles") == {"fc1.weight": "local"}
    assert assigned({"fc1.*": "local"}, names, ALL, "roles") == {"fc1.weight": "local"}
    assert len(assigned({"fc1*": "local", "*": "shared"}, names, ALL, "roles")) == 11
    with pytest.raises(SpecError, match=r"'fc1': got 'a pattern that matches nothing'"):
        assigned({"fc1": "local"}, names, ALL, "roles")


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"0.weight": "shared"}, "no role for 0.bias"),
        ({"0.*": "shared", "*.bias": "local"}, "two roles: '0.*' gives shared, '*.bias' gives local"),
        ({"0.*": "shared", "*": "local"}, "every name has a role already"),
        ({"0.*": "shared", "1.*": "local"}, "a pattern that matches nothing"),
        ({"0.*": "secret"}, "want one of shared, expert, local, frozen"),
    ],
)
def test_each_parameter_has_exactly_one_role(roles: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        made(nn.Sequential(nn.Linear(2, 2)), roles=roles)
    assert said in str(refused.value)


def test_two_patterns_may_agree() -> None:
    found = made(nn.Sequential(nn.Linear(2, 2)), roles={"0.*": "shared", "*.bias": "shared"})
    assert {part.role for part in found.parts} == {Role.SHARED}


def test_tied_sideless_and_long_names_are_parts_with_short_codes() -> None:
    model = zoo.odd((6,), 3)
    found = layout(model, model.roles)
    names = {part.name: part for part in (*found.parts, *found.frozen)}
    assert len({part.code for part in names.values()}) == len(names)
    assert all(len(part.code) < 5 for part in found.parts)
    assert max(map(len, names)) > 63 and any(name != name.lower() for name in names)
    assert "embed.weight" in names and "head.weight" not in names, "one tensor, one part"
    assert names["logit_scale"].shape == (1,)
    assert [part.name for part in found.frozen] == ["fc1.weight"]
    assert [part.name for part in found.parts if part.role is Role.LOCAL] == ["fc2.weight"]


def test_tied_names_have_one_role() -> None:
    model = zoo.odd((6,), 3)
    with pytest.raises(SpecError, match="the two are one tensor"):
        layout(model, {"head.weight": "local", "*": "shared"})
    roles = {"head.weight": "local", "embed.weight": "local", "*": "shared"}
    assert [part.name for part in layout(model, roles).parts if part.role is Role.LOCAL] == ["embed.weight"]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.int8])
def test_only_real_numbers_are_trained(dtype: torch.dtype) -> None:
    module = nn.Linear(2, 2)
    module.extra = nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False)
    with pytest.raises(SpecError, match=r"parameter extra.*never travel"):
        made(module)
    found = made(module, roles={"extra": "frozen", "*": "shared"})
    assert [part.name for part in found.parts] == ["weight", "bias"]


@pytest.mark.parametrize("module", [nn.ReLU(), nn.LazyLinear(2), nn.Linear(2, 2, device="meta"), nn.Embedding(0, 3)])
def test_what_has_no_values_is_refused(module: nn.Module) -> None:
    with pytest.raises(SpecError):
        made(module)


def test_statistics_are_found_by_their_layer_and_not_by_their_name() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    module.register_buffer("running_mean", torch.zeros(2))
    found = made(module)
    assert found.statistics == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert made(module, buffers={"1.*": "constant"}).statistics == set()
    with pytest.raises(SpecError, match="a running statistic"):
        made(module, buffers={"running_mean": "home"})
    with pytest.raises(SpecError, match="matches nothing"):
        made(module, buffers={"2.*": "constant"})


def test_the_digest_is_of_every_value_that_is_not_estimated_at_home() -> None:
    def digest(change: str = "", value: float = 9.0) -> str:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        module.register_buffer("class_weight", torch.ones(2))
        if change:
            with torch.no_grad():
                module.state_dict()[change].fill_(value)
        return made(module).digest

    assert digest() == digest() == digest("1.running_mean") == digest("1.num_batches_tracked", 3)
    changed = {digest(name) for name in ("0.weight", "0.bias", "1.weight", "1.bias", "class_weight")}
    assert len(changed | {digest()}) == 6
