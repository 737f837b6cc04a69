"""A module whose only argument is the batch, for ``torch.func.functional_call``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Whole(nn.Module):
    """The names of ``module`` begin with "module." in here."""

    def __init__(self, module: nn.Module, answer: Callable[[Any, torch.Tensor], torch.Tensor] | None) -> None:
        """``answer``: (module, x) → logits; None: the module's own forward."""
        super().__init__()
        self.module = module
        self._answer = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module(x) if self._answer is None else self._answer(self.module, x)
        return logits
