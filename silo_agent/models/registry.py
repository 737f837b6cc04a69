"""From a job's parameters to ``Experts``: find the factory, call it offline, check what it made.

    model = "cnn"                # a built-in model, or an entry point of the group consilium.models
    shape = "1 28 28"            # of a row
    classes = 10
    start = "3f…"                # digest of the start: all silos must begin with the same values
    package = "9c…"              # digest of the package that brings the model; not for a built-in one
    model-norm = "batch"         # settings of the factory, each with this prefix
    local = "head.*"             # optional: roles by pattern, with spaces between; they replace the model's own
    frozen = "*"
    task = "regression"          # optional, with its own parameters: silo_agent.models.tasks

Nothing here needs torch until a factory is called.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module, metadata
from typing import Final

import numpy as np

from crypto.errors import SpecError
from silo_agent.experts import torch_
from silo_agent.models import tasks
from silo_agent.models.description import Model, Role
from silo_agent.models.layout import Layout, layout
from silo_agent.models.module_experts import ModuleExperts
from silo_agent.models.offline import offline
from silo_agent.models.package import digest
from silo_agent.models.tasks import Task

GROUP: Final = "consilium.models"
PERCEPTRON: Final = "mlp"

#: Name → factory, of the models that come with this software, besides the perceptron.
BUILT_IN: Final[Mapping[str, str]] = {
    "cnn": "silo_agent.models.cnn:cnn",
    "hf-image": "silo_agent.models.hugging_face:image",
    "hf-text": "silo_agent.models.hugging_face:text",
    "monai": "silo_agent.models.monai_networks:monai",
    "unet": "silo_agent.models.unet:unet",
}

#: Module that a factory may lack → what to install.
EXTRAS: Final[Mapping[str, str]] = {"monai": "monai", "transformers": "lm", "peft": "lm", "torch": "silo"}

#: Built-in model → the distributions that a published one needs besides torch.
LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "hf-image": ("transformers", "peft"),
    "hf-text": ("transformers", "peft"),
    "monai": ("monai",),
}

#: Job parameters about the model. Those of a factory begin with ``SETTING``.
KEYS: Final = ("model", "package", "shape", "classes", "start", *tasks.KEYS, *(role.value for role in Role))
SETTING: Final = "model-"

MOST_SIDES, MOST_VALUES = 7, 2**28

Factory = Callable[..., Model]


def split(params: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """(parameters about the model, all others) of a job that names a model."""
    about = {key: value for key, value in params.items() if key in KEYS or key.startswith(SETTING)}
    return about, {key: value for key, value in params.items() if key not in about}


def shape_of(params: Mapping[str, object]) -> tuple[int, ...]:
    """The shape of a row, from a job's parameters: ``shape``, or ``features`` of the perceptron. Raises SpecError."""
    if "shape" not in params and isinstance(features := params.get("features"), int):
        return (features,)
    text = params.get("shape")
    sides = text.split(" ") if isinstance(text, str) else []
    if sides and all(side.isascii() and side.isdecimal() and side[0] != "0" for side in sides):
        shape = tuple(map(int, sides))
        if len(shape) <= MOST_SIDES and np.prod(shape, dtype=np.float64) <= MOST_VALUES:
            return shape
    want = f'the sides of a row with spaces between, such as "1 28 28": at most {MOST_SIDES}'
    raise SpecError("params.shape", got=text, want=want)


def experts_of(about: Mapping[str, object], seed: int) -> ModuleExperts:
    """The experts of a job that names a model. ``about``: of ``split``; ``seed``: the job's.

    Raises SpecError for a model that is not installed, faulty, or starts otherwise than the job says.
    """
    made = _layout_of(about, seed)
    if about.get("start") != made.digest:
        raise SpecError(
            "params.start",
            got=about.get("start"),
            want=f'"{made.digest}", the start that this site makes',
            remedy="Write it into the job. If the job was made with another start, the sites differ in the model's "
            "package, in torch, or in the job's seed and settings: align them first.",
        )
    return ModuleExperts(made, shape_of(about), tasks.of(about))


def start_of(about: Mapping[str, object], seed: int) -> str:
    """The digest of the start that this site makes: what a job's ``start`` has to say. Raises SpecError."""
    return _layout_of(about, seed).digest


def _layout_of(about: Mapping[str, object], seed: int) -> Layout:
    shape, task = shape_of(about), tasks.of(about)
    name = str(about["model"])
    factory = find(name, about.get("package"))
    return _made(factory, name, shape, task, seed, _settings(about), _roles(about))


def find(name: str, package: object = None) -> Factory:
    """The factory of a model. ``package``: the digest of its distribution that the job names; None for a built-in one.

    Raises SpecError for one that is not here, twice here, of other bytes, or whose imports fail. Nothing of a package
    is imported before its bytes are checked.
    """
    if name in BUILT_IN:
        if package is not None:
            raise SpecError("params.package", got=package, want=f"nothing: {name} comes with this software")
        module, _, attribute = BUILT_IN[name].partition(":")
        with offline("params.model", programs=True), _importing(name):
            found: Factory = getattr(import_module(module), attribute)
        return found
    installed = [entry for entry in metadata.entry_points(group=GROUP) if entry.name == name]
    if not installed:
        others = sorted({entry.name for entry in metadata.entry_points(group=GROUP)} | {PERCEPTRON, *BUILT_IN})
        raise SpecError(
            "params.model",
            got=name,
            want=f"one of {', '.join(others)}",
            remedy=f"A model of your own comes with a package that has an entry point {name!r} in the group {GROUP}; "
            "install it at every silo.",
        )
    entry, *others_too = installed
    if others_too or entry.dist is None:
        both = ", ".join(sorted(entry.dist.name if entry.dist else "?" for entry in installed))
        raise SpecError("params.model", got=f"{name}, which {both} have", want="one package with that model")
    if package != (here := digest(entry.dist)):
        raise SpecError(
            "params.package",
            got=package,
            want=f'"{here}", the digest of {entry.dist.name} {entry.dist.version} as it is installed here',
            remedy="Write it into the job. If the job was made with another digest, this site has another version of "
            "the package, or its files were changed: install the wheel that the federation has agreed on.",
        )
    with offline("params.model", programs=True), _importing(name):
        loaded: Factory = entry.load()
    return loaded


