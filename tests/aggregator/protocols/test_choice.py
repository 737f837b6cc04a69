"""One place decides how a record is read, and the frozen reader depends on nothing that will change."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import aggregator.protocols.protocol1
from aggregator.protocols.choice import of_signed, of_version, open_charter, reader
from aggregator.protocols.live import Live
from aggregator.protocols.protocol1.reader import Protocol1
from aggregator.run_record import RunRecord
from crypto import encoding, transcript
from crypto.errors import EvidenceError, Malformed
from tests.protocol1 import RUN, OldFederation

#: What the frozen reader shares with the protocol in use.
PRIMITIVES = {"keys", "shamir", "ring", "masking", "errors"}


def test_the_frozen_reader_imports_no_module_that_changes_with_the_protocol() -> None:
    found = set()
    for path in Path(aggregator.protocols.protocol1.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None and node.level == 0
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in found if name.split(".")[0] in ("crypto", "aggregator", "silo_agent", "jobs")}
    outside = {name for name in ours if not name.startswith("aggregator.protocols.protocol1")}
    assert {".".join(name.split(".")[:2]) for name in outside} == {f"crypto.{name}" for name in PRIMITIVES}


def test_a_run_is_read_with_the_protocol_that_it_names() -> None:
    assert isinstance(reader("consilium/1", "here"), Protocol1)
    live = transcript.PROTOCOL
    assert reader(live, "here").name == live
    with pytest.raises(EvidenceError) as caught:
        reader("consilium/99", "ledger.jsonl line 2")
    assert "consilium/99" in caught.value.detail and caught.value.where == "ledger.jsonl line 2"
    assert "consilium/1" in str(caught.value.expected) and "later release" in caught.value.remedy


def test_another_prefix_is_the_protocol_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "PROTOCOL", "consilium/7")
    monkeypatch.setattr(encoding, "VERSION", 7)
    assert isinstance(reader("consilium/7", "here"), Live) and isinstance(of_version(7), Live)
    assert isinstance(reader("consilium/1", "here"), Protocol1) and isinstance(of_version(1), Protocol1)
    assert reader("consilium/7", "here").note == "" != reader("consilium/1", "here").note


def test_a_file_is_read_with_the_version_that_it_names(old: OldFederation) -> None:
    data = old.home.pinned.path.read_bytes()
    assert isinstance(of_signed(data), Protocol1)
    assert open_charter(data, old.key("consortium").public).epoch == 1
    with pytest.raises(Malformed, match="Version 200"):
        of_signed(data[:4] + b"\xc8" + data[5:])
    with pytest.raises(Malformed):
        of_signed(b"")


def test_a_run_of_an_unknown_protocol_is_named(old: OldFederation) -> None:
    started, *rest = old.record.entries
    record = RunRecord(RUN, (replace(started, record=replace(started.record, protocol="consilium/99")), *rest))
    for read in (lambda: record.plan, lambda: record.id, lambda: record.reader):
        with pytest.raises(EvidenceError, match="consilium/99") as caught:
            read()
        assert caught.value.where == "ledger.jsonl line 2 (run-started), protocol"
