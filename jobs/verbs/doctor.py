"""Is this site able to take part, and if not, what to do."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
