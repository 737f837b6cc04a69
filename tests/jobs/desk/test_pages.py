"""What the desk's pages show, and that no value of a row is ever on one."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from crypto.home import Home
from jobs.desk.data_sets import said_of
from jobs.job import JobSpec
from jobs.owner import decisions
from jobs.owner.review import OwnerView
from silo_agent.home import SiloHome
from silo_agent.journal import Advertised, Attested, Released
from silo_agent.pysyft.request_queue import RequestQueue
from silo_agent.readers.ranges import without_values
from tests.jobs.desk.conftest import ASKED, DONE, Visitor, rows

SCHEMA = """
kind = "table"
classes = ["no", "yes"]
target = "died"
[[columns]]
name = "glucose"
type = "number"
unit = "mmol/l"
range = [0, 100000]
[[columns]]
name = "ward"
type = "category"
levels = ["north", "south"]
missing = "indicator"
"""
TABLE_JOB = JobSpec.parse(
    {
        "name": "risk",
        "method": "fedavg",
        "dataset": "ward",
        "purpose": "a <b>bold</b> test & more",
        "schema": {
            "kind": "table",
            "classes": ["no", "yes"],
            "target": "died",
            "columns": [
                {"name": "glucose", "type": "number", "unit": "mmol/l", "range": [0, 100000]},
                {"name": "ward", "type": "category", "levels": ["north", "south"], "missing": "indicator"},
            ],
        },
        "params": {"features": 4, "classes": 2, "rounds": 1, "local_steps": 1, "seed": 1},
    }
)


class Outline(HTMLParser):
    """Headings, ids, labels and fields of a page, as a screen reader goes by them."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[str] = []
        self.tables = self.captions = 0
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.attributes |= found.keys()
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.ids += [found["id"]] if "id" in found else []
        if tag == "label":
            self.labelled.add(found["for"])
        if tag in ("select", "textarea") or (tag == "input" and found.get("type") != "hidden"):
            self.fields.append(found["id"])
        self.tables += tag == "table"
        self.captions += tag == "caption"


def pages(visitor: Visitor, home: SiloHome) -> dict[str, bytes]:
    """Every page that the desk can show of this home: all links from every page, and what its buttons show."""
    found: dict[str, bytes] = {}
    ahead = ["/requests"]
    while ahead:
        path = ahead.pop()
        if path not in found:
            page = visitor.get(path)
            assert page.status == 200, (path, page.text)
            found[path] = page.body
            ahead += [link.replace("&amp;", "&") for link in re.findall(r'href="(/[^"#]*)', page.body.decode())]
            ahead += re.findall(r'data-live="([^"]+)"', page.body.decode())
    csrf = {"csrf": visitor.csrf}
    for path in [path for path in found if re.fullmatch(r"/data/.+", path)] + ["/doctor"]:
        found[f"POST {path}"] = visitor.post(path, csrf).body
    for run in re.findall(rb'action="(/models/[^"]+)"', found["/models"]):
        found[f"POST {run.decode()}"] = visitor.post(run.decode(), csrf).body
    return found


def test_the_pages_of_a_silo(visitor: Visitor, home: SiloHome) -> None:
    found = pages(visitor, home)
    text = {path: re.sub(r"\s+", " ", re.sub(rb"<[^>]*>", b" ", body).decode()) for path, body in found.items()}
    assert "requests wait for a decision" in text["/requests"] or "One request waits" in text["/requests"]
    assert "made by the demonstration" in text["/data"]
    assert "it is what was registered" in text["POST /data/digits"]
    (run,) = [path for path in found if re.fullmatch(r"/runs/\w{16}", path)]
    plan = DONE.plan(Home(home.root).charter())
    assert f"{len(plan.steps)} of {len(plan.steps)} are behind us" in text[run] and "all silos together" in text[run]
    assert "this silo" in text[run] and DONE.digest.hex() in text[run]
    assert DONE.name in text["/models"] and "Digest" in text["/models"]
    (scored,) = [path for path in found if path.startswith("POST /models/")]
    assert "always the most common label" in text[scored]
    assert "no line is missing or changed" in text["/log"] and "run-joined" in text["/log"]
    assert "checks" in text["POST /doctor"]
    assert f"/requests/{DONE.digest.hex()}" in found and f"/requests/{ASKED.digest.hex()}" in found


def test_pages_are_for_everyone_and_load_nothing(visitor: Visitor, home: SiloHome) -> None:
    for path, body in pages(visitor, home).items():
        if path.endswith(("/live", ".css")):
            continue  # no page
        seen = Outline(body)
        assert seen.levels[0] == 1 and seen.levels.count(1) == 1, path
        assert all(after <= before + 1 for before, after in zip(seen.levels, seen.levels[1:], strict=False)), path
        assert len(seen.ids) == len(set(seen.ids)), path
        assert set(seen.fields) <= seen.labelled, path
        assert seen.tables == seen.captions, path
        assert {"header", "nav", "main", "footer"} <= seen.tags, path
        assert not seen.tags & {"style", "iframe", "img", "object"} and "style" not in seen.attributes, path
        assert not re.search(rb"""(?:src|href|action)=["'](?!/|#)|\son\w+=""", body), path


