"""Every message: one encoding, a signature that covers it all, and decoders that only ever refuse by name."""

import struct
import tracemalloc
from contextlib import suppress
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import messages
from crypto.approval import Approval, Denial
from crypto.encoding import VERSION, Writer
from crypto.errors import BY_CODE, BadSignature, FederationError, LayoutMismatch, Malformed
from crypto.messages import (
    PHASES,
    Advert,
    Attestation,
    Closing,
    Deal,
    Decline,
    Header,
    LaneSum,
    Message,
    Open,
    Request,
    Row,
    SharePack,
    Shares,
    StepResult,
    TagRequest,
    Tags,
    Wire,
    pack_blobs,
    pack_ranges,
    pack_two,
    pack_words,
    request_digest,
    unpack_blobs,
    unpack_ranges,
    unpack_two,
    unpack_words,
    unsigned_request,
)
from crypto.plan import Basis, Slot
from crypto.privacy_grant import PrivacyGrant
from crypto.receipt import Receipt
from tests.federation import identity, small_plan

H = [bytes([i]) * 32 for i in range(9)]
S = [bytes([i]) * 33 for i in range(1, 5)]
KEY = identity("silo-1")
TRUNK = LaneSum(
    lane="trunk", words=H[1], carries=H[2], uploaders=("silo-1", "silo-2"), weight=2**64 - 1, contributors=2**32 - 1
)
QUIET = LaneSum(lane="quiet", words=H[3], carries=H[4], uploaders=(), weight=0, contributors=0)
RESULT = StepResult(step=3, chain=H[6], t3=H[0], released=True, slots=(1, None, 0, 2**64 - 1), sums=(TRUNK, QUIET))
SAMPLES: list[Wire] = [
    Request(run=H[0], step=2**32 - 1, attempt=1, phase="deal", payload=b"payload"),
    RESULT,
    Open(
        job=H[0],
        plan=H[1],
        charter=H[2],
        code=H[0],
        nonce=H[3],
        chain=H[4],
        results=(RESULT, replace(RESULT, step=4)),
        proofs=((b"tags of one", b"of another"), ()),
    ),
    Advert(
        silo="silo-1",
        t0=H[0],
        channels=(H[1], H[8]),
        mask=H[2],
        commitments=(("Static", H[3]), ("trunk", H[4])),
        held=("open",),
        releases=9,
        data=H[5],
        approval=H[0],
        nonce=b"n" * 16,
    ),
    Deal(silo="silo-1", t1=H[0], manifest=H[3], rows=(H[1], H[2])),
    Header(silo="silo-1", t2=H[0], lanes=(("Static", H[1]), ("trunk", H[2]))),
    Attestation(silo="silo-1", t3=H[0], sets=H[1]),
    Shares(
        silo="silo-1",
        t3=H[0],
        masks=(("silo-2", S[0]),),
        seeds=(("silo-1", "Fresh", S[1]), ("silo-3", "Fresh", S[2])),
        counts=(("trunk", 2**64 - 1, 2**32 - 1), ("quiet", 3, 3)),
    ),
    Tags(silo="silo-1", t3=H[0], owner="silo-2", result=H[1], tags=(bytes(80), b"t" * 80)),
    Decline(
        silo="silo-1",
        request=H[7],
        run=H[0],
        step=1,
        attempt=2,
        phase="deal",
        code="BAD_SHARE",
        blame="silo-2",
        key=H[8],
    ),
    Closing(silo="silo-1", run=H[0], chain=H[1], ledger=H[2]),
]
DECLINE = SAMPLES[9]
PARTS = [
    Row(b"sealed", (H[0], H[1])),
    SharePack(S[0], (S[1], S[2]), (0, 4, 255), (b"told", b""), H[1]),
    TagRequest(RESULT, ((H[5], H[6]), ())),
]
LISTS = [
    (pack_blobs([b"a", b"", b"bc"]), unpack_blobs),
    (pack_two([b"a", b"b"], [("silo-1", b"x"), ("silo-2", b"")]), unpack_two),
    (pack_ranges([("trunk", 0, 2**64 - 1), ("quiet", 3, 4)]), unpack_ranges),
]
#: (valid bytes, decoder, what encodes again)
DECODERS = (
    [(bytes(sample), type(sample).from_bytes, bytes) for sample in SAMPLES + PARTS]
    + [(LISTS[0][0], unpack_blobs, pack_blobs)]
    + [(LISTS[1][0], unpack_two, lambda value: pack_two(*value))]
    + [(LISTS[2][0], unpack_ranges, lambda value: pack_ranges(list(value)))]
)
NAMES = [type(sample).__name__ for sample in SAMPLES + PARTS] + ["blobs", "two", "ranges"]


