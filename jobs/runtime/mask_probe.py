"""The probe of a demonstration's silo: it records its own update before and after masking, in its own folder.

A silo has one only if its ``silo.json`` says ``"probe": "histogram"`` (or ``"vectors"``, for tests); an institution's
has no such line. Nothing of it leaves the silo: the figures are binned inside the agent's process and written to the
home, where only its operator can look. The report of ``fed up`` reads them. ``silo_agent`` does not know this module.

    <silo home>/probe.json            {"format", "silo", "runs": {run: {"weights": […], "histograms": […]}}}
    <silo home>/probe/<k>-<lane>.npy  uint32, the integers before masking ("vectors" only; of the newest run)

Words are read as signed 32-bit integers. ``before`` and ``after`` share 64 equal bins over −2³¹ … 2³¹; ``zoom`` has 64
bins over −reach … reach, the least power of two that holds 99 % of the words, and counts the others as ``outside``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from crypto import durable
from crypto.blocks import Encoded
from crypto.errors import EvidenceError, SpecError
from crypto.messages import Message, Request
from crypto.plan import Plan, Step
from silo_agent.agent import Agent, Site
from silo_agent.home import SiloHome

log = logging.getLogger("consilium.probe")

FILE = "probe.json"
FOLDER = "probe"
FORMAT = 1
BINS = 64
KINDS = ("histogram", "vectors")

_SHIFT = 32 - 6  # 64 bins over 2^32 values
_INSIDE = 0.99
_CHUNK = 1 << 20


class ProbedAgent(Agent):
    """An agent that also records its updates. ``home``: where to; ``vectors``: keep the plain integers as well.

    A probe never changes a run: what it cannot write is a warning in the log.
    """

    def __init__(self, site: Site, *, home: SiloHome, vectors: bool = False, **job: Any) -> None:
        super().__init__(site, **job)
        self._home = home
        self._vectors = vectors
        self._binned = _first_and_last(self.plan)
        self._plain: dict[str, np.ndarray] = {}

    def observe(self, step: Step, encoded: Encoded) -> Encoded:
        """Copies, because masking works in place."""
        encoded = super().observe(step, encoded)
        keep = self._vectors or self.k in self._binned
        self._plain = {lane: words.copy() for lane, words in encoded.lanes.items()} if keep else {}
        return encoded

    def _contribute(self, request: Request, message: Message) -> Message:
        answer = super()._contribute(request, message)
        try:
            self._write(self._current(request).masked)
        except OSError as full:
            log.warning("the probe could not be written: %s", full.strerror)
        finally:
            self._plain = {}
        return answer

    def _write(self, masked: Mapping[str, np.ndarray]) -> None:
        """``masked``: the words this silo uploads, by lane."""
        step, run = self.plan.steps[self.k], self._run.hex()[:16]
        path = self._home.root / FILE
        book: dict[str, Any] = {"format": FORMAT, "silo": self.site.silo, "runs": {}}
        if path.exists():
            book = json.loads(path.read_bytes())
        fresh = run not in book["runs"]
        page = book["runs"].setdefault(run, {"weights": [], "histograms": []})
        place = {"k": self.k, "name": step.name}
        for kind in ("weights", "histograms"):  # a step that is tried again is drawn again
            page[kind] = [entry for entry in page[kind] if entry["k"] != self.k]
        lanes = {lane.name: self._weights.get(lane.name, 0) for lane in self.plan.lanes_of(step)}
        page["weights"].append({**place, "lanes": lanes})
        if self.k in self._binned:
            page["histograms"] += [
                {**place, **_drawn(lane, self._plain[lane], words)} for lane, words in masked.items()
            ]
        if self._vectors:
            self._write_vectors(fresh)
        durable.replace(path, (json.dumps(book, separators=(",", ":")) + "\n").encode())

    def _write_vectors(self, fresh: bool) -> None:
        folder = self._home.root / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.glob("*.npy") if fresh else ():
            old.unlink()
        for lane, words in self._plain.items():
            np.save(vector_path(self._home, self.k, lane), words, allow_pickle=False)


def agent_class(home: SiloHome) -> type[Agent]:
    """The class of the agent of this home: ``Agent``, unless ``silo.json`` asks for a probe. Raises SpecError for a
    probe of an unknown kind."""
    kind = home.settings().get("probe")
    if kind is None:
        return Agent
    if kind not in KINDS:
        raise SpecError(f"{home.settings_path}: probe", got=kind, want=f"one of {', '.join(KINDS)}, or no probe")

    class Here(ProbedAgent):
        def __init__(self, site: Site, **job: Any) -> None:
            super().__init__(site, home=home, vectors=kind == "vectors", **job)

    return Here


def vector_path(home: SiloHome, k: int, lane: str) -> Path:
    return home.root / FOLDER / f"{k}-{quote(lane, safe='')}.npy"


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """One lane of one step at one silo: counts (64,) of the words, before masking and after."""

    k: int
    step: str
    lane: str
    words: int
    before: tuple[int, ...]
    zoom: tuple[int, ...]
    reach: int
    outside: int
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """What one silo drew of one run. ``weights``: (k, step name, lane → weight), in order of steps."""

    silo: str
    weights: tuple[tuple[int, str, Mapping[str, int]], ...]
    histograms: tuple[Histogram, ...]


def read_probe(home: SiloHome, run: str) -> Probe | None:
    """What the silo of this home drew of the run, or None. Raises EvidenceError for a file that is no probe's."""
    path = home.root / FILE
    try:
        book: dict[str, Any] = json.loads(path.read_bytes())
        if book["format"] != FORMAT:
            raise ValueError(f"format {book['format']}")
        if run not in book["runs"]:
            return None
        page = book["runs"][run]
        return Probe(
            str(book["silo"]),
            tuple(
                (
                    int(entry["k"]),
                    str(entry["name"]),
                    {str(lane): int(weight) for lane, weight in entry["lanes"].items()},
                )
                for entry in page["weights"]
            ),
            tuple(_read_histogram(entry) for entry in page["histograms"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise EvidenceError(
            f"{home.name}/{FILE}", expected="what a probe writes", found=f"{type(bad).__name__}: {bad}"
        ) from bad


def chi_square(counts: Sequence[int]) -> float:
    """Σ (found − expected)² / expected against equal counts. Uniform words give len − 1, give or take √(2 len − 2)."""
    found = np.asarray(counts, dtype=np.float64)
    expected = found.mean()
    return float(((found - expected) ** 2).sum() / expected) if expected else 0.0


def bin_words(words: np.ndarray) -> list[int]:
    """64 counts of uint32 words read as int32, over the whole range, most negative first. Exact."""
    total = np.zeros(BINS, dtype=np.int64)
    for at in range(0, words.size, _CHUNK):
        turned = (words[at : at + _CHUNK] ^ np.uint32(1 << 31)) >> np.uint32(_SHIFT)
        total += np.bincount(turned, minlength=BINS)
    return [int(count) for count in total]


def _read_histogram(entry: Mapping[str, Any]) -> Histogram:
    zoom = entry["zoom"]
    counts = [tuple(int(count) for count in part) for part in (entry["before"], zoom["counts"], entry["after"])]
    if any(len(part) != BINS for part in counts):
        raise ValueError(f"a histogram of other than {BINS} bins")
    return Histogram(
        k=int(entry["k"]),
        step=str(entry["name"]),
        lane=str(entry["lane"]),
        words=int(entry["words"]),
        before=counts[0],
        zoom=counts[1],
        reach=int(zoom["reach"]),
        outside=int(zoom["outside"]),
        after=counts[2],
    )


def _drawn(lane: str, plain: np.ndarray, masked: np.ndarray) -> dict[str, object]:
    return {
        "lane": lane,
        "words": masked.size,
        "before": bin_words(plain),
        "zoom": _zoom(plain),
        "after": bin_words(masked),
    }


def _zoom(words: np.ndarray) -> dict[str, object]:
    values = words.view(np.int32).astype(np.int64)
    bits = BINS.bit_length() - 2  # one value a bin at the least
    while bits < 31 and (np.abs(values) < 1 << bits).mean() < _INSIDE:
        bits += 1
    reach = 1 << bits
    inside = values[(values >= -reach) & (values < reach)]
    counts = np.bincount((inside + reach) // (2 * reach // BINS), minlength=BINS)
    return {"reach": reach, "outside": int(values.size - inside.size), "counts": [int(count) for count in counts]}


def _first_and_last(plan: Plan) -> frozenset[int]:
    """The numbers of the first and the last training step; of the first and last with sums where none is called so."""
    trains = [k for k, step in enumerate(plan.steps) if step.task == "train" and step.sums]
    trains = trains or [k for k, step in enumerate(plan.steps) if step.sums]
    return frozenset(trains[:1] + trains[-1:])
