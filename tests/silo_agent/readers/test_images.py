"""Pictures, DICOM, NIfTI and their labels: what is read, and which file is named in a refusal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import DataRefused
from silo_agent.data import DataSet
from silo_agent.readers.reference import Reference
from silo_agent.readers.schema import DataSchema
from silo_agent.readers.source import Source
from tests.silo_agent.readers.tables import write_csv

CLASSES = ["mask", "none", "other"]


def schema(shape: tuple[int, ...] = (1, 8, 8), **values: object) -> DataSchema:
    raw = {"shape": list(shape), "range": [0, 255]} | values
    return DataSchema.parse({"kind": "image", "classes": CLASSES, "split": {"test": 0.25}, "values": raw})


def read(path: Path, by: DataSchema | None = None, reader: str | None = None) -> DataSet:
    return Reference.take("scans", path, by or schema(), reader).read("scans")


def picture(path: Path, pixels: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def grey(seed: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=size, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures each of two classes; the site has none of the third."""
    for n in range(24):
        picture(tmp_path / "scans" / ("other" if n % 2 else "mask") / f"{n:02}.png", grey(n))
    return tmp_path / "scans"


# --- pictures and labels ---------------------------------------------------------------------------------------------


def test_classes_are_the_jobs_at_every_site_and_hidden_folders_count_for_nothing(folder: Path) -> None:
    picture(folder / ".ipynb_checkpoints" / "x.png", grey(1))
    picture(folder / "mask" / "._00.png", grey(1))
    (folder / "mask" / "notes.txt").touch()
    data = read(folder)
    assert data.shape == (1, 8, 8) and data.classes == 3
    assert sorted(data.y_train) == [0] * 9 + [2] * 9 and sorted(data.y_test) == [0] * 3 + [2] * 3
    x = np.concatenate([data.x_train, data.x_test])
    assert any(np.allclose(row[0], grey(7) / 127.5 - 1, atol=1e-6) for row in x)


def test_a_folder_that_is_no_class_is_named(folder: Path) -> None:
    (folder / "other").rename(folder / "normal")
    with pytest.raises(DataRefused, match=r"normal/01\.png: 'normal' is none of the job's classes") as refused:
        read(folder)
    assert "mask, none, other" in refused.value.remedy
    picture(folder / "loose.png", grey(1))
    (folder / "normal").rename(folder / "other")
    with pytest.raises(DataRefused, match=r"loose\.png: lies in no folder of a class"):
        read(folder)


def test_folders_may_tell_the_split(folder: Path, tmp_path: Path) -> None:
    for n, path in enumerate(sorted(folder.rglob("*.png"))):
        new = tmp_path / "told" / ("test" if n % 4 == 0 else "train") / path.relative_to(folder)
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    data = read(tmp_path / "told")
    assert (len(data.y_train), len(data.y_test)) == (18, 6)


def table(folder: Path, **columns: list[str]) -> Path:
    """labels.csv over every picture."""
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]
    rows: list[Mapping[str, object]] = [
        {"file": file, "label": CLASSES[n % 2], **{name: values[n] for name, values in columns.items()}}
        for n, file in enumerate(files)
    ]
    return write_csv(folder / "labels.csv", rows)


def test_labels_in_a_table_with_patients_and_a_split(folder: Path) -> None:
    table(folder)
    assert sorted(read(folder).y_train) == [0] * 9 + [1] * 9
    table(folder, group=[f"p{n // 3}" for n in range(24)])
    assert len(read(folder).y_test) == 6
    table(folder, split=["test" if n < 8 else "train" for n in range(24)])
    assert len(read(folder).y_test) == 8
    table(folder, split=["both"] * 24)
    with pytest.raises(DataRefused, match=r"labels\.csv: row 1: split is 'both'"):
        read(folder)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("mask/00.png", "mask/99.png", "row 1: there is no file 'mask/99.png'"),
        ("mask/02.png", "mask/00.png", "row 2: 'mask/00.png' is named twice"),
        ("mask/00.png,mask\n", "", "does not name 'mask/00.png'"),
        ("mask/00.png,mask", "mask/00.png,normal", "row 1: 'normal' is none of the job's classes"),
        ("file,label", "path,label", "has no columns file and label"),
    ],
)
def test_faults_of_the_table_of_labels(folder: Path, old: str, new: str, why: str) -> None:
    path = table(folder)
    text = path.read_text().replace("\r\n", "\n")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataRefused, match=f"labels.csv: {why}"):
        read(folder)