# --- no value of a row -----------------------------------------------------------------------------------------------


def register_ward(home: SiloHome, folder: Path) -> tuple[Path, list[str]]:
    """A table by reference, with values that are told apart from everything else; (its file, the values)."""
    rng = np.random.default_rng(1)
    values = [f"{value:.3f}" for value in rng.uniform(40000, 90000, size=60)]
    lines = [f"{value},{('north', 'south')[n % 2]},{('no', 'yes')[n % 3 % 2]}" for n, value in enumerate(values)]
    data, schema = folder / "ward.csv", folder / "ward.toml"
    data.write_text("\n".join(["glucose,ward,died", *lines]) + "\n", encoding="utf-8")
    schema.write_text(SCHEMA, encoding="utf-8")
    decisions.add_reference(OwnerView(home), "ward", data, schema, summary="of the wards")
    return data, values


def register_unscaled(home: SiloHome, folder: Path) -> list[str]:
    private = rows(5)
    private["x_train"] = (private["x_train"] * 1000 + 5000).astype(np.float32)
    np.savez(folder / "p.npz", allow_pickle=False, **private)
    np.savez(folder / "m.npz", allow_pickle=False, **rows(6))
    decisions.add_data(OwnerView(home), "raw", folder / "p.npz", folder / "m.npz")
    return [form.format(value) for value in private["x_train"].ravel() for form in ("{:g}", "{:.2f}", "{:.3f}")]


def test_no_value_of_a_row_is_on_any_page(visitor: Visitor, home: SiloHome, tmp_path: Path) -> None:
    data, values = register_ward(home, tmp_path)
    raw = register_unscaled(home, tmp_path)
    for job in (TABLE_JOB, ASKED.with_params(seed=8)):
        RequestQueue(home, "silo-1").put(job.text)
    assert any("values range" in one for one in OwnerView(home).catalogue.entry("raw").findings)
    digits = OwnerView(home).catalogue.resolve("digits").data
    x = np.concatenate([digits.x_train, digits.x_test]).ravel()
    forms = ("{!r}", "{:.6g}", "{:.5f}")
    secret = {*values, *(f"{float(v):g}" for v in values), *raw, *(f.format(float(v)) for v in x for f in forms)}
    secret = {one for one in secret if len(one.strip("-0.")) >= 5}

    def search() -> None:
        for path, body in pages(visitor, home).items():
            text = body.decode()
            assert not [one for one in secret if one in text], path

    search()
    assert visitor.decide(TABLE_JOB, visitor.read(TABLE_JOB)).status == 303
    # What readers say quotes values: the file is another now, with a value that the schema does not know.
    data.write_text(data.read_text().replace("north", "Zauberberg", 1), encoding="utf-8")
    secret.add("Zauberberg")
    search()
    found = visitor.post("/data/ward", {"csrf": visitor.csrf})
    assert "No job can use it" in found.text and "ward.csv" in found.text
    again = visitor.decide(TABLE_JOB, visitor.read(TABLE_JOB))
    assert again.status == 400 and "Zauberberg" not in again.text and not [one for one in values if one in again.text]


