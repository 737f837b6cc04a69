"""What the machine can do, and clocks: every figure of the benchmark is a ratio to one of these, from the same process.

One-thread work is timed by the processor time of this process, so that other work on the machine moves it little;
only what is said to use several threads is timed by the clock on the wall. Everything is the best of several rounds,
and the rounds of all parts of a comparison are interleaved.
"""

from __future__ import annotations

import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

from crypto import masking

#: Calibrations stop at this many bytes a round and are scaled: longer ones say nothing more.
ENOUGH = 1 << 29

Clock = Callable[[], float]


def best(
    parts: dict[str, Callable[[], object]],
    *,
    rounds: int = 5,
    clock: Clock = time.process_time,
    before: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Part → seconds, the best of ``rounds``; each round runs every part once. ``before`` runs untimed before each."""
    found = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, part in parts.items():
            before()
            start = clock()
            part()
            found[name] = min(found[name], clock() - start)
    return found


class Aes:
    """Raw AES-128-CTR in blocks of production's size, into one buffer: nothing that masks can be faster."""

    def __init__(self) -> None:
        self._update_into = Cipher(AES128(os.urandom(16)), CTR(bytes(16))).encryptor().update_into
        self._buffer, self._zeros = bytearray(masking.BLOCK + 15), bytes(masking.BLOCK)

    def __call__(self, size: int) -> None:
        for _ in range(size // masking.BLOCK):
            self._update_into(self._zeros, self._buffer)


class CacheAdd:
    """np.add of blocks that stay in cache: the other half of a mask stream's floor."""

    def __init__(self) -> None:
        self._one, self._other = (np.zeros(masking.BLOCK // 4, dtype=np.uint32) for _ in range(2))

    def __call__(self, size: int) -> None:
        for _ in range(size // masking.BLOCK):
            np.add(self._one, self._other, out=self._one)


def scaled(size: int) -> tuple[int, float]:
    """(bytes a calibration runs over, what its time is multiplied by) for ``size`` bytes."""
    run = max(masking.BLOCK, min(size, ENOUGH) // masking.BLOCK * masking.BLOCK)
    return run, size / run


def calibrate() -> dict[str, float]:
    """The limits: GB/s of vector or keystream, µs of an operation."""
    words = [np.zeros(16 << 20, dtype=np.uint32) for _ in range(2)]
    identity, agreement = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    signature, public = identity.sign(bytes(300)), identity.public_key()
    other = X25519PrivateKey.generate().public_key()
    aes, cache_add, nbytes = Aes(), CacheAdd(), words[0].nbytes
    times = best(
        {
            "aes_ctr_gb_s": lambda: aes(1 << 28),
            "cache_add_gb_s": lambda: cache_add(1 << 28),
            "np_add_gb_s": lambda: np.add(words[0], words[1], out=words[0]),
            "copyto_gb_s": lambda: np.copyto(words[0], words[1]),
            "verify_us": lambda: [public.verify(signature, bytes(300)) for _ in range(50)],
            "agree_us": lambda: [agreement.exchange(other) for _ in range(50)],
        },
        rounds=7,
    )
    sizes = {"aes_ctr_gb_s": 1 << 28, "cache_add_gb_s": 1 << 28, "np_add_gb_s": nbytes, "copyto_gb_s": nbytes}
    return {name: sizes[name] / t / 1e9 if name in sizes else t / 50 * 1e6 for name, t in times.items()}


def machine() -> dict[str, str | int]:
    """Processor, cores and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": masking.workers_of(None),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "cryptography": version("cryptography"),
        "openssl": backend.openssl_version_text(),
        "load": round(os.getloadavg()[0], 1),
    }


def peak_extra(work: Callable[[], object]) -> int | None:
    """Bytes beyond those held before that ``work`` needed at once: what Python and numpy asked for, or by how much the
    resident set grew if that is more (it is less where freed memory is used again). None where the kernel can't say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def field(name: str) -> int:
        return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith(name))

    try:
        reset.write_text("5")
        before = field("VmRSS")
    except (OSError, StopIteration):
        return None
    tracemalloc.start()
    try:
        work()
        asked = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return max(asked, field("VmHWM") - before)
