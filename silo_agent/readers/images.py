"""A folder of PNG, JPEG, BMP, TIFF or WebP with labels. Only pixels are read, never a file's other fields."""

from __future__ import annotations

import warnings

import numpy as np

from silo_agent.readers.extras import needed
from silo_agent.readers.labelled import read_each
from silo_agent.readers.source import Arrays, Source

#: Channels → how pictures are converted. Others have no conversion.
MODES = {1: "L", 3: "RGB"}


def read(source: Source) -> Arrays:
    """Every picture of the source."""
    return read_each(source, _decode, _decode_mask)


def _decode(source: Source, file: str) -> np.ndarray:
    """(channels, height, width) of one picture. 16-bit grey stays as it is; all else becomes 8-bit grey or RGB."""
    values = source.schema.fields["values"]
    if len(values["shape"]) != 3 or values["shape"][0] not in MODES:
        raise source.refuse(file, "is a picture, the schema is of no pictures", "Use 1 or 3 channels, height, width.")
    pixels = _pixels(source, file, MODES[values["shape"][0]])
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _decode_mask(source: Source, file: str) -> np.ndarray:
    """(height, width) of one mask: grey values, or the numbers of a palette's colours."""
    return _pixels(source, file, "")


def _pixels(source: Source, file: str, mode: str) -> np.ndarray:
    """A picture's pixels. ``mode``: PIL's name of what it is converted to, unless it has 16 bits; "": of a mask."""
    with needed("Pictures", "imaging"):
        from PIL import Image, UnidentifiedImageError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source.path(file)) as opened:
                if not mode and opened.mode not in ("1", "L", "P", "I;16", "I"):
                    raise source.refuse(file, "is a mask in colours", "Save class numbers as grey values.")
                return np.asarray(opened.convert(mode) if mode and not opened.mode.startswith("I") else opened)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as bad:
        raise source.refuse(file, "cannot be decoded as a picture", "Replace the file, or leave it out.") from bad
    except Image.DecompressionBombWarning as bad:
        raise source.refuse(file, "has too many pixels", "Resample the file.") from bad
