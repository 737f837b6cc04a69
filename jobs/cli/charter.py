"""``fed charter``: epochs of the charter, written and signed by the consortium, accepted by each member."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crypto.errors import SpecError
from jobs.cli.options import Json, emit

if TYPE_CHECKING:
    from crypto.charter import Charter
    from crypto.charter_defaults import Floors

charter_app = typer.Typer(no_args_is_help=True, help="Epochs of the charter: who is in the federation, which floors.")

_File = typer.Argument(exists=True, dir_okay=False)
Base = Annotated[Path, typer.Option("--charter", help="The epoch to follow: its file, or a home that has it.")]
Out = Annotated[Path, typer.Option("--out", help="The file to write; must not exist.")]
Key = Annotated[
    Path | None,
    typer.Option("--consortium-key", help="The consortium's key, to sign at once. Without it: `fed charter sign`."),
]
Days = Annotated[int | None, typer.Option("--days", min=1, help="Valid for so many days from now.")]
Colluders = Annotated[int | None, typer.Option("--colluders", min=0, help="c: silos assumed to pool what they know.")]
Honest = Annotated[int | None, typer.Option("--honest", min=2, help="m: honest inputs in any opened sum.")]
LaneFloor = Annotated[int | None, typer.Option("--lane-floor", min=2, help="m_e: fewest contributors of a lane.")]
HomePath = Annotated[
    Path,
    typer.Option("--home", envvar="CONSILIUM_HOME", help="A silo's home, or the aggregator's.", file_okay=False),
]


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.add_typer(charter_app, name="charter")


@charter_app.command("new")
def charter_new(
    federation: Annotated[str, typer.Argument(help="The federation's name.")],
    members: Annotated[list[Path], typer.Option("--member", help="A member file of `fed keygen`; one for each silo.")],
    aggregator: Annotated[Path, typer.Option("--aggregator", help="aggregator.pub of `fed keygen`.", exists=True)],
    out: Out,
    consortium_key: Key = None,
    days: Days = None,
    colluders: Colluders = None,
    honest: Honest = None,
    lane_floor: LaneFloor = None,
    as_json: Json = False,
) -> None:
    """Write epoch 1 of a federation."""
    from crypto.charter_defaults import Floors
    from crypto.keys import PublicIdentity
    from jobs.membership.keygen import read_member
    from jobs.membership.propose import first_epoch

    charter = first_epoch(
        federation,
        [read_member(path) for path in members],
        PublicIdentity(aggregator.read_bytes()),
        floors=_floors(Floors(), colluders, honest, lane_floor),
        days=days or 365,
        now=int(time.time()),
    )
    _write(charter, None, out, consortium_key, as_json)


@charter_app.command("add")
def charter_add(
    charter: Base,
    out: Out,
    members: Annotated[list[Path] | None, typer.Argument(help="Member files of silos that join.")] = None,
    changed: Annotated[
        list[Path] | None, typer.Option("--change", help="A member file with new keys, of a silo that is a member.")
    ] = None,
    consortium_key: Key = None,
    days: Days = None,
    colluders: Colluders = None,
    honest: Honest = None,
    lane_floor: LaneFloor = None,
    as_json: Json = False,
) -> None:
    """Write the next epoch: silos that join, members with new keys, other floors, a longer validity."""
    from jobs.membership.keygen import read_member

    add, change = ([read_member(path) for path in paths or []] for paths in (members, changed))
    if not add and not change and all(one is None for one in (days, colluders, honest, lane_floor)):
        raise SpecError("charter add", got="nothing", want="member files, --change, --days or a floor")
    numbers = {"colluders": colluders, "honest": honest, "lane_floor": lane_floor}
    _propose(charter, out, consortium_key, as_json, days=days, numbers=numbers, add=add, change=change)


@charter_app.command("remove")
def charter_remove(
    silos: Annotated[list[str], typer.Argument(help="The silos that leave.")],
    charter: Base,
    out: Out,
    consortium_key: Key = None,
    as_json: Json = False,
) -> None:
    """Write the next epoch, without these silos. What they leave behind: `fed withdraw`."""
    _propose(charter, out, consortium_key, as_json, remove=silos)


@charter_app.command("sign")
def charter_sign(
    file: Annotated[Path, _File],
    consortium_key: Annotated[Path, typer.Option("--consortium-key", help="The consortium's key.")],
    follows: Annotated[Path | None, typer.Option("--charter", help="The epoch it must follow: file or home.")] = None,
    as_json: Json = False,
) -> None:
    """Sign an epoch, in its file, and show what it says or, with --charter, what it changes."""
    from crypto import durable
    from crypto.keys import Identity
    from jobs.membership.accept import read_epoch
    from jobs.membership.diff import CharterDiff
    from jobs.membership.propose import parse, sign

    key = Identity.load(consortium_key)
    charter = parse(read_epoch(file)).charter
    old = None if follows is None else _base(follows, consortium_key)
    if old is not None:
        charter.check_succeeds(old)
    durable.replace(file, bytes(sign(charter, key)))
    _tell(CharterDiff(charter, old), file, signed=True, as_json=as_json)


@charter_app.command("accept")
def charter_accept(
    file: Annotated[Path, _File],
    home: HomePath,
    consortium: Annotated[
        Path | None, typer.Option("--consortium", help="consortium.pub, for a home that has pinned none.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", help="The consortium key's, as you heard it from the consortium.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Take the next epoch into a home, between runs, after a look at what it changes."""
    from crypto.home import Home
    from crypto.keys import PublicIdentity
    from jobs.membership.accept import accept, preview, read_epoch

    signed = read_epoch(file)
    key = None if consortium is None else PublicIdentity(consortium.read_bytes())
    changes = preview(Home(home), signed, consortium=key, expect_fingerprint=fingerprint)
    if changes.old is None and fingerprint is None and (yes or as_json):
        raise SpecError(
            "--fingerprint", got="none", want="the consortium key's fingerprint: this home has no charter yet"
        )
    if not as_json:
        print("\n".join(changes.lines()))
        if changes.old is None and key is not None:
            print(f"consortium {key.fingerprint}: compare it with the fingerprint that the consortium gave you")
        if not yes and not changes.done and not typer.confirm("Accept it?"):
            print("not accepted")
            raise typer.Exit(1)
    accept(Home(home), signed, consortium=key, expect_fingerprint=fingerprint)
    if not as_json:
        print(f"epoch {changes.new.epoch} is in force at {home}")
    emit(changes.facts(), as_json)


