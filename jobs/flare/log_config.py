"""What the processes of a site log, in which form, and where.

NVFlare reads ``local/log_config.json`` of the kit in the service and in each of its job processes. A service writes it
anew at every start, from ``--log-level`` and ``--log-format``. Our own lines come from that level on, NVFlare's and
other packages' from WARNING on: NVFlare writes forty lines about its cells for each process that starts, and one for
every message. Lines go to the standard output, and to ``log.txt`` of the kit or of the job's folder in it, which
``fed logs`` reads; that file is rotated.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from crypto import durable
from crypto.errors import SpecError
from crypto.text import printable

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")
#: Our loggers: what we name ourselves, and NVFlare's components in our modules, which NVFlare names by their module.
OURS: Final = ("consilium", "jobs")
#: NVFlare's own class, but for our gate in it: its lines are NVFlare's.
CELL: Final = "jobs.flare.egress_gate.SiloCell"
#: Size at which ``log.txt`` is rotated, and how many older files are kept.
FILE_BYTES: Final = 5 << 20
OLDER_FILES: Final = 4

#: What NVFlare puts before a component's message: site, job and peer, which the file's place says already.
_CONTEXT: Final = re.compile(r"^\[identity=[^\]]*\]: ")


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO aggregator: the message``, one line; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {_name(record)}: {printable(_message(record), ' ')}"
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``logger``, ``message``, and ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        found = {"time": _time(record), "level": record.levelname.lower(), "logger": _name(record)}
        found["message"] = _message(record)
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(record: logging.LogRecord) -> str:
    """The last part of the logger's name: ``consilium.aggregator`` and a component's module path both end in a word."""
    return record.name.rpartition(".")[2]


def _message(record: logging.LogRecord) -> str:
    return _CONTEXT.sub("", record.getMessage())


def check(level: str, form: str) -> None:
    """Raises SpecError for a level or a form that there is not."""
    for option, got, known in (("--log-level", level, LEVELS), ("--log-format", form, FORMATS)):
        if got not in known:
            raise SpecError(option, got=got, want=" or ".join(known))


def log_config(level: str, form: str) -> dict[str, Any]:
    """The object for ``logging.config.dictConfig``. Raises SpecError."""
    check(level, form)
    formatter = f"{__name__}.{'JsonFormatter' if form == 'json' else 'TextFormatter'}"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {
            "output": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"},
            "file": {
                "class": "logging.handlers.RotatingFileHandler",
                "formatter": "line",
                "filename": "log.txt",
                "encoding": "utf-8",
                "maxBytes": FILE_BYTES,
                "backupCount": OLDER_FILES,
            },
        },
        "root": {"level": "WARNING", "handlers": ["output", "file"]},
        "loggers": {**{name: {"level": level.upper()} for name in OURS}, CELL: {"level": "WARNING"}},
    }


def write(kit: Path, level: str, form: str) -> None:
    """Put the configuration into a kit, for the processes that start from now on. Raises SpecError, OSError."""
    text = json.dumps(log_config(level, form), indent=2, sort_keys=True)
    durable.replace(kit / "local" / "log_config.json", f"{text}\n".encode())
