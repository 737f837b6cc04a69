"""The mock data that an admin develops on, silo by silo: what ``fed simulate --mock`` trains with.

Only public halves are read: of the silos' boxes in a folder that the silos filled, or of the homes of a federation on
this machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crypto.errors import DataRefused
from jobs.homes import silo_settings
from silo_agent.box import Box
from silo_agent.mock import read_mock, read_mocks


def mocks_at(place: Path, dataset: str) -> dict[str, dict[str, np.ndarray]]:
    """Silo → mock arrays of a data set. ``place``: a federation's folder, or a box with public halves.

    Raises DataRefused where a silo of the federation has no such mock, or the box has none at all.
    """
    homes = sorted(path.parent for path in (place / "silos").glob("*/silo.json"))
    if not homes:
        return read_mocks(place, dataset)
    boxes = {silo: Box.of(home, silo) for home in homes if (silo := str(silo_settings(home)["silo"]))}
    found = {}
    for silo, box in boxes.items():
        try:
            found[silo] = read_mock(box.path, box.owner, dataset)
        except DataRefused as none:
            raise DataRefused(f"{silo} shows no mock of {dataset!r}.", remedy="Ask it for one.") from none
    return found
