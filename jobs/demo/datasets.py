"""The silos and data sets of a demonstration: who pretends to be a hospital, and with which rows.

Each data set that the catalogue's jobs name has a dealer here. What a package brings is dealt; what none brings is
read from a folder that ``--data`` names, checked. Anybody's own data: ``own_data``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crypto.errors import SpecError
from jobs.demo import digits_data, domain_data, heart_data, language_data
from silo_agent.readers.reference import Reference

Arrays = Mapping[str, np.ndarray]

#: Two acquisition styles, at least four silos of each, so that every expert reaches its floor.
LEAST_SILOS = 8


@dataclass(frozen=True, slots=True)
class Deal:
    """Silo or newcomer → its arrays. Newcomers take no part and are predicted cold; there may be none."""

    silos: Mapping[str, Arrays]
    newcomers: Mapping[str, Arrays]
    references: Mapping[str, Reference] = field(default_factory=dict)
    """Silo → where the arrays were read. It is registered instead of them."""
    account: tuple[str, ...] = ()
    """What people are told of the data before the start."""


def deal(dataset: str, silos: int | None, seed: int, data: Path | None) -> Deal:
    """The demonstration's silos on one data set. ``silos``: how many, where that is free; ``data``: ``--data``.

    Raises SpecError for a data set without a demonstration and a number of silos it can't have, DataRefused for files
    that are not what they should be.
    """
    dealer = DEALERS.get(dataset)
    if dealer is None:
        raise SpecError("--job", got=dataset, want=f"a job on a demonstration's data set: {', '.join(sorted(DEALERS))}")
    return dealer(silos, seed, data)


def _digits(silos: int | None, seed: int, data: Path | None) -> Deal:
    _no_folder(data)
    count = LEAST_SILOS if silos is None else silos
    if count < LEAST_SILOS or count % 2:
        raise SpecError("--silos", got=count, want=f"an even number from {LEAST_SILOS}")
    try:
        everyone = digits_data.make(count, seed)
    except ValueError as bad:
        raise SpecError("--silos", got=count, want=str(bad)) from bad
    return _newcomers_apart(everyone)


def _pictures(silos: int | None, seed: int, data: Path | None) -> Deal:
    """The same digits as pictures (1, 8, 8)."""
    found = _digits(silos, seed, data)
    return Deal(_as_pictures(found.silos), _as_pictures(found.newcomers))


def _as_pictures(hands: Mapping[str, Arrays]) -> dict[str, Arrays]:
    return {
        name: {key: array.reshape(-1, 1, 8, 8) if key.startswith("x_") else array for key, array in arrays.items()}
        for name, arrays in hands.items()
    }


def _heart(silos: int | None, seed: int, data: Path | None) -> Deal:
    if silos not in (None, len(heart_data.HOSPITALS)):
        raise SpecError("--silos", got=silos, want=f"{len(heart_data.HOSPITALS)}: the hospitals are who they are")
    if data is None:
        raise SpecError(
            "--data",
            got=None,
            want="the folder with the four processed.*.data",
            remedy="They don't come with the package: docs/methods/heart.md says where they are.",
        )
    return Deal(heart_data.make(data, seed), {})


def _language(silos: int | None, seed: int, data: Path | None) -> Deal:
    _no_folder(data)
    count = LEAST_SILOS if silos is None else silos
    if count < language_data.DIALECTS:
        raise SpecError("--silos", got=count, want=f"{language_data.DIALECTS} or more")
    everyone = language_data.make(count, seed)
    return _newcomers_apart(everyone)


def _domains(silos: int | None, seed: int, data: Path | None) -> Deal:
    _no_folder(data)
    if silos not in (None, LEAST_SILOS):
        raise SpecError("--silos", got=silos, want=f"{LEAST_SILOS}: the job names the silos of each group")
    everyone = domain_data.make(LEAST_SILOS, seed)
    return _newcomers_apart(everyone)


def _newcomers_apart(everyone: Mapping[str, Arrays]) -> Deal:
    silos = {name: arrays for name, arrays in everyone.items() if name.startswith("silo-")}
    return Deal(silos, {name: arrays for name, arrays in everyone.items() if name not in silos})


def _no_folder(data: Path | None) -> None:
    if data is not None:
        raise SpecError("--data", got=str(data), want="none: this job's data are made here")


#: Data sets whose dealer reads files of its own form from the folder.
FROM_FOLDER = ("heart",)

#: Data set → (silos, seed, folder) → who has what.
DEALERS: Mapping[str, Callable[[int | None, int, Path | None], Deal]] = {
    "digits": _digits,
    "digits-domains": _domains,
    "digits-pictures": _pictures,
    "heart": _heart,
    "language": _language,
}
