"""Names that promtool accepts, and a number of series that nobody outside can raise. Both rooms' instruments."""

from __future__ import annotations

import subprocess
import sys
from math import isnan
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import generate_latest

from aggregator.rounds import metrics as hub
from crypto.errors import BY_CODE
from crypto.messages import PHASES
from crypto.scores import scores
from silo_agent import metrics as silo
from tests.scored import ONE_CLASS, TWO

ROOT = Path(__file__).resolve().parents[3]
PROMTOOL = Path("/usr/bin/promtool")
ROOMS = [(hub, "consilium_aggregator_"), (silo, "consilium_silo_")]
SLOTS = {"global.correct": 30, "personal.correct": 45, "test.rows": 50, "everyone.weight": 3}


def close_step(slots: dict[str, int]) -> None:
    hub.step_closed(survivors=8, invited=9, lanes_open=[*"abcde"], lanes_shut=["f"], upload_bytes=4096, slots=slots)


@pytest.fixture(autouse=True, scope="module")
def _use_all() -> None:
    """Every instrument once, with every word it may get and one that it may not."""
    for word in (*PHASES, "nonsense"):
        hub.phase(word, 0.2)
        hub.silo_lost(word)
        with silo.phase(word):
            pass
    for code in (*BY_CODE, "nonsense"):
        hub.refused(code)
        silo.refused(code)
    close_step(SLOTS)
    hub.step_void()
    hub.step_lost()
    for end in (*hub.ENDS, "nonsense"):
        hub.run_ended(end)
    for outcome in (*silo.OUTCOMES, "nonsense"):
        silo.step(outcome)
    for mode in (*silo.MODES, "nonsense"):
        silo.accuracy(mode, 0.75)
    with silo.training(), silo.masking(4096):
        pass
    silo.released()
    silo.uploaded(4096)
    silo.rows(123)


def value(room: ModuleType, name: str, **labels: str) -> float:
    prefix = dict(ROOMS)[room]
    return room.REGISTRY.get_sample_value(prefix + name, labels) or 0.0


@pytest.mark.parametrize(("room", "prefix"), ROOMS)
def test_promtool_finds_nothing_to_say(room: ModuleType, prefix: str) -> None:
    assert PROMTOOL.exists(), "promtool is part of the checks: install the package `prometheus`"
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=generate_latest(room.REGISTRY), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")


@pytest.mark.parametrize(("room", "prefix"), ROOMS)
def test_names_have_one_prefix_and_words_are_from_lists(room: ModuleType, prefix: str) -> None:
    families = list(room.REGISTRY.collect())
    assert all(family.name.startswith(prefix) and family.documentation for family in families)
    labels = {key for family in families for sample in family.samples for key in sample.labels}
    assert labels <= {"outcome", "end", "phase", "state", "code", "score", "metric", "mode", "le"}
    assert b"nonsense" not in generate_latest(room.REGISTRY)


def test_what_a_step_shows() -> None:
    before = {name: value(hub, name) for name in ("uploaded_bytes_total",)}
    closed = value(hub, "steps_total", outcome="closed")
    opened, shut = (value(hub, "lanes_total", state=state) for state in ("open", "shut"))
    close_step(SLOTS)
    assert value(hub, "steps_total", outcome="closed") == closed + 1
    assert value(hub, "lanes_total", state="open") == opened + 5
    assert value(hub, "lanes_total", state="shut") == shut + 1
    assert value(hub, "uploaded_bytes_total") == before["uploaded_bytes_total"] + 4096
    assert (value(hub, "step_invited_silos"), value(hub, "step_surviving_silos")) == (9, 8)
    assert (value(hub, "step_lanes", state="open"), value(hub, "step_lanes", state="shut")) == (5, 1)
    assert value(hub, "accuracy_ratio", score="global.accuracy") == 0.6
    assert value(hub, "accuracy_ratio", score="personal.accuracy") == 0.9


def test_a_ratio_of_which_a_half_was_withheld_stays_as_it_was() -> None:
    close_step(SLOTS)
    for missing in ("test.rows", "global.correct"):
        close_step({name: count + 1 for name, count in SLOTS.items() if name != missing})
        assert value(hub, "accuracy_ratio", score="global.accuracy") == 0.6


