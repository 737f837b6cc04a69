"""Methods, silo side: what to contribute to each step of a plan, and how to predict from what was published.

A method is a class that is built from its parameters (a flat TOML table) and the silo's name. ``plan`` is a pure
function of parameters and limits, so that every silo recomputes it. Methods are imported when they are asked for: to
list them, or to refuse one, loads no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeVar, cast

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import DataRefused, NonFinite, SpecError
from crypto.plan import Plan, Step
from silo_agent.data import TARGETS, DataSet
from silo_agent.models import tasks
from silo_agent.models.tasks import Task

#: Weights of the weight rule, in halves of the federation's mean: coarse, and none above four times another.
GRID = (1, 2, 3, 4)

#: The most rows one silo may report in a slot.
ROWS_BOUND = 2**32

#: How a batch may be scored. ``global`` and ``cold`` need published state and the unlabelled batch alone.
MODES = ("global", "personal", "cold")

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must keep to, from the charter."""

    n_max: int
    """Members of the federation."""
    colluders: int = 1
    """Silos assumed to collude with the aggregator (c)."""
    honest: int = 2
    """Honest inputs in any opened sum (m)."""
    lane_floor: int = 3
    """Fewest contributors of a lane that not every silo holds (m_e)."""

    @property
    def least_holders(self) -> int:
        """Fewest holders with which such a lane can open: ``Charter.floor`` before the plan's own floor is known."""
        return max(self.lane_floor, self.honest + self.colluders)


@dataclass(frozen=True, slots=True)
class Published:
    """All that a method sees of the other silos."""

    blocks: Mapping[str, np.ndarray]
    """Block name → read-only float32 array of the plan's shape."""
    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Step name → slot → opened sum, of the released steps. A step may lack any slot of the plan: see ``opened``."""


class Method(Protocol):
    """A federated method at one silo, or in a predictor (then ``silo`` is "")."""

    name: ClassVar[str]
    """Its id in ``METHODS`` and in job files."""
    display_name: ClassVar[str]
    """Its name on pages."""
    contextual: ClassVar[bool]
    """Whether a global prediction of a row also reads the unlabelled batch around it."""

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        """``params``: the flat table of the job file. ``silo``: this silo's id. Raises SpecError."""

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        """The plan of a job: a pure function, since every silo recomputes it. Raises SpecError."""

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        """Lane → 0 or a value of its grid. A lane that is left out has weight 0. Fixed before training."""

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        """For the lanes with a weight, block → float array of the block's shape; and every own slot of the step.

        ``published`` is the state before the step. A step that is attempted again must give the same contribution.
        Raises DataRefused for data that do not fit the job.
        """

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """Class probabilities (rows, classes), float64, of a batch (rows, features).

        ``mode``: one of ``MODES``. Raises SpecError for another mode; DataRefused or NonFinite for an unfit batch.
        """

    def state_dict(self) -> dict[str, np.ndarray]:
        """The arrays that this silo needs after a restart; they never leave it."""

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state_dict`` gave in an earlier process."""


class Stateless:
    """A method whose every step starts from what is published and the silo's own rows."""

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        """There is nothing to restore."""


METHODS: Mapping[str, str] = {
    "fedavg": "silo_agent.methods.fedavg:FedAvg",
    "fedavg-lanes": "silo_agent.methods.fedavg_lanes:FedAvgLanes",
    "fedcoe": "silo_agent.methods.fedcoe:FedCoE",
    "fedcoe-samples": "silo_agent.methods.fedcoe_samples:FedCoESamples",
    "flex": "silo_agent.methods.flex:FLEx",
    "flex-moe": "silo_agent.methods.flex_moe:FlexMoE",
    "metamoe": "silo_agent.methods.metamoe:MetaMoE",
}


