"""Classifiers of Hugging Face's transformers, from a configuration: random weights, no download, no code of a hub.

    model = "hf-image"                      # or hf-text
    model-architecture = "resnet"           # a model_type of transformers
    model-config = '{"depths": [2, 2]}'     # JSON: entries of its configuration
    model-lora = 8                          # rank of LoRA adapters (peft); 0: none, all parameters are trained
    model-lora-targets = "q_proj v_proj"    # the layers that get one; all linear ones if left out
    model-dtype = "bfloat16"                # of the weights; float32 if left out

With adapters, these and the classifier are shared and all else is frozen. Rows of ``hf-text`` are token ids, as floats
like all rows; ids up to 2^24 are exact.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import transformers

from silo_agent.models.description import Model, Role

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Every linear layer but the classifier gets an adapter.
ALL = "all-linear"

#: Bins of a text's view: how often ids of each remainder occur.
BINS = 64


def image(
    shape: tuple[int, ...],
    classes: int,
    *,
    architecture: str,
    config: str = "{}",
    lora: int = 0,
    lora_targets: str = ALL,
    dtype: str = "float32",
) -> Model:
    """``shape``: (channels, side, side)."""
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"pictures of shape {shape}: channels and two equal sides are wanted")
    settings = {"num_channels": shape[0], "image_size": shape[1]}
    module = _made(transformers.AutoModelForImageClassification, architecture, classes, config, settings, dtype)
    kind = DTYPES[dtype]
    return _adapted(module, lora, lora_targets, forward=lambda module, x: module(pixel_values=x.to(kind)).logits)


def text(
    shape: tuple[int, ...],
    classes: int,
    *,
    architecture: str,
    config: str = "{}",
    lora: int = 0,
    lora_targets: str = ALL,
    dtype: str = "float32",
) -> Model:
    """``shape``: (longest text,). Rows are token ids, filled up with the configuration's pad_token_id."""
    if len(shape) != 1:
        raise ValueError(f"texts of shape {shape}: one side is wanted, the longest text's tokens")
    module = _made(transformers.AutoModelForSequenceClassification, architecture, classes, config, {}, dtype)
    pad = module.config.pad_token_id or 0

    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        ids = x.long()
        logits: torch.Tensor = module(input_ids=ids, attention_mask=(ids != pad).long()).logits
        return logits

    return _adapted(module, lora, lora_targets, forward=forward, view=occurrences)


def occurrences(x: np.ndarray) -> np.ndarray:
    """(rows, ``BINS``) float64: the share of each text's ids with each remainder."""
    bins = np.asarray(x, dtype=np.int64) % BINS
    return np.stack([(bins == at).mean(axis=1) for at in range(BINS)], axis=1)


def _made(auto: Any, architecture: str, classes: int, config: str, settings: dict[str, int], dtype: str) -> Any:
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: one of {', '.join(DTYPES)} is wanted")
    entries = json.loads(config)
    if not isinstance(entries, dict):
        raise ValueError(f"config {config!r}: a JSON object is wanted")
    described = transformers.AutoConfig.for_model(architecture, **(settings | entries | {"num_labels": classes}))
    return auto.from_config(described).to(DTYPES[dtype])


def _adapted(module: Any, rank: int, targets: str, **model: Any) -> Model:
    if not rank:
        return Model(module=module, **model)
    import peft

    layers = ALL if targets == ALL else targets.split(" ")
    adapted = peft.get_peft_model(module, peft.LoraConfig(r=rank, target_modules=layers, lora_dropout=0.0))
    roles = {"*lora_*": Role.SHARED.value, "*classifier*": Role.SHARED.value, "*": Role.FROZEN.value}
    return Model(module=adapted, roles=roles, **model)
