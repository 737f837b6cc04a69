"""The test's own factories beside the built-in ones."""

from __future__ import annotations

import pytest

from silo_agent.models import registry
from tests.silo_agent.models.zoo import FACTORIES


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in FACTORIES.items():
        monkeypatch.setitem(registry.BUILT_IN, name, place)  # type: ignore[arg-type]