def test_a_picture_that_is_none_is_named(folder: Path) -> None:
    whole = (folder / "mask" / "04.png").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (folder / "mask" / "04.png").write_bytes(content)
        with pytest.raises(DataRefused, match=r"mask/04\.png: cannot be decoded"):
            read(folder)


def test_other_sizes_are_refused_padded_or_resized(folder: Path) -> None:
    picture(folder / "mask" / "04.png", grey(4, (6, 8)))
    with pytest.raises(DataRefused, match=r"mask/04\.png: is 1 × 6 × 8, the schema says 1 × 8 × 8"):
        read(folder)
    data = read(folder, schema(fit="pad"))
    x = np.concatenate([data.x_train, data.x_test])
    assert any((row[0, [0, 7]] == -1).all() and np.allclose(row[0, 1:7], grey(4, (6, 8)) / 127.5 - 1) for row in x)
    with pytest.raises(DataRefused, match="Padding makes nothing smaller"):
        read(folder, schema((1, 4, 4), fit="pad"))
    resized = read(folder, schema((1, 4, 4), fit="resize"))
    assert resized.shape == (1, 4, 4) and resized.x_train.min() >= -1 and resized.x_train.max() <= 1


def test_colours(folder: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    picture(folder / "mask" / "04.png", colour)
    data = read(folder, schema((3, 8, 8)))
    x = np.concatenate([data.x_train, data.x_test])
    assert any(np.allclose(row, np.moveaxis(colour, -1, 0) / 127.5 - 1, atol=1e-6) for row in x)
    with pytest.raises(DataRefused, match="the schema is of no pictures"):
        read(folder, schema((2, 8, 8)))


def test_sixteen_bits_stay_sixteen(folder: Path) -> None:
    for n, path in enumerate(sorted(folder.rglob("*.png"))):
        picture(path, np.full((8, 8), 1000 * n, dtype=np.uint16))
    with pytest.raises(DataRefused, match=r"mask/02\.png: from 1000 to 1000, the schema says 0 to 255"):
        read(folder)
    assert read(folder, schema(range=[0, 65535])).x_train.max() > -0.5


def test_images_that_memory_does_not_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo_agent.readers.source.os.sysconf", lambda name: 1)
    with pytest.raises(DataRefused, match="GB of memory"):
        read(folder)


# --- masks -----------------------------------------------------------------------------------------------------------


def masked(root: Path, **masks: np.ndarray) -> Path:
    """Twenty-four pictures with masks beside them and a table that names both. ``masks``: others, by number."""
    rows: list[Mapping[str, object]] = []
    for n in range(24):
        picture(root / "images" / f"{n:02}.png", grey(n))
        picture(root / "masks" / f"{n:02}.png", masks.get(f"n{n}", grey(n) % 3))
        rows.append({"file": f"images/{n:02}.png", "mask": f"masks/{n:02}.png"})
    write_csv(root / "labels.csv", rows)
    return root


def of_masks(shape: tuple[int, ...] = (1, 8, 8), **values: object) -> DataSchema:
    return DataSchema.parse({**schema(shape, **values).fields, "labels": "masks"})


def test_masks_are_read_beside_their_images(tmp_path: Path) -> None:
    data = read(masked(tmp_path / "m"), of_masks())
    assert data.masks and data.y_train.shape == (18, 8, 8) and data.y_test.shape == (6, 8, 8)
    for x, y in zip(data.x_train, data.y_train, strict=True):
        assert np.array_equal(np.rint((x[0] + 1) * 127.5) % 3, y), "image and mask stay together"


def test_masks_are_padded_and_resized_with_their_images(tmp_path: Path) -> None:
    root = masked(tmp_path / "m", n3=np.ones((6, 8), np.uint8))
    picture(root / "images" / "03.png", grey(3, (6, 8)))
    data = read(root, of_masks(fit="pad"))
    y = np.concatenate([data.y_train, data.y_test])
    assert any((mask[1:7] == 1).all() and (mask[[0, 7]] == 0).all() for mask in y)
    assert read(root, of_masks((1, 4, 4), fit="resize")).y_train.shape == (18, 4, 4)


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.zeros((8, 6), np.uint8), r"the mask has shape \(8, 6\), its image images/05\.png \(8, 8\)"),
        (np.full((8, 8), 255, np.uint8), "has values other than the class numbers 0 to 2"),
        (np.zeros((8, 8, 3), np.uint8), "is a mask in colours"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path: Path, mask: np.ndarray, why: str) -> None:
    with pytest.raises(DataRefused, match=rf"masks/05\.png: {why}"):
        read(masked(tmp_path / "m", n5=mask), of_masks())


