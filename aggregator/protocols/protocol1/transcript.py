"""Labels, transcript hashes, the state chain and derived keys of protocol 1.

run = H(job, charter, nonce);  S_0 = H(run, state);  S_{k+1} = H(S_k, T3, opened sums, released | void)
T0 = H(charter, run, plan, k, attempt, S_k);  T1 = H(T0, adverts);  T2 = H(T1, deals);  T3 = H(T2, headers)
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aggregator.protocols.protocol1.encoding import blob, u32, u64

PREFIX = "consilium/1/"


def label_bytes(label: str, fields: Iterable[bytes | str | int]) -> bytes:
    """Canonical bytes of a label and its fields; ints are u64."""
    return b"".join([blob(PREFIX + label), *(u64(part) if isinstance(part, int) else blob(part) for part in fields)])


def digest(label: str, *fields: bytes | str | int) -> bytes:
    return sha256(label_bytes(label, fields)).digest()


def derive(secret: bytes, salt: bytes, label: str, *fields: bytes | str | int, size: int = 32) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=salt, info=label_bytes(label, fields)).derive(secret)


def run_id(job: bytes, charter: bytes, nonce: bytes) -> bytes:
    return digest("run", job, charter, nonce)


def initial_chain(run: bytes, state: bytes) -> bytes:
    return digest("S0", run, state)


def next_chain(chain: bytes, t3: bytes, sums: bytes, *, released: bool) -> bytes:
    """``sums``: see ``opened``; empty for a void step."""
    return digest("S", chain, t3, sums, int(released))


def opened(k: int, t3: bytes, slots: Iterable[int], sums: Iterable[tuple[str, bytes]]) -> bytes:
    """Digest of a released step's result (version 1, kind 2). ``sums``: opened lane → digest of its words."""
    values, lanes = list(slots), list(sums)
    body = [bytes([1, 2]), u32(k), t3, bytes([1]), u32(len(values)), *map(u64, values), u32(len(lanes))]
    return digest("opened", b"".join([*body, *(blob(lane) + words for lane, words in lanes)]))


def t0(charter: bytes, run: bytes, plan: bytes, step: int, attempt: int, chain: bytes) -> bytes:
    return digest("T0", charter, run, plan, step, attempt, chain)


def following(label: str, before: bytes, signed: Iterable[bytes]) -> bytes:
    """T1, T2 or T3: the hash before and the signed messages, by silo id."""
    return digest(label, before, *signed)
