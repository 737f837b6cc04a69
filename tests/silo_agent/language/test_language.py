"""Base models: what is loaded, what is refused by name, and that a digest is the model's, whoever wrote its files."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.errors import DataRefused, SpecError
from silo_agent.language import base_model
from silo_agent.language.shape import Shape
from tests.texts import SHAPE, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the class, trained on the spot."""
    return train(tmp_path_factory.mktemp("models"), seed=7, steps=10)


@pytest.fixture
def copied(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def configured(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_model_is_found_by_its_digest(base: Path) -> None:
    assert base_model.digest(base) == base.name and len(base.name) == 64
    assert base_model.find(base.parent, base.name) == base
    assert Shape.of(base_model.read(base)) == SHAPE


def test_the_digest_is_of_configuration_and_tensors_and_not_of_files(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = base_model.digest(copied)
    configured(copied, transformers_version="0", _name_or_path="elsewhere")
    (copied / "README.md").write_text("a model")
    tensors = load_file(copied / "model.safetensors")
    names = sorted(tensors)
    for at, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, copied / f"model-{at}.safetensors")
    (copied / "model.safetensors").unlink()
    assert base_model.digest(copied) == before


@pytest.mark.parametrize("part", ["mlp.experts.3.up_proj.weight", "mlp.gate.weight", "self_attn.q_proj.weight"])
def test_another_expert_router_or_dense_weight_is_another_model(copied: Path, part: str) -> None:
    before = base_model.digest(copied)

    def nudge(tensors: dict[str, Any]) -> None:
        tensors[f"model.layers.1.{part}"][0, 0] += 1e-3

    weights(copied, nudge)
    assert base_model.digest(copied) != before


def test_another_configuration_is_another_model(copied: Path) -> None:
    before = base_model.digest(copied)
    configured(copied, rms_norm_eps=1e-5)
    assert base_model.digest(copied) != before


def test_a_base_of_another_digest_is_refused(base: Path, tmp_path: Path) -> None:
    other = "0" * 64
    shutil.copytree(base, tmp_path / other)
    with pytest.raises(SpecError) as refused:
        base_model.find(tmp_path, other)
    assert refused.value.path == "params.base" and refused.value.got == base.name


def test_a_base_that_is_missing_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"no folder.*Put the base model there"):
        base_model.find(tmp_path, "1" * 64)
    monkeypatch.delenv(base_model.MODELS_VAR, raising=False)
    with pytest.raises(SpecError, match=base_model.MODELS_VAR):
        base_model.find(None, "1" * 64)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def _config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: configured(folder, **changes)


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": [0.0]}))


def _tensor(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda folder: weights(folder, change)


def _zero_expert(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.mlp.experts.2.down_proj.weight"].zero_()


def _all_zero(tensors: dict[str, Any]) -> None:
    for tensor in tensors.values():
        tensor.zero_()


def _nan(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"][0] = float("nan")


def _twice(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "again.safetensors")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no folder"),
        (_remove("config.json"), "no readable config.json"),
        (_write("config.json", b"{"), "no readable config.json"),
        (_write("config.json", b"[]"), "architectures"),
        (_remove("model.safetensors"), r"no \*.safetensors"),
        (_write("model.safetensors", b"no tensors"), "readable safetensors"),
        (_pickled, "pytorch_model.bin.*safetensors alone.*can run code"),
        (_write("modeling.py", b"raise SystemExit"), "modeling.py.*safetensors alone"),
        (_write("adapter_config.json", b"{}"), "not an adapter"),
        (_config(model_type="llama"), "architectures"),
        (_config(architectures=["Qwen2MoeForSequenceClassification"]), "architectures.*Qwen2MoeForCausalLM"),
        (_config(num_experts=0), "experts in every layer.*nothing to graft"),
        (_config(mlp_only_layers=[1]), "layers without experts"),
        (_config(decoder_sparse_step=2), "layers without experts"),
        (_config(auto_map={"AutoModel": "modeling.Own"}), "auto_map"),
        (_config(quantization_config={"bits": 4}), "quantization_config"),
        (_tensor(_zero_expert), "experts.2.down_proj.weight.*zeros alone"),
        (_tensor(_all_zero), "zeros alone.*trained weights"),
        (_tensor(_nan), "model.norm.weight.*NaN"),
        (_twice, "two files with it"),
    ],
)
def test_what_is_no_base_model_is_refused_by_name(copied: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(copied)
    with pytest.raises(SpecError, match=said):
        base_model.digest(copied)


def test_a_size_that_is_no_number_is_refused(base: Path) -> None:
    with pytest.raises(SpecError, match="hidden_size"):
        Shape.of(base_model.read(base) | {"hidden_size": "16"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("model.layers.0.mlp.experts.2.up_proj.weight"), "weights that fit|missing_keys"),
        (lambda tensors: tensors.pop("model.norm.weight"), "missing_keys.*model.norm.weight"),
        (lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone()), "unexpected_keys.*extra"),
        (lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"][:9].clone()}), "fit|mismatched"),
    ],
)
def test_weights_are_never_made_up(copied: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    """from_pretrained fills what a folder lacks with random numbers, and says so in a log."""
    weights(copied, change)
    with pytest.raises(SpecError, match=said):
        base_model.library().load(copied)


def test_models_are_loaded_without_network_pickle_or_foreign_code(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = base_model.library()
    asked: dict[str, object] = {}
    real = loaded._class.from_pretrained

    def watched(folder: Path, **how: object) -> object:
        asked.update(how)
        return real(folder, **how)

    monkeypatch.setattr(loaded, "_class", type("Watched", (), {"from_pretrained": staticmethod(watched)}))
    loaded.load(base)
    assert asked["local_files_only"] is asked["use_safetensors"] is asked["weights_only"] is True
    assert asked["trust_remote_code"] is False
    import os

    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_without_the_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "silo_agent.language.transformer", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SpecError, match=r"peft.*\[lm\]"):
        base_model.library()


@pytest.mark.parametrize("wrong", [[[0.5, 1.0]], [[-1.0, 0.0]], [[0.0, 27.0]]])
def test_values_that_are_no_tokens_are_refused(wrong: list[list[float]]) -> None:
    with pytest.raises(DataRefused, match="token ids from 0 to 26"):
        base_model.tokens("x", np.array(wrong, dtype=np.float32), 27)
    assert base_model.tokens("x", np.array([[0.0, 26.0]], dtype=np.float32), 27).dtype == np.int64


def test_windows_are_a_text_cut_in_rows() -> None:
    x, y = base_model.windows(np.arange(10), 3)
    assert x.tolist() == [[0, 1, 2], [4, 5, 6]] and y.tolist() == [3, 7]
    x, y = base_model.windows(np.arange(6), 3, stride=1)
    assert x.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]] and y.tolist() == [3, 4, 5]


def test_the_command_prints_what_a_job_needs(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["language", str(base)])
    base_model.main()
    lines = dict(line.split(" = ") for line in capsys.readouterr().out.splitlines())
    assert lines.pop("base") == f'"{base.name}"'
    assert {name: int(value) for name, value in lines.items()} == asdict(SHAPE)
    assert replace(SHAPE) == SHAPE
