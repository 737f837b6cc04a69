"""The aggregator's metrics for Prometheus: about rounds, never about a silo.

Only figures of the whole cohort are shown and only fixed words are labels; silos, runs and steps are not, so this file
bounds the number of series. The aggregator does know which silo was missing (``fed status --why``); Prometheus does
not, because its figures go to dashboards, pagers and archives of people who have no role in the federation.

Import it after ``jobs.services.http.prepare_environment`` has run, here or in the process that started this one: with
PROMETHEUS_MULTIPROC_DIR set, job processes write files that the long-lived parent serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aggregator.figures import ratios
from crypto.errors import BY_CODE
from crypto.messages import PHASES
from crypto.scores import METRICS, MODES, modes, scores

PREFIX: Final = "consilium_aggregator_"
OUTCOMES = ("closed", "void", "lost")
ENDS = ("finished", "failed", "aborted")
STATES = ("open", "shut")
#: Label for a value that is not on its list, so that a peer cannot create series.
OTHER = "other"
#: The most accuracy series; a plan has a handful.
MAX_SCORES = 16
#: The values that a label may have. Each of them, and ``OTHER``, is one series.
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "outcome": OUTCOMES,
    "end": ENDS,
    "state": STATES,
    "phase": PHASES,
    "code": tuple(sorted(BY_CODE)),
    "mode": MODES,
    "metric": METRICS,
}

REGISTRY = CollectorRegistry()

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


def _counter(name: str, text: str, *labels: str) -> Counter:
    counter = Counter(f"{PREFIX}{name}", text, labels, registry=REGISTRY)
    for label in labels:  # a rate needs the zero before the first event
        for word in (*WORDS[label], OTHER):
            counter.labels(word)
    return counter


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"{PREFIX}{name}", text, labels, registry=REGISTRY, multiprocess_mode="mostrecent")


_steps = _counter("steps_total", "Steps by outcome; a lost one ends its run.", "outcome")
_runs = _counter("runs_total", "Runs by how they ended.", "end")
_lanes = _counter("lanes_total", "Lanes of closed steps by whether they opened.", "state")
_refusals = _counter("refusals_total", "Signed refusals by code.", "code")
_lost = _counter("lost_silos_total", "Silos that stopped answering, by the phase in which they did.", "phase")
_bytes = _counter("uploaded_bytes_total", "Bytes of masked lanes received.")
_invited = _gauge("step_invited_silos", "Silos invited to the last closed step.")
_survivors = _gauge("step_surviving_silos", "Silos in the last opened sum.")
_step_lanes = _gauge("step_lanes", "Lanes of the last closed step by whether they opened.", "state")
_streak = _gauge("lane_shut_streak_steps", "The most steps in a row, up to now, that one lane stayed shut.")
_closed = _gauge("last_step_closed_timestamp_seconds", "When a step last closed.")
_scores = _gauge("accuracy_ratio", "Opened hits over opened rows, of the last step that had them.", "score")
_metrics = _gauge("metric_value", "Metrics that last opened, over all test rows; NaN: undefined.", "mode", "metric")
_baselines = _gauge("metric_baseline_value", "The same metrics without a model; NaN: none.", "mode", "metric")
_phases = Histogram(
    f"{PREFIX}phase_duration_seconds",
    "Time from a phase's requests to its last reply.",
    ["phase"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
_shown: set[str] = set()
_shut_for: dict[str, int] = {}  # lane → steps in a row that it stayed shut, in this run


def run_started() -> None:
    """A run begins, or goes on: nothing is known of its lanes yet."""
    _shut_for.clear()
    _streak.set(0)


def run_ended(end: str) -> None:
    """A run finished, failed or was aborted."""
    _runs.labels(end if end in ENDS else OTHER).inc()


def phase(name: str, seconds: float) -> None:
    """A phase took this long."""
    _phases.labels(name if name in PHASES else OTHER).observe(seconds)


def refused(code: str) -> None:
    """A silo refused, with a code of ``crypto.errors``; any other code counts as "other"."""
    _refusals.labels(code if code in BY_CODE else OTHER).inc()


def silo_lost(phase: str) -> None:
    """A silo that answered until now did not in this phase. The ledger has its name, the metrics do not."""
    _lost.labels(phase if phase in PHASES else OTHER).inc()


def step_closed(
    *,
    survivors: int,
    invited: int,
    lanes_open: Sequence[str],
    lanes_shut: Sequence[str],
    upload_bytes: int,
    slots: Mapping[str, int],
) -> None:
    """A step closed. Lanes by name, which are counted and not shown; of the slots those that count hits, as ratios,
    and metrics. A figure of which the silos withheld a part is left as it was."""
    _steps.labels("closed").inc()
    _closed.set_to_current_time()
    _invited.set(invited)
    _survivors.set(survivors)
    for state, lanes in zip(STATES, (lanes_open, lanes_shut), strict=True):
        _lanes.labels(state).inc(len(lanes))
        _step_lanes.labels(state).set(len(lanes))
    _shut_for.update(dict.fromkeys(lanes_open, 0))
    _shut_for.update({lane: _shut_for.get(lane, 0) + 1 for lane in lanes_shut})
    _streak.set(max(_shut_for.values(), default=0))
    _bytes.inc(upload_bytes)
    for name, (part, whole) in ratios(slots).items():
        if name in _shown or len(_shown) < MAX_SCORES:
            _shown.add(name)
            _scores.labels(name).set(part / whole)
    for mode in modes(slots):
        for score in (one for one in scores(slots, mode) if not one.of):  # a label alone is no series
            where = (mode if mode in MODES else OTHER, score.metric)
            _metrics.labels(*where).set(nan if score.value is None else score.value)
            _baselines.labels(*where).set(nan if score.baseline is None else score.baseline)


def step_void() -> None:
    """A step became void."""
    _steps.labels("void").inc()


def step_lost() -> None:
    """A step was lost, and the run failed with it."""
    _steps.labels("lost").inc()
