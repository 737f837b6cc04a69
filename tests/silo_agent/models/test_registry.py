"""A job's model is found, made offline, checked and at its named start, or refused by name before any step."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crypto.errors import SpecError
from silo_agent.models import registry
from silo_agent.models.offline import offline
from tests.models import params

pytestmark = pytest.mark.slow


def refused(given: dict[str, object]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        registry.experts_of(registry.split(given)[0], 7)
    return caught.value


def faulty(model: str, **more: object) -> SpecError:
    """The refusal of a model that is refused whatever its start."""
    with pytest.raises(SpecError) as caught:
        params(model, "4", 3, **more)
    return caught.value


def test_a_job_names_the_start_and_another_one_is_refused() -> None:
    good = params("zoo-linear", "4", 3)
    assert registry.experts_of(registry.split(good)[0], 7).shape == (4,)
    for change in ({"start": "0" * 64}, {"start": 7}):
        error = refused(good | change)
        assert error.path == "params.start" and str(good["start"]) in error.want and "every" not in error.remedy
    with pytest.raises(SpecError, match=r"params\.start"):
        registry.experts_of(registry.split(good)[0], 8)  # another seed, another start
    assert params("zoo-linear", "4", 3) == good


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"shape": "4 0"}, "params.shape"),
        ({"shape": "4  4"}, "params.shape"),
        ({"shape": 4}, "params.shape"),
        ({"shape": "99999 99999"}, "params.shape"),
        ({"classes": 1}, "params.classes"),
        ({"classes": True}, "params.classes"),
        ({"model": "zoo-none"}, "params.model"),
        ({"model": 3}, "params.model"),
        ({"shared": ""}, "params.shared"),
        ({"shared": "*", "local": "*"}, "params.local"),
    ],
)
def test_what_is_no_model_is_refused_by_name(change: dict[str, object], path: str) -> None:
    assert refused(params("zoo-linear", "4", 3) | change).path == path


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("zoo-linear", {"model_task": "survival"}, "Other tasks are yet to come"),
        ("zoo-linear", {"model_task": "segmentation"}, r"params\.task: got 'multiclass', want segmentation"),
        ("zoo-linear", {"task": "segmentation"}, r"params\.task: got 'segmentation', want multiclass"),
        ("zoo-linear", {"task": "survival"}, "Other tasks are yet to come"),
        ("zoo-linear", {"model_task": "magic"}, "want one of binary, multiclass"),
        ("zoo-linear", {"model_task": "binary"}, "got 3, want 2: the model's task is binary"),
        ("zoo-linear", {"model_answers": 5}, r"an answer of shape \(2, 5\) to 2 rows"),
        ("zoo-linear", {"model_role": "public"}, "got 'public', want one of shared, expert, local, frozen"),
        ("zoo-linear", {"model_depth": 2}, "params.model-depth"),
        ("zoo-linear", {"model_role": "frozen"}, "only frozen parameters"),
        ("zoo-loading", {}, "params.model-folder: got None"),
        ("zoo-loading", {"model_folder": "/nowhere"}, "FileNotFoundError"),
        ("zoo-lacking", {}, "lacks the module monai_that_is_not_installed"),
        ("cnn", {}, "a cnn takes channels, height, width"),
    ],
)
def test_a_faulty_model_is_refused_and_the_error_says_why(model: str, more: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        params(model, "4", 3, **more)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.EXTRAS, "monai_that_is_not_installed", "imaging")  # type: ignore[arg-type]
    error = faulty("zoo-lacking")
    assert "[imaging]" in error.want and "[imaging]" in error.remedy


@pytest.mark.parametrize("more", [{}, {"model_quietly": True}, {"model_thread": True}])
def test_a_factory_that_downloads_is_refused_by_the_host_it_wants(more: dict[str, object]) -> None:
    error = faulty("zoo-downloading", **more)
    assert error.path == "params.model" and "to reach models.example.org" in str(error.got)
    with socket.create_server(("127.0.0.1", 0)) as here:  # nothing is refused afterwards, or to other threads
        socket.create_connection(here.getsockname()).close()


def test_a_factory_that_starts_a_program_is_refused() -> None:
    assert "to start curl" in str(faulty("zoo-starting").got)


def test_other_threads_may_use_the_network_meanwhile() -> None:
    made: list[str] = []

    def connect(address: tuple[str, int]) -> None:
        socket.create_connection(address).close()
        made.append("connected")

    begin = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as here:
        other = threading.Thread(target=lambda: (begin.wait(10), connect(here.getsockname())))
        other.start()
        with offline("test"):
            begin.set()
            other.join()
    assert made == ["connected"]


def test_a_start_of_another_architecture_or_with_a_missing_key_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "start.safetensors")
    assert params("zoo-loading", "4", 3, model_folder=str(tmp_path))["start"]
    save_file({"weight": torch.zeros(3, 4)}, tmp_path / "start.safetensors")
    assert "Error(s) in loading state_dict" in str(faulty("zoo-loading", model_folder=f"{tmp_path}/").got)
    save_file({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path / "start.safetensors")
    assert "RuntimeError" in str(faulty("zoo-loading", model_folder=f"{tmp_path}//").got)
