"""For auditors: check what is on disk, offline, with the base install."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crypto.errors import EvidenceError, SpecError
from jobs.cli.options import Json, emit


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    target: Annotated[
        str,
        typer.Argument(
            help="A run's id or folder, a model (name/version, name@alias), a bundle, a silo's receipt, "
            "or a file of a silo's evidence/."
        ),
    ],
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", envvar="CONSILIUM_HOME", help="The aggregator's home, or a bundle, to look in.", exists=True
        ),
    ] = None,
    consortium: Annotated[
        str | None,
        typer.Option("--consortium", help="The consortium's public key in a file, or its fingerprint, to compare."),
    ] = None,
    charter: Annotated[
        Path | None, typer.Option("--charter", help="For evidence/: the federation's charter.bin.", exists=True)
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option("--mlflow", help="Compare MLflow's copy too: its address or `home`. Needs the extra aggregator."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a run, model, bundle, receipt or evidence, offline. Needs no server and the base install only."""
    from aggregator.home import AggregatorHome
    from aggregator.verify.report import CheckLine, CheckOutcome
    from crypto.text import printable
    from jobs.evidence.verify import audit, check_mlflow, contradiction, is_contradiction
    from jobs.security_log.events import Event
    from jobs.security_log.writer import SecurityLog

    if is_contradiction(target):
        pinned, proven = contradiction(Path(target), consortium, charter)
        facts = {name: getattr(proven, name) for name in ("signer", "fingerprint", "kind", "place", "digests")}
        emit({"proven": True, "federation": pinned.federation, "epoch": pinned.epoch, **facts}, as_json)
        if not as_json:
            print(f"proven, under the charter of {pinned.federation!r}, epoch {pinned.epoch}: {proven}")
        return

    def show(line: CheckLine) -> None:
        if not as_json and line.outcome is not CheckOutcome.NOT_CHECKED:
            print(line, flush=True)

    try:
        report = audit(target, home=home, consortium=consortium, show=show)
        if mlflow is not None:
            if home is None or not home.is_dir():
                raise SpecError("--mlflow", got="no aggregator's home", want="its home with --home")
            check_mlflow(AggregatorHome(home), target, mlflow, report)
    except EvidenceError as bad:
        if home is not None and AggregatorHome(home).exists():
            SecurityLog(AggregatorHome(home))(Event.VERIFICATION_FAILED, subject="ledger", code=bad.code)
        raise
    emit(report.as_dict(), as_json)
    if not as_json:
        print(f"\n{printable(report.verdict)}")
        for line in report.of(CheckOutcome.NOT_CHECKED):
            print(line)
