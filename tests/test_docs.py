"""The documentation is held to the code: what it names exists, what it counts is counted, its example works."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from crypto import blocks
from crypto.charter import Charter, Member, least_cohort
from crypto.keys import Identity
from crypto.session import SERVER, SILO
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published
from tests import diagrams

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("crypto", "silo_agent", "aggregator", "jobs")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ERRORS = ROOT / "docs" / "errors"
#: Pages under docs/ that a reader opens first.
MAIN_PAGES = ("walk", "protocol", "governance", "operations", "compliance")
#: Exit codes without an error class: success, a wrong command line, a run that finished without some silos, Ctrl-C.
OTHER_EXITS = {0, 2, 41, 130}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_DOTTED = re.compile(rf"(?:{'|'.join(ROOMS)})\.(?!json\b)\w+(?:\.\w+)*")
_PATH = re.compile(r"(?:crypto|silo_agent|aggregator|jobs|tests|docs|helm|\.ci)/[\w./-]*")


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    return _SPAN.findall(prose(page))


# --- names of the code -------------------------------------------------------------------------------------------


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_file(parts: list[str]) -> Path | None:
    place = ROOT.joinpath(*parts)
    found = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=targets):
                found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def exists(dotted: str) -> bool:
    """Whether the module, function, class or attribute is defined where the name says, not only imported there."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = module_file(parts[:length])
        if path is None:
            continue
        body = tree(path).body
        for part in parts[length:]:
            node = members(body).get(part)
            if node is None:
                return False
            body = node.body if isinstance(node, ast.ClassDef) else []
        return True
    return (ROOT / Path(*parts)).is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_of_the_code_exists(page: Path) -> None:
    for span in spans(page):
        for name in _DOTTED.findall(span) if _DOTTED.match(span) else ():
            assert exists(name), f"{page.name} names {name}"


def test_the_readme_lists_every_folder_of_the_rooms() -> None:
    listed = {span.rstrip("/") for span in spans(ROOT / "README.md")}
    for room in ROOMS:
        folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / room).rglob("*.py")}
        assert folders - {"jobs"} <= listed, "README, The four rooms"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_exists(page: Path) -> None:
    for span in spans(page):
        if _PATH.fullmatch(span) and not re.search(r"[A-Z]{2}", span.removesuffix("README.md")):  # RUN, NAME …
            assert (ROOT / span).exists(), f"{page.name} names {span}"


