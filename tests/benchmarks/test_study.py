"""The rule by which bars are judged, and the tables and exit code that follow from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from silo_agent.methods import Method
from silo_agent.methods.fedcoe import FedCoE
from tests.benchmarks import method_splits as splits
from tests.benchmarks import methods, study_masks
from tests.benchmarks.study import Bar, Rule, Setting, difference, judge, standard_error


def bar(target: float, rule: Rule = Rule.GAIN, missed: str = "") -> Bar:
    return Bar(name="gain", case="a case", value=difference("a.x", "b.x"), target=target, rule=rule, missed=missed)


def figures(values: Sequence[float]) -> list[dict[str, float]]:
    return [{"a.x": 50 + value, "b.x": 50.0} for value in values]


@pytest.mark.parametrize(
    ("values", "target", "rule", "holds"),
    [
        ([6, 6, 6, 6], 6, Rule.GAIN, True),
        ([5.9, 5.9, 5.9, 5.9], 6, Rule.GAIN, False),  # the mean is short
        ([0, 0, 0, 24], 6, Rule.GAIN, False),  # mean 6, SE 6: mean − SE < 3
        ([3, 5, 7, 9], 6, Rule.GAIN, True),  # SE 1.3: mean − SE 4.7 ≥ 3
        ([-1, -1, -1, -1], -1, Rule.GAIN, True),
        ([-1.1, -1.1, -1.1, -1.1], -1, Rule.GAIN, False),
        ([-3, 1, -3, 1], -1, Rule.GAIN, False),  # mean −1, SE 1.15: mean − SE < −2
        ([-2, 0, -2, 0], -1, Rule.GAIN, True),  # SE 0.58
        ([-0.1, 0.1], 0, Rule.GAIN, False),
        ([0.0, 24.0], 12, Rule.LEAST, True),
        ([0.0, 23.0], 12, Rule.LEAST, False),
        ([0.3, 0.5], 0.4, Rule.MOST, True),
        ([0.3, 0.6], 0.4, Rule.MOST, False),
        ([1.0, 2.0], 1, Rule.ALWAYS, True),
        ([0.9, 2.0], 1, Rule.ALWAYS, False),
        ([7.0], 6, Rule.GAIN, True),
    ],
)
def test_bars_are_judged_by_mean_and_standard_error(
    values: list[float], target: float, rule: Rule, holds: bool
) -> None:
    assert judge(bar(target, rule), figures(values)).holds == holds


def test_the_standard_error_is_that_of_the_mean() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert standard_error([3.0]) == 0.0


def test_a_difference_is_from_the_best_of_the_others() -> None:
    assert difference("a", "b", "c")({"a": 5.0, "b": 1.0, "c": 4.0}) == 1.0


def test_a_bar_missed_without_a_reason_is_a_failure() -> None:
    for missed, names in (("", ["gain"]), ("the floor", [])):
        results = methods.Results({"a case": figures([1, 2])}, [bar(6, missed=missed)])
        assert methods.unexplained(results) == names
    assert methods.unexplained(methods.Results({"a case": figures([7, 8])}, [bar(6)])) == []


def test_the_page_and_the_last_line_say_what_was_found() -> None:
    results = methods.Results({"a case": figures([1, 3])}, [bar(6, missed="the floor")])
    page = methods.page("full", results)
    assert "### a case" in page and "| a | 52.0 ± 1.0 |" in page
    assert "**missed**" in page and "- gain: the floor" in page
    last = json.loads(methods.as_json("full", results, 12.0))
    assert last["cases"]["a case"]["a.x"] == {"mean": 52.0, "se": 1.0, "values": [51.0, 53.0]}
    found = last["bars"]["gain"]
    assert (found["value"], found["target"], found["pass"], found["missed"]) == (2.0, 6, False, "the floor")


def test_every_bar_is_about_a_case_that_every_suite_with_it_runs() -> None:
    names = [case.name for _, case in methods.cases("full")]
    assert len(set(names)) == len(names)
    bars = [one for study in methods.STUDIES for one in methods._study(study).BARS]
    assert {one.case for one in bars} <= set(names)
    assert len({one.name for one in bars}) == len(bars)
    assert {case.name for _, case in methods.cases("test")} < set(names)


def test_the_suite_test_runs_the_first_seeds_and_full_runs_all() -> None:
    for suite in ("test", "full"):
        seeds: dict[str, list[int]] = {}
        for _, name, seed in methods.tasks(suite):
            seeds.setdefault(name, []).append(seed)
        for _, case in methods.cases(suite):
            first = list(case.seeds)[: case.seeds_of_test if suite == "test" else None]
            assert seeds[case.name] == first and len(first) >= min(2, len(case.seeds))


@pytest.mark.parametrize(
    "kind",
    [kind if kind is FedCoE else pytest.param(kind, marks=pytest.mark.slow) for kind in study_masks.METHODS],
    ids=lambda kind: kind.__name__,
)
def test_masks_change_nothing(kind: type[Method], tmp_path: Path) -> None:
    """FedCoE, with lanes that open and lanes that stay shut, stands for all of them before each commit."""
    assert study_masks.same(1, Setting(full=False, data=tmp_path), [kind]) == {f"{kind.name}.same": 1.0}


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", ["even", "path2", 0.1, 1.0])
def test_every_row_is_dealt_once_and_draws_repeat(skew: str | float) -> None:
    one, again, other = (splits.deal(splits.digits(), seed, skew=skew) for seed in (1, 1, 2))
    sets = {**one.silos, **one.newcomers}
    assert (len(one.silos), len(one.newcomers)) == (12, 4)
    assert sum(len(data.y_train) + len(data.y_test) for data in sets.values()) == 1797
    assert all(np.array_equal(data.x_train, again.silos[name].x_train) for name, data in one.silos.items())
    assert any(not np.array_equal(data.y_train, other.silos[name].y_train) for name, data in one.silos.items())
    if skew == "path2":
        assert all(len(np.unique(data.y_train)) == 2 for data in sets.values())
    if skew == "even":
        assert all(len(np.unique(data.y_train)) == 10 for data in sets.values())


def test_silos_and_newcomers_take_their_styles_in_turn() -> None:
    upright = splits.deal(splits.digits(), 1)
    turned = splits.deal(splits.digits(), 1, styles=splits.TURNS)
    assert [turned.styles[name] for name in [*turned.silos, *turned.newcomers]] == [0, 1, 2, 3] * 4
    for name, quarters in turned.styles.items():
        one = {**upright.silos, **upright.newcomers}[name].x_train.reshape(-1, 8, 8)
        other = {**turned.silos, **turned.newcomers}[name].x_train.reshape(-1, 8, 8)
        np.testing.assert_allclose(np.rot90(one, quarters, axes=(1, 2)), other, atol=1e-6)


def test_a_newcomers_rows_are_all_for_the_test() -> None:
    split = splits.deal(splits.digits(), 1)
    for name, data in split.strangers.items():
        before = split.newcomers[name]
        assert len(data.y_test) == len(before.y_train) + len(before.y_test) == len(data.x_test)


def test_idx_files_are_read_and_their_bytes_checked(tmp_path: Path) -> None:
    import gzip
    from hashlib import sha256

    pictures = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    raw = [
        b"\x00\x00\x08\x03" + np.array([2, 4, 4], ">u4").tobytes() + pictures.tobytes(),
        b"\x00\x00\x08\x01" + np.array([2], ">u4").tobytes() + bytes([3, 9]),
    ]
    paths, digests = [tmp_path / "images.gz", tmp_path / "labels.gz"], []
    for path, data in zip(paths, raw, strict=True):
        path.write_bytes(gzip.compress(data))
        digests.append(sha256(path.read_bytes()).hexdigest())
    source = splits.idx("made", *paths, (digests[0], digests[1]))
    assert source.labels.tolist() == [3, 9] and source.pictures.shape == (2, 2, 2)
    assert source.pictures[0, 0, 0] == pytest.approx(np.mean([0, 1, 4, 5]) / 255)
    with pytest.raises(SystemExit, match="SHA-256"):
        splits.idx("made", *paths, (digests[0], digests[0]))
    with pytest.raises(SystemExit, match="--data"):
        splits.idx("made", tmp_path / "none.gz", paths[1], (digests[0], digests[1]))
