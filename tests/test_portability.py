"""Whatever the locale, the current folder and the environment say: rules that hold in every product file.

Text is read and written in UTF-8 by statement; a process of ours imports nothing from the folder that it starts in.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("crypto", "aggregator", "silo_agent", "jobs", "images")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
#: Functions named ``open`` that open no text file: (expression before the dot).
BYTES = {"os", "tarfile", "Image"}


def opens_text(node: ast.Call, name: str, words: dict[str, ast.expr]) -> bool:
    """Whether a call reads or writes text in an encoding."""
    if name == "read_text":
        return not node.args  # of a file in a distribution: always UTF-8
    if name in ("write_text", "FileHandler", "RotatingFileHandler", "TextIOWrapper"):
        return True
    if {"text", "universal_newlines"} & words.keys():
        return True
    if name not in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
        return False
    before = node.func.value if isinstance(node.func, ast.Attribute) else None
    if isinstance(before, ast.Name) and before.id in BYTES and name == "open":
        return False
    at = 1 if before is None or name == "fdopen" else 0
    mode = words.get("mode") or (node.args[at] if len(node.args) > at else None)
    if mode is None:  # Path.open() and open(path) read text; messages, journals and ledgers have an ``open`` as well
        return name == "open" and (before is None or (not node.args and "path" in ast.unparse(before)))
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" not in mode.value


def unsaid(source: str) -> list[int]:
    tree = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = []
    for node in tree:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {word.arg: word.value for word in node.keywords if word.arg}
        if opens_text(node, name, words) and "encoding" not in words:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_its_encoding(path: Path) -> None:
    lines = unsaid(path.read_text(encoding="utf-8"))
    assert not lines, f"{path.relative_to(ROOT)}, lines {lines}: say encoding='utf-8'"


def test_the_rule_sees_what_it_should() -> None:
    for bad in ("open('x')", "path.open()", "p.open('a')", "p.read_text()", "p.write_text('a')", "run(a, text=True)"):
        assert unsaid(bad) == [1], bad
    for good in ("open('x', 'rb')", "p.open('ab')", "os.open(p, 1)", "Request.open(b, k)", "p.read_bytes()"):
        assert unsaid(good) == [], good


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_process_of_ours_imports_nothing_from_the_current_folder(path: Path) -> None:
    """`python -m` puts the current folder first on the path: a file token.py there would be imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        words = node.elts if isinstance(node, ast.List) else []
        texts = [word.value if isinstance(word, ast.Constant) else ast.unparse(word) for word in words]
        if texts[:1] == ["sys.executable"]:
            assert "-P" in texts or "-I" in texts, f"{path.relative_to(ROOT)}:{node.lineno}"
