"""When the silos' records are complete: the rule of atoms protects only against the openings that a releaser knows.

A model of sessions on one quantity that overlap in time; who does what when is up to the adversary.

- U1 advertise, then those of U2 deal, then they are asked for their shares, one by one, in any order and number.
- A deal tells all of U2 what its silo counts. A silo counts what it was told, and a set of its own before its share
  leaves. It gives its share if the rule allows that.
- t(|U1|) shares open the set. Colluders are in each U2 and give their shares always.
- An advert ends the silo's session before: it neither deals nor gives a share there any more.

The contributors are any of U2, since a lane may be hidden, and who did not contribute may be asked all the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement, permutations
from typing import NamedTuple, TypeVar

import pytest

from crypto.atoms import Openings
from tests.benchmarks.liveness_model import FLOORS, LEAST, threshold

C = FLOORS.colluders
T = TypeVar("T")
Set = frozenset[int]
Sets = frozenset[Set]

ADVERTISED, DEALT, RELEASED = 1, 2, 3


@cache
def allows(record: Sets, now: Set) -> bool:
    opened = Openings(frozenset(frozenset(map(str, one)) for one in record))
    return not opened.conflicts(map(str, now), LEAST)


@dataclass(frozen=True)
class Protocol:
    """Of ``silos`` members, numbered from 0; the last c of them collude. What is not the default breaks it."""

    silos: int
    told: bool = True
    ends: bool = True  #: an advert ends the session before
    exempt: bool = False  #: a set that is in the record passes
    whole_u2: bool = True  #: |U2| ≥ n_min, not only ≥ t
    small_n_min: bool = False  #: the least with n > (N + c) / 2, which charters had before

    @property
    def n_min(self) -> int:
        return threshold(self.silos) if self.small_n_min else FLOORS.n_min(self.silos)

    @property
    def honest(self) -> range:
        return range(self.silos - C)


@dataclass(frozen=True)
class Session:
    u1: Set
    u2: Set
    contributors: Set

    @property
    def t(self) -> int:
        return threshold(len(self.u1))


class Silo(NamedTuple):
    """``stages[s]``: how far it came in session s. ``last``: the session it advertised last. ``record``: the sets that
    it counts."""

    stages: tuple[int, ...]
    last: int = -1
    record: Sets = frozenset()

    def moved(self, s: int, stage: int) -> Silo:
        return self._replace(stages=put(self.stages, s, stage))


class World(NamedTuple):
    """The honest silos, and for each session what its deals told."""

    silos: tuple[Silo, ...]
    told: tuple[Sets, ...]


def put(row: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*row[:at], value, *row[at + 1 :])


class Play:
    """What may happen in these sessions. Each event gives the world after it, or None if nothing comes of it."""

    def __init__(self, protocol: Protocol, sessions: Iterable[Session]) -> None:
        self.protocol, self.sessions = protocol, tuple(sessions)
        self.u1 = [[i for i in protocol.honest if i in one.u1] for one in self.sessions]
        self.u2 = [[i for i in protocol.honest if i in one.u2] for one in self.sessions]
        self.start = World(
            tuple(Silo((0,) * len(self.sessions)) for _ in protocol.honest), (frozenset(),) * len(self.sessions)
        )
        self._alike = [
            tuple(i in part for one in self.sessions for part in (one.u1, one.u2, one.contributors))
            for i in protocol.honest
        ]

    def advert(self, world: World, s: int, i: int) -> World | None:
        silo = world.silos[i]
        if silo.stages[s] or i not in self.u1[s]:
            return None
        return world._replace(silos=put(world.silos, i, silo.moved(s, ADVERTISED)._replace(last=s)))

    def deal(self, world: World, s: int, i: int) -> World | None:
        silo = world.silos[i]
        if i not in self.u2[s] or not self._ready(world, s, i, ADVERTISED, self.u1[s]):
            return None
        told = put(world.told, s, world.told[s] | silo.record) if self.protocol.told else world.told
        return World(put(world.silos, i, silo.moved(s, DEALT)), told)

    def ask(self, world: World, s: int, i: int) -> World | None:
        if not self._ready(world, s, i, DEALT, self.u2[s]):
            return None
        silo, now = world.silos[i], self.sessions[s].contributors
        known = silo.record | world.told[s]
        if allows(known, now) or (self.protocol.exempt and now in known):
            return world._replace(silos=put(world.silos, i, silo.moved(s, RELEASED)._replace(record=known | {now})))
        return world._replace(silos=put(world.silos, i, silo._replace(record=known))) if known != silo.record else None

    def opened(self, world: World) -> Sets:
        shares = [C + sum(silo.stages[s] == RELEASED for silo in world.silos) for s in range(len(self.sessions))]
        return frozenset(one.contributors for one, given in zip(self.sessions, shares, strict=True) if given >= one.t)

    def broken(self, world: World) -> bool:
        return fewest(self.opened(world), self.protocol.silos - C) < FLOORS.honest

    def form(self, world: World) -> object:
        """The same for two worlds that differ by names of silos."""
        return frozenset(Counter(zip(self._alike, world.silos, strict=True)).items()), world.told

    def _ready(self, world: World, s: int, i: int, stage: int, all_of: list[int]) -> bool:
        silos = world.silos
        here = silos[i].last == s or not self.protocol.ends
        return here and silos[i].stages[s] == stage and all(silos[j].stages[s] >= stage for j in all_of)


@cache
def fewest(opened: Sets, honest: int) -> int:
    """The fewest honest silos in an atom of what was opened, or m if there is none."""
    places = Counter(tuple(i in one for one in opened) for i in range(honest))
    return min((size for place, size in places.items() if any(place)), default=FLOORS.honest)


# --- orders of events that were thought of ---------------------------------------------------------------------------


def opened(protocol: Protocol, cohorts: Iterable[Iterable[int]], script: str) -> tuple[list[int], bool]:
    """(sessions whose set opened, whether they leave fewer than m honest silos in an atom). All of each cohort deal and
    contribute. ``script``: "0:" all of session 0 advertise and deal, "0:12" silos 1 and 2 are asked for shares."""
    play = Play(protocol, [Session(one, one, one) for one in map(frozenset, cohorts)])
    world = play.start
    for session, asked in (part.split(":") for part in script.split()):
        s = int(session)
        steps = [(play.ask, map(int, asked))] if asked else [(play.advert, play.u1[s]), (play.deal, play.u2[s])]
        for event, silos in steps:
            for i in silos:
                world = event(world, s, i) or world
    sets = play.opened(world)
    return [s for s, one in enumerate(play.sessions) if one.contributors in sets], play.broken(world)


@pytest.mark.parametrize("silos", [4, 5, 6, 8, 10])
def test_a_set_that_was_released_and_never_opened_is_no_exception(silos: int) -> None:
    """Silo 0 releases the set of everyone, which does not open. Everyone else opens the set without it. Then all are
    told both sets, and asked for the first once more."""
    cohorts = [range(silos), range(1, silos), range(silos)]
    script = "0: 0:0 1: 1:{0} 2: 2:0{0}".format("".join(map(str, range(1, silos - C))))
    assert opened(Protocol(silos, exempt=True), cohorts, script) == ([0, 1, 2], True)  # 0 and 2 are the same set
    assert opened(Protocol(silos), cohorts, script) == ([1], False)


def test_a_releaser_that_has_not_heard_of_an_opening_protects_nobody() -> None:
    """Those who release the third set have not heard of the second; with a larger n_min one of them deals in it."""
    cohorts, script = [range(8), [0, 1, 2, 3, 7], [3, 4, 5, 6, 7]], "0: 0:0145 1: 1:012 2: 2:456"
    assert opened(Protocol(8, small_n_min=True), cohorts, script) == ([0, 1, 2], True)  # silo 3 is alone
    cohorts = [range(8), [0, 1, 2, 3, 4, 7], [1, 3, 4, 5, 6, 7]]
    script = "0: 0:0145 1: 1:023 2: 2:456"
    assert opened(Protocol(8), cohorts, script) == ([0], False)


def test_a_session_that_goes_on_after_a_later_advert_is_not_told_of_the_other() -> None:
    """Two sessions deal before either is released, and no honest silo is asked in both."""
    cohorts, script = [[0, 1, 2, 4], [1, 2, 3, 4]], "0: 1: 0:01 1:23"
    assert opened(Protocol(5, ends=False), cohorts, script) == ([0, 1], True)
    assert opened(Protocol(5), cohorts, script) == ([1], False)
    assert opened(Protocol(5), cohorts, "0: 0:01 1: 1:123") == ([0], False)  # told


# --- every order of events -------------------------------------------------------------------------------------------


def one_by_one(play: Play, world: World) -> Iterator[World | None]:
    for s in range(len(play.sessions)):
        for i in play.protocol.honest:
            yield from (event(world, s, i) for event in (play.advert, play.deal, play.ask))


def shares_one_by_one(play: Play, world: World) -> Iterator[World | None]:
    """Adverts and deals of a session at one moment. Nothing is lost: from its advert on, a silo that deals does nothing
    in another session before it has dealt; so its advert may as well wait for the first deal, and its deal, which
    tells what it counted at its advert, need not wait any longer."""
    for s, (u1, u2) in enumerate(zip(play.u1, play.u2, strict=True)):
        after = world
        for event, silos in ((play.advert, u1), (play.deal, u2)):
            for i in silos:
                after = event(after, s, i) or after
        yield after if after is not world else None
        yield from (play.ask(world, s, i) for i in play.protocol.honest)


Moves = Callable[[Play, World], Iterator[World | None]]


def breaks(play: Play, moves: Moves) -> bool:
    """Whether some order of events leaves fewer than m honest silos in an atom of what opened."""
    todo, seen = [play.start], {play.form(play.start)}
    while todo:
        world = todo.pop()
        if play.broken(world):
            return True
        for after in moves(play, world):
            if after is not None and (form := play.form(after)) not in seen:
                seen.add(form)
                todo.append(after)
    return False


def choices(protocol: Protocol, count: int) -> Iterator[tuple[Session, ...]]:
    """Every choice of so many sessions, up to names and order. Colluders are in each; of the cohorts that have a
    certain U2, the smallest one, whose t is least."""
    colluders = frozenset(range(protocol.silos - C, protocol.silos))
    sessions = []
    for u2 in (frozenset(few) | colluders for few in subsets(protocol.honest)):
        more = sorted(set(range(protocol.silos)) - u2)[: max(0, protocol.n_min - len(u2))]
        u1 = u2.union(more)
        if len(u2) >= (len(u1) if protocol.whole_u2 else threshold(len(u1))):
            sessions += [Session(u1, u2, now) for now in subsets(u2) if len(now) >= LEAST]
    seen = set()
    for some in combinations_with_replacement(sessions, count):
        columns = [[(i in one.u1, i in one.u2, i in one.contributors) for i in range(protocol.silos)] for one in some]
        forms = (list(zip(*order, strict=True)) for order in permutations(columns))
        form = min((tuple(sorted(rows[:-C])), tuple(sorted(rows[-C:]))) for rows in forms)
        if form not in seen:
            seen.add(form)
            yield some


def subsets(of: Iterable[int]) -> list[Set]:
    members = sorted(of)
    return [frozenset(few) for size in range(len(members) + 1) for few in combinations(members, size)]


@pytest.mark.parametrize(
    ("silos", "count", "moves"), [(4, 2, one_by_one), (4, 3, shares_one_by_one), (5, 2, shares_one_by_one)]
)
def test_no_order_of_events_leaves_fewer_than_m_honest_silos(silos: int, count: int, moves: Moves) -> None:
    protocol, tried = Protocol(silos), 0
    for sessions in choices(protocol, count):
        tried += 1
        assert not breaks(Play(protocol, sessions), moves), sessions
    assert tried > 10


@pytest.mark.parametrize(
    ("protocol", "count"),
    [
        (Protocol(4, exempt=True), 3),
        (Protocol(5, ends=False), 2),
        (Protocol(5, whole_u2=False), 2),
        (Protocol(5, told=False), 2),
        (Protocol(6, small_n_min=True), 2),
    ],
)
def test_some_order_of_events_does_where_the_protocol_lacks_a_part(protocol: Protocol, count: int) -> None:
    assert any(breaks(Play(protocol, sessions), shares_one_by_one) for sessions in choices(protocol, count))


# --- random orders among more silos ----------------------------------------------------------------------------------


def drawn(protocol: Protocol, rng: random.Random) -> list[Session]:
    """Small cohorts more often than large ones. Contributors: all of U2, or earlier ones less a few. Or an earlier
    session once more."""
    everyone, sessions = range(protocol.silos), list[Session]()
    honest, colluders = everyone[:-C], frozenset(everyone[-C:])
    for _ in range(rng.randint(2, 4)):
        if sessions and rng.random() < 0.3:
            sessions.append(rng.choice(sessions))
            continue
        n = rng.choice([protocol.n_min, protocol.n_min, protocol.silos, rng.randint(protocol.n_min, protocol.silos)])
        least = n if rng.random() < 0.3 else protocol.n_min if protocol.whole_u2 else threshold(n)
        u1 = colluders.union(rng.sample(honest, n - C))
        u2 = colluders.union(rng.sample(sorted(u1 - colluders), least - C))
        base = rng.choice([u2, *(one.contributors for one in sessions)]) & u2
        now = base - frozenset(rng.sample(sorted(base), min(len(base), rng.choice([0, 0, 1, 2, 3]))))
        sessions.append(Session(u1, u2, now if len(now) >= LEAST else u2))
    return sessions


def plays(protocol: Protocol, tries: int) -> Iterator[tuple[Play, World]]:
    """How it ends with an adversary that plays with some sense. It brings sessions on by turns, now and then with some
    silos only, and asks those first that count the fewest sets."""
    rng = random.Random(protocol.silos)
    for _ in range(tries):
        play = Play(protocol, drawn(protocol, rng))
        world, events = play.start, [[play.advert, play.deal, *[play.ask] * 3] for _ in play.sessions]
        while any(events):
            unfinished = [s for s, left in enumerate(events) if left]
            s = rng.choice([unfinished[0], *unfinished])
            event = events[s][0]
            few = event == play.ask or rng.random() < 0.1
            silos = sorted(protocol.honest, key=lambda i: len(world.silos[i].record) + rng.random())
            for i in silos[: rng.randint(1, play.sessions[s].t) if few else None]:
                world = event(world, s, i) or world
            if not few or event == play.ask:
                events[s].pop(0)
        yield play, world


@pytest.mark.parametrize("silos", [8, 10])
def test_among_more_silos_none_was_found(silos: int) -> None:
    several = 0
    for play, world in plays(Protocol(silos), tries=1000):
        assert not play.broken(world), play.sessions
        several += len(play.opened(world)) > 1
    assert several >= 20


@pytest.mark.parametrize("silos", [8, 10])
@pytest.mark.parametrize("lacks", [{"ends": False}, {"told": False}, {"small_n_min": True}])
def test_among_more_silos_the_same_search_breaks_what_lacks_a_part(silos: int, lacks: dict[str, bool]) -> None:
    assert any(play.broken(world) for play, world in plays(Protocol(silos, **lacks), tries=600))


@pytest.mark.parametrize("silos", range(4, 65))
def test_two_thirds_are_enough(silos: int) -> None:
    assert FLOORS.n_min(silos) <= (2 * silos + C) // 3 + 1
