"""A silo's data set: read once, checked, committed to with a salt. Where it is stored is up to the catalogue.

A data set is ``x_train`` and ``x_test`` (rows, …) of a float or integer dtype and any rank from 2 on, and ``y_train``
and ``y_test``, which are one of four kinds of target:

| kind         | ``y_*``                                                            | beside them                     |
|--------------|--------------------------------------------------------------------|---------------------------------|
| ``class``    | integers (rows,) in [0, classes)                                   | ``classes``, one integer from 2 |
| ``mask``     | the same for each place: (rows, …), the row's shape but channels   | ``classes``                     |
| ``labels``   | several yes or no, 0 or 1: (rows, labels)                          | ``labels``, one integer from 1  |
| ``number``   | floats (rows,), in the target's own unit                           | nothing                         |

They come from one npz, which is read here without pickle, or from a reader (``silo_agent.readers``). A faulty file is
refused with the reason and the remedy: a silo that trained on it would spoil the federation's sums.
"""

from __future__ import annotations

import hmac
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Final
from zipfile import BadZipFile

import numpy as np

from crypto.encoding import Writer
from crypto.errors import DataRefused, NonFinite, SpecError

#: Fewer training rows than this teach nothing, and a model trained on them would reveal too much.
MIN_TRAIN_ROWS = 16

#: Shortest salt of a commitment. A bare digest of a hundred patients can be guessed; 128 secret bits cannot.
MIN_SALT_BYTES = 16

#: Most classes: the vocabularies of today's language models, whose classes are tokens.
MOST_CLASSES = 2**18

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
#: Most yes-or-no labels of a row.
MOST_LABELS = 64
#: Widths of the range of a number to predict that sums in fixed point are made for.
WIDTHS: Final = (2.0**-30, 2.0**30)
#: Kinds of target.
CLASS, MASK, LABELS, NUMBER = KINDS = ("class", "mask", "labels", "number")

#: Kind of target → what people call it.
TARGETS: Final = {
    CLASS: "one label a row",
    MASK: "masks",
    LABELS: "several yes-or-no labels a row",
    NUMBER: "a number a row",
}

