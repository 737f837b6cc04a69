"""Games about the rule of atoms: a server that opens several sums of one quantity, and members that lie of them.

C2, C2b, H1 and H2 are those of the list of attacks: each opened one silo's update, exactly, before there was the rule.
Each is played twice, with the rule and without: where it is removed, the attack succeeds.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from crypto.atoms import Openings
from crypto.blocks import Contribution
from crypto.messages import Attestation
from crypto.opened_sets import Told
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from crypto.silo_session import SiloSession
from tests.evil_server import EvilServer, openings
from tests.federation import Federation, holding, identity, small_plan

LEAST = 3  # m + c


FED = Federation(8)  # n_min = 6, t(6) = 4, t(8) = 5
SILOS = FED.silos


def silos_of(*numbers, of=FED):
    return tuple(sorted(f"silo-{i}" for i in numbers))


def ids(silos):
    return frozenset(f"{silo}:{'0' * 16}" for silo in silos)


def three_steps(n):
    """All do the same, the third as another task."""
    plan = small_plan(n)
    (step,) = plan.steps
    return replace(plan, steps=(step, replace(step, index=1), replace(step, task="tune")))


PLAN = three_steps(8)
ALL_HOLD = {n: holding(Federation(n).silos, quiet=n, visible=n) for n in (8, 9, 10, 12)}


@pytest.fixture
def games():
    """Makes sessions that go on with the same records, and takes the verdict on each after the game."""
    made = []

    def make(fed=FED, plan=PLAN, **options):
        made.append(EvilServer(fed, plan, label=f"game-{len(made)}", **options))
        return made[-1]

    yield make
    for evil in made:
        evil.verdict()


@pytest.fixture(params=[True, False], ids=["rule", "no rule"])
def rule(request, monkeypatch):
    """Whether silos check the rule."""
    if not request.param:
        monkeypatch.setattr(SiloSession, "_check_rule", lambda self, names: {})
    return request.param


def blank(fed=FED):
    return {silo: [] for silo in fed.silos}


def play(evil, survivors, announced=None):
    """One session over these survivors, of those that are announced; the server with what opened."""
    evil.open(announced)
    evil.deal()
    evil.contribute()
    evil.attest(lambda silo: [evil.headers[one] for one in sorted(survivors)], silos=survivors)
    evil.unmask_slots()
    evil.unmask_lanes()
    assert not evil.refused
    return evil.announce(drop=set(evil.headers) - set(survivors))[0]


def why(evil):
    """section or lane → the codes with which silos withheld it."""
    found = {}
    for silo in evil.lane_shares:
        for name, refused in evil.sessions[silo].withheld.items():
            found.setdefault(name, set()).add(refused.code)
    return found


def cohort_difference(*names):
    return {name: {"COHORT_DIFFERENCE"} for name in names}


# --- C2, C2b: the same state again --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "again", [{"run": b"R" * 32, "chain": b"S" * 32}, {"k": 1, "chain": b"S" * 32}, {"k": 2}, {"attempt": 1}],
    ids=["two runs", "void hop", "void hop to another task", "next attempt"],
)  # fmt: skip
def test_c2_two_sums_from_one_state_do_not_show_who_was_left_out(games, rule, again):
    """First all eight. Then silo-8 is left out: in a second run from the same blocks, in the next step after one that
    was declared void though its lanes had opened at the server, whatever its task, or in another attempt."""
    records = blank()
    first = play(games(records=records, weights=ALL_HOLD[8]), SILOS)
    assert set(first.sums) == {"trunk", "quiet", "open"} and None not in first.slots
    evil = games(records=records, weights=ALL_HOLD[8], context=FED.context(PLAN, **again))
    second = play(evil, SILOS[:7], SILOS[:7])
    if rule:
        assert why(evil) == cohort_difference("Static", "Fresh", "trunk", "quiet", "open")
        assert not second.sums and second.slots == (None, None) and not any(map(evil.known, ("trunk", "Static")))
        return
    alone = evil.encoded("silo-8")
    for lane, words in alone.lanes.items():
        assert (first.sums[lane].words - second.sums[lane].words == words).all() and words.any()
    assert [a - b for a, b in zip(first.slots, second.slots, strict=True)] == alone.slots.tolist()


def test_the_same_silos_again_open_again(games):
    """And from another state any cohort does."""
    records = blank()
    first = play(games(records=records, weights=ALL_HOLD[8]), SILOS)
    again = play(games(records=records, weights=ALL_HOLD[8], context=FED.context(PLAN, k=1)), SILOS)
    assert again.slots == first.slots and set(again.sums) == set(first.sums) == {"trunk", "quiet", "open"}
    fresh = games(records=records, weights=ALL_HOLD[8], context=FED.context(PLAN, k=1))
    for session in fresh.sessions.values():
        session._blocks = b"b" * 32
    third = play(fresh, SILOS[:7], SILOS[:7])
    assert set(third.sums) == {"trunk", "quiet", "open"} and third.slots[0] is None and third.slots[1] is not None
    assert why(fresh) == {"Static": {"COHORT_DIFFERENCE"}}


# --- H1: hops that each look harmless -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 9, 10, 12])
def test_h1_hops_of_three_or_more_do_not_isolate(games, rule, n):
    """12345678 → 1234 → 1567 → 1234567: each differs from the one before by none or at least m + c silos."""
    fed, records = Federation(n), blank(Federation(n))
    t = fed.charter.threshold(fed.charter.n_min)
    half = max(t, n // 2)
    both = max(1, t - (n - 1 - half))  # silos of the second hop that stay for the third: as many as t asks for
    hops = [range(1, n + 1), range(1, half + 1), (*range(1, both + 1), *range(half + 1, n)), range(1, n)]
    moves = [len(set(a) - set(b)) for one, two in pairwise(hops) for a, b in ((one, two), (two, one))]
    assert all(count == 0 or count >= LEAST for count in moves)
    opened, sums = Openings(), []
    for k, hop in enumerate(hops):
        plan = three_steps(n)
        evil = games(fed, plan, records=records, weights=ALL_HOLD[n], context=fed.context(plan, run=bytes([k]) * 32))
        survivors = silos_of(*hop)
        dealing = (*survivors, *(silo for silo in fed.silos if silo not in survivors))
        server = play(evil, survivors, sorted(dealing[: max(fed.charter.n_min, len(survivors))]))
        sums.append(server.sums.get("trunk"))
        if server.sums:
            opened = opened.refine(ids(survivors))
        if rule and not server.sums:
            assert why(evil)["trunk"] == why(evil)["Static"] == {"COHORT_DIFFERENCE"}
    if rule:
        assert [one is not None for one in sums] == [True, True, False, False]
        assert all(len(atom) >= LEAST for atom in opened.atoms)
        return
    assert ids([f"silo-{n}"]) in opened.atoms
    alone = sums[0].words - sums[3].words
    assert (alone == evil.encoded(f"silo-{n}").lanes["trunk"]).all() and alone.any()


# --- H2: static lanes ---------------------------------------------------------------------------------------------


def halves_plan():
    """A signature summed over all, then over two halves, in the same step."""
    lanes = (
        Lane(name="all", scope=Scope.ALL, floor=3),
        Lane(name="left", scope=Scope.HELD, floor=3),
        Lane(name="right", scope=Scope.HELD, floor=3),
        Lane(name="update", scope=Scope.ALL, floor=3),
    )
    blocks = tuple(
        Block(name=f"{name}.w", shape=(4,), lane=name, clip=1.0, quantity="" if name == "update" else "signature")
        for name in ("all", "left", "right", "update")
    )
    steps = (
        Step(task="whole", index=0, sums=(Sum("all.w", Apply.PUBLISH),), slots=(Slot("rows", 9, Basis.DATA),)),
        Step(
            task="halves", index=0, sums=tuple(Sum(f"{name}.w", Apply.PUBLISH) for name in ("left", "right", "update"))
        ),
    )
    return Plan(method="test", seed=7, n_max=8, lanes=lanes, blocks=blocks, steps=steps)


HALVES = halves_plan()
LEFT, RIGHT = silos_of(1, 2, 3, 4), silos_of(5, 6, 7, 8)


def signature(plan, k):
    """One vector a silo, whatever the lane."""

    def values(silo):
        vector = np.random.default_rng(list(silo.encode())).normal(scale=0.3, size=4)
        step = plan.steps[k]
        return Contribution({part.block: vector for part in step.sums}, {slot.name: 1 for slot in step.slots})

    return values


def halves(games, records, k, **options):
    weights = {
        0: {silo: {"all": 1} for silo in SILOS},
        1: {silo: {"left": int(silo in LEFT), "right": int(silo in RIGHT), "update": 1} for silo in SILOS},
    }
    given = {"weights": weights[k], "context": FED.context(HALVES, k=k), "values": signature(HALVES, k)}
    return games(plan=HALVES, records=records, **(given | options))


def test_h2_all_less_left_less_right_is_not_the_silo_that_dropped_out(games, rule):
    records = blank()
    everyone = play(halves(games, records, 0), SILOS)
    evil = halves(games, records, 1)
    two = play(evil, SILOS[:7])
    if rule:
        assert set(two.sums) == {"update"}  # all of the static quantity or nothing of it, and the others as they like
        assert why(evil) == cohort_difference("left", "right")
        return
    alone = everyone.sums["all"].words - two.sums["left"].words - two.sums["right"].words
    assert (alone == halves(games, records, 0).encoded("silo-8").lanes["all"]).all() and alone.any()


def test_h2_halves_of_all_open(games):
    records = blank()
    play(halves(games, records, 0), SILOS)
    evil = halves(games, records, 1)
    assert set(play(evil, SILOS).sums) == {"left", "right", "update"} and why(evil) == {}


def test_static_lanes_that_pass_one_by_one_and_not_together_stay_shut(games):
    """Left is 12345 and right 5678. Either alone passes; together they show the sum of 1234, and so silo-5."""
    left, right = silos_of(1, 2, 3, 4, 5), silos_of(5, 6, 7, 8)
    for held, opens in (
        ((left, ()), {"left", "update"}),
        (((), right), {"right", "update"}),
        ((left, right), {"update"}),
    ):
        weights = {s: {"left": int(s in held[0]), "right": int(s in held[1]), "update": 1} for s in SILOS}
        evil = halves(games, blank(), 1, weights=weights)
        assert set(play(evil, SILOS).sums) == opens
        codes = {name: codes for name, codes in why(evil).items() if codes != {"LANE_BELOW_FLOOR"}}
        assert codes == ({} if len(opens) == 2 else cohort_difference("left", "right"))


# --- what is told -------------------------------------------------------------------------------------------------


def recorded(games, survivors=SILOS, announced=None):
    """silo → what it recorded of one session over these survivors."""
    records = blank()
    play(games(records=records, weights=ALL_HOLD[8]), survivors, announced)
    return records


def test_one_that_was_there_is_enough(games):
    """Six silos of a session over seven have lost their journals. The seventh tells; all eight keep to it."""
    records = recorded(games, SILOS[:7], SILOS[:7])
    for silo in SILOS[1:]:
        records[silo] = []
    evil = games(records=records, weights=ALL_HOLD[8], context=FED.context(PLAN, run=b"R" * 32))
    server = play(evil, SILOS)
    assert not server.sums and server.slots == (None, None)
    assert all(
        set(session.withheld) == {"Static", "Fresh", "trunk", "quiet", "open"} for session in evil.sessions.values()
    )


def test_without_the_one_that_was_there_it_would_open(games):
    """Positive control for the test above, and for why n_min is what it is."""
    records = recorded(games, SILOS[:7], SILOS[:7])
    evil = games(records=blank(), weights=ALL_HOLD[8], context=FED.context(PLAN, run=b"R" * 32))
    server = play(evil, SILOS)
    assert set(server.sums) == {"trunk", "quiet", "open"} and any(records.values())


def changed_sets(told, **change):
    return replace(told, session=replace(told.session, **change))


def one_set_less(told):
    """A contributor is taken out of the first set."""
    quantity, silos = told.session.sets[0]
    return changed_sets(told, sets=((quantity, silos - {min(silos)}), *told.session.sets[1:]))


def by_colluders(told):
    """Another set, signed by as many names as it takes, of which one member and strangers are the liar's own."""
    forged = one_set_less(told)
    names = ["silo-8", *(f"stranger-{i}" for i in range(len(told.signatures) - 1))]
    attested = {name: Attestation(silo=name, t3=told.session.t3, sets=forged.session.digest) for name in names}
    signed = {name: one.sign(identity(name))[-64:] for name, one in attested.items()}
    return replace(forged, signatures=tuple(sorted(signed.items())))


