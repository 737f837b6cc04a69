"""Egress under fire: arbitrary contents at the two places where things leave, and a whole federation watched by byte.

    python -m tests.jobs.flare.test_egress_fuzz [--cases N]

runs the same properties with more cases. A case either leaves as exactly what the plan or the wire format allows, or is
refused by name; nothing that was put beside it survives.
"""

from __future__ import annotations

import argparse
import base64
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.fuel.utils import fobs

from crypto import blocks
from crypto.blocks import Contribution, Encoded
from crypto.errors import EgressDenied, LayoutMismatch, Malformed, NonFinite, OutOfRange
from crypto.messages import DECLINE, PHASES, Decline, Message
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from jobs.flare import wire
from jobs.flare.filters import OnlyMessagesIn, OnlyMessagesOut
from jobs.runtime.compose import open_agent
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from silo_agent.methods import Published
from tests import local

pytestmark = pytest.mark.slow

MARK = b"Mrs Smith, born 1961"

# --- the wire ----------------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.just(MARK),
    st.just(MARK.decode()),
    st.sampled_from(
        [
            np.frombuffer(MARK, np.uint8),
            np.array([MARK], dtype=object),
            np.zeros(3, np.float64),
            np.zeros(0, "<u4"),
            np.float32(0.5),
            np.array(7, "<u4"),
            np.ma.array([1, 2], mask=[True, False], dtype="<u4"),
            np.zeros(3, [("name", "S20")]),
        ]
    ),
)
keys = st.one_of(
    st.text(max_size=8), st.integers(), st.none(), st.binary(max_size=4), st.sampled_from(sorted(wire._KEYS))
)
bags = st.recursive(
    leaves,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.dictionaries(keys, inside, max_size=4),
        st.dictionaries(keys, inside, max_size=4).map(Shareable),
        st.tuples(inside, inside),
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=40)
arrays = st.lists(st.integers(0, 6), max_size=4).map(lambda sizes: tuple(np.arange(n, dtype="<u4") for n in sizes))
ours = st.builds(Message, st.sampled_from([*PHASES, DECLINE]), bodies, arrays)


