"""The command line. Each verb is a few lines: parse, call, print; every verb has ``--json``.

Exit codes are those of the error tree (docs/errors); 130 after Ctrl-C. Heavy imports happen inside the verbs, so that
``fed silo run`` starts fast and ``fed egress`` needs no NVFlare.
"""

from __future__ import annotations

import codecs
import io
import locale
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
import typer.core

from crypto.errors import FederationError, SpecError, SystemRefused
from jobs.cli import admin, desk, doctor, evidence, lineage, membership, owner, personal, provisioning, retention
from jobs.cli.options import Json, LogFormat, LogLevel, emit


class Verbs(typer.core.TyperGroup):
    """The verbs of ``fed``. A verb under its former name fails with the new one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:1] == ["join"]:
            ctx.fail("`fed join` is renamed to `fed try`.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="fed",
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated training of expert models with secure aggregation.",
)
silo_app = typer.Typer(no_args_is_help=True, help="The service of a silo, at an institution.")
aggregator_app = typer.Typer(no_args_is_help=True, help="The service of the aggregator.")
desk.register(silo_app)
app.add_typer(silo_app, name="silo")
app.add_typer(aggregator_app, name="aggregator")

Job = Annotated[str, typer.Option("--job", help="A job file, or a name from `fed catalog`.")]
Silos = Annotated[
    int | None,
    typer.Option(
        "--silos", help="Number of silos; for digits an even number, 8 (the default) or more. With --data the folder's."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Your own data: a folder with a sub-folder or file for each silo, named after it (docs/data.md). For "
        "fedcoe-heart the folder of its files.",
        exists=True,
        file_okay=False,
    ),
]
Rounds = Annotated[int | None, typer.Option("--rounds", help="Number of training rounds; default: the job's.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of data split and model; default: the job's.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the new folder under runs/; it must not exist.")]
Break = Annotated[
    str | None,
    typer.Option("--break", help="`lane`, or a lane's name: its holders stop answering after train/0; it stays shut."),
]
Kit = Annotated[
    Path,
    typer.Option("--kit", envvar="CONSILIUM_KIT", help="This site's startup kit: folder or .kit.tar.gz.", exists=True),
]
RunHome = Annotated[
    Path | None,
    typer.Option("--home", envvar="CONSILIUM_HOME", help="This site's home; default: the one that the kit names."),
]
CharterFolder = Annotated[
    Path | None,
    typer.Option("--charter", envvar="CONSILIUM_CHARTER", help="Folder with charter.bin and consortium.pub."),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain-seconds",
        envvar="CONSILIUM_DRAIN_SECONDS",
        min=0,
        help="How long the step in progress may take to finish after SIGTERM; 0: stop immediately.",
    ),
]
Port = Annotated[
    int,
    typer.Option(
        "--metrics-port",
        envvar="CONSILIUM_METRICS_PORT",
        help="Port of /metrics, /healthz and /readyz; 0: any free port.",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        "--metrics-host",
        envvar="CONSILIUM_METRICS_HOST",
        help="Address on which /metrics, /healthz and /readyz listen.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from jobs import release

        print(f"consilium-fl {release.version()}, code {release.digest().hex()}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show version and digest of this release."),
    ] = False,
) -> None:
    """Federated training of expert models with secure aggregation."""


@app.command()
def up(
    job: Job = "fedcoe-digits",
    silos: Silos = None,
    rounds: Rounds = None,
    seed: Seed = None,
    data: Data = None,
    name: Name = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the federation running until Ctrl-C, to submit more jobs.")
    ] = False,
    breaks: Break = None,
    as_json: Json = False,
) -> None:
    """Run one job on a local federation of NVFlare processes with mTLS; writes a report and a model in MLflow."""
    from jobs.demo.console import Shown
    from jobs.demo.up import Options
    from jobs.demo.up import up as run

    view = Shown(json=as_json, on_result=(lambda report: emit(report, True)) if as_json else None)
    run(Options(job=job, silos=silos, rounds=rounds, seed=seed, data=data, name=name, keep=keep, breaks=breaks), view)


@app.command()
def simulate(
    job: Job = "fedcoe-digits",
    silos: Silos = None,
    rounds: Rounds = None,
    seed: Seed = None,
    data: Data = None,
    name: Name = None,
    breaks: Break = None,
    mock: Annotated[
        Path | None,
        typer.Option(
            "--mock",
            help="A PySyft box with the public part of the silos' data sets: runs the job on mock data.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run one job in this process, without NVFlare, through the same round code as `fed up`."""
    if mock is not None:
        from jobs.demo.console import Shown
        from jobs.demo.mock_run import rehearse

        if (silos, rounds, seed, data, name, breaks) != (None,) * 6:
            raise SpecError("--mock", got="with other options", want="--mock and --job alone: the box has the silos")
        emit(rehearse(job, mock, Shown(json=as_json)), as_json)
        return
    from jobs.demo.console import Shown
    from jobs.demo.up import Options
    from jobs.demo.up import simulate as run

    view = Shown(json=as_json, on_result=(lambda report: emit(report, True)) if as_json else None)
    run(Options(job=job, silos=silos, rounds=rounds, seed=seed, data=data, name=name, breaks=breaks), view)


