"""What a job says of differential privacy, in words: for status, report, MLflow and the model card.

Read from the job's text, which every data owner approved and from which every silo computed the ε itself before it took
part. The aggregator computes none. An older or foreign text that says nothing promises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NONE: Final = "No differential privacy: no noise was added and no epsilon is claimed."

#: Mechanism → against whom it holds.
ADVERSARY: Final = {"local": "everybody, however many silos collude: each silo's contribution is private by itself"}

_TEXTS = ("mechanism", "unit", "accountant")
_NUMBERS = ("epsilon", "delta", "noise_multiplier", "clip", "sampling_rate")


def claim(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of a job's fields, with ``adversary``; None where there is none of this form."""
    table = job.get("privacy")
    if not isinstance(table, Mapping) or not all(isinstance(table.get(name), str) for name in _TEXTS):
        return None
    if not all(type(table.get(name)) in (int, float) for name in _NUMBERS) or table["mechanism"] not in ADVERSARY:
        return None
    found = {name: table[name] for name in (*_TEXTS, *_NUMBERS)}
    return found | {"adversary": ADVERSARY[table["mechanism"]]}


def sentence(job: Mapping[str, Any]) -> str:
    """The claim in a few sentences, or that there is none. Texts in it are other people's."""
    found = claim(job)
    if found is None:
        return NONE
    return (
        f"Differential privacy: epsilon {found['epsilon']:g} at delta {found['delta']:g} for the whole run, for one "
        f"training {found['unit']} added or removed at one silo, against {found['adversary']}. Mechanism "
        f"{found['mechanism']}, noise multiplier {found['noise_multiplier']:g}, clip {found['clip']:g}, sampling rate "
        f"{found['sampling_rate']:g}; accountant: {found['accountant']}."
    )


def short(job: Mapping[str, Any]) -> str:
    """The claim in a line."""
    found = claim(job)
    if found is None:
        return "no differential privacy"
    return (
        f"epsilon {found['epsilon']:g} at delta {found['delta']:g} for one {found['unit']}, {found['mechanism']}, "
        f"{found['accountant']}"
    )


def tags(job: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a run in MLflow and of its model: ``consilium.privacy`` and its parts."""
    found = claim(job)
    if found is None:
        return {"consilium.privacy": "none"}
    parts = {f"consilium.privacy.{name}": _text(value) for name, value in found.items()}
    return {"consilium.privacy": short(job)} | parts


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
