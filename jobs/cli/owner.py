"""The data owner's commands at an institution: data sets, requests, approvals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crypto.errors import SpecError
from jobs.cli.options import Json, SiloHomePath, ask_passphrase, emit

if TYPE_CHECKING:
    from jobs.owner.review import OwnerView

data_app = typer.Typer(no_args_is_help=True, help="Data sets of this silo: register, list.")

Key = Annotated[
    Path | None, typer.Option("--key", help="The data owner's key; default: keys/owner.key in the silo's home.")
]
Digest = "The job's digest, or at least its first 8 digits: see `fed requests`."


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.add_typer(data_app, name="data")
    app.command()(requests)
    app.command()(approve)
    app.command()(deny)
    app.command()(privacy)
    app.command()(sign)


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="What jobs will call it.")],
    home: SiloHomePath,
    source: Annotated[
        Path | None, typer.Option("--from", help="File or folder of the data; it stays where it is, and is not copied.")
    ] = None,
    schema: Annotated[Path | None, typer.Option("--schema", help="With --from: how it is read; the job's.")] = None,
    reader: Annotated[str | None, typer.Option("--reader", help="With --from; default: by schema and files.")] = None,
    private: Annotated[
        Path | None, typer.Option("--private", help="Instead: npz of the real rows; copied into the silo's home.")
    ] = None,
    mock: Annotated[
        Path | None,
        typer.Option("--mock", help="npz of invented rows, for admins; default with --from: made from the schema."),
    ] = None,
    summary: Annotated[str, typer.Option("--summary", help="A sentence for admins.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Register a name anew; voids its approvals.")] = False,
    as_json: Json = False,
) -> None:
    """Register a data set in this silo's catalogue: real rows, mock rows, who may read which."""
    from jobs.owner import decisions

    view = _view(home)
    if source is not None and schema is not None and private is None:
        added = decisions.add_reference(
            view, name, source, schema, reader=reader, mock=mock, summary=summary, replace=replace
        )
        said = f"Nothing is copied: {source} must stay as it is."
    elif private is not None and mock is not None and source is None and schema is None and reader is None:
        added = decisions.add_data(view, name, private, mock, summary, replace=replace)
        said = f"The rows are copied: {private} is not read again."
    else:
        raise SpecError("fed data add", got="another combination", want="--from and --schema, or --private and --mock")
    entry = decisions.describe(added)
    if not as_json:
        print("\n".join(_data_lines(entry)))
        print(said)
    emit(entry, as_json)


@data_app.command("schema")
def data_schema(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    target: Annotated[str, typer.Option("--target", help="The column of the label.")],
    group: Annotated[str | None, typer.Option("--group", help="Rows with one value of it stay on one side.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new file for it; default: print it.")] = None,
) -> None:
    """Draft a schema from a table. It is published with a job: rare values are left out, ranges are rounded."""
    from silo_agent.readers.draft import draft
    from silo_agent.readers.tables import columns_of

    text = draft(columns_of(file), target, group)
    if out is None:
        print(text, end="")
        return
    try:
        with out.open("x", encoding="utf-8") as new:
            new.write(text)
    except OSError as failed:
        raise SpecError("--out", got=f"{out}: {failed.strerror}", want="a new file that can be written") from failed
    print(f"{out} is a draft: read it line by line, put in units and plausible ranges, then `fed data add --schema`.")


@data_app.command("list")
def data_list(home: SiloHomePath, as_json: Json = False) -> None:
    """The data sets of this silo, each read and checked against its registration."""
    from jobs.owner import decisions

    found = decisions.list_data(_view(home))
    if not as_json:
        print("\n".join(line for entry in found for line in _data_lines(entry)) or "No data sets: see `fed data add`.")
    emit({"datasets": found}, as_json)


