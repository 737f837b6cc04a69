"""The ledger: no byte of it can change unnoticed, and nothing half-written stays."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.ledger.format import GENESIS, canonical, read, verify
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import SCHEMA, Kind
from crypto.errors import EvidenceError, NoSpace, SpecError
from crypto.keys import Identity
from tests.records import as_record

ME = Identity(bytes(range(32)))
PUBLIC = ME.public


def clock() -> str:
    return "2026-01-02T03:04:05.678Z"


def lost(k: int, silo: str = "silo-2") -> dict[str, object]:
    return {"run": "r1", "k": k, "name": f"train/{k}", "silo": silo, "phase": "contribute"}


def write(path: Path, lines: int) -> Ledger:
    ledger = Ledger.open(path, ME, clock=clock)
    for k in range(lines):
        ledger.append(as_record("silo-lost", lost(k)))
    return ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "ledger.jsonl"


def test_round_trip(path: Path) -> None:
    ledger = write(path, 3)
    entries = list(read(path))
    assert [entry.seq for entry in entries] == [0, 1, 2]
    assert entries[0].prev == GENESIS and entries[2].prev == entries[1].digest
    assert entries[1].kind is Kind.SILO_LOST and entries[1].record.fields() == lost(1)
    assert verify(path, PUBLIC) == ledger.head == entries[2].digest
    assert list(read(path, after=entries[0])) == entries[1:]
    assert list(read(path, after=(1, entries[1].digest, entries[1].end))) == entries[2:]


def test_equal_histories_have_equal_bytes(path: Path, tmp_path: Path) -> None:
    write(path, 3)
    write(tmp_path / "other.jsonl", 3)
    assert path.read_bytes() == (tmp_path / "other.jsonl").read_bytes()


def test_every_flipped_bit_is_caught(path: Path) -> None:
    write(path, 2)
    head = Path(f"{path}.head")
    for file in (path, head):
        good = file.read_bytes()
        for place in range(len(good)):
            for flip in (0x01, 0x20, 0x80):
                file.write_bytes(good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :])
                with pytest.raises(EvidenceError):
                    verify(path, PUBLIC)
        file.write_bytes(good)
    verify(path, PUBLIC)


def test_every_truncation_is_caught(path: Path) -> None:
    write(path, 2)
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(EvidenceError):
            verify(path, PUBLIC)


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("swapped", lambda rows: [rows[1], rows[0], rows[2]], 1),
        ("first gone", lambda rows: rows[1:], 1),
        ("middle gone", lambda rows: [rows[0], rows[2]], 2),
        ("last gone", lambda rows: rows[:2], 3),
        ("doubled", lambda rows: [rows[0], rows[0], *rows[1:]], 2),
        ("spaces", lambda rows: [rows[0].replace(b":", b": ", 1), *rows[1:]], 1),
        ("blank line", lambda rows: [rows[0], b"\n", *rows[1:]], 2),
        ("carriage return", lambda rows: [rows[0].replace(b"\n", b"\r\n"), *rows[1:]], 1),
        ("key twice", lambda rows: [rows[0].replace(b'"seq":0', b'"seq":0,"seq":0'), *rows[1:]], 1),
    ],
)
def test_other_lines_are_caught(path: Path, name: str, change: Callable[[list[bytes]], list[bytes]], line: int) -> None:
    write(path, 3)
    path.write_bytes(b"".join(change(_lines(path.read_bytes()))))
    with pytest.raises(EvidenceError) as caught:
        verify(path, PUBLIC)
    assert f"line {line}" in caught.value.where, name


def test_another_key_is_caught(path: Path) -> None:
    write(path, 1)
    with pytest.raises(EvidenceError, match="line 1"):
        verify(path, Identity(bytes(32)).public)


def test_a_forged_but_well_chained_line_is_caught(path: Path) -> None:
    write(path, 2)
    first, second = _lines(path.read_bytes())
    fields = json.loads(second)
    fields["record"]["silo"] = "silo-9"
    path.write_bytes(first + canonical(fields) + b"\n")
    with pytest.raises(EvidenceError, match=r"line 2.*signature"):
        verify(path, PUBLIC)


def test_a_countersigned_head_catches_an_old_copy(path: Path) -> None:
    ledger = write(path, 2)
    old = path.read_bytes(), Path(f"{path}.head").read_bytes()
    head = ledger.append(as_record("silo-lost", lost(2))).digest
    assert verify(path, PUBLIC, head=head) == head
    path.write_bytes(old[0])
    Path(f"{path}.head").write_bytes(old[1])
    verify(path, PUBLIC)  # nothing in the two files can tell
    with pytest.raises(EvidenceError, match=head):
        verify(path, PUBLIC, head=head)


def test_a_lost_head_file_is_caught_unless_a_head_is_given(path: Path) -> None:
    ledger = write(path, 2)
    Path(f"{path}.head").unlink()
    with pytest.raises(EvidenceError, match="no file"):
        verify(path, PUBLIC)
    assert verify(path, PUBLIC, head=ledger.head) == ledger.head
    with pytest.raises(EvidenceError):
        Ledger.open(path, ME)


def test_a_cut_ledger_is_not_continued(path: Path) -> None:
    write(path, 3)
    path.write_bytes(b"".join(_lines(path.read_bytes())[:2]))
    with pytest.raises(EvidenceError, match="line 3"):
        Ledger.open(path, ME)


def test_a_head_that_lags_is_enough(path: Path) -> None:
    """A crash between the line and its head file loses nothing."""
    ledger = write(path, 1)
    old = Path(f"{path}.head").read_bytes()
    ledger.append(as_record("silo-lost", lost(1)))
    Path(f"{path}.head").write_bytes(old)
    assert verify(path, PUBLIC) == ledger.head
    Ledger.open(path, ME, clock=clock).append(as_record("silo-lost", lost(2)))
    verify(path, PUBLIC)


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_half_written_line_is_cut_off_and_told(path: Path, keep: int) -> None:
    write(path, 2)
    first, second = _lines(path.read_bytes())
    path.write_bytes(first + second + second[:keep])
    with pytest.raises(EvidenceError, match="line 3"):
        verify(path, PUBLIC)
    assert len(list(read(path))) == 2  # a reader alongside takes it for a write under way
    Ledger.open(path, ME, clock=clock)
    last = list(read(path))[-1]
    assert last.kind is Kind.RECOVERED and last.record.bytes == len(second[:keep])
    verify(path, PUBLIC)


def test_two_writers_take_turns(path: Path) -> None:
    one, two = Ledger.open(path, ME, clock=clock), Ledger.open(path, ME, clock=clock)
    for k in range(4):
        (one, two)[k % 2].append(as_record("silo-lost", lost(k)))
    assert [entry.record.k for entry in read(path)] == [0, 1, 2, 3]
    assert verify(path, PUBLIC) == two.head


_WRITER = """
import sys
from pathlib import Path
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import SiloLost
from crypto.keys import Identity
ledger = Ledger.open(Path(sys.argv[1]), Identity(bytes(range(32))))
for k in range(25):
    ledger.append(SiloLost(run="r1", k=k, name="x", silo=sys.argv[2], phase="open"))
