"""What a run writes to its folder and reads again: checkpoints, masked uploads, evidence, opened sums, the predictor.

``aggregator.home.RunFolder`` names the files.

A checkpoint exists when its JSON file does: blocks are written, synced and renamed first. Masked lanes are staged
before shares are asked for: one vector a lane is in memory, however many silos there are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from aggregator.home import PREDICTOR_FILE, RunFolder, file_name
from aggregator.ledger.format import canonical, plain
from crypto import durable
from crypto.blocks import State, state_digest
from crypto.errors import EvidenceError, LayoutMismatch, Malformed, NoSpace, SpecError
from crypto.evidence import StepEvidence
from crypto.release_manifest import PREDICTOR, ReleaseManifest

FORMAT = 1
_CHECKPOINT = re.compile(r"(\d{6,})\.json")


@contextmanager
def _room(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as full:
        raise NoSpace(f"{what} could not be written: {full.strerror}.", remedy="Free disk space.") from full


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and make it durable."""
    with _room(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            durable.replace(path, data)
        except OSError:
            durable.unfinished(path).unlink(missing_ok=True)
            raise


# --- checkpoints -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after step ``step``. ``path``: the safetensors file, relative to the run folder, for the ledger.

    ``weights_sha256``: SHA-256 of that file. ``meta``: what the writer attached (text, whole numbers, lists, objects).
    """

    step: int
    state: State
    meta: Mapping[str, Any]
    digest: bytes
    weights_sha256: str
    path: str


def save_checkpoint(folder: RunFolder, step: int, state: State, meta: Mapping[str, Any]) -> Checkpoint:
    """Write the state after a step. The same state again is fine; another one for the same step is EvidenceError.

    Raises SpecError for meta that has no canonical form, LayoutMismatch for blocks that are not float32, NoSpace.
    """
    if step < 0:
        raise SpecError("checkpoint step", got=step, want="0 or more")
    for name, block in state.items():
        if block.dtype != np.float32:
            raise LayoutMismatch(f"Block {name!r} is {block.dtype}; a checkpoint holds float32.")
    digest = state_digest(state)
    if folder.checkpoint_path(step).exists():
        return load_checkpoint(folder, step, expect=digest)
    data = save_tensors({name: np.ascontiguousarray(state[name]) for name in sorted(state)})
    facts = {"format": FORMAT, "step": step, "state_digest": digest.hex(), "weights_sha256": sha256(data).hexdigest()}
    facts["meta"] = plain(meta, "meta")
    text = canonical({**facts, "digest": sha256(canonical(facts)).hexdigest()}) + b"\n"
    _replace(folder.weights_path(step), data)
    _replace(folder.checkpoint_path(step), text)
    return load_checkpoint(folder, step, expect=digest)


def load_checkpoint(folder: RunFolder, step: int | None = None, *, expect: bytes | None = None) -> Checkpoint:
    """Read a checkpoint (the newest without ``step``), blocks read-only.

    ``expect``: the state digest the ledger or the transcript names. Raises EvidenceError for a missing, torn or
    altered file, and for a state other than expected.
    """
    if step is None:
        if not (steps := checkpoint_steps(folder)):
            raise EvidenceError(f"{folder.run}/checkpoints", expected="a checkpoint", found="none")
        step = steps[-1]
    facts = _read_description(folder, step)
    weights = folder.weights_path(step)
    where = f"{folder.run}/checkpoints/{weights.name}"
    try:
        data = weights.read_bytes()
    except FileNotFoundError:
        raise EvidenceError(where, expected="the blocks of a checkpoint", found="no file") from None
    if (found := sha256(data).hexdigest()) != facts["weights_sha256"]:
        raise EvidenceError(where, expected=f"SHA-256 {facts['weights_sha256']}", found=found)
    try:
        state = load_tensors(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as bad:  # the latter: types numpy lacks
        raise EvidenceError(where, expected="safetensors", found=f"{type(bad).__name__}: {bad}") from bad
    for name, block in state.items():
        if block.dtype != np.float32 or not block.size or max(block.shape, default=1) >= 2**32:
            found = f"{name!r}: {block.dtype} {list(block.shape)}"
            raise EvidenceError(where, expected="blocks of float32, none of them empty", found=found)
    digest = state_digest(state)
    if digest.hex() != facts["state_digest"]:
        raise EvidenceError(where, expected=f"state {facts['state_digest']}", found=digest.hex())
    if expect is not None and digest != expect:
        raise EvidenceError(where, expected=f"state {expect.hex()}", found=digest.hex())
    for block in state.values():
        block.flags.writeable = False
    path = weights.relative_to(folder.root).as_posix()
    return Checkpoint(step, state, facts["meta"], digest, facts["weights_sha256"], path)


def checkpoint_steps(folder: RunFolder) -> list[int]:
    """The steps with a complete checkpoint, ascending."""
    names = os.listdir(folder.checkpoints_folder) if folder.checkpoints_folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name)))


def prune_checkpoints(folder: RunFolder, keep: int) -> None:
    """Remove all but the newest ``keep`` (at least 1). The JSON goes first, so no half is ever taken for a whole."""
    if keep < 1:
        raise SpecError("checkpoints to keep", got=keep, want="at least 1")
    for step in checkpoint_steps(folder)[:-keep]:
        drop_checkpoint(folder, step)


def drop_checkpoint(folder: RunFolder, step: int) -> None:
    folder.checkpoint_path(step).unlink()
    folder.weights_path(step).unlink(missing_ok=True)


def _read_description(folder: RunFolder, step: int) -> dict[str, Any]:
    path = folder.checkpoint_path(step)
    where = f"{folder.run}/checkpoints/{path.name}"
    try:
        text = path.read_bytes()
        fields = json.loads(text)
        facts = {key: value for key, value in fields.items() if key != "digest"}
        exact = canonical({**facts, "digest": sha256(canonical(facts)).hexdigest()}) + b"\n"
    except FileNotFoundError:
        raise EvidenceError(where, expected=f"a checkpoint of step {step}", found="no file") from None
    except (ValueError, AttributeError, SpecError, RecursionError) as bad:
        raise EvidenceError(
            where, expected="a checkpoint description", found=f"unreadable bytes ({type(bad).__name__})"
        ) from bad
    if exact != text or facts.keys() != {"format", "step", "state_digest", "weights_sha256", "meta"}:
        raise EvidenceError(where, expected="a description that carries its own digest", found="altered bytes")
    if facts["format"] != FORMAT or facts["step"] != step:
        raise EvidenceError(
            where, expected=f"format {FORMAT}, step {step}", found=f"{facts['format']}, {facts['step']}"
        )
    return facts


# --- uploads -----------------------------------------------------------------------------------------------------


class Retention(StrEnum):
    """Which masked uploads stay after their step: with the step's evidence they replay its sums bit for bit
    (``crypto.evidence``); without them the evidence still shows who took part and signed what. ``LAST``: of the last
    step that opened a lane."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class UploadStore:
    """Staging of one step's masked lanes, one raw little-endian uint32 file per (silo, lane).

    Appending is cheap and unsynced; ``complete`` syncs and fixes the file. What is not complete after a crash is asked
    for again from ``staged`` words on.
    """

    def __init__(self, folder: RunFolder, step: int, retention: Retention | str = Retention.NONE) -> None:
        try:
            self.retention = Retention(retention)
        except ValueError:
            raise SpecError("upload retention", got=retention, want=f"one of {', '.join(Retention)}") from None
        self._run, self._step = folder, step
        self._all = folder.uploads_folder
        self._folder = folder.step_uploads(step)

    def append(self, silo: str, lane: str, chunk: np.ndarray) -> int:
        """Add ring words (uint32) behind those that are there; returns how many are staged now.

        Raises NoSpace with the file as it was before, LayoutMismatch for another type or a lane that is complete.
        """
        if chunk.dtype.kind != "u" or chunk.dtype.itemsize != 4 or chunk.ndim != 1:
            raise LayoutMismatch(
                f"A chunk of {silo}'s lane {lane!r} is {chunk.dtype}{list(chunk.shape)}, not flat uint32."
            )
        part = self._part(silo, lane)
        if self._whole(silo, lane).exists():
            raise LayoutMismatch(f"{silo} sent more of lane {lane!r}, which is complete.")
        before = self.staged(silo, lane)
        with _room(f"The masked lane {lane!r} of {silo}"):
            part.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, 4 * before)
                durable.append(fd, np.ascontiguousarray(chunk, dtype="<u4").view(np.uint8).data, sync=False)
            finally:
                os.close(fd)
        return before + chunk.size

    def staged(self, silo: str, lane: str) -> int:
        """Whole words on disk, complete or not."""
        for path in (self._whole(silo, lane), self._part(silo, lane)):
            if path.exists():
                return path.stat().st_size // 4
        return 0

    def complete(self, silo: str, lane: str, words: int | None = None) -> np.memmap[Any, Any]:
        """Make the lane durable and final; its words, read-only. Calling it again gives the same.

        ``words``: the length the plan gives; raises LayoutMismatch for another, or when nothing was staged.
        """
        found = self.staged(silo, lane)
        if found == 0 or (words is not None and found != words):
            raise LayoutMismatch(
                f"{silo} uploaded {found} words of lane {lane!r}; the plan says {words or 'at least 1'}."
            )
        whole, part = self._whole(silo, lane), self._part(silo, lane)
        if not whole.exists():
            with _room(f"The masked lane {lane!r} of {silo}"):
                durable.finish(part, whole, 4 * found)
                for folder in (self._folder, self._all, self._all.parent):
                    durable.sync_folder(folder)
        return np.memmap(whole, dtype="<u4", mode="r")

    def completed(self) -> dict[str, tuple[str, ...]]:
        """silo → its complete lanes, sorted: what a restarted aggregator has."""
        found: dict[str, list[str]] = {}
        for path in sorted(self._folder.glob("*/*.u32")):
            found.setdefault(path.parent.name, []).append(unquote(path.stem))
        return {silo: tuple(sorted(lanes)) for silo, lanes in found.items()}

    def drop(self, silo: str) -> None:
        """Forget a silo that is out of this step."""
        if (folder := self._folder / file_name("silo", silo)).is_dir():
            shutil.rmtree(folder)

    def retire(self, *, sums: bool) -> None:
        """The step is over: keep what the retention policy says and remove the rest.

        ``sums``: whether it opened the sum of a lane. A step that did not (slots only, all lanes shut, void) has
        nothing to replay: under ``last`` the uploads of the last step with sums stay, and its own go.
        """
        if self.retention is Retention.ALL or not self._all.is_dir():
            return
        for folder in sorted(self._all.iterdir()):
            if self.retention is Retention.NONE or (folder == self._folder) != sums:
                shutil.rmtree(folder)

    def _whole(self, silo: str, lane: str) -> Path:
        return self._run.upload_path(self._step, silo, lane)

    def _part(self, silo: str, lane: str) -> Path:
        return self._whole(silo, lane).with_suffix(".u32.part")


