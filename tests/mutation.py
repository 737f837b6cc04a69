"""Is every check tested? Removes them one at a time and runs the tests: each removal must make a test fail.

A check is a ``raise`` in crypto/, or in what decides at a silo whether shares leave: agent, policy, journal, progress
file. Each is replaced by ``pass`` in a copy of the tree, never in the tree itself; first the tests of its module run,
then, if none has failed, all tests of its room.

    python -m tests.mutation [--only TEXT] [--workers N] [--timeout SECONDS]

The last line counts mutants, killed and survived; the exit status is 1 if one survives. A whole run writes
docs/mutation.md: which test notices which missing check.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mutation.md"
COPIED = ("crypto", "silo_agent", "aggregator", "jobs", "tests", "pyproject.toml")

#: Tests of a room, and for each of its modules those that run first.
ROOMS = {
    "crypto": ["tests/crypto"],
    "silo_agent": [
        "tests/silo_agent/test_policy.py",
        "tests/silo_agent/test_journal.py",
        "tests/silo_agent/test_journal_openings.py",
        "tests/silo_agent/test_agent.py",
        "tests/jobs/runtime/test_agent.py",
        "tests/jobs/runtime/test_in_process.py",
        "tests/jobs/runtime/test_faults.py",
        "tests/jobs/runtime/test_resume.py",
        "tests/jobs/runtime/test_false_results.py",
        "tests/jobs/runtime/test_drain.py",
    ],
}
FIRST = {
    "crypto/atoms.py": ["tests/crypto/test_atoms.py", "tests/crypto/test_atoms_refusals.py"],
    "crypto/cohort.py": [
        "tests/crypto/test_cohort.py",
        "tests/crypto/test_games.py",
        "tests/crypto/test_games_rule.py",
    ],
    "crypto/opening.py": ["tests/crypto/test_opening.py", "tests/crypto/test_games.py"],
    "crypto/proof.py": [
        "tests/crypto/test_proof.py",
        "tests/crypto/test_proof_forged.py",
        "tests/crypto/test_sections.py",
        "tests/crypto/test_games_sums.py",
    ],
    "crypto/session.py": ["tests/crypto/test_session.py"],
    "crypto/server_session.py": [
        "tests/crypto/test_session.py",
        "tests/crypto/test_sections.py",
        "tests/crypto/test_games.py",
        "tests/crypto/test_opening.py",
    ],
    "crypto/silo_session.py": [
        "tests/crypto/test_games.py",
        "tests/crypto/test_session.py",
        "tests/crypto/test_sections.py",
        "tests/crypto/test_games_rule.py",
        "tests/crypto/test_opening.py",
        "tests/crypto/test_proof.py",
    ],
    "crypto/pinned_charter.py": ["tests/jobs/membership/test_accept.py", "tests/jobs/membership/test_withdraw.py"],
    "silo_agent/agent.py": [
        "tests/silo_agent/test_agent.py",
        "tests/jobs/runtime/test_agent.py",
        "tests/jobs/runtime/test_false_results.py",
    ],
    "silo_agent/journal.py": [
        "tests/silo_agent/test_journal.py",
        "tests/silo_agent/test_journal_openings.py",
        "tests/silo_agent/test_agent.py",
    ],
    "silo_agent/run_checkpoint.py": ["tests/silo_agent/test_agent.py", "tests/jobs/runtime/test_resume.py"],
}

INTRO = """# Which test notices a missing check

Made by `make mutation`: every check of `crypto/` and of a silo's agent, policy, journal and progress file is removed,
one at a time, and the tests are run until one fails. If no test fails without a check, the run fails. The table names
the first test that failed; usually others fail too.

"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One check: where it is, what guards it, what it says."""

    path: str
    line: int
    start: int
    stop: int
    function: str
    guard: str
    says: str

    def removed(self, data: bytes) -> bytes:
        """The module's source without this check; line numbers stay."""
        lost = data[self.start : self.stop]
        return data[: self.start] + b"pass" + b"\n" * lost.count(b"\n") + data[self.stop :]


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    killer: str  # empty: it survived
    seconds: float


def mutants() -> list[Mutant]:
    modules = [
        *sorted((ROOT / "crypto").glob("*.py")),
        *(ROOT / "silo_agent" / f"{n}.py" for n in ("agent", "journal", "policy", "run_checkpoint")),
    ]
    return [mutant for module in modules for mutant in checks(module.relative_to(ROOT).as_posix())]


