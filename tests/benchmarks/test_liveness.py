"""The model of liveness does what it says, and a small run of it has the figures that decision 23 rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.liveness import Row, measure, measure_static, misses, rules
from tests.benchmarks.liveness_model import (
    ATTEST,
    CONTRIBUTE,
    DEAL,
    FETCH,
    LANES,
    OPEN,
    SLOTS,
    TAG,
    End,
    Records,
    Rule,
    Run,
    Setting,
    Weather,
    names,
    weather,
)

EIGHT = Setting(silos=8, drop=0.05)
PLACES = {
    "open": OPEN,
    "deal": DEAL,
    "contribute": CONTRIBUTE,
    "fetch": FETCH,
    "attest": ATTEST,
    "slots": SLOTS,
    "lanes": LANES,
    "tag": TAG,
}


def attempt(silos: int = 8, /, back: bool = False, **out: Iterable[int]) -> Weather:
    """An attempt in which these silos drop out in these phases, for instance ``slots=[0, 1]``. ``back``: whether they
    answer when they are asked once more."""
    first = [[True] * 8 for _ in range(silos)]
    for phase, who in out.items():
        for i in who:
            first[i][PLACES[phase]] = False
    return Weather(first, [[back] * 8] * silos)


def played(setting: Setting, *steps: Weather | list[Weather]) -> list[End]:
    run = Run(replace(setting, steps=len(steps)), Records(setting.silos))
    return [run.step(k, step if isinstance(step, list) else [step]) for k, step in enumerate(steps)]


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "out", "end"),
    [
        ("open", 2, End.THROUGH),
        ("open", 3, End.LOST),
        ("deal", 2, End.THROUGH),
        ("deal", 3, End.LOST),
        ("contribute", 3, End.THROUGH),
        ("contribute", 4, End.LOST),
        ("fetch", 3, End.THROUGH),
        ("fetch", 4, End.LOST),
        ("attest", 3, End.THROUGH),
        ("attest", 4, End.LOST),
        ("slots", 3, End.THROUGH),
        ("slots", 4, End.VOID),
        ("lanes", 3, End.THROUGH),
        ("lanes", 4, End.SHUT),
        ("tag", 5, End.THROUGH),
        ("tag", 6, End.VOID),
    ],
)
def test_a_step_of_eight_ends_by_how_many_drop_out_where(phase: str, out: int, end: End) -> None:
    assert played(EIGHT, attempt(**{phase: range(out)})) == [end]


@pytest.mark.parametrize("phase", ["attest", "slots", "lanes"])
def test_if_fewer_than_t_answer_the_others_are_asked_once_more(phase: str) -> None:
    assert played(EIGHT, attempt(back=True, **{phase: range(4)})) == [End.THROUGH]
    assert played(replace(EIGHT, again=()), attempt(back=True, **{phase: range(4)})) != [End.THROUGH]
    three = attempt(back=True, **{phase: range(3)})  # t others answer, so nobody is asked again
    assert three.answers(PLACES[phase], range(8), 5) == [3, 4, 5, 6, 7]
    assert three.answers(PLACES[phase], range(8), 6) == list(range(8))


def test_elsewhere_nobody_is_asked_once_more() -> None:
    for phase, out in [("open", 3), ("deal", 3), ("fetch", 4)]:
        assert played(EIGHT, attempt(back=True, **{phase: range(out)})) != [End.THROUGH]


def test_in_tag_it_is_if_fewer_than_the_signers_of_a_result_answer() -> None:
    assert played(EIGHT, attempt(back=True, tag=range(6))) == [End.THROUGH]
    assert played(replace(EIGHT, again=()), attempt(back=True, tag=range(6))) == [End.VOID]


def test_a_lost_attempt_is_tried_again() -> None:
    assert played(EIGHT, [attempt(deal=range(4)), attempt()]) == [End.THROUGH]


def test_after_a_void_step_any_cohort_goes_on() -> None:
    assert played(EIGHT, attempt(slots=range(4)), attempt(fetch=[0])) == [End.VOID, End.THROUGH]


#: A lane stays shut that half of the silos released; then one silo is missing.
SHUT, OTHER = attempt(lanes=range(4)), attempt(fetch=[0])


def test_the_sum_of_a_shut_lane_is_in_the_way_of_a_cohort_that_differs_by_one() -> None:
    bare = replace(EIGHT, fitted=False)
    assert played(bare, SHUT, OTHER, OTHER) == [End.SHUT, End.REFUSED, End.REFUSED]
    assert played(bare, SHUT, attempt(), OTHER) == [End.SHUT, End.THROUGH, End.THROUGH]
    assert played(bare, SHUT, attempt(fetch=[0, 1, 2])) == [End.SHUT, End.THROUGH]
    assert played(replace(EIGHT, rule=Rule.NONE), SHUT, OTHER) == [End.SHUT, End.THROUGH]


def test_so_is_that_of_a_lane_which_nobody_takes_for_proven() -> None:
    unproven = attempt(tag=range(6))
    assert played(replace(EIGHT, fitted=False), unproven, OTHER) == [End.VOID, End.REFUSED]
    assert played(EIGHT, unproven, OTHER) == [End.VOID, End.THROUGH]


def test_a_fitted_cohort_leaves_silos_out() -> None:
    assert played(EIGHT, SHUT, OTHER) == [End.SHUT, End.THROUGH]
    six = attempt(deal=[0], fetch=[1])  # of six contributors five are kept; four would be too few
    assert played(EIGHT, SHUT, six) == [End.SHUT, End.THROUGH]
    assert played(EIGHT, attempt(open=[0], lanes=range(4)), attempt(open=[1], fetch=[0])) == [End.SHUT, End.LOST]


def test_what_was_asked_for_is_known_when_a_run_is_resumed() -> None:
    lost = attempt(open=range(4))
    assert played(EIGHT, SHUT, lost, OTHER) == [End.SHUT, End.LOST, End.THROUGH]
    assert played(replace(EIGHT, remembers=False), SHUT, lost, OTHER) == [End.SHUT, End.LOST, End.REFUSED]


def test_deals_tell_who_did_not_release() -> None:
    records = Records(3)
    records.count([0], names([0, 1, 2]))
    assert records.allow([0, 1, 2], names([0, 1, 2])) == [0, 1, 2]
    records.count([1], names([0, 1, 2, 3, 4, 5]))
    assert records.allow([0, 1, 2], names([3, 4, 5])) == [0, 1, 2]
    assert records.allow([0, 1, 2], names([2, 3, 4, 5])) == [2]
    records.forget()
    records.count([0], names([0, 1, 2]))
    records.tell([0, 1], [1])
    assert records.allow([0, 1, 2], names([1, 2, 3])) == [2]
    records.forget()
    assert records.allow([0, 1, 2], names([1, 2, 3])) == [0, 1, 2]


def test_a_silo_that_deals_tells_the_others_even_if_it_drops_out_then() -> None:
    """Silos 0 and 1 alone release in the first step. In the second, 1 deals, and neither contributes."""
    steps = attempt(lanes=range(2, 8)), attempt(open=[0], contribute=[1])
    assert played(replace(EIGHT, fitted=False), *steps) == [End.SHUT, End.REFUSED]
    assert played(replace(EIGHT, fitted=False, told=False), *steps) == [End.SHUT, End.THROUGH]


def test_static_figures_open_once_and_the_next_run_needs_the_same_silos() -> None:
    static, setting = Records(8), replace(EIGHT, steps=1)
    first, other = [[attempt()]], [[OTHER]]
    assert Run(setting, static).static_opens(first) == 0
    assert Run(setting, static).static_opens(other) is None
    assert Run(setting, static).static_opens([*other, *first]) == 1


def test_without_drop_outs_every_step_goes_through() -> None:
    steps = weather(replace(EIGHT, drop=0.0, steps=3), np.random.default_rng(0))
    assert all(all(map(all, now.first_NP)) for step in steps for now in step)
    row = measure(replace(EIGHT, drop=0.0, steps=5), runs=2, seed=0)
    assert (row.through, row.figures, row.stall) == (100.0, 100.0, 0)


def test_the_share_of_requests_that_are_missed_is_that_of_the_model() -> None:
    for setting, second in ((EIGHT, 0.95), (replace(EIGHT, died=True), 0.0)):
        attempts = [now for step in weather(setting, np.random.default_rng(1)) for now in step]
        assert np.mean([now.first_NP for now in attempts]) == pytest.approx(0.95, abs=0.01)
        assert np.mean([now.second_NP for now in attempts]) == pytest.approx(second, abs=0.01)
    twice = [now.first_NP for step in weather(replace(EIGHT, asks=2), np.random.default_rng(1)) for now in step]
    assert np.mean(twice) == pytest.approx(1 - 0.05**2, abs=0.001)


# --- small runs with fixed seeds -------------------------------------------------------------------------------------


def small(setting: Setting) -> Row:
    return measure(setting, runs=8, seed=0)


@pytest.mark.parametrize("silos", [8, 16, 64])
def test_at_one_per_cent_the_protocol_as_built_meets_the_target(silos: int) -> None:
    assert small(Setting(silos=silos, drop=0.01)).through >= 99
    assert small(Setting(silos=silos, drop=0.01, died=True)).through >= 99


@pytest.mark.parametrize("silos", [8, 16, 64])
def test_at_five_per_cent_it_does_where_silos_are_merely_out_of_reach(silos: int) -> None:
    assert small(Setting(silos=silos, drop=0.05)).through >= 95


def test_at_five_per_cent_it_misses_it_with_and_without_the_rule_where_processes_die() -> None:
    of = rules(EIGHT)
    rows = [(name, small(of[name])) for name in ("no rule, died", "atoms, died")]
    assert rows[1][1].through < rows[0][1].through < 95
    (why,) = misses(rows)
    assert "atoms, died, n = 8, p = 5%" in why
    assert "too few silos are left to unmask and the sum of a shut lane is in the way of the next" in why


def test_the_rule_before_stops_a_run_when_its_budget_is_spent() -> None:
    of = rules(Setting(silos=16, drop=0.01))
    before, now = small(of["last release"]), small(of["atoms"])
    assert before.broken == 100 and before.through < 80 and now.through == 100


def test_static_figures_of_the_first_run_open_and_later_ones_may_not() -> None:
    first, tenth = measure_static(replace(EIGHT, steps=20), series=8, seed=0, runs=(1, 10))
    assert first.opened == 100 and first.at_once >= 75 and tenth.opened < first.opened
