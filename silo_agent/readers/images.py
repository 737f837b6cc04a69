"""A folder of PNG, JPEG, BMP, TIFF or WebP with labels. Only pixels are read, never a file's other fields."""

from __future__ import annotations

import warnings

import numpy as np

from silo_agent.readers.extras import needed
from silo_agent.readers.fitting import fitted
from silo_agent.readers.labelled import read_each
from silo_agent.readers.source import Arrays, Source

#: Channels → how pictures are converted. Others have no conversion.
MODES = {1: "L", 3: "RGB"}


def read(source: Source) -> Arrays:
    """Every picture of the source."""
    return read_each(source, _decode)


def _decode(source: Source, file: str) -> np.ndarray:
    """(channels, height, width) of one picture. 16-bit grey stays as it is; all else becomes 8-bit grey or RGB."""
    with needed("Pictures", "imaging"):
        from PIL import Image, UnidentifiedImageError
    values = source.schema.fields["values"]
    if len(values["shape"]) != 3 or values["shape"][0] not in MODES:
        raise source.refuse(file, "is a picture, the schema is of no pictures", "Use 1 or 3 channels, height, width.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source.path(file)) as opened:
                picture = opened if opened.mode.startswith("I") else opened.convert(MODES[values["shape"][0]])
                pixels = np.asarray(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as bad:
        raise source.refuse(file, "cannot be decoded as a picture", "Replace the file, or leave it out.") from bad
    except Image.DecompressionBombWarning as bad:
        raise source.refuse(file, "has too many pixels", "Resample the file.") from bad
    return fitted(source, file, pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
