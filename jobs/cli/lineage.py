"""For compliance: where a model comes from, and where data went. Offline; all but --html with the base install."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AggregatorHomePath, Json, emit

if TYPE_CHECKING:
    from aggregator.home import AggregatorHome

Model = Annotated[str | None, typer.Argument(help="name/version, name@alias or a run id; without it, what there is.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write one page with the graph here (needs jinja2).")]
Bundle = Annotated[Path | None, typer.Option("--bundle", help="Write the evidence here, to verify elsewhere.")]
Uploads = Annotated[
    bool, typer.Option("--uploads/--no-uploads", help="With the masked uploads that were kept: sums can be replayed.")
]
Data = Annotated[str | None, typer.Option("--data", help="A data commitment, 8 digits or more: who used it.")]
Silo = Annotated[str | None, typer.Option("--silo", help="A silo: what it was part of.")]
Approval = Annotated[str | None, typer.Option("--approval", help="An approval's digest, 8 digits or more: its uses.")]


def register(app: typer.Typer) -> None:
    app.command()(lineage)
    app.command()(promote)


def lineage(
    home: AggregatorHomePath,
    model: Model = None,
    html: Html = None,
    bundle: Bundle = None,
    uploads: Uploads = True,
    data: Data = None,
    silo: Silo = None,
    approval: Approval = None,
    as_json: Json = False,
) -> None:
    """Where a model comes from: run, steps, cohort, data and approvals; or, the other way, where data went."""
    from aggregator.home import AggregatorHome
    from crypto.errors import SpecError

    backwards = {what: text for what, text in (("data", data), ("silo", silo), ("approval", approval)) if text}
    if (model is not None) + len(backwards) > 1:
        raise SpecError("fed lineage", got="several questions", want="one of MODEL, --data, --silo and --approval")
    if (html or bundle) and model is None:
        raise SpecError("--html" if html else "--bundle", got="no model", want="a model or run to write about")
    if model is not None:
        _model(AggregatorHome(home), model, html, bundle, uploads, as_json)
    else:
        _overview(AggregatorHome(home), backwards, as_json)


def _model(
    home: AggregatorHome, model: str, html: Path | None, bundle: Path | None, uploads: bool, as_json: bool
) -> None:
    from jobs.evidence.lineage.terminal import show, tree
    from jobs.evidence.lineage.trace import trace

    found = trace(home, model)
    written = []
    if html is not None:
        from jobs.evidence.lineage.html import write_page

        write_page(found, html)
        written.append(str(html))
    if bundle is not None:
        from jobs.evidence.lineage.export import export

        made = export(home, found, bundle, uploads=uploads)
        written.append(str(bundle))
        if not as_json:
            print(f"{made.members} files, {made.size / 1e6:.1f} MB, SHA-256 {made.sha256}")
    if as_json:
        emit({"subject": found.subject, **asdict(found), "commands": found.commands, "written": written}, True)
    elif written:
        print("\n".join(written))
    else:
        show(tree(found))


def _overview(home: AggregatorHome, backwards: dict[str, str], as_json: bool) -> None:
    from aggregator.verify.models import checked_ledger, versions
    from jobs.evidence.lineage.reverse import uses
    from jobs.evidence.lineage.terminal import models_tree, show, uses_tree

    ledger = checked_ledger(home)
    if backwards:
        found = uses(ledger, *next(iter(backwards.items())))
        emit(asdict(found), as_json)
    else:
        made = versions(ledger)
        emit({"models": [{"label": one.label, **asdict(one)} for one in made]}, as_json)
    if not as_json:
        show(uses_tree(found) if backwards else models_tree(made))


def promote(
    model: Annotated[str, typer.Argument(help="name/version, name@alias or a run id.")],
    home: AggregatorHomePath,
    alias: Annotated[str, typer.Option("--alias", help="The alias to move, champion for instance.")],
    by: Annotated[str, typer.Option("--by", help="Who decided, a role or a name: it goes on the ledger.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it holds data of a silo that withdrew.")] = False,
    as_json: Json = False,
) -> None:
    """Move an alias to a version: signed on the ledger, with who and when. MLflow follows."""
    from aggregator.home import AggregatorHome
    from jobs.evidence.lineage.export import promote as move

    version = move(AggregatorHome(home), model, alias, by, force=force)
    emit({"label": version.label, **asdict(version)}, as_json)
    if not as_json:
        print(f"{version.name}@{alias} is version {version.version} now, by {version.aliases[alias][0]}")
