"""A bundle that an earlier release wrote still verifies, line by line as it did then. Needs the base install only."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.verify.bundle import verify_bundle
from aggregator.verify.report import CheckOutcome
from crypto.release_manifest import PREDICTOR, ReleaseManifest

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
BUNDLE = VECTORS / "bundle_v1.zip"
FACTS = json.loads((VECTORS / "bundle_v1.json").read_text())
#: Lines that depend on what is installed here, and the note on the protocol.
APART = ("code", "predictor", "protocol")


def test_the_file_is_the_one_that_was_written() -> None:
    data = BUNDLE.read_bytes()
    assert (len(data), sha256(data).hexdigest()) == (FACTS["size"], FACTS["sha256"])


@pytest.mark.parametrize("release", [None, ReleaseManifest({PREDICTOR: "ab" * 32})], ids=["unknown", "another"])
def test_it_verifies_as_when_it_was_written(release: ReleaseManifest | None) -> None:
    """Line by line, but for the note and the two that depend on what is installed here. It has no list of its release's
    files, so nobody but that release can check the predictor, and the report says so (H4)."""
    report = verify_bundle(BUNDLE, consortium=FACTS["consortium"], release=release)
    assert report.target == f"run {FACTS['run']}"
    told = {line.name: line for line in report.lines}
    for name in ("code", "predictor"):
        assert told[name].outcome is CheckOutcome.NOT_CHECKED
    here = release.digest.hex()[:16] if release is not None else "not given"
    says = f"predictor not checked: the run used release {FACTS['code_digest'][:16]}, this is release {here}"
    assert told["predictor"].detail.startswith(says)
    others = [[line.name, str(line.outcome)] for line in report.lines if line.name not in APART]
    assert others == [line for line in FACTS["lines"] if line[0] != "code"]


def test_what_its_protocol_did_not_prove_is_said_once() -> None:
    report = verify_bundle(BUNDLE, consortium=FACTS["consortium"])
    (note,) = report.of(CheckOutcome.NOTE)
    assert note.name == "protocol"
    assert note.detail.startswith("consilium/1: in this protocol the opened sums were not proven to the silos")
    assert "aggregator's word" in note.detail
    assert {"name": "protocol", "outcome": "note", "detail": note.detail} in report.as_dict()["lines"]
