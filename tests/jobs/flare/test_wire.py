"""What crosses NVFlare's task channel: our messages, whole and alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.fuel.utils import fobs

from crypto.errors import Malformed
from crypto.messages import ARRAY_WORDS, BODY_BYTES, DECLINE, MESSAGE_ARRAYS, PHASES, Message
from jobs.flare import wire
from jobs.flare.filters import OnlyMessagesIn, OnlyMessagesOut

SMALL = Message("contribute", b"body", (np.arange(5, dtype="<u4"), np.zeros(0, "<u4")))
LARGE = Message("fetch", b"", (np.arange(300_000, dtype="<u4"),))


def same(left: Message, right: Message) -> bool:
    arrays = len(left.arrays) == len(right.arrays) and all(map(np.array_equal, left.arrays, right.arrays))
    return (left.phase, left.body) == (right.phase, right.body) and arrays


@pytest.mark.parametrize("phase", [*PHASES, DECLINE])
def test_every_phase_survives_the_round_trip(phase: str) -> None:
    assert same(wire.unwrap(wire.wrap(Message(phase, b"\x00\xff"))), Message(phase, b"\x00\xff"))


@pytest.mark.parametrize("message", [SMALL, LARGE])
def test_arrays_survive_the_round_trip(message: Message) -> None:
    back = wire.unwrap(wire.wrap(message))
    assert same(back, message)
    assert all(array.dtype == np.dtype("<u4") for array in back.arrays)


def test_small_messages_survive_nvflares_own_encoding() -> None:
    assert same(wire.unwrap(fobs.loads(fobs.dumps(wire.wrap(SMALL)))), SMALL)


def test_small_arrays_travel_inside_and_large_ones_are_fetched() -> None:
    assert all(type(one) is bytes for one in wire.wrap(SMALL)["arrays"])
    assert all(type(one) is np.ndarray for one in wire.wrap(LARGE)["arrays"])


def test_what_nvflare_puts_into_headers_is_its_own() -> None:
    shareable = wire.wrap(SMALL)
    shareable.set_header("cookie", {"any": "thing"})
    assert same(wire.unwrap(shareable), SMALL)


BAD: list[tuple[str, Any]] = [
    ("consilium", 2),
    ("consilium", True),
    ("phase", "train"),
    ("phase", b"open"),
    ("phase", ""),
    ("body", "text"),
    ("body", bytearray(b"x")),
    ("body", bytes(BODY_BYTES + 1)),
    ("arrays", ()),
    ("arrays", None),
    ("arrays", [b"123"]),
    ("arrays", [b"1234", np.zeros(1, "<u4")]),
    ("arrays", [b""] * (MESSAGE_ARRAYS + 1)),
    ("arrays", [np.zeros(4, "<u4")]),  # small, so it must travel inside
    ("arrays", [bytes(wire.INLINE_BYTES + 4)]),  # large, so it must not
    ("arrays", [np.zeros(300_000, "<u8")]),
    ("arrays", [np.zeros(300_000, ">u4")]),
    ("arrays", [np.zeros((600, 500), "<u4")]),
    ("arrays", [np.zeros(600_000, "<u4")[::2]]),
    ("arrays", [np.zeros(300_000, "<u4").tolist()]),
    ("arrays", [np.ma.zeros(300_000, "<u4")]),
    ("arrays", [np.zeros(ARRAY_WORDS + 1, "<u4")]),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}-{number}" for number, (key, _) in enumerate(BAD)])
def test_a_wrong_field_is_malformed(key: str, value: Any) -> None:
    shareable = wire.wrap(SMALL)
    shareable[key] = value
    with pytest.raises(Malformed):
        wire.unwrap(shareable)


def test_missing_and_unknown_keys_are_malformed() -> None:
    for key in ("consilium", "phase", "body", "arrays"):
        shareable = wire.wrap(SMALL)
        del shareable[key]
        with pytest.raises(Malformed):
            wire.unwrap(shareable)
    shareable = wire.wrap(SMALL)
    shareable["metrics"] = {"accuracy": 0.9}
    with pytest.raises(Malformed, match="metrics"):
        wire.unwrap(shareable)


@pytest.mark.parametrize("value", [None, [], "text", 7])
def test_what_is_no_shareable_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        wire.unwrap(value)


def test_we_do_not_send_what_a_peer_would_refuse() -> None:
    many = (np.zeros(1, "<u4"),) * (MESSAGE_ARRAYS + 1)
    for message in (
        Message("train", b""),
        Message("open", b"", (np.zeros(1, np.float32),)),
        Message("open", b"", many),
        Message("open", "x"),  # type: ignore[arg-type]
    ):
        with pytest.raises(Malformed):
            wire.wrap(message)


# --- the forced filters ------------------------------------------------------------------------------------------


def test_the_filter_passes_our_messages_and_rebuilds_them() -> None:
    shareable = wire.wrap(SMALL)
    shareable.set_header("stowaway", [1.0, 2.0])
    out = OnlyMessagesOut().process(shareable, FLContext())
    assert same(wire.unwrap(out), SMALL)
    assert out.get_header("stowaway") is None


def test_the_filter_keeps_the_headers_of_a_task() -> None:
    shareable = wire.wrap(SMALL)
    shareable.add_cookie("workflow", "consilium")
    assert OnlyMessagesIn().process(shareable, FLContext()) is shareable


def test_a_bare_return_code_may_leave_and_nothing_beside_it() -> None:
    refusal = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    assert OnlyMessagesOut().process(refusal, FLContext()).get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    for strange in (
        make_reply("accuracy=0.93"),
        make_reply(ReturnCode.OK),
        make_reply(ReturnCode.EXECUTION_EXCEPTION, headers={"note": "accuracy=0.93"}),
    ):
        with pytest.raises(Malformed):
            OnlyMessagesOut().process(strange, FLContext())


@pytest.mark.parametrize("direction", [OnlyMessagesIn, OnlyMessagesOut])
def test_a_model_does_not_pass(direction: type[OnlyMessagesIn | OnlyMessagesOut]) -> None:
    with pytest.raises(Malformed):
        direction().process(Shareable({"DXO": {"weights": np.zeros(3)}}), FLContext())
