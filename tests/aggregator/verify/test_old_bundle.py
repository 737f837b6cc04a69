"""A bundle that an earlier release wrote still verifies, line by line as it did then. Needs the base install only."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from aggregator.verify.bundle import verify_bundle

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
BUNDLE = VECTORS / "bundle_v1.zip"
FACTS = json.loads((VECTORS / "bundle_v1.json").read_text())


def test_the_file_is_the_one_that_was_written() -> None:
    data = BUNDLE.read_bytes()
    assert (len(data), sha256(data).hexdigest()) == (FACTS["size"], FACTS["sha256"])


def test_it_verifies_as_when_it_was_written() -> None:
    """With the digest of the software that made the run, as on that day."""
    code = bytes.fromhex(FACTS["code_digest"])
    report = verify_bundle(BUNDLE, consortium=FACTS["consortium"], code=code)
    assert report.target == f"run {FACTS['run']}"
    assert [[line.name, str(line.outcome)] for line in report.lines] == FACTS["lines"]


def test_other_software_is_a_warning_and_no_failure() -> None:
    report = verify_bundle(BUNDLE, consortium=FACTS["consortium"], code=bytes(32))
    changed = [line.name for line in report.lines if [line.name, str(line.outcome)] not in FACTS["lines"]]
    assert changed == ["code"]
