"""Canonical bytes: what a Writer makes a Reader reads; anything else is Malformed."""

import math
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding import Reader, Writer
from crypto.errors import Malformed

FIELDS = {
    "u8": st.integers(0, 2**8 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "u64": st.integers(0, 2**64 - 1),
    "f64": st.floats(allow_nan=False),
    "blob": st.binary(max_size=40),
    "text": st.text(max_size=20),
}
ROWS = st.lists(st.one_of([st.tuples(st.just(kind), values) for kind, values in FIELDS.items()]), max_size=8)


def written(rows: list[tuple[str, object]]) -> bytes:
    out = Writer()
    for kind, value in rows:
        getattr(out, kind)(value)
    return bytes(out)


def read(data: bytes, kinds: list[str]) -> list[object]:
    src = Reader(data)
    values = [getattr(src, kind)() for kind in kinds]
    src.end()
    return values


def test_a_flag_is_zero_or_one():
    assert [Reader(bytes([value])).flag() for value in (0, 1)] == [False, True]
    for value in range(2, 256):
        with pytest.raises(Malformed, match=rf"A flag byte is {value}\."):
            Reader(bytes([value])).flag()


@given(ROWS)
def test_what_is_written_is_read(rows):
    assert read(written(rows), [kind for kind, _ in rows]) == [value for _, value in rows]


@given(ROWS, st.integers(0, 200))
def test_a_shorter_message_is_malformed(rows, cut):
    data = written(rows)
    if data:
        with pytest.raises(Malformed):
            read(data[: cut % len(data)], [kind for kind, _ in rows])


@given(ROWS, st.binary(min_size=1, max_size=5))
def test_a_longer_message_is_malformed(rows, tail):
    with pytest.raises(Malformed):
        read(written(rows) + tail, [kind for kind, _ in rows])


@given(ROWS, st.lists(st.sampled_from(sorted(FIELDS)), max_size=8), st.binary(max_size=60))
def test_what_is_read_was_written_so(rows, kinds, noise):
    """Any bytes either decode to values that encode to the same bytes, or are Malformed."""
    for data in (written(rows), noise):
        try:
            values = read(data, kinds)
        except Malformed:
            continue
        if not any(isinstance(value, float) and math.isnan(value) for value in values):
            assert written(list(zip(kinds, values, strict=True))) == data


def test_layout_is_big_endian_with_u32_lengths():
    assert bytes(Writer().u8(1).u32(2).u64(3)) == bytes.fromhex("01 00000002 0000000000000003")
    assert bytes(Writer().f64(1.0)) == bytes.fromhex("3ff0000000000000")
    assert bytes(Writer().blob(b"ab").text("é")) == bytes.fromhex("00000002 6162 00000002 c3a9")
    assert bytes(Writer().each([1, 2], Writer.u8)) == bytes.fromhex("00000002 01 02")
    assert bytes(Writer().fixed(b"ab", 2)) == b"ab"


def test_fixed_field_of_another_size_is_a_programming_error():
    with pytest.raises(ValueError, match="2 bytes got 3"):
        Writer().fixed(b"abc", 2)


def test_text_that_is_not_utf8_is_malformed():
    with pytest.raises(Malformed):
        Reader(bytes(Writer().blob(b"\xff\xfe"))).text()


@pytest.mark.parametrize("field", ["blob", "text"])
def test_a_length_field_is_not_believed(field):
    with pytest.raises(Malformed):
        getattr(Reader(struct.pack(">I", 2**32 - 1) + b"x"), field)()


@pytest.mark.parametrize("item", [Reader.u8, Reader.u64, Reader.blob, Reader.text])
def test_a_count_field_allocates_nothing(item):
    data = struct.pack(">I", 2**32 - 1) + bytes(64)
    tracemalloc.start()
    with pytest.raises(Malformed):
        Reader(data).each(item)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000


def test_a_count_field_is_not_believed_even_for_items_of_no_bytes():
    with pytest.raises(Malformed, match="announces"):
        Reader(bytes(Writer().u32(9)) + bytes(8)).each(lambda src: None)


def test_a_list_shorter_than_it_says_is_malformed():
    with pytest.raises(Malformed):
        Reader(bytes(Writer().u32(3)) + bytes(8)).each(Reader.u32)


def test_a_reader_keeps_its_own_copy():
    data = bytearray(b"\x05")
    src = Reader(data)
    data[0] = 9
    assert src.u8() == 5