@charter_app.command("show")
def charter_show(
    file: Annotated[Path | None, typer.Argument(help="An epoch's file; its signature is not checked.")] = None,
    home: Annotated[Path | None, typer.Option("--home", help="A home: what is pinned there, checked.")] = None,
    as_json: Json = False,
) -> None:
    """Show an epoch: members, fingerprints, floors, validity."""
    from jobs.membership.accept import read_epoch
    from jobs.membership.diff import charter_facts, charter_lines
    from jobs.membership.propose import UNSIGNED, parse

    if (file is None) == (home is None):
        raise SpecError("charter show", got="both or neither", want="a file or --home")
    if home is not None:
        from crypto.home import Home

        epochs = Home(home).pinned.epochs()
        found, state = epochs[-1][0], f"pinned here, after epochs {[charter.epoch for charter, _ in epochs[:-1]]}"
    else:
        signed = parse(read_epoch(file or Path()))
        found, state = signed.charter, "not signed" if signed.signature == UNSIGNED else "signature not checked"
    if not as_json:
        print("\n".join([*charter_lines(found), state]))
    emit({**charter_facts(found), "state": state}, as_json)


def _propose(
    base: Path,
    out: Path,
    key: Path | None,
    as_json: bool,
    *,
    days: int | None = None,
    numbers: dict[str, int | None] | None = None,
    **how: Any,
) -> None:
    from crypto.charter_defaults import Floors
    from jobs.membership.propose import DAY, next_epoch

    old, now = _base(base, key), int(time.time())
    kept = Floors(old.colluders, old.honest, old.lane_floor)
    floors = _floors(kept, **(numbers or {}))
    not_after = None if days is None else now + days * DAY
    new = next_epoch(old, floors=None if floors == kept else floors, not_after=not_after, now=now, **how)
    _write(new, old, out, key, as_json)


def _floors(
    kept: Floors, colluders: int | None = None, honest: int | None = None, lane_floor: int | None = None
) -> Floors:
    given = {"colluders": colluders, "honest": honest, "lane_floor": lane_floor}
    return replace(kept, **{name: value for name, value in given.items() if value is not None})


def _base(path: Path, key: Path | None) -> Charter:
    """The epoch that the next one follows; signed by that key, if it is at hand."""
    from crypto.charter import SignedCharter
    from crypto.keys import Identity
    from crypto.pinned_charter import PinnedCharter
    from jobs.membership.accept import read_epoch
    from jobs.membership.propose import parse

    if path.is_dir():
        pinned = PinnedCharter(path)
        pinned.newest()
        path = pinned.path
    data = read_epoch(path)
    return parse(data).charter if key is None else SignedCharter.open(data, Identity.load(key).public, earlier=True)


def _write(new: Charter, old: Charter | None, out: Path, key: Path | None, as_json: bool) -> None:
    from crypto import durable
    from crypto.keys import Identity
    from jobs.membership.diff import CharterDiff
    from jobs.membership.propose import sign, unsigned

    if out.exists():
        raise SpecError("--out", got=str(out), want="a file that is not there yet")
    signed = unsigned(new) if key is None else sign(new, Identity.load(key))
    durable.replace(out, bytes(signed))
    _tell(CharterDiff(new, old), out, signed=key is not None, as_json=as_json)


def _tell(changes: Any, file: Path, *, signed: bool, as_json: bool) -> None:
    if not as_json:
        print("\n".join(changes.lines()))
        print(f"{file}: {'signed; members accept it with `fed charter accept`' if signed else 'not signed yet'}")
    emit({**changes.facts(), "file": str(file), "signed": signed}, as_json)
