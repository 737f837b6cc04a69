"""The malicious aggregator over real NVFlare, as ``make evil`` runs it: three games, one federation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jobs.flare.local_kits import CLASS_ALLOW_LIST
from tests.evil.games import book_path
from tests.evil.server import Book

pytestmark = pytest.mark.federation

ROOT = Path(__file__).resolve().parents[2]
GAMES = ("both-shares", "wrong-result", "model-split")


def test_three_games_over_nvflare(tmp_path: Path) -> None:
    place = tmp_path / "evil"
    done = subprocess.run(
        [sys.executable, "-m", "tests.evil", *GAMES, "--keep", str(place)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 games refused as they must be" in done.stdout and "WRONG" not in done.stdout
    shown = set(re.findall(r"refused ([A-Z_]+) ", done.stdout))
    assert shown == {
        "SURVIVOR_INVALID",
        "EQUIVOCATION",
        "MODEL_MISMATCH",
        "TRANSCRIPT_MISMATCH",
        "VERSION_MISMATCH",
        "COHORT_TOO_SMALL",
        "SUM_NOT_PROVEN",
    }
    for game in GAMES:
        assert Book.load(book_path(place / "aggregator", game)).over

    # The attack needed nothing of the silos: their kits allow what they always allow.
    for kit in sorted((place / "kits").glob("silo-*")):
        assert json.loads((kit / "local" / "resources.json").read_text())["class_allow_list"] == list(CLASS_ALLOW_LIST)

    # What they kept proves it to a stranger.
    home = place / "silos" / "silo-2"
    evidence = sorted((home / "evidence").glob("*-1-1-*"))
    assert [path.name.split("-", 1)[1] for path in evidence] == ["1-1-attest.bin", "1-1-unmask-slots.bin"]
    for path in evidence:
        words = ["verify", str(path), "--charter", str(home / "charter.bin")]
        words += ["--consortium", str(home / "consortium.pub")]
        proven = subprocess.run([sys.executable, "-m", "jobs.cli", *words], capture_output=True, text=True, check=False)
        assert proven.returncode == 0 and "aggregator (key " in proven.stdout, proven.stderr

    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(place) in command] == []
