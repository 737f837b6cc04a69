"""A module as the parts that training moves: wire codes, full names, roles, and the start that all silos share.

On the wire a parameter is a *code*, ``t0``, ``t1`` …: its place among the module's parameters. The full dotted names
are in ``Layout.parts``; `fed egress` prints both. A part holds the **difference** from the start, so every block of a
plan begins at zero and neither the aggregator nor the plan needs the start itself. ``Layout.digest`` says which start
it is; the job names it, since differences from different starts do not add up to anything.

Tied tensors are one part, under the first of their names. A parameter without sides (0-d) travels as (1,). float16 and
bfloat16 are float32 in a part and rounded where the module uses them. Integer and complex ones never travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from crypto.encoding import Writer
from crypto.errors import SpecError
from silo_agent.experts import torch_
from silo_agent.models import tasks
from silo_agent.models.description import BufferRole, Model, Role
from silo_agent.models.roles import assigned, listed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One parameter of a model, as plans and methods see it."""

    code: str
    """Its name on the wire, within a model."""
    name: str
    """The full dotted name in the module."""
    shape: tuple[int, ...]
    """On the wire: (1,) for a parameter without sides."""
    role: Role
    init: float = 0.0
    """Half-width of its seeded uniform initial values where there is one model."""
    expert_init: float = 0.0
    """The same for each of several experts."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A checked model. ``module``: as the factory made it, never changed after."""

    model: Model
    parts: tuple[Part, ...]
    """Of roles SHARED, EXPERT and LOCAL, in the module's order."""
    frozen: tuple[Part, ...]
    statistics: frozenset[str]
    """Names of the buffers with role HOME."""
    digest: str
    """SHA-256 in hex over names, types and values of all parameters and constant buffers at the start."""


def layout(model: Model, roles: Mapping[str, str], where: str = "params.model") -> Layout:
    """The checked layout of a model under these roles. Raises SpecError, naming the parameter or the pattern."""
    if model.task not in tasks.NAMES:
        remedy = "Other tasks are yet to come." if model.task in tasks.LATER else ""
        raise SpecError(f"{where} task", got=model.task, want=f"one of {', '.join(tasks.NAMES)}", remedy=remedy)
    named = dict(model.module.named_parameters(remove_duplicate=False))
    if not named:
        raise SpecError(where, got="a module without parameters", want="a module with parameters to train")
    given = assigned(roles, named, [role.value for role in Role], f"{where} roles")
    if missing := [name for name in named if name not in given]:
        raise SpecError(
            f"{where} roles",
            got=f"no role for {listed(missing)}",
            want="exactly one role for every parameter",
            remedy='Add a pattern; "*" stands for all the others.',
        )
    tied = aliases(named.items())
    parts: list[Part] = []
    for name, tensor in named.items():
        if name in tied:
            if given[(before := tied[name])] != given[name]:
                got = f"{before} is {given[before]}, {name} is {given[name]}, and the two are one tensor"
                raise SpecError(f"{where} roles", got=got, want="one role for tied parameters")
            continue
        role = Role(given[name])
        _check_parameter(f"{where} parameter {name}", tensor, role)
        shape = tuple(tensor.shape) or (1,)
        parts.append(Part(code=f"t{len(parts)}", name=name, shape=shape, role=role))
    moving = tuple(part for part in parts if part.role is not Role.FROZEN)
    if not moving:
        raise SpecError(f"{where} roles", got="only frozen parameters", want="at least one that is trained")
    statistics = _statistics(model, where)
    return Layout(
        model,
        moving,
        tuple(part for part in parts if part.role is Role.FROZEN),
        statistics,
        _digest(model.module, tied, statistics),
    )


def running(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Name → layer, of the normalisation layers that keep running statistics."""
    nn = torch_().nn
    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, (*batch, *instance)) and layer.running_mean is not None
    }


def _statistics(model: Model, where: str) -> frozenset[str]:
    buffers = [name for name, _ in model.module.named_buffers(remove_duplicate=False)]
    usual = {
        f"{layer}.{buffer}".lstrip(".")
        for layer in running(model.module)
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    }
    given = assigned(model.buffers, buffers, [role.value for role in BufferRole], f"{where} buffers")
    at_home = {name for name in buffers if given.get(name, "home" if name in usual else "constant") == BufferRole.HOME}
    if foreign := sorted(at_home - usual):
        raise SpecError(
            f"{where} buffers, {foreign[0]}",
            got=BufferRole.HOME.value,
            want="constant, or a running statistic of a normalisation layer",
        )
    return frozenset(at_home)


def _check_parameter(where: str, tensor: torch.Tensor, role: Role) -> None:
    torch = torch_()
    if isinstance(tensor, torch.nn.parameter.UninitializedParameter):
        raise SpecError(where, got="a lazy parameter without a shape", want="a module with all its shapes")
    if tensor.device.type != "cpu":
        raise SpecError(where, got=f"a parameter on {tensor.device}", want="a module on the CPU")
    if not tensor.numel():
        raise SpecError(where, got=f"an empty parameter of shape {tuple(tensor.shape)}", want="at least one value")
    if role is not Role.FROZEN and not tensor.dtype.is_floating_point:
        raise SpecError(
            where,
            got=f"{str(tensor.dtype).removeprefix('torch.')} with role {role}",
            want="a real floating-point type, or role frozen",
            remedy="Integers, complex and quantised values are not trained and never travel.",
        )


def aliases(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Name → first name of the same tensor, of tensors with several names."""
    first: dict[int, str] = {}
    return {name: before for name, tensor in named if (before := first.setdefault(id(tensor), name)) != name}


def _digest(module: torch.nn.Module, tied: Mapping[str, str], statistics: frozenset[str]) -> str:
    found = sha256(bytes(Writer().text("consilium/1/model start")))
    buffers = {name: tensor for name, tensor in module.named_buffers(remove_duplicate=False) if name not in statistics}
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *buffers.items()]:
        found.update(bytes(Writer().text(name).text(tied.get(name, "")).text(str(tensor.dtype))))
        found.update(bytes(Writer().each(tuple(tensor.shape), Writer.u32)))
        if name not in tied:
            found.update(_raw(tensor))
    return found.hexdigest()


def _raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor of any type."""
    raw: np.ndarray = tensor.detach().contiguous().reshape(-1).view(torch_().uint8).numpy()
    return raw.tobytes()