UNPROVEN = {
    "another salt": lambda told: changed_sets(told, salt=bytes(32)),
    "another session": lambda told: changed_sets(told, t3=bytes(32)),
    "another set": one_set_less,
    "too few": lambda told: replace(told, signatures=told.signatures[1:]),
    "nobody": lambda told: replace(told, signatures=()),
    "more than it takes": lambda told: replace(told, signatures=(*told.signatures, ("silo-9", bytes(64)))),
    "a false one": lambda told: replace(told, signatures=((told.signatures[0][0], bytes(64)), *told.signatures[1:])),
    "strangers": by_colluders,
    "a name too much": lambda told: changed_sets(told, silos=(*told.session.silos, "silo-9:0")),
}


@pytest.mark.parametrize("change", UNPROVEN.values(), ids=UNPROVEN.keys())
def test_an_opening_that_is_not_proven_blames_who_tells_of_it(games, change):
    """Whatever it invents. The server, and whoever has adverts, deals and the row, comes to the same."""
    told = recorded(games)["silo-8"][0].under(FED.charter)
    assert Told.proven(bytes(told), FED.charter) == told
    evil = games(weights=ALL_HOLD[8], colluders=["silo-8"], context=FED.context(PLAN, k=1)).until("deal")
    evil.redeal("silo-8", lambda peer, pack: replace(pack, told=(bytes(change(told)),)))
    evil.contribute(silos=SILOS[:7])
    assert evil.codes() == dict.fromkeys(SILOS[:7], "BAD_SHARE")
    assert all(error.dealer == "silo-8" and "not proven" in error.detail for error in evil.refused.values())
    server = evil.honest_until_deals()
    assert {server.at_fault(silo, "silo-8", evil.refused[silo].key) for silo in SILOS[:7]} == {"silo-8"}


