"""Copies of any torch module: one module in memory, each model's tensors put in for a call.

A loop over the models: for E = 2 it is as fast as vmap, and it takes modules that vmap doesn't. Buffers are always
passed as well: with parameters alone a call would move the module's own statistics, and models would leak into each
other.

A model is the float32 differences from the start. Training works on start + difference, in float32 or wider; what the
module sees is that in its own type.
Running statistics are those of the batch while training and are thrown away after it. Before predicting they are
estimated anew, for each model, from unlabelled rows of the site: one pass with only these layers in training mode,
equal batches, cumulative means.

Shapes: E models, B rows of a batch, S steps, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from crypto.errors import DataRefused, NonFinite, SpecError
from silo_agent.experts import Weights, torch_
from silo_agent.models.description import Role
from silo_agent.models.layout import Layout, aliases, running
from silo_agent.models.tasks import Task
from silo_agent.models.views import pooled
from silo_agent.training import Descending, Descent, Objective, weighted

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

#: Rows of a batch in predictions.
CHUNK = 256

#: Fewest and most unlabelled rows that running statistics are estimated from.
FEWEST_AT_HOME = 16
MOST_AT_HOME = 2048


class ModuleExperts:
    """``Experts`` of a module under its layout."""

    def __init__(self, layout: Layout, shape: tuple[int, ...], task: Task) -> None:
        torch = torch_()
        from silo_agent.models.whole import Whole  # a class of torch's, so not before torch is wanted

        self.shape = shape
        self.task = task
        self.classes = task.classes
        self._answer_shape = task.answer_shape(shape)
        self.parts = layout.parts
        self.frozen = layout.frozen
        self.at_home = bool(layout.statistics)
        self._statistics = layout.statistics
        self._view = layout.model.view or pooled
        module = deepcopy(layout.model.module)
        for tensor in module.parameters():
            tensor.requires_grad_(False)
        self._whole = Whole(module, layout.model.forward)
        self._buffers = {name: tensor.detach().clone() for name, tensor in module.named_buffers()}
        self._aliases = aliases(module.named_parameters(remove_duplicate=False))
        self._aliases |= aliases(module.named_buffers(remove_duplicate=False))
        self._layers: list[Any] = [
            layer for name, layer in running(module).items() if f"{name}.running_mean".lstrip(".") in layout.statistics
        ]
        start = dict(module.named_parameters())
        self._types = {part.code: start[part.name].dtype for part in layout.parts}
        self._wide = [
            (part, start[part.name].to(torch.promote_types(self._types[part.code], torch.float32)))
            for part in layout.parts
        ]

    def view(self, x: np.ndarray) -> np.ndarray:
        return self._view(x)

    def opened(self, model: Weights) -> bool:
        return any(model[part.code].any() for part in self.parts if part.role is Role.EXPERT)

    def train(
        self,
        models: Sequence[Weights],
        x: np.ndarray,
        y: np.ndarray,
        order: np.ndarray,
        descent: Descent,
        objective: Objective,
        *,
        seed: int,
        together: bool = True,
    ) -> list[dict[str, np.ndarray]]:
        torch = torch_()
        if self._layers and order.shape[-1] < 2:
            raise SpecError("params.batch", got=order.shape[-1], want="at least 2 rows, for batch normalisation")
        tensors = self._tensors(models, together=together)
        of = {id(tensor): at for at, model in reversed([*enumerate(tensors)]) for tensor in model.values()}
        once = list({id(tensor): tensor for model in tensors for tensor in model.values()}.values())
        anchors = [tensor.clone() for tensor in once] if descent.proximal else None
        descending = Descending(once, descent, anchors, models=[of[id(tensor)] for tensor in once])
        buffers = [{name: tensor.clone() for name, tensor in self._buffers.items()} for _ in models]
        with torch.random.fork_rng(devices=[]), self._mode(training=True):
            torch.manual_seed(seed)
            for rows in order:
                each = rows if rows.ndim == 2 else [rows] * len(models)
                likelihoods = []
                for model, buffer, picked in zip(tensors, buffers, each, strict=True):
                    truth = _tensor(y[picked])
                    of_rows = self.task.log_likelihood(self._answers(model, buffer, x[picked]), truth)
                    likelihoods.append(weighted(of_rows, truth, descent))
                descending.step(objective(torch.stack(likelihoods)))
        self._check_constant(buffers)
        trained = [self._differences(model) for model in tensors]
        for part in self.parts:
            if not all(np.isfinite(model[part.code]).all() for model in trained):
                raise NonFinite(
                    f"Parameter {part.name} became NaN or infinite in local training.",
                    remedy="Lower the learning rate, or look for NaN in what the model computes from a row.",
                )
        return trained

    def row_gradients(self, model: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        library = torch_()
        (tensors,) = self._tensors([model], together=False)

        def loss(tensors: Tensors, row: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            buffers = {name: tensor.clone() for name, tensor in self._buffers.items()}
            answers = self._answers_to(tensors, buffers, row.unsqueeze(0))
            return -self.task.log_likelihood(answers, truth.unsqueeze(0))[0]

        rows, truths = _tensor(x), _tensor(y)
        gradient = library.func.grad(loss)
        with library.random.fork_rng(devices=[]), self._mode(training=True):
            library.manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)  # nobody may know a row's dropout
            try:
                found = library.func.vmap(gradient, in_dims=(None, 0, 0), randomness="different")(tensors, rows, truths)
            except (RuntimeError, NotImplementedError, ValueError):  # a module that vmap can't take: row by row
                each = [gradient(tensors, row, truth) for row, truth in zip(rows, truths, strict=True)]
                found = {code: library.stack([one[code] for one in each]) for code in tensors}
        flat = [found[part.code].reshape(len(y), -1).float() for part in self.parts]
        gradients: np.ndarray = library.cat(flat, 1).numpy()
        return gradients

    def mixing(self) -> tuple[str, ...]:
        batch = torch_().nn.modules.batchnorm._BatchNorm
        fixed = set(running(self._whole).values()) - set(self._layers)
        layers = ((name, layer) for name, layer in self._whole.named_modules() if layer not in fixed)
        mixing = [name for name, layer in layers if isinstance(layer, batch) or layer in self._layers]
        return tuple(name.removeprefix("module.") for name in mixing)

    def predict(self, models: Sequence[Weights], x: np.ndarray, home: np.ndarray | None = None) -> np.ndarray:
        torch = torch_()
        found = []
        with torch.no_grad():
            for model in self._tensors(models, together=False):
                buffers = self._estimated(model, x if home is None else home) if self._layers else dict(self._buffers)
                with self._mode(training=False):
                    answers = [self._answers(model, buffers, x[at : at + CHUNK]) for at in _starts(x)]
                found.append(self.task.predictions(torch.cat(answers)).numpy())
        p_EBC: np.ndarray = np.stack(found)
        return p_EBC

    def module(self, model: Weights, home: np.ndarray | None = None) -> torch.nn.Module:
        if self._layers and home is None:
            raise DataRefused(
                "This model's running statistics are estimated from rows of the silo, and there are none.",
                remedy="Register the job's data set at this silo again: `fed data add`.",
            )
        (tensors,) = self._tensors([model], together=False)
        whole = deepcopy(self._whole)
        with torch_().no_grad():
            buffers = self._estimated(tensors, home) if self._layers and home is not None else {}
            named = {**dict(whole.module.named_parameters()), **dict(whole.module.named_buffers())}
            for part in self.parts:
                named[part.name].copy_(tensors[part.code])
            for name, tensor in buffers.items():
                named[name].copy_(tensor)
        made: torch.nn.Module = whole.eval()
        return made

    def _tensors(self, models: Sequence[Weights], *, together: bool) -> list[dict[str, torch.Tensor]]:
        """Start + difference of each part, in the module's shapes. ``together``: shared parts are one tensor, the first
        model's."""
        tensors = [
            {part.code: wide + _tensor(model[part.code]).reshape(wide.shape) for part, wide in self._wide}
            for model in models
        ]
        if together:
            for model in tensors[1:]:
                model |= {part.code: tensors[0][part.code] for part in self.parts if part.role is Role.SHARED}
        return tensors

    def _differences(self, model: Tensors) -> dict[str, np.ndarray]:
        return {
            part.code: (model[part.code].detach() - wide).reshape(part.shape).float().numpy()
            for part, wide in self._wide
        }

    def _estimated(self, model: Tensors, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The buffers, with running statistics from these unlabelled rows."""
        if len(rows) < FEWEST_AT_HOME:
            raise DataRefused(
                f"{len(rows)} rows are too few to estimate this model's running statistics from.",
                remedy=f"Pass at least {FEWEST_AT_HOME} rows of one site together, or use a model with group "
                "normalisation.",
            )
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_AT_HOME)).astype(np.int64)]
        buffers = {name: tensor.clone() for name, tensor in self._buffers.items()}
        for name in self._statistics:
            buffers[name].fill_(1 if name.endswith("running_var") else 0)
        with self._mode(training=False, estimating=True):
            for chunk in np.array_split(rows, -(-len(rows) // CHUNK)):
                self._answers(model, buffers, chunk)
        return buffers

    def _answers(self, model: Tensors, buffers: dict[str, torch.Tensor], x: np.ndarray) -> torch.Tensor:
        """The answers of one model to rows, in the shape of the task: logits."""
        return self._answers_to(model, buffers, _tensor(x))

    def _answers_to(self, model: Tensors, buffers: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """The same for rows as a tensor."""
        inside = dict(buffers)
        for part in self.parts:
            inside[part.name] = model[part.code].to(self._types[part.code])
        inside |= {name: inside[first] for name, first in self._aliases.items() if first in inside}
        named = {f"module.{name}": tensor for name, tensor in inside.items()}
        # Without looking for tied tensors, which costs as much as a small network: both names are given.
        answers: torch.Tensor = torch_().func.functional_call(self._whole, named, (rows,), tie_weights=False)
        for name in buffers:
            buffers[name] = named[f"module.{name}"]  # a module may have put another tensor in its place
        if answers.shape != (len(rows), *self._answer_shape):
            sides = ", ".join(map(str, self._answer_shape))
            raise SpecError(
                "params.model forward",
                got=f"an answer of shape {tuple(answers.shape)} to {len(rows)} rows",
                want=f"{'a number' if self.task.name == 'regression' else 'logits'} (rows, {sides})",
            )
        return answers

    def _check_constant(self, buffers: Sequence[Tensors]) -> None:
        for name, start in self._buffers.items():
            if name not in self._statistics and not all(torch_().equal(model[name], start) for model in buffers):
                raise SpecError(
                    f"params.model buffers, {name}",
                    got="a buffer that changed in training",
                    want="one that stays as it is: buffers are neither averaged nor sent",
                )

    @contextmanager
    def _mode(self, *, training: bool, estimating: bool = False) -> Iterator[None]:
        """Training or evaluation of the whole module. Layers with constant statistics always evaluate; with
        ``estimating`` those with statistics of the site train, alone, with cumulative means."""
        module: Any = self._whole
        module.train(training)
        for layer in running(module).values():
            layer.train(layer in self._layers and (training or estimating))
        before = [layer.momentum for layer in self._layers]
        try:
            if estimating:
                for layer in self._layers:
                    layer.momentum = None
            yield
        finally:
            for layer, momentum in zip(self._layers, before, strict=True):
                layer.momentum = momentum
            module.eval()


def _starts(x: np.ndarray) -> range:
    return range(0, len(x), CHUNK)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy: arrays of published blocks and data sets are read-only."""
    copied: torch.Tensor = torch_().tensor(array)
    return copied
