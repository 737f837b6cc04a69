"""The lineage page: one file that loads nothing, one click from graph to facts, others' words escaped."""

from __future__ import annotations

import builtins
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator.ledger.records import Kind
from crypto.errors import SpecError
from jobs.cli.main import app
from jobs.evidence.lineage import export, svg
from jobs.evidence.lineage.html import render, write_page
from jobs.evidence.lineage.model import Lineage
from jobs.evidence.lineage.svg import GAP, HIGH, MOST_FAMILY, MOST_STEPS, WIDTH, draw
from jobs.evidence.lineage.trace import trace
from tests.lineages import PURPOSE, SILOS, Past
from tests.records import as_record

HOSTILE = '<script>alert(1)</script>"><img src="https://evil.example/x" onerror=alert(2)>'
#: Attributes by which a page loads something or runs it; href may lead to a place on the page.
LOADING = {"src", "srcset", "data", "action", "xlink:href", "poster", "background"}
VOID_TAGS = {"meta", "br"}


class Page(HTMLParser):
    """Tags, attributes, text, anchors, links, and where each link stands."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.rows: dict[str, str] = {}
        self.text = ""
        self.open: list[str] = []
        self._row = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append(tag)
        self.attributes |= facts.keys()
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if "id" in facts:
            self.ids.append(str(facts["id"]))
        if tag in ("tr", "section", "li"):
            self._row = facts.get("id") or (self._row if tag == "li" else "")
        if tag == "a":
            self.links.append((str(facts["href"]), facts))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs).keys()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._row:
            self.rows[self._row] = self.rows.get(self._row, "") + data


def page_of(past: Past, text: str = "") -> Page:
    return Page(render(trace(past.home, text or past.run)))


def test_it_loads_nothing_and_runs_nothing(made: Past) -> None:
    text = render(trace(made.home, made.run))
    page = Page(text)
    assert not page.attributes & LOADING
    assert not any(name.startswith("on") for name in page.attributes)
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "video", "audio"}
    for way in ("http:", "https:", "@import", "//", "url(h"):
        assert way not in text
    assert "default-src 'none'" in text
    assert page.open == []


def test_every_link_leads_to_a_place_on_the_page(past: Past) -> None:
    past.number("1")
    past.child()
    past.withdraw("silo-2")
    page = page_of(past, "rows/1")
    assert len(page.ids) == len(set(page.ids))
    assert {href[0] for href, _ in page.links} == {"#"}
    assert {href[1:] for href, _ in page.links} <= set(page.ids)


def test_data_approval_and_cohort_are_one_click_from_the_graph(made: Past) -> None:
    lineage, page = trace(made.home, made.run), page_of(made)
    drawn = {href for href, facts in page.links if "aria-label" in facts}
    for number, part in enumerate(lineage.silos):
        assert f"#silo-{number}" in drawn
        assert part.consent is not None
        row = page.rows[f"silo-{number}"]
        for fact in (part.silo, *part.data, part.consent.digest, part.consent.owner, part.consent.until):
            assert fact in row
        assert "1 of at most 8 runs" in row
        assert part.consent.policy[:16] in row
    for number, group in enumerate(lineage.steps):
        assert f"#steps-{number}" in drawn
        row = page.rows[f"steps-{number}"]
        assert all(silo in row for silo in group.cohort)
        assert f"{len(group.cohort)} of 4 silos" in row
    assert "silo-4 lost in deal" in page.rows["steps-2"]
    assert {"#run", "#model"} <= drawn


def test_it_has_the_facts_of_run_and_model(past: Past) -> None:
    past.number("1")
    export.promote(past.home, "rows/1", "champion", "the board")
    lineage, page = trace(past.home, "rows/1"), page_of(past, "rows/1")
    run, model = lineage.run, lineage.model
    assert model is not None
    facts = [PURPOSE, run.run, run.job_digest, run.plan_digest, run.charter_digest, run.code_digest, "epoch 1"]
    facts += [model.weights_sha256, model.state_digest, "@champion", "moved here by the board", lineage.head]
    facts += [f"whose key here is {lineage.consortium}"]
    facts += ["numpy " + run.versions["numpy"], "fed verify rows/1", *lineage.unproven]
    for fact in facts:
        assert str(fact) in page.text, fact
    assert "rows/1 was trained with FedAvg on the data of 4 silos." in page.text
    for figure in ("members in its sums4/4", "approvals checked4/4", "countersigned the end4/4", "none void7"):
        assert figure in "".join(page.text.split("\n")).replace("  ", ""), figure


def test_what_is_not_recorded_is_said(past: Past) -> None:
    def aged(kind: Kind, record: dict[str, Any]) -> dict[str, Any] | None:
        new = {"nonce", "code_digest", "purpose", "versions", "approvals"}
        return None if kind is Kind.APPROVAL else {key: value for key, value in record.items() if key not in new}

    past.rewrite(aged)
    page = page_of(past)
    assert page.text.count("not recorded") >= 2 + 2 * len(SILOS)
    assert "did not countersign the end" in page.rows["silo-0"]
    assert "no approval recorded" in page.text


def test_family_and_withdrawals_are_drawn_and_told(past: Past) -> None:
    past.number("1")
    child = past.child()
    past.number("2", child)
    past.withdraw("silo-4", ["rows/1"])
    upper, lower = page_of(past, "rows/1"), page_of(past, "rows/2")
    for page in (upper, lower):
        assert "silo-4 withdrew" in page.text
        assert "consent revoked" in page.text
        assert "rows/1: retrain the whole model from its first state" in page.text
        assert "silo-4 withdrew since." in page.text
    assert "went into rows/2" in {facts.get("aria-label") for _, facts in upper.links}
    assert "started from rows/1" in {facts.get("aria-label") for _, facts in lower.links}
    assert "rows/2 is the newest version of this name" in upper.text
    assert "starting from rows/1" in lower.text


def test_a_run_without_a_model_has_a_page(past: Past) -> None:
    run = past.start(b"n" * 32)
    page = page_of(past, run)
    assert f"Run {run} made no model: not finished." in page.text
    assert "no model: not finished" in {facts.get("aria-label") for _, facts in page.links}


def test_others_words_are_letters(past: Past) -> None:
    closed = past.record(Kind.STEP_CLOSED)
    run = past.start(b"h" * 32, purpose=HOSTILE, model_name=HOSTILE, versions={HOSTILE: HOSTILE}, silos=[HOSTILE])
    place = {"run": run, "k": 0, "name": HOSTILE}
    ledger = past.ledger
    ledger.append(as_record(Kind.STEP_OPENED, {**place, "invited": [HOSTILE]}))
    hostile = {"survivors": [HOSTILE], "lanes_open": [HOSTILE], "lanes_shut": [HOSTILE], "lost": {HOSTILE: "deal"}}
    hostile |= {"data_commitments": {HOSTILE: "ab" * 32}, "refusals": {HOSTILE: "NOT_APPROVED"}, "approvals": {}}
    ledger.append(as_record(Kind.STEP_CLOSED, {**closed, **place, **hostile}))
    ledger.append(as_record(Kind.STEP_OPENED, {**place, "k": 1, "invited": [HOSTILE]}))
    ledger.append(as_record(Kind.STEP_VOID, {**place, "k": 1, "reason": "INTERRUPTED", "phase": "deal", "missing": []}))
    past.withdraw(HOSTILE, [HOSTILE])
    ledger = past.ledger
    ledger.append(as_record(Kind.RUN_FAILED, {"run": run, "code": "ROUND_LOST", "phase": "deal", "missing": []}))
    text = render(trace(past.home, run))
    page = Page(text)
    assert "<script" not in text
    assert "<img" not in text
    assert not page.attributes & (LOADING | {"onerror"})
    assert page.text.count(HOSTILE) >= 8
    assert {href[1:] for href, _ in page.links} <= set(page.ids)


# --- the drawing -------------------------------------------------------------------------------------------------


def long(lineage: Lineage, steps: int, family: int) -> Lineage:
    """The same with many kinds of steps, parents and descendants."""
    assert lineage.model is not None
    one = lineage.steps[1]
    kinds = tuple(replace(one, names=(f"train/{number}",)) for number in range(steps))
    kin = (lineage.model,) * family
    return replace(lineage, steps=kinds, parents=kin, descendants=kin)


def test_boxes_stay_in_the_picture_and_apart(made: Past) -> None:
    lineage = trace(made.home, made.run)
    for drawn in (
        draw(lineage),
        draw(long(lineage, 40, 9)),
        draw(long(lineage, 0, 0)),
        draw(replace(lineage, silos=())),
    ):
        for column in drawn.columns:
            assert 0 <= column.left < column.left + column.wide <= WIDTH
            tops = [box.top for box in column.boxes]
            assert all(0 <= top <= drawn.height - HIGH for top in tops)
            assert all(low - high >= HIGH + GAP for high, low in pairwise(tops))


def test_a_long_history_is_cut_with_a_word(made: Past) -> None:
    lineage = long(trace(made.home, made.run), MOST_STEPS + 3, MOST_FAMILY + 2)
    drawn = draw(lineage)
    names = [box.name for box in svg.boxes(drawn)]
    assert {"3 more steps", "2 more ancestors", "2 more descendants"} <= set(names)
    assert len(drawn.columns[1].boxes) == MOST_STEPS + 1
    assert drawn.columns[1].boxes[-1].target == f"steps-{MOST_STEPS}"
    page = Page(render(lineage))
    assert {href[1:] for href, _ in page.links} <= set(page.ids)


def test_edges_show_who_is_in_which_sum(made: Past) -> None:
    lineage = trace(made.home, made.run)
    silos, steps, _ = draw(lineage).columns
    for box, part in zip(silos.boxes, lineage.silos, strict=True):
        ends = {edge.rsplit(" ", 1)[1] for edge in box.edges}
        wanted = {
            f"{step.top + HIGH / 2:g}"
            for step, group in zip(steps.boxes, lineage.steps, strict=True)
            if part.silo in group.cohort
        }
        assert ends == wanted
    assert all(len(step.edges) == 1 for step in steps.boxes)
    void = replace(lineage, steps=(replace(lineage.steps[0], outcome="void", cohort=()),))
    silos, steps, _ = draw(void).columns
    assert [box.edges for box in (*silos.boxes, *steps.boxes)] == [()] * 5


def test_arrows_lead_from_each_run_to_what_came_of_it(past: Past) -> None:
    first = past.child()
    second = past.child(b"d" * 32)
    drawn = draw(trace(past.home, past.run))
    right = drawn.columns[2]
    assert [box.run for box in right.boxes] == [f"run {past.run}", past.run, first, second]
    down, straight, around = drawn.links
    assert down.endswith(f"V{right.boxes[1].top - 5:g}")
    assert straight.endswith(f"V{right.boxes[2].top - 5:g}")
    model, last = right.boxes[1].top + HIGH / 2, right.boxes[3].top + HIGH / 2
    assert around.startswith(f"M{right.left + right.wide} {model:g}")
    assert f"V{last:g}H" in around


# --- writing -----------------------------------------------------------------------------------------------------


def test_a_page_is_never_written_over(made: Past, tmp_path: Path) -> None:
    lineage, path = trace(made.home, made.run), tmp_path / "page.html"
    write_page(lineage, path)
    assert path.read_text() == render(lineage)
    with pytest.raises(SpecError, match="not taken"):
        write_page(lineage, path)
    for bad in (tmp_path / "nowhere" / "page.html", tmp_path, path / "page.html"):
        with pytest.raises(SpecError, match="--html"):
            write_page(lineage, bad)


def test_without_jinja2_it_says_what_to_do(made: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> ModuleType:
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SpecError, match=r"our package with the extra demo"):
        write_page(trace(made.home, made.run), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_line_writes_it(made: Past, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["lineage", made.run, "--html", str(path), "--home", str(made.home.root)])
    assert (done.exception, done.stdout) == (None, f"{path}\n")
    assert path.read_text().startswith("<!doctype html>")