@pytest.mark.parametrize("garbage", [b"", b"told", bytes(200), b"\xff" * 200])
def test_told_garbage_blames_the_dealer(games, garbage):
    evil = games(colluders=["silo-8"], weights=ALL_HOLD[8]).until("deal")
    evil.redeal("silo-8", lambda peer, pack: replace(pack, told=(garbage,)))
    evil.contribute(silos=SILOS[:7])
    assert evil.codes() == dict.fromkeys(SILOS[:7], "BAD_SHARE")
    assert evil.honest_until_deals().at_fault("silo-1", "silo-8", evil.refused["silo-1"].key) == "silo-8"


def test_who_complains_of_a_proven_opening_is_to_blame(games):
    told = recorded(games)["silo-8"][0].under(FED.charter)
    evil = games(weights=ALL_HOLD[8], colluders=["silo-8"], context=FED.context(PLAN, k=1)).until("deal")
    evil.redeal("silo-8", lambda peer, pack: replace(pack, told=(bytes(told),)))
    channel = evil.sessions["silo-1"]._channels["silo-8"].reveal()
    assert evil.honest_until_deals().at_fault("silo-1", "silo-8", channel) == "silo-1"


def test_a_dealer_tells_everyone_the_same(games):
    """silo-8 tells silo-1 to silo-4 of an opening, and the others not: only one of the two fits its commitment."""
    told = recorded(games, SILOS[:7], SILOS[:7])["silo-1"][0].under(FED.charter)
    evil = games(weights=ALL_HOLD[8], colluders=["silo-8"], context=FED.context(PLAN, k=1)).until("deal")
    evil.redeal("silo-8", lambda peer, pack: replace(pack, told=(bytes(told),)) if peer in SILOS[:4] else pack)
    evil.contribute(silos=SILOS[:7])
    assert evil.codes() == dict.fromkeys(SILOS[4:7], "BAD_SHARE")
    assert all(error.dealer == "silo-8" and "committed" in error.detail for error in evil.refused.values())


