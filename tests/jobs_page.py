"""The generated parts of docs/jobs.md: the job file's fields, the catalogue, the states of a job.

Each part stands between two marks in the page. ``python -m tests.jobs_page`` writes them anew; a test fails while the
page has others. A field, a parameter or a state that lacks its words here is an error, not a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Final

from jobs.job import KEEP, MOST_PURPOSE, TIMEOUTS, JobSpec, catalogue
from silo_agent.methods import METHODS, RoundParams, TrainingParams
from silo_agent.methods.training_options import TrainingOptions

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "jobs.md"

#: Field of the job file → its type, and what it is.
FIELDS: Final = {
    "name": ("text", "names the run's model; a-z, 0-9 and -, at most 48"),
    "method": (
        f"one of {', '.join(f'`{name}`' for name in METHODS)}",
        "how the silos train together ([methods](methods.md))",
    ),
    "dataset": ("text", "each silo resolves it in its own catalogue; a-z, 0-9 and . _ -, at most 63"),
    "purpose": (
        f"a line of at most {MOST_PURPOSE} characters",
        "the aim of the work: data owners read and approve it",
    ),
    "keep_uploads": (f"one of {', '.join(f'`{kind}`' for kind in KEEP)}", "masked uploads kept, for bit-exact replay"),
    "params": ("table of numbers, texts, booleans", "the method's own, checked by the method"),
    "timeouts": ("table of seconds, 1 to 604800", "see below"),
    "require": ("table", "whom the run must not go on without ([reliability](reliability.md#whom-a-run-requires))"),
    "resume": (
        "table",
        "whether an interrupted run goes on by itself ([reliability](reliability.md#a-run-goes-on-by-itself))",
    ),
    "schema": ("file beside the job file, or a table", "how raw rows become inputs and labels ([data](data.md))"),
    "privacy": ("table", "differential privacy: mechanism, noise, ε and δ ([privacy](privacy.md))"),
}
#: Time-out → what it bounds.
TIMES: Final = {
    "phase": "one phase of a step",
    "step": "phase `contribute`, which trains",
    "job": "the whole run; checked before each attempt at a step",
}
#: Parameter of every method that trains by rounds → what it is.
PARAMETERS: Final = {
    "features": "number of features of a row",
    "classes": "number of labels",
    "hidden": "width of the hidden layer",
    "rounds": "training rounds",
    "local_steps": "steps of gradient descent of a silo in a round",
    "batch": "rows per step",
    "learning_rate": "learning rate of those steps",
    "momentum": "momentum of those steps",
    "clip": "bound on the change of each value in a round; larger changes are clipped",
    "ring_bits": "32, or 24: three bytes per parameter and coarser rounding, which `fed egress` prints",
    "seed": "seed of the initial model and of the demonstration's split",
}
#: Parameter of ``fedavg`` and ``fedcoe`` about local training → what it is.
OPTIONS: Final = {
    "optimizer": "adam and adamw take `momentum` as the decay of their mean gradient",
    "weight_decay": "pull of every trained value to zero; of adamw apart from the gradient",
    "gradient_clip": "largest norm of a model's gradient; 0: no limit",
    "schedule": "what becomes of the learning rate over the rounds: cosine falls to 0 at the last round's end",
    "schedule_every": "rounds between two drops of the schedule `step`",
    "schedule_drop": "what the rate is multiplied by at each drop",
    "warmup_rounds": "rounds in which the rate rises from 0",
    "local_epochs": "passes over a silo's rows in a round, at most `local_steps` steps; 0: `local_steps` steps",
    "class_weights": 'what a row counts, by its class, such as "1 8"; "balanced": by each silo\'s own rows',
}
#: State of a job in `fed status` → what NVFlare says, and what it means.
STATES: Final = {
    "queued": ("SUBMITTED", "it waits for the previous job to end, or for enough silos to connect"),
    "starting": ("DISPATCHED, RUNNING", "its processes start; nothing is on the ledger yet"),
    "running": ("RUNNING", "its run is on the ledger, at a step and phase"),
    "finished": ("FINISHED:COMPLETED", "`run-finished` is on the ledger, countersigned by the silos"),
    "failed": (
        "FINISHED:EXECUTION_EXCEPTION",
        "`run-failed` is on the ledger, with its code; or the server refused the job before it had a run",
    ),
    "aborted": ("FINISHED:ABORTED", "an administrator ended it: `run-failed` with the code `ABORTED`, or no run yet"),
    "interrupted": (
        "FINISHED:ABNORMAL",
        "the aggregator's process ended during the run, which is open on the ledger and goes on as another job",
    ),
    "not started": (
        "FINISHED:CANT_SCHEDULE, FAILED_TO_RUN",
        "in thirty tries too few silos were connected, or accepted the job",
    ),
    "unknown": ("anything else", "a state of NVFlare that this release does not know"),
}


def fields_table() -> str:
    """The job file's fields with their defaults, as ``jobs.job.JobSpec`` has them."""
    lines = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for one in fields(JobSpec):
        kind, what = FIELDS[one.name]
        default = {
            "params": "empty",
            "timeouts": "as below",
            "schema": "none",
            "require": "none",
            "resume": "`always`, five attempts",
        }.get(one.name, f"`{one.default}`")
        if one.default is MISSING and one.default_factory is MISSING:
            default = "required"
        lines.append(f"| `{one.name}` | {kind} | {default} | {what} |")
    lines += [f"| `timeouts.{name}` | seconds | {TIMEOUTS[name]:g} | {TIMES[name]} |" for name in TIMEOUTS]
    return "\n".join(lines)


