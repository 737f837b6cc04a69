"""For the provisioner of the federation: NVFlare startup kits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crypto.errors import SpecError
from jobs.cli.options import Json, emit


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.command()(provision)


def provision(
    project: Annotated[Path, typer.Argument(help="The project file: federation, server, silos, admins.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the kits, and of the root that signs them.")],
    add: Annotated[
        str | None, typer.Option("--add", help="A silo or admin that is new in the project file: its kit alone.")
    ] = None,
    renew: Annotated[
        str | None, typer.Option("--renew", help="A site whose certificate is renewed under the same root.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Only list the certificates in the kits of --out.")] = False,
    as_json: Json = False,
) -> None:
    """Make NVFlare's startup kits for the sites of a federation: one each, as a folder and as one file."""
    from jobs.flare.project import Project
    from jobs.provisioning import provision as provision

    if [add is not None, renew is not None, show].count(True) > 1:
        raise SpecError("provision", got="several of them", want="--add, --renew or --list")
    wanted = Project.load(project)
    if show:
        issued = provision.listing(wanted, out)
        if not as_json:
            _table(issued)
        emit({"out": str(out), "sites": [one.facts(out) for one in issued]}, as_json)
        return
    if add is not None:
        made = provision.add(wanted, out, add)
    elif renew is not None:
        made = provision.renew(wanted, out, renew)
    else:
        made = provision.provision(wanted, out)
    if not as_json:
        _table(made.sites)
        if made.before is not None:
            print(f"replaces   {made.before.fingerprint[:32]}, which is valid for {made.before.days_left} more days")
        print(f"root       {made.root_fingerprint[:32]}, until {made.root_not_after[:10]}: {out / 'ca'} stays with you")
        print("\n".join(made.hints()))
    emit(made.facts(), as_json)


def _table(issued: tuple[object, ...]) -> None:
    from jobs.provisioning.provision import Issued

    for one in issued:
        assert isinstance(one, Issued)
        role = one.role or one.kind
        print(f"{one.site:<24} {role:<10} {one.fingerprint[:32]}  until {one.not_after[:10]}, {one.days_left} days")
