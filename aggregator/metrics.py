"""What the aggregator tells Prometheus: how rounds go, never what a silo is like.

Only figures of the whole cohort are shown and only fixed words are labels; silos, runs and steps are not, so this file
bounds the number of series. Import it after ``jobs.service.prepare_environment`` has run, here or in the process that
started this one: with PROMETHEUS_MULTIPROC_DIR set, job processes write files that the long-lived parent serves.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aggregator.ledger import ratios
from crypto.errors import BY_CODE

OUTCOMES = ("closed", "void", "lost")
PHASES = ("open", "deal", "contribute", "fetch", "attest", "unmask-slots", "unmask-lanes", "close")
#: Label for a word that is not on its list: a peer cannot make series up.
OTHER = "other"
#: The most accuracy series; a plan has a handful.
MAX_SCORES = 16

REGISTRY = CollectorRegistry()

_PREFIX = "consilium_aggregator"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"{_PREFIX}_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"{_PREFIX}_{name}", text, labels, registry=REGISTRY, multiprocess_mode="mostrecent")


_steps = _counter("steps_total", "Steps by outcome.", "outcome")
_lanes = _counter("lanes_total", "Lanes of closed steps by whether they opened.", "state")
_refusals = _counter("refusals_total", "Signed refusals by code.", "code")
_bytes = _counter("uploaded_bytes_total", "Bytes of masked lanes received.")
_invited = _gauge("step_invited_silos", "Silos invited to the last closed step.")
_survivors = _gauge("step_surviving_silos", "Silos in the last opened sum.")
_closed = _gauge("last_step_closed_timestamp_seconds", "When a step last closed.")
_scores = _gauge("accuracy_ratio", "Opened hits over opened rows, of the last step that had them.", "score")
_phases = Histogram(
    f"{_PREFIX}_phase_duration_seconds",
    "Time from a phase's requests to its last reply.",
    ["phase"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
_shown: set[str] = set()

for _outcome in OUTCOMES:  # a rate needs the zero before the first event
    _steps.labels(_outcome)
for _state in ("open", "shut"):
    _lanes.labels(_state)


def phase(name: str, seconds: float) -> None:
    """A phase took this long."""
    _phases.labels(name if name in PHASES else OTHER).observe(seconds)


def refused(code: str) -> None:
    """A silo refused, with a code of ``crypto.errors``; any other code counts as "other"."""
    _refusals.labels(code if code in BY_CODE else OTHER).inc()


def step_closed(
    *, survivors: int, invited: int, lanes_open: int, lanes_shut: int, upload_bytes: int, slots: Mapping[str, int]
) -> None:
    """A step closed. Of its slots those that count hits are shown, as ratios."""
    _steps.labels("closed").inc()
    _closed.set_to_current_time()
    _invited.set(invited)
    _survivors.set(survivors)
    _lanes.labels("open").inc(lanes_open)
    _lanes.labels("shut").inc(lanes_shut)
    _bytes.inc(upload_bytes)
    for name, (part, whole) in ratios(slots).items():
        if name in _shown or len(_shown) < MAX_SCORES:
            _shown.add(name)
            _scores.labels(name).set(part / whole)


def step_void() -> None:
    """A step was spent without a result."""
    _steps.labels("void").inc()


def step_lost() -> None:
    """A step was given up, and the run with it."""
    _steps.labels("lost").inc()
