"""Pretrained language models that federations start from: where they are stored, what is checked before use.

A base model is a folder as ``save_pretrained`` writes it, of transformers' Qwen2-MoE class, with a mixture of experts
in every layer. It never travels: each silo has its own copy under ``models/<digest>`` of its home, and the job names
the digest. The digest is over the configuration and every tensor, experts and routers among them, so silos with equal
digests have the same frozen model, however it was cut into files. Weights are read from safetensors alone; nothing in
the folder is ever executed, nothing is fetched.

``python -m silo_agent.language.base_model FOLDER`` prints the digest of a model and the job parameters that go with it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from crypto.encoding import Writer
from crypto.errors import DataRefused, SpecError
from silo_agent.language.shape import Shape

#: Environment variable with the folder of base models, for loading a published version outside a silo.
MODELS_VAR = "CONSILIUM_MODELS"

#: The folder of base models in a home.
MODELS = "models"

KIND, CLASS = "qwen2_moe", "Qwen2MoeForCausalLM"

#: Files that could run code when they are loaded.
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".npy", ".npz", ".py"})

#: Configuration entries about the file's writer, not about the model.
_INCIDENTAL = frozenset({"_name_or_path", "transformers_version"})
#: Entries that would have another model loaded, or code of the folder's own.
_FOREIGN = ("auto_map", "quantization_config")

_BIGGEST_CONFIG = 1 << 20
_FOLDER = "A folder as transformers' save_pretrained writes it: config.json and safetensors files."

T = TypeVar("T")


@runtime_checkable
class NeedsBase(Protocol):
    """A method that starts from a base model."""

    def use(self, models: Path) -> None:
        """Take the job's base model from this folder. Raises SpecError where it is missing, unfit or another one."""


def with_base_model(method: T, models: Path) -> T:
    """The method, with its base model from this folder if it needs one. Raises SpecError as ``NeedsBase.use`` does."""
    if isinstance(method, NeedsBase):
        method.use(models)
    return method


def read(folder: Path) -> dict[str, Any]:
    """The configuration of a base model, after checking that the folder is one we load. Raises SpecError."""
    if not folder.is_dir():
        raise SpecError(f"model {folder.name}", got="no folder", want="a base model", remedy=_FOLDER)
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            raise SpecError(
                f"model {folder.name}",
                got=path.name,
                want="weights in safetensors alone",
                remedy="Such files can run code. Convert them with save_pretrained where you trust them.",
            )
    if (folder / "adapter_config.json").exists():
        raise SpecError(f"model {folder.name}", got="adapter_config.json", want="a base model, not an adapter of one")
    try:
        config = json.loads((folder / "config.json").read_bytes()[:_BIGGEST_CONFIG])
    except (OSError, ValueError) as bad:
        raise SpecError(
            f"model {folder.name}", got="no readable config.json", want="a base model", remedy=_FOLDER
        ) from bad
    if not isinstance(config, dict) or config.get("model_type") != KIND or config.get("architectures") != [CLASS]:
        got = config.get("architectures") if isinstance(config, dict) else config
        raise SpecError(f"model {folder.name}: architectures", got=got, want=f"[{CLASS!r}]")
    for name in _FOREIGN:
        if name in config:
            raise SpecError(f"model {folder.name}: {name}", got=config[name], want="none")
    sparse = not config.get("mlp_only_layers") and config.get("decoder_sparse_step", 1) == 1
    if not sparse or not config.get("num_experts"):
        raise SpecError(
            f"model {folder.name}: num_experts",
            got=config.get("num_experts") if sparse else "layers without experts",
            want="experts in every layer",
            remedy="Without experts there is nothing to graft: use fedavg.",
        )
    if not any(folder.glob("*.safetensors")):
        raise SpecError(f"model {folder.name}", got="no *.safetensors", want="a base model", remedy=_FOLDER)
    return config


