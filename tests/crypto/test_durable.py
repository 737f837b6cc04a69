"""Durable writes: what a full disk, a crash and a killed writer leave."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto import durable


class Crash(BaseException):
    """The process ends here: nothing after it runs."""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def dies(*_: object) -> int:
    raise Crash


def half(fd: int, data: memoryview) -> int:
    """Takes half of the bytes once, then nothing more."""
    if len(data) <= 1:
        return full()
    return os.pwrite(fd, data[: len(data) // 2], os.lseek(fd, 0, os.SEEK_END))


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that make a write durable, in order: "write", "sync", "sync folder", "rename"."""
    found: list[str] = []
    write, sync, rename = os.write, os.fsync, os.replace

    def synced(fd: int) -> None:
        found.append("sync folder" if Path(f"/proc/self/fd/{fd}").resolve().is_dir() else "sync")
        sync(fd)

    def renamed(old: Path, new: Path) -> None:
        found.append("rename")
        rename(old, new)

    def written(fd: int, data: memoryview) -> int:
        found.append("write")
        return write(fd, data)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return found


# --- whole files -------------------------------------------------------------------------------------------------


def test_replace_writes_syncs_renames_and_syncs_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    found = calls(monkeypatch)
    durable.replace(path, b"first")
    assert found == ["write", "sync", "rename", "sync folder"]
    durable.replace(path, memoryview(b"second"))
    assert path.read_bytes() == b"second" and os.listdir(path.parent) == ["file"]
    assert mode(path) == 0o600 and mode(path.parent) == 0o700


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize("fault", [full, dies])
def test_a_fault_before_the_rename_leaves_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: Callable[..., int], hidden: bool
) -> None:
    path = tmp_path / "file"
    durable.replace(path, b"old")
    with monkeypatch.context() as patched, pytest.raises((OSError, Crash)):
        patched.setattr(os, name, fault)
        durable.replace(path, b"new", hidden=hidden)
    assert path.read_bytes() == b"old"
    left = tmp_path / (".file.new" if hidden else "file.new")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", left.name]) and left == durable.unfinished(
        path, hidden=hidden
    )
    assert mode(left) == 0o600
    durable.replace(path, b"again", hidden=hidden)  # what was left is overwritten
    assert path.read_bytes() == b"again" and os.listdir(tmp_path) == ["file"]


def test_a_write_that_takes_less_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    durable.replace(tmp_path / "file", b"longer than three")
    assert (tmp_path / "file").read_bytes() == b"longer than three"


def test_create_makes_a_new_private_file_and_never_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calls(monkeypatch)
    durable.create(tmp_path / "file", b"first")
    assert found[-1] == "sync" and mode(tmp_path / "file") == 0o600
    with pytest.raises(FileExistsError):
        durable.create(tmp_path / "file", b"second")
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    with pytest.raises(FileExistsError):
        durable.create(tmp_path / "link", b"second")
    assert (tmp_path / "file").read_bytes() == b"first" and not (tmp_path / "elsewhere").exists()


def test_create_is_synced_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), durable.creating(tmp_path / "file") as out:
        out.write(b"part")


def test_finish_cuts_syncs_and_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, whole = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"12345678rest")
    found = calls(monkeypatch)
    durable.finish(part, whole, 8)
    assert found == ["sync", "rename", "sync folder"]
    assert whole.read_bytes() == b"12345678" and not part.exists()


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_private_folder_is_0700_and_one_that_is_there_stays(tmp_path: Path) -> None:
    durable.private_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    (tmp_path / "a").chmod(0o750)
    durable.private_folder(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o750


# --- files that grow ---------------------------------------------------------------------------------------------


def test_append_syncs_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with durable.locked(tmp_path / "log") as fd:
        found = calls(monkeypatch)
        durable.append(fd, b"one\n")
        durable.append(fd, b"two\n", sync=False)
    assert found == ["write", "sync", "write"]
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n" and mode(tmp_path / "log") == 0o600


@pytest.mark.parametrize(("name", "fault"), [("write", full), ("write", half), ("fsync", full)])
def test_an_append_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: Callable[..., int]
) -> None:
    with durable.locked(tmp_path / "log") as fd:
        durable.append(fd, b"one\n")
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(os, name, fault)
            durable.append(fd, b"two and more\n")
        assert (tmp_path / "log").read_bytes() == b"one\n"
        durable.append(fd, b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_a_write_that_takes_nothing_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with durable.locked(tmp_path / "log") as fd:
        monkeypatch.setattr(os, "write", lambda fd, data: 0)
        with pytest.raises(OSError, match="No space") as failed:
            durable.append(fd, b"one\n")
    assert failed.value.errno == errno.ENOSPC


@pytest.mark.parametrize("longest", [None, 8])
@pytest.mark.parametrize(
    ("there", "kept", "torn"),
    [
        (b"", b"", b""),
        (b"one\ntwo\n", b"one\ntwo\n", b""),
        (b"one\ntwo\nth", b"one\ntwo\n", b"th"),
        (b"th", b"", b"th"),
        (b"\n", b"\n", b""),
    ],
)
def test_a_torn_line_is_cut_off(tmp_path: Path, there: bytes, kept: bytes, torn: bytes, longest: int | None) -> None:
    path = tmp_path / "log"
    path.write_bytes(there)
    with durable.locked(path) as fd:
        whole, cut = durable.cut_torn_line(fd, longest)
    assert cut == torn and path.read_bytes() == kept
    assert kept.removesuffix(b"\n").endswith(whole) and (longest is not None or whole == kept.removesuffix(b"\n"))


def test_what_is_cut_is_returned_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\nrest")
    with durable.locked(path) as fd:
        found = calls(monkeypatch)
        assert durable.cut(fd, 4) == b"rest" and found == ["sync"]
        assert durable.cut(fd, 4) == b"" and found == ["sync"]
    assert path.read_bytes() == b"one\n"


# --- locks -------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with durable.locked(path):
        for shared in (False, True):
            with pytest.raises(BlockingIOError):
                durable.lock(path, shared=shared, wait=False)
    before = len(os.listdir("/proc/self/fd"))
    with durable.locked(path, shared=True), durable.locked(path, shared=True), pytest.raises(BlockingIOError):
        durable.lock(path, wait=False)
    assert len(os.listdir("/proc/self/fd")) == before  # a lock that was refused leaves nothing open


def test_a_lock_makes_its_file_only_if_it_may(tmp_path: Path) -> None:
    for shared in (False, True):
        with pytest.raises(FileNotFoundError):
            durable.lock(tmp_path / "none", shared=shared, create=False)
    with durable.locked(tmp_path / "lock"):
        assert mode(tmp_path / "lock") == 0o600
    with durable.locked(tmp_path / "lock", shared=True, create=False) as fd, pytest.raises(OSError, match="Bad file"):
        os.write(fd, b"shared and not made: for reading only")


def test_a_link_is_followed_only_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.symlink(tmp_path / "file", tmp_path / "link")
    with durable.locked(tmp_path / "link"):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        durable.lock(tmp_path / "link", follow=False)


def test_a_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(Crash), durable.locked(tmp_path / "lock"):
        raise Crash
    with durable.locked(tmp_path / "lock", wait=False):
        pass