def method(name: str) -> type[Method]:
    """The class of a method. Raises SpecError for a name that is not in the registry."""
    if name not in METHODS:
        raise SpecError("method", got=name, want=f"one of {', '.join(sorted(METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    return cast("type[Method]", getattr(import_module(module), attribute))


def display_name(name: str) -> str:
    """A method's name for people. An older ledger may name a method that this release lacks: then that name."""
    return method(name).display_name if name in METHODS else name


def contextual(name: str) -> bool:
    """Whether a method's global prediction of a row also reads the unlabelled batch around it."""
    return name in METHODS and method(name).contextual


def parameter(default: Any = MISSING, *, least: float, most: float) -> Any:
    """A dataclass field with its bounds, for ``parse``. Without a default the job file must set it."""
    return field(default=default, metadata={"least": least, "most": most})


def choice(default: str, *others: str) -> Any:
    """A dataclass field of texts to choose from, for ``parse``."""
    return field(default=default, metadata={"choices": (default, *others)})


def text(default: str) -> Any:
    """A dataclass field of any text, for ``parse``; who reads it checks it."""
    return field(default=default, metadata={"text": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundParams:
    """What every method takes that trains networks by rounds, whatever the network."""

    rounds: int = parameter(12, least=1, most=10_000)
    """Training steps of the plan."""
    local_steps: int = parameter(20, least=1, most=10_000)
    """Gradient steps of a silo in one round."""
    batch: int = parameter(16, least=1, most=2**16)
    """Rows of a gradient step."""
    learning_rate: float = parameter(0.05, least=1e-6, most=10.0)
    """Step size."""
    momentum: float = parameter(0.9, least=0.0, most=0.999)
    """Momentum; it starts from zero in each round."""
    clip: float = parameter(4.0, least=1e-3, most=1e3)
    """Bound of each element of a delta: larger ones are clamped."""
    ring_bits: int = parameter(32, least=24, most=32)
    """32, or 24: three bytes a parameter on the wire."""
    seed: int = parameter(7, least=0, most=2**63 - 1)
    """Of initial values, batches and projections."""


@dataclass(frozen=True, kw_only=True)  # without slots: of two bases only one may have them
class PerceptronParams:
    """The perceptron with one hidden layer, ``silo_agent.experts``."""

    features: int = parameter(least=1, most=2**16)
    """Columns of the data set."""
    classes: int = parameter(least=2, most=2**16)
    """Classes of the data set."""
    hidden: int = parameter(16, least=1, most=2**14)
    """Hidden units of a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingParams(RoundParams, PerceptronParams):
    """What a method takes that trains perceptrons by rounds."""


def parse(kind: type[P], raw: Mapping[str, object], path: str = "params", *, others: Collection[str] = ()) -> P:
    """A parameter dataclass from a flat table. Raises SpecError for unknown, missing, mistyped or out-of-bound ones.

    ``others``: names that are read elsewhere, for the message about an unknown one."""
    known = {spec.name: spec for spec in fields(kind)}  # type: ignore[arg-type]
    for name in raw:
        if name == "task" and name not in known:
            want = "none: this method learns one class a row; fedavg and fedcoe learn other tasks"
            raise SpecError(f"{path}.{name}", got=raw[name], want=want)
        if name not in known:
            raise SpecError(f"{path}.{name}", got=raw[name], want=f"one of {', '.join([*others, *known])}")
    values: dict[str, object] = {}
    for name, spec in known.items():
        if name in raw:
            values[name] = _value(f"{path}.{name}", spec, raw[name])
        elif spec.default is MISSING:
            raise SpecError(f"{path}.{name}", got=None, want=_wish(spec))
    return kind(**values)


def _value(where: str, spec: Field[Any], value: object) -> object:
    """A parameter's value, of the type and within the bounds of its field. Raises SpecError."""
    if "choices" in spec.metadata:
        if not isinstance(value, str) or value not in spec.metadata["choices"]:
            raise SpecError(where, got=value, want=_wish(spec))
        return value
    if "text" in spec.metadata:
        if not isinstance(value, str):
            raise SpecError(where, got=value, want=_wish(spec))
        return value
    whole = spec.type in ("int", int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise SpecError(where, got=value, want=_wish(spec))
    if not spec.metadata["least"] <= value <= spec.metadata["most"]:  # nor is NaN
        raise SpecError(where, got=value, want=_wish(spec))
    return value if whole else float(value)


def _wish(spec: Field[Any]) -> str:
    if "choices" in spec.metadata:
        return f"one of {', '.join(spec.metadata['choices'])}"
    if "text" in spec.metadata:
        return "a text"
    kind = "an integer" if spec.type in ("int", int) else "a number"
    return f"{kind} from {spec.metadata['least']} to {spec.metadata['most']}"


def weight(mass: float, mean: float) -> int:
    """The weight rule: ``mass`` rows in halves of the mean, within the grid; its least if there is no mean."""
    return int(min(max(round(2 * mass / mean), GRID[0]), GRID[-1])) if mean > 0 else GRID[0]


def opened(slots: Mapping[str, Mapping[str, int]], step: str, *names: str) -> tuple[int, ...] | None:
    """The opened sums of these slots of a step, in this order. ``slots``: those of ``Published``.

    None unless all of them opened: the step was void, or the silos withheld figures of it. Whether they did is the same
    for everyone who applies the step, so a method may take another path on None, and must have one.
    """
    found = slots.get(step, {})
    return tuple(found[name] for name in names) if all(name in found for name in names) else None


def mean_rows(published: Published, step: str) -> float:
    """Training rows a silo, from the slots ``rows`` and ``silos`` of a step; 0 where they did not open. Then
    ``weight`` gives every silo the least weight."""
    rows, silos = opened(published.slots, step, "rows", "silos") or (0, 0)
    return rows / silos if silos else 0.0


def known_mode(mode: str) -> None:
    """Raise SpecError for a mode that does not exist."""
    if mode not in MODES:
        raise SpecError("mode", got=mode, want=f"one of {', '.join(MODES)}")


def fits(data: DataSet, shape: int | tuple[int, ...], task: Task | int) -> None:
    """Raise DataRefused unless the data set has the targets of the job's task, and rows of its shape; a number: of so
    many features, of so many classes."""
    wanted, found = (shape,) if isinstance(shape, int) else shape, data.shape
    learned = tasks.Classes(task) if isinstance(task, int) else task
    classes = learned.classes
    if data.target != learned.target:
        raise DataRefused(
            f"Data set {data.name!r} has {TARGETS[data.target]}; the job learns {TARGETS[learned.target]}.",
            remedy="Name another data set for this job.",
        )
    tasks.check_targets(learned, data.name, data.y_train, data.y_test)
    if (found, data.classes) != (wanted, classes):
        flat = len(wanted) == len(found) == 1
        has = f"{found[0]} features" if flat else f"rows of shape {found}"
        wants = str(wanted[0]) if flat else f"{wanted}"
        raise DataRefused(
            f"Data set {data.name!r} has {has} and {data.classes} classes; the job wants {wants} and {classes}.",
            remedy="Name another data set for this job.",
        )


def batch(x: np.ndarray, shape: int | tuple[int, ...]) -> np.ndarray:
    """A batch to predict, as float32 (rows, *shape), from any number type; a number: so many features.

    Raises DataRefused for another shape or type, NonFinite for values that are not finite."""
    x, wanted = np.asarray(x), (shape,) if isinstance(shape, int) else shape
    if x.shape[1:] != wanted or not x.ndim or not len(x) or x.dtype.kind not in "fiu":
        sides = ", ".join(map(str, wanted))
        raise DataRefused(
            f"A batch has shape {x.shape} of {x.dtype}.", remedy=f"Pass numbers, (rows, {sides}), at least a row."
        )
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise NonFinite("A batch has NaN, infinite or too large values.", remedy="Impute or drop those rows.")
    return x
