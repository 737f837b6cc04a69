"""The peers' own code on our vectors, in their own environment: see ``make bench-peers``.

A server over standard input and output, so that ``tests/benchmarks/versus.py`` can alternate its rounds with ours. The
first line is the vector's length; each further line is a JSON list [operation, arguments…], answered by one line of
JSON. Times are processor seconds of one round. Nothing of Consilium is imported.

Flower's SecAgg+ primitives are called as flwr.client.mod.secure_aggregation and the server's workflow call them, with
its defaults (clipping range 8, target range 2^22, modulus 2^32). TenSEAL CKKS is set up as NVFlare's provisioning does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import tenseal
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from vectors import noisy, update

CLIP, TARGET, MODULUS = 8.0, 1 << 22, 1 << 32


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


class Flower:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.wire: list[bytes] = []

    def silo(self, n: int) -> float:
        """Quantise, one private and n − 1 pair masks, modulus, bytes."""
        seeds = [os.urandom(32) for _ in range(n)]

        def run() -> None:
            vector = arithmetic.factor_combine(TARGET, quantize([self.x], CLIP, TARGET))
            shapes = [part.shape for part in vector]
            vector = arithmetic.parameters_addition(vector, pseudo_rand_gen(seeds[0], MODULUS, shapes))
            for place, seed in enumerate(seeds[1:]):
                mask = pseudo_rand_gen(seed, MODULUS, shapes)
                change = arithmetic.parameters_subtraction if place % 2 else arithmetic.parameters_addition
                vector = change(vector, mask)
            vector = arithmetic.parameters_mod(vector, MODULUS)
            self.wire = [ndarray_to_bytes(part) for part in vector]

        return seconds(run)

    def bytes_per_value(self) -> float:
        return sum(map(len, self.wire)) / self.x.size

    def add(self) -> float:
        """One upload: from bytes, added."""
        total = [np.zeros(1, dtype=np.int64), np.zeros(self.x.shape, dtype=np.int64)]

        def run() -> None:
            arithmetic.parameters_addition(total, [bytes_to_ndarray(part) for part in self.wire])

        return seconds(run)

    def unmask(self, n: int) -> float:
        """n private masks taken away: no drop-out."""
        total = [np.zeros(1, dtype=np.int64), np.zeros(self.x.shape, dtype=np.int64)]
        shapes, seeds = [part.shape for part in total], [os.urandom(32) for _ in range(n)]

        def run() -> None:
            vector = total
            for seed in seeds:
                vector = arithmetic.parameters_subtraction(vector, pseudo_rand_gen(seed, MODULUS, shapes))
            arithmetic.parameters_mod(vector, MODULUS)

        return seconds(run)

    def combine(self, n: int, threshold: int) -> float:
        """One private seed from its shares."""
        shares = create_shares(os.urandom(32), threshold, n)[:threshold]
        return seconds(lambda: combine_shares(shares))

    def share(self, n: int, threshold: int) -> float:
        secret = os.urandom(32)
        return seconds(lambda: create_shares(secret, threshold, n))

    def error(self, n: int) -> float:
        """Relative error of the mean of n noisy copies of the vector, equal weights."""
        exact, total = np.zeros(self.x.shape), np.zeros(self.x.shape, dtype=np.int64)
        for place in range(n):
            x = noisy(self.x, place)
            exact += x
            total += quantize([x], CLIP, TARGET)[0]
        (mean,) = dequantize([total], CLIP * n, TARGET * n)
        return float(np.linalg.norm(mean / n - exact / n) / np.linalg.norm(exact / n))


class TenSeal:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x.tolist()
        self.context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )
        self.context.global_scale = 2**40
        self.wire = b""
        self.total: Any = None

    def silo(self) -> float:
        """Encrypt and serialise."""

        def run() -> None:
            self.wire = tenseal.ckks_vector(self.context, self.x).serialize()

        return seconds(run)

    def bytes_per_value(self) -> float:
        return len(self.wire) / len(self.x)

    def add(self) -> float:
        """One upload: from bytes, added."""
        if self.total is None:
            self.total = tenseal.ckks_vector_from(self.context, self.wire)

        def run() -> None:
            self.total + tenseal.ckks_vector_from(self.context, self.wire)

        return seconds(run)


def main() -> None:
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # TenSEAL has things to say on standard output
    x = update(json.loads(sys.stdin.readline()))
    peers = {"flower": Flower(x), "tenseal": TenSeal(x)}
    versions = {name: version(name) for name in ("flwr", "tenseal", "numpy")}
    print(json.dumps(versions), file=reply, flush=True)
    for line in sys.stdin:
        who, what, *arguments = json.loads(line)
        print(json.dumps(getattr(peers[who], what)(*arguments)), file=reply, flush=True)


if __name__ == "__main__":
    main()
