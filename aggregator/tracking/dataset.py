"""A silo's data set, as MLflow may know it: whose it is, and a salted commitment to it. Never a path, never a count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.data.dataset_source import DatasetSource

from crypto.errors import EvidenceError


class SiloSource(DatasetSource):  # type: ignore[misc]
    """Where a data set is: at a silo, which does not hand it out. Only its commitment is known here."""

    def __init__(self, silo: str, commitment: str) -> None:
        self.silo, self.commitment = silo, commitment

    @staticmethod
    def _get_source_type() -> str:
        return "consilium-silo"

    def load(self) -> Any:
        raise EvidenceError(
            f"data of {self.silo}", expected="a look at the data", found="a commitment to it",
            remedy="The data never leaves its silo. Ask the silo to disclose the salt to an auditor.",
        )  # fmt: skip

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> SiloSource:
        raise NotImplementedError("a silo's data is not found by an address")

    def to_dict(self) -> dict[str, Any]:
        return {"silo": self.silo, "commitment": self.commitment}

    @classmethod
    def from_dict(cls, source_dict: Mapping[str, Any]) -> SiloSource:
        return cls(source_dict["silo"], source_dict["commitment"])