def test_metrics_and_their_baselines() -> None:
    close_step(TWO)
    assert value(hub, "metric_value", mode="global", metric="auroc") == 2.5 / 3
    assert value(hub, "metric_baseline_value", mode="global", metric="accuracy") == 0.75
    assert isnan(value(hub, "metric_baseline_value", mode="global", metric="calibration-error"))
    close_step({name: count for name, count in TWO.items() if name != "test.rows"})
    assert value(hub, "metric_value", mode="global", metric="auroc") == 2.5 / 3, "withheld: as it was"
    close_step(TWO | ONE_CLASS)
    assert isnan(value(hub, "metric_value", mode="global", metric="auroc"))
    close_step({name.replace("global", "anything"): count for name, count in TWO.items()})
    assert value(hub, "metric_value", mode="other", metric="auroc") == 2.5 / 3


def test_a_silos_own_metrics() -> None:
    for score in scores(TWO, "global"):
        silo.metric(score)
    assert value(silo, "metric_value", mode="global", metric="sensitivity") == 1.0


def test_steps_in_a_row_that_one_lane_stays_shut_are_counted() -> None:
    def close(opened: str, shut: str) -> float:
        hub.step_closed(survivors=8, invited=8, lanes_open=[*opened], lanes_shut=[*shut], upload_bytes=0, slots={})
        return value(hub, "lane_shut_streak_steps")

    hub.run_started()
    assert value(hub, "lane_shut_streak_steps") == 0
    assert [close("a", "bc"), close("a", "bc"), close("ac", "b"), close("a", "c")] == [1, 2, 3, 3]
    assert close("ab", "c") == 2, "b is open again"
    assert close("x", "") == 2, "a step that c is not in says nothing of c"
    hub.run_started()
    assert value(hub, "lane_shut_streak_steps") == 0
    assert close("a", "c") == 1, "another run"


def test_every_event_has_its_zero_before_it_happens() -> None:
    """Or a rate would miss the first of a kind."""
    code = (
        "import sys\n"
        "from prometheus_client import generate_latest\n"
        "from aggregator.rounds import metrics as hub\n"
        "from silo_agent import metrics as silo\n"
        "for room in (hub, silo): sys.stdout.write(generate_latest(room.REGISTRY).decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = set(done.stdout.splitlines())
    for prefix, room in (("consilium_aggregator_", hub), ("consilium_silo_", silo)):
        assert {f'{prefix}refusals_total{{code="{code}"}} 0.0' for code in (*BY_CODE, room.OTHER)} <= lines
        assert {f'{prefix}steps_total{{outcome="{outcome}"}} 0.0' for outcome in room.OUTCOMES} <= lines
    assert {f'consilium_aggregator_lost_silos_total{{phase="{phase}"}} 0.0' for phase in PHASES} <= lines
    assert {f'consilium_aggregator_runs_total{{end="{end}"}} 0.0' for end in hub.ENDS} <= lines


def test_scores_are_bounded_and_need_rows() -> None:
    close_step({"test.rows": 0, "empty.correct": 0})
    close_step({"lonely.correct": 1})
    close_step({"test.rows": 10} | {f"m{place}.correct": place for place in range(hub.MAX_SCORES + 5)})
    shown = [
        sample.labels["score"]
        for family in hub.REGISTRY.collect()
        for sample in family.samples
        if sample.name.endswith("accuracy_ratio")
    ]
    assert len(shown) == hub.MAX_SCORES and not {"empty.accuracy", "lonely.accuracy"} & set(shown)


def test_a_phase_that_is_refused_is_timed_too() -> None:
    before = value(silo, "phase_duration_seconds_count", phase="deal")
    masked = value(silo, "masked_bytes_total")
    with pytest.raises(KeyError), silo.phase("deal"), silo.masking(4096):
        raise KeyError
    assert value(silo, "phase_duration_seconds_count", phase="deal") == before + 1
    assert value(silo, "masked_bytes_total") == masked


def test_the_metrics_of_a_silo_know_no_federation() -> None:
    """The silo's page needs neither torch nor the aggregator."""
    code = "import sys, silo_agent.metrics; print({'torch', 'aggregator', 'nvflare', 'syft'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
