"""What verbs share: options, and how they print."""

from __future__ import annotations

import json
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from crypto.errors import SpecError
from crypto.keys import passphrase_bytes

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


def ask_passphrase(what: str = "the passphrase of the owner's key") -> bytes:
    """Ask at the terminal, without showing it; of a pipe the next line is read."""
    if not sys.stdin.isatty():
        return passphrase_bytes(sys.stdin.readline().rstrip("\r\n"))
    return passphrase_bytes(getpass(f"{what}: "))


def new_passphrase() -> bytes:
    """Ask for a new one, at a terminal twice. Raises SpecError where the two differ."""
    first = ask_passphrase("a new passphrase, at least 12 characters")
    if sys.stdin.isatty() and ask_passphrase("the same again") != first:
        raise SpecError("passphrase", got="two different ones", want="the same twice")
    return first


def emit(value: dict[str, Any], as_json: bool) -> None:
    """The object of ``--json``: one line, the last."""
    if as_json:
        print(json.dumps(value, sort_keys=False), flush=True)
