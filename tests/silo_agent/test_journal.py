"""What a silo has released is on disk before it leaves, once, and only one agent writes it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from crypto.errors import AlreadyReleased, JournalLost, NoSpace, SpecError
from silo_agent.journal import KINDS, Boot, Journal, Spent, parse_record

RUN, T3, OTHER = "aa" * 32, "bb" * 32, "cc" * 32
COHORT = ("silo-1", "silo-2")


def test_a_release_survives_a_restart(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.join(RUN, "ab")
        journal.release(RUN, 3, T3, COHORT)
    with Journal(tmp_path / "j") as again:
        assert again.knows(RUN)
        assert again.releases == 1
        assert again.release_of(RUN, 3) == T3
        assert again.release_of(RUN, 2) is None


def test_one_release_per_step_and_none_below_the_high_water(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.release(RUN, 3, T3, COHORT)
        journal.release(RUN, 3, T3, COHORT)  # byte for byte the same: a resend
        assert journal.releases == 1
        for step, t3 in ((3, OTHER), (2, T3), (2, OTHER)):
            with pytest.raises(AlreadyReleased):
                journal.release(RUN, step, t3, COHORT)
            with pytest.raises(AlreadyReleased):
                journal.attest(RUN, step, 0, t3)
        journal.release("dd" * 32, 0, OTHER, COHORT)  # another run
        journal.release(RUN, 4, OTHER, COHORT)
        assert journal.releases == 3


def test_the_record_is_on_disk_when_release_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("silo_agent.journal.os.fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Journal(tmp_path / "j") as journal:
        journal.release(RUN, 0, T3, COHORT)
        assert synced[-1] == (tmp_path / "j").stat().st_size
        assert json.loads((tmp_path / "j").read_text().splitlines()[-1])["t3"] == T3


def test_a_full_disk_refuses_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / "j") as journal:
        before = (tmp_path / "j").read_bytes()

        def full(fd: int, data: bytes) -> int:
            monkeypatch.undo()
            os.write(fd, data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("silo_agent.journal.os.write", full)
        with pytest.raises(NoSpace):
            journal.release(RUN, 0, T3, COHORT)
        assert (tmp_path / "j").read_bytes() == before
        assert journal.releases == 0
        journal.release(RUN, 0, OTHER, COHORT)  # nothing was spent


def test_a_short_write_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / "j") as journal:
        before = (tmp_path / "j").read_bytes()
        write = os.write
        monkeypatch.setattr("silo_agent.journal.os.write", lambda fd, data: write(fd, data[:-1]))
        with pytest.raises(NoSpace):
            journal.release(RUN, 0, T3, COHORT)
        assert (tmp_path / "j").read_bytes() == before and journal.releases == 0


def test_a_disk_that_fails_otherwise_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / "j") as journal:
        before = (tmp_path / "j").read_bytes()

        def broken(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr("silo_agent.journal.os.fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            journal.release(RUN, 0, T3, COHORT)
        assert (tmp_path / "j").read_bytes() == before and journal.releases == 0


def test_a_torn_last_line_never_left_and_is_cut(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.release(RUN, 0, T3, COHORT)
    with (tmp_path / "j").open("ab") as out:
        out.write(b'{"kind":"released","run":"')
    with Journal(tmp_path / "j") as again:
        assert again.releases == 1
        again.release(RUN, 1, OTHER, COHORT)
    with Journal(tmp_path / "j") as last:
        assert last.releases == 2


def test_each_kind_has_these_bytes_on_disk(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.join(RUN, "ab")
        journal.advertise(RUN, 0, 1)
        journal.attest(RUN, 0, 1, T3)
        journal.release(RUN, 0, T3, COHORT)
        journal.see_peers({"silo-2": 5})
        journal.spend(Spent(RUN, 0, "cd", "ef", "record", "local", "1.5", "0.1", 10, "an accountant"))
    boot, *lines = (tmp_path / "j").read_text().splitlines()
    nonce = parse_record(boot.encode())
    assert isinstance(nonce, Boot)
    assert boot == f'{{"kind":"boot","nonce":"{nonce.nonce}","protocol":"consilium/2"}}'
    assert lines == [
        f'{{"approval":"ab","kind":"joined","run":"{RUN}"}}',
        f'{{"attempt":1,"kind":"advertised","run":"{RUN}","step":0}}',
        f'{{"attempt":1,"kind":"attested","run":"{RUN}","step":0,"t3":"{T3}"}}',
        f'{{"cohort":["silo-1","silo-2"],"kind":"released","run":"{RUN}","step":0,"t3":"{T3}"}}',
        '{"kind":"peers","releases":{"silo-2":5}}',
        f'{{"account":1,"accountant":"an accountant","count":10,"data":"ef","job":"cd","kind":"spent",'
        f'"mechanism":"local","noise":"1.5","rate":"0.1","run":"{RUN}","step":0,"unit":"record"}}',
    ]
    assert [bytes(parse_record(line.encode())) for line in lines] == [f"{line}\n".encode() for line in lines]
    # Of "opened" test_journal_openings.py has the bytes.
    assert {json.loads(line)["kind"] for line in (boot, *lines)} == KINDS.keys() - {"opened"}


def test_a_record_of_a_joined_run_may_be_older_than_approvals(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(f'{{"kind":"joined","run":"{RUN}"}}\n'.encode())
    with Journal(tmp_path / "j") as journal:
        assert journal.knows(RUN) and journal.uses("ab") == 0


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"\xff",
        b"[7]",
        pytest.param(b"[" * 100_000, id="too deep"),
        b'{"no":"kind"}',
        b'{"kind":"promised","run":"x"}',
        b'{"kind":["released"]}',
        b'{"kind":"released","run":"x"}',
        b'{"kind":"peers","releases":3}',
        b'{"kind":"peers","releases":{"silo-2":"5"}}',
        b'{"kind":"joined","run":7}',
        b'{"kind":"joined","run":"x","step":0}',
        b'{"kind":"advertised","run":"x","step":"0","attempt":0}',
        b'{"kind":"advertised","run":"x","step":true,"attempt":0}',
        b'{"kind":"released","run":"x","step":0,"t3":"bb","cohort":"silo-1"}',
    ],
)
def test_a_damaged_journal_is_a_lost_journal(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "j").write_bytes(line + b"\n")
    with pytest.raises(JournalLost, match="Line 1"):
        Journal(tmp_path / "j")


def test_one_agent_per_identity(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(SpecError, match="in use"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()  # the lock went with its owner


def test_a_peer_whose_counter_goes_back_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.see_peers({"silo-2": 5, "silo-3": 1})
        journal.see_peers({"silo-2": 5})
    with Journal(tmp_path / "j") as again, pytest.raises(JournalLost, match="silo-2"):
        again.see_peers({"silo-3": 9, "silo-2": 4})


def test_the_file_is_private(tmp_path: Path) -> None:
    Journal(tmp_path / "j").close()
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
