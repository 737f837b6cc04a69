"""The run folder: whole files or none, and nothing altered is taken for true."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.home import RunFolder
from aggregator.rounds.storage import (
    Retention,
    UploadStore,
    checkpoint_steps,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    stage_predictor,
)
from crypto.blocks import state_digest
from crypto.errors import EvidenceError, LayoutMismatch, NoSpace, SpecError
from crypto.release_manifest import PREDICTOR, ReleaseManifest

STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "expert.0/b": np.full(3, -0.0, np.float32)}


def words(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.uint32)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let the system refuse to write past ``size`` bytes of any file, after writing the first of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    saved = save_checkpoint(RunFolder(tmp_path), 3, STATE, {"chain": "ab", "slots": {"rows": 2**64 - 1}})
    loaded = load_checkpoint(RunFolder(tmp_path), 3, expect=state_digest(STATE))
    assert loaded.meta == saved.meta == {"chain": "ab", "slots": {"rows": 2**64 - 1}}
    assert loaded.step == 3 and loaded.path == "checkpoints/000003.safetensors"
    assert loaded.digest == saved.digest == state_digest(STATE)
    assert {name: block.tobytes() for name, block in loaded.state.items()} == {n: b.tobytes() for n, b in STATE.items()}
    assert not any(block.flags.writeable for block in loaded.state.values())


def test_the_newest_is_taken(tmp_path: Path) -> None:
    for step in (0, 7, 11):
        save_checkpoint(RunFolder(tmp_path), step, {"w": np.full(2, step, np.float32)}, {})
    assert checkpoint_steps(RunFolder(tmp_path)) == [0, 7, 11]
    assert load_checkpoint(RunFolder(tmp_path)).step == 11
    prune_checkpoints(RunFolder(tmp_path), 1)
    assert checkpoint_steps(RunFolder(tmp_path)) == [11]
    assert len(os.listdir(tmp_path / "checkpoints")) == 2


def test_none_is_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="found none"):
        load_checkpoint(RunFolder(tmp_path))
    with pytest.raises(EvidenceError, match="step 4"):
        load_checkpoint(RunFolder(tmp_path), 4)


def test_saving_again_is_idempotent_and_never_another_state(tmp_path: Path) -> None:
    first = save_checkpoint(RunFolder(tmp_path), 1, STATE, {"a": 1})
    assert save_checkpoint(RunFolder(tmp_path), 1, STATE, {"a": 1}).weights_sha256 == first.weights_sha256
    with pytest.raises(EvidenceError, match="expected state"):
        save_checkpoint(RunFolder(tmp_path), 1, {"w": STATE["w"] + 1}, {"a": 1})


def test_another_state_than_the_ledger_names_is_refused(tmp_path: Path) -> None:
    save_checkpoint(RunFolder(tmp_path), 1, STATE, {})
    with pytest.raises(EvidenceError):
        load_checkpoint(RunFolder(tmp_path), 1, expect=bytes(32))


@pytest.mark.parametrize("name", ["000001.safetensors", "000001.json"])
def test_every_flipped_byte_and_every_cut_is_refused(tmp_path: Path, name: str) -> None:
    save_checkpoint(RunFolder(tmp_path), 1, STATE, {"chain": "ab"})
    file = tmp_path / "checkpoints" / name
    good = file.read_bytes()
    for place in range(len(good)):
        for bad in (good[:place] + bytes([good[place] ^ 0x01]) + good[place + 1 :], good[:place]):
            file.write_bytes(bad)
            with pytest.raises(EvidenceError):
                load_checkpoint(RunFolder(tmp_path), 1)
    file.write_bytes(good)
    load_checkpoint(RunFolder(tmp_path), 1)


def test_a_checkpoint_without_its_description_does_not_exist(tmp_path: Path) -> None:
    """The crash between the two renames."""
    save_checkpoint(RunFolder(tmp_path), 1, STATE, {})
    save_checkpoint(RunFolder(tmp_path), 2, STATE, {})
    (tmp_path / "checkpoints" / "000002.json").unlink()
    assert load_checkpoint(RunFolder(tmp_path)).step == 1
    save_checkpoint(RunFolder(tmp_path), 2, {"w": STATE["w"]}, {})
    assert load_checkpoint(RunFolder(tmp_path)).step == 2


@pytest.mark.parametrize("limit", [0, 20, 200])
def test_a_full_disk_leaves_no_checkpoint(tmp_path: Path, limit: int) -> None:
    with file_limit(limit), pytest.raises(NoSpace):
        save_checkpoint(RunFolder(tmp_path), 1, STATE, {})
    assert checkpoint_steps(RunFolder(tmp_path)) == []
    assert not list(tmp_path.rglob("*.new"))
    save_checkpoint(RunFolder(tmp_path), 1, STATE, {})


def test_only_float32_and_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(LayoutMismatch, match="float64"):
        save_checkpoint(RunFolder(tmp_path), 1, {"w": np.zeros(2)}, {})
    with pytest.raises(SpecError, match=r"meta\.loss"):
        save_checkpoint(RunFolder(tmp_path), 1, STATE, {"loss": 0.1})
    with pytest.raises(SpecError):
        save_checkpoint(RunFolder(tmp_path), -1, STATE, {})
    with pytest.raises(SpecError):
        prune_checkpoints(RunFolder(tmp_path), 0)


# --- uploads -----------------------------------------------------------------------------------------------------


@given(cuts=st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_chunks_make_the_lane(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    store = UploadStore(RunFolder(tmp_path_factory.mktemp("run")), 0)
    done = 0
    for cut in cuts:
        assert store.append("silo-1", "trunk", words(cut, done)) == done + cut
        done += cut
    assert store.complete("silo-1", "trunk", done).tolist() == list(range(done))
    assert store.complete("silo-1", "trunk", done).tolist() == list(range(done))  # again


def test_words_are_little_endian(tmp_path: Path) -> None:
    store = UploadStore(RunFolder(tmp_path), 12)
    store.append("silo-1", "expert/0", np.array([1, 2], dtype=">u4"))
    lane = store.complete("silo-1", "expert/0")
    assert lane.dtype == np.dtype("<u4") and not lane.flags.writeable
    assert (tmp_path / "uploads/000012/silo-1/expert%2F0.u32").read_bytes() == bytes([1, 0, 0, 0, 2, 0, 0, 0])
    assert store.completed() == {"silo-1": ("expert/0",)}


def test_a_restart_goes_on_where_whole_words_end(tmp_path: Path) -> None:
    UploadStore(RunFolder(tmp_path), 0).append("silo-1", "trunk", words(10))
    part = tmp_path / "uploads/000000/silo-1/trunk.u32.part"
    part.write_bytes(part.read_bytes()[:-3])  # killed in the middle of a word
    store = UploadStore(RunFolder(tmp_path), 0)
    assert store.completed() == {} and store.staged("silo-1", "trunk") == 9
    store.append("silo-1", "trunk", words(3, 9))
    assert store.complete("silo-1", "trunk", 12).tolist() == list(range(12))
    assert UploadStore(RunFolder(tmp_path), 0).completed() == {"silo-1": ("trunk",)}


def test_a_full_disk_takes_the_chunk_back(tmp_path: Path) -> None:
    store = UploadStore(RunFolder(tmp_path), 0)
    store.append("silo-1", "trunk", words(10))
    with file_limit(60), pytest.raises(NoSpace, match="Free disk space"):
        store.append("silo-1", "trunk", words(10, 10))
    assert store.staged("silo-1", "trunk") == 10
    store.append("silo-1", "trunk", words(10, 10))
    assert store.complete("silo-1", "trunk", 20).tolist() == list(range(20))


def test_a_disk_full_at_sync_is_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = UploadStore(RunFolder(tmp_path), 0)
    store.append("silo-1", "trunk", words(1))

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched, pytest.raises(NoSpace, match="quota"):
        patched.setattr(os, "fsync", full)
        store.complete("silo-1", "trunk")
    assert store.completed() == {}


def test_the_wrong_length_or_type_is_refused(tmp_path: Path) -> None:
    store = UploadStore(RunFolder(tmp_path), 0)
    with pytest.raises(LayoutMismatch, match="0 words"):
        store.complete("silo-1", "trunk")
    with pytest.raises(LayoutMismatch, match="int32"):
        store.append("silo-1", "trunk", np.zeros(3, np.int32))
    store.append("silo-1", "trunk", words(3))
    with pytest.raises(LayoutMismatch, match=r"3 words.*says 4"):
        store.complete("silo-1", "trunk", 4)
    store.complete("silo-1", "trunk", 3)
    with pytest.raises(LayoutMismatch, match="complete"):
        store.append("silo-1", "trunk", words(1))


@pytest.mark.parametrize("silo", ["..", "a/b", "", ".", "a\x00", "a" * 64])
def test_names_stay_in_the_folder(tmp_path: Path, silo: str) -> None:
    with pytest.raises(SpecError):
        UploadStore(RunFolder(tmp_path), 0).append(silo, "trunk", words(1))
    with pytest.raises(SpecError):
        UploadStore(RunFolder(tmp_path), 0).append("silo-1", "../x", words(1))
    assert not (tmp_path / "uploads").exists()


@pytest.mark.parametrize(("policy", "left"), [("none", []), ("last", ["000002"]), ("all", ["000001", "000002"])])
def test_retention(tmp_path: Path, policy: str, left: list[str]) -> None:
    for step in (1, 2):
        store = UploadStore(RunFolder(tmp_path), step, policy)
        store.append("silo-1", "trunk", words(2))
        store.complete("silo-1", "trunk")
        store.retire(sums=True)
    assert sorted(os.listdir(tmp_path / "uploads")) == left


@pytest.mark.parametrize(("policy", "left"), [("none", []), ("last", ["000001"]), ("all", ["000001", "000003"])])
def test_last_is_the_last_step_with_sums(tmp_path: Path, policy: str, left: list[str]) -> None:
    """M1: a step of slots only (2), and one that opened no lane (3), don't take the place of one with sums (1)."""
    for step, sums in ((0, True), (1, True), (2, False), (3, False)):
        store = UploadStore(RunFolder(tmp_path), step, policy)
        if step != 2:
            store.append("silo-1", "trunk", words(2))
            store.complete("silo-1", "trunk")
        store.retire(sums=sums)
    assert sorted(os.listdir(tmp_path / "uploads")) == (["000000", *left] if policy == "all" else left)