@silo_app.command("run")
def silo_run(
    kit: Kit,
    home: RunHome = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity", envvar="CONSILIUM_IDENTITY", help="Folder with agent.key and salt, copied into a new home."
        ),
    ] = None,
    charter: CharterFolder = None,
    metrics_port: Port = 0,
    metrics_host: Host = "127.0.0.1",
    drain_seconds: Drain = 60.0,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
) -> None:
    """Run the silo's agent: NVFlare's client, hardened, with /metrics, /healthz and /readyz. Stops on SIGTERM."""
    from jobs.services.bootstrap import ServiceOptions
    from jobs.services.run import run_silo

    request = ServiceOptions(
        role="silo", kit=kit, home=home, identity=identity, charter=charter, log_level=log_level, log_format=log_format
    )
    raise typer.Exit(run_silo(request, metrics_host, metrics_port, drain_s=drain_seconds))


@aggregator_app.command("run")
def aggregator_run(
    kit: Kit,
    home: RunHome = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity", envvar="CONSILIUM_IDENTITY", help="Folder with aggregator.key, copied into a new home."
        ),
    ] = None,
    charter: CharterFolder = None,
    metrics_port: Port = 0,
    metrics_host: Host = "127.0.0.1",
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking-uri", envvar="CONSILIUM_TRACKING_URI", help="Address of MLflow; default: SQLite in the home."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            envvar="CONSILIUM_LISTEN",
            help="Address of NVFlare's port: 127.0.0.1, or four zeros for all addresses of this host.",
        ),
    ] = "127.0.0.1",
    drain_seconds: Drain = 60.0,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
) -> None:
    """Run the aggregator: NVFlare's server and the lineage follower, with /metrics, /healthz and /readyz. Stops on
    SIGTERM."""
    from jobs.services.bootstrap import ServiceOptions
    from jobs.services.run import run_aggregator

    request = ServiceOptions(
        role="aggregator", kit=kit, home=home, identity=identity, charter=charter, listen=listen,
        log_level=log_level, log_format=log_format,
    )  # fmt: skip
    raise typer.Exit(run_aggregator(request, metrics_host, metrics_port, tracking_uri, drain_s=drain_seconds))


@app.command()
def egress(
    job: Annotated[str, typer.Argument(help="A job file, or a name from `fed catalog`.")],
    silos: Annotated[int, typer.Option("--silos", help="Number of members of the charter.")] = 8,
    as_json: Json = False,
) -> None:
    """Show everything that may leave a silo in a job, and what the aggregator sees of one silo."""
    from jobs.job import JobSpec
    from jobs.owner.egress_manifest import manifest, print_manifest

    found = manifest(JobSpec.load(job), silos)
    if as_json:
        emit(found, True)
    else:
        print_manifest(found)


