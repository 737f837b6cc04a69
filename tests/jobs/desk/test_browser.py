"""The desk in a real browser: an owner's way from a request to a decision, at every width, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.desk.server import Server
from jobs.owner.review import OwnerView
from jobs.security_log.writer import SecurityLog
from silo_agent.home import SiloHome
from silo_agent.journal import Advertised
from tests.browser import CHROMIUM, Browser
from tests.jobs.desk.conftest import ASKED, PASSPHRASE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `.ci/run` installs it"),
]

JOB = ASKED.digest.hex()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as opened:
        yield opened


def test_an_owner_reads_approves_and_denies(locked: Server, home: SiloHome, browser: Browser) -> None:
    """Wrong token, request → read → approve with a wrong and the right passphrase → run → model → deny."""
    browser.look(1280)
    browser.open(f"{locked.address}enter?token=wrong")
    assert "does not open the desk" in browser.text
    browser.open(locked.entrance)
    browser.arrive("/requests")
    browser.press(f'a[href="/requests/{JOB}"]')
    assert "What leaves" in browser.text and "waits for you" in browser.text
    for passphrase, said in (("not this one", "does not unlock"), (PASSPHRASE, "runs used")):
        browser.type("#pass-approve", passphrase)
        browser.press('button[value="approve"]')
        assert said in browser.text
    assert OwnerView(home).approval_state(ASKED).state == "approved"
    browser.press('a[href="/runs"]')
    browser.press('a[href^="/runs/"]')
    assert "all silos together" in browser.text and browser.run("document.querySelectorAll('svg.plot polyline').length")
    browser.press('a[href="/models"]')
    browser.press('button[aria-label^="Test the model"]')
    assert "always the most common label" in browser.text
    browser.open(f"{locked.address}requests/{JOB}")
    browser.type("#reason", "not now")
    browser.press('button[value="deny"]')
    assert "denied" in browser.text and OwnerView(home).approval_state(ASKED).state == "denied"
    assert not [fault for fault in browser.faults() if "403" not in fault], browser.faults()
    assert browser.run("document.cookie") == ""
    assert browser.run("document.referrer") == ""


def test_a_stale_page_and_a_second_tab_sign_nothing(server: Server, home: SiloHome, browser: Browser) -> None:
    browser.open(server.entrance)
    browser.arrive("/requests")
    browser.open(f"{server.address}requests/{JOB}")
    home.policy_path.write_text("[floors]\neveryone = 4\n", encoding="utf-8")
    browser.press('button[value="approve"]')
    assert "Nothing was signed" in browser.text and "this silo's policy" in browser.text
    assert OwnerView(home).approval_state(ASKED).state == "waiting"
    browser.run("document.querySelector('[name=page]').value = 'another'")
    browser.press('button[value="approve"]')
    assert "too old" in browser.text
    browser.press('button[value="approve"]')
    assert OwnerView(home).approval_state(ASKED).state == "approved"


def test_a_run_under_way_is_asked_for_again(server: Server, home: SiloHome, browser: Browser) -> None:
    run, log = "cd" * 32, SecurityLog(home)
    log("run-joined", run=run, job=JOB)
    browser.open(server.entrance)
    browser.arrive("/requests")
    browser.open(f"{server.address}runs/{run[:16]}")
    assert "training, or waiting" not in browser.text
    with home.journal_path.open("ab") as journal:
        journal.write(bytes(Advertised(run, 1, 0)))
    browser.run("look()")
    assert "training, or waiting" in browser.text
    log("run-ended", run=run)
    browser.run("look()")
    assert "ended" in browser.text and not browser.faults()


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
def test_every_page_fits_from_360_to_1600(server: Server, browser: Browser, dark: bool) -> None:
    browser.open(server.entrance)
    browser.arrive("/requests")
    for path in ("requests", f"requests/{JOB}", "data/digits", "runs", "models", "log", "doctor"):
        browser.open(f"{server.address}{path}")
        for width in (360, 768, 1600):
            browser.look(width, dark=dark)
            wide = browser.run("document.documentElement.scrollWidth")
            assert wide <= width, (path, width, wide)
        paper = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 23, 26)") is dark, paper


def test_it_is_used_by_the_keyboard_alone(server: Server, home: SiloHome, browser: Browser) -> None:
    browser.open(server.entrance)
    browser.arrive("/requests")
    browser.open(f"{server.address}requests/{JOB}")
    seen = []
    for _ in range(60):
        browser.key("Tab")
        seen.append(browser.run("document.activeElement.value || document.activeElement.innerText"))
        if seen[-1] == "approve":
            break
    assert seen[0] == "To the content" and seen[-1] == "approve", seen
    browser.key("Enter", leads=True)
    assert OwnerView(home).approval_state(ASKED).state == "approved"