def signed_by(_):
    return KEY.public


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_round_trip(sample):
    assert type(sample).from_bytes(bytes(sample)) == sample
    signed = sample.sign(KEY)
    assert type(sample).open(signed, signed_by) == sample
    assert bytes(sample)[:2] == bytes([VERSION, sample.KIND])


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_parts_round_trip(part):
    assert type(part).from_bytes(bytes(part)) == part


def test_lists_round_trip():
    assert unpack_blobs(LISTS[0][0]) == (b"a", b"", b"bc")
    assert unpack_two(LISTS[1][0]) == ((b"a", b"b"), (("silo-1", b"x"), ("silo-2", b"")))
    assert unpack_ranges(LISTS[2][0]) == (("trunk", 0, 2**64 - 1), ("quiet", 3, 4))


def test_kinds_and_labels_are_distinct():
    kinds = [type(sample) for sample in SAMPLES]
    here = {kind.__name__ for kind in Wire.__subclasses__() if kind.__module__ == Wire.__module__}
    assert here == {kind.__name__ for kind in kinds}
    kinds += [Approval, Denial, PrivacyGrant, Receipt]
    assert {kind.__name__ for kind in Wire.__subclasses__()} == {kind.__name__ for kind in kinds}
    assert len({kind.KIND for kind in kinds}) == len({kind.LABEL for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_field_is_in_the_bytes(sample):
    """Changing one field changes the bytes."""
    whole = sample
    for field in fields(sample):
        # A step's result may be void only without slots and sums.
        sample = replace(whole, slots=(), sums=()) if field.name == "released" else whole
        if field.name in ("results", "proofs"):  # one proof for each result: here the other one
            changed = replace(sample, **{field.name: getattr(sample, field.name)[::-1]})
            assert bytes(changed) != bytes(sample) and type(sample).from_bytes(bytes(changed)) == changed
            continue
        value = getattr(sample, field.name)
        if isinstance(value, bool):
            other = not value
        elif isinstance(value, int):
            other = value - 1
        elif isinstance(value, bytes):
            other = bytes([value[0] ^ 1]) + value[1:]
        elif isinstance(value, str):
            other = {"phase": "fetch", "code": "REPLAY"}.get(field.name, value + "x")
        else:
            other = value[1:]
        changed = replace(sample, **{field.name: other})
        assert bytes(changed) != bytes(sample), field.name
        assert type(sample).from_bytes(bytes(changed)) == changed


@pytest.mark.parametrize(("data", "decode", "encode"), DECODERS, ids=NAMES)
def test_every_truncation_is_malformed(data, decode, encode):
    for end in range(len(data)):
        with pytest.raises(Malformed):
            decode(data[:end])


@pytest.mark.parametrize(("data", "decode", "encode"), DECODERS, ids=NAMES)
def test_every_extension_is_malformed(data, decode, encode):
    for tail in (b"\x00", b"\x01", b"\xff" * 5):
        with pytest.raises(Malformed):
            decode(data + tail)


@pytest.mark.parametrize(("data", "decode", "encode"), DECODERS, ids=NAMES)
def test_every_flipped_bit_is_refused_or_another_value(data, decode, encode):
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            value = decode(bytes(flipped))
        except Malformed:
            continue
        assert encode(value) == bytes(flipped) != data


@pytest.mark.parametrize(("data", "decode", "encode"), DECODERS, ids=NAMES)
@given(noise=st.binary(max_size=300), cut=st.integers(0, 400), kind=st.integers(0, 15))
@settings(max_examples=40)
def test_noise_is_malformed_or_canonical(data, decode, encode, noise, cut, kind):
    for candidate in (
        noise,
        bytes([VERSION, kind]) + noise,
        data[:cut] + noise,
        data[: cut % len(data)] + noise + data[cut % len(data) :],
    ):
        try:
            value = decode(candidate)
        except Malformed:
            continue
        assert encode(value) == candidate


@pytest.mark.parametrize(("data", "decode", "encode"), DECODERS, ids=NAMES)
def test_length_fields_allocate_nothing(data, decode, encode):
    """Every aligned or unaligned four bytes replaced by 2^32 − 1 and by 2^31: refused, in little memory."""
    tracemalloc.start()
    for at in range(2, len(data) - 3):
        for huge in (b"\xff" * 4, b"\x80\x00\x00\x00", b"\x00\xff\xff\xff"):
            with suppress(Malformed):
                decode(data[:at] + huge + data[at + 4 :])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_signed_message_with_a_changed_byte_does_not_open(sample):
    signed = sample.sign(KEY)
    for at in range(len(signed)):
        for flip in (1, 0x80):
            changed = bytearray(signed)
            changed[at] ^= flip
            with pytest.raises((Malformed, BadSignature)):
                type(sample).open(bytes(changed), signed_by)
    for end in range(len(signed)):
        with pytest.raises(Malformed):
            type(sample).open(signed[:end], signed_by)
    with pytest.raises(Malformed):
        type(sample).open(signed + b"\x00", signed_by)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_signature_is_for_one_key_and_one_kind(sample):
    with pytest.raises(BadSignature):
        type(sample).open(sample.sign(identity("silo-2")), signed_by)
    for other in SAMPLES:
        if other is not sample:
            with pytest.raises(Malformed):
                type(other).open(sample.sign(KEY), signed_by)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_signature_for_another_label_does_not_verify(sample, monkeypatch):
    monkeypatch.setattr(type(sample), "LABEL", "other")
    signed = sample.sign(KEY)
    monkeypatch.undo()
    with pytest.raises(BadSignature):
        type(sample).open(signed, signed_by)


@given(st.binary(max_size=200))
def test_noise_never_opens(noise):
    for sample in SAMPLES:
        with pytest.raises(FederationError):
            type(sample).open(noise, signed_by)


@pytest.mark.parametrize("phase", ["", "Open", "unmask", "open\n"])
def test_a_request_is_for_a_phase(phase):
    with pytest.raises(Malformed, match="not a phase"):
        Request.from_bytes(bytes(replace(SAMPLES[0], phase=phase)))


def test_every_phase_may_be_asked():
    for phase in PHASES:
        assert Request.from_bytes(bytes(replace(SAMPLES[0], phase=phase))).phase == phase


@pytest.mark.parametrize("code", ["", "bad_share", "FEDERATION", "ROUND_LOST ", "anything"])
def test_a_refusal_is_a_code_of_the_closed_set(code):
    with pytest.raises(Malformed, match="unknown code or phase"):
        Decline.from_bytes(bytes(replace(DECLINE, code=code)))


def test_every_code_may_be_named():
    for code in BY_CODE:
        assert Decline.from_bytes(bytes(replace(DECLINE, code=code))).code == code


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "patient 17 has a bad hash"},
        {"blame": "patient 17 has a bad hash"},
        {"blame": "x" * 100_000},
        {"silo": "patient 17 has a bad hash"},
    ],
)
def test_a_refusal_carries_no_text(change):
    with pytest.raises(Malformed):
        Decline.from_bytes(bytes(replace(DECLINE, **change)))