@data_app.command("grant")
def data_grant(
    name: Annotated[str, typer.Argument(help="A registered data set.")],
    home: SiloHomePath,
    epsilon: Annotated[float, typer.Option("--epsilon", help="What all private jobs together may spend of it, ever.")],
    delta: Annotated[float, typer.Option("--delta", help="Below one over the number of training rows.")],
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Sign how much differential privacy all jobs together may spend of a data set. The newest grant is in force."""
    from jobs.owner import decisions

    grant = decisions.grant_data(_view(home), name, epsilon=epsilon, delta=delta, key=key, ask=ask_passphrase)
    if not as_json:
        print(f"granted to {name}: epsilon {grant.epsilon:g} at delta {grant.delta:g}, for all jobs together")
    emit({"commitment": grant.data.hex(), "epsilon": grant.epsilon, "delta": grant.delta, "at": grant.at}, as_json)


def privacy(
    home: SiloHomePath,
    digest: Annotated[str | None, typer.Argument(help="Of a queued job: forecast what it would cost.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="A job file, instead of a queued job.")] = None,
    as_json: Json = False,
) -> None:
    """The account of differential privacy of this silo's data sets: granted, spent, left; and a job's forecast."""
    from jobs.job import JobSpec
    from jobs.owner import decisions
    from jobs.owner.privacy import Accounts, account_lines, forecast_lines

    view = _view(home)
    accounts = Accounts(view)
    spec = JobSpec.load(job) if job is not None else None if digest is None else decisions.find(view, digest)
    found = accounts.all() | {"forecast": None if spec is None else accounts.forecast(spec)}
    if not as_json:
        print("\n".join(account_lines(found)))
        if found["forecast"] is not None:
            print("\n".join(["", *forecast_lines(found["forecast"])]))
    emit(found, as_json)


def requests(home: SiloHomePath, as_json: Json = False) -> None:
    """Jobs that were submitted here: what each would do, what would leave, and whether it is approved."""
    from crypto.text import escaped
    from jobs.owner import decisions
    from jobs.owner.render import day, review_lines

    found = decisions.requests(_view(home))
    if not as_json:
        for request in found["requests"]:
            print("\n".join(review_lines(request)), end="\n\n")
        for item in found["tampered"]:
            print(f"Invalid request, not shown: {escaped(item['name'])}: {item['why']}")
        for item in found["approved_besides"]:
            print(
                f"Approved, not in the queue: job {item['job'][:16]} until {day(item['not_after'])}, {item['purpose']}"
            )
        if not any((found["requests"], found["tampered"], found["approved_besides"])):
            print("No requests.")
    emit(found, as_json)


def approve(
    home: SiloHomePath,
    digest: Annotated[str | None, typer.Argument(help=Digest)] = None,
    job: Annotated[str | None, typer.Option("--job", help="A job file that was sent out of band, instead.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Last day, YYYY-MM-DD, UTC; default: 30 days.")] = None,
    max_runs: Annotated[int, typer.Option("--max-runs", min=1, max=2**32 - 1, help="Runs it is good for.")] = 1,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="What a private job may spend here, over all its runs.")
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="With --epsilon; default: the job's.")] = None,
    without_privacy: Annotated[
        bool, typer.Option("--without-privacy", help="A job without privacy, on a data set that has a grant.")
    ] = False,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what a job would do, and sign it with the data owner's key, as everything is now at this silo."""
    from dataclasses import asdict

    from jobs.job import JobSpec
    from jobs.owner import decisions
    from jobs.owner.render import day, review_lines

    if digest is None and job is None:
        raise SpecError("fed approve", got="neither", want="a DIGEST of `fed requests`, or --job FILE")
    last = None if until is None else decisions.parse_until(until)
    view = _view(home)
    spec = decisions.find(view, digest or "") if job is None else JobSpec.load(job)
    if digest is not None and not spec.digest.hex().startswith(digest):
        raise SpecError("DIGEST", got=digest, want=f"{spec.digest.hex()}, the digest of {job}")
    review = view.review(spec)
    if not as_json:
        print("\n".join(review_lines(review)), end="\n\n")
    if spec.privacy is not None and not as_json:
        from jobs.owner.privacy import Accounts, forecast_lines

        print("\n".join(forecast_lines(Accounts(view).forecast(spec))), end="\n\n")
    signed = decisions.approve(
        view,
        spec,
        until=last,
        max_runs=max_runs,
        key=key,
        epsilon=epsilon,
        delta=delta,
        without_privacy=without_privacy,
        ask=ask_passphrase,
    )
    if not as_json:
        runs = "one run" if max_runs == 1 else f"{max_runs} runs"
        print(f"approved for {runs} until {day(signed.not_after)}: approval {signed.approval[:16]}")
    emit({"account": review, "signed": asdict(signed)}, as_json)


def deny(
    home: SiloHomePath,
    digest: Annotated[str, typer.Argument(help=Digest)],
    reason: Annotated[str, typer.Option("--reason", help="For this silo's own people; it never leaves.")],
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Sign a denial. It overrides every approval of the job so far, also in a run that is under way."""
    from jobs.owner import decisions

    denial = decisions.deny(_view(home), digest, reason, key=key, ask=ask_passphrase)
    if not as_json:
        print(f"denied: job {denial.job.hex()[:16]}")
    emit({"job": denial.job.hex(), "reason": denial.reason, "at": denial.at}, as_json)


def sign(
    terms: Annotated[Path, typer.Argument(help="A file of terms, downloaded from the desk.", dir_okay=False)],
    key: Annotated[Path, typer.Option("--key", help="The data owner's key.", dir_okay=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="A new file, to be handed in on the desk; default: TERMS.signed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a file of terms where the data owner's key is; no silo's home is needed. Hand the result in on the desk."""
    from crypto import durable
    from crypto.approval import Approval
    from crypto.keys import Identity, is_locked
    from crypto.text import escaped
    from jobs.owner import decisions
    from jobs.owner.render import day

    owner = Identity.load(key, ask_passphrase() if is_locked(key) else None)
    wanted, signed = decisions.sign_elsewhere(terms.read_bytes(), owner)
    if isinstance(wanted, Approval):
        at, job = wanted.terms.silo, wanted.terms.job.hex()
        said = {
            "approves": job,
            "plan": wanted.terms.plan.hex(),
            "purpose": wanted.terms.purpose,
            "runs": wanted.max_runs,
            "until": day(wanted.not_after),
        }
    else:
        at, said = wanted.silo, {"denies": wanted.job.hex(), "reason": wanted.reason}
    file = Path(f"{terms}.signed") if out is None else out
    durable.create(file, signed)
    if not as_json:
        print("\n".join(f"{name:<9} {escaped(str(value))}" for name, value in ({"silo": at} | said).items()))
        print(f"{file}: hand it in on the desk. Compare job and plan with what you have read there.")
    emit({"silo": at, **said, "file": str(file)}, as_json)


def _view(home: Path) -> OwnerView:
    from jobs.owner.review import OwnerView
    from silo_agent.home import SiloHome

    return OwnerView(SiloHome(home))


def _data_lines(entry: dict[str, Any]) -> list[str]:
    from crypto.text import escaped

    if entry["amiss"]:
        return [f"{escaped(entry['name'])}  cannot be used: {entry['amiss']}"]
    reference = entry["reference"]
    by = f", by {reference['reader']} and schema {reference['schema'][:16]}" if reference else ""
    shape = " × ".join(map(str, entry["shape"]))
    return [
        f"{entry['name']}  {escaped(entry['summary'])}".rstrip(),
        f"  schema      {shape} features, {entry['target']}{by}",
        *([f"  files       {escaped(reference['path'])}"] if reference else []),
        f"  uid         {entry['uid']}",
        f"  commitment  {entry['commitment']}",
        f"  mock        {entry['mock']}",
        *(f"  look at     {escaped(finding)}" for finding in entry["findings"]),
    ]
