"""Model versions, from the ledger and the run folders alone: no MLflow, no network.

The ledger says which runs finished, with which weights, and who moved an alias (``model-published``). MLflow numbers
the versions; the number of a run lies unsigned in ``jobs/<run>/mlflow.json`` and becomes signed with the first record
that names it. Where the two differ, EvidenceError is raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.home import MLFLOW_FILE, AggregatorHome
from aggregator.ledger.format import Entry, at
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import ModelPublished, RunFinished, RunStarted, StepClosed, Withdrawal, run_of
from aggregator.rounds.storage import load_checkpoint
from aggregator.run_record import CheckedLedger
from aggregator.verify.predictor import checked_predictor
from aggregator.verify.report import VerificationReport
from aggregator.verify.verified_run import read_ledger
from crypto.errors import EvidenceError, SpecError

#: The alias that each new version of a name gets by itself.
CANDIDATE = "candidate"
#: Fewest digits of a digest or a run id that stand for the whole.
LEAST_DIGITS = 8

_ALIAS = re.compile(r"(?!v\d+$|latest$)[a-z][a-z0-9_-]{0,62}")
#: Digits that may stand for a whole digest or run id.
PREFIX = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},64}}")
_NO_NAME = re.compile(r"[^A-Za-z0-9 _-]")
_MOST_BY = 120
_CHECKPOINT = re.compile(r"checkpoints/([0-9]{6,9})\.safetensors")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A finished run as a model. ``version`` is empty until MLflow has numbered it: then the run's id names it.

    ``aliases``: alias → (who moved it here, when). ``parent``: the run whose result it started from, if any.
    ``withdrawn_silos``: silos that have withdrawn and whose data it has, itself or through its parents. ``seq``
    is the ledger line of its end, ``finished`` that line's time. ``numbered``: the ledger itself names the version.
    """

    name: str
    version: str
    run: str
    weights_sha256: str
    state_digest: str
    seq: int
    finished: str
    numbered: bool = False
    aliases: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    parent: str | None = None
    withdrawn_silos: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How users name it: name/version, or the run's id."""
        return f"{self.name}/{self.version}" if self.version else self.run


@dataclass(frozen=True)
class Models:
    """The model versions of a checked ledger, oldest first."""

    ledger: CheckedLedger
    versions: tuple[ModelVersion, ...]

    @classmethod
    def of(cls, ledger: CheckedLedger) -> Models:
        """Raises EvidenceError where MLflow's number of a run contradicts the ledger."""
        return cls(ledger, tuple(versions(ledger)))

    def made_by(self, run: str) -> ModelVersion | None:
        """The version that a run made, if it finished."""
        return next((version for version in self.versions if version.run == run), None)


# --- versions ----------------------------------------------------------------------------------------------------


def checked_ledger(home: AggregatorHome, *, under_way: bool = False) -> CheckedLedger:
    """The home's ledger and charters, checked whole. Raises EvidenceError where there is no ledger, and at the first
    line or charter that doesn't check: altered, missing, reordered, half-written, cut off, or under another key.
    ``under_way``: as in ``read_ledger``."""
    if not (path := home.ledger_path).is_file():
        remedy = "Give the aggregator's home with --home: the folder with charter.bin and ledger/."
        raise EvidenceError(path.name, expected="an aggregator's ledger", found="no file", remedy=remedy)
    return read_ledger(home, None, VerificationReport("ledger"), under_way=under_way)


def models(home: AggregatorHome) -> list[ModelVersion]:
    """Every finished run as a model version, oldest first. Raises what ``checked_ledger`` raises, and EvidenceError
    where MLflow's number of a run contradicts the ledger."""
    return versions(checked_ledger(home))


def versions(ledger: CheckedLedger) -> list[ModelVersion]:
    """``models`` of a ledger that has been read."""
    ends = {entry.record.run: entry for entry in ledger.of(RunFinished)}
    started = {entry.record.run: entry for entry in ledger.of(RunStarted)}
    signed: dict[str, set[tuple[str, str]]] = {}
    for entry in ledger.of(ModelPublished):
        signed.setdefault(entry.record.run, set()).add((entry.record.model_name, entry.record.version))
    names = {run: _name(ledger.home, started[run], signed.get(run, set())) for run in ends if run in started}
    _no_doubles(names)
    above = parents(ledger)
    aliases = _aliases(ledger, names)
    withdrawn = _withdrawn(ledger, names, above)
    return [
        ModelVersion(
            name=name,
            version=version,
            run=run,
            weights_sha256=ends[run].record.weights_sha256,
            state_digest=ends[run].record.state_digest,
            seq=ends[run].seq,
            finished=ends[run].time,
            numbered=run in signed,
            aliases=aliases.get(run, {}),
            parent=above[run],
            withdrawn_silos=withdrawn[run],
        )
        for run, (name, version) in names.items()
    ]


