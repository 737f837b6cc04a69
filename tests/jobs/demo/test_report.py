"""The report: one file that loads nothing, says what the ledger says, and escapes what others named."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, plain, read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind
from aggregator.verify.models import checked_ledger
from crypto.errors import EvidenceError, NonFinite
from crypto.keys import Identity
from crypto.messages import Message
from crypto.scores import curve, scores
from jobs.demo.report import _accuracy, write_report
from jobs.demo.report_charts import _shortened
from jobs.demo.report_view import RunView
from jobs.runtime.in_process import InProcess
from jobs.runtime.mask_probe import FILE, ProbedAgent, chi_square, read_probe
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local, tiny
from tests.records import as_record

pytestmark = pytest.mark.slow

SILOS = tuple(f"silo-{i}" for i in range(1, 8))
JOB = tiny.spec("fedcoe", name="tiny-report", keep_uploads="all", params={"rounds": 2, "finetune_steps": 1})
TABLE = {
    "accuracy": {
        "global": 91.26,
        "personal": 95.0,
        "cold": 80.5,
        "fedavg": {"global": 85.01, "personal": 85.02, "cold": 81.0},
        "fedavg_equal_params": {"global": 87.33, "cold": 77.0},
        "local": {"personal": 70.44},
    }
}
HOSTILE = '<script>alert(1)</script>"><img src="https://evil.example/x" onerror=alert(2)>'
#: Attributes by which a page loads something or runs it.
LOADING = {"src", "href", "srcset", "data", "action", "xlink:href", "poster", "background"}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass(frozen=True)
class Made:
    federation: Path
    run: str
    page: str

    @property
    def aggregator(self) -> Path:
        return self.federation / "aggregator"

    def entries(self, kind: Kind) -> list[Entry]:
        return [
            e for e in read(AggregatorHome(self.aggregator).ledger_path) if e.kind is kind and e.record.run == self.run
        ]


class Faults(InProcess):
    """From train/0 on silo-6 refuses and silo-7 is away, both in each step: so figures open over the same silos."""

    def __init__(self, silo: str, agent: Agent) -> None:
        super().__init__(agent)
        self.silo = silo

    def send(self, request: Message) -> Message | None:
        agent = self.agent
        if self.silo == "silo-6" and agent.k == 2:
            agent._phases["contribute"] = self.refuse
        if self.silo == "silo-7" and agent.k >= 2 and request.phase == "deal":
            return None
        return super().send(request)

    def refuse(self, request: object, message: object) -> Message:
        raise NonFinite("A value to be summed is NaN or infinite.")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    federation = tiny.federation(tmp_path_factory.mktemp("reported") / "f", len(SILOS), probe="histogram")
    root = federation.root
    _, run, agents = local.run_job(JOB, federation.aggregator, federation.homes, courier=Faults)
    assert all(isinstance(agent, ProbedAgent) for agent in agents.values())
    path = write_report(root, run.name, table=TABLE)
    assert path == root / "aggregator" / "jobs" / run.name / "report.html"
    return Made(root, run.name, path.read_text())


def test_it_loads_nothing_and_runs_nothing(made: Made) -> None:
    page = Page(made.page)
    assert not page.attributes & LOADING
    assert not any(name.startswith("on") for name in page.attributes)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "video", "audio"}
    for way in ("http:", "https:", "url(", "@import", "//"):
        assert way not in made.page
    assert "default-src 'none'" in made.page


def test_it_says_what_happened_in_one_sentence(made: Made) -> None:
    steps = len(made.entries(Kind.STEP_CLOSED))
    assert f"FedCoE trained at 7 silos: {steps} of {steps} steps released, none void" in made.page
    assert "3 refusals (NON_FINITE × 3)" in made.page
    assert "silo-6 refused in contribute: NON_FINITE" in made.page
    assert "silo-7 lost in deal" in made.page


def test_it_has_the_figures_of_the_ledger(made: Made) -> None:
    text = Page(made.page).text
    closed = [entry.record for entry in made.entries(Kind.STEP_CLOSED)]
    started, finished = made.entries(Kind.RUN_STARTED)[0].record, made.entries(Kind.RUN_FINISHED)[0].record
    for record in closed:
        assert record.name in text
        assert f"{sum(record.phase_ms.values()):,} ms" in text
    last = closed[-1].slots
    for name in ("global", "generalist", "personal"):
        assert f"{100 * last[f'{name}.correct'] / last['test.rows']:.1f} %" in text
    for mode in ("global", "personal"):
        for score in scores(last, mode):
            assert score.text in text and score.title in text and score.against in text
    assert "global AUROC, baseline 0.500" in text
    found = curve(last, "global")
    assert found is not None and sum(rows for rows, _, _ in found.points) == last["test.rows"]
    assert all(f"{chance:.3f}" in text and f"{came:.3f}" in text for _, chance, came in found.points)
    for key in ("job_digest", "plan_digest", "charter_digest", "state_digest"):
        assert getattr(started, key) in text
    for key in ("state_digest", "ledger_head", "weights_sha256"):
        assert getattr(finished, key) in text
    assert f"{len(finished.countersignatures)} of 7 silos" in text
    assert closed[0].data_commitments["silo-1"] in text


def test_the_table_is_the_callers_and_missing_values_are_dashes(made: Made, tmp_path: Path) -> None:
    text = Page(made.page).text
    for figure in ("91.3", "95.0", "80.5", "85.0", "81.0", "87.3", "77.0", "70.4"):
        assert figure in text
    assert "+6.2 vs FedAvg" in text
    assert "−0.5 vs FedAvg" in text
    assert "FedCoE: contextual" in text
    bare = Page(write_report(made.federation, made.run, out=tmp_path / "bare.html").read_text()).text
    assert "85.0" not in bare
    last = made.entries(Kind.STEP_CLOSED)[-1].record.slots
    assert f"{100 * last['personal.correct'] / last['test.rows']:.1f}" in bare
    odd = {"accuracy": {"global": None, "cold": float("nan"), "fedavg": {"global": "high"}}}
    assert (
        "nan"
        not in Page(write_report(made.federation, made.run, table=odd, out=tmp_path / "odd.html").read_text()).text
    )


def test_what_only_silos_see_is_labelled_and_true(made: Made) -> None:
    label = "visible at the silo only: drawn here because this demonstration owns every silo&#39;s folder"
    assert made.page.replace("silo's", "silo&#39;s").count(label) == 2
    text = Page(made.page).text
    probe = read_probe(SiloHome(made.federation / "silos" / "silo-1"), made.run)
    assert probe is not None
    one = min((h for h in probe.histograms if h.lane.startswith("expert") and chi_square(h.before)), key=lambda h: h.k)
    held = next(
        h for h in probe.histograms if h.k == one.k and dict(probe.weights[h.k][2]).get(h.lane) and "expert" in h.lane
    )
    assert f"silo-1, step {held.step}, lane {held.lane}: {held.words:,} words" in text
    assert f"χ² = {chi_square(held.after):.1f} with 63 degrees of freedom" in text
    stored = made.aggregator / "jobs" / made.run / "uploads" / f"{held.k:06d}" / "silo-1" / f"{held.lane}.u32"
    for at in range(0, 32, 4):
        assert stored.read_bytes()[at : at + 4].hex() in text
    assert "the histogram of the stored words is the silo's own" in text
    assert "The same lane" in text


def test_without_probes_the_page_says_so(made: Made, tmp_path: Path) -> None:
    federation = tmp_path / "federation"
    shutil.copytree(made.federation, federation)
    for silo in SILOS:
        (federation / "silos" / silo / FILE).unlink()
    text = Page(write_report(federation, made.run).read_text()).text
    assert text.count("probes were off at the silos") == 2
    assert "visible at the silo only" not in text
    assert "as the aggregator stored it" in text
    shutil.rmtree(federation / "aggregator" / "jobs" / made.run / "uploads")
    text = Page(write_report(federation, made.run).read_text()).text
    assert "probes were off at the silos and the aggregator kept no upload" in text


def test_withheld_figures_are_named_and_the_last_whole_accuracy_is_shown(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.aggregator, tmp_path / "aggregator")
    home = AggregatorHome(tmp_path / "aggregator")
    ledger = Ledger.open(home.ledger_path, Identity.load(tmp_path / "aggregator" / "keys" / "aggregator.key"))
    started, steps = made.entries(Kind.RUN_STARTED)[0].record, [one.record for one in made.entries(Kind.STEP_CLOSED)]
    for run, lacking in (("some", ("train/1", "eval/0")), ("all", tuple(step.name for step in steps))):
        ledger.append(as_record(Kind.RUN_STARTED, {**plain(started.fields()), "run": run}))
        for step in steps:
            place = {"run": run, "k": step.k, "name": step.name}
            ledger.append(as_record(Kind.STEP_OPENED, {**place, "invited": plain(step.invited)}))
            slots = {name: n for name, n in step.slots.items() if step.name not in lacking or name != "test.rows"}
            ledger.append(as_record(Kind.STEP_CLOSED, {**plain(step.fields()), **place, "slots": slots}))
    assert "withheld by the silos" not in Page(made.page).text
    (first,) = (step.slots for step in steps if step.name == "train/0")
    last_whole = f"{100 * first['global.correct'] / first['test.rows']:.1f}"
    some, none = (RunView.of(checked_ledger(home, under_way=True), run) for run in ("some", "all"))
    assert _accuracy(some, {})[0][1] == [(last_whole, ""), ("–", ""), ("–", "")]
    assert _accuracy(none, {})[0][1] == [("–", "")] * 3
    text = Page(write_report(tmp_path, "some").read_text()).text
    assert "could show one silo's own: test.rows of train/1, eval/0." in text
    assert text.count("figures withheld by the silos: test.rows") == 2, "beside each of the steps"
    text = Page(write_report(tmp_path, "all").read_text()).text
    assert "No step opened a count of correct rows" in text and "test.rows of train/0, train/1, eval/0." in text
    assert "nan" not in text


def test_a_hostile_name_is_text(made: Made, tmp_path: Path) -> None:
    """The job's name, a silo's refusal and a slot come from others: on the page they are letters."""
    aggregator = tmp_path / "aggregator"
    shutil.copytree(made.aggregator, aggregator)
    ledger = Ledger.open(AggregatorHome(aggregator).ledger_path, Identity.load(aggregator / "keys" / "aggregator.key"))
    started, closed = (
        plain(made.entries(kind)[at].record.fields()) for kind, at in ((Kind.RUN_STARTED, 0), (Kind.STEP_CLOSED, 2))
    )
    ledger.append(as_record(Kind.RUN_STARTED, {**started, "run": "evil", "model_name": HOSTILE}))
    place = {"run": "evil", "k": closed["k"], "name": closed["name"]}
    ledger.append(as_record(Kind.STEP_OPENED, {**place, "invited": closed["invited"]}))
    ledger.append(as_record(Kind.REFUSAL, {**place, "silo": HOSTILE, "phase": "deal", "code": "NOT_APPROVED"}))
    slots = {**closed["slots"], f"{HOSTILE}.correct": 1}
    ledger.append(as_record(Kind.STEP_CLOSED, {**closed, "run": "evil", "slots": slots, "lanes_shut": [HOSTILE]}))
    failed = {"code": "ROUND_LOST", "phase": "deal", "missing": [HOSTILE], "detail": HOSTILE}
    ledger.append(as_record(Kind.RUN_FAILED, {"run": "evil", **failed}))
    page = write_report(tmp_path, "evil").read_text()
    assert "<script" not in page
    assert "<img" not in page
    parsed = Page(page)
    assert not parsed.attributes & (LOADING | {"onerror"})
    assert parsed.text.count(HOSTILE) >= 5


def test_an_unknown_run_is_refused_and_leaves_nothing(made: Made, tmp_path: Path) -> None:
    for run in ("0000000000000000", "../../elsewhere", ""):
        with pytest.raises(EvidenceError, match="expected a run"):
            write_report(made.federation, run)
    homeless = tmp_path / "federation" / "aggregator"
    AggregatorHome(homeless).make()
    for name in ("charter.bin", "consortium.pub"):
        shutil.copy(made.aggregator / name, homeless / name)
    with pytest.raises(EvidenceError, match="expected an aggregator's ledger"):
        write_report(homeless.parent, made.run)
    with pytest.raises(EvidenceError, match="expected an aggregator's ledger"):
        write_report(tmp_path / "nowhere", made.run)


def test_a_ledger_or_a_probe_that_does_not_check_makes_no_report(made: Made, tmp_path: Path) -> None:
    federation = tmp_path / "federation"
    shutil.copytree(made.federation, federation)
    probe = federation / "silos" / "silo-1" / FILE
    good = probe.read_bytes()
    probe.write_bytes(good[:-20])
    with pytest.raises(EvidenceError, match="silo-1"):
        write_report(federation, made.run, out=tmp_path / "none.html")
    probe.write_bytes(good)
    path = AggregatorHome(federation / "aggregator").ledger_path
    lines = path.read_bytes().splitlines(keepends=True)
    signature = json.loads(lines[-1])["signature"]
    lines[-1] = lines[-1].replace(
        signature.encode(), (signature[:-2] + ("00" if signature[-2:] != "00" else "01")).encode()
    )
    path.write_bytes(b"".join(lines))
    with pytest.raises(EvidenceError, match="signature"):
        write_report(federation, made.run, out=tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_a_line_being_written_is_left_alone(made: Made, tmp_path: Path) -> None:
    aggregator = tmp_path / "aggregator"
    shutil.copytree(made.aggregator, aggregator)
    with AggregatorHome(aggregator).ledger_path.open("ab") as file:
        file.write(b'{"seq":')
    assert made.run in write_report(tmp_path, made.run).read_text()


def test_of_a_long_run_the_eventful_steps_are_drawn() -> None:
    rows = [{"k": k, "notes": [("lost", "silo-1 lost in deal")] if k == 500 else []} for k in range(1000)]
    kept = [row["k"] for row in _shortened(rows)]
    assert len(kept) == 60
    assert kept == sorted(kept)
    assert {0, 9, 500, 999} <= set(kept)
    assert _shortened(rows[:60]) == rows[:60]
