"""The demonstration's base model: a small Qwen2-MoE, trained on the spot on public text, laid in every silo's home.

In production the base model is one that somebody else trained for months, and each silo brings its own copy. Training
on floats gives other bits on another machine, so the catalogue's job names no base: ``ground`` puts in the digest of
the model that it made.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from jobs.demo import language_data
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from silo_agent.home import SiloHome
from silo_agent.language import base_model
from silo_agent.language.base_model import MODELS, NeedsBase
from silo_agent.language.shape import Shape
from silo_agent.methods import method
from silo_agent.methods.flex_plan import BASE

STEPS, BATCH, RATE = 200, 32, 3e-3
TOP = 2


def check_libraries(spec: JobSpec) -> None:
    """Raise SpecError where ``ground`` will need libraries that are not installed."""
    if _ungrounded(spec):
        base_model.library()


def ground(spec: JobSpec, federation: Federation) -> JobSpec:
    """The same job on a base model that every silo has, made now; the job as it is if its method needs none.

    A job that names its base already is left alone: the silos must have that one.
    """
    if not _ungrounded(spec):
        return spec
    names = Shape.__dataclass_fields__
    shape = Shape(**{name: int(spec.params[name]) for name in names})
    folder = make(federation.root / MODELS, shape, int(spec.params.get("seed", 7)))
    for home in federation.silo_homes.values():
        place(home, folder)
    return spec.with_params(**{BASE: folder.name})


def _ungrounded(spec: JobSpec) -> bool:
    return issubclass(method(spec.method), NeedsBase) and not spec.params.get(BASE)


def place(home: SiloHome, folder: Path) -> None:
    """Put a base model into a silo's home."""
    home.models_folder.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(folder, home.models_folder / folder.name)


def make(models: Path, shape: Shape, seed: int, *, steps: int | None = None) -> Path:
    """Train a model of this shape on words of the demonstration's language in no dialect's order; its folder, named by
    its digest."""
    x, y = language_data.rows(None, 40 * BATCH, np.random.default_rng([seed, 1 << 20]))
    rows_BT = np.concatenate([x, y[:, None]], axis=1)
    return train(models, shape, rows_BT, seed, steps=STEPS if steps is None else steps, batch=BATCH, rate=RATE)


def train(models: Path, shape: Shape, rows_BT: np.ndarray, seed: int, *, steps: int, batch: int, rate: float) -> Path:
    """Train a new model of this shape on these rows from random weights, experts and routers too, and save it."""
    language_model = base_model.library()
    torch = language_model.torch
    torch.set_num_threads(1)
    net = language_model.fresh(shape, TOP, seed)
    descent = torch.optim.Adam(net.parameters(), lr=rate)
    rows, rng = torch.from_numpy(rows_BT), np.random.default_rng([seed, 1])
    for _ in range(steps):
        picked = rows[torch.from_numpy(rng.integers(len(rows), size=batch))]
        answer = net(picked[:, :-1], output_router_logits=True)
        loss = language_model.cross_entropy(answer.logits, picked).mean() + 0.01 * answer.aux_loss
        descent.zero_grad()
        loss.backward()
        descent.step()
    models.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = models / f".draft-{os.getpid()}"
    net.save_pretrained(draft)
    named = models / base_model.digest(draft)
    if named.exists():
        shutil.rmtree(draft)
    else:
        draft.rename(named)
    return named
