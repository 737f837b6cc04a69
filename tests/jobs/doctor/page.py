"""Writes the table of checks into docs/doctor.md: ``python -m tests.jobs.doctor.page``."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.doctor.runner import table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "doctor.md"


def rewritten(page: str) -> str:
    """The page with the table as the code has it."""
    return re.sub(r"\| check \|.*?\n(?!\|)", lambda _: table(), page, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
