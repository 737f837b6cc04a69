"""The demonstration's base model: made for methods that need one, laid in every silo's home, and named in the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypto.errors import SpecError
from jobs.demo import language_base_model
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from silo_agent.language.base_model import MODELS, NeedsBase, digest
from silo_agent.methods.flex import FLEx

pytestmark = pytest.mark.slow


def test_only_methods_that_need_a_base_get_one(tmp_path: Path) -> None:
    from silo_agent.methods.fedavg import FedAvg

    assert issubclass(FLEx, NeedsBase) and not issubclass(FedAvg, NeedsBase)
    spec = JobSpec.load("fedavg-digits")
    federation = Federation(tmp_path, "test", ("silo-1",))
    assert language_base_model.ground(spec, federation) is spec
    named = JobSpec.load("flex-language").with_params(base="0" * 64)
    assert language_base_model.ground(named, federation) is named and not (tmp_path / MODELS).exists()


def test_the_demonstration_grounds_its_job(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "test", ("silo-1", "silo-2"))
    for home in federation.homes.values():
        home.mkdir(parents=True)
    spec = JobSpec.load("flex-language").with_params(hidden=16, expert_width=16, shared_width=8, rank=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_base_model, "STEPS", 2)
        grounded = language_base_model.ground(spec, federation)
    found = str(grounded.params["base"])
    for home in federation.homes.values():
        assert digest(home / MODELS / found) == found
        one = FLEx(grounded.params, home.name)
        one.use(home / MODELS)


def test_libraries_that_are_missing_are_named_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise SpecError("peft", got="not installed", want="the libraries of language models")

    monkeypatch.setattr(language_base_model.base_model, "library", missing)
    with pytest.raises(SpecError, match="peft"):
        language_base_model.check_libraries(JobSpec.load("flex-language"))
    language_base_model.check_libraries(JobSpec.load("fedavg-digits"))
    language_base_model.check_libraries(JobSpec.load("flex-language").with_params(base="0" * 64))