@lru_cache(maxsize=2)
def _made(
    factory: Factory,
    name: str,
    shape: tuple[int, ...],
    task: Task,
    seed: int,
    settings: str,
    roles: tuple[tuple[str, str], ...],
) -> Layout:
    """The checked model. Kept for a while: a job's plan and its experts are made of the same one.

    ``settings``: JSON text, which tells 1 from 1.0 and from true."""
    torch = torch_()
    arguments = {"shape": shape, "classes": task.classes, **json.loads(settings)}
    _check_settings(factory, arguments)
    with torch.random.fork_rng(devices=[]), offline("params.model"), _importing(name):
        torch.manual_seed(seed)
        made = factory(**arguments)
    if not isinstance(made, Model):
        raise SpecError("params.model", got=f"a factory that returns {type(made).__name__}", want="a Model")
    checked = layout(made, dict(roles) or made.roles)
    _check_task(name, made, task)
    _try(checked, shape, task)
    return checked


def _check_task(name: str, made: Model, task: Task) -> None:
    """Raise SpecError unless the model is one for the job's task."""
    if made.task == "binary" and isinstance(task, tasks.Classes) and task.classes != 2:
        raise SpecError("params.classes", got=task.classes, want="2: the model's task is binary")
    fitting = {"multiclass": ("multiclass", "multilabel", "regression"), "binary": ("multiclass",)}
    if task.name not in fitting.get(made.task, (made.task,)):
        raise SpecError(
            "params.task",
            got=task.name,
            want=made.task,
            remedy=f'The model {name} is made for {made.task}: write task = "{made.task}" into the job, or name '
            "another model. unet, and monai with the network unet or segresnet, are for segmentation.",
        )


def _try(checked: Layout, shape: tuple[int, ...], task: Task) -> None:
    """Two rows of zeros through the model, so that one that doesn't fit its data is refused before any step."""
    experts = ModuleExperts(checked, shape, task)
    nothing = {part.code: np.zeros(part.shape, np.float32) for part in checked.parts}
    rows = np.zeros((2, *shape), np.float32)
    with offline("params.model"):
        try:
            experts.predict([nothing], rows, np.repeat(rows, 8, axis=0))
        except SpecError:
            raise
        except Exception as failed:
            got = f"{type(failed).__name__}: {_line(failed)}"
            want = f"a model that answers rows of shape {' '.join(map(str, shape))}"
            raise SpecError("params.model forward", got=got, want=want) from failed


class _importing:
    """Turns what a factory raises into SpecError; a missing module names what to install."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, failed: BaseException | None, trace: object) -> None:
        if failed is None or isinstance(failed, SpecError) or not isinstance(failed, Exception):
            return
        if isinstance(failed, ImportError):
            missing = (failed.name or "").partition(".")[0]
            extra = EXTRAS.get(missing)
            way = f"pip install -c constraints.txt './WHEEL[{extra}]'" if extra else f"Install {missing or 'it'}"
            raise SpecError(
                "params.model",
                got=f"{self._name}, whose factory lacks the module {missing or '?'}",
                want=f"that module, of the extra [{extra}]" if extra else "that module",
                remedy=f"{way}, at every silo.",
            ) from failed
        raise SpecError(
            "params.model",
            got=f"{self._name}, whose factory raised {type(failed).__name__}: {_line(failed)}",
            want="a factory that accepts the job's shape, classes and settings",
        ) from failed


def _check_settings(factory: Factory, arguments: Mapping[str, object]) -> None:
    known = inspect.signature(factory).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()):
        return
    settings = [f"{SETTING}{key}" for key in known if key not in ("shape", "classes")]
    for key in arguments:
        if key not in known:
            want = f"one of {', '.join(settings)}" if settings else "no settings: this model has none"
            raise SpecError(f"params.{SETTING}{key}", got=arguments[key], want=want)
    for key, one in known.items():
        if one.default is inspect.Parameter.empty and key not in arguments:
            raise SpecError(f"params.{SETTING}{key}", got=None, want="a value: this model has no default for it")


def _settings(about: Mapping[str, object]) -> str:
    found = {key.removeprefix(SETTING).replace("-", "_"): about[key] for key in about if key.startswith(SETTING)}
    return json.dumps(found, sort_keys=True)


def _roles(about: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """(pattern, role) pairs of the job, in the order of the roles."""
    found: dict[str, str] = {}
    for role in Role:
        if role.value not in about:
            continue
        text = about[role.value]
        patterns = text.split(" ") if isinstance(text, str) else []
        if not all(patterns) or not patterns:
            raise SpecError(f"params.{role}", got=text, want="patterns of parameter names, with one space between")
        for pattern in patterns:
            if pattern in found:
                raise SpecError(f"params.{role}", got=f"{pattern}, which {found[pattern]} has too", want="it once")
            found[pattern] = role.value
    return tuple(found.items())


def _line(failed: BaseException) -> str:
    """The first line of an error's text, shortened."""
    return (str(failed).strip().splitlines() or [""])[0][:200]
