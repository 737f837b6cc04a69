"""Long-lived Ed25519 identities and one-session X25519 keys.

An identity signs; it is never the TLS key and never leaves its silo. A session key agrees; it is made from a 32-byte
seed (so the seed can be shared by Shamir) and lives as long as its session. Neither has a repr or a state that could
land in a log, a pickle or an environment dump.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NoReturn
from unicodedata import normalize

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from crypto import durable
from crypto.errors import BadSignature, KeyLocked, Malformed, SpecError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
#: Fewest and most bytes of a passphrase.
LEAST_PASSPHRASE, MOST_PASSPHRASE = 12, 1024

#: A locked key: this line, the public key in hex and a newline, a salt, and the seed under AES-256-GCM. The cipher's
#: key is scrypt's of passphrase and salt, used for this one message; everything before the seed is authenticated.
_LOCKED = b"consilium/1/locked-key\n"
_HEAD = len(_LOCKED) + 2 * KEY_BYTES + 1
_SALT_BYTES = 16
#: Cost of one try: 64 MiB and a few tenths of a second.
_SCRYPT = {"n": 1 << 16, "r": 8, "p": 1}
_NONCE = bytes(12)
#: Bytes of a key file that are read.
_BIGGEST = 1 << 12


class PublicIdentity:
    """An Ed25519 public key (RFC 8032)."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise Malformed(f"An Ed25519 public key has {KEY_BYTES} bytes, not {len(raw)}.")
        if _is_small_order(raw):
            raise Malformed("An Ed25519 public key of small order: anyone could sign for it.")
        self.raw = bytes(raw)
        self._key = Ed25519PublicKey.from_public_bytes(self.raw)

    @property
    def fingerprint(self) -> str:
        """First 16 bytes of SHA-256 in groups of four hex digits, for people to compare over the telephone."""
        digits = sha256(self.raw).hexdigest()[:32]
        return " ".join(digits[at : at + 4] for at in range(0, 32, 4))

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return nothing, or raise BadSignature."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature as bad:
            raise BadSignature("A signature does not verify.") from bad

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicIdentity) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"PublicIdentity({self.fingerprint[:9]}…)"


class Secret:
    """No repr, no pickling, no copying."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and is never serialised")


class Identity(Secret):
    """An Ed25519 private key."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise Malformed(f"An Ed25519 seed has {KEY_BYTES} bytes, not {len(seed)}.")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicIdentity(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Identity:
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> Identity:
        """Read a 32-byte seed, or a locked key with its passphrase; refuse a file that others may read.

        Raises KeyLocked for a locked key without its passphrase, or with another one."""
        raw = _read_private(path)
        if not _is_locked(raw):
            return cls(raw)
        if passphrase is None:
            raise KeyLocked(f"{path} is locked by a passphrase.", remedy="Give the passphrase.")
        head, sealed = raw[: _HEAD + _SALT_BYTES], raw[_HEAD + _SALT_BYTES :]
        try:
            return cls(_cipher(passphrase, head[_HEAD:]).decrypt(_NONCE, sealed, head))
        except (InvalidTag, Malformed) as bad:
            raise KeyLocked(
                f"The passphrase does not unlock {path}, or the file is damaged.", remedy="Type it again."
            ) from bad

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the key, mode 0600, to a file that must not exist yet: the seed, or locked by a passphrase."""
        durable.create(path, self._key.private_bytes_raw() if passphrase is None else self._locked(passphrase))

    def lock(self, path: Path, passphrase: bytes) -> None:
        """Replace the key's file by one that this passphrase unlocks."""
        durable.replace(path, self._locked(passphrase), hidden=True)

    def _locked(self, passphrase: bytes) -> bytes:
        """The bytes of a locked key's file. Raises SpecError for a passphrase that is too short or too long."""
        if not LEAST_PASSPHRASE <= len(passphrase) <= MOST_PASSPHRASE:
            raise SpecError(
                "passphrase", got=f"{len(passphrase)} bytes", want=f"{LEAST_PASSPHRASE} to {MOST_PASSPHRASE} bytes"
            )
        head = _LOCKED + self.public.raw.hex().encode() + b"\n" + os.urandom(_SALT_BYTES)
        return head + _cipher(passphrase, head[_HEAD:]).encrypt(_NONCE, self._key.private_bytes_raw(), head)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def passphrase_bytes(text: str) -> bytes:
    """A passphrase as it was typed: the same bytes from a browser and a terminal, however accents are made."""
    return normalize("NFC", text).encode("utf-8", "surrogatepass")


def is_locked(path: Path) -> bool:
    """Whether a key file needs a passphrase. Raises SpecError where there is none, or where others may read it."""
    return _is_locked(_read_private(path))


def public_of(path: Path) -> PublicIdentity:
    """The public key of a key file. Of a locked one it is what the file says: only unlocking it proves that."""
    raw = _read_private(path)
    if not _is_locked(raw):
        return Identity(raw).public
    try:
        return PublicIdentity(bytes.fromhex(raw[len(_LOCKED) : _HEAD].decode("ascii")))
    except (ValueError, Malformed) as damaged:
        raise SpecError(
            str(path), got="a damaged locked key", want="a whole one", remedy="Restore it from its backup."
        ) from damaged


def _is_locked(raw: bytes) -> bool:
    return raw.startswith(_LOCKED)


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, **_SCRYPT).derive(passphrase))


def _read_private(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode & 0o777
        with path.open("rb") as file:
            raw = file.read(_BIGGEST)
    except FileNotFoundError as missing:
        raise SpecError(
            str(path),
            got="no file",
            want="an identity key",
            remedy="Restore it from its backup; a new key needs a new charter epoch.",
        ) from missing
    if mode & 0o077:
        raise SpecError(str(path), got=f"mode {mode:o}", want="600", remedy=f"Run: chmod 600 {path}")
    return raw


class SessionKey(Secret):
    """An X25519 key (RFC 7748) for one session, made from a 32-byte seed."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def reveal(self) -> bytes:
        """The private key, 32 bytes, to show others what it opens: only where nothing else depends on it."""
        return self._key.private_bytes_raw()

    def agree(self, peer: bytes) -> bytes:
        """Shared secret, 32 bytes. Raises Malformed for a key that gives the all-zero output (RFC 7748 §6.1)."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as bad:
            raise Malformed("An X25519 key of low order or wrong length.") from bad


_P = 2**255 - 19

#: Every X25519 public key whose agreements are all zero, in the spellings below 2^255: u = 0, 1, −1 (order 1, 2 and 4)
#: and the two of order 8, and 0 and 1 again as p and p + 1.
LOW_ORDER = frozenset(
    u.to_bytes(KEY_BYTES, "little")
    for u in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
        _P,
        _P + 1,
    )
)

_D = -121665 * pow(121666, -1, _P) % _P


@lru_cache(maxsize=1024)  # the same members' keys are read again and again
def _is_small_order(raw: bytes) -> bool:
    """Whether eight times the encoded point is the identity (RFC 8032 §5.1.3 decodes, §5.1.4 adds)."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    top, bottom = (y * y - 1) % _P, (_D * y * y + 1) % _P
    square = top * pow(bottom, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if (x * x - square) % _P:
        return False  # no point at all: verifying under it fails
    for _ in range(3):
        product = _D * x * x * y * y % _P
        x, y = 2 * x * y * pow(1 + product, -1, _P) % _P, (y * y + x * x) * pow(1 - product, -1, _P) % _P
    return (x, y % _P) == (0, 1)
