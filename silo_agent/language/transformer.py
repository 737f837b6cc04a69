"""A silo's copy of a base model: adapters on its dense parts, a personal expert grafted onto each layer.

Importing this module loads torch, transformers and peft, which takes seconds: the method does so when it first trains.
Everything pretrained stays frozen. What moves:

- the B of low-rank adapters W + (α/r) B·A (peft), on attention and shared expert, and on the routed experts if the job
  asks for it; A is fixed, so that the mean of the silos' B·A is the mean of their B, times A;
- a personal expert P and its gate (a, b) in each layer: y = mixture(h) + σ(a·h + b) P(h), with P a copy of the one
  pretrained expert that best approximates the whole mixture on this silo's own tokens.

In the installed transformers the experts of a layer are slices of one tensor, ``gate_up_proj[e]`` (2I, H) and
``down_proj[e]`` (H, I); peft adapts them by one B (out, r·E) of which expert e has the slice [:, :, e] as (out, r, E).

Shapes: S steps, B rows, T tokens of a window, N tokens in all, H hidden, I width of an expert, E experts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.utils import logging

from crypto.errors import SpecError
from silo_agent.language.shape import Shape

#: Where a graft's gate starts: σ(−3) ≈ 0.05, almost the pretrained layer.
CLOSED = -3.0

#: Rows at a time where nothing is trained.
_ROWS = 64

_DENSE = r".*\.(self_attn\.[qkvo]_proj|shared_expert\.(gate|up|down)_proj)"
_EXPERTS = {"gate_up_proj": "gate_up", "down_proj": "down"}

#: transformers has types in places, and wrong ones in others.
_class: Any = Qwen2MoeForCausalLM
_log: Any = logging
_log.disable_progress_bar()


class Graft(nn.Module):
    """A mixture layer with the silo's own expert beside it. ``open``: whether that expert contributes."""

    def __init__(self, mixture: nn.Module, hidden: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.mixture = mixture
        self.gate_up = nn.Parameter(torch.zeros(2 * width, hidden))
        self.down = nn.Parameter(torch.zeros(hidden, width))
        self.gate = nn.Parameter(torch.zeros(hidden + 1))
        self.activation = activation
        self.open = False

    def forward(self, h: Tensor) -> Tensor:
        y: Tensor = self.mixture(h)
        if not self.open:
            return y
        share = torch.sigmoid(h @ self.gate[:-1] + self.gate[-1]).unsqueeze(-1)
        return y + share * expert(h, self.gate_up, self.down, self.activation)


def expert(h: Tensor, gate_up: Tensor, down: Tensor, activation: nn.Module) -> Tensor:
    """One expert on its own: down · (act(gate · h) ⊙ up · h)."""
    gate, up = nn.functional.linear(h, gate_up).chunk(2, dim=-1)
    return nn.functional.linear(activation(gate) * up, down)


def load(folder: Path) -> Any:
    """The model of a folder that ``language.find`` has checked: from disk, from safetensors, no weight made up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about itself
        try:
            model, info = _class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                weights_only=True,
                dtype=torch.float32,
                attn_implementation="eager",
                experts_implementation="grouped_mm",
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as bad:
            raise SpecError(f"model {folder.name}", got=str(bad)[:200], want="weights that fit config.json") from bad
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            got = ", ".join(sorted(map(str, info[what]))[:3])
            raise SpecError(f"model {folder.name}: {what}", got=got, want="exactly the weights of config.json")
    return model.eval().requires_grad_(False)


def fresh(shape: Shape, top: int, seed: int, positions: int = 512) -> Any:
    """An untrained model of this shape, for demonstrations: ``top`` experts a token, random weights from the seed."""
    config = Qwen2MoeConfig(
        vocab_size=shape.classes,
        hidden_size=shape.hidden,
        intermediate_size=shape.expert_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        num_experts=shape.experts,
        num_experts_per_tok=min(top, shape.experts),
        moe_intermediate_size=shape.expert_width,
        shared_expert_intermediate_size=shape.shared_width,
        max_position_embeddings=positions,
        norm_topk_prob=True,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _class._from_config(config, attn_implementation="eager", experts_implementation="grouped_mm")


class LanguageModel:
    """One silo's model in memory. ``a``, ``b``: block name → view of the adapters' weights; writing to one is enough.

    ``grafts``: one a layer, or none.
    """

    def __init__(self, folder: Path, *, rank: int, alpha: float, experts: bool, personal: bool) -> None:
        torch.set_num_threads(1)
        base = load(folder)
        self.config = base.config
        adapters = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=_DENSE,
            target_parameters=[f"mlp.experts.{name}" for name in _EXPERTS] if experts else None,
            bias="none",
            lora_dropout=0.0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft and transformers, about each other
            self.net = cast(Any, get_peft_model(base, adapters).eval())
        self.a, self.b = dict(_views(self.net, "lora_A")), dict(_views(self.net, "lora_B"))
        self._layers: Any = self.net.base_model.model.model.layers
        self._moved = [p for name, p in self.net.named_parameters() if "lora_B" in name]
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_("lora_B" in name)
        self.grafts: list[Graft] = []
        for layer in self._layers if personal else ():
            inner = _innermost(layer.mlp.experts)
            layer.mlp = Graft(layer.mlp, self.config.hidden_size, self.config.moe_intermediate_size, inner.act_fn)
            self.grafts.append(layer.mlp)

    # --- weights in and out ------------------------------------------------------------------------------------------

    def adapt(self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
        """Set the adapters."""
        for views, arrays in ((self.a, a), (self.b, b)):
            for name, view in views.items():
                view.copy_(torch.from_numpy(np.array(arrays[name])))

    def adapters(self) -> dict[str, np.ndarray]:
        """B of every adapter, copied."""
        return {name: view.detach().numpy().copy() for name, view in self.b.items()}

    def graft(self, personal: Mapping[str, np.ndarray]) -> None:
        """Set the personal experts and their gates."""
        for name, parameter in self._personal():
            parameter.data.copy_(torch.from_numpy(personal[name]))

    def personal(self) -> dict[str, np.ndarray]:
        """The personal experts and gates, copied: ``layers.0.gate_up``, ``.down``, ``.gate``."""
        return {name: parameter.detach().numpy().copy() for name, parameter in self._personal()}

    def _personal(self) -> Iterator[tuple[str, nn.Parameter]]:
        for at, graft in enumerate(self.grafts):
            for part in ("gate_up", "down", "gate"):
                yield f"layers.{at}.{part}", getattr(graft, part)

    @contextmanager
    def personal_experts(self, *, active: bool) -> Iterator[None]:
        """Whether the personal experts take part, inside the context."""
        for graft in self.grafts:
            graft.open = active
        try:
            yield
        finally:
            for graft in self.grafts:
                graft.open = False

    # --- choosing the pretrained expert to copy ----------------------------------------------------------------------

    def errors(self, rows_BT: np.ndarray) -> list[np.ndarray]:
        """Layer → (E,) reconstruction error ‖y(h) − m(h)·E_j(h)‖² of each expert standing in for the routed mixture.

        y(h) = Σ over the router's top k of r_j E_j(h), m(h) = Σ r_j: the weight that is left to one expert. Means over
        tokens, relative to ‖y‖². Inputs are those of the frozen model, layer by layer.
        """
        seen: list[list[Tensor]] = [[] for _ in self._layers]
        hooks = [
            layer.mlp.register_forward_pre_hook(lambda _, given, at=at: seen[at].append(given[0]))
            for at, layer in enumerate(self._layers)
        ]
        try:
            with torch.no_grad(), self.personal_experts(active=False):
                for at in range(0, len(rows_BT), _ROWS):
                    self.net(torch.from_numpy(rows_BT[at : at + _ROWS]))
        finally:
            for hook in hooks:
                hook.remove()
        found = []
        for layer, inputs in zip(self._layers, seen, strict=True):
            mixture: Any = layer.mlp.mixture if isinstance(layer.mlp, Graft) else layer.mlp
            experts = _innermost(mixture.experts)
            with torch.no_grad():
                h_NH = torch.cat(inputs).reshape(-1, self.config.hidden_size)
                _, score_NK, chosen_NK = mixture.gate(h_NH)
                y_NH = experts(h_NH, chosen_NK, score_NK)
                mass_N1 = score_NK.sum(-1, keepdim=True)
                apart = [
                    (y_NH - mass_N1 * expert(h_NH, gate_up, down, experts.act_fn)).pow(2).sum(-1).mean()
                    for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True)
                ]
                found.append((torch.stack(apart) / y_NH.pow(2).sum(-1).mean().clamp_min(1e-12)).double().numpy())
        return found

    def seedling(self, chosen: list[int]) -> dict[str, np.ndarray]:
        """Personal experts to start from: the slices of these experts, gates almost closed."""
        made = {}
        for at, (layer, e) in enumerate(zip(self._layers, chosen, strict=True)):
            experts = _innermost(layer.mlp.mixture.experts)
            gate = np.zeros(self.config.hidden_size + 1, dtype=np.float32)
            gate[-1] = CLOSED
            made[f"layers.{at}.gate_up"] = experts.gate_up_proj[e].detach().numpy().copy()
            made[f"layers.{at}.down"] = experts.down_proj[e].detach().numpy().copy()
            made[f"layers.{at}.gate"] = gate
        return made

    # --- training and scoring ----------------------------------------------------------------------------------------

    def train(self, rows_BT: np.ndarray, order_SB: np.ndarray, *, rate: float, personal_rate: float) -> None:
        """Adam from rest on the mean negative log-likelihood of every next token, gradients clipped to norm 1.

        Adapters move at ``rate``; personal experts and gates at ``personal_rate``, if there are any.
        """
        grown = [parameter for _, parameter in self._personal()]
        groups = [{"params": self._moved, "lr": rate}] + ([{"params": grown, "lr": personal_rate}] if grown else [])
        descent = torch.optim.Adam(groups)
        rows = torch.from_numpy(rows_BT)
        with self.personal_experts(active=True):
            for picked in torch.from_numpy(order_SB):
                loss: Any = cross_entropy(self.net(rows[picked][:, :-1]).logits, rows[picked]).mean()
                descent.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_([*self._moved, *grown], 1.0)
                descent.step()
        for parameter in (*self._moved, *grown):
            parameter.grad = None

    def scores(self, rows_BT: np.ndarray, *, personal: bool) -> tuple[np.ndarray, np.ndarray]:
        """(B, T−1) negative log-likelihoods of each next token, nats, float64; (B,) whether the last was the guess."""
        losses, right = [], []
        with torch.no_grad(), self.personal_experts(active=personal):
            for at in range(0, len(rows_BT), _ROWS):
                rows = torch.from_numpy(rows_BT[at : at + _ROWS])
                logits_BTC = self.net(rows[:, :-1]).logits
                losses.append(cross_entropy(logits_BTC, rows).double().numpy())
                right.append((logits_BTC[:, -1].argmax(-1) == rows[:, -1]).numpy())
        return np.concatenate(losses), np.concatenate(right)

    def next_token(self, rows_BT: np.ndarray, *, personal: bool) -> np.ndarray:
        """p_BC of the token after each row, float64."""
        found = []
        with torch.no_grad(), self.personal_experts(active=personal):
            for at in range(0, len(rows_BT), _ROWS):
                logits_BC = self.net(torch.from_numpy(rows_BT[at : at + _ROWS]), logits_to_keep=1).logits[:, -1]
                found.append(logits_BC.double().softmax(-1).numpy())
        return np.concatenate(found)


def cross_entropy(logits_BTC: Tensor, rows_BT: Tensor) -> Tensor:
    """Of every token but the first, from the logits of those before it."""
    losses: Tensor = nn.functional.cross_entropy(logits_BTC.transpose(1, 2), rows_BT[:, 1:], reduction="none")
    return losses


def _innermost(module: nn.Module) -> Any:
    """The experts themselves, under the wrappers of peft."""
    while isinstance(module, ParamWrapper):
        module = module.get_base_layer()
    return module


def _views(net: nn.Module, factor: str) -> Iterator[tuple[str, Tensor]]:
    """Block name → view of one factor: of a module whole, of the experts slice by slice."""
    for name, module in net.named_modules():
        if not hasattr(module, factor) or not getattr(module, factor):
            continue
        weight = getattr(module, factor)["default"].weight.data
        place = name.removeprefix("base_model.model.model.").removesuffix(".base_layer")
        if not isinstance(module, ParamWrapper):
            yield place.replace(".mlp.", "."), weight
            continue
        count = module.num_experts
        layer = ".".join(place.split(".")[:2])
        sliced = (
            weight.view(count, -1, weight.shape[1])
            if factor == "lora_A"
            else weight.view(weight.shape[0], -1, count).permute(2, 0, 1)
        )
        for e in range(count):
            yield f"{layer}.experts.{_EXPERTS[module.parameter_name]}.{e}", sliced[e]
