"""At a silo: the models that it has kept for itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import Json, SiloHomePath, emit

if TYPE_CHECKING:
    from jobs.owner.personal import Opened

personal_app = typer.Typer(no_args_is_help=True, help="Models of this silo alone: list, predict, evaluate, export.")

Run = Annotated[str | None, typer.Argument(help="A run's id or its first digits; default: the newest.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to ``fed``."""
    app.add_typer(personal_app, name="personal")


@personal_app.command("list")
def personal_list(home: SiloHomePath, as_json: Json = False) -> None:
    """The models that this silo has kept for itself, the newest first."""
    from crypto.text import escaped
    from jobs.owner.personal import listed
    from jobs.owner.render import day
    from silo_agent.home import SiloHome

    found = listed(SiloHome(home))
    if not as_json:
        for one in found:
            if one["amiss"]:
                print(f"{escaped(one['run'][:16])}  cannot be used: {one['amiss']}")
                continue
            print(
                f"{one['run'][:16]}  {one['job']}, {one['method']} on {one['dataset']}, {one['step']} steps, "
                f"{day(one['kept_at'])}, {one['bytes']} bytes, digest {one['digest'][:16]}"
            )
        if not found:
            print("No personal models: fedcoe makes them, and fedavg with local parameters.")
    emit({"personal": found}, as_json)


@personal_app.command("predict")
def personal_predict(
    home: SiloHomePath,
    source: Annotated[
        Path, typer.Option("--from", help="Rows: a table by the job's schema, or .npy or .npz.", exists=True)
    ],
    run: Run = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new CSV file, 0600; default: print it.")] = None,
    as_json: Json = False,
) -> None:
    """Probabilities of the classes for rows of this silo, or the predicted number, as CSV: one line a row."""
    from crypto.errors import SpecError
    from jobs.owner.personal import predict, write
    from silo_agent.models.tasks import output_name

    model = _opened(home, run)
    p_BC = predict(model, source)
    if p_BC.ndim > 2:
        raise SpecError("fed personal predict", got="a model of masks", want="`fed personal evaluate`, or an export")
    head = ",".join(f'"{name}"' if any(c in name for c in ',"\n') else name for name in model.classes)
    form = ".9g" if model.task.name == "regression" else ".6f"
    lines = [head, *(",".join(format(p, form) for p in row) for row in p_BC)]
    if out is not None:
        write(out, ("\n".join(lines) + "\n").encode())
    if not as_json:
        print("\n".join(lines) if out is None else f"{out}: {len(p_BC)} rows")
    emit({"run": model.kept.run, "classes": model.classes, output_name(model.task): p_BC.tolist()}, as_json)


@personal_app.command("evaluate")
def personal_evaluate(home: SiloHomePath, run: Run = None, as_json: Json = False) -> None:
    """Correct predictions on this silo's own test rows. Figures of one silo: shown here, sent nowhere."""
    from jobs.owner.personal import evaluate

    found = evaluate(_opened(home, run))
    if not as_json:
        rows = found["rows"]
        for name, what in (("personal", "this model"), ("global", "the global model"), ("majority", "commonest label")):
            if found[name] is not None:
                print(f"{what:<16}  {found[name]} of {rows} correct, {100 * found[name] / rows:.1f} %")
        metrics = found["metrics"]
        for name in (name for name in metrics if not name.endswith((".within", ".baseline"))):
            within, base = metrics.get(f"{name}.within", 0.0), metrics.get(f"{name}.baseline")
            certificate = f" ± {within:.3f}" if within >= 0.0005 else ""
            form = ".4g" if name.endswith((".rmse", ".mae")) else ".3f"  # in the unit of the target
            beside = "" if base is None else f"  (baseline {base:{form}})"
            print(f"{name.removeprefix('personal.'):<17} {metrics[name]:{form}}{certificate}{beside}")
        if not found["same_data"]:
            print("The data set is not the one that it was trained on: it was registered anew since.")
    emit(found, as_json)


@personal_app.command("export")
def personal_export(
    home: SiloHomePath,
    out: Annotated[Path, typer.Option("--out", help="A new file, 0600; beside it FILE.json says what it takes.")],
    run: Run = None,
    form: Annotated[str, typer.Option("--to", help="onnx, with the extra [export], or torch: torch.export.")] = "onnx",
    as_json: Json = False,
) -> None:
    """Write the model for other programs at this silo. It has learned from this silo's rows: treat it like them."""
    from jobs.owner.personal import export

    found = export(_opened(home, run), form, out)
    if not as_json:
        print(f"{found['file']}: {found['form']}, {found['bytes']} bytes; {found['about']} says what it takes")
        print("It has learned from this silo's rows: treat it like them.")
    emit(found, as_json)


def _opened(home: Path, run: str | None) -> Opened:
    from jobs.owner.personal import opened
    from silo_agent.home import SiloHome

    return opened(SiloHome(home), run)