def find(home: AggregatorHome, text: str) -> ModelVersion:
    """The model version that ``name/version``, ``name@alias`` or a run's id (8 digits of it will do) names.

    Raises SpecError that lists what there is; otherwise as ``models``.
    """
    return pick(models(home), text)


def pick(found: Sequence[ModelVersion], text: str) -> ModelVersion:
    """``find`` among versions that have been read."""
    name, at, alias = text.partition("@")
    if at:
        hits = [one for one in found if one.name == name and alias in one.aliases]
    else:
        hits = [one for one in found if one.version and one.label == text]
        if not hits and PREFIX.fullmatch(text):
            hits = [one for one in found if one.run.startswith(text)]
    if len(hits) == 1:
        return hits[0]
    have = [f"{one.name}@{alias}" for one in found for alias in one.aliases] + [one.label for one in found]
    raise SpecError(
        "model",
        got=text,
        want="name/version, name@alias or a run id" if not hits else f"one of {', '.join(one.run for one in hits)}",
        remedy=f"There are: {', '.join(have)}." if have else "No run has finished here yet.",
    )


def registered_name(model_name: str) -> str:
    """What MLflow calls a model: it refuses some characters."""
    return _NO_NAME.sub("-", model_name)


def _name(home: AggregatorHome, started: Entry[RunStarted], signed: set[tuple[str, str]]) -> tuple[str, str]:
    """(name, version) of a finished run; the version is empty where nobody has numbered it. ``signed``: what the
    ledger calls it."""
    run, name = started.record.run, registered_name(started.record.model_name)
    noted = _noted(home, run)
    for found in sorted(signed | ({noted} if noted else set())):
        where = f"model-published of run {run}" if found in signed else f"{run}/{MLFLOW_FILE}"
        if found[0] != name:
            raise EvidenceError(where, expected=f"a version of {name}", found=f"{found[0]}/{found[1]}")
        if any(other != found for other in signed):
            expected = ", ".join(sorted(f"{other[0]}/{other[1]}" for other in signed))
            raise EvidenceError(where, expected=f"{expected}, as the ledger says", found=f"{found[0]}/{found[1]}")
    return next(iter(signed), noted or (name, ""))


