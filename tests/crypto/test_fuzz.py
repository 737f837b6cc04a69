"""A short run of the fuzzer (``make fuzz`` is the long one), and that it would notice."""

import subprocess
import sys
from pathlib import Path

import pytest

from crypto.encoding import Reader, Writer
from crypto.errors import FederationError
from tests import fuzz

ROOT = Path(__file__).resolve().parents[2]
SESSION = fuzz.played()
DECODERS, CHECKS = fuzz.decoders(SESSION), fuzz.checks(SESSION)


@pytest.mark.parametrize("target", [*DECODERS, *CHECKS], ids=lambda target: target.name)
def test_every_sample_is_valid(target):
    """Else the fuzzer would not get past the first check. Of the shares, one kind is valid at a time."""
    taken = 0
    for sample in target.samples:
        try:
            value = target.decode(target.seal(sample) if target.seal else sample)
        except FederationError:
            continue
        taken += 1
        assert target.encode is None or target.encode(value) == sample
    assert taken == (1 if "shares" in target.name else len(target.samples))


@pytest.mark.parametrize("cases", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_bytes_are_refused_by_name(cases):
    result = fuzz.run(cases, 7, [*DECODERS, *CHECKS])
    assert not result.foreign and not result.shared
    assert cases / 20 < result.taken < cases * 0.95  # some changes make another valid message


def test_the_same_seed_gives_the_same_cases():
    one, again, other = (fuzz.run(500, seed, DECODERS).taken for seed in (1, 1, 2))
    assert one == again != other


def test_a_foreign_exception_would_be_noticed():
    def careless(data: bytes) -> bytes:
        return data[int.from_bytes(data[:4], "big") :][0:1] + bytes([data[4]])

    result = fuzz.run(200, 1, [fuzz.Target("careless", (bytes(4) + b"abc",), careless)])
    assert result.foreign and "careless: IndexError" in result.foreign[0] and not result.ok


def test_bytes_that_two_values_share_would_be_noticed():
    def lax(data: bytes) -> bytes:
        return Reader(data).blob()

    result = fuzz.run(
        200, 1, [fuzz.Target("lax", (bytes(Writer().blob(b"abc")),), lax, lambda v: bytes(Writer().blob(v)))]
    )
    assert result.shared and not result.foreign and not result.ok


def test_a_length_field_that_allocates_would_be_noticed():
    code = (
        "from tests import fuzz\n"
        "fuzz.limit_space()\n"
        "for size in (1 << 30, 48 << 20):\n"
        "    make = lambda data: bytes(size) if size >> 30 else b'x' * size\n"
        "    result = fuzz.run(3, 1, [fuzz.Target('greedy', (b'x',), make)])\n"
        "    print(len(result.foreign), result.peak > fuzz.PEAK, result.ok)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False", "False", "0", "True", "False"]
