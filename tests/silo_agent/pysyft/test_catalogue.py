"""The catalogue: what registering refuses, what it leaves on disk, and what it finds amiss afterwards.

PySyft is real here: its own manager and its own rules are asked what our code wrote.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused, FederationError, NonFinite, NoSpace, SpecError
from silo_agent.data import check, commitment
from silo_agent.home import SiloHome
from silo_agent.pysyft import catalogue as module
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.pysyft.datasite import ADMIN, STRANGER, Datasite, owner_address, silo_of
from silo_agent.pysyft.mock import Schema, check_mock, read_mocks

SALT = bytes(range(32))
#: Rows of each split.
SPLITS = (("train", 20), ("test", 6))


def arrays(seed: int, rows: int = 20, **changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {
        "x_train": rng.normal(size=(rows, 3)).astype(np.float32),
        "y_train": np.arange(rows) % 3,
        "x_test": rng.normal(size=(6, 3)).astype(np.float32),
        "y_test": np.arange(6) % 3,
        "classes": np.array(3),
    }
    return {name: np.asarray(value) for name, value in (made | changes).items()}


def npz(path: Path, seed: int, **changes: object) -> Path:
    np.savez(path, allow_pickle=False, **arrays(seed, **changes))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    (made / "salt").write_bytes(SALT)
    return made


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The owner's private and mock npz."""
    return npz(tmp_path / "real.npz", 1, patient=np.arange(20)), npz(tmp_path / "mock.npz", 2)


@pytest.fixture
def heart(home: Path, files: tuple[Path, Path]) -> Catalogue:
    """A catalogue with one data set, ``heart``."""
    made = Catalogue(SiloHome(home), "north")
    made.add("heart", *files, summary="Echocardiograms, 2019")
    return made


def tree(home: Path) -> dict[str, bytes]:
    """Every file below a home and its content."""
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


# --- what registering does -------------------------------------------------------------------------------------------


def test_a_data_set_is_registered_and_resolved(heart: Catalogue) -> None:
    entry = heart.entry("heart")
    resolved = heart.resolve("heart")
    data, uid = resolved.data, resolved.id.uid
    assert (entry.name, entry.uid, entry.summary) == ("heart", uid, "Echocardiograms, 2019")
    assert entry.schema == Schema(shape=(3,), classes=3)
    assert entry.commitment == commitment(check("heart", arrays(1)), SALT) == commitment(data, SALT)
    assert heart.entries() == [entry]


def test_pysyft_knows_the_same_data_set(heart: Catalogue) -> None:
    """The contract with the pinned packages: uid, paths, files and rules as PySyft's own classes tell them."""
    from syft_datasets.dataset_manager import SyftDatasetManager
    from syft_perms import SyftPermContext

    entry, datasite = heart.entry("heart"), heart.datasite
    dataset = SyftDatasetManager(datasite.syftbox, datasite.owner).get("heart")
    assert (str(dataset.uid), dataset.summary, dataset.owner) == (entry.uid, entry.summary, datasite.owner)
    assert [path for path in dataset.private_files if path.name == "data.npz"] == [entry.private]
    assert [path.resolve() for path in dataset.mock_files] == [entry.mock.resolve()]
    assert str(dataset.private_config.uid) == entry.uid
    rules = SyftPermContext(datasite=datasite.folder)
    may = {
        (half, who): rules.open(path.relative_to(datasite.folder)).has_read_access(who)
        for half, path in (("mock", entry.mock), ("private", entry.private))
        for who in (datasite.owner, ADMIN, STRANGER)
    }
    assert [key for key, allowed in may.items() if allowed] == [
        ("mock", datasite.owner),
        ("mock", ADMIN),
        ("private", datasite.owner),
    ]


def test_private_files_are_the_agents_users_alone_and_nowhere_else(
    heart: Catalogue, home: Path, files: tuple[Path, Path]
) -> None:
    entry = heart.entry("heart")
    for path in entry.private.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    above = [folder for folder in entry.private.parents if folder.is_relative_to(home)]
    assert {folder.stat().st_mode & 0o777 for folder in above} == {0o700}
    assert entry.mock.stat().st_mode & 0o777 == 0o644
    row = arrays(1)["x_train"][3].tobytes()
    assert [name for name, content in tree(home).items() if row in content] == [str(entry.private.relative_to(home))]
    assert row in files[0].read_bytes(), "the original stays"
    assert not (heart.datasite.syftbox / ".adding").exists()


def test_only_the_five_arrays_are_copied(heart: Catalogue) -> None:
    entry = heart.entry("heart")
    for path in (entry.private, entry.mock):
        with np.load(path) as archive:
            assert set(archive.files) == {"x_train", "y_train", "x_test", "y_test", "classes"}


