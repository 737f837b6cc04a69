"""A silo's progress in a run, on its disk after each training and each step, so that it can go on after a restart.

One safetensors file a run, 0600: the blocks that everybody has, what the method keeps to itself, and, as JSON in the
header, the chain and the counts that the rules need. What was released is in the journal, not in this file: with an
old copy the silo's state is refused as out of date, but it never releases twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crypto import durable
from crypto.blocks import Encoded
from crypto.errors import JournalLost, NoSpace
from crypto.receipt import Applied

_BLOCK, _KEPT, _SENT = "block/", "kept/", "sent/"
#: The array of the slots in what was sent. No lane can have this name.
_SLOTS = f"{_SENT}Slots"
_REMEDY = "Restore the file from the agent's volume, or stay out of this run."


@dataclass(frozen=True, slots=True)
class Sent:
    """What a silo trained for step ``k`` from the published blocks of digest ``blocks``, as integers. From the same
    blocks it sends the same ones again."""

    k: int
    blocks: bytes
    encoded: Encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``k``: steps behind us. ``chain``: S_k. ``nonce``: of the run. ``sent``: what was trained from the
    published blocks as they are, if anything was. ``kept``: the method's own arrays, which never leave. ``own``: name
    of the step → this silo's own figures, of which only sums over silos open: for its own people (``jobs.desk``)."""

    k: int
    chain: bytes
    nonce: bytes
    state: Mapping[str, np.ndarray]
    slots: Mapping[str, Mapping[str, int]]
    applied: tuple[Applied, ...]
    sent: Sent | None
    kept: Mapping[str, np.ndarray]
    own: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def save_progress(path: Path, progress: Progress) -> None:
    """Replace the file whole and synced. Raises NoSpace."""
    facts: dict[str, Any] = {
        "k": progress.k,
        "chain": progress.chain.hex(),
        "nonce": progress.nonce.hex(),
        "slots": {step: dict(slots) for step, slots in progress.slots.items()},
        "own": {step: dict(slots) for step, slots in progress.own.items()},
        "applied": [[one.k, one.t3.hex(), one.result.hex(), one.released] for one in progress.applied],
    }
    arrays = {f"{_BLOCK}{name}": np.ascontiguousarray(block) for name, block in progress.state.items()}
    arrays |= {f"{_KEPT}{name}": np.ascontiguousarray(array) for name, array in progress.kept.items()}
    if (sent := progress.sent) is not None:
        facts["sent"] = {"k": sent.k, "blocks": sent.blocks.hex(), "weights": dict(sent.encoded.weights)}
        arrays |= {f"{_SENT}{lane}": words for lane, words in sent.encoded.lanes.items()}
        arrays[_SLOTS] = sent.encoded.slots
    try:
        durable.replace(path, save(arrays, {"progress": json.dumps(facts, sort_keys=True)}), hidden=True)
    except OSError as full:
        raise NoSpace(
            f"The progress of run {path.stem} could not be written: {full.strerror}.", remedy="Free disk space."
        ) from full


@dataclass(frozen=True, slots=True)
class Figures:
    """What a progress file says without its arrays. ``k``: steps behind us; ``released``: of each, whether it was;
    ``slots``, ``own``: name of the step → the figures that opened, and this silo's own."""

    k: int
    released: tuple[bool, ...]
    slots: Mapping[str, Mapping[str, int]]
    own: Mapping[str, Mapping[str, int]]


def read_figures(path: Path) -> Figures | None:
    """The figures of a run, or None where there is no file. Raises JournalLost for a file that is damaged."""
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["progress"])
        released = tuple(bool(one[3]) for one in facts["applied"])
        return Figures(facts["k"], released, facts["slots"], facts.get("own", {}))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as bad:
        raise JournalLost(f"The progress of run {path.stem} can't be read.", remedy=_REMEDY) from bad


def load_progress(path: Path) -> Progress | None:
    """What was saved, or None. Raises JournalLost for a file that is damaged."""
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["progress"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Progress(
            k=facts["k"],
            chain=bytes.fromhex(facts["chain"]),
            nonce=bytes.fromhex(facts["nonce"]),
            state={name[len(_BLOCK) :]: array for name, array in arrays.items() if name.startswith(_BLOCK)},
            slots=facts["slots"],
            own=facts.get("own", {}),  # older files have none
            applied=tuple(
                Applied(k, bytes.fromhex(t3), bytes.fromhex(result), released)
                for k, t3, result, released in facts["applied"]
            ),
            sent=_sent(facts["sent"], arrays) if "sent" in facts else None,
            kept={name[len(_KEPT) :]: array for name, array in arrays.items() if name.startswith(_KEPT)},
        )
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as bad:
        raise JournalLost(f"The progress of run {path.stem} can't be read.", remedy=_REMEDY) from bad


def _sent(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Sent:
    lanes = {name[len(_SENT) :]: array for name, array in arrays.items() if name.startswith(_SENT) and name != _SLOTS}
    return Sent(facts["k"], bytes.fromhex(facts["blocks"]), Encoded(lanes, arrays[_SLOTS], facts["weights"]))
