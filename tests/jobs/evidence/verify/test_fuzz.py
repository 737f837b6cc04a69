"""L3: a short run of the verifier's fuzzer (``python -m tests.fuzz_verify`` is the long one), and what it found."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome, RunFolder
from aggregator.ledger.format import canonical
from aggregator.rounds.storage import load_checkpoint
from aggregator.verify.models import check_weights, checked_ledger, models
from crypto.errors import EvidenceError, FederationError
from jobs.evidence.verify import audit
from tests import made_ledger as made
from tests.fuzz import run
from tests.fuzz_verify import Evidence, forge


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return Evidence(tmp_path_factory.mktemp("fuzz"))


def test_damaged_and_forged_evidence_is_refused_by_name(evidence: Evidence) -> None:
    result = run(400, 3, evidence.targets())
    assert not result.foreign, result.foreign[0][:500]
    assert 20 < result.taken < 300  # some changes touch what nobody signs


def test_every_sample_is_valid(evidence: Evidence) -> None:
    assert audit(evidence.run, home=evidence.home()).verdict.startswith(f"run {evidence.run} holds")
    name = evidence.files[0]
    evidence.in_home((name, (evidence.whole / name).read_bytes()))
    evidence.on_ledger(evidence.lines)
    for target in evidence.targets():
        if target.change is None:
            target.decode(target.seal(target.samples[0]) if target.seal else target.samples[0])


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "1" * 5000])
@pytest.mark.parametrize("place", ["size", "bundle"])
def test_numbers_that_are_none_in_a_manifest(evidence: Evidence, number: str, place: str) -> None:
    (manifest,) = next(one for one in evidence.targets() if one.name == "manifest").samples
    forged = json.loads(json.dumps(manifest))
    (forged["members"][0] if place == "size" else forged["versions"])[place] = "@"
    text = json.dumps(forged, sort_keys=True, separators=(",", ":")).replace('"@"', number)
    with pytest.raises(EvidenceError):
        evidence.with_manifest(text.encode() + b"\n")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"model": Infinity, "version": "1"}', '"\\ud800"', "\xff", "NaN", "[]"]
)
def test_notes_that_are_none(evidence: Evidence, text: str) -> None:
    with pytest.raises(EvidenceError):
        evidence.in_home((f"jobs/{made.RUN}/mlflow.json", text.encode("latin-1")))


def test_surrogates_can_be_printed(evidence: Evidence) -> None:
    """A version that MLflow never gave, and a silo's name on the ledger, both with half a character."""
    note = json.dumps({"model": "digits", "version": "\ud800"}).encode()
    with pytest.raises(EvidenceError):
        evidence.in_home((f"jobs/{made.RUN}/mlflow.json", note))
    kinds: dict[str, None] = dict.fromkeys(kind for kind, _, _ in evidence.lines)
    for kind in kinds:
        at = next(place for place, line in enumerate(evidence.lines) if line[0] == kind)
        _, record, time = evidence.lines[at]
        for field in record:
            lines = [*evidence.lines]
            lines[at] = (kind, record | {field: '{"a":"\ud800\x1b[2K"}'}, time)
            with suppress(FederationError):
                evidence.on_ledger(lines)


def tensors(dtype: str, shape: list[int], data: bytes) -> bytes:
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        tensors("F32", [0], b""),
        tensors("F32", [0, 2**40], b""),
        tensors("BF16", [2], bytes(4)),
        tensors("F8_E4M3", [4], bytes(4)),
        tensors("I64", [1], bytes(8)),
        tensors("BOOL", [1], bytes(1)),
        tensors("X", [1], bytes(1)),
        tensors("F32", [2], bytes(4)),
        b"",
    ],
)
def test_weights_that_are_no_blocks(tmp_path: Path, data: bytes) -> None:
    """Their description is not signed, so a forger makes it fit."""
    folder = RunFolder(tmp_path)
    folder.checkpoints_folder.mkdir()
    folder.weights_path(0).write_bytes(data)
    facts = {"format": 1, "step": 0, "state_digest": "00" * 32, "weights_sha256": sha256(data).hexdigest(), "meta": {}}
    text = canonical({**facts, "digest": sha256(canonical(facts)).hexdigest()}) + b"\n"
    folder.checkpoint_path(0).write_bytes(text)
    with pytest.raises(EvidenceError):
        load_checkpoint(folder, 0)


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize("field", ["name", "params", "purpose"])
def test_a_job_too_deep_to_be_compared(evidence: Evidence, depth: int, field: str) -> None:
    job = json.dumps({**made.JOB, field: "@"}).replace('"@"', "[" * depth + "]" * depth)
    lines = [
        (kind, record | {"job": job} if kind == "run-started" else record, time)
        for kind, record, time in evidence.lines
    ]
    with pytest.raises(EvidenceError):
        evidence.on_ledger(lines)


def test_a_checkpoint_of_another_name(evidence: Evidence) -> None:
    """It became a number and a path."""
    place = AggregatorHome(evidence.home())
    for name in ("x.safetensors", "../../x", "checkpoints/x", "checkpoints/-00001.safetensors"):
        forge(
            place.ledger_path,
            [
                (kind, record | {"checkpoint": name} if kind == "run-finished" else record, time)
                for kind, record, time in evidence.lines
            ],
        )
        with pytest.raises(EvidenceError, match="checkpoints/STEP"):
            check_weights(checked_ledger(place), models(place)[0])