def checks(path: str) -> Iterator[Mutant]:
    data = (ROOT / path).read_bytes()
    offsets = [0]
    for line in data.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))

    def walk(node: ast.AST, function: str, guard: str) -> Iterator[Mutant]:
        if isinstance(node, ast.Raise):
            yield Mutant(
                path,
                node.lineno,
                offsets[node.lineno - 1] + node.col_offset,
                offsets[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0),
                function,
                guard,
                says(node),
            )
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST):
                    continue
                inner, under = function, guard
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    inner, under = f"{function}.{child.name}".strip("."), ""
                elif isinstance(node, ast.If) and field in ("body", "orelse"):
                    test = ast.unparse(node.test)
                    under = test if field == "body" else f"not ({test})"
                elif isinstance(node, ast.ExceptHandler) and field == "body":
                    under = f"except {ast.unparse(node.type) if node.type else ''}"
                yield from walk(child, inner, under)

    yield from walk(ast.parse(data), "", "")


def says(node: ast.Raise) -> str:
    """The name of the error; "raise" where it passes on what it caught."""
    return ast.unparse(node.exc.func) if isinstance(node.exc, ast.Call) else ast.unparse(node)


# --- running -----------------------------------------------------------------------------------------------------


class Copy:
    """A copy of the tree in which one module at a time may lack a check.

    The run without a mutant leaves byte code, the others only read it: to compile the tests anew takes longer than most
    of them run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, folder / name)

    def twin(self, folder: Path) -> Copy:
        """This copy once more, with its byte code."""
        shutil.copytree(self.folder, folder)
        twin = copy(self)
        twin.folder = folder
        return twin

    def run(self, tests: list[str], timeout: float, *, mutated: bool = True) -> str:
        """The first failing test, or "" if all pass."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-rfE",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            *tests,
        ]
        env = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1" if mutated else ""}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no end within {timeout:.0f} s"
        if done.returncode == 0:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+)", done.stdout, re.MULTILINE)
        if done.returncode not in (1, 2) or not failed:
            raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return failed[1]

    def judge(self, mutant: Mutant, timeout: float) -> Verdict:
        begun = time.monotonic()
        place = self.folder / mutant.path
        whole, before = place.read_bytes(), place.stat()
        place.write_bytes(mutant.removed(whole))
        try:
            first = [test for test in first_tests(mutant.path) if (self.folder / test).exists()]
            killer = (self.run(first, timeout) if first else "") or self.run(ROOMS[room(mutant.path)], timeout)
        finally:
            place.write_bytes(whole)
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))  # its byte code is right again
        return Verdict(mutant, killer, time.monotonic() - begun)


def room(path: str) -> str:
    return path.partition("/")[0]


def first_tests(path: str) -> list[str]:
    return FIRST.get(path, [f"tests/{room(path)}/test_{Path(path).stem}.py"])


def run(found: list[Mutant], workers: int, timeout: float) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="mutation-") as temporary:
        first = Copy(Path(temporary) / "0")
        for name in sorted({room(mutant.path) for mutant in found}):
            if failed := first.run(ROOMS[name], 10 * timeout, mutated=False):
                raise SystemExit(f"{failed} fails without any mutation")
        copies: SimpleQueue[Copy] = SimpleQueue()
        copies.put(first)
        for number in range(1, workers):
            copies.put(first.twin(Path(temporary) / str(number)))

        def judge(mutant: Mutant) -> Verdict:
            tree = copies.get()
            try:
                verdict = tree.judge(mutant, timeout)
            finally:
                copies.put(tree)
            end = f"killed by {verdict.killer}" if verdict.killer else "SURVIVED"
            print(f"{mutant.path}:{mutant.line} {mutant.says}: {end} ({verdict.seconds:.1f} s)", flush=True)
            return verdict

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(judge, found))


def page(verdicts: list[Verdict]) -> str:
    parts = [INTRO]
    for path in dict.fromkeys(verdict.mutant.path for verdict in verdicts):
        rows = [verdict for verdict in verdicts if verdict.mutant.path == path]
        parts.append(f"## {path}: {len(rows)}\n\n| where | condition | refusal | noticed by |\n|---|---|---|---|\n")
        for row in rows:
            cells = [row.mutant.function, row.mutant.guard, row.mutant.says, row.killer]
            shown = [" ".join(cell.replace("|", r"\|").split()) for cell in cells]
            parts.append("| " + " | ".join(f"`{cell}`" if cell else "always" for cell in shown) + " |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Remove every check, one at a time; each removal must fail a test.")
    parser.add_argument("--only", default="", help="only checks whose file:line begins so")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the tests of one mutant")
    options = parser.parse_args()
    found = [mutant for mutant in mutants() if f"{mutant.path}:{mutant.line}".startswith(options.only)]
    verdicts = run(found, options.workers, options.timeout)
    survived = [verdict.mutant for verdict in verdicts if not verdict.killer]
    for mutant in survived:
        print(f"survived: {mutant.path}:{mutant.line} {mutant.function}: {mutant.guard}: {mutant.says}")
    if not options.only and not survived:
        PAGE.write_text(page(verdicts))
    print(f"{len(verdicts)} mutants, {len(verdicts) - len(survived)} killed, {len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