# --- evidence ----------------------------------------------------------------------------------------------------


def save_evidence(folder: RunFolder, step: int, evidence: bytes) -> None:
    """The signed messages of a released step (``crypto.evidence``), beside the ledger line that has their digest."""
    _replace(folder.evidence_path(step), evidence)


def load_evidence(folder: RunFolder, step: int, *, expect: str) -> StepEvidence:
    """The signed messages of a released step. ``expect``: SHA-256 of the file, hex. Raises EvidenceError."""
    where = f"{folder.run}/evidence/{folder.evidence_path(step).name}"
    try:
        data = folder.evidence_path(step).read_bytes()
    except OSError as missing:
        raise EvidenceError(where, expected=f"SHA-256 {expect}", found=missing.strerror) from missing
    if (found := sha256(data).hexdigest()) != expect:
        raise EvidenceError(where, expected=f"SHA-256 {expect}", found=found)
    try:
        return StepEvidence.from_bytes(data)
    except Malformed as bad:
        raise EvidenceError(where, expected="the signed messages of a step", found=bad.detail) from bad


# --- opened sums that some silo still lacks ------------------------------------------------------------------------


def keep_sums(folder: RunFolder, step: int, sums: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Write opened sums (uint32) beside the run; the same as read-only maps: no memory for a silo that is away."""
    place = folder.step_sums(step)
    kept = []
    for number, words in enumerate(sums):
        if not isinstance(words, np.memmap):
            path = place / f"{number}.u32"
            _replace(path, np.ascontiguousarray(words, dtype="<u4").tobytes())
            words = np.memmap(path, dtype="<u4", mode="r")
        kept.append(words)
    return tuple(kept)


def kept_sums(folder: RunFolder, step: int) -> tuple[np.ndarray, ...]:
    """The sums of a step that ``keep_sums`` wrote, in order; nothing where they were dropped or never were."""
    place = folder.step_sums(step)
    names = sorted(place.glob("*.u32"), key=lambda path: int(path.stem)) if place.is_dir() else []
    return tuple(np.memmap(path, dtype="<u4", mode="r") for path in names)


def drop_sums(folder: RunFolder, step: int) -> None:
    """Everyone has them."""
    shutil.rmtree(folder.step_sums(step), ignore_errors=True)


def drop_all_sums(folder: RunFolder) -> None:
    """The run is over."""
    shutil.rmtree(folder.sums_folder, ignore_errors=True)


# --- the predictor -----------------------------------------------------------------------------------------------


def stage_predictor(
    folder: RunFolder,
    source: Path,
    *,
    release: ReleaseManifest,
    requirements: Sequence[str],
    settings: str,
    shape: Sequence[int],
    dtype: str = "float32",
    modes: Sequence[str] = ("global", "cold"),
) -> dict[str, Any]:
    """Copy the file that published versions will run into the run folder; the ``predictor`` object of run-started.

    ``release``: the files of the release whose digest the data owners approve; it goes into the folder, too, so that
    whoever verifies the run can see that the predictor is one of them. ``requirements``: pip lines of the room that can
    run it. ``settings``: JSON text handed to it (method, params). ``shape``: one input row, without the row axis. The
    aggregator never imports what the file imports: it knows no method and has no torch. Raises SpecError for a file
    that is not the release's.
    """
    code = source.read_bytes()
    if (found := sha256(code).hexdigest()) != (want := release.files.get(PREDICTOR)):
        raise SpecError(
            source.name,
            got=f"SHA-256 {found}",
            want=f"{want}, as when this process started",
            remedy="The installed files were changed: restart the service.",
        )
    _replace(folder.predictor_path, code)
    _replace(folder.release_path, bytes(release))
    facts = {"file": PREDICTOR_FILE, "sha256": found, "requirements": list(requirements)}
    return facts | {"settings": settings, "shape": list(shape), "dtype": dtype, "modes": list(modes)}
