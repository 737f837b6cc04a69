"""The model that a silo has for itself after a run: what was published, and what never leaves.

Methods that make one implement ``silo_agent.methods.personal.Personal``. The agent keeps it when the run is over, in
the silo's home and nowhere else: ``personal/<run>.safetensors``, 0600, with the job, the run, the step and a digest of
all of it. ``fed personal`` lists it and uses it; ``fed retention`` says how long it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crypto.encoding import Writer
from crypto.errors import DataRefused
from silo_agent.methods import Published

_BLOCK, _OWN = "block/", "own/"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalModel:
    """What is kept of one run."""

    silo: str
    run: str
    """The run's id, 64 hexadecimal digits."""
    job: str
    """Canonical text of the job."""
    step: int
    """Steps of the plan that are behind it: all of them."""
    data: str
    """Commitment of the data that it was trained on, in hexadecimal."""
    code: str
    """Digest of the software, in hexadecimal."""
    kept_at: int
    """Seconds since 1970, UTC."""
    published: Published
    own: Mapping[str, np.ndarray]
    """The method's ``state_dict``."""

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal over facts, names, types, shapes and values."""
        out = Writer().text("consilium/1/personal").text(_canonical(self._facts()))
        found = sha256(bytes(out))
        for name, array in sorted(self._arrays().items()):
            found.update(bytes(Writer().text(name).text(str(array.dtype)).each(array.shape, Writer.u32)))
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def __bytes__(self) -> bytes:
        arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        made: bytes = save(arrays, {"personal": _canonical(self._facts()), "digest": self.digest})
        return made

    @classmethod
    def load(cls, path: Path) -> PersonalModel:
        """Raises DataRefused for a file that is missing, damaged, or open to others."""
        try:
            if (mode := path.stat().st_mode & 0o777) & 0o077:
                raise DataRefused(
                    f"The personal model {path.name} has mode {mode:o}, want 600.",
                    remedy=f"See who read it; chmod 600 {path}",
                )
            with safe_open(path, "numpy") as file:
                about = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            for array in arrays.values():
                array.flags.writeable = False
            facts = json.loads(about["personal"])
            published = Published(_part(arrays, _BLOCK), facts.pop("slots"))
            found = cls(published=published, own=_part(arrays, _OWN), **facts)
            if found.digest != about["digest"]:
                raise ValueError("another digest")
        except FileNotFoundError as gone:
            raise DataRefused(f"There is no personal model {path.name}.", remedy="See `fed personal list`.") from gone
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as bad:
            raise DataRefused(
                f"The personal model {path.name} is damaged.", remedy="Restore it from a backup, or remove the file."
            ) from bad
        return found

    def _facts(self) -> dict[str, Any]:
        names = ("silo", "run", "job", "step", "data", "code", "kept_at")
        slots = {step: dict(found) for step, found in self.published.slots.items()}
        return {name: getattr(self, name) for name in names} | {"slots": slots}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f"{_BLOCK}{name}": block for name, block in self.published.blocks.items()} | {
            f"{_OWN}{name}": array for name, array in self.own.items()
        }


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _canonical(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