def test_masks_and_classes_are_not_taken_for_each_other(tmp_path: Path, folder: Path) -> None:
    root = masked(tmp_path / "m")
    with pytest.raises(DataRefused, match=r"labels\.csv: has no columns file and label"):
        read(root)
    with pytest.raises(DataRefused, match=r"labels\.csv: is not there, and the schema says masks"):
        read(folder, of_masks())
    table(folder)
    with pytest.raises(DataRefused, match=r"labels\.csv: has no columns file and mask"):
        read(folder, of_masks())


def test_volumes_have_masks_too(tmp_path: Path) -> None:
    rows: list[Mapping[str, object]] = []
    for n in range(24):
        voxels = np.random.default_rng(n).integers(0, 200, size=(4, 5, 6)).astype(np.int16)
        volume(tmp_path / "v" / "ct" / f"{n}.nii.gz", voxels)
        volume(tmp_path / "v" / "seg" / f"{n}.nii.gz", (voxels % 3).astype(np.uint8))
        rows.append({"file": f"ct/{n}.nii.gz", "mask": f"seg/{n}.nii.gz", "group": f"p{n // 2}"})
    write_csv(tmp_path / "v" / "labels.csv", rows)
    data = read(tmp_path / "v", of_masks((1, 4, 5, 6)))
    assert data.y_train.shape == (18, 4, 5, 6) and set(np.unique(data.y_train)) == {0, 1, 2}


def test_one_file_of_many_with_nan_is_named(tmp_path: Path) -> None:
    for n in range(24):
        voxels = np.full((4, 5, 6), float(n), dtype=np.float32)
        voxels[1, 1, 1] = np.nan if n == 17 else 0
        volume(tmp_path / "v" / ("mask" if n % 2 else "none") / f"{n:02}.nii", voxels)
    with pytest.raises(DataRefused, match=r"mask/17\.nii: NaN or infinite values"):
        read(tmp_path / "v", schema((1, 4, 5, 6)))


def test_a_missing_package_names_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataRefused, match="PIL is not installed") as refused:
        read(folder)
    assert "[imaging]" in refused.value.remedy


# --- DICOM -----------------------------------------------------------------------------------------------------------


