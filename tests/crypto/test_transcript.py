"""HKDF by RFC 5869; labels and fields that cannot collide; the chain and T0–T3 depend on every field."""

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import transcript

# RFC 5869 Appendix A.1, A.2, A.3 (SHA-256): IKM, salt, info, L, OKM.
RFC5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    ("0b" * 22, "", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
]

FIELD = st.one_of(st.binary(max_size=6), st.integers(0, 2**64 - 1))


@pytest.mark.parametrize(("secret", "salt", "info", "want"), RFC5869)
def test_rfc_5869(monkeypatch, secret, salt, info, want):
    """``derive`` fixes its info to a label; with the label replaced by the RFC's info, the RFC's answer comes out."""
    monkeypatch.setattr(transcript, "label_bytes", lambda label, fields: bytes.fromhex(info))
    got = transcript.derive(bytes.fromhex(secret), bytes.fromhex(salt), "", size=len(want) // 2)
    assert got.hex() == want


def test_derive_is_hkdf_with_the_label_as_info():
    """HKDF written out with HMAC (RFC 5869 §2.2, §2.3)."""
    info = transcript.label_bytes("pair", ["a", "b", "lane"])
    key = hmac.digest(b"salt" * 8, b"secret", sha256)
    assert (
        transcript.derive(b"secret", b"salt" * 8, "pair", "a", "b", "lane", size=16)
        == hmac.digest(key, info + b"\x01", sha256)[:16]
    )


def test_label_bytes_layout():
    assert transcript.label_bytes("x", [b"ab", "c", 5]) == (
        b"\x00\x00\x00\x0dconsilium/2/x" + b"\x00\x00\x00\x02ab" + b"\x00\x00\x00\x01c" + (5).to_bytes(8, "big")
    )


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_no_two_lists_of_fields_collide(one, other):
    assert (transcript.label_bytes("x", one) == transcript.label_bytes("x", other)) == (one == other)


@given(st.lists(FIELD, max_size=4), st.text(min_size=1, max_size=5))
def test_labels_separate(fields, label):
    assert transcript.digest("x", *fields) != transcript.digest("x" + label, *fields)


def _all_differ(function, *args):
    """Changing any one argument changes the hash."""
    base = function(*args)
    for place, arg in enumerate(args):
        other = bytes([arg[0] ^ 1]) + arg[1:] if isinstance(arg, bytes) else arg + 1
        assert function(*args[:place], other, *args[place + 1 :]) != base
    return base


def test_t0_binds_every_field():
    h = [bytes([i]) * 32 for i in range(4)]
    _all_differ(transcript.t0, h[0], h[1], h[2], 3, 4, h[3])


def test_run_id_and_chain_bind_every_field():
    h = [bytes([i]) * 32 for i in range(3)]
    _all_differ(transcript.run_id, *h)
    _all_differ(transcript.initial_chain, *h[:2])
    released = _all_differ(lambda a, b, c: transcript.next_chain(a, b, c, released=True), *h)
    assert released != transcript.next_chain(*h, released=False)


@pytest.mark.parametrize("function", [transcript.t1, transcript.t2, transcript.t3])
def test_lists_in_transcripts_are_ordered_and_bounded(function):
    before = bytes(32)
    results = {
        function(before, messages)
        for messages in ([], [b""], [b"a"], [b"a", b"b"], [b"b", b"a"], [b"ab"], [b"", b"ab"])
    }
    assert len(results) == 7
    assert function(before, iter([b"a"])) == function(before, [b"a"])


def test_the_three_transcripts_have_labels_of_their_own():
    assert len({function(bytes(32), [b"x"]) for function in (transcript.t1, transcript.t2, transcript.t3)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        ("secreu", "salt", "l", "f"),
        ("secret", "salu", "l", "f"),
        ("secret", "salt", "m", "f"),
        ("secret", "salt", "l", "g"),
    ],
)
def test_keys_are_bound_to_secret_salt_label_and_fields(change):
    secret, salt, label, field = change
    assert transcript.derive(secret.encode(), salt.encode(), label, field) != transcript.derive(
        b"secret", b"salt", "l", "f"
    )
