"""The methods that a job may name together with ``[privacy]``, and what they add to a method."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final, Protocol, cast, runtime_checkable

from crypto.errors import SpecError
from crypto.plan import Plan, Step
from silo_agent.methods import Limits, Method
from silo_agent.privacy.accountant import Release
from silo_agent.privacy.terms import Privacy


@runtime_checkable
class Releasing(Protocol):
    """A method whose contributions have noise."""

    def releases(self, step: Step) -> tuple[Release, ...]:
        """What one new contribution to a step costs; none for a step that opens no noised sum."""


class PrivateMethod(Method, Releasing, Protocol):
    """A method of a private job."""

    def __init__(self, params: Mapping[str, object], silo: str = "", *, privacy: Privacy) -> None:
        """Raises SpecError for parameters that no private job can have."""

    @classmethod
    def private_plan(cls, params: Mapping[str, object], limits: Limits, privacy: Privacy) -> Plan:
        """Pure, as ``Method.plan``; checked by ``privacy.sensitivity.check_private``. Raises SpecError."""


PRIVATE: Final[Mapping[str, str]] = {"fedavg": "silo_agent.methods.private_fedavg:PrivateFedAvg"}


def check_can(name: str, where: str) -> None:
    """Raise SpecError for a method that can't keep a promise of privacy yet."""
    if name not in PRIVATE:
        raise SpecError(
            f"{where}.privacy",
            got=f"method {name}",
            want=f"a method that can add noise: {', '.join(PRIVATE)}",
            remedy="Take such a method, or leave [privacy] out: then the job promises no differential privacy.",
        )


def private(name: str) -> type[PrivateMethod]:
    """The class of a private method. Raises SpecError for one that is not in the registry."""
    check_can(name, "job")
    module, _, attribute = PRIVATE[name].partition(":")
    return cast("type[PrivateMethod]", getattr(import_module(module), attribute))