def dicom(path: Path, stored: np.ndarray, **fields: object) -> Path:
    """A file with these pixels and a patient's name."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    made.PatientName = "Doe^Jane"
    made.Rows, made.Columns = stored.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = stored.astype("<u2").tobytes()
    for name, value in fields.items():
        setattr(made, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def decoded(path: Path, by: DataSchema) -> np.ndarray:
    """One DICOM or NIfTI file as its reader decodes it."""
    from silo_agent.readers import dicom, nifti

    module = nifti if ".nii" in path.name else dicom
    return module._decode(Source("scans", path.parent, (path.name,), by), path.name)


STORED = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60


def test_dicom_values_are_in_the_modalitys_unit(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", STORED, RescaleSlope=2, RescaleIntercept=-1000)
    assert np.array_equal(decoded(path, schema())[0], STORED * 2.0 - 1000)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", STORED, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decoded(path, schema())[0], 4095.0 - STORED)
    windowed = dicom(
        tmp_path / "b.dcm", STORED, PhotometricInterpretation="MONOCHROME1", WindowCenter=2000, WindowWidth=4000
    )
    plain = dicom(tmp_path / "c.dcm", STORED, WindowCenter=[2000, 5], WindowWidth=[4000, 5])
    by = schema(window="file", range=[0, 1])
    assert np.allclose(decoded(windowed, by), 1 - decoded(plain, by))


def test_a_files_own_window(tmp_path: Path) -> None:
    by = schema(window="file", range=[0, 1])
    linear = decoded(dicom(tmp_path / "a.dcm", STORED, WindowCenter=600.5, WindowWidth=1201), by)[0]
    assert np.allclose(linear, (STORED / 1200).clip(0, 1))
    sigmoid = decoded(
        dicom(tmp_path / "b.dcm", STORED, WindowCenter=600, WindowWidth=100, VOILUTFunction="SIGMOID"), by
    )[0]
    assert sigmoid[1, 2] == pytest.approx(0.5) and sigmoid.min() >= 0 and sigmoid.max() <= 1
    with pytest.raises(DataRefused, match=r"c\.dcm: has no window of its own"):
        decoded(dicom(tmp_path / "c.dcm", STORED), by)


def test_a_files_own_table_of_grey_values(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.add_new("LUTData", "OW", (65535 - 16 * np.arange(4096)).astype("<u2").tobytes())
    item.LUTExplanation = "turned"
    path = dicom(tmp_path / "a.dcm", STORED, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    found = decoded(path, schema(window="file", range=[0, 1]))[0]
    assert np.allclose(found, (65535 - 16.0 * STORED) / 65535), "before its window"


def test_no_field_of_a_header_reaches_the_rows(tmp_path: Path) -> None:
    for name in ("Doe^Jane", "Roe^Richard"):
        for n in range(24):
            where = tmp_path / name[0] / ("mask" if n % 2 else "none") / f"{n:02}.dcm"
            dicom(where, STORED + n, PatientName=name, PatientAge=f"0{40 + n}Y")
    by = schema(range=[0, 4095])
    one, other = read(tmp_path / "D", by), read(tmp_path / "R", by)
    assert np.array_equal(one.x_train, other.x_train) and one.classes == 3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("JPGExtended.dcm", r"cannot be decoded \(JPEG"),
        ("MR_truncated.dcm", r"cannot be decoded \(Explicit VR"),
        ("test-SR.dcm", "has no pixels"),
        ("README.txt", "is no DICOM file"),
        ("rtplan.dcm", "has no pixels"),
    ],
)
def test_files_of_the_field_that_cannot_be_read(tmp_path: Path, name: str, why: str) -> None:
    import pydicom.data

    path = Path(pydicom.data.__file__).parent / "test_files" / name
    shutil.copy(path, tmp_path / "a.dcm")
    with pytest.raises(DataRefused, match=rf"a\.dcm: {why}") as refused:
        decoded(tmp_path / "a.dcm", schema())
    assert refused.value.remedy


def test_a_real_ct(tmp_path: Path) -> None:
    import pydicom.data

    path = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
    values = decoded(shutil.copy(path, tmp_path / "a.dcm"), schema((1, 128, 128)))
    assert values.shape == (1, 128, 128) and values.min() >= -1024, "Hounsfield units"


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def volume(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def test_volumes_of_unequal_size_are_padded_or_refused_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(24):
        size = (4, 5, 6) if n else (4, 5, 4)
        where = tmp_path / "v" / ("mask" if n % 2 else "none") / f"{n:02}.nii.gz"
        volume(where, rng.integers(0, 200, size=size).astype(np.int16))
    by = schema((1, 4, 5, 6))
    with pytest.raises(DataRefused, match=r"none/00\.nii\.gz: is 1 × 4 × 5 × 4, the schema says 1 × 4 × 5 × 6"):
        read(tmp_path / "v", by)
    data = read(tmp_path / "v", schema((1, 4, 5, 6), fit="pad"))
    assert data.shape == (1, 4, 5, 6)


def test_volumes_are_turned_to_one_orientation(tmp_path: Path) -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    plain = decoded(volume(tmp_path / "a.nii", voxels), schema((1, 4, 5, 6)))
    turned = volume(tmp_path / "b.nii", voxels[::-1], np.diag([-1.0, 1, 1, 1]))
    assert np.array_equal(plain[0], voxels) and np.array_equal(decoded(turned, schema((1, 4, 5, 6))), plain)


def test_files_that_are_no_volume(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no")
    with pytest.raises(DataRefused, match=r"a\.nii\.gz: is no NIfTI file"):
        decoded(tmp_path / "a.nii.gz", schema((1, 4, 5, 6)))
    with pytest.raises(DataRefused, match=r"b\.nii: has 4 axes"):
        decoded(volume(tmp_path / "b.nii", np.zeros((4, 5, 6, 2), np.int16)), schema((1, 4, 5, 6)))


@pytest.mark.parametrize("package", ["pydicom", "nibabel"])
def test_missing_packages_name_their_extra(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataRefused, match=f"{package} is not installed") as refused:
        decoded(tmp_path / ("a.dcm" if package == "pydicom" else "a.nii"), schema())
    assert "[imaging]" in refused.value.remedy
