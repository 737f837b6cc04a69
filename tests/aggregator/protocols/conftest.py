"""What a federation left behind under ``consilium/1``."""

from __future__ import annotations

import pytest

from tests.protocol1 import OldFederation


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> OldFederation:
    """Not to be changed."""
    return OldFederation.unpack(tmp_path_factory.mktemp("protocol1"))
