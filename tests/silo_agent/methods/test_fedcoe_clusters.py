"""FedCoE's clusters: a split counts if both halves opened, whatever kept one of them shut."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from crypto.plan import Step
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published
from silo_agent.methods.fedcoe import FedCoE
from silo_agent.methods.fedcoe_clusters import Params, clusters, splitting
from tests import digits, plain
from tests.silo_agent.methods.test_methods import DIGITS

TWO, FOUR = Params(experts=2), Params(experts=4)


def opened(**of: int) -> dict[str, int]:
    """``c3=5``: of lane cluster-3 the five contributors opened."""
    return {f"cluster-{name[1:]}.contributors": count for name, count in of.items()}


ROOT = {"cluster/0": opened(c0=8, c1=8)}
ROOT4 = {"cluster/0": opened(c0=12, c1=12, c2=12, c3=12)}


def seen(slots: dict[str, dict[str, int]], p: Params) -> list[tuple[tuple[int, ...], int]]:
    return [(one.paths, one.at) for one in clusters(slots, p)]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (opened(c0=4, c1=4), [((0,), 0), ((1,), 1)]),
        (opened(c0=5), [((0, 1), 1)]),  # lane 1 still has the centroid of all
        (opened(c1=5), [((0, 1), 0)]),
        ({}, [((0, 1), 0)]),
    ],
)
def test_a_split_counts_if_both_halves_opened(step: dict[str, int], expected: object) -> None:
    assert seen(ROOT | {"cluster/1": step}, TWO) == expected


def test_a_void_root_or_nothing_at_all_is_one_cluster() -> None:
    assert seen({}, TWO) == seen({"cluster/0": {}}, TWO) == [((0, 1), 0)]


def test_a_half_that_opened_alone_may_be_split_off_again_in_the_next_step() -> None:
    first = {"cluster/1": opened(c0=7, c1=7)}
    (one,) = clusters(ROOT4 | first, FOUR, 1)
    assert (one.paths, one.at) == ((0, 1, 2, 3), 2) and splitting([one], FOUR) == [one]
    both = {"cluster/2": opened(c0=6, c1=6, c2=4, c3=4)}
    assert seen(ROOT4 | first | both, FOUR) == [((0, 1), 0), ((2, 3), 2)]


def test_the_most_populous_clusters_are_split_first() -> None:
    three = Params(experts=3)
    halves = {"cluster/1": opened(c0=4, c1=4, c2=8, c3=8)}
    found = clusters(ROOT4 | halves, three, 1)
    assert [one.paths for one in splitting(found, three)] == [(2, 3)]
    last = {"cluster/2": opened(c0=5, c1=5, c2=3, c3=4)}
    assert seen(ROOT4 | halves | last, three) == [((0, 1), 0), ((2,), 2), ((3,), 3)]
    assert seen(ROOT4 | halves | {"cluster/2": opened(c0=5, c1=5, c3=7)}, three) == [((0, 1), 0), ((2, 3), 2)]


def test_a_lane_that_stayed_shut_by_itself_is_not_read() -> None:
    """Too few shares for one lane of a cluster: its blocks are those of the step before."""
    halves = {"cluster/1": opened(c1=4, c2=8, c3=8)}
    assert seen(ROOT4 | halves, FOUR) == [((0, 1), 1), ((2, 3), 2)]


# --- in federations --------------------------------------------------------------------------------------------------


def federated(silos: Collection[str], limits: Limits, absent: Collection[str] = ()) -> tuple[FedCoE, Published]:
    """The tree of two turned styles; some are absent when it is split."""
    cohort: dict[str, DataSet] = {name: data for name, data in digits.turned().items() if name in silos}
    params = DIGITS | {"rounds": 1, "local_steps": 1, "finetune_steps": 1}
    members = {silo: FedCoE(params, silo) for silo in cohort}

    def away(step: Step) -> Collection[str]:
        return absent if step.name == "cluster/1" else ()

    return FedCoE(params), plain.run(FedCoE.plan(params, limits), members, cohort, limits, absent=away)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("silos", "limits", "absent"),
    [
        (digits.SILOS, Limits(n_max=8), ("silo-7", "silo-8")),  # two of four are left, below the floor of three
        (digits.SILOS[:7], Limits(n_max=8, lane_floor=4), ()),  # three are enough for the atoms, not for the lane
    ],
    ids=["away", "floor"],
)
def test_no_half_is_a_cluster_alone(silos: Collection[str], limits: Limits, absent: Collection[str]) -> None:
    """The rule of atoms lets the other half open: it is of four, and those outside it are three or more."""
    asked, published = federated(silos, limits, absent)
    halves = [path for path in range(2) if f"cluster-{path}.contributors" in published.slots["cluster/1"]]
    assert len(halves) == 1, "one half opened alone"
    context = asked._context(published)
    assert len(context.centroids_EF) == 1
    root = published.blocks[f"centroid-{1 - halves[0]}"]
    np.testing.assert_array_equal(context.centroids_EF[0], root)
    for name in ("newcomer-1", "newcomer-2"):
        assert asked._gate(published, digits.turned()[name].x_test).tolist() == [1.0, 0.0]
