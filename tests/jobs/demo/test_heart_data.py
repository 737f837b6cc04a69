"""The four hospitals' files: read exactly, refused by name. Files made here, in the format of the real ones."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused
from jobs.demo import heart_data
from jobs.demo.heart_data import HOSPITALS, Known, make, read
from jobs.job import JobSpec
from silo_agent.data import check
from silo_agent.methods import Limits, method

HEADER = ",".join(f"X{i}" for i in range(1, 15))
COMPLETE = "63,1,4,140,260,0,1,112,1,3,2,-9,-9,{label}"
INCOMPLETE = "44,1,3,-9,209,0,1,127,0,0,-9,-9,-9,{label}"


def hospital(folder: Path, name: str, labels: dict[int, int], *, incomplete: int = 0, header: bool = True) -> Known:
    """A file of so many rows of each label, the last ``incomplete`` healthy rows lacking blood pressure."""
    rows = [COMPLETE.format(label=label) for label, count in labels.items() for _ in range(count)]
    rows += [INCOMPLETE.format(label=0)] * incomplete
    text = "\n".join([HEADER, *rows] if header else rows) + "\n"
    (folder / f"processed.{name}.data").write_text(text)
    counts = tuple(labels.get(grade, 0) + (incomplete if grade == 0 else 0) for grade in range(5))
    return Known(sha256(text.encode()).hexdigest(), counts)  # type: ignore[arg-type]


def test_incomplete_rows_are_left_out_and_grades_are_one_disease(tmp_path: Path) -> None:
    known = {"a": hospital(tmp_path, "a", {0: 5, 1: 3, 4: 2}, incomplete=4)}
    x, y = read(tmp_path, known)["a"]
    assert x.shape == (10, 15) and x.dtype == np.float32
    assert y.tolist() == [0] * 5 + [1] * 5


def test_columns_are_scaled_by_public_constants_and_codes_have_an_input_each(tmp_path: Path) -> None:
    known = {"a": hospital(tmp_path, "a", {0: 1, 1: 1}, header=False)}
    (row, _), _ = read(tmp_path, known)["a"]
    # age, sex, cp (4), trestbps, chol, fbs, restecg (3), thalach, exang, oldpeak
    expected = [0.8, 1, 0, 0, 0, 1, 0.5, 0.4, 0, 0, 1, 0, -1.12, 1, 2.0]
    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_cholesterol_that_was_not_measured_is_at_the_centre(tmp_path: Path) -> None:
    path = tmp_path / "processed.a.data"
    text = COMPLETE.format(label=0).replace(",260,", ",0,") + "\n" + COMPLETE.format(label=1) + "\n"
    path.write_text(text)
    x, _ = read(tmp_path, {"a": Known(sha256(text.encode()).hexdigest(), (1, 1, 0, 0, 0))})["a"]
    assert x[0, 7] == 0 and x[1, 7] != 0


def test_a_copy_with_inverted_labels_is_refused_for_that(tmp_path: Path) -> None:
    hospital(tmp_path, "cleveland", {0: 138, 1: 165})
    with pytest.raises(DataRefused, match="165 of 303 rows with disease, not 139 of 303: its labels look inverted"):
        read(tmp_path, {"cleveland": HOSPITALS["cleveland"]})


@pytest.mark.parametrize(
    ("labels", "match"), [({0: 4, 1: 6}, "6 of 10 rows"), ({0: 5, 1: 4, 2: 1}, "other grades"), ({0: 5, 1: 6}, "of 11")]
)
def test_other_label_counts_are_refused(tmp_path: Path, labels: dict[int, int], match: str) -> None:
    known = {"a": hospital(tmp_path, "a", {0: 5, 1: 5})}
    hospital(tmp_path, "a", labels)
    with pytest.raises(DataRefused, match=match):
        read(tmp_path, known)


def test_other_bytes_with_the_right_labels_are_refused(tmp_path: Path) -> None:
    known = {"a": hospital(tmp_path, "a", {0: 5, 1: 5})}
    path = tmp_path / "processed.a.data"
    path.write_text(path.read_text().replace("140", "141"))
    with pytest.raises(DataRefused, match="SHA-256"):
        read(tmp_path, known)


@pytest.mark.parametrize(
    "text", ["", "1,2,3\n", COMPLETE.format(label="-9"), COMPLETE.format(label=0).replace("112", "fast"), "\xff"]
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "processed.a.data").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataRefused):
        read(tmp_path, {"a": Known("0" * 64, (1, 0, 0, 0, 0))})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="no processed\\.cleveland\\.data"):
        read(tmp_path)


def test_every_hospital_becomes_a_data_set_of_its_own_split(tmp_path: Path) -> None:
    known = {
        "a": hospital(tmp_path, "a", {0: 40, 1: 40}),
        "b": hospital(tmp_path, "b", {0: 1, 1: 45}),  # as at Zurich and Basel: a single healthy patient
    }
    first, again, other = make(tmp_path, 1, known), make(tmp_path, 1, known), make(tmp_path, 2, known)
    for name, arrays in first.items():
        data = check(name, arrays)
        assert data.features == 15 and data.classes == 2
        assert all(np.array_equal(arrays[part], again[name][part]) for part in arrays)
    assert len(first["a"]["y_test"]) == 28 and first["a"]["y_test"].sum() == 14
    assert 0 in first["b"]["y_train"] and 0 not in first["b"]["y_test"]
    assert other["a"]["y_test"].sum() == 14


def test_the_command_writes_what_a_silo_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"a": hospital(tmp_path, "a", {0: 40, 1: 40})}
    monkeypatch.setattr(heart_data, "make", lambda folder, seed: make(folder, seed, known))
    monkeypatch.setattr("sys.argv", ["heart_data", str(tmp_path), str(tmp_path / "out"), "--seed", "3"])
    heart_data.main()
    with np.load(tmp_path / "out" / "a.npz") as archive:
        check("heart", dict(archive))
    assert "a: 52 training rows, 28 test rows" in capsys.readouterr().out


def test_the_catalogue_job_fits_the_data() -> None:
    spec = JobSpec.load("fedcoe-heart")
    plan = method(spec.method).plan(spec.params, Limits(n_max=len(HOSPITALS)))
    assert spec.params["features"] == 15 and spec.params["classes"] == 2
    assert all(lane.floor <= len(HOSPITALS) for lane in plan.lanes)