@pytest.mark.parametrize("change", [{"key": H[8][1:]}, {"key": H[8] + b"x"}, {"key": b"k"}, {"blame": ""}])
def test_a_refusal_shows_a_key_only_with_a_blame(change):
    with pytest.raises(Malformed, match="key"):
        Decline.from_bytes(bytes(replace(DECLINE, **change)))
    assert Decline.from_bytes(bytes(replace(DECLINE, blame="", key=b""))).key == b""


@pytest.mark.parametrize("flag", [2, 255])
def test_released_is_a_flag(flag):
    data = bytearray(bytes(RESULT))
    data[2 + 4 + 32 + 32] = flag
    with pytest.raises(Malformed, match="flag"):
        StepResult.from_bytes(bytes(data))


def test_a_void_step_has_neither_slots_nor_sums():
    with pytest.raises(Malformed):
        StepResult.from_bytes(bytes(replace(RESULT, released=False)))


def test_a_result_names_each_lane_once():
    with pytest.raises(Malformed):
        StepResult.from_bytes(bytes(replace(RESULT, sums=(TRUNK, replace(QUIET, lane="trunk")))))


@pytest.mark.parametrize("proofs", [(), ((),), ((), (), ())])
def test_an_offer_has_one_proof_for_each_result(proofs):
    with pytest.raises(Malformed, match="proofs"):
        Open.from_bytes(bytes(replace(SAMPLES[2], proofs=proofs)))


