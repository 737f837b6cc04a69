"""The network of a job: its experts, and their parts as blocks of a plan.

A job without ``model``, or with ``model = "mlp"``, has the perceptron: features, classes, hidden. Any other model comes
from ``silo_agent.models.registry``. What it learns is its ``task``: ``silo_agent.models.tasks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from crypto.errors import SpecError
from crypto.plan import Block, Slot
from silo_agent.methods import PerceptronParams, Published, RoundParams, parameter, parse
from silo_agent.methods.plans import counts
from silo_agent.models import registry, tasks
from silo_agent.models.experts import Experts, Perceptrons
from silo_agent.models.layout import Part
from silo_agent.training import generator

CLIPPED = "clipped"

P = TypeVar("P", bound=RoundParams)

_OF_PERCEPTRON = tuple(one.name for one in fields(PerceptronParams))


@dataclass(frozen=True, kw_only=True)
class _Perceptron:
    """The perceptron's own parameters; its ``classes`` are the task's."""

    features: int = parameter(least=1, most=2**16)
    hidden: int = parameter(16, least=1, most=2**14)


def read(kind: type[P], raw: Mapping[str, object]) -> tuple[P, Experts]:
    """The method's own parameters and the experts of a job. Raises SpecError."""
    if raw.get("model", registry.PERCEPTRON) == registry.PERCEPTRON:
        of_network = (*_OF_PERCEPTRON, *tasks.KEYS, "model")
        if raw.get("task") == tasks.Masks.name:
            raise SpecError("params.model", got=raw.get("model"), want="a model for segmentation, such as unet")
        p = parse(_Perceptron, {key: raw[key] for key in ("features", "hidden") if key in raw})
        task = tasks.of(raw)
        rest = {key: value for key, value in raw.items() if key not in of_network}
        return parse(kind, rest, others=of_network), Perceptrons(p.features, p.hidden, task)
    about, rest = registry.split(raw)
    own = parse(kind, rest, others=registry.KEYS)
    return own, registry.experts_of(about, own.seed)


@runtime_checkable
class OfNetwork(Protocol):
    """A method that trains copies of the job's network."""

    experts: Experts


def part_blocks(name: str, parts: Sequence[Part], *, lane: str, clip: float, expert: bool = False) -> tuple[Block, ...]:
    """The blocks ``name.CODE`` of these parts. ``expert``: with the initial values of one of several experts."""
    return tuple(
        Block(
            name=f"{name}.{part.code}",
            shape=part.shape,
            lane=lane,
            clip=clip,
            init=part.expert_init if expert else part.init,
        )
        for part in parts
    )


def published_parts(published: Published, name: str, parts: Sequence[Part]) -> dict[str, np.ndarray]:
    """Code → array, of a published model's parts."""
    return {part.code: published.blocks[f"{name}.{part.code}"] for part in parts}


def clip_slots(experts: Experts) -> tuple[Slot, ...]:
    """The slot of a training step that counts values beyond the clip. None for perceptrons: their plans stay the same
    bytes from release to release."""
    return () if isinstance(experts, Perceptrons) else counts(CLIPPED)


def clipped(slots: Sequence[Slot], sums: Mapping[str, np.ndarray], clip: float) -> dict[str, int]:
    """For ``clip_slots``: how many values of these blocks are beyond ±clip, to which the encoder clamps them."""
    return {slot.name: sum(int((np.abs(array) > clip).sum()) for array in sums.values()) for slot in slots}


def training_seed(seed: int, silo: str, step: int) -> int:
    """Of dropout and the like in a silo's training step: the same whenever the step is attempted again."""
    return int(generator("dropout", seed, silo, step).integers(2**63))
