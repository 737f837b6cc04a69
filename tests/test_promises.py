"""docs/promises.md is held to the texts and to the tests: no promise without a test, and none that is not on the page.

A promise is quoted from its page word by word, white space and the targets of links apart. So whoever changes a promise
changes the page too, and looks at the tests that it names; whoever renames or removes such a test finds the promise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"

#: Where promises are made. Decisions are not rewritten, so they promise nothing of what is; changes are history.
PLACES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(page for page in (ROOT / "docs").glob("*.md") if page.name not in ("promises.md", "mutation.md")),
        *(ROOT / "docs" / "methods").glob("*.md"),
        *(ROOT / "docs" / "errors").glob("*.md"),
        ROOT / "aggregator" / "tracking" / "model_card.py",
        ROOT / "jobs" / "templates" / "report.html.j2",
        ROOT / "jobs" / "demo" / "report.py",
        ROOT / "jobs" / "owner" / "egress_manifest.py",
    )
)

#: Words by which a sentence promises privacy, integrity, consent or survival. Not all that do have one: see the page.
WORDS = re.compile(
    r"""\b(
      never\ (?:leaves?|left|sent|both|opened|executed|lowered|trusted|asked|moves?|removed|removes|used)
    | nothing\ (?:else\ )?(?:leaves|left|is\ sent|was\ sent|written)
    | nobody\ (?:can|learns) | no\ (?:share|message|role|value\ is)\b
    | (?:cannot|can't)\ (?:both|make|guess|claim|lower|hold|take\ part|be\ (?:in|forged|opened|recovered|served))
    | only\ (?:as\ )?(?:a\ |the\ |their\ )?sums? | learns?\ only | not\ learn
    | stays?\ (?:masked|secret|at\ the\ silo)
    | (?:is|are)\ refused | (?:are|then\ \*)\ ?proven
    | every\ silo\ (?:checks|recomputes|refuses)
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_NODE = re.compile(r"`(tests/[\w/]+\.py::\w+)`")


@dataclass(frozen=True)
class Row:
    """A line of a table of the page. ``text``: a sentence of ``place``. Of a promise, ``tests``: node ids."""

    place: str
    text: str
    why: str
    tests: tuple[str, ...] = ()


# --- the page ----------------------------------------------------------------------------------------------------


@cache
def rows() -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(promises, sentences that are none)."""
    promises, others = [], []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| `") else []
        match cells:
            case [place, text, why, tests]:
                promises.append(Row(place.strip("`"), text, why, tuple(_NODE.findall(tests))))
            case [place, text, why]:
                others.append(Row(place.strip("`"), text, why))
    return tuple(promises), tuple(others)


# --- the texts ---------------------------------------------------------------------------------------------------


@cache
def passages(place: str) -> tuple[str, ...]:
    """Paragraphs, items and cells of a page, or the texts of a module, each on one line and with links as words."""
    text = (ROOT / place).read_text()
    if place.endswith(".py"):
        found = list(_literals(ast.parse(text)))
    elif place.endswith(".j2"):
        bare = re.sub(r"<style>.*?</style>", "\n", text, flags=re.DOTALL)
        bare = re.sub(r"\{%.*?%\}", " ", re.sub(r"\{\{.*?\}\}", "…", bare))
        found = re.sub(r"<[^>]*>", "", re.sub(r"</(?:p|li|td|th|small|h\d)>", "\n", bare)).split("\n")
    else:
        found = list(_blocks(re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)))
    return tuple(passage for one in found if (passage := " ".join(_LINK.sub(r"\1", one).split())))


def _blocks(text: str) -> Iterator[str]:
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        item = re.match(r"\s*(?:[-*]|\d+\.) ", line)
        if block and (item or not line.strip() or line.startswith(("|", "#"))):
            yield " ".join(block)
            block = []
        if line.startswith("|"):
            yield from line.strip("|").split("|")
        elif line.strip() and not line.startswith("#"):
            block.append(line[item.end() :] if item else line)


def _literals(tree: ast.Module) -> Iterator[str]:
    """Texts of a module that somebody reads: no docstring. What is put into them is "…"; items of lists are apart."""
    skip: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                skip.add(id(node.value))
            case ast.JoinedStr(values=values):
                skip |= {id(value) for value in values}
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        match node:
            case ast.Constant(value=str(text)):
                yield from re.sub(r"\n- ", "\n\n", "\n" + text).split("\n\n")
            case ast.JoinedStr(values=values):
                parts = [one.value if isinstance(one, ast.Constant) else "…" for one in values]
                yield from "".join(map(str, parts)).split("\n\n")


def sentences(place: str) -> Iterator[str]:
    for passage in passages(place):
        yield from re.split(r"(?<=[.!?])(?:\*\*)? (?=[A-Z`*(\"…])", passage)


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


# --- the tests ---------------------------------------------------------------------------------------------------


def test_every_sentence_is_where_it_is_said_to_be() -> None:
    for row in (*rows()[0], *rows()[1]):
        assert row.place in PLACES, row.place
        assert any(row.text in passage for passage in passages(row.place)), f"{row.place} does not say: {row.text}"


def test_every_promise_says_when_it_ends_and_has_tests_that_exist() -> None:
    promises, _ = rows()
    assert len(promises) > 90
    for row in promises:
        assert row.why and row.tests, row.text
        for node in row.tests:
            path, _, name = node.partition("::")
            assert (ROOT / path).is_file() and name in functions_of(path), f"no test {node}, for: {row.text}"
            assert name.startswith("test_"), node


def test_the_page_of_attacks_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`]+)`", text)
    assert len(named) > 80 and text.count("::") == len(named)
    for node in named:
        path, _, name = node.partition("::")
        assert (ROOT / path).is_file() and name in functions_of(path), f"no test {node}"


def test_each_sentence_is_on_the_page_once() -> None:
    both = [(row.place, row.text) for row in (*rows()[0], *rows()[1])]
    assert len(set(both)) == len(both)


def test_every_claim_of_the_table_of_what_is_protected_is_a_promise() -> None:
    table = (ROOT / "SECURITY.md").read_text().split("## What is protected")[1].split("\n\n")[1]
    claims = {line.strip("|").split(" | ")[0].strip() for line in table.splitlines()[2:]}
    assert len(claims) > 10
    assert claims <= {row.text for row in rows()[0] if row.place == "SECURITY.md"}


@pytest.mark.parametrize("place", PLACES)
def test_a_sentence_that_sounds_like_a_promise_is_one_or_says_why_not(place: str) -> None:
    known = [row.text for row in (*rows()[0], *rows()[1]) if row.place == place]
    missing = [
        sentence
        for sentence in sentences(place)
        if WORDS.search(sentence) and not any(sentence in text or text in sentence for text in known)
    ]
    assert not missing, "\n".join([f"{place}: neither a promise of docs/promises.md nor in its last table:", *missing])


def test_what_is_no_promise_sounds_like_one_and_says_why_it_is_none() -> None:
    for row in rows()[1]:
        assert WORDS.search(row.text) and row.why, row.text


def test_the_texts_are_read_as_people_read_them() -> None:
    """Else a promise could hide where nobody looks for it."""
    assert any(text.startswith("A secure sum is not") for text in passages("aggregator/tracking/model_card.py"))
    assert not any('"""' in text or "Written from" in text for text in passages("aggregator/tracking/model_card.py"))
    report = passages("jobs/templates/report.html.j2")
    assert any("turn a sum of n into a sum of n − …." in text for text in report) and not any("<" in t for t in report)
    assert "Of a lane below its floor no value is learnt, nor how many contribute to it" in passages("SECURITY.md")