#: What an npz of a data set holds; other members are never read. One of ``COUNTS`` says how many classes or labels.
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
COUNTS = ("classes", "labels")
#: What numpy, zipfile and zlib raise for bytes that are no npz: bad headers, damaged or encrypted members, a folder.
UNREADABLE: Final = (
    BadZipFile, zlib.error, TokenError, ValueError, EOFError, OSError, AttributeError, RuntimeError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class DataSet:
    """Checked, read-only arrays. ``x_*``: float32 (rows, *shape), maybe mapped from disk; ``y_*``: int64, of numbers
    float64, as the module says of each kind of target."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    """Classes, or yes-or-no labels of a row; of numbers 1."""
    target: str = CLASS
    """One of ``KINDS``."""

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.y_train)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's input."""
        return tuple(self.x_train.shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one row's input."""
        return prod(self.shape)

    @property
    def masks(self) -> bool:
        """Whether each row has a mask in place of one label."""
        return self.target == MASK

    def __repr__(self) -> str:
        return f"DataSet({self.name!r})"  # never a row, nor how many there are


def check_name(name: str) -> None:
    """Raise DataRefused for what is no plain name, before it touches a path."""
    if not NAME.fullmatch(name):
        raise DataRefused(
            f"{name!r} is no data set name.", remedy="Use lower-case letters, digits and . _ -, at most 63, no folders."
        )


def scale_fault(low: float, high: float, mean: float, sd: float) -> tuple[str, float, str] | None:
    """What is wrong with the public scale of a number to predict: (range, mean or sd; its value; what is wanted)."""
    if not WIDTHS[0] <= high - low <= WIDTHS[1]:
        want = f"a range from {WIDTHS[0]:.2g} to {WIDTHS[1]:.7g} wide: take another unit, such as thousands"
        return "range", high - low, want
    if not low <= mean <= high:
        return "mean", mean, "a number inside the range"
    if not (high - low) * 2**-16 <= sd <= high - low:
        return "sd", sd, "more than 0, at most the width of the range, and no less than 2⁻¹⁶ of it"
    return None


def load(path: Path, name: str) -> DataSet:
    """Read and check one npz; ``name`` is for messages. Raises DataRefused, or NonFinite for NaN and infinities."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):  # a bare .npy under this name
                raise DataRefused(f"Data set {name!r} is one array, not an npz.", remedy="Save it with numpy.savez.")
            missing = [array for array in ARRAYS if array not in archive.files]
            if missing:
                raise DataRefused(
                    f"Data set {name!r} lacks {', '.join(missing)}.",
                    remedy=f"Save it with the arrays {', '.join(ARRAYS)}, and classes.",
                )
            arrays = {array: archive[array] for array in (*ARRAYS, *COUNTS) if array in archive.files}
    except FileNotFoundError as gone:
        raise DataRefused(
            f"Data set {name!r}: there is no file {path.name!r}.", remedy="Give the path of its npz."
        ) from gone
    except UNREADABLE as bad:
        raise DataRefused(
            f"Data set {name!r} is not a readable npz of plain arrays.",
            remedy="Save it again with numpy.savez, without objects.",
        ) from bad
    return check(name, arrays)


def check(name: str, arrays: Mapping[str, np.ndarray]) -> DataSet:
    """A DataSet of these arrays, copied and frozen, or DataRefused / NonFinite."""
    target, classes = _target(name, arrays)
    splits = {
        part: _split(name, part, arrays[f"x_{part}"], arrays[f"y_{part}"], target, classes)
        for part in ("train", "test")
    }
    (x_train, y_train), (x_test, y_test) = splits["train"], splits["test"]
    if x_train.shape[1:] != x_test.shape[1:]:
        has, other = (" × ".join(map(str, x.shape[1:])) for x in (x_train, x_test))
        raise DataRefused(
            f"Data set {name!r} has {has} features in x_train and {other} in x_test.",
            remedy="Save both splits with the same features.",
        )
    if y_train.ndim != y_test.ndim:
        raise DataRefused(
            f"Data set {name!r} has labels in one split and masks in the other.", remedy="Save both splits alike."
        )
    if len(y_train) < MIN_TRAIN_ROWS:
        raise DataRefused(
            f"Data set {name!r} has fewer than {MIN_TRAIN_ROWS} training rows.",
            remedy="Add rows, or stay out of this job.",
        )
    if not len(y_test):
        raise DataRefused(f"Data set {name!r} has no test rows.", remedy="Hold some rows back in x_test and y_test.")
    if target == CLASS and y_train.ndim > 1:
        target = MASK
    if len(np.unique(y_train)) < 2:
        has, remedy = {
            NUMBER: ("one value", "Add rows with other values"),
            LABELS: ("one answer, yes or no, for every row and label", "Add rows with the other answer"),
        }.get(target, ("a single class", "Add rows of another class"))
        raise DataRefused(f"Data set {name!r} has {has} in y_train.", remedy=f"{remedy}, or stay out of this job.")
    return DataSet(name, x_train, y_train, x_test, y_test, classes, target)


def _target(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """The kind of target, masks still as classes, and how many classes or labels. Raises DataRefused."""
    if "classes" in arrays and "labels" in arrays:
        raise DataRefused(f"Data set {name!r} has both classes and labels.", remedy="Save one of the two.")
    for count, least, most in (("classes", 2, MOST_CLASSES), ("labels", 1, MOST_LABELS)):
        if count in arrays:
            given = arrays[count]
            if given.shape != () or given.dtype.kind not in "iu" or not least <= int(given) <= most:
                raise DataRefused(
                    f"Data set {name!r}: {count} is no integer from {least} to {most}.",
                    remedy=f"Save {count} as one integer.",
                )
            return (CLASS if count == "classes" else LABELS), int(given)
    if arrays["y_train"].dtype.kind != "f" or arrays["y_test"].dtype.kind != "f":
        raise DataRefused(
            f"Data set {name!r} lacks classes.",
            remedy=f"Save it with the arrays {', '.join(ARRAYS)} and classes, or labels where each row has several "
            "yes-or-no labels. With neither, y_train and y_test are numbers to predict, and must be floats.",
        )
    return NUMBER, 1


def commitment(data: DataSet, salt: bytes) -> bytes:
    """HMAC-SHA256(salt, content): binds the silo to its rows and reveals nothing without the salt.

    The content is shape, type and little-endian bytes of each array in a fixed order: the same rows give the same
    bytes on every machine and from every npz writer. The name is left out, so that a renamed file stays the same data.
    """
    if len(salt) < MIN_SALT_BYTES:
        raise SpecError("salt", got=f"{len(salt)} bytes", want=f"at least {MIN_SALT_BYTES} bytes")
    digest = hmac.new(salt, digestmod=sha256)
    digest.update(bytes(Writer().text("consilium/1/data").u32(data.classes)))
    if data.target == LABELS:  # masks of the same shape are other data
        digest.update(bytes(Writer().text(data.target)))
    y = "<f8" if data.target == NUMBER else "<i8"
    for name, dtype in (("x_train", "<f4"), ("y_train", y), ("x_test", "<f4"), ("y_test", y)):
        array = np.ascontiguousarray(getattr(data, name), dtype=dtype)
        digest.update(bytes(Writer().text(name).text(dtype).each(array.shape, Writer.u32)))
        digest.update(array.tobytes())
    return digest.digest()


def _split(
    name: str, part: str, x: np.ndarray, y: np.ndarray, target: str, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    if x.dtype.kind not in "fiu" or x.ndim < 2 or not prod(x.shape[1:]):
        raise DataRefused(
            f"Data set {name!r}: x_{part} is {x.ndim}-dimensional of {x.dtype}.",
            remedy="Save it as numbers, one row a record.",
        )
    _check_shape(name, part, x, y, target, classes)
    largest = float(np.finfo(np.float32).max)
    if len(x) and not (-largest < float(x.min()) and float(x.max()) < largest):  # NaN is in neither
        raise NonFinite(
            f"Data set {name!r}: x_{part} has NaN, infinite or too large values.", remedy="Impute or drop those rows."
        )
    if target == NUMBER:
        if bad := np.flatnonzero(~np.isfinite(y)).tolist():
            raise NonFinite(
                f"Data set {name!r}: y_{part} is NaN or infinite in row {bad[0] + 1}"
                + (f" and {len(bad) - 1} more." if len(bad) > 1 else "."),
                remedy="Leave rows without a target out.",
            )
        return _frozen(x, np.float32), _frozen(y, np.float64)
    most = 1 if target == LABELS else classes - 1
    if len(y) and (int(y.min()) < 0 or int(y.max()) > most):
        raise DataRefused(
            f"Data set {name!r}: y_{part} has labels outside 0 … {most}.",
            remedy="Write 1 for yes and 0 for no." if target == LABELS else "Recode the labels, or set classes.",
        )
    return _frozen(x, np.float32), _frozen(y, np.int64)


def _check_shape(name: str, part: str, x: np.ndarray, y: np.ndarray, target: str, classes: int) -> None:
    """Raise DataRefused unless ``y`` has the type and shape of its kind of target, beside these rows."""
    beside = f"Data set {name!r}: y_{part} has shape {y.shape} of {y.dtype} beside {len(x)} rows"
    if target == NUMBER:
        if y.shape != (len(x),):
            raise DataRefused(f"{beside}.", remedy="Save one number a row.")
        return
    if y.dtype.kind == "f":
        raise DataRefused(
            f"Data set {name!r}: y_{part} has numbers of {y.dtype}, not class labels.",
            remedy="Save integer labels from 0. Where a number is to be predicted, save floats without classes.",
        )
    if target == LABELS:
        if y.dtype.kind not in "iu" or y.shape != (len(x), classes):
            raise DataRefused(f"{beside} of {classes} labels.", remedy="Save 0 or 1 for each row and label.")
    elif y.dtype.kind not in "iu" or y.shape not in {(len(x),), (len(x), *x.shape[2:])}:
        masks = f" of shape {x.shape[1:]}" if x.ndim > 2 else ""
        raise DataRefused(
            f"{beside}{masks}.",
            remedy="Save one integer label a row, or one mask a row of the same shape without its channels.",
        )


def _frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    """The array read-only in this type; one that already is stays where it lies, so that files stay mapped."""
    if array.dtype == dtype and array.flags.c_contiguous and not array.flags.writeable:
        return array.view(np.ndarray)
    copy: np.ndarray = np.array(array, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy
