"""Networks of transformers, peft and MONAI: made offline, trained, and what would leave."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from crypto.errors import SpecError
from silo_agent.methods import Limits, method
from silo_agent.models import registry
from silo_agent.models.module_experts import ModuleExperts
from silo_agent.training import Descent, batches, cross_entropy
from tests.models import blank, params

pytestmark = pytest.mark.slow

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def learns(given: dict[str, object], x: np.ndarray) -> ModuleExperts:
    """A step moves every part, and nothing but finite numbers comes out."""
    of = registry.experts_of(registry.split(given)[0], 7)
    y = np.arange(len(x)) % 3
    order = batches(len(x), 2, 8, np.random.default_rng(0))
    descent = Descent(learning_rate=0.05, momentum=0.9)
    (model,) = of.train([blank(of.parts)], x, y, order, descent, cross_entropy, seed=1)
    assert sum(bool(array.any()) for array in model.values()) > 0.8 * len(model)
    np.testing.assert_allclose(of.predict([model], x)[0].sum(axis=1), 1.0, atol=1e-4)
    return of


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, *shape)).astype(np.float32)


def test_a_residual_network_with_long_names_keeps_its_statistics() -> None:
    given = params("hf-image", "1 32 32", 3, model_architecture="resnet", model_config=json.dumps(RESNET))
    of = learns(given, pictures(1, 32, 32))
    assert of.at_home and max(len(part.name) for part in of.parts) > 60
    plan = method("fedavg").plan(given, Limits(n_max=8))
    assert b"running" not in bytes(plan) and b"num_batches" not in bytes(plan)


def test_texts_are_ids_and_have_a_view() -> None:
    ids = np.random.default_rng(2).integers(1, 50, size=(16, 12)).astype(np.float32)
    ids[:, 9:] = 0
    config = BERT | {"pad_token_id": 0}
    of = learns(params("hf-text", "12", 3, model_architecture="bert", model_config=json.dumps(config)), ids)
    seen = of.view(ids)
    assert seen.shape == (16, 64) and np.allclose(seen.sum(axis=1), 1.0) and np.allclose(seen[:, 0], 0.25)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, of transformers
def test_of_adapters_in_bfloat16_on_a_frozen_base_only_they_and_the_head_leave() -> None:
    given = params(
        "hf-image", "1 16 16", 3, model_architecture="vit", model_config=json.dumps(VIT), model_lora=2,
        model_lora_targets="q_proj v_proj", model_dtype="bfloat16",
    )  # fmt: skip
    of = learns(given, pictures(1, 16, 16))
    assert all("lora_" in part.name or "classifier" in part.name for part in of.parts)
    assert not any("lora_" in part.name for part in of.frozen) and len(of.frozen) > len(of.parts)
    plan = method("fedavg").plan(given, Limits(n_max=8))
    assert {block.name for block in plan.blocks} == {f"model.{part.code}" for part in of.parts}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_architecture": "no-such-net"}, "no-such-net"),
        ({"model_architecture": "vit", "model_config": "[1]"}, "a JSON object is wanted"),
        ({"model_architecture": "vit", "model_config": "{"}, "JSONDecodeError"),
        ({"model_architecture": "vit", "model_dtype": "int8"}, "one of float32"),
        ({}, "params.model-architecture"),
    ],
)
def test_what_transformers_cannot_make_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        params("hf-image", "1 16 16", 3, **change)


def test_networks_of_monai_train_where_it_is_installed_and_its_extra_is_named_elsewhere() -> None:
    """It is not among the packages of the test suite."""
    for network in ("efficientnet-b0", "resnet18"):
        if find_spec("monai") is None:
            with pytest.raises(SpecError, match=r"lacks the module monai.*\[monai\]"):
                params("monai", "1 32 32", 3, model_network=network)
        else:
            assert learns(params("monai", "1 32 32", 3, model_network=network), pictures(1, 32, 32)).at_home
