"""What a model learns: how its answers become predictions, and how likely they make what is true.

    task = "multiclass"          # classes = 3; with classes = 2 also "binary". Without a task a job is one of these
    task = "multilabel"          # classes = 5: so many yes-or-no labels of each row
    task = "segmentation"        # classes = 2: a class for each place of the row
    task = "regression"          # a number; no classes
    target_low = 0               # public bounds of that number, in its own unit; a schema of the job gives all four
    target_high = 60
    target_mean = 9              # public scaling of what the network learns; without them the bounds become −1 … 1
    target_sd = 8

A network answers each row by ``classes`` numbers: logits, or the scaled number. Every likelihood is one for each row,
so methods that weigh rows or experts by it work for every task: of several labels and of places it is the mean over
them, which keeps one learning rate sane; of a number it is a normal distribution's of standard deviation ``target_sd``.

Shapes: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from crypto.errors import DataRefused, SpecError
from crypto.scores import LEAST_PROBABILITY
from silo_agent.data import CLASS, LABELS, MASK, MOST_LABELS, NUMBER, scale_fault
from silo_agent.experts import torch_

if TYPE_CHECKING:
    import torch

#: Tasks by name, and those that have a name here but nothing that learns them yet.
NAMES: Final = ("binary", "multiclass", "multilabel", "segmentation", "regression")
LATER: Final = ("survival", "language")
#: Parameters of a job about its task.
KEYS: Final = ("task", "target_low", "target_high", "target_mean", "target_sd")
OF_NUMBER: Final = KEYS[1:]

MOST_CLASSES: Final = 2**16


@dataclass(frozen=True, slots=True)
class Classes:
    """One class a row. What its methods say is true of every task's."""

    name: ClassVar[str] = "multiclass"
    target: ClassVar[str] = CLASS
    """The kind of target that a data set must have: one of ``silo_agent.data.KINDS``."""
    classes: int
    """Numbers of an answer: classes, labels, or 1."""

    def answer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the network's answer to one row of this shape."""
        return (self.classes,)

    def log_likelihood(self, answers: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of each row, from answers (…, B, *answer_shape) and targets (…, B, …)."""
        logp = answers.float().log_softmax(-1)
        return logp.gather(-1, y.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def predictions(self, answers: torch.Tensor) -> torch.Tensor:
        """Probabilities, or numbers in the target's unit, float64, in the shape of the answers."""
        return answers.float().log_softmax(-1).double().exp()

    def log_scores(self, predictions: np.ndarray, y: np.ndarray, least: float = LEAST_PROBABILITY) -> np.ndarray:
        """Log-likelihood (…, B) float64 of predictions (…, B, *answer_shape); probabilities below ``least`` count as
        that."""
        found: np.ndarray = np.log(np.maximum(predictions[..., np.arange(len(y)), y], least))
        return found

    def named(self, predictions: np.ndarray) -> np.ndarray:
        """What is said of each row: the class (B,), labels (B, C) of 0 and 1, a mask (B, *sides), the number (B,)."""
        found: np.ndarray = predictions.argmax(axis=1).astype(np.int64)
        return found

    def over_classes(self, predictions: np.ndarray) -> np.ndarray:
        """Distributions (B, C) by which a gate compares models; of other tasks one that says nothing of any."""
        return predictions


@dataclass(frozen=True, slots=True)
class Labels:
    """Several labels a row, each yes or no by itself."""

    name: ClassVar[str] = "multilabel"
    target: ClassVar[str] = LABELS
    classes: int

    def answer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.classes,)

    def log_likelihood(self, answers: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        signed = answers.float() * (2 * y.float() - 1)
        found: torch.Tensor = torch_().nn.functional.logsigmoid(signed).mean(-1)
        return found

    def predictions(self, answers: torch.Tensor) -> torch.Tensor:
        return answers.double().sigmoid()

    def log_scores(self, predictions: np.ndarray, y: np.ndarray, least: float = LEAST_PROBABILITY) -> np.ndarray:
        found: np.ndarray = np.log(np.maximum(np.where(y == 1, predictions, 1 - predictions), least)).mean(axis=-1)
        return found

    def named(self, predictions: np.ndarray) -> np.ndarray:
        return (predictions > 0.5).astype(np.int64)

    def over_classes(self, predictions: np.ndarray) -> np.ndarray:
        return np.full((1, 2), 0.5)


@dataclass(frozen=True, slots=True)
class Masks:
    """A class for each place of a row: of a picture's pixels, of a volume's voxels."""

    name: ClassVar[str] = "segmentation"
    target: ClassVar[str] = MASK
    classes: int

    def answer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.classes, *shape[1:])

    def log_likelihood(self, answers: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        places = answers.float().log_softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
        return places.flatten(1).mean(-1)

    def predictions(self, answers: torch.Tensor) -> torch.Tensor:
        return answers.float().log_softmax(1).double().exp()

    def log_scores(self, predictions: np.ndarray, y: np.ndarray, least: float = LEAST_PROBABILITY) -> np.ndarray:
        axis = predictions.ndim - y.ndim  # of the classes, behind models (…) and rows
        index = y.reshape((1,) * (axis - 1) + (len(y), 1, *y.shape[1:]))
        of_true = np.take_along_axis(predictions, index, axis)
        found: np.ndarray = np.log(np.maximum(of_true, least)).reshape(*predictions.shape[:axis], -1).mean(axis=-1)
        return found

    def named(self, predictions: np.ndarray) -> np.ndarray:
        found: np.ndarray = predictions.argmax(axis=1).astype(np.int64)
        return found

    def over_classes(self, predictions: np.ndarray) -> np.ndarray:
        return np.full((1, 2), 0.5)


@dataclass(frozen=True, slots=True)
class Number:
    """A number, whose bounds and scaling are public."""

    name: ClassVar[str] = "regression"
    target: ClassVar[str] = NUMBER
    classes: ClassVar[int] = 1
    low: float
    high: float
    mean: float
    sd: float

    def answer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,)

    def log_likelihood(self, answers: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scaled = ((y.double() - self.mean) / self.sd).float()
        return -0.5 * (answers.float()[..., 0] - scaled).square()

    def predictions(self, answers: torch.Tensor) -> torch.Tensor:
        return answers.double() * self.sd + self.mean

    def log_scores(self, predictions: np.ndarray, y: np.ndarray, least: float = LEAST_PROBABILITY) -> np.ndarray:
        found: np.ndarray = -0.5 * ((predictions[..., 0] - y) / self.sd) ** 2
        return found

    def named(self, predictions: np.ndarray) -> np.ndarray:
        return predictions[:, 0]

    def over_classes(self, predictions: np.ndarray) -> np.ndarray:
        return np.full((1, 2), 0.5)

    @property
    def exponent(self) -> int:
        """The least e with 2^e at least the width of the range: sums in fixed point are of shares of 2^e."""
        e = -30
        while 2.0**e < self.high - self.low:
            e += 1
        return e


Task = Classes | Labels | Masks | Number
"""What a job's model learns."""


def of(params: Mapping[str, object]) -> Task:
    """The task of a job, from its parameters. Raises SpecError that names the parameter."""
    name = params.get("task")
    if name in LATER:
        raise SpecError(
            "params.task", got=name, want=f"one of {', '.join(NAMES)}", remedy="Other tasks are yet to come."
        )
    if name is not None and (not isinstance(name, str) or name not in NAMES):
        raise SpecError("params.task", got=name, want=f"one of {', '.join(NAMES)}")
    if name == "regression":
        return _number(params)
    for key in OF_NUMBER:
        if key in params:
            raise SpecError(f"params.{key}", got=params[key], want='none, without task = "regression"')
    least, most = (1, MOST_LABELS) if name == "multilabel" else (2, MOST_CLASSES)
    classes = params.get("classes")
    if isinstance(classes, bool) or not isinstance(classes, int) or not least <= classes <= most:
        raise SpecError("params.classes", got=classes, want=f"an integer from {least} to {most}")
    if name == "binary" and classes != 2:
        raise SpecError("params.classes", got=classes, want='2, with task = "binary"')
    kinds: dict[object, type[Labels] | type[Masks]] = {"multilabel": Labels, "segmentation": Masks}
    return kinds[name](classes) if name in kinds else Classes(classes)


def _number(params: Mapping[str, object]) -> Number:
    if "classes" in params:
        raise SpecError("params.classes", got=params["classes"], want='none, with task = "regression"')
    low, high = (_finite(params, key) for key in ("target_low", "target_high"))
    mean, sd = (low + high) / 2, (high - low) / 2
    if ("target_mean" in params) != ("target_sd" in params):
        lacking = "target_sd" if "target_mean" in params else "target_mean"
        raise SpecError(f"params.{lacking}", got=None, want="both target_mean and target_sd, or neither")
    if "target_mean" in params:
        mean, sd = _finite(params, "target_mean"), _finite(params, "target_sd")
    if fault := scale_fault(low, high, mean, sd):
        name = "target_high" if fault[0] == "range" else f"target_{fault[0]}"
        raise SpecError(f"params.{name}", got=high if fault[0] == "range" else fault[1], want=fault[2])
    return Number(low, high, mean, sd)


def _finite(params: Mapping[str, object], key: str) -> float:
    value = params.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise SpecError(
            f"params.{key}",
            got=value,
            want="a finite number: the job's public scale of the target",
            remedy="Floats as targets are numbers to predict, and need it. Labels of classes are integers.",
        )
    return float(value)


def output_name(task: Task) -> str:
    """What a model of the task gives, for files and JSON."""
    return "values" if isinstance(task, Number) else "probabilities"


def check_targets(task: Task, name: str, *targets: np.ndarray) -> None:
    """Raise DataRefused for numbers outside a job's public bounds; ``name``: of the data set."""
    if isinstance(task, Number):
        for y in targets:
            if beyond := np.flatnonzero((y < task.low) | (y > task.high)).tolist():
                raise DataRefused(
                    f"Data set {name!r} has targets outside {task.low:g} to {task.high:g}, the job's bounds: row "
                    f"{beyond[0] + 1}" + (f" and {len(beyond) - 1} more." if len(beyond) > 1 else "."),
                    remedy="Compare the target's unit with the job's, or ask for a job with wider bounds.",
                )