def test_a_readers_error_is_not_repeated(
    visitor: Visitor, home: SiloHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are as registered, and another release's reader refuses a value."""
    from crypto.errors import DataRefused
    from silo_agent.pysyft.catalogue import Catalogue

    register_ward(home, tmp_path)
    RequestQueue(home, "silo-1").put(TABLE_JOB.text)
    read = visitor.read(TABLE_JOB)

    def resolve(self: Catalogue, name: str, **_: object) -> None:
        raise DataRefused("ward.csv: row 7: '71.25' is no glucose.")

    monkeypatch.setattr(Catalogue, "resolve", resolve)
    answers = [
        visitor.post("/data/ward", {"csrf": visitor.csrf}),
        visitor.post("/doctor", {"csrf": visitor.csrf}),
        visitor.decide(TABLE_JOB, read),
        visitor.get(f"/requests/{TABLE_JOB.digest.hex()}"),
    ]
    (run,) = {path.stem for path in home.personal_folder.glob("*.safetensors")}
    answers.append(visitor.post(f"/models/{run}", {"csrf": visitor.csrf}))
    for answer in answers:
        assert "71.25" not in answer.text, answer.text
    assert "DATA_REFUSED" in answers[0].text and answers[2].status == 400


def test_the_extremes_of_a_finding_are_left_out() -> None:
    said = "Unscaled: columns 'a', values range from -3.5 to 255. Models want values around 0."
    assert without_values(said) == "Unscaled: columns 'a', values are far from 0. Models want values around 0."
    said = "Unscaled: values range from 0 to 1.5e+06. Models want"
    assert without_values(said) == "Unscaled: values are far from 0. Models want"


def test_names_and_purposes_are_text(visitor: Visitor, home: SiloHome, tmp_path: Path) -> None:
    register_ward(home, tmp_path)
    RequestQueue(home, "silo-1").put(TABLE_JOB.text)
    for path in ("/requests", f"/requests/{TABLE_JOB.digest.hex()}"):
        body = visitor.get(path).body
        assert b"a &lt;b&gt;bold&lt;/b&gt; test &amp; more" in body and b"<b>bold" not in body


def test_a_data_set_shows_schema_and_mock(visitor: Visitor, home: SiloHome, tmp_path: Path) -> None:
    register_ward(home, tmp_path)
    text = visitor.get("/data/ward").text
    assert "number from 0 to 100000 mmol/l, others are refused; none may be missing" in text
    assert "one of north, south; missing values have a column of their own" in text
    assert "invented rows of the mock" in text and "of the wards" in text


@pytest.mark.parametrize(
    ("column", "said"),
    (
        (
            {"type": "date", "formats": ["%Y"], "range": [0, 9], "unit": "years", "outside": "clip", "missing": 3.0},
            "date in %Y, as from 0 to 9 years, others are cut off; a missing value counts as 3.0",
        ),
        (
            {"type": "number", "range": [0, 9], "outside": "missing", "missing": "indicator"},
            "number from 0 to 9, others count as missing; missing values have a column of their own",
        ),
    ),
)
def test_a_column_in_words(column: dict[str, object], said: str) -> None:
    assert said_of(column) == said


# --- runs, log, what is broken ---------------------------------------------------------------------------------------


def test_a_run_under_way_shows_its_phase(visitor: Visitor, home: SiloHome) -> None:
    from jobs.security_log.writer import SecurityLog

    run = "ab" * 32
    log = SecurityLog(home)
    log("run-joined", run=run, job=ASKED.digest.hex())
    for record, said in (
        (Advertised(run, 1, 0), "training, or waiting"),
        (Attested(run, 1, 0, "0" * 64), "about to open"),
        (Released(run, 1, "0" * 64, ("silo-1",)), "waiting for the result"),
    ):
        with home.journal_path.open("ab") as journal:
            journal.write(bytes(record))
        page = visitor.get(f"/runs/{run[:16]}")
        assert "under way" in page.text and said in page.text and b"data-live" in page.body and b"live.js" in page.body
        assert visitor.get(f"/runs/{run[:16]}/live").status == 200
    log("run-ended", run=run, code="ROUND_LOST")
    ended = visitor.get(f"/runs/{run[:16]}")
    assert "ended: ROUND_LOST" in ended.text and b"live.js" not in ended.body


@pytest.mark.parametrize(
    "path",
    ("/requests/x", f"/requests/{'0' * 64}", "/data/none", "/data/..%2f..", "/runs/ab", "/runs/" + "0" * 16, "/x"),
)
def test_what_is_not_there_is_not_found(visitor: Visitor, path: str) -> None:
    assert visitor.get(path).status == 404


def test_the_log_is_paged_and_filtered(visitor: Visitor) -> None:
    one = visitor.get("/log?event=run-joined")
    assert "run-joined" in one.text and "this site takes part in a run from its start" in one.text
    assert one.body.count(b"<tr>") == 2
    for odd in ("/log?before=x", "/log?before=-1", "/log?event=<script>", f"/log?before={'9' * 40}"):
        found = visitor.get(odd)
        assert found.status == 200 and b"<script>" not in found.body
    assert "No such line" in visitor.get("/log?before=0").text


def test_many_pages_at_once(visitor: Visitor) -> None:
    paths, found = ("/requests", f"/requests/{ASKED.digest.hex()}", "/data", "/data/digits", "/runs", "/log"), []
    threads = [threading.Thread(target=lambda at=path: found.append(visitor.get(at).status)) for path in paths * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * len(threads)


def test_a_changed_log_is_said(visitor: Visitor, home: SiloHome) -> None:
    log = home.security_log
    log.write_bytes(log.read_bytes().replace(b"run-joined", b"run-joinee", 1))
    assert "The log does not check" in visitor.get("/log").text


def test_a_broken_home_is_told_by_name(visitor: Visitor, home: SiloHome) -> None:
    (home.root / "charter.bin").unlink()
    found = visitor.get("/requests")
    assert found.status == 400 and "charter.bin" in found.text
    for path in home.runs_folder.glob("*"):
        path.write_bytes(b"damaged")
    for path in home.personal_folder.glob("*"):
        path.write_bytes(b"damaged")
    assert "Cannot be used" in visitor.get("/models").text


def test_a_damaged_progress_file_is_told(visitor: Visitor, home: SiloHome) -> None:
    for path in home.runs_folder.glob("*"):
        path.write_bytes(b"damaged")
    link = re.search(rb'href="(/runs/\w+)"', visitor.get("/runs").body)
    assert link and "read" in visitor.get(link[1].decode()).text


def test_the_doctors_word_on_data_is_not_repeated(visitor: Visitor, home: SiloHome, tmp_path: Path) -> None:
    register_unscaled(home, tmp_path)
    said = visitor.post("/doctor", {"csrf": visitor.csrf}).text
    assert "something to look at in a data set" in said and "values range" not in said
