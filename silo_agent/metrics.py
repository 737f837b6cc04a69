"""The metrics that a silo exports to its own Prometheus. They describe one silo and are served only at its endpoint.

Only fixed words are labels, so this file bounds the number of series. Import it after
``jobs.services.http.prepare_environment`` has run, here or in the process that started this one: with
PROMETHEUS_MULTIPROC_DIR set, job processes write files that the long-lived parent serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import nan
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from crypto.errors import BY_CODE
from crypto.messages import PHASES
from crypto.scores import METRICS, Score

PREFIX: Final = "consilium_silo_"
OUTCOMES = ("released", "missed", "void")
MODES = ("global", "generalist", "personal", "cold")
#: Label for a word that is not on its list: a peer cannot make series up.
OTHER = "other"
#: The words that a label may have. Each of them, and ``OTHER``, is one series.
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "outcome": OUTCOMES,
    "phase": PHASES,
    "mode": MODES,
    "code": tuple(sorted(BY_CODE)),
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


def _histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(f"{PREFIX}{name}", text, labels, buckets=_SECONDS, registry=REGISTRY)


_steps = _counter(
    "steps_total", "Steps of this silo's runs: with its update, without it, or without a result.", "outcome"
)
_refusals = _counter("refusals_total", "Requests this silo refused and lanes it kept shut, by code.", "code")
_releases = _counter("releases_total", "Steps whose shares have left this silo.")
_restarts = _counter("job_restarts_total", "Job processes that died and were started again.")
_given_up = _counter("jobs_given_up_total", "Job processes that died too often and were not started again.")
_masked = _counter("masked_bytes_total", "Bytes of masked lanes made.")
_uploaded = _counter("uploaded_bytes_total", "Bytes of masked lanes handed to the aggregator.")
_phases = _histogram("phase_duration_seconds", "Time to answer a phase.", "phase")
_training = _histogram("training_duration_seconds", "Time of local training in a step.")
_masking = _histogram("mask_duration_seconds", "Time to mask the lanes of a step.")
_released = _gauge("last_release_timestamp_seconds", "When shares last left this silo.")
_rows = _gauge("dataset_rows", "Training rows of the data set in use.")
_accuracy = _gauge("accuracy_ratio", "Accuracy on this silo's own test rows, by mode.", "mode")
_metrics = _gauge("metric_value", "Metrics on this silo's own test rows; NaN: undefined.", "mode", "metric")


def step(outcome: str) -> None:
    """Count a step that ended: with this silo's shares, without them, or void."""
    _steps.labels(outcome if outcome in OUTCOMES else OTHER).inc()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Times the answer to a phase; one that ends in a refusal counts too."""
    with _timed(_phases.labels(name if name in PHASES else OTHER)):
        yield


@contextmanager
def training() -> Iterator[None]:
    """Times local training."""
    with _timed(_training):
        yield


@contextmanager
def masking(size: int) -> Iterator[None]:
    """Times the masking of ``size`` bytes."""
    with _timed(_masking):
        yield
    _masked.inc(size)


def uploaded(size: int) -> None:
    """``size`` bytes of masked lanes were handed out."""
    _uploaded.inc(size)


def refused(code: str) -> None:
    """A refusal with a code of ``crypto.errors``; any other code counts as "other"."""
    _refusals.labels(code if code in BY_CODE else OTHER).inc()


def released() -> None:
    """Count a step whose shares leave this silo."""
    _releases.inc()
    _released.set_to_current_time()


def job_restarted() -> None:
    """Count a job process that is started in place of one that died."""
    _restarts.inc()


def job_given_up() -> None:
    """Count a job process that died and is not started again."""
    _given_up.inc()


def rows(count: int) -> None:
    """Training rows of the data set that the current job uses."""
    _rows.set(count)


def accuracy(mode: str, ratio: float) -> None:
    """Accuracy on this silo's own test rows. Shown here only: it never leaves by the protocol."""
    _accuracy.labels(mode if mode in MODES else OTHER).set(ratio)


def metric(score: Score) -> None:
    """A metric on this silo's own test rows. Shown here only, like its accuracy."""
    mode = score.mode if score.mode in MODES else OTHER
    _metrics.labels(mode, score.metric).set(nan if score.value is None else score.value)


@contextmanager
def _timed(histogram: Histogram) -> Iterator[None]:
    start = perf_counter()
    try:
        yield
    finally:
        histogram.observe(perf_counter() - start)
