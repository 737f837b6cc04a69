"""Registered by reference: nothing is copied, and what changed since is refused by its name."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from crypto.errors import DataRefused, FederationError
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema
from tests.silo_agent.readers.tables import SCHEMA, patients, write_csv

BY = DataSchema.parse(tomllib.loads(SCHEMA))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    (made / "salt").write_bytes(bytes(range(32)))
    return made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A folder of three files."""
    for n in range(3):
        write_csv(tmp_path / "rows" / f"{n}.csv", patients(20, seed=n))
    return tmp_path / "rows"


@pytest.fixture
def risk(home: Path, rows: Path) -> Catalogue:
    made = Catalogue(SiloHome(home), "north")
    made.add_reference("risk", Reference.take("risk", rows, BY), summary="Admissions")
    return made


def tree(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def test_files_are_registered_and_not_copied(risk: Catalogue, home: Path, rows: Path) -> None:
    entry, resolved = risk.entry("risk"), risk.resolve("risk")
    assert entry.reference is not None and entry.reference.path == rows and entry.read_by == BY
    assert (entry.schema.shape, entry.schema.classes, resolved.schema) == ((9,), 2, BY)
    assert resolved.id.commitment == entry.commitment and resolved.data.rows == 45
    assert not any(b"Patient" in content for content in tree(home).values())
    assert entry.private.name == "reference.json" and entry.private.stat().st_mode & 0o777 == 0o600
    assert risk.mock("risk")["x_train"].shape == (64, 9)
    assert risk.names() == ["risk"] and risk.entries() == [entry]


def test_the_commitment_binds_files_schema_and_reader(risk: Catalogue, rows: Path) -> None:
    first = risk.entry("risk").commitment
    moved = rows.rename(rows.with_name("moved"))
    again = risk.add_reference("risk", Reference.take("risk", moved, BY), replace=True)
    assert again.commitment == first, "a folder that was moved is the same data"
    raw = tomllib.loads(SCHEMA)
    raw["columns"][3]["unit"] = "mmol per litre"
    other = risk.add_reference("risk", Reference.take("risk", moved, DataSchema.parse(raw)), replace=True)
    (moved / "0.csv").rename(moved / "5.csv")
    renamed = risk.add_reference("risk", Reference.take("risk", moved, BY), replace=True)
    assert len({first, other.commitment, renamed.commitment}) == 3


def edited(rows: Path) -> None:
    path = rows / "1.csv"
    path.write_text(path.read_text().replace("yes", "no ", 1))


def edited_and_set_back(rows: Path) -> None:
    times = (rows / "1.csv").stat()
    edited(rows)
    os.utime(rows / "1.csv", ns=(times.st_atime_ns, times.st_mtime_ns))


def longer(rows: Path) -> None:
    with (rows / "1.csv").open("a") as out:
        out.write("\n")


def gone(rows: Path) -> None:
    (rows / "1.csv").unlink()


def a_folder_instead(rows: Path) -> None:
    (rows / "1.csv").unlink()
    (rows / "1.csv").mkdir()


def added(rows: Path) -> None:
    write_csv(rows / "sub" / "3.csv", patients())


def all_gone(rows: Path) -> None:
    rows.rename(rows.with_name("elsewhere"))


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (edited, r"1\.csv has changed since"),
        (edited_and_set_back, r"1\.csv has changed since"),
        (longer, r"1\.csv has changed since"),
        (gone, r"1\.csv has vanished since"),
        (a_folder_instead, r"1\.csv has vanished since"),
        (added, r"sub/3\.csv was added since"),
        (all_gone, "rows' has vanished since"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_what_changed_since_is_refused_by_name(
    risk: Catalogue, rows: Path, tamper: Callable[[Path], None], why: str, thorough: bool
) -> None:
    tamper(rows)
    with pytest.raises(DataRefused, match=why) as refused:
        risk.resolve("risk", thorough=thorough)
    assert refused.value.remedy


def test_new_times_alone_change_nothing(risk: Catalogue, rows: Path) -> None:
    os.utime(rows / "1.csv")
    write_csv(rows / ".hidden" / "4.csv", patients())
    (rows / "readme.md").touch()
    assert risk.resolve("risk", thorough=False).data.rows == 45


def test_only_a_thorough_look_reads_files_whose_times_are_the_same(
    risk: Catalogue, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    mark = "silo_agent.readers.manifest._mark"

    def counted(name: str, root: Path, file: str) -> object:
        hashed.append(file)
        return real(name, root, file)

    from silo_agent.readers import manifest

    real = manifest._mark
    monkeypatch.setattr(mark, counted)
    risk.resolve("risk", thorough=False)
    assert hashed == []
    risk.resolve("risk")
    assert hashed == ["0.csv", "1.csv", "2.csv"]


def test_a_reference_that_was_edited_is_not_resolved(risk: Catalogue, tmp_path: Path) -> None:
    path = risk.entry("risk").private
    whole = path.read_text()
    for change, why in (
        (("mmol/l", "mg/dl"), "not read as it was registered"),
        (('"reader": "csv"', '"reader": "parquet"'), "not read as it was registered"),
        (('"files"', '"fils"'), "reference of data set 'risk' is damaged"),
    ):
        assert change[0] in whole
        path.write_text(whole.replace(*change))
        with pytest.raises(DataRefused, match=why):
            risk.resolve("risk")


def test_a_fault_leaves_nothing_half_registered(home: Path, rows: Path) -> None:
    catalogue, before = Catalogue(SiloHome(home), "north"), tree(home)
    edited_rows = patients(20)
    edited_rows[4]["glucose"] = "NaN"
    write_csv(rows / "1.csv", edited_rows)
    with pytest.raises(FederationError, match=r"1\.csv: column 'glucose': values are missing.*\(row 5\)"):
        catalogue.add_reference("risk", Reference.take("risk", rows, BY))
    assert tree(home) == before and catalogue.names() == []


def test_a_name_that_is_taken_needs_replace(risk: Catalogue, rows: Path) -> None:
    with pytest.raises(DataRefused, match="registered here already"):
        risk.add_reference("risk", Reference.take("risk", rows, BY))
    with pytest.raises(DataRefused, match="PySyft keeps for itself"):
        risk.add_reference("v1", Reference.take("v1", rows, BY))


def test_a_file_that_cannot_be_read_is_named(rows: Path) -> None:
    (rows / "9.csv").symlink_to(rows / "nowhere")
    assert [was.path for was in Reference.take("risk", rows, BY).marks] == ["0.csv", "1.csv", "2.csv"]
    for path in rows.iterdir():
        path.unlink()
    with pytest.raises(DataRefused, match=r"no reader of kind 'table'"):
        Reference.take("risk", rows, BY)
    with pytest.raises(DataRefused, match=r"has no file that ends with \.csv"):
        Reference.take("risk", rows, BY, "csv")


def test_names_that_are_no_text_or_would_act_on_a_terminal(rows: Path) -> None:
    shutil.copy(rows / "0.csv", rows / "a\x1b[2J.csv")
    (rows / "a\x1b[2J.csv").write_text("age\n1\n")
    with pytest.raises(DataRefused) as refused:
        Reference.take("risk", rows, BY).read("risk")
    assert "a\\x1b[2J.csv: has no column" in str(refused.value)
    os.link(rows / "0.csv", os.fsencode(rows) + b"/\xff.csv")
    with pytest.raises(DataRefused, match="is not UTF-8"):
        Reference.take("risk", rows, BY)


# --- readers of other packages ---------------------------------------------------------------------------------------


def installed(
    monkeypatch: pytest.MonkeyPatch, place: Path, code: str, *, name: str = "edf", version: str = "1.0"
) -> None:
    """A distribution in ``place`` with one reader, as pip leaves it."""
    module, info = place / "edf_reader.py", place / "edf_reader-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    module.write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: edf-reader\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[consilium.readers]\n{name} = edf_reader:reader\n")
    (info / "RECORD").write_text(f"edf_reader.py,sha256={sha256(code.encode()).hexdigest()},{len(code)}\n")
    monkeypatch.syspath_prepend(str(place))
    sys.modules.pop("edf_reader", None)


GOOD = """
import numpy as np
from silo_agent.readers import Reader
def read(source):
    x = np.array([[float(n)] for n in source.path(source.files[0]).read_text().split()]) / 40
    y = np.arange(len(x)) % 2
    return {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:]}
reader = Reader(read, "array", (".edf",))
"""
SIGNAL = DataSchema.parse({"kind": "array", "classes": ["a", "b"], "values": {"shape": [1], "range": [0, 1]}})


def test_a_reader_of_another_package_and_another_version_of_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.edf").write_text(" ".join(map(str, range(30))))
    installed(monkeypatch, tmp_path / "site", GOOD)
    catalogue = Catalogue(SiloHome(home), "north")
    catalogue.add_reference("waves", Reference.take("waves", tmp_path / "d", SIGNAL, "edf"))
    assert catalogue.resolve("waves").data.shape == (1,)
    installed(monkeypatch, tmp_path / "site", GOOD + "# changed")
    with pytest.raises(DataRefused, match="not read as it was registered") as refused:
        catalogue.resolve("waves")
    assert "fed data add --replace" in refused.value.remedy
    shutil.rmtree(tmp_path / "site")
    with pytest.raises(DataRefused, match="reader 'edf' is not installed here"):
        catalogue.resolve("waves")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
        ("reader = print", "is no silo_agent.readers.Reader"),
        (GOOD.replace("[:20]", "[:10]"), "y_train|fewer than 16"),
        (GOOD.replace("/ 40", "* np.nan"), "NaN"),
    ],
)
def test_readers_that_are_faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str) -> None:
    (tmp_path / "a.edf").write_text(" ".join(map(str, range(30))))
    installed(monkeypatch, tmp_path / "site", code)
    with pytest.raises(FederationError, match=why):
        Reference.take("waves", tmp_path / "a.edf", SIGNAL, "edf").read("waves")


def test_a_built_in_reader_is_not_replaced(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tmp_path / "site", "raise SystemExit('never imported')", name="csv")
    assert Reference.take("risk", rows, BY, "csv").read("risk").rows == 45
