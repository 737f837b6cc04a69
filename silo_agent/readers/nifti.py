"""NIfTI volumes with labels: (1, x, y, z) in the orientation right, anterior, superior; scaled as the file says.

Voxel sizes are not looked at: resample volumes to one spacing before they are registered.
"""

from __future__ import annotations

import zlib
from math import prod

import numpy as np

from silo_agent.readers.extras import needed
from silo_agent.readers.labelled import read_each
from silo_agent.readers.schema import MOST_ELEMENTS
from silo_agent.readers.source import Arrays, Source


def read(source: Source) -> Arrays:
    """Every volume of the source."""
    return read_each(source, _decode, lambda source, file: _decode(source, file)[0])


def _decode(source: Source, file: str) -> np.ndarray:
    with needed("NIfTI", "imaging"):
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.orientations import OrientationError
        from nibabel.spatialimages import HeaderDataError
    damaged = (ImageFileError, HeaderDataError, OrientationError, OSError, EOFError, ValueError, OverflowError)
    try:
        volume = nibabel.load(source.path(file))
        if prod(volume.shape) > MOST_ELEMENTS:
            raise source.refuse(file, f"has {prod(volume.shape)} voxels", "Crop or resample the volume.")
        voxels = np.asarray(nibabel.as_closest_canonical(volume).dataobj, dtype=np.float32)
    except (*damaged, zlib.error, MemoryError) as bad:
        raise source.refuse(file, "is no NIfTI file that can be read", "Replace the file, or leave it out.") from bad
    if voxels.ndim != 3:
        raise source.refuse(file, f"has {voxels.ndim} axes", "Keep one volume of three axes in a file.")
    return voxels[None]
