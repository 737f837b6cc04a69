"""Known answers of RFC 8032 and RFC 7748 through our wrappers; secrets show nowhere."""

import copy
import pickle

import pytest

from crypto.errors import BadSignature, Malformed, SpecError
from crypto.keys import Identity, PublicIdentity, SessionKey

# RFC 8032 §7.1, TEST 1, 2, 3: secret key, public key, message, signature.
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# RFC 7748 §6.1, Curve25519: Alice's and Bob's private and public keys, and their shared secret K.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

# RFC 7748 §5.2, X25519: input scalar, input u-coordinate, output u-coordinate.
RFC7748 = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]

#: u-coordinates of low order on Curve25519 and its twist (RFC 7748 §6.1 asks for the all-zero check they trigger).
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]

#: y-coordinates of the eight points of small order on edwards25519, in every encoding that fits 255 bits: y and y + p.
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC8032)
def test_rfc_8032(secret, public, message, signature):
    key = Identity(bytes.fromhex(secret))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    key.public.verify(bytes.fromhex(signature), bytes.fromhex(message))


@pytest.mark.parametrize(("scalar", "point", "want"), RFC7748)
def test_rfc_7748_scalar_multiplication(scalar, point, want):
    assert SessionKey(bytes.fromhex(scalar)).agree(bytes.fromhex(point)).hex() == want


def test_rfc_7748_agreement():
    alice, bob = SessionKey(ALICE), SessionKey(BOB)
    assert (alice.public, bob.public) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice.agree(BOB_PUBLIC) == bob.agree(ALICE_PUBLIC) == SHARED


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_a_key_of_low_order_is_malformed(point):
    with pytest.raises(Malformed):
        SessionKey(ALICE).agree(point)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_malformed(size):
    with pytest.raises(Malformed):
        SessionKey(ALICE).agree(bytes(size))
    with pytest.raises(Malformed):
        PublicIdentity((b"\x07" * 33)[:size])
    with pytest.raises(Malformed):
        Identity(bytes(size))


def test_every_flipped_bit_of_a_signature_is_refused():
    key = Identity(ALICE)
    signature = key.sign(b"message")
    for bit in range(8 * len(signature)):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSignature):
            key.public.verify(bytes(flipped), b"message")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_a_bad_signature_is_refused_whatever_its_length(signature):
    with pytest.raises(BadSignature):
        Identity(ALICE).public.verify(signature, b"message")


def test_another_key_or_message_does_not_verify():
    signature = Identity(ALICE).sign(b"message")
    with pytest.raises(BadSignature):
        Identity(BOB).public.verify(signature, b"message")
    with pytest.raises(BadSignature):
        Identity(ALICE).public.verify(signature, b"messagf")


@pytest.mark.parametrize("raw", [b"\xff" * 32, b"\x02" + bytes(31)])
def test_bytes_that_are_no_point_verify_nothing(raw):
    with pytest.raises(BadSignature):
        PublicIdentity(raw).verify(b"\x01" + bytes(63), b"message")


@pytest.mark.parametrize("top", [0, 0x80])
@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_a_public_key_of_small_order_is_refused(point, top):
    """Under the neutral element the signature (neutral, 0) verifies for any message; under its fellows for some."""
    with pytest.raises(Malformed, match="small order"):
        PublicIdentity(point[:31] + bytes([point[31] | top]))


def test_keys_of_full_order_are_not_taken_for_small():
    for seed in range(32):
        assert Identity(bytes([seed]) * 32).public.raw


def test_public_identities_compare_by_value():
    one = Identity(ALICE).public
    assert one == PublicIdentity(one.raw) and hash(one) == hash(PublicIdentity(one.raw))
    assert one != Identity(BOB).public and one != one.raw


def test_the_fingerprint_is_for_the_telephone():
    fingerprint = Identity(ALICE).public.fingerprint
    assert len(fingerprint.split(" ")) == 8
    assert all(len(group) == 4 for group in fingerprint.split(" "))
    assert repr(Identity(ALICE).public).startswith("PublicIdentity(")


@pytest.mark.parametrize("kind", [Identity, SessionKey])
def test_a_secret_is_never_shown_copied_or_pickled(kind):
    secret = kind(BOB)
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r}", "".join([str(secret)])):
        assert shown == f"<{kind.__name__}: secret>"
        assert BOB.hex()[:8] not in shown
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError, match="secret"):
        copy.copy(secret)
    with pytest.raises(TypeError, match="secret"):
        copy.deepcopy([secret])
    assert not hasattr(secret, "__dict__")
    assert not any(getattr(secret, name) == BOB for name in secret.__slots__)


def test_an_identity_is_kept_with_mode_0600(tmp_path):
    path = tmp_path / "agent.key"
    key = Identity.generate()
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load(path).public == key.public
    assert Identity.generate().public != key.public


def test_a_key_file_is_never_overwritten(tmp_path):
    path = tmp_path / "agent.key"
    Identity.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "agent.key"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(SpecError, match="600"):
        Identity.load(path)


def test_a_missing_or_short_key_file_is_refused_by_name(tmp_path):
    with pytest.raises(SpecError, match="no file"):
        Identity.load(tmp_path / "none.key")
    short = tmp_path / "short.key"
    short.write_bytes(b"x" * 31)
    short.chmod(0o600)
    with pytest.raises(Malformed):
        Identity.load(short)