def test_what_is_told_counts_although_it_cuts_the_release_of_the_teller(games):
    """A set that is true counts whoever tells it: here the one whose own release it shuts."""
    told = recorded(games, SILOS[:7], SILOS[:7])["silo-7"]
    evil = games(weights=ALL_HOLD[8], context=FED.context(PLAN, k=1), records={**blank(), "silo-7": told})
    play(evil, SILOS)
    assert all(session._known == evil.sessions["silo-1"]._known for session in evil.sessions.values())
    quantity = next(iter(evil.sessions["silo-1"]._quantities["trunk"]))
    assert evil.sessions["silo-1"]._known[quantity].sets == {ids(SILOS[:7])} == openings(told, quantity).sets


def test_a19_the_length_of_what_is_told_does_not_show_who_holds_a_hidden_lane(games):
    """A step without slots, whose lanes have hidden holdings only: rows that tell of it are as long for any holders."""
    lanes = tuple(Lane(name=name, scope=Scope.HELD, floor=3) for name in ("quiet", "still"))
    plan = Plan(
        method="test", seed=7, n_max=8, lanes=lanes,
        blocks=tuple(Block(name=f"{lane.name}.w", shape=(4,), lane=lane.name, clip=1.0) for lane in lanes),
        steps=(Step(task="train", index=0, sums=tuple(Sum(f"{lane.name}.w", Apply.AVERAGE) for lane in lanes)),),
    )  # fmt: skip
    lengths = []
    for many, few in ((3, 0), (8, 0), (5, 2)):
        records = blank()
        weights = {s: {"quiet": int(place < many), "still": int(place < few)} for place, s in enumerate(SILOS)}
        assert set(play(games(plan=plan, records=records, weights=weights), SILOS).sums) == {"quiet"}
        evil = games(plan=plan, records=records, weights=weights).until("deal")
        lengths.append(sorted(len(row) for rows in evil.rows.values() for row in rows.values()))
    assert lengths[0] == lengths[1] == lengths[2]
    silent = games(plan=plan, weights=weights).until("deal")
    assert max(len(row) for rows in silent.rows.values() for row in rows.values()) < min(lengths[0])
