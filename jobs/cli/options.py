"""What verbs share: options, and how they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
SiloHomePath = Annotated[
    Path,
    typer.Option("--home", envvar="CONSILIUM_HOME", help="The silo's home.", exists=True, file_okay=False),
]
AggregatorHomePath = Annotated[
    Path,
    typer.Option("--home", envvar="CONSILIUM_HOME", help="The aggregator's home.", exists=True, file_okay=False),
]
LogLevel = Annotated[
    str,
    typer.Option(
        "--log-level",
        envvar="CONSILIUM_LOG_LEVEL",
        help="Our lines from this level on: debug, info, warning or error. NVFlare's: from warning on.",
    ),
]
LogFormat = Annotated[
    str,
    typer.Option("--log-format", envvar="CONSILIUM_LOG_FORMAT", help="text, or json: one object a line."),
]


def emit(value: dict[str, Any], as_json: bool) -> None:
    """The object of ``--json``: one line, the last."""
    if as_json:
        print(json.dumps(value, sort_keys=False), flush=True)