@app.command()
def export(
    job: Annotated[str, typer.Argument(help="A job file, or a name from `fed catalog`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
    charter: Annotated[
        Path, typer.Option("--federation", help="Folder of the federation, or a home, whose charter applies.")
    ],
    resume: Annotated[str, typer.Option("--resume", help="Id of an interrupted run to continue.")] = "",
    as_json: Json = False,
) -> None:
    """Write a job as an NVFlare job folder for `nvflare job submit -j`. It contains no custom code."""
    from crypto.home import Home
    from jobs.flare.folder import export as write
    from jobs.job import JobSpec

    spec = JobSpec.load(job)
    pinned = Home(charter / "aggregator" if (charter / "aggregator").is_dir() else charter).charter()
    write(spec, pinned, out, resume=resume)
    if as_json:
        emit({"folder": str(out), "job": spec.digest.hex()}, True)
    else:
        print(f"{out}: job {spec.digest.hex()[:16]}, {len(pinned.silos)} silos")


@app.command()
def mlflow(
    federation: Annotated[Path, typer.Argument(help="An aggregator's home, or a folder made by `fed up`.")],
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the federation's MLflow UI on 127.0.0.1 (telemetry off, pickle forbidden), until Ctrl-C."""
    from jobs.services.run import run_mlflow

    run_mlflow(federation, port)


@app.command()
def catalog(as_json: Json = False) -> None:
    """List the jobs that come with the package, each with its method."""
    from jobs.job import JobSpec, catalogue

    found = {name: JobSpec.load(name).method for name in catalogue()}
    if as_json:
        emit(found, True)
    else:
        for name, method in found.items():
            print(f"{name:<24} {method}")


# In the order in which `fed --help` lists them.
for verbs in (admin, owner, personal, lineage, evidence, membership, provisioning, doctor, retention):
    verbs.register(app)


#: Packages that only some verbs need → the extras that bring them. What is not here is a bug of ours.
_EXTRAS: Final = {
    "nvflare": "flare",
    **dict.fromkeys(("flask", "werkzeug", "torch", "syft", "syft_job", "syft_datasets", "syft_perm", "yaml"), "silo"),
    "mlflow": "aggregator",
    **dict.fromkeys(("prometheus_client", "psutil"), "silo,aggregator,flare"),
    "psycopg2": "postgres",
    **dict.fromkeys(("sklearn", "scipy"), "demo"),
    "jinja2": "silo,demo",
    **dict.fromkeys(("transformers", "peft"), "lm"),
}


def main() -> None:
    """Run a verb; errors of ours become one line and their exit code."""
    _in_utf8()
    try:
        app()
    except FederationError as error:
        _fail(error)
    except OSError as refused:
        _fail(SystemRefused.of(refused))
    except ModuleNotFoundError as missing:
        if (extras := _EXTRAS.get((missing.name or "").partition(".")[0])) is None:
            raise
        want = f"the extra [{extras}] of consilium-fl"
        _fail(
            SpecError(
                f"fed {' '.join(sys.argv[1:2])}",
                got=f"no package {missing.name}",
                want=want,
                remedy=f"Install our wheel with it: pip install -c constraints.txt './WHEEL[{extras}]'.",
            )
        )
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _fail(error: FederationError) -> NoReturn:
    print(f"error [{error.code}]: {error}", file=sys.stderr)
    with suppress(OSError):  # where standard output itself is what was refused
        emit({"error": error.code, "detail": error.detail, "remedy": error.remedy}, "--json" in sys.argv)
    sys.exit(error.exit_code)


def _in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding.

    NVFlare and MLflow open files and print in the locale's encoding; one job must give one digest everywhere. Processes
    that this one starts inherit the mode.
    """
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):  # also where PYTHONIOENCODING says otherwise
            out.reconfigure(encoding="utf-8", errors="backslashreplace")
    if sys.flags.utf8_mode or codecs.lookup(locale.getencoding()).name == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.orig_argv[0], "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
