"""The administrator's day: submit, status, logs, abort."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
