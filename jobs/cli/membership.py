"""For the consortium and its members: keys, trying a model, withdrawal; ``charter`` has the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crypto.errors import SpecError
from jobs.cli import charter
from jobs.cli.options import AggregatorHomePath, Json, SiloHomePath, ask_passphrase, emit, new_passphrase


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.command()(keygen)
    charter.register(app)
    app.command()(withdraw)
    app.command("try")(try_model)


def keygen(
    home: Annotated[Path, typer.Option("--home", help="The new home, made 0700. Keys never leave it.")],
    silo: Annotated[str | None, typer.Option("--silo", help="Make a silo's home: agent key, owner key, salt.")] = None,
    aggregator: Annotated[bool, typer.Option("--aggregator", help="Make the aggregator's home.")] = False,
    consortium: Annotated[
        bool, typer.Option("--consortium", help="Make the consortium's key; keep it offline.")
    ] = False,
    renew: Annotated[
        list[str] | None,
        typer.Option("--renew", help="agent, owner: a new key for a silo that has a home; repeatable."),
    ] = None,
    owner_passphrase: Annotated[
        bool,
        typer.Option(
            "--owner-passphrase", help="Lock the owner's key by a passphrase: a new silo's, or the one in --home."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make keys where they will be used, and the file with the public ones to send to the consortium."""
    from aggregator.home import AggregatorHome
    from crypto.keys import is_locked
    from crypto.pinned_charter import CONSORTIUM_FILE
    from jobs.membership import keygen as membership_keygen
    from silo_agent.home import SiloHome

    if owner_passphrase and not (silo or aggregator or consortium or renew):
        of = SiloHome(home)
        before = ask_passphrase("the old passphrase") if is_locked(of.owner_key_path) else None
        public = membership_keygen.lock_owner(of, new_passphrase(), before)
        if not as_json:
            print(f"{of.owner_key_path} is locked: without the passphrase it signs nothing")
        emit({"owner": public.fingerprint, "file": str(of.owner_key_path)}, as_json)
        return
    if owner_passphrase and (aggregator or consortium or renew):
        raise SpecError("--owner-passphrase", got="with another option", want="--silo, or --home alone")
    if [silo is not None, aggregator, consortium, bool(renew)].count(True) != 1:
        raise SpecError("keygen", got="none of them or several", want="--silo, --aggregator, --consortium or --renew")
    facts: dict[str, Any]
    if silo is not None or renew:
        of = SiloHome(home)
        if renew:
            locked = of.owner_key_path.exists() and is_locked(of.owner_key_path)
            member = membership_keygen.renew(of, renew, ask_passphrase() if locked else None)
        else:
            member = membership_keygen.keygen_silo(of, str(silo), new_passphrase() if owner_passphrase else None)
        file = of.member_path
        facts = {"silo": member.silo, "agent": member.agent.fingerprint, "owner": member.owner.fingerprint}
    elif aggregator:
        at = AggregatorHome(home)
        file, facts = at.public_key_path, {"aggregator": membership_keygen.keygen_aggregator(at).fingerprint}
    else:
        file = home / CONSORTIUM_FILE
        facts = {"consortium": membership_keygen.keygen_consortium(home).fingerprint}
    if not as_json:
        print("\n".join(f"{name:<10} {value}" for name, value in facts.items()))
        print(f"send {file} to the others; give them these fingerprints out of band (by telephone, for example)")
    emit({**facts, "file": str(file)}, as_json)


def withdraw(
    silo: Annotated[str, typer.Argument(help="The silo that leaves.")],
    home: AggregatorHomePath,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what it was part of, and the remedies; change nothing.")
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Why, for the ledger, which others read and keep: never personal data."),
    ] = None,
    consortium_key: Annotated[
        Path | None,
        typer.Option("--consortium-key", help="Signs the epoch without the silo; not needed if one was accepted here."),
    ] = None,
    federation: Annotated[
        Path | None,
        typer.Option("--federation", help="A folder of `fed up`: its silos accept the epoch at once.", exists=True),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a silo out of the federation: no roster has it any more, and each model says what it holds of it."""
    from aggregator.home import AggregatorHome
    from crypto.keys import Identity
    from jobs.membership import withdraw as leaving
    from silo_agent.home import SiloHome

    if plan:
        found = leaving.plan(AggregatorHome(home), silo)
        if not as_json:
            print("\n".join(found.lines()))
        emit(found.facts(), as_json)
        return
    if reason is None:
        raise SpecError("--reason", got="none", want="why it leaves, or --plan to look first")
    done = leaving.withdraw(
        AggregatorHome(home),
        silo,
        reason,
        consortium=None if consortium_key is None else Identity.load(consortium_key),
        members=()
        if federation is None
        else [SiloHome(path) for path in sorted((federation / "silos").iterdir()) if path.is_dir()],
    )
    if not as_json:
        print("\n".join([*done.changes.lines(), *done.plan.lines()]))
        print(f"the others accept {done.file}: `fed charter accept`")
        for name, refused in done.accepted.items():
            print(f"  {name} {refused or 'accepted it (on this machine, as its operator)'}")
    emit(
        {**done.changes.facts(), **done.plan.facts(), "file": str(done.file), "accepted": dict(done.accepted)}, as_json
    )


def try_model(
    home: SiloHomePath,
    model: Annotated[Path, typer.Option("--model", help="A bundle of a model, or a run's folder.", exists=True)],
    data: Annotated[str, typer.Option("--data", help="A data set of this silo's catalogue.")],
    as_json: Json = False,
) -> None:
    """A model checked and tried on this silo's rows: its evidence is verified, then it predicts the test rows cold.

    Meant for a new silo before its first round. To become a member: `fed keygen`, the consortium's `fed charter add`,
    `fed charter accept` at every home, `fed data add`.
    """
    from jobs.evidence.try_model import cold
    from silo_agent.home import SiloHome

    tried = cold(SiloHome(home), model, data)
    if not as_json:
        print("\n".join(str(line) for line in tried.report.lines))
        print(tried.report.verdict)
        about = f"{tried.model}, cold, on {tried.rows} test rows of {tried.silo}:"
        if tried.right is not None and tried.majority is not None:
            print(f"{about} {tried.right / tried.rows:.1%} right")
            print(f"always the commonest label here: {tried.majority / tried.rows:.1%}")
        else:
            print("\n".join([about, *(f"  {name}  {value:.4g}" for name, value in tried.metrics.items())]))
        print("these figures stay here: nothing was sent")
    facts = {name: getattr(tried, name) for name in ("silo", "model", "run", "method", "data", "rows", "right")}
    facts |= {"majority": tried.majority, "metrics": dict(tried.metrics)}
    emit({**facts, "verified": tried.report.as_dict()}, as_json)