def test_the_record_and_the_schema_never_tell_how_many_rows(heart: Catalogue) -> None:
    record = json.loads((heart.entry("heart").private.parent / "record.json").read_text())
    assert record.keys() == {"uid", "features", "classes", "commitment"}
    assert not any("20" in shape for shape in Schema((3,), 3).arrays.values())
    assert Schema((3,), 3).arrays["x_train"] == "float32 (rows, 3)"


def test_a_name_that_is_taken_needs_replace_and_gets_a_new_uid(
    heart: Catalogue, files: tuple[Path, Path], tmp_path: Path
) -> None:
    old = heart.entry("heart")
    with pytest.raises(DataRefused, match="registered here already") as refused:
        heart.add("heart", *files)
    assert "--replace" in refused.value.remedy
    assert heart.entry("heart") == old
    new = heart.add("heart", npz(tmp_path / "next.npz", 3), files[1], replace=True)
    assert new.uid != old.uid and new.commitment != old.commitment
    assert heart.resolve("heart").id.uid == new.uid
    assert heart.add("heart", npz(tmp_path / "next.npz", 3), files[1], replace=True).uid not in (old.uid, new.uid)


def test_several_data_sets_of_one_silo(heart: Catalogue, files: tuple[Path, Path]) -> None:
    heart.add("lung.v2", *files)
    assert heart.names() == ["heart", "lung.v2"]
    assert len({entry.uid for entry in heart.entries()}) == 2


def test_mocks_are_read_from_public_halves_alone(heart: Catalogue, files: tuple[Path, Path], tmp_path: Path) -> None:
    shown = heart.mock("heart")
    assert all(np.array_equal(shown[name], array) for name, array in arrays(2).items())
    admin = tmp_path / "admin"  # an admin's PySyft folder: the public halves of two silos, and nothing else
    shutil.copytree(heart.datasite.folder / "public", admin / owner_address("north") / "public")
    shutil.copytree(heart.datasite.folder / "public", admin / owner_address("south.1") / "public")
    (admin / "somebody@example.org").mkdir()
    (admin / owner_address("west")).mkdir()
    assert list(read_mocks(admin, "heart")) == ["north", "south.1"]
    with pytest.raises(DataRefused, match="no data set name"):
        read_mocks(admin, "../heart")
    with pytest.raises(DataRefused, match="No silo's public half"):
        read_mocks(admin, "lung")


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "..", "a/b", "a b", "/etc/passwd", "", "A", "x" * 64, "a\n", "v1"])
def test_a_bad_name_touches_no_path(home: Path, files: tuple[Path, Path], name: str) -> None:
    before, catalogue = tree(home), Catalogue(SiloHome(home), "north")
    why = "PySyft keeps for itself" if name == "v1" else "no data set name"
    with pytest.raises(DataRefused, match=why):
        catalogue.add(name, *files)
    if name != "v1":
        for refuse in (catalogue.resolve, catalogue.entry, catalogue.mock):
            with pytest.raises(DataRefused, match=why):
                refuse(name)
    assert tree(home) == before


@pytest.mark.parametrize("silo", ["../north", "", "North", "a/b", "a@b"])
def test_a_bad_silo_id_is_refused(home: Path, silo: str) -> None:
    with pytest.raises(SpecError, match="silo"):
        Catalogue(SiloHome(home), silo)


@pytest.mark.parametrize(
    ("private", "mock", "error", "why"),
    [
        ({"x_train": np.full((20, 3), np.nan)}, {}, NonFinite, "x_train"),
        ({"y_train": np.zeros(20, dtype=int)}, {}, DataRefused, "single class"),
        ({}, {"x_test": np.full((6, 3), np.inf)}, NonFinite, "mock of heart"),
        ({}, {"x_train": np.ones((20, 4)), "x_test": np.ones((6, 4))}, DataRefused, "4 features and 3 classes"),
        ({}, {"classes": 4}, DataRefused, "3 features and 4 classes"),
        ({}, {"x_train": arrays(1)["x_train"]}, DataRefused, "shows rows of the private data"),
        ({}, {"x_test": np.vstack([arrays(2)["x_test"][:5], arrays(1)["x_train"][7:8]])}, DataRefused, "shows rows"),
        ({}, {"x_train": np.vstack([arrays(2)["x_train"][:19], arrays(1)["x_test"][:1]])}, DataRefused, "shows rows"),
    ],
)
def test_files_that_are_no_data_set_or_no_mock(
    home: Path,
    tmp_path: Path,
    private: dict[str, object],
    mock: dict[str, object],
    error: type[FederationError],
    why: str,
) -> None:
    before = tree(home)
    with pytest.raises(error, match=why) as refused:
        Catalogue(SiloHome(home), "north").add(
            "heart", npz(tmp_path / "p.npz", 1, **private), npz(tmp_path / "m.npz", 2, **mock)
        )
    assert refused.value.remedy
    assert tree(home) == before


