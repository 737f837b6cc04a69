"""What everyone agreed to so far, as hashes; and every key derived under them.

    run   = H(job, charter, run nonce)                       never NVFlare's job id
    S_0   = H(run, initial state);  S_{k+1} = H(S_k, T3, opened sums, released | void)
    T0    = H(charter, run, plan, k, attempt, S_k)
    T1    = H(T0, every signed advert, by silo id)
    T2    = H(T1, every signed deal of U2, by silo id)
    T3    = H(T2, every signed upload header of U3, by silo id)

H is SHA-256 over a label and length-prefixed fields, so no two different lists of fields collide by concatenation.
Keys come from HKDF-SHA256 (RFC 5869) with the transcript hash as salt and the label and fields as info: two silos
that saw different transcripts derive different keys and nothing opens.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.encoding import Writer

#: Name of the protocol, on the ledger and in every label.
PROTOCOL = "consilium/2"
PREFIX = f"{PROTOCOL}/"
DIGEST_BYTES = 32


def label_bytes(label: str, fields: Iterable[bytes | str | int]) -> bytes:
    """Canonical bytes of a label and its fields; ints are u64."""
    out = Writer().text(PREFIX + label)
    for field in fields:
        if isinstance(field, bytes):
            out.blob(field)
        elif isinstance(field, str):
            out.text(field)
        else:
            out.u64(field)
    return bytes(out)


def digest(label: str, *fields: bytes | str | int) -> bytes:
    """SHA-256 of a label and fields."""
    return sha256(label_bytes(label, fields)).digest()


def derive(secret: bytes, salt: bytes, label: str, *fields: bytes | str | int, size: int = 32) -> bytes:
    """HKDF-SHA256: ``size`` bytes bound to ``salt``, ``label`` and ``fields``."""
    return HKDF(algorithm=SHA256(), length=size, salt=salt, info=label_bytes(label, fields)).derive(secret)


def run_id(job: bytes, charter: bytes, nonce: bytes) -> bytes:
    return digest("run", job, charter, nonce)


def initial_chain(run: bytes, state: bytes) -> bytes:
    """S_0."""
    return digest("S0", run, state)


def next_chain(chain: bytes, t3: bytes, sums: bytes, *, released: bool) -> bytes:
    """S_{k+1}. ``sums``: digest of slots and opened lanes (see ``messages.StepResult``); empty for a void step."""
    return digest("S", chain, t3, sums, int(released))


def t0(charter: bytes, run: bytes, plan: bytes, step: int, attempt: int, chain: bytes) -> bytes:
    return digest("T0", charter, run, plan, step, attempt, chain)


def t1(before: bytes, adverts: Iterable[bytes]) -> bytes:
    return digest("T1", before, *adverts)


def t2(before: bytes, deals: Iterable[bytes]) -> bytes:
    return digest("T2", before, *deals)


def t3(before: bytes, headers: Iterable[bytes]) -> bytes:
    return digest("T3", before, *headers)
