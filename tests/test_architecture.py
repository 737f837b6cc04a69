"""The house's rules, held by tests: who imports whom, where torch and NVFlare may be, whose the packages are.

An import counts wherever it stands: in a function, under TYPE_CHECKING, or by a literal name in ``import_module``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
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

#: Sub-room → the other sub-rooms of the same room that it may import.
SUB_ROOMS: Mapping[str, set[str]] = {
    "aggregator.ledger": set(),
    "aggregator.protocols": set(),
    "aggregator.rounds": {"ledger"},
    "aggregator.verify": {"ledger", "protocols", "rounds"},
    "aggregator.tracking": {"ledger", "protocols", "rounds", "verify"},
    "silo_agent.language": set(),
    "silo_agent.models": set(),
    "silo_agent.readers": set(),
    "silo_agent.pysyft": {"readers"},
    "silo_agent.privacy": {"models"},
    "silo_agent.methods": {"language", "models", "privacy", "pysyft"},
    "jobs.security_log": set(),
    "jobs.evidence": {"owner", "security_log"},
    "jobs.owner": {"security_log"},
    "jobs.membership": {"evidence", "security_log"},
    "jobs.desk": {"doctor", "owner", "security_log"},
    "jobs.runtime": {"membership", "owner", "security_log"},
    "jobs.flare": {"runtime", "security_log"},
    "jobs.provisioning": {"flare"},
    "jobs.admin": {"flare", "runtime"},
    "jobs.doctor": {"flare", "membership", "owner", "provisioning", "security_log"},
    "jobs.services": {"doctor", "flare", "membership", "provisioning", "runtime", "security_log"},
    "jobs.demo": {"evidence", "flare", "membership", "owner", "runtime"},
    "jobs.cli": {
        *("admin", "demo", "desk", "doctor", "evidence", "flare", "membership", "owner", "provisioning"),
        *("security_log", "services"),
    },
}

#: What lies on the top level of jobs/: what a job is, which software this is, and what notebooks import.
TOP_OF_JOBS = {"api", "job", "release"}

#: Single imports against the arrows.
EXCEPTIONS = {
    # The long run of the fuzzer; the tests of crypto fuzz the rest.
    ("tests.fuzz", "jobs.flare.wire"),
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@cache
def ours() -> Mapping[str, Path]:
    """Every module of the rooms and of the tests: dotted name → file."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in (*ROOMS, "tests")
        for path in files(room)
    }


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a file imports. ``from a import b`` is ``a.b`` where that is a module of ours, else ``a``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found |= {whole if (whole := f"{module}.{alias.name}") in ours() else module for alias in names}
            case ast.ImportFrom():
                pytest.fail(f"{path.relative_to(ROOT)}: a relative import")
            case ast.Call(func=called, args=[ast.Constant(value=str(module)), *_]):
                if ast.unparse(called).endswith("import_module"):
                    found.add(module)
    return frozenset(found)


def room_of(module: str) -> str:
    return module.split(".")[0]


def part_of(module: str) -> str:
    """The sub-room of a module, or the module itself if it lies on the top level of its room."""
    return ".".join(module.split(".")[:2])


def arrows() -> set[tuple[str, str]]:
    """(module, module of ours that it imports), for the product."""
    return {
        (module, name)
        for module, path in ours().items()
        if room_of(module) in ROOMS
        for name in imports(path) & ours().keys() - {module}
    }


def circle(pairs: set[tuple[str, str]]) -> list[str]:
    """Some circle of these arrows, in order; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for start, end in pairs:
        graph.setdefault(start, set()).add(end)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as found:
        return list(found.args[1])
    return []


@pytest.mark.parametrize("room", ROOMS)
def test_import_arrows_point_one_way(room: str) -> None:
    for path in files(room):
        ours = {name.split(".")[0] for name in imports(path)} & set(ROOMS)
        assert ours <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {sorted(ours - ALLOWED[room])}"


def test_sub_rooms_import_as_the_table_says() -> None:
    found = {
        room for room in ours() if room.count(".") == 1 and room_of(room) in ROOMS and ours()[room].stem == "__init__"
    }
    assert found - {"jobs.catalogue", "jobs.templates"} == SUB_ROOMS.keys()
    for start, end in sorted(arrows() - EXCEPTIONS):
        here, there = part_of(start), part_of(end)
        if room_of(here) == room_of(there) and here != there and here in SUB_ROOMS and there in SUB_ROOMS:
            assert there.split(".")[1] in SUB_ROOMS[here], f"{start} imports {end}"


def test_the_parts_of_a_room_import_each_other_in_one_direction() -> None:
    """Sub-rooms, and the modules beside them."""
    parts = {(part_of(start), part_of(end)) for start, end in arrows() - EXCEPTIONS}
    assert not circle({(start, end) for start, end in parts if start != end})
    assert not circle({(room, f"{room_of(room)}.{name}") for room, names in SUB_ROOMS.items() for name in names})


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circle(arrows())


def test_a_circle_is_found() -> None:
    assert circle({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")})
    assert not circle({("a", "b"), ("b", "c"), ("a", "c")})


def test_jobs_has_hardly_a_module_of_its_own() -> None:
    found = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    assert found == TOP_OF_JOBS


def test_every_room_says_in_one_sentence_what_it_is() -> None:
    for path in (path for room in ROOMS for path in files(room) if path.stem == "__init__"):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        assert first[:1].isupper() or first.startswith("``"), path
        assert first.endswith("."), path


@pytest.mark.parametrize("room", ("crypto", "silo_agent", "aggregator"))
def test_the_tests_of_a_room_need_nothing_of_jobs(room: str) -> None:
    """Nor does any helper of theirs, and what that imports."""
    for test in (name for name in ours() if name.startswith(f"tests.{room}.")):
        reached, ahead = {test}, [test]
        while ahead:
            here = ahead.pop()
            for name in imports(ours()[here]) & ours().keys() - reached:
                if (here, name) not in EXCEPTIONS:
                    assert room_of(name) != "jobs", f"{test} needs {name}, imported by {here}"
                    reached.add(name)
                    ahead.append(name)


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


def blocked(modules: Sequence[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where importing any of ``modules`` raises."""
    guard = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {tuple(modules)!r}: raise ImportError('forbidden: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", guard + code], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_forbidden_import_is_noticed() -> None:
    done = blocked(["mlflow", "torch"], "import torch")
    assert done.returncode == 1 and "forbidden: torch" in done.stderr


def test_the_aggregators_half_of_a_job_needs_no_torch() -> None:
    done = blocked(
        ["torch"],
        "import aggregator.rounds.run, aggregator.tracking.follower, jobs.runtime.compose, jobs.flare.controller",
    )
    assert done.returncode == 0, done.stderr


def test_evidence_needs_neither_torch_nor_nvflare_nor_mlflow() -> None:
    done = blocked(
        ["torch", "nvflare", "mlflow", "prometheus_client"],
        "import crypto.server_session, crypto.silo_session, crypto.equivocation, crypto.charter, "
        "aggregator.rounds.storage",
    )
    assert done.returncode == 0, done.stderr


def test_the_packages_are_ours() -> None:
    code = f"import {', '.join(ROOMS)}\nfor room in ({', '.join(ROOMS)}): print(room.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
    found = [Path(line).resolve() for line in shown.splitlines()]
    assert found == [ROOT / room / "__init__.py" for room in ROOMS]


def test_no_servers_on_all_addresses() -> None:
    for room in ROOMS:
        for path in files(room):
            assert "0.0.0.0" not in path.read_text(), path