"""


def test_processes_share_one_ledger(path: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), name]) for name in ("a", "b")]
    assert [child.wait(60) for child in children] == [0, 0]
    verify(path, PUBLIC)
    for name in ("a", "b"):
        assert [entry.record.k for entry in read(path) if entry.record.silo == name] == list(range(25))


def test_a_full_disk_leaves_nothing_half_written(path: Path) -> None:
    """A real limit: the system writes the first bytes of the line and then refuses."""
    ledger = write(path, 2)
    good, head = path.read_bytes(), ledger.head
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 10, hard))
    try:
        with pytest.raises(NoSpace, match="Free disk space"):
            ledger.append(as_record("silo-lost", lost(2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == good and ledger.head == head
    ledger.append(as_record("silo-lost", lost(2)))
    verify(path, PUBLIC)


def test_a_head_file_that_finds_no_room_may_lag(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = write(path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        ledger.append(as_record("silo-lost", lost(1)))
    assert verify(path, PUBLIC) == ledger.head
    assert sorted(os.listdir(path.parent)) == ["ledger.jsonl", "ledger.jsonl.head"]


def test_lines_are_synced_before_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = write(path, 1)
    events: list[str] = []
    real_write, real_sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: (events.append("write"), real_write(fd, data))[1])
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), real_sync(fd))[1])
    ledger.append(as_record("silo-lost", lost(1)))
    assert events == ["write", "sync", "write", "sync", "sync"]  # the line; the head; its folder


def test_numbers_are_whole(path: Path) -> None:
    ledger = Ledger.open(path, ME, clock=clock)
    closed = {key: [] for key in ("invited", "survivors", "lanes_open", "lanes_shut")}
    closed |= {key: {} for key in ("lost", "refusals", "upload_digests", "phase_ms", "data_commitments")}
    closed |= {"run": "r", "k": 0, "name": "train/0", "transcript": "ab", "state_digest": "cd", "upload_bytes": 1}
    entry = ledger.append(
        as_record("step-closed", closed | {"slots": {"rows": np.uint64(2**64 - 1)}, "survivors": ("a",)})
    )
    assert next(read(path)).record.slots == {"rows": 2**64 - 1} == entry.record.slots
    with pytest.raises(SpecError, match=r"record\.slots\.rows.*no floats"):
        ledger.append(as_record("step-closed", closed | {"slots": {"rows": 0.5}}))
    with pytest.raises(SpecError, match="upload_bytes"):
        ledger.append(as_record("step-closed", closed | {"slots": {}, "upload_bytes": True}))


@pytest.mark.parametrize(
    ("kind", "record", "message"),
    [
        ("gossip", {}, "one of charter, run-started"),
        ("silo-lost", {"run": "r"}, "also k, name, phase, silo"),
        ("silo-lost", lost(0) | {"loss": 1}, "only k, name, phase, run, silo"),
        ("silo-lost", lost(0) | {"silo": 3}, "want text"),
        ("silo-lost", lost(0) | {"silo": b"x"}, "no bytes"),
        ("silo-lost", lost(0) | {"k": {1: 2}}, "text keys"),
        ("run-resumed", {"run": "r", "k": 1, "state_digest": "AB"}, "lower-case hex"),
    ],
)
def test_the_schema_is_closed(path: Path, kind: str, record: dict[str, object], message: str) -> None:
    ledger = Ledger.open(path, ME, clock=clock)
    with pytest.raises(SpecError, match=message):
        ledger.append(as_record(kind, record))
    assert path.read_bytes() == b""


def test_every_kind_has_a_schema() -> None:
    federations = {Kind.RECOVERED, Kind.CHARTER, Kind.WITHDRAWAL}
    assert SCHEMA.keys() == set(Kind)
    assert all("run" in required for kind, (required, _) in SCHEMA.items() if kind not in federations)
    assert all(not required.keys() & optional.keys() for required, optional in SCHEMA.values())


def test_an_empty_ledger_verifies(path: Path) -> None:
    assert Ledger.open(path, ME).head == GENESIS == verify(path, PUBLIC)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("refusal", {"code": "BECAUSE"}),
        ("refusal", {"phase": "lunch"}),
        ("silo-lost", {"phase": "lunch"}),
        ("run-failed", {"code": "BECAUSE"}),
        ("run-failed", {"phase": "lunch"}),
        ("step-void", {"reason": "BECAUSE"}),
        ("step-void", {"lost": {"silo-1": "lunch"}}),
        ("step-void", {"refusals": {"silo-1": "BECAUSE"}}),
    ],
)
def test_why_somebody_dropped_out_is_of_a_closed_list(path: Path, kind: str, change: dict[str, Any]) -> None:
    step = {"run": "r", "k": 1, "name": "train/1"}
    good = {
        "refusal": step | {"silo": "silo-1", "phase": "open", "code": "NOT_APPROVED"},
        "silo-lost": step | {"silo": "silo-1", "phase": "open"},
        "run-failed": {"run": "r", "code": "ROUND_LOST", "phase": "", "missing": []},
        "step-void": step
        | {"reason": "INTERRUPTED", "phase": "unmask-slots", "missing": [], "lost": {}, "refusals": {}},
    }[kind]
    ledger = Ledger.open(path, ME)
    ledger.append(as_record(kind, good))
    with pytest.raises(SpecError, match=f"ledger {kind}"):
        ledger.append(as_record(kind, good | change))
