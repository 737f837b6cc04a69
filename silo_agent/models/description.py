"""What a factory returns: a module, how it answers a batch, and which of its parameters may leave a silo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import torch


class Role(StrEnum):
    """What becomes of a parameter. Each has exactly one role."""

    SHARED = "shared"
    """One for all experts, summed over all silos."""
    EXPERT = "expert"
    """One for each expert of the method, summed over the silos that contribute to it."""
    LOCAL = "local"
    """Trained at each silo, never sent."""
    FROZEN = "frozen"
    """As the model starts: neither trained nor sent."""


class BufferRole(StrEnum):
    """What becomes of a buffer. None is ever sent."""

    HOME = "home"
    """Running statistics of a normalisation layer: estimated anew at each silo, from its own unlabelled rows."""
    CONSTANT = "constant"
    """As the model starts. One that changes in training is refused."""


#: The pattern for every parameter that no other pattern of a model matches.
REST: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A module with what a federation has to know of it.

    ``roles``: pattern → role, over the dotted names of ``module.named_parameters()``. A pattern is a whole name or a
    glob: ``fc1`` matches ``fc1`` alone, ``fc1.*`` what lies below it. ``"*"`` matches what no other pattern does.
    """

    module: torch.nn.Module
    """Made on the CPU, on the torch seed that is set when the factory is called."""
    roles: Mapping[str, str] = field(default_factory=lambda: {REST: Role.EXPERT.value})
    """Pattern → ``shared``, ``expert``, ``local`` or ``frozen``."""
    buffers: Mapping[str, str] = field(default_factory=dict)
    """Pattern → ``home`` or ``constant``, of buffers that are not to have the usual role: ``home`` for the running
    statistics of normalisation layers, ``constant`` for all others."""
    task: str = "multiclass"
    """One of ``silo_agent.models.tasks.NAMES``. multiclass: ``classes`` numbers a row, which jobs of several labels and
    of a number (then ``classes`` is 1) take, too; binary: of a job with two classes; segmentation: ``classes`` numbers
    for each place of a row."""
    forward: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    """(module, x float32 (rows, *shape)) → logits (rows, classes), of masks (rows, classes, *sides). None: the
    module's own forward."""
    view: Callable[[np.ndarray], np.ndarray] | None = None
    """x (rows, *shape) → (rows, F) float64, by which a method compares rows without a network. None: see
    ``views.pooled``."""
