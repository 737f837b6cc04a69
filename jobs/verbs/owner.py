"""At an institution: what is registered, what is asked for, what is approved."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
