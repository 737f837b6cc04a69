"""For whoever provisions the federation: NVFlare startup kits."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