def test_retention_is_one_of_three(tmp_path: Path) -> None:
    assert UploadStore(RunFolder(tmp_path), 0).retention is Retention.NONE
    with pytest.raises(SpecError, match="none, last, all"):
        UploadStore(RunFolder(tmp_path), 0, "some")
    UploadStore(RunFolder(tmp_path), 0).retire(sums=True)  # nothing there: nothing to do


def test_a_dropped_silo_is_forgotten(tmp_path: Path) -> None:
    store = UploadStore(RunFolder(tmp_path), 0)
    for silo in ("silo-1", "silo-2"):
        store.append(silo, "trunk", words(2))
        store.complete(silo, "trunk")
    store.drop("silo-1")
    store.drop("silo-3")
    assert store.completed() == {"silo-2": ("trunk",)}


def test_the_predictor_is_a_file_of_the_release(tmp_path: Path) -> None:
    source, folder = tmp_path / "p.py", RunFolder(tmp_path / "run")
    source.write_text("x = 1\n")
    release = ReleaseManifest({PREDICTOR: sha256(source.read_bytes()).hexdigest()})
    facts = stage_predictor(folder, source, release=release, requirements=["numpy"], settings="{}", shape=(4,))
    assert facts["file"] == "predictor.py" and len(facts["sha256"]) == 64 and facts["shape"] == [4]
    assert folder.predictor_path.read_bytes() == source.read_bytes()
    assert ReleaseManifest.from_bytes(folder.release_path.read_bytes()) == release
    source.write_text("x = 2\n")
    with pytest.raises(SpecError, match="restart the service"):
        stage_predictor(folder, source, release=release, requirements=["numpy"], settings="{}", shape=(4,))
