"""A bundle verifies on another machine, and no byte of it, anywhere, can change unnoticed."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ledger.format import canonical
from aggregator.verify import bundle, zip_format
from aggregator.verify.bundle import MANIFEST, unpacked, verify_bundle, write_bundle
from aggregator.verify.report import CheckOutcome, VerificationReport
from crypto.errors import EvidenceError, SpecError
from crypto.keys import PublicIdentity
from jobs import release
from tests import local, tampering
from tests.tampering import Finished, flip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    run = tampering.finish(tmp_path_factory.mktemp("run") / "f", local.spec(rounds=1))
    (run.folder / "model-card.md").write_text("# a card\n")
    note = {"model": "fedavg-test", "version": "1", "run_id": "0", "tracking_uri": ""}
    (run.folder / "mlflow.json").write_text(json.dumps(note))
    return run


@pytest.fixture(scope="module")
def whole(run: Finished) -> Path:
    """With the uploads."""
    return write_bundle(run.home, run.run, run.federation.root / "whole.zip").path


@pytest.fixture(scope="module")
def small(run: Finished) -> Path:
    """Without them, so that every byte of its structure can be tried."""
    return write_bundle(run.home, run.run, run.federation.root / "small.zip", uploads=False).path


def refused(path: Path) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        verify_bundle(path)
    assert caught.value.expected != caught.value.found
    return caught.value


def parts(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as opened:
        return [(info.filename, opened.read(info)) for info in opened.infolist()]


def seal(path: Path, files: list[tuple[str, bytes]], **fields: object) -> None:
    """Another bundle in its place, whose manifest fits: what a forger hands over. ``fields``: of the manifest."""
    old = json.loads(dict(files)[MANIFEST])
    others = sorted(item for item in files if item[0] != MANIFEST)
    listed = bundle._listed((name, len(data), bundle_sha(data)) for name, data in others)
    manifest = canonical({**old, "members": listed, **fields}) + b"\n"
    write_zip(path, [(MANIFEST, manifest), *others])


def write_zip(path: Path, files: list[tuple[str, bytes]]) -> None:
    members = [zip_format.Member(name, len(data), crc32(data)) for name, data in files]
    with path.open("wb") as out:
        for member, (_, data) in zip(members, files, strict=True):
            out.write(member.local() + data)
        out.write(zip_format.directory(members))


def bundle_sha(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()


# --- what holds --------------------------------------------------------------------------------------------------


def test_a_bundle_holds_without_its_home(run: Finished, whole: Path, tmp_path: Path) -> None:
    moved = shutil.copy(whole, tmp_path / "handed over.zip")
    key = PublicIdentity((run.home.root / "consortium.pub").read_bytes())
    shown: list[str] = []
    report = verify_bundle(
        Path(moved), consortium=key.fingerprint, release=release.manifest(), show=lambda line: shown.append(line.name)
    )
    assert report.target == f"run {run.run}"
    assert [line.name for line in report.of(CheckOutcome.NOT_CHECKED)] == ["versions", "unsigned"]
    assert "mlflow.json, model-card.md" in report.lines[-1].detail
    assert {"bundle", "consortium", "sums", "state", "closing", "model", "code", "versions"} <= set(shown)


def test_any_tool_opens_it(whole: Path, run: Finished) -> None:
    with zipfile.ZipFile(whole) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
    assert names[0] == MANIFEST and names[1:] == sorted(names[1:])
    folder = f"jobs/{run.run}"
    assert {f"{folder}/model-card.md", f"{folder}/mlflow.json", "consortium.pub", "ledger/ledger.jsonl"} <= set(names)
    assert not any("events" in name or "keys" in name for name in names)
    assert stat.S_IMODE(whole.stat().st_mode) == 0o600


def test_equal_homes_make_equal_bundles(run: Finished, whole: Path, tmp_path: Path) -> None:
    again = write_bundle(run.copy(tmp_path / "f").home, run.run, tmp_path / "again.zip")
    assert again.path.read_bytes() == whole.read_bytes()
    assert (again.size, again.sha256, again.members) == (
        whole.stat().st_size, bundle_sha(whole.read_bytes()), len(parts(whole)),
    )  # fmt: skip


def test_without_uploads_it_says_so(small: Path) -> None:
    assert "sums" in [line.name for line in verify_bundle(small).of(CheckOutcome.NOT_CHECKED)]


def test_nothing_stays_behind(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with unpacked(small, VerificationReport("")) as (home, _):
        assert stat.S_IMODE(home.root.stat().st_mode) == 0o700 and home.root.parent == tmp_path
    verify_bundle(small)
    assert list(tmp_path.iterdir()) == []


# --- writing -----------------------------------------------------------------------------------------------------


def test_what_can_not_be_written(run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.zip").write_bytes(b"mine")
    with pytest.raises(SpecError, match="exists"):
        write_bundle(run.home, run.run, tmp_path / "there.zip")
    assert (tmp_path / "there.zip").read_bytes() == b"mine"
    with pytest.raises(SpecError, match="has finished"):
        write_bundle(run.home, "0" * 16, tmp_path / "out.zip")
    for name, most in (("MOST_MEMBERS", 5), ("MOST_BYTES", 1000)):
        with monkeypatch.context() as patch, pytest.raises(SpecError, match=f"at most .*{most}"):
            patch.setattr(zip_format, name, most)
            write_bundle(run.home, run.run, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_a_file_that_changes_meanwhile_leaves_no_bundle(
    run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = run.copy(tmp_path / "f")
    measured = bundle.total

    def change(sizes: object) -> int:
        flip(spoilt.folder / "predictor.py")
        return measured(sizes)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle, "total", change)
    with pytest.raises(EvidenceError, match=r"predictor\.py: .*changed while it was copied"):
        write_bundle(spoilt.home, spoilt.run, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


# --- one flipped byte --------------------------------------------------------------------------------------------


def regions(path: Path) -> list[tuple[str, int, int]]:
    """(what is there, from, to) over the whole file."""
    found, at = [], 0
    files = parts(path)
    for name, data in files:
        head = 30 + len(name)
        found += [(f"header of {name}", at, at + head), (name, at + head, at + head + len(data))]
        at += head + len(data)
    return [*found, ("the directory", at, path.stat().st_size)]


def named(error: EvidenceError, what: str, bundle: Path) -> bool:
    """The member, its header, or the byte of the zip's structure is in the error's place."""
    return error.where.startswith(bundle.name) and what.removeprefix("header of ") in error.where


@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found_and_named(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    what, start, end = data.draw(st.sampled_from(regions(whole)).filter(lambda region: region[2] > region[1]))
    place, bit = data.draw(st.integers(start, end - 1)), data.draw(st.integers(0, 7))
    spoilt = bytearray(whole.read_bytes())
    spoilt[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.zip"
    path.write_bytes(spoilt)
    error = refused(path)
    assert error.where.startswith(path.name)
    if place > 30 + len(MANIFEST):  # before that nobody can tell where the first member ends
        assert named(error, what, path), (what, place, error)


def test_every_field_of_the_structure_is_looked_at(small: Path, tmp_path: Path) -> None:
    """Each byte of two headers, of two entries of the directory and of its end; of the rest every eleventh."""
    good, path = small.read_bytes(), tmp_path / "b.zip"
    headers = [region for region in regions(small) if region[0].startswith("header of")]
    what, start, end = regions(small)[-1]
    wanted = [(name, place) for name, first, last in headers[:2] for place in range(first, last)]
    wanted += [(name, place) for name, first, last in headers[2:] for place in range(first, last, 11)]
    wanted += [(what, place) for place in (*range(start, start + 120), *range(start + 120, end, 11))]
    wanted += [(what, place) for place in range(end - 22, end)]
    for name, place in wanted:
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x01]) + good[place + 1 :])
        error = refused(path)
        assert place < 43 or named(error, name, path), (name, place, error)


def test_every_region_of_the_whole(whole: Path, tmp_path: Path) -> None:
    good, path = whole.read_bytes(), tmp_path / "b.zip"
    for what, start, end in regions(whole)[2:]:
        for place in {start, (start + end) // 2, end - 1}:
            path.write_bytes(good[:place] + bytes([good[place] ^ 0x80]) + good[place + 1 :])
            assert named(refused(path), what, path), (what, place)


@pytest.mark.parametrize("cut", [0, 1, 4, 30, 42, 43, 500, 3000, -1, -22, -23, -500])
def test_a_truncated_bundle(small: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(small.read_bytes()[:cut])
    assert refused(path).where.startswith("b.zip")


def test_bytes_before_behind_and_between(small: Path, tmp_path: Path) -> None:
    good, path = small.read_bytes(), tmp_path / "b.zip"
    for data in (b"x" + good, good + b"x", good + bytes(22), good[:-2] + b"\x01\x00x"):
        path.write_bytes(data)
        assert refused(path).where.startswith("b.zip")


# --- other zips --------------------------------------------------------------------------------------------------


def test_what_is_no_bundle(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(b"hello")
    assert refused(path).expected == "a zip file"
    path.write_bytes(b"")
    assert refused(path).expected == "a zip file"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("consilium.txt", "x" * 100)
    assert "manifest.json first" in refused(path).expected
    with zipfile.ZipFile(path, "w") as out:
        for name, data in parts(small):
            out.writestr(name, data)
    assert "zip structure at byte" in refused(path).where  # the same files, another dialect
    assert refused(tmp_path / "none.zip").found == "No such file or directory"


def test_a_zip_bomb_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(MANIFEST, b"\0" * (1 << 24))
    assert refused(path).found == "compression (method 8)"
    huge = zip_format.Member(MANIFEST, 2**32 - 10, 0).local()
    path.write_bytes(huge + bytes(100))
    assert (refused(path).where, refused(path).found) == ("b.zip, manifest.json", f"{2**32 - 10} bytes")


def test_an_encrypted_zip(small: Path, tmp_path: Path) -> None:
    data = bytearray(small.read_bytes())
    data[6] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    assert refused(tmp_path / "b.zip").found == "encryption"


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/evil", "jobs/../../evil", "keys/aggregator.key", "ledger/ledger.jsonl/x", "jobs/{run}/x.py",
        "jobs/0123456789abcdef/predictor.py", "jobs/{run}/uploads/000001/../x.u32", "charters/1.bin", "C:\\evil",
        "jobs/{run}/checkpoints/000001.safetensors/", "consortium.pub\n",
    ],
)  # fmt: skip
def test_names_that_no_bundle_has(run: Finished, small: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "b.zip"
    path.parent.mkdir()
    seal(path, [*parts(small), (name.format(run=run.run), b"x")])
    assert refused(path).expected == "files of one run's home"
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["b.zip", "in"]


def test_names_twice_or_in_disorder(small: Path, tmp_path: Path) -> None:
    path, files = tmp_path / "b.zip", parts(small)
    seal(path, [*files, files[2]])
    assert "a name twice" in str(refused(path).found)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"run": "../../etc"}, "a run id"),
        ({"run": 5}, "a run id"),
        ({"versions": {"bundle": 2, "consilium": "9"}}, "format 1"),
        ({"versions": []}, "a bundle's manifest"),
        ({"about": "else"}, "a manifest in canonical form"),
        ({"more": 1}, "a manifest in canonical form"),
        ({"members": [{"name": "consortium.pub", "size": -1, "sha256": ""}]}, "at most"),
        ({"members": [{"name": "consortium.pub", "size": 10**12, "sha256": ""}]}, "at most"),
        ({"members": [{"name": "consortium.pub", "size": 31, "sha256": ""}]}, "by its manifest"),
        ({"members": [{"name": "consortium.pub", "size": 32, "sha256": "", "x": 1}]}, "a manifest in canonical form"),
        ({"members": "x"}, "a bundle's manifest"),
    ],
)
def test_manifests_that_are_none(small: Path, tmp_path: Path, fields: dict[str, object], what: str) -> None:
    seal(tmp_path / "b.zip", parts(small), **fields)
    error = refused(tmp_path / "b.zip")
    assert what in str(error.expected) and error.where.startswith("b.zip")


@pytest.mark.parametrize("data", [b"", b"{", b"[]\n", b'{"a":1.5}\n', b"\xff", b"[" * 5000])
def test_manifests_that_are_no_json(tmp_path: Path, data: bytes) -> None:
    write_zip(tmp_path / "b.zip", [(MANIFEST, data)])
    assert refused(tmp_path / "b.zip").where == "b.zip, manifest.json"


# --- a forger who seals it again ---------------------------------------------------------------------------------


def test_whatever_the_forger_changed_the_signatures_find(run: Finished, whole: Path, tmp_path: Path) -> None:
    """One bit of each file in turn, with a manifest to match: only what nobody signed can pass."""
    files, passed = parts(whole), []
    path = tmp_path / "b.zip"
    for place, (name, data) in enumerate(files):
        if name == MANIFEST:
            continue
        spoilt = bytearray(data)
        spoilt[len(data) // 2] ^= 0x01
        seal(path, [*files[:place], (name, bytes(spoilt)), *files[place + 1 :]])
        try:
            verify_bundle(path)
        except EvidenceError as error:
            assert error.expected != error.found, name
            assert name.rpartition("/")[2].split(".")[0] in error.where or name == "consortium.pub", (name, error)
        else:
            passed.append(name.rpartition("/")[2])
    assert passed == ["mlflow.json", "model-card.md"]  # and the report says that nobody signed them


def test_what_may_be_left_out_and_what_not(run: Finished, small: Path, tmp_path: Path) -> None:
    """Either copy of the charter will do; the model before the last one, and what nobody signed, proves nothing."""
    path, spare = tmp_path / "b.zip", []
    for name, _ in parts(small)[1:]:
        seal(path, [item for item in parts(small) if item[0] != name])
        try:
            verify_bundle(path)
        except EvidenceError as error:
            assert error.expected != error.found
        else:
            spare.append(name.removeprefix(f"jobs/{run.run}/"))
    assert spare == ["charter.bin", "charters/000001.bin", "checkpoints/000001.json", "mlflow.json", "model-card.md"]


def test_a_bundle_of_another_federation(run: Finished, small: Path, tmp_path: Path) -> None:
    other = tampering.finish(tmp_path / "other", replace(local.spec(rounds=1), keep_uploads="none"))
    with pytest.raises(EvidenceError) as caught:
        verify_bundle(small, consortium=str(other.home.root / "consortium.pub"))
    assert caught.value.where == "consortium.pub"


def test_the_numbers_of_the_format() -> None:
    """PKWARE's APPNOTE, 4.3.7, 4.3.12 and 4.3.16: a stored file, byte for byte."""
    member = zip_format.Member("a", 3, crc32(b"abc"))
    assert member.local() == b"PK\x03\x04" + struct.pack("<5H3L2H", 20, 0, 0, 0, 33, 0x352441C2, 3, 3, 1, 0) + b"a"
    assert zip_format.total([("a", 3)]) == len(member.local()) + 3 + len(zip_format.directory([member]))