def parameters_table() -> str:
    """What every method that trains by rounds takes."""
    lines = ["| parameter | from | to | default | what it is |", "|---|---|---|---|---|"]
    for one in fields(TrainingParams):
        default = "required" if one.default is MISSING else f"{one.default:g}"
        bounds = one.metadata
        what = PARAMETERS[one.name]
        lines.append(f"| `{one.name}` | {_number(bounds['least'])} | {_number(bounds['most'])} | {default} | {what} |")
    return "\n".join(lines)


def options_table() -> str:
    """How a silo trains, as far as a job may choose."""
    lines = ["| parameter | values | default | what it is |", "|---|---|---|---|"]
    shared = {one.name for one in fields(RoundParams)}
    for one in fields(TrainingOptions):
        if one.name in shared:
            continue
        bounds = one.metadata
        if "choices" in bounds:
            values = ", ".join(f"`{choice}`" for choice in bounds["choices"])
        else:
            values = "text" if "text" in bounds else f"{_number(bounds['least'])} to {_number(bounds['most'])}"
        default = f"`{one.default}`" if isinstance(one.default, str) and one.default else f"{one.default or 'none'}"
        default = f"{one.default:g}" if isinstance(one.default, int | float) else default
        lines.append(f"| `{one.name}` | {values} | {default} | {OPTIONS[one.name]} |")
    return "\n".join(lines)


def catalogue_table() -> str:
    """Every job of the catalogue, with the first lines of its file."""
    lines = ["| job | method | data set | what it shows |", "|---|---|---|---|"]
    for name in catalogue():
        job = JobSpec.load(name)
        lines.append(f"| `{name}` | {job.method} | {job.dataset} | {_comment(name)} |")
    return "\n".join(lines)


def states_table() -> str:
    """The states of ``fed status`` beside NVFlare's."""
    lines = ["| state | NVFlare says | meaning |", "|---|---|---|"]
    lines += [f"| {state} | {theirs} | {meaning} |" for state, (theirs, meaning) in STATES.items()]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"


def _comment(name: str) -> str:
    """The comment that a catalogue's file begins with."""
    text = (resources.files("jobs") / "catalogue" / f"{name}.toml").read_text()
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines).replace("|", "\\|")


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "fields": fields_table,
    "parameters": parameters_table,
    "options": options_table,
    "catalogue": catalogue_table,
    "states": states_table,
}


def rewritten(page: str) -> str:
    """The page with each part as the code has it."""
    for name, part in PARTS.items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{part()}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