class Loud(Shareable):  # type: ignore[misc]  # NVFlare has no types
    """A Shareable that carries more than its items."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.note = MARK


class LoudBytes(bytes):
    note = MARK


class LoudText(str):
    note = MARK


class LoudArray(np.ndarray):
    note = MARK


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """One of our messages with something done to it; or anything at all."""
    shareable = wire.wrap(draw(ours))
    match draw(st.integers(0, 9)):
        case 0:
            return draw(bags)
        case 1:
            shareable[draw(keys)] = draw(bags)
        case 2:
            shareable[ReservedHeaderKey.HEADERS] = draw(bags)
        case 3:
            shareable.set_header(draw(st.text(max_size=8)), draw(bags))
        case 4:
            del shareable[draw(st.sampled_from(sorted(shareable)))]
        case 5:
            reply = make_reply(draw(st.one_of(st.sampled_from(sorted(wire._CODES)), bags)))
            if draw(st.booleans()):
                reply.set_header(draw(st.text(max_size=8)), draw(bags))
            return reply
        case 6:
            loud = Loud(shareable)
            loud["body"] = draw(st.sampled_from([bytes(loud["body"]), LoudBytes(loud["body"])]))
            loud["phase"] = draw(st.sampled_from([str(loud["phase"]), LoudText(loud["phase"])]))
            return loud
        case 7:
            shareable["arrays"] = [*shareable["arrays"], draw(bags)]
        case 8:
            big = np.arange(wire.INLINE_BYTES // 4 + draw(st.integers(-1, 2)), dtype="<u4")
            cuts = [big, big.view(LoudArray), big.astype("<f4"), big.astype(">u4"), big.reshape(1, -1), big[::-1]]
            shareable["arrays"] = [draw(st.sampled_from(cuts))]
        case _:
            ring: dict[str, Any] = {}
            ring["self"] = ring
            shareable[draw(st.sampled_from([*sorted(wire._KEYS), "more"]))] = draw(
                st.sampled_from([ring, [ring], Shareable(ring)])
            )
    return shareable


def same(left: Message, right: Message) -> bool:
    alike = len(left.arrays) == len(right.arrays) and all(map(np.array_equal, left.arrays, right.arrays))
    return alike and (left.phase, left.body) == (right.phase, right.body)


def exactly_ours(left: Any) -> Message | None:
    """The message of a Shareable that is one and holds nothing else; None for a bare code. Fails for all others."""
    assert type(left) is Shareable and not vars(left).keys() - vars(Shareable()).keys()
    headers = left[ReservedHeaderKey.HEADERS]
    if left.keys() == {ReservedHeaderKey.HEADERS}:
        assert type(headers) is dict and headers.keys() == {ReservedHeaderKey.RC}
        assert type(headers[ReservedHeaderKey.RC]) is str and headers[ReservedHeaderKey.RC] in wire._CODES
        return None
    assert left.keys() == wire._KEYS and headers == {} and type(headers) is dict
    assert {type(left["consilium"]), type(left["phase"]), type(left["body"])} == {int, str, bytes}
    assert type(left["arrays"]) is list and {type(one) for one in left["arrays"]} <= {bytes, np.ndarray}
    return wire.unwrap(left)


@given(damaged())
def test_only_our_message_or_a_bare_code_leaves(shareable: Any) -> None:
    try:
        left = OnlyMessagesOut().process(shareable, FLContext())
    except Malformed:
        return
    message = exactly_ours(left)
    if message is None:
        assert left.get_return_code() == shareable.get_return_code() != ReturnCode.OK
        return
    assert left is not shareable and same(message, wire.unwrap(shareable))
    planted = MARK in message.body or any(MARK in array.tobytes() for array in message.arrays)
    if not planted and sum(array.nbytes for array in message.arrays) <= wire.INLINE_BYTES:
        assert MARK not in fobs.dumps(left)


@given(damaged())
def test_only_our_message_reaches_an_executor(shareable: Any) -> None:
    try:
        passed = OnlyMessagesIn().process(shareable, FLContext())
    except Malformed:
        return
    message = wire.unwrap(passed)
    assert type(message.phase) is str and type(message.body) is bytes
    assert all(type(array) is np.ndarray and array.dtype == "<u4" for array in message.arrays)
    assert same(message, wire.unwrap(wire.wrap(message)))


@given(ours)
def test_our_own_messages_pass_both_ways(message: Message) -> None:
    left = OnlyMessagesOut().process(wire.wrap(message), FLContext())
    kept = exactly_ours(left)
    assert kept is not None and same(kept, message)
    assert same(wire.unwrap(OnlyMessagesIn().process(left, FLContext())), message)


# --- the encoder -------------------------------------------------------------------------------------------------

LANES = (
    Lane(name="everyone", scope=Scope.ALL, floor=3, grid=(4, 8, 16)),
    Lane(name="held", scope=Scope.HELD, floor=3),
    Lane(name="home", scope=Scope.LOCAL, floor=1),
)
BLOCKS = (
    Block(name="w", shape=(3, 2), lane="everyone", clip=2.0),
    Block(name="b", shape=(2,), lane="everyone", clip=0.5),
    Block(name="h", shape=(4,), lane="held", clip=1.0),
    Block(name="local", shape=(3, 2), lane="home", clip=1.0),
)
STEP = Step(
    task="train",
    index=0,
    sums=tuple(Sum(name, Apply.AVERAGE) for name in ("w", "b", "h")),
    slots=(Slot("rows", 1000, Basis.STATE), Slot("correct", 1000, Basis.STATE)),
)
PLAN = Plan(method="test", seed=1, n_max=5, lanes=LANES, blocks=BLOCKS, steps=(STEP,))
SHAPES = {block.name: block.shape for block in BLOCKS}

finite = st.floats(-1e300, 1e300)


@st.composite
def contributions(draw: st.DrawFn) -> tuple[Contribution, dict[str, Any], set[type[Exception]]]:
    """A contribution, weights, and what is wrong with them."""
    weights: dict[str, Any] = {"everyone": draw(st.sampled_from([0, 4, 8, 16])), "held": draw(st.sampled_from([0, 1]))}
    sums: dict[str, Any] = {
        name: np.array(draw(st.lists(finite, min_size=n, max_size=n))).reshape(SHAPES[name])
        for name, n in (("w", 6), ("b", 2), ("h", 4))
    }
    slots: dict[str, Any] = {name: draw(st.integers(0, 1000)) for name in ("rows", "correct")}
    wrong: set[type[Exception]] = set()
    carried = [name for name in sums if weights["held" if name == "h" else "everyone"]]
    for defect in draw(st.lists(st.integers(0, 10), max_size=3, unique=True)):
        match defect:
            case 0:
                sums[draw(st.sampled_from(["local", "patient", "w ", "", "everyone"]))] = np.frombuffer(MARK, np.uint8)
                wrong.add(EgressDenied)
            case 1:
                slots[draw(st.sampled_from(["age", "everyone.weight", "held.contributors", "loss"]))] = 3
                wrong.add(EgressDenied)
            case 2:
                weights[draw(st.sampled_from(["home", "nobody", "Slots"]))] = 1
                wrong.add(EgressDenied)
            case 3 if full := [name for name in carried if np.size(sums[name])]:
                name = draw(st.sampled_from(full))
                bad = np.array(sums[name], dtype=np.float64)
                bad.flat[draw(st.integers(0, bad.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
                sums[name] = bad
                wrong.add(NonFinite)
            case 4 if carried:
                name = draw(st.sampled_from(carried))
                shape = draw(st.sampled_from([(1,), (7,), (2, 3, 1), (0,), (4, 4)]))
                sums[name] = np.zeros(shape)
                wrong.add(LayoutMismatch)
            case 5 if carried:
                del sums[draw(st.sampled_from([name for name in carried if name in sums] or ["w"]))]
                wrong.add(LayoutMismatch)
                carried = [name for name in carried if name in sums]
            case 6:
                weights["everyone"] = draw(st.sampled_from([1, 5, -4, 32, 10**30, 3.5, float("nan"), "4", None]))
                wrong.add(OutOfRange)
            case 7:
                slots["rows"] = draw(st.sampled_from([-1, 1001, 1 << 64, -(1 << 70)]))
                wrong.add(OutOfRange)
            case 8:
                slots["correct"] = draw(st.sampled_from([0.5, float("nan"), None, "3", b"3", [3], np.float64(3)]))
                wrong.add(NonFinite)
            case 9:
                slots.pop("rows", None)
                wrong.add(LayoutMismatch)
            case _:
                pass
    return Contribution(sums, slots), weights, wrong


@given(contributions())
def test_what_is_encoded_is_what_the_plan_lists(
    case: tuple[Contribution, dict[str, Any], set[type[Exception]]],
) -> None:
    contribution, weights, wrong = case
    try:
        encoded = blocks.encode(PLAN, STEP, contribution, weights)
    except (EgressDenied, OutOfRange, NonFinite, LayoutMismatch) as refused:
        assert type(refused) in wrong, f"{refused} for {wrong or 'nothing'}"
        return
    assert not wrong
    assert {name: (words.dtype, words.size) for name, words in encoded.lanes.items()} == {
        "everyone": (np.dtype(np.uint32), 8),
        "held": (np.dtype(np.uint32), 4),
    }
    got = dict(zip([slot.name for slot in STEP.slots], encoded.slots.tolist(), strict=True))
    assert encoded.slots.dtype == np.uint64
    assert got == contribution.slots
    assert encoded.weights == weights
    for lane, words in encoded.lanes.items():
        assert words.any() <= bool(weights[lane]), "a lane without weight is all zeros"


@given(st.one_of(bags, st.lists(leaves, min_size=2, max_size=2)))
def test_a_value_that_is_no_array_of_numbers_is_never_encoded(value: Any) -> None:
    good = {"w": np.zeros((3, 2)), "b": np.zeros(2), "h": np.zeros(4)}
    slots = {"rows": 1, "correct": 1}
    try:
        encoded = blocks.encode(PLAN, STEP, Contribution({**good, "b": value}, slots), {"everyone": 4, "held": 0})
    except Exception:  # noqa: BLE001 - whatever it is called, nothing left
        return
    numbers = np.asarray(value, dtype=np.float64)  # it was numbers, of the right shape
    assert numbers.shape == (2,) and np.isfinite(numbers).all()
    assert MARK not in encoded.lanes["everyone"].tobytes()


def test_a_local_block_is_in_no_step() -> None:
    with pytest.raises(EgressDenied, match="local"):
        replace(PLAN, steps=(replace(STEP, sums=(*STEP.sums, Sum("local", Apply.AVERAGE))),))


# --- a whole federation, by byte ---------------------------------------------------------------------------------


class Tap(InProcess):
    """Keeps every byte that a silo sends, masked words and messages alike."""

    def __init__(self, agent: Any, kept: list[bytes]) -> None:
        super().__init__(agent)
        self.kept = kept

    def send(self, request: Message) -> Message | None:
        answer = super().send(request)
        if answer is not None:
            self.kept += [answer.phase.encode(), answer.body, *(array.tobytes() for array in answer.arrays)]
        return answer


#: A float32 pattern that no training reaches: a fingerprint of what must not leave, in every form it could take.
SECRET = np.float32(0.123456789)
ROW = np.full(7, SECRET, np.float32)
COUNT = 0x4D72732E_536D6974  # "Mrs.Smit" as a count


def forms() -> Iterator[bytes]:
    yield from (ROW[:2].tobytes(), ROW[:2].astype(">f4").tobytes(), ROW[:2].astype("<f8").tobytes())
    yield from (MARK, base64.b64encode(MARK)[:24], MARK.hex().encode())
    yield from (COUNT.to_bytes(8, "little"), COUNT.to_bytes(8, "big"), str(COUNT).encode())


Adds = Callable[[Contribution], Contribution]


class Talkative:
    """A method that hands over more than the plan lists, at one silo."""

    def __init__(self, inner: Any, adds: Adds) -> None:
        self.inner = inner
        self.adds = adds
        self.local = ROW

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def contribute(self, step: Step, published: Published, data: Any) -> Contribution:
        return self.adds(self.inner.contribute(step, published, data))


def fractions(contribution: Contribution) -> dict[str, Any]:
    return dict.fromkeys(contribution.slots, float(SECRET))


EXTRAS: dict[str, tuple[Adds, str]] = {
    "a block that is local": (lambda c: replace(c, sums={**c.sums, "local.w1": ROW}), "EGRESS_DENIED"),
    "a block of rows": (lambda c: replace(c, sums={**c.sums, "x_train": ROW}), "EGRESS_DENIED"),
    "a slot": (lambda c: replace(c, slots={**c.slots, "patient": COUNT}), "EGRESS_DENIED"),
    "a slot that holds too much": (lambda c: replace(c, slots=dict.fromkeys(c.slots, COUNT)), "OUT_OF_RANGE"),
    "a slot that is no count": (lambda c: replace(c, slots=fractions(c)), "NON_FINITE"),
}


class Unmasked(Agent):
    """As if there were no masks: what is encoded stays plain in what leaves."""

    def observe(self, step: Step, encoded: Encoded) -> Encoded:
        self.__dict__.setdefault("plain", []).extend(words.tobytes() for words in encoded.lanes.values())
        self.__dict__["plain"].append(encoded.slots.tobytes())
        return encoded


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_no_byte_of_what_the_plan_does_not_list_leaves(tmp_path: Path, extra: str | None) -> None:
    """With masks on, in what is sent; with masks off, in what was encoded; on the ledger and in its folders."""
    federation = local.federation(tmp_path / "f")
    adds, code = EXTRAS[extra] if extra else ((lambda c: c), "")
    kept: dict[str, list[bytes]] = {silo: [] for silo in federation.homes}

    def talkative(job: str, home: SiloHome) -> Agent:
        agent = open_agent(job, home)
        agent.__class__ = Unmasked
        if home.silo == "silo-3":
            agent.method = Talkative(agent.method, adds)  # type: ignore[assignment]
        return agent

    _, run, agents = local.run_job(
        local.spec(rounds=1),
        federation.aggregator,
        federation.homes,
        agent=talkative,
        courier=lambda silo, agent: Tap(agent, kept[silo]),
    )
    sent = b"".join(kept["silo-3"])
    plain = b"".join(getattr(agents["silo-3"], "plain", []))
    there = b"".join(path.read_bytes() for path in federation.aggregator.rglob("*") if path.is_file())
    assert len(sent) > 1000
    for form in forms():
        assert form not in sent and form not in plain and form not in there
    if extra:
        declines = [part for part in kept["silo-3"] if code.encode() in part]
        assert declines, "it was refused by name"
        assert Decline.open(declines[0], lambda _: agents["silo-3"].site.identity.public).code == code
        assert plain == b"", "nothing was encoded"
    else:
        assert plain, "the tap sees what is encoded, and it is not the marker"
        assert run.state


PROPERTIES = (
    test_only_our_message_or_a_bare_code_leaves,
    test_only_our_message_reaches_an_executor,
    test_our_own_messages_pass_both_ways,
    test_what_is_encoded_is_what_the_plan_lists,
    test_a_value_that_is_no_array_of_numbers_is_never_encoded,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="The egress properties with more cases.")
    parser.add_argument("--cases", type=int, default=20_000, help="cases of each property")
    cases = parser.parse_args().cases
    logging.disable()
    for law in PROPERTIES:
        more = settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )(law)
        more()
        print(f"{law.__name__}: {cases} cases", flush=True)


if __name__ == "__main__":
    main()
