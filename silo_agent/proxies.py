"""Proxies: rows of a public pool that stand in for a silo's private rows, chosen at the silo and known only to it.

A pool is a data set that anybody may have: shipped with a package, or registered by every silo under one name. The job
names it and its digest, so all silos mean the same rows. A silo scores every row by how private it looks, keeps the
best as candidates and chooses among them what is relevant and varied (``silo_agent.dpp_selection``).

The choice reveals what the silo's own rows are like. So the list never leaves: nothing here is published, and what is
learned from proxies travels in sums.

Shapes: N rows of the pool, D features, K proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np

from crypto.encoding import Writer
from crypto.errors import DataRefused
from silo_agent import dpp_selection, experts
from silo_agent.data import DataSet, check
from silo_agent.training import Descent, batches, cross_entropy, train

#: The discriminator: hidden units, steps and rows of a batch.
HIDDEN, STEPS, BATCH = 16, 200, 32
_DESCENT = Descent(learning_rate=0.05, momentum=0.9)

#: Relevance is kept this far off 0 and 1: an overconfident discriminator must not outweigh variety.
LEAST_RELEVANCE = 0.01

#: scikit-learn's digits: every third image is public, and a demonstration deals the others.
PUBLIC_EVERY = 3


@runtime_checkable
class UsesPool(Protocol):
    """A method that needs a public data set beside the silo's own. ``pool``: its name, "" if it comes with a package.

    Where a pool is named, ``provide`` gets it from the silo's catalogue before the first step.
    """

    @property
    def pool(self) -> str: ...

    def provide(self, pool: DataSet) -> None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """``train``: pool rows to train on; ``held_out``: others, to judge by. In the order of choice."""

    train: np.ndarray
    held_out: np.ndarray


def digest(pool: DataSet) -> str:
    """SHA-256 (hex) of a pool's training rows and labels: little-endian, with shapes; test rows have no part in it."""
    found = sha256(bytes(Writer().text("consilium/1/pool").u32(pool.classes)))
    for array, dtype in ((pool.x_train, "<f4"), (pool.y_train, "<i8")):
        found.update(bytes(Writer().text(dtype).each(array.shape, Writer.u32)))
        found.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return found.hexdigest()


def check_pool(pool: DataSet, *, wanted: str, features: int, classes: int, least: int) -> None:
    """Raise DataRefused for a pool of another shape or digest than the job's, or with fewer than ``least`` rows that
    differ."""
    if (pool.features, pool.classes) != (features, classes):
        raise DataRefused(
            f"Public pool {pool.name!r} has {pool.features} features and {pool.classes} classes;"
            f" the job wants {features} and {classes}.",
            remedy="Register the pool that the job was written for.",
        )
    if (found := digest(pool)) != wanted:
        raise DataRefused(
            f"Public pool {pool.name!r} has SHA-256 {found}; the job names {wanted}.",
            remedy="All silos must hold the same public rows: get the pool again from where the job's came.",
        )
    distinct = len(np.unique(pool.x_train, axis=0))
    if distinct < least:
        raise DataRefused(
            f"Public pool {pool.name!r} has {distinct} rows that differ; the job chooses {least} of them.",
            remedy="Ask for fewer proxies, or use a larger pool.",
        )


def shipped(name: str) -> DataSet:
    """A pool that comes with a package. Raises DataRefused for another name."""
    if name not in SHIPPED:
        raise DataRefused(
            f"Public pool {name!r} is neither registered at this silo nor shipped.",
            remedy=f"Register it with `fed data add`, or use one of {', '.join(sorted(SHIPPED))}.",
        )
    return SHIPPED[name]()


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = (images[::PUBLIC_EVERY] / 16.0 - 0.3).astype(np.float32), labels[::PUBLIC_EVERY]
    # A data set has test rows; nothing reads a pool's.
    arrays = {"x_train": x, "y_train": y, "x_test": x[:1], "y_test": y[:1], "classes": np.array(10)}
    return check("digits-public", arrays)


#: Name → a pool made from what a package brings.
SHIPPED: Mapping[str, Callable[[], DataSet]] = {"digits-public": _digits}


def relevance(private_BD: np.ndarray, pool_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How private each row of the pool looks: (N,), the answer of a discriminator trained here, between 0 and 1.

    Private rows against as many of the pool, drawn at random; a small perceptron, so that a class of its own within
    the pool can be separated from its neighbours.
    """
    against = pool_ND[rng.permutation(len(pool_ND))[: len(private_BD)]]
    x = np.concatenate([private_BD, against])
    y = np.concatenate([np.ones(len(private_BD), np.int64), np.zeros(len(against), np.int64)])
    shapes, widths = experts.shapes(x.shape[1], HIDDEN, 2), experts.half_widths(x.shape[1], HIDDEN)
    start = {part: rng.uniform(-widths[part], widths[part], shape).astype(np.float32) for part, shape in shapes.items()}
    (model,) = train([start], x, y, batches(len(y), STEPS, BATCH, rng), _DESCENT, cross_entropy)
    private_N: np.ndarray = experts.predict([model], pool_ND)[0, :, 1]
    clipped_N: np.ndarray = np.clip(private_N, LEAST_RELEVANCE, 1 - LEAST_RELEVANCE)
    return clipped_N


def candidates(relevance_N: np.ndarray, pool_ND: np.ndarray, most: int) -> np.ndarray:
    """Numbers of the ``most`` relevant rows, best first, of equal rows the first alone."""
    _, first = np.unique(pool_ND, axis=0, return_index=True)
    order = np.argsort(-relevance_N[np.sort(first)], kind="stable")
    found: np.ndarray = np.sort(first)[order][:most]
    return found


def varied(relevance_N: np.ndarray, pool_ND: np.ndarray, count: int, most: int) -> np.ndarray:
    """``count`` rows of the pool, relevant and varied: greedy choice among the ``most`` relevant.

    Quality is the root of the odds, so that a choice is worth its rows' log-odds, which estimate how much denser the
    private rows are there than the pool, and the volume they span. (The paper's quality is the relevance itself, nearly
    the same for all candidates, and its similarity the cosine: outliers won.)
    """
    best = candidates(relevance_N, pool_ND, most)
    odds_N = relevance_N[best] / (1 - relevance_N[best])
    found: np.ndarray = best[dpp_selection.greedy(np.sqrt(odds_N), pool_ND[best], count, similarity=dpp_selection.near)]
    return found


def as_released(relevance_N: np.ndarray, pool_ND: np.ndarray, count: int, most: int) -> np.ndarray:
    """The paper's release: no jitter, nothing masked, so beyond the features' rank rows come again."""
    near = np.argsort(-relevance_N, kind="stable")[:most]
    found: np.ndarray = near[dpp_selection.greedy(relevance_N[near], pool_ND[near], count, jitter=0.0, mask=False)]
    return found


def split(chosen_K: np.ndarray, held_out: int, rng: np.random.Generator) -> Choice:
    """Hold some out at random: greedy choice takes the best first."""
    out = np.zeros(len(chosen_K), dtype=bool)
    out[rng.permutation(len(chosen_K))[:held_out]] = True
    return Choice(chosen_K[~out], chosen_K[out])
