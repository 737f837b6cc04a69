"""How a silo trains in a round, as far as a job may choose: optimizer, schedule, clip, class weights, local epochs.

Every option is public: it is part of the job that data owners approve. A schedule is a pure function of the round and
of how much of its steps is done, so a round that is attempted again trains alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Final

import numpy as np

from crypto.errors import SpecError
from silo_agent.data import DataSet
from silo_agent.methods import RoundParams, choice, parameter, text
from silo_agent.models.tasks import Classes, Task
from silo_agent.training import OPTIMIZERS, Descent

BALANCED: Final = "balanced"
#: Largest weight of a class.
MOST_WEIGHT: Final = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions(RoundParams):
    """Parameters of jobs whose method trains one network, or copies of one. Without any of them: plain SGD."""

    optimizer: str = choice(*OPTIMIZERS)
    """adam and adamw take ``momentum`` as the decay of their mean gradient."""
    weight_decay: float = parameter(0.0, least=0.0, most=1.0)
    """λ of the pull λ/2 · ‖w‖² to zero; of adamw apart from the gradient."""
    gradient_clip: float = parameter(0.0, least=0.0, most=1e6)
    """Most that the norm of a model's gradient may be; 0: no limit."""
    schedule: str = choice("constant", "cosine", "step")
    """What becomes of the learning rate over the rounds."""
    schedule_every: int = parameter(10, least=1, most=10_000)
    """Rounds between two drops of ``schedule = "step"``."""
    schedule_drop: float = parameter(0.1, least=1e-4, most=1.0)
    """What the rate is multiplied by at each drop."""
    warmup_rounds: int = parameter(0, least=0, most=10_000)
    """Rounds in which the rate rises from 0 to what the schedule says."""
    local_epochs: int = parameter(0, least=0, most=10_000)
    """Passes over a silo's rows in a round, at most ``local_steps`` steps; 0: ``local_steps`` whatever the rows."""
    class_weights: str = text("")
    """Of classes 0, 1 …, with spaces between, such as "1 8"; or "balanced", by each silo's own rows."""

    def steps(self, rows: int) -> int:
        """Steps of a silo with so many training rows in one round."""
        if not self.local_epochs:
            return self.local_steps
        return min(self.local_steps, self.local_epochs * max(rows // min(self.batch, rows), 1))

    def factor(self, k: int, done: float) -> float:
        """What the learning rate is multiplied by in round ``k`` where so much of it is done, from 0 to 1."""
        at = k + done
        found = 1.0
        if self.schedule == "cosine":
            found = (1 + cos(pi * min(at / self.rounds, 1.0))) / 2
        elif self.schedule == "step":
            found = self.schedule_drop ** (k // self.schedule_every)
        return found * min(at / self.warmup_rounds, 1.0) if at < self.warmup_rounds else found

    def descent(self, k: int | None, data: DataSet, task: Task, *, proximal: float = 0.0) -> Descent:
        """Settings of a silo's training in round ``k``; None: apart from rounds, without a schedule."""
        steps = self.steps(data.rows)
        factors: tuple[float, ...] = ()
        if k is not None and (self.schedule != "constant" or self.warmup_rounds):
            factors = tuple(self.factor(k, (step + 0.5) / steps) for step in range(steps))
        return Descent(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            proximal=proximal,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            factors=factors,
            class_weights=self.weights_of(task, data.y_train),
        )

    def weights_of(self, task: Task, y: np.ndarray) -> tuple[float, ...]:
        """The weight of each class. ``y``: a silo's training labels, for balanced ones: rows / (classes · rows of the
        class), so that all classes of the silo count alike and its rows have the mean weight 1."""
        if not self.class_weights:
            return ()
        if self.class_weights != BALANCED:
            return tuple(map(float, self.class_weights.split(" ")))
        counts = np.bincount(y, minlength=task.classes)
        there = int((counts > 0).sum())
        return tuple(len(y) / (there * int(count)) if count else 0.0 for count in counts)

    def check(self, task: Task) -> None:
        """Raise SpecError for class weights that do not fit the task, and for options that say nothing."""
        if self.warmup_rounds > self.rounds:
            raise SpecError("params.warmup_rounds", got=self.warmup_rounds, want=f"at most the rounds, {self.rounds}")
        if not (given := self.class_weights):
            return
        if not isinstance(task, Classes):
            want = f"none: {task.name} has no classes of rows"
            raise SpecError("params.class_weights", got=given, want=want)
        if given == BALANCED:
            return
        found = [_weight(part) for part in given.split(" ")]
        if len(found) != task.classes or not any(found) or any(one is None for one in found):
            want = (
                f'"{BALANCED}", or {task.classes} numbers from 0 to {MOST_WEIGHT:g} with one space between, not all 0'
            )
            raise SpecError("params.class_weights", got=given, want=want)


def _weight(part: str) -> float | None:
    try:
        found = float(part)
    except ValueError:
        return None
    return found if isfinite(found) and 0 <= found <= MOST_WEIGHT and part.strip() == part else None
