"""The sizes of a language model that a plan needs. No torch: every silo recomputes the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crypto.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes that a plan needs of a model, by the names that job parameters have."""

    classes: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    experts: int
    expert_width: int
    shared_width: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Raises SpecError for a configuration that lacks one."""
        names = {
            "classes": "vocab_size",
            "hidden": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "key_value_heads": "num_key_value_heads",
            "experts": "num_experts",
            "expert_width": "moe_intermediate_size",
            "shared_width": "shared_expert_intermediate_size",
        }
        for name in names.values():
            if not isinstance(config.get(name), int) or config[name] < 1:
                raise SpecError(f"config.json {name}", got=config.get(name), want="a positive integer")
        return cls(**{ours: config[theirs] for ours, theirs in names.items()})