def test_a_private_row_is_found_whatever_its_zeros_are_called() -> None:
    private = check("heart", arrays(1, x_test=np.zeros((6, 3))))
    with pytest.raises(DataRefused, match="shows rows"):
        check_mock("heart", private, check("mock", arrays(2, x_test=np.full((6, 3), -0.0))))


def test_a_folder_or_a_missing_file_is_named(home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="not a readable npz"):
        Catalogue(SiloHome(home), "north").add("heart", tmp_path, files[1])
    with pytest.raises(DataRefused, match=r"no file 'gone\.npz'"):
        Catalogue(SiloHome(home), "north").add("heart", files[0], tmp_path / "gone.npz")
    with pytest.raises(DataRefused, match="not in this silo's catalogue") as refused:
        Catalogue(SiloHome(home), "north").resolve("heart")
    assert "fed data add" in refused.value.remedy


# --- interrupted, or no room -----------------------------------------------------------------------------------------


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where",
    ["numpy.savez", "syft_datasets.file_utils.shutil.copy2", "silo_agent.pysyft.catalogue._Record.save", "os.fsync"],
)
def test_a_full_disk_leaves_the_catalogue_as_it_was(
    heart: Catalogue, home: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import syft_datasets.file_utils  # noqa: F401  # so that it can be patched by name

    before = tree(home)
    monkeypatch.setattr(where, no_room)
    for name in ("heart", "lung"):
        with pytest.raises(NoSpace, match=f"{name}.*the disk is full"):
            heart.add(name, *files, replace=True)
    monkeypatch.undo()
    assert tree(home) == before
    assert heart.names() == ["heart"] and heart.entry("heart")


def test_a_copy_that_went_wrong_is_no_registration(
    home: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_rows(src: Path, dst: Path) -> None:
        npz(Path(dst), 9) if Path(src).suffix == ".npz" else shutil.copyfile(src, dst)

    import syft_datasets.file_utils

    monkeypatch.setattr(syft_datasets.file_utils.shutil, "copy2", other_rows)
    with pytest.raises(DataRefused, match="not those that were registered"):
        Catalogue(SiloHome(home), "north").add("heart", *files)
    assert Catalogue(SiloHome(home), "north").names() == []


def test_half_a_registration_counts_for_nothing_and_is_made_good(
    home: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the record was written: what is left are halves without a record, and a staging folder."""
    catalogue = Catalogue(SiloHome(home), "north")
    monkeypatch.setattr(module, "remove", lambda path: None)
    monkeypatch.setattr(module._Record, "save", no_room)
    with pytest.raises(NoSpace):
        catalogue.add("heart", *files)
    monkeypatch.undo()
    assert catalogue.names() == ["heart"]
    for refuse in (catalogue.resolve, catalogue.entry):
        with pytest.raises(DataRefused, match="half registered"):
            refuse("heart")
    assert (
        catalogue.add("heart", *files).uid == catalogue.resolve("heart").id.uid
    )  # no --replace: nothing was registered
    assert not (catalogue.datasite.syftbox / ".adding").exists()


def test_what_lies_in_the_staging_places_way_is_removed_not_followed(
    home: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    catalogue = Catalogue(SiloHome(home), "north")
    catalogue.datasite.folder.mkdir(parents=True)
    (catalogue.datasite.syftbox / ".adding").symlink_to(tmp_path / "outside")
    catalogue.add("heart", *files)
    assert (tmp_path / "outside" / "kept").exists() and not (catalogue.datasite.syftbox / ".adding").is_symlink()


def test_rules_that_pysyft_does_not_keep_stop_the_registration(
    home: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import syft_datasets.dataset_manager as manager

    def open_to_all(syftbox: Path, owner: str, private: Path) -> None:
        (private / "syft.pub.yaml").write_text("rules: [{pattern: '**', access: {read: ['*']}}]\n")

    monkeypatch.setattr(manager, "set_private_dataset_permissions", open_to_all)
    with pytest.raises(DataRefused, match="can read the private half"):
        Catalogue(SiloHome(home), "north").add("heart", *files)
    assert Catalogue(SiloHome(home), "north").names() == []
    monkeypatch.undo()
    monkeypatch.setattr(manager, "set_mock_dataset_permissions", lambda *_: None)
    with pytest.raises(DataRefused, match="cannot read the public half"):
        Catalogue(SiloHome(home), "north").add("heart", *files)


# --- tampered with since ---------------------------------------------------------------------------------------------


def other_rows(folder: Path) -> None:
    npz(folder / "data.npz", 8)


def damaged_rows(folder: Path) -> None:
    (folder / "data.npz").write_bytes(b"PK\x03\x04")


def other_commitment(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"commitment": "00" * 32}))


def other_schema(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"features": 4}))


def no_json(folder: Path) -> None:
    (folder / "record.json").write_text("{")


def not_an_object(folder: Path) -> None:
    (folder / "record.json").write_text("[1]")


def no_record(folder: Path) -> None:
    (folder / "record.json").unlink()


def no_rows(folder: Path) -> None:
    (folder / "data.npz").unlink()


def open_to_others(folder: Path) -> None:
    (folder / "data.npz").chmod(0o640)


def open_record(folder: Path) -> None:
    (folder / "record.json").chmod(0o606)


def linked_rows(folder: Path) -> None:
    shutil.move(folder / "data.npz", folder.parents[5] / "elsewhere.npz")
    (folder / "data.npz").symlink_to(folder.parents[5] / "elsewhere.npz")


def linked_folder(folder: Path) -> None:
    shutil.move(folder, folder.parents[5] / "elsewhere")
    folder.symlink_to(folder.parents[5] / "elsewhere")


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (other_rows, "not those that were registered"),
        (damaged_rows, "not a readable npz"),
        (other_commitment, "not those that were registered"),
        (other_schema, "not those that were registered"),
        (no_json, "record of data set 'heart' is damaged"),
        (not_an_object, "record of data set 'heart' is damaged"),
        (no_record, "half registered"),
        (no_rows, "No such file"),
        (open_to_others, "mode 640"),
        (open_record, "mode 606"),
        (linked_rows, "is a link"),
        (linked_folder, "is a link"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_what_was_tampered_with_is_not_resolved(heart: Catalogue, tamper, why: str) -> None:  # type: ignore[no-untyped-def]
    tamper(heart.entry("heart").private.parent)
    with pytest.raises(DataRefused, match=why) as refused:
        heart.resolve("heart")
    assert refused.value.remedy


def test_the_salt_binds_the_catalogue_to_its_silo(heart: Catalogue, home: Path) -> None:
    (home / "salt").write_bytes(bytes(32))
    with pytest.raises(DataRefused, match="not those that were registered"):
        heart.resolve("heart")
    (home / "salt").unlink()
    with pytest.raises(DataRefused, match="salt"):
        heart.resolve("heart")


def test_a_data_set_that_pysyft_registered_anew_is_another(heart: Catalogue, files: tuple[Path, Path]) -> None:
    from syft_datasets.dataset_manager import SyftDatasetManager

    record = heart.entry("heart").private.parent / "record.json"
    kept = record.read_bytes()
    manager = SyftDatasetManager(heart.datasite.syftbox, heart.datasite.owner)
    manager.delete("heart", require_confirmation=False)
    with pytest.raises(DataRefused, match="not in this silo's catalogue"):
        heart.resolve("heart")
    manager.create("heart", files[1], files[0], protocol_versions=["1"])
    with pytest.raises(DataRefused, match="half registered"):
        heart.resolve("heart")
    record.write_bytes(kept)
    record.chmod(0o600)
    with pytest.raises(DataRefused, match="PySyft knows another registration"):
        heart.entry("heart")


@pytest.mark.parametrize("yaml", ["", "[", "uid: 7", "- a", "uid: not-a-uid\nname: heart"])
def test_damaged_pysyft_files_are_named(heart: Catalogue, yaml: str) -> None:
    entry = heart.entry("heart")
    (entry.mock.parent / "dataset.yaml").write_text(yaml)
    with pytest.raises(DataRefused, match="ata set 'heart'"):
        heart.entry("heart")
    assert heart.resolve("heart").id.uid == entry.uid, "jobs don't stand on PySyft's files"


def test_rules_edited_since_are_noticed(heart: Catalogue) -> None:
    folder = heart.entry("heart").private.parent
    (folder / "syft.pub.yaml").write_text("rules: [{pattern: '**', access: {read: ['*']}}]\n")
    with pytest.raises(DataRefused, match=f"{ADMIN} can read the private half"):
        heart.entry("heart")


@pytest.mark.parametrize("half", ["private", "public"])
def test_nothing_is_written_through_a_link(home: Path, files: tuple[Path, Path], tmp_path: Path, half: str) -> None:
    catalogue = Catalogue(SiloHome(home), "north")
    catalogue.datasite.folder.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (catalogue.datasite.folder / half).symlink_to(tmp_path / "outside")
    with pytest.raises(DataRefused, match="is a link"):
        catalogue.add("heart", *files)
    assert not list((tmp_path / "outside").iterdir())


def test_a_linked_folder_is_refused(home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (home / "syft").symlink_to(tmp_path / "outside")
    with pytest.raises(DataRefused, match="is a link"):
        Catalogue(SiloHome(home), "north").add("heart", *files)
    assert not list((tmp_path / "outside").iterdir())


# --- the datasite ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silo", ["silo-1", "st-mary.org", "a", "a..b", "0" * 63])
def test_an_owners_address_tells_the_silo(silo: str) -> None:
    from syft_job.models import JobSubmissionMetadata

    assert silo_of(owner_address(silo)) == silo
    assert JobSubmissionMetadata.is_valid_email(owner_address(silo))


@pytest.mark.parametrize("address", [ADMIN, STRANGER, "owner@.invalid", "owner@North.invalid", "north", "owner@north"])
def test_other_addresses_are_no_silos(address: str) -> None:
    assert silo_of(address) is None


def test_one_writer_at_a_time(home: Path) -> None:
    import fcntl

    datasite = Datasite.of(SiloHome(home), "north")
    with datasite.writing():
        lock = os.open(datasite.syftbox / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)
    assert datasite.syftbox.stat().st_mode & 0o777 == 0o700


def test_job_processes_resolve_without_pysyft(heart: Catalogue, home: Path) -> None:
    script = (
        "import sys, pathlib; from silo_agent.home import SiloHome; from silo_agent.pysyft.catalogue import Catalogue\n"
        f"Catalogue(SiloHome(pathlib.Path({str(home)!r})), 'north').resolve('heart')\n"
        "sys.exit(any(name.split('.')[0] in ('syft', 'syft_datasets', 'syft_perms', 'yaml', 'torch')"
        " for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def flags(seed: int, rows: int = 40, columns: int = 4) -> dict[str, np.ndarray]:
    """Rows of yes/no columns."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {"classes": np.array(2)}
    for part in ("train", "test"):
        x = rng.integers(0, 2, size=(rows, columns)).astype(np.float32)
        made |= {f"x_{part}": x, f"y_{part}": np.arange(rows) % 2}
    return made


def test_rows_of_few_values_meet_by_chance_and_copied_ones_are_still_found() -> None:
    check_mock("flags", check("flags", flags(1)), check("mock", flags(2)))
    wide, other = check("flags", flags(1, columns=30)), check("mock", flags(2, columns=30))
    check_mock("flags", wide, other)
    with pytest.raises(DataRefused, match="shows rows"):
        check_mock("flags", wide, check("mock", flags(2, columns=30) | {"x_test": flags(1, columns=30)["x_test"]}))
    ten = check("flags", flags(1, columns=10))
    with pytest.raises(DataRefused, match="shows rows"):
        check_mock("flags", ten, check("mock", flags(1, columns=10)))


def test_inputs_of_a_higher_rank(home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    images = {f"x_{part}": rng.normal(size=(rows, 1, 4, 4)) for part, rows in SPLITS}
    shown = {name: -array for name, array in images.items()}
    catalogue = Catalogue(SiloHome(home), "north")
    entry = catalogue.add("scans", npz(tmp_path / "p.npz", 1, **images), npz(tmp_path / "m.npz", 2, **shown))
    assert entry.schema == Schema((1, 4, 4), 3) == catalogue.entry("scans").schema
    assert catalogue.resolve("scans").data.shape == (1, 4, 4)
    assert entry.schema.arrays["x_train"] == "float32 (rows, 1, 4, 4)" and entry.schema.features == 16
    masks = {f"y_{part}": np.ones((rows, 4, 4), int) * (np.arange(rows) % 2)[:, None, None] for part, rows in SPLITS}
    both = npz(tmp_path / "p.npz", 1, **images, **masks), npz(tmp_path / "m.npz", 2, **shown, **masks)
    entry = catalogue.add("lesions", *both)
    assert entry.schema == Schema((1, 4, 4), 3, target="mask") == catalogue.entry("lesions").schema
    assert entry.schema.arrays["y_test"] == "int64 (rows, 4, 4) from 0 to 2"
    assert catalogue.resolve("lesions").data.masks
    with pytest.raises(DataRefused, match="mock of 'lesions' has"):
        catalogue.add("lesions", both[0], npz(tmp_path / "m.npz", 2, **shown), replace=True)
