"""What a site's processes log: through NVFlare's own function, in a process that is set up by it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.errors import SpecError
from jobs.flare import log_config
from jobs.flare.nvflare_mains import clean_path

ROOT = Path(__file__).resolve().parents[3]
#: As NVFlare's service and job processes set up their log, and lines of ours, of a component of ours, and of NVFlare.
SET_UP = """
import json, logging, sys
from pathlib import Path
from nvflare.fuel.utils.log_utils import apply_log_config
apply_log_config(json.loads(Path("local/log_config.json").read_text()), ".")
logging.getLogger("consilium.aggregator").info("step %s closed", "train/0")
logging.getLogger("consilium.silo").debug("details")
logging.getLogger("jobs.flare.controller.SecureController").info("[identity=a, run=b]: silo-1 is \\x1b[31mhere")
logging.getLogger("nvflare.private.fed.Cell").info("Register blob CB")
logging.getLogger("jobs.flare.egress_gate.SiloCell").info("Register blob CB")
logging.getLogger("nvflare.private.fed.Cell").warning("no connection")
try:
    raise ValueError("why")
except ValueError:
    logging.getLogger("consilium.silo").exception("it broke")
"""


def logged(folder: Path, level: str, form: str) -> list[str]:
    log_config.write(folder, level, form)
    command, environment = [sys.executable, "-c", SET_UP], dict(clean_path(dict(os.environ)))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == (folder / "log.txt").read_text(), "the output has what the file has"
    return done.stdout.splitlines()


def test_ours_at_the_level_and_nvflares_warnings(tmp_path: Path) -> None:
    lines = logged(tmp_path, "info", "text")
    assert [line.partition(" ")[2] for line in lines[:4]] == [
        "INFO aggregator: step train/0 closed",
        "INFO SecureController: silo-1 is  [31mhere",
        "WARNING Cell: no connection",
        "ERROR silo: it broke",
    ]
    assert lines[4].startswith("Traceback") and lines[-1] == "ValueError: why"
    assert all(line[:2] == "20" and line.partition(" ")[0].endswith("Z") for line in lines[:4])


def test_the_level_is_that_of_our_lines(tmp_path: Path) -> None:
    assert any("details" in line for line in logged(tmp_path, "debug", "text"))


def test_an_error_is_all_that_is_left_at_that_level(tmp_path: Path) -> None:
    assert not any("closed" in line for line in logged(tmp_path, "error", "text"))


def test_as_json_each_line_is_an_object(tmp_path: Path) -> None:
    found = [json.loads(line) for line in logged(tmp_path, "info", "json")]
    assert [(one["level"], one["logger"]) for one in found] == [
        ("info", "aggregator"),
        ("info", "SecureController"),
        ("warning", "Cell"),
        ("error", "silo"),
    ]
    assert found[1]["message"] == "silo-1 is \x1b[31mhere" and "ValueError: why" in found[3]["exception"]
    assert set(found[0]) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize(("level", "form"), [("loud", "text"), ("INFO", "text"), ("info", "xml"), ("", "text")])
def test_what_is_no_level_or_form_is_named(tmp_path: Path, level: str, form: str) -> None:
    with pytest.raises(SpecError, match=r"--log-(level|format)"):
        log_config.write(tmp_path, level, form)
    assert list(tmp_path.iterdir()) == []


def test_the_gates_cell_is_where_it_is_said_to_be() -> None:
    module, _, name = log_config.CELL.rpartition(".")
    assert name in (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def test_the_file_is_rotated(tmp_path: Path) -> None:
    handler = log_config.log_config("info", "text")["handlers"]["file"]
    assert (handler["maxBytes"], handler["backupCount"]) == (log_config.FILE_BYTES, log_config.OLDER_FILES)
    assert issubclass(log_config.TextFormatter, logging.Formatter)
