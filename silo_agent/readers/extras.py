"""Packages that only some readers need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crypto.errors import DataRefused


@contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Imports of packages of an extra. Raises DataRefused that names the package and the extra."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = (missing.name or "a package").partition(".")[0]
        raise DataRefused(
            f"{what} cannot be read here: the package {package} is not installed.",
            remedy=f"Install the extra [{extra}] of consilium-fl: pip install './WHEEL[{extra}]'.",
        ) from missing