def _noted(home: AggregatorHome, run: str) -> tuple[str, str] | None:
    """What MLflow called the model of a run: written by the lineage follower."""
    try:
        facts = json.loads(home.run_folder(run).mlflow_path.read_bytes())
        name, version = facts["model"], facts["version"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as bad:
        raise EvidenceError(
            f"{run}/{MLFLOW_FILE}",
            expected="model and version",
            found=f"unreadable bytes ({type(bad).__name__})",
            remedy="Remove the file: the lineage follower writes it again.",
        ) from bad
    return str(name), str(version)


def _no_doubles(names: Mapping[str, tuple[str, str]]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for run, label in names.items():
        if label[1] and (other := seen.setdefault(label, run)) != run:
            raise EvidenceError(f"{label[0]}/{label[1]}", expected="one run", found=f"the runs {other} and {run}")


def parents(ledger: CheckedLedger) -> dict[str, str | None]:
    """run → the finished run that it started from, named by its record or shown by its first state."""
    results: dict[str, str] = {}
    found: dict[str, str | None] = {}
    for entry in ledger.entries:
        run = run_of(entry.record)
        if isinstance(entry.record, RunStarted):
            given = [entry.record.parent, entry.record.state_digest]
            found.setdefault(run, next((results[digest] for digest in given if digest in results), None))
        elif isinstance(entry.record, RunFinished) and run in found:  # else two runs could descend from each other
            results |= dict.fromkeys((entry.record.state_digest, entry.record.weights_sha256), run)
    return found


def _aliases(ledger: CheckedLedger, names: Mapping[str, tuple[str, str]]) -> Mapping[str, dict[str, tuple[str, str]]]:
    """run → alias → (by, at). A new version takes ``candidate``; after that the last record of an alias counts."""
    holders: dict[tuple[str, str], tuple[str, str, str]] = {}
    for entry in ledger.entries:
        run = run_of(entry.record)
        if run not in names:
            continue
        name, version = names[run]
        if isinstance(entry.record, RunFinished) and version:
            holders[name, CANDIDATE] = (run, "the aggregator, as the newest version", entry.time)
        elif isinstance(entry.record, ModelPublished):
            holders[name, entry.record.alias] = (run, entry.record.by or "not recorded", entry.time)
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for (_, alias), (run, by, since) in holders.items():
        found.setdefault(run, {})[alias] = (by, since)
    return found


def _withdrawn(
    ledger: CheckedLedger, names: Mapping[str, tuple[str, str]], above: Mapping[str, str | None]
) -> dict[str, tuple[str, ...]]:
    """run → silos that withdrew after they had contributed to it or to a run it descends from."""
    left = {entry.record.silo: entry for entry in ledger.of(Withdrawal)}
    own: dict[str, set[str]] = {run: set() for run in names}
    called = {text: run for run, (name, version) in names.items() for text in (run, f"{name}/{version}")}
    for silo, entry in left.items():
        for text in entry.record.models:
            if text in called:
                own[called[text]].add(silo)
    for closed in ledger.of(StepClosed):
        if (run := closed.record.run) in own:
            own[run] |= {silo for silo in closed.record.survivors if silo in left and closed.seq < left[silo].seq}
    whole: dict[str, set[str]] = {}
    for run, parent in above.items():  # oldest first, so a parent comes before its children
        whole[run] = own.get(run, set()) | whole.get(parent or "", set())
    return {run: tuple(sorted(whole.get(run, own[run]))) for run in names}


def ancestry(run: str, above: Mapping[str, str | None]) -> list[str]:
    """A run and the runs it descends from, nearest first. ``above``: as from ``parents``."""
    line = [run]
    while (parent := above.get(line[-1])) is not None:
        line.append(parent)
    return line


# --- promoting ---------------------------------------------------------------------------------------------------


def promote(home: AggregatorHome, text: str, alias: str, by: str, *, force: bool = False) -> ModelVersion:
    """Move an alias to a version: who did it goes on the ledger, signed with the aggregator's key; MLflow follows.

    The version's weights are read again and must be those of the ledger, and its predictor the approved release's.
    Raises SpecError for a version that MLflow has not numbered, an invalid alias or person's name, and, without
    ``force``, for a version that holds data of a silo that has withdrawn.
    """
    if not _ALIAS.fullmatch(alias) or alias == CANDIDATE:
        want = f"lower-case letters, digits, _ and -, not v1, latest or {CANDIDATE}, which the newest version has"
        raise SpecError("alias", got=alias, want=want)
    if not by.strip() or len(by) > _MOST_BY or not by.isprintable():
        raise SpecError("by", got=by, want=f"a role or a name, at most {_MOST_BY} characters")
    ledger = checked_ledger(home)
    version = pick(versions(ledger), text)
    if not version.version:
        remedy = "Let the lineage follower catch up: python -m aggregator.tracking.follower --home DIR"
        raise SpecError("model", got=text, want="a version that MLflow has numbered", remedy=remedy)
    if version.withdrawn_silos and not force:
        left = ", ".join(version.withdrawn_silos)
        remedy = f"Retrain first: fed withdraw {version.withdrawn_silos[0]} --plan lists the narrowest remedy."
        raise SpecError("model", got=f"{version.label}, which holds data of {left}", want="no silo of it withdrawn",
                        remedy=remedy)  # fmt: skip
    check_weights(ledger, version)
    started = ledger.run(version.run).started
    if started.record.predictor is not None:
        checked_predictor(home.run_folder(version.run), started)
    identity = home.identity()
    if identity.public != ledger.charter.aggregator:
        raise SpecError("aggregator key", got=identity.public.fingerprint, want=ledger.charter.aggregator.fingerprint)
    record = ModelPublished(
        run=version.run,
        model_name=version.name,
        version=version.version,
        alias=alias,
        weights_sha256=version.weights_sha256,
        by=by.strip(),
    )
    Ledger.open(home.ledger_path, identity).append(record)
    return find(home, version.run)


def check_weights(ledger: CheckedLedger, version: ModelVersion) -> Path:
    """The file with a version's weights, once its bytes and its state are what the ledger says; else EvidenceError."""
    end = ledger.run(version.run).finished
    assert end is not None  # a version is a finished run
    folder = ledger.home.run_folder(version.run)
    if (named := _CHECKPOINT.fullmatch(end.record.checkpoint)) is None:
        raise EvidenceError(at(end, "checkpoint"), expected="checkpoints/STEP.safetensors", found=end.record.checkpoint)
    step = int(named[1])
    checkpoint = load_checkpoint(folder, step, expect=bytes.fromhex(version.state_digest))
    if checkpoint.weights_sha256 != version.weights_sha256:
        raise EvidenceError(
            f"{version.run}/{checkpoint.path}", expected=version.weights_sha256, found=checkpoint.weights_sha256
        )
    return folder.root / checkpoint.path