@pytest.mark.parametrize("seeds", [(), ((),), ((), (), ())])
def test_a_tag_request_has_seeds_for_each_lane(seeds):
    with pytest.raises(Malformed, match="Seeds"):
        TagRequest.from_bytes(bytes(TagRequest(RESULT, seeds)))


@pytest.mark.parametrize("field", [field.name for field in fields(LaneSum)])
def test_every_field_of_a_lane_is_in_the_results_digest(field):
    value = getattr(TRUNK, field)
    other = value - 1 if isinstance(value, int) else value[1:] + (b"x" if isinstance(value, bytes) else value[:0])
    changed = replace(RESULT, sums=(replace(TRUNK, **{field: other}), QUIET))
    assert changed.digest != RESULT.digest and StepResult.from_bytes(bytes(changed)) == changed


def test_what_opened_beside_the_words_has_names():
    step = small_plan(slots=tuple(Slot(name, 9, Basis.DATA) for name in ("rows", "shut", "none", "most"))).steps[0]
    assert RESULT.weights == {"trunk": 2**64 - 1, "quiet": 0}
    assert RESULT.figures(step) == {
        "rows": 1, "none": 0, "most": 2**64 - 1, "trunk.weight": 2**64 - 1, "trunk.contributors": 2**32 - 1,
        "quiet.weight": 0, "quiet.contributors": 0,
    }  # fmt: skip


def test_a_slot_that_stayed_shut_is_not_a_zero():
    shut, zero = (replace(RESULT, slots=(1, value, 0, 2**64 - 1)) for value in (None, 0))
    assert shut.digest != zero.digest and StepResult.from_bytes(bytes(shut)) == shut


@pytest.mark.parametrize("value", [1, 2**64 - 1])
def test_a_slot_that_stayed_shut_has_no_value(value):
    good = struct.pack(">BQ", 1, value) + struct.pack(">BQ", 0, 0)
    bad = struct.pack(">BQ", 0, value) + struct.pack(">BQ", 0, 0)
    data = bytes(replace(RESULT, slots=(value, None)))
    assert data.count(good) == 1
    with pytest.raises(Malformed, match="stayed shut"):
        StepResult.from_bytes(data.replace(good, bad))


def test_a_refusal_names_the_request_that_it_refuses():
    signed = SAMPLES[0].sign(KEY)
    assert unsigned_request(signed) == SAMPLES[0] and unsigned_request(signed[:-64] + bytes(64)) == SAMPLES[0]
    assert unsigned_request(b"") is None and unsigned_request(signed[:40]) is None
    assert len({request_digest(signed), request_digest(signed + b"x"), request_digest(b"")}) == 3


NAMES_OF = st.text(max_size=8)
HASHES = st.binary(min_size=32, max_size=32)
LANE_SUMS = st.builds(
    LaneSum,
    lane=NAMES_OF,
    words=HASHES,
    carries=HASHES,
    uploaders=st.lists(NAMES_OF, max_size=3).map(tuple),
    weight=st.integers(0, 2**64 - 1),
    contributors=st.integers(0, 2**32 - 1),
)
RESULTS = st.builds(
    StepResult,
    step=st.integers(0, 2**32 - 1),
    chain=HASHES,
    t3=HASHES,
    released=st.just(True),
    slots=st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=3).map(tuple),
    sums=st.lists(LANE_SUMS, max_size=3, unique_by=lambda one: one.lane).map(tuple),
)


