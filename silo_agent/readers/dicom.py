"""DICOM files with labels: their pixels in the modality's unit, never a header field.

The modality LUT or rescaling is applied, so that CT is in Hounsfield units. MONOCHROME1, where low values are white, is
inverted. With ``window = "file"`` in the schema the file's own VOI LUT or window is applied, and values are 0 … 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crypto.errors import DataRefused
from silo_agent.readers.extras import needed
from silo_agent.readers.labelled import read_each
from silo_agent.readers.source import Arrays, Source


def read(source: Source) -> Arrays:
    """Every DICOM file of the source."""
    return read_each(source, _decode)


def _decode(source: Source, file: str) -> np.ndarray:
    """(channels, height, width) of one frame, or (channels, frames, height, width)."""
    with needed("DICOM", "imaging"):
        import pydicom
    syntax = "unknown transfer syntax"
    try:
        header = pydicom.dcmread(source.path(file))
        if "PixelData" not in header:
            raise source.refuse(file, "has no pixels", "Leave the file out.")
        if "TransferSyntaxUID" in header.file_meta:
            syntax = header.file_meta.TransferSyntaxUID.name
        return _pixels(source, file, header)
    except DataRefused:
        raise
    except pydicom.errors.InvalidDicomError as bad:
        raise source.refuse(file, "is no DICOM file", "Replace the file, or leave it out.") from bad
    except Exception as bad:
        raise source.refuse(
            file,
            f"cannot be decoded ({syntax})",
            "Decompress the file, for example with gdcmconv --raw, install a plugin of pydicom, or leave the file out.",
        ) from bad


def _pixels(source: Source, file: str, header: Any) -> np.ndarray:
    """Grey values in the modality's unit or windowed, with MONOCHROME1 turned; colours as they are."""
    from pydicom.pixels import apply_modality_lut

    stored = header.pixel_array
    if header.get("SamplesPerPixel", 1) == 3:
        channels: np.ndarray = np.moveaxis(stored, -1, 0)
        return channels
    made = apply_modality_lut(stored, header).astype(np.float64)
    bits, signed = int(header.get("BitsStored", 16)), bool(header.get("PixelRepresentation", 0))
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=stored.dtype)
    span = apply_modality_lut(ends, header).astype(np.float64).sum()
    if source.schema.fields["values"]["window"] == "file":
        made, span = _windowed(source, file, header, made), 1.0
    grey: np.ndarray = span - made if header.get("PhotometricInterpretation") == "MONOCHROME1" else made
    return grey[None]


def _windowed(source: Source, file: str, header: Any, values: np.ndarray) -> np.ndarray:
    """Values 0 … 1 by the file's first VOI LUT, else by its first window. Raises DataRefused where it has neither."""
    if header.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        most = 2.0 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
        found: np.ndarray = apply_voi(values.astype(np.int64), header).astype(np.float64) / most
        return found
    if header.get("WindowCenter") is None or header.get("WindowWidth") is None:
        raise source.refuse(
            file, "has no window of its own", 'Ask for a schema without window = "file", or leave the file out.'
        )
    centre, width = (_first(header[name].value) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction", "LINEAR"))
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":  # PS3.3 C.11.2.1.2.1
        centre, width = centre - 0.5, width - 1
    return ((values - centre) / max(width, 1e-9) + 0.5).clip(0, 1)


def _first(value: Any) -> float:
    """The first of a value that may be several."""
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
