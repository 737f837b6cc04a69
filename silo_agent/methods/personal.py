"""Methods that make a model for each silo, which stays there.

After a run the agent keeps it (``silo_agent.personal_model``), and ``fed personal`` uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from crypto.errors import DataRefused
from silo_agent.experts import Weights
from silo_agent.local_expert import LocalExpert, restored
from silo_agent.methods import Published
from silo_agent.models.experts import Experts


@runtime_checkable
class Personal(Protocol):
    """A method that makes a model for each silo. ``state_dict`` has what it needs besides what is published."""

    @property
    def has_personal(self) -> bool:
        """Whether this silo has one now: in a job without local parts, or a silo that was away, there is none."""

    def predict_personal(self, published: Published, x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        """p_BC of rows (B, *shape), float64. ``home``: unlabelled rows of this silo, as in ``Experts.predict``."""


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a personal answer to one row: ``share`` of the network's probabilities, times the exponential of
    ``log_prior`` (C,) and brought to sum 1 where there is one."""

    share: float
    weights: Weights
    log_prior: np.ndarray | None = None


@runtime_checkable
class OfRows(Protocol):
    """A method whose personal answer to a row alone is a mixture of networks, so that it can be exported."""

    def of_rows(self, published: Published) -> tuple[Component, ...]:
        """The mixture; shares add up to 1."""


class WithLocalExpert:
    """What methods share whose personal model is a local expert, made in the plan's last step."""

    network: Experts
    """What the local expert is a copy of."""
    local: LocalExpert | None = None

    @property
    def mine(self) -> LocalExpert:
        """Raises DataRefused before there is one."""
        if self.local is None:
            raise DataRefused("There is no local expert yet.", remedy="It is made in the plan's last step, eval/0.")
        return self.local

    @property
    def has_personal(self) -> bool:
        return self.local is not None

    def state_dict(self) -> dict[str, np.ndarray]:
        return {} if self.local is None else self.local.arrays()

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        self.local = restored(self.network, kept)
