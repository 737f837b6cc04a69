"""Images and volumes of another size than the schema's: refused, padded or resized, as the schema says."""

from __future__ import annotations

import numpy as np

from silo_agent.readers.extras import needed
from silo_agent.readers.source import Source


def fitted(source: Source, file: str, array: np.ndarray) -> np.ndarray:
    """``array`` (channels, …) in the schema's shape. Raises DataRefused that names the file."""
    values = source.schema.fields["values"]
    want, have, fit = tuple(values["shape"]), array.shape, values["fit"]
    if have == want:
        return array
    is_not = f"is {' × '.join(map(str, have))}, the schema says {' × '.join(map(str, want))}"
    if len(have) != len(want) or have[0] != want[0]:
        raise source.refuse(file, is_not, "Convert the file, or ask for a schema of this kind of image.")
    if fit == "refuse":
        raise source.refuse(file, is_not, 'Resample the file, or ask for a schema with fit = "pad" or "resize".')
    if fit == "resize":
        return _resized(array, want)
    if any(side > most for side, most in zip(have, want, strict=True)):
        raise source.refuse(file, is_not, "Padding makes nothing smaller: crop the file, or ask for a larger shape.")
    return _padded(array, want, values["range"][0])


def fitted_mask(source: Source, mask: np.ndarray) -> np.ndarray:
    """A mask in the schema's shape without channels, after its image was fitted: padded with class 0, or resized by
    taking the nearest pixel."""
    values = source.schema.fields["values"]
    want = tuple(values["shape"][1:])
    if mask.shape == want:
        return mask
    if values["fit"] == "resize":
        picked = [((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(want, mask.shape, strict=True)]
        return mask[np.ix_(*picked)]
    return _padded(mask, want, 0)


def _padded(array: np.ndarray, shape: tuple[int, ...], low: float) -> np.ndarray:
    """The array in the middle of one that is filled with the lowest value of the schema's range."""
    made = np.full(shape, low, dtype=np.float64)
    made[tuple(slice((w - h) // 2, (w - h) // 2 + h) for w, h in zip(shape, array.shape, strict=True))] = array
    return made


def _resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(channels, height, width) by bilinear interpolation, each channel alone."""
    with needed("Resizing", "imaging"):
        from PIL import Image
    size = (shape[2], shape[1])
    channels = [Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32)) for channel in array]
    return np.stack([np.asarray(channel.resize(size, Image.Resampling.BILINEAR)) for channel in channels])
