"""The house's rules, held by tests: who imports whom, where torch and NVFlare may be, whose the packages are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("crypto", "silo_agent", "aggregator", "jobs")
ALLOWED = {
    "crypto": {"crypto"},
    "silo_agent": {"silo_agent", "crypto"},
    "aggregator": {"aggregator", "crypto"},
    "jobs": set(ROOMS),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_import_arrows_point_one_way(room: str) -> None:
    for path in files(room):
        ours = {name.split(".")[0] for name in imports(path)} & set(ROOMS)
        assert ours <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {sorted(ours - ALLOWED[room])}"


def test_nvflare_is_imported_under_jobs_flare_only() -> None:
    for room in ROOMS:
        for path in files(room):
            if any(name.split(".")[0] == "nvflare" for name in imports(path)):
                assert path.is_relative_to(ROOT / "jobs" / "flare"), path


def test_crypto_has_no_network_clock_or_torch() -> None:
    forbidden = {
        "socket",
        "ssl",
        "http",
        "urllib",
        "asyncio",
        "threading",
        "time",
        "datetime",
        "random",
        "torch",
        "json",
        "pickle",
    }
    for path in files("crypto"):
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & forbidden, f"{path.relative_to(ROOT)} imports {sorted(used & forbidden)}"


def test_no_pickle_anywhere() -> None:
    for room in ROOMS:
        for path in files(room):
            assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "cloudpickle", "dill", "joblib"}, (
                path
            )


def blocked(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where importing ``module`` raises."""
    guard = (
        "import sys\n"
        "class Block:\n"
        f"    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {module!r}: raise ImportError('forbidden: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", guard + code], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_aggregators_half_of_a_job_needs_no_torch() -> None:
    done = blocked(
        "torch",
        "import aggregator.rounds.run, aggregator.tracking.follower, jobs.runtime.compose, jobs.flare.controller",
    )
    assert done.returncode == 0, done.stderr


def test_evidence_needs_neither_torch_nor_nvflare_nor_mlflow() -> None:
    for module in ("torch", "nvflare", "mlflow", "prometheus_client"):
        done = blocked(
            module,
            "import crypto.server_session, crypto.silo_session, crypto.equivocation, crypto.charter, "
            "aggregator.rounds.storage",
        )
        assert done.returncode == 0, (module, done.stderr)


def test_the_packages_are_ours() -> None:
    for room in ROOMS:
        code = f"import {room}, pathlib; print(pathlib.Path({room}.__file__).resolve())"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
        assert Path(shown.strip()).is_relative_to(ROOT), shown


def test_no_servers_on_all_addresses() -> None:
    for room in ROOMS:
        for path in files(room):
            assert "0.0.0.0" not in path.read_text(), path