def digest(folder: Path) -> str:
    """SHA-256 over configuration and tensors, hex; and no tensor may be all zero, NaN or infinite: SpecError."""
    config = {key: value for key, value in read(folder).items() if key not in _INCIDENTAL}
    out = sha256(bytes(Writer().text("consilium/1/base-model").text(json.dumps(config, sort_keys=True))))
    for name, tensor in _tensors(folder):
        data = tensor.contiguous()
        if not data.isfinite().all():
            raise SpecError(f"model {folder.name}: {name}", got="NaN or infinite values", want="finite weights")
        if data.ndim > 1 and not data.any():
            raise SpecError(f"model {folder.name}: {name}", got="zeros alone", want="trained weights")
        out.update(bytes(Writer().text(name).text(str(data.dtype)).each(data.shape, Writer.u32)))
        out.update(data.view(_bytes_type()).numpy().data)
    return out.hexdigest()


def find(models: Path | None, wanted: str) -> Path:
    """The folder of the base model with this digest. Raises SpecError if it is not there or is another model.

    ``models``: a silo's ``models``, or None for the folder that CONSILIUM_MODELS names.
    """
    if models is None:
        if not (named := os.environ.get(MODELS_VAR)):
            raise SpecError(MODELS_VAR, got=None, want="the folder with the base models", remedy=_remedy(wanted))
        models = Path(named)
    folder = models / wanted
    if not folder.is_dir():
        raise SpecError(f"model {wanted}", got="no folder", want="the job's base model", remedy=_remedy(wanted))
    if (found := digest(folder)) != wanted:
        raise SpecError(
            "params.base", got=found, want=f"{wanted}, the job's base model", remedy="Get the model that the job names."
        )
    return folder


def library() -> ModuleType:
    """``silo_agent.language.transformer``, which loads torch, transformers and peft. SpecError where they are
    missing."""
    try:
        return import_module("silo_agent.language.transformer")
    except ModuleNotFoundError as missing:
        raise SpecError(
            str(missing.name),
            got="not installed",
            want="the libraries of language models",
            remedy="Install our wheel by its path, with the extra lm: pip install './WHEEL[lm]'.",
        ) from missing


def tokens(name: str, x: np.ndarray, vocabulary: int) -> np.ndarray:
    """Token ids as int64 of the same shape; DataRefused for what is no id. ``name``: whose, for the message."""
    ids: np.ndarray = np.asarray(x).astype(np.int64)
    if (ids != x).any() or ids.min(initial=0) < 0 or ids.max(initial=0) >= vocabulary:
        raise DataRefused(
            f"{name} has values that are no token ids from 0 to {vocabulary - 1}.",
            remedy="Encode the texts with the tokenizer of the job's base model.",
        )
    return ids


def windows(ids: np.ndarray, length: int, stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A text's token ids → rows of a data set: x (rows, length), and y (rows,), the token after each window."""
    starts = np.arange(0, len(ids) - length, stride or length + 1)
    rows: np.ndarray = ids[starts[:, None] + np.arange(length + 1)]
    return rows[:, :-1], rows[:, -1]


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of all files together, by name. A name that two files have, or a damaged file: SpecError."""
    from safetensors import SafetensorError, safe_open

    where: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    if where.setdefault(name, path) != path:
                        raise SpecError(f"model {folder.name}: {name}", got="two files with it", want="one")
        for name in sorted(where):
            with safe_open(where[name], framework="pt") as file:
                yield name, file.get_tensor(name)
    except SafetensorError as bad:
        raise SpecError(f"model {folder.name}", got=str(bad), want="readable safetensors", remedy=_FOLDER) from bad


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def _remedy(wanted: str) -> str:
    tool = "`python -m silo_agent.language.base_model FOLDER` prints names"
    return f"Put the base model there, in a folder named {wanted}; {tool}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(f'base = "{digest(args.folder)}"')
    for name, value in asdict(Shape.of(read(args.folder))).items():
        print(f"{name} = {value}")


if __name__ == "__main__":
    main()