@given(RESULTS, st.data())
def test_results_and_tags_round_trip(result, data):
    assert StepResult.from_bytes(bytes(result)) == result
    seeds = tuple(data.draw(st.lists(HASHES, max_size=3).map(tuple)) for _ in result.sums)
    request = TagRequest(result, seeds)
    assert TagRequest.from_bytes(bytes(request)) == request
    tags = data.draw(st.lists(st.binary(min_size=80, max_size=80), max_size=3).map(tuple))
    signed = Tags(silo=data.draw(NAMES_OF), t3=result.t3, owner=data.draw(NAMES_OF), result=result.digest, tags=tags)
    assert Tags.from_bytes(bytes(signed)) == signed


def test_digests_of_parts_and_results_differ():
    assert RESULT.digest != replace(RESULT, slots=(1, 2)).digest
    assert Row(b"sealed", (H[0],)).digest != Row(b"sealed", (H[1],)).digest != Row(b"sealed!", (H[1],)).digest


def test_a_share_pack_shows_nothing():
    secret = bytes(range(33))
    assert repr(secret)[2:20] not in repr(SharePack(secret, (), (), (), bytes(32)))


def test_wire_is_abstract():
    with pytest.raises(NotImplementedError):
        Wire().write(Writer())
    with pytest.raises(NotImplementedError):
        Wire.read(messages.Reader(b""))


@given(sizes=st.lists(st.integers(1, 13), max_size=4), room=st.integers(1, 7))
def test_words_are_packed_into_as_few_arrays_as_carry_them(sizes, room):
    words = np.arange(sum(sizes), dtype=np.uint32)
    vectors = np.split(words, np.cumsum(sizes)[:-1]) if sizes else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crypto.messages.ARRAY_WORDS", room)
        arrays = pack_words(vectors)
    assert len(arrays) == -(-words.size // room)
    Message("open", b"", arrays).check()
    assert (np.concatenate([*arrays, words[:0]]) == words).all()
    again = unpack_words(arrays, sizes)
    assert [part.tolist() for part in again] == [part.tolist() for part in vectors]
    for wrong in ([*sizes, 1], [size - 1 for size in sizes[:1]] + sizes[1:]):
        if sum(wrong) != words.size:
            with pytest.raises(LayoutMismatch):
                unpack_words(arrays, wrong)


WORDS = np.arange(3, dtype="<u4")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"phase": "opens"}, "phase"),
        ({"phase": 1}, "phase"),
        ({"phase": ["open"]}, "phase"),
        ({"body": "body"}, "body"),
        ({"body": bytearray(b"body")}, "body"),
        ({"body": bytes(messages.BODY_BYTES + 1)}, "body"),
        ({"arrays": (WORDS,) * (messages.MESSAGE_ARRAYS + 1)}, "arrays"),
        ({"arrays": (WORDS, WORDS.tolist())}, "Array 1 is a list"),
        ({"arrays": (WORDS.astype(np.int32),)}, "uint32"),
        ({"arrays": (WORDS.astype(">u4"),)}, "uint32"),
        ({"arrays": (WORDS.reshape(3, 1),)}, "flat"),
        ({"arrays": (np.arange(6, dtype="<u4")[::2],)}, "contiguous"),
        ({"arrays": (np.zeros(messages.ARRAY_WORDS + 1, dtype="<u4"),)}, "words, more than"),
    ],
)
def test_what_no_courier_carries_is_malformed(change, what):
    whole = Message("open", b"body", (WORDS,))
    whole.check()
    Message("decline", bytes(messages.BODY_BYTES), (WORDS,) * messages.MESSAGE_ARRAYS).check()
    with pytest.raises(Malformed, match=what):
        replace(whole, **change).check()


def test_packed_maps_of_files_are_arrays(tmp_path):
    (tmp_path / "w").write_bytes(np.arange(3, dtype="<u4").tobytes())
    (array,) = pack_words([np.memmap(tmp_path / "w", dtype="<u4", mode="r")])
    assert type(array) is np.ndarray and array.tolist() == [0, 1, 2]