def test_a_made_up_name_would_be_noticed() -> None:
    assert (
        exists("crypto.blocks.encode")
        and exists("aggregator.tracking.registry.Registry.publish")
        and exists("jobs.flare")
    )
    assert (
        not exists("crypto.blocks.encrypt") and not exists("crypto.nothing") and not exists("crypto.ring.encode.more")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize("name", ["README", *(f"docs/{page}" for page in MAIN_PAGES)])
def test_the_main_pages_link_to_the_glossary(name: str) -> None:
    """That the anchors exist is checked with all relative links."""
    targets = _LINK.findall(prose(ROOT / f"{name}.md"))
    assert any(Path(target.partition("#")[0]).name == "glossary.md" for target in targets)


def test_every_entry_of_the_glossary_defines_its_term() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text()
    entries = re.findall(r"^### ([^\n]+)\n\n([^#\n].*?)(?=\n\n|\n*\Z)", page, re.MULTILINE | re.DOTALL)
    assert len(entries) == page.count("\n### ") > 50
    assert len({term for term, _ in entries}) == len(entries)


# --- commands ----------------------------------------------------------------------------------------------------


@cache
def verbs() -> set[str]:
    """Every verb of ``fed``: "up", "silo run" …, as the command line has them."""
    from typer.main import get_command

    from jobs.cli.main import app

    def below(command: object, prefix: str = "") -> set[str]:
        subs: dict[str, object] = getattr(command, "commands", {})
        return {prefix} if not subs else {verb for name, sub in subs.items() for verb in below(sub, f"{prefix} {name}")}

    return {verb.strip() for verb in below(get_command(app))}


def commands(page: Path) -> list[str]:
    """The command lines of a page: code spans and fenced lines that begin with ``fed`` or ``make``."""
    lines = [line for kind, text in _FENCE.findall(page.read_text()) if kind == "" for line in text.splitlines()]
    return [line.strip() for line in (*lines, *spans(page)) if re.match(r"\s*(fed|make) ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(page):
        first, *words = command.split()
        if first == "make":
            assert words[0] in targets, f"{page.name}: {command}"
        else:
            assert words[0] in verbs() or " ".join(words[:2]) in verbs(), f"{page.name}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_python_program_exists(page: Path) -> None:
    for option, program in re.findall(r"\bpython(?:3\.\d+)? (-m )?([\w./]+)", page.read_text()):
        if option and program != "pytest":
            assert module_file(program.split(".")) is not None, f"{page.name}: python -m {program}"
        elif program.endswith(".py"):
            assert (ROOT / program).is_file(), f"{page.name}: python {program}"


# --- errors ------------------------------------------------------------------------------------------------------


def declared() -> dict[str, int]:
    """code → exit code of every error class in the rooms, read from source so that nothing heavy is imported."""
    classes: dict[str, tuple[list[str], dict[str, object]]] = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.ClassDef):
                    own = {
                        name: getattr(member, "value", None)
                        for name, member in members(node.body).items()
                        if name in ("code", "exit_code")
                    }
                    values: dict[str, object] = {
                        name: value.value for name, value in own.items() if isinstance(value, ast.Constant)
                    }
                    classes[node.name] = ([ast.unparse(base) for base in node.bases], values)

    def lineage(name: str) -> list[str]:
        return [name, *(one for base in classes.get(name, ([], {}))[0] for one in lineage(base))]

    found = {}
    for name in classes:
        line = lineage(name)
        if "FederationError" in line:
            code, exit_code = (
                next(classes[one][1][key] for one in line if key in classes.get(one, ([], {}))[1])
                for key in ("code", "exit_code")
            )
            found[str(code)] = int(str(exit_code))
    return found


def test_every_code_has_a_section_on_the_page_of_its_exit_code() -> None:
    codes = declared()
    assert len(codes) > 30
    documented: dict[str, int] = {}
    for page in ERRORS.glob("*-*.md"):
        exit_code = int(page.name.partition("-")[0])
        documented |= dict.fromkeys(re.findall(r"^### `([A-Z_]+)`$", page.read_text(), re.MULTILINE), exit_code)
    assert documented == codes


def test_every_exit_code_has_a_page_and_is_listed() -> None:
    listed = re.findall(r"^\| (\d+) \|(.*)$", (ERRORS / "README.md").read_text(), re.MULTILINE)
    assert {int(code) for code, _ in listed} == set(declared().values()) | OTHER_EXITS
    linked = {int(code): target for code, row in listed for target in _LINK.findall(row)}
    assert {code: (ERRORS / page).name.partition("-")[0] for code, page in linked.items()} == {
        code: str(code) for code in set(declared().values()) | {130}
    }


# --- figures and the example -------------------------------------------------------------------------------------


def charter(n: int, c: int, m: int, n_min: int, lane_floor: int) -> Charter:
    keys = [Identity(bytes([1, *divmod(i, 256)]).ljust(32, b"\0")).public for i in range(2 * n + 1)]
    members_ = tuple(Member(f"silo-{i:03d}", keys[2 * i], keys[2 * i + 1]) for i in range(n))
    return Charter(
        federation="docs", epoch=1, previous=bytes(32), members=members_, aggregator=keys[-1], n_min=n_min, colluders=c,
        honest=m, lane_floor=lane_floor, not_before=0, not_after=1,
    )  # fmt: skip


def test_the_threshold_table_is_what_the_charter_computes() -> None:
    table = (ROOT / "docs" / "protocol.md").read_text().split("| N | c | m |")[1]
    rows = [tuple(map(int, row)) for row in re.findall(r"^\|" + r" (\d+) \|" * 8 + "$", table, re.MULTILINE)]
    assert len(rows) == 6
    for n, c, m, n_min, t, dropouts, lane_floor, fewest in rows:
        assert n_min == least_cohort(n, c) and lane_floor == c + 2
        assert charter(n, c, m, n_min, lane_floor).threshold(n) == t
        assert (dropouts, fewest) == (n - t, max(m + c, lane_floor))


def test_the_example_method_works(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    (code,) = (text for kind, text in _FENCE.findall(page) if kind == "python")
    example = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)  # dataclasses look their module up
    exec(compile(code, "docs/methods.md", "exec"), example.__dict__)
    kind = example.ClassMeans
    params = {"features": 2, "classes": 3}
    plan = kind.plan(params, Limits(n_max=3))
    (step,) = plan.steps
    rng = np.random.default_rng(0)
    centres_CD = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    silos = []
    for _ in range(3):
        y = np.arange(30) % 3
        x = (centres_CD[y] + rng.normal(size=(30, 2))).astype(np.float32)
        silos.append(DataSet("toy", x, y, x, y, 3))
    method = kind(params)
    start = SimpleNamespace(blocks=blocks.initial_state(plan, bytes(32)), slots={})
    parts = [
        blocks.encode(plan, step, method.contribute(step, start, data), method.weights(step, start, data))
        for data in silos
    ]
    words = sum((part.lanes["everyone"] for part in parts), np.zeros(6, np.uint32))
    counts = sum((part.slots for part in parts), np.zeros(len(step.slots), np.uint64))
    slots = {slot.name: int(count) for slot, count in zip(step.slots, counts, strict=True)}
    weight = sum(part.weights["everyone"] for part in parts)
    state = blocks.apply(plan, step, start.blocks, {"everyone": words}, {"everyone": weight})
    published = Published(state, {"sum/0": slots | {"everyone.weight": weight, "everyone.contributors": len(parts)}})
    p_BC = method.predict(published, centres_CD, "cold")
    assert p_BC.argmax(axis=1).tolist() == [0, 1, 2]
    assert np.allclose(p_BC.sum(axis=1), 1.0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_say_what_is(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"coming soon|TODO|TBD|FIXME|/home/|/tmp/|/work/", text), page.name
    assert "\t" not in text and all(len(line) <= 120 or line.startswith("|") for line in text.splitlines()), page.name


def test_the_state_diagrams_are_those_of_the_tables() -> None:
    page = diagrams.PAGE.read_text()
    assert diagrams.rewritten(page) == page, "run: make diagrams"


@pytest.mark.parametrize("table", [SILO, SERVER])
def test_a_diagram_shows_every_row_of_its_table(table: diagrams.Table) -> None:
    drawn = diagrams.diagram(table)
    for (before, event), after in table.items():
        names = [state.value.replace("-", "_") for state in (before, after)]
        assert re.search(rf"^    {names[0]} --> {names[1]}: (.*, )?{event}(,|$)", drawn, re.MULTILINE), (before, event)
