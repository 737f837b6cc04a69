"""The two charts, rendered by Helm's own SDK: no cluster, no helm binary."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "helm"
CHARTS = ("silo-agent", "aggregator")
RELEASE, NAMESPACE = "anna", "fed"
#: Every chart with each of its ci/*-values.yaml.
CASES = [
    (chart, path.stem.removesuffix("-values")) for chart in CHARTS for path in sorted((HELM / chart / "ci").iterdir())
]


def values(chart: str, case: str = "minimal") -> Object:
    """What ci/<case>-values.yaml sets; yours to change."""
    loaded: Object = yaml.safe_load((HELM / chart / "ci" / f"{case}-values.yaml").read_text())
    return loaded


@dataclass(frozen=True)
class Rendered:
    """``objects``: what the chart makes. ``extra``: what the operator brought along. ``notes``: NOTES.txt."""

    objects: list[Object]
    extra: list[Object]
    notes: str


def check(chart: str, given: Mapping[str, Any]) -> None:
    """Raise helm.HelmValuesError if the chart's schema refuses these values."""
    with helm.Chart.load(HELM / chart) as loaded:
        loaded.validate_schema(dict(given))


def render(chart: str, given: Mapping[str, Any], *, path: Path | None = None) -> Rendered:
    """Check the values and render them; every document parsed. ``path``: another folder with the chart."""
    with helm.Chart.load(path or HELM / chart) as loaded:
        loaded.validate_schema(dict(given))
        texts = loaded.render(dict(given), name=RELEASE, namespace=NAMESPACE)
    found = Rendered([], [], texts.pop(f"{chart}/templates/NOTES.txt"))
    for name, text in sorted(texts.items()):
        documents = [document for document in yaml.safe_load_all(text) if document]
        (found.extra if name.endswith("/extra.yaml") else found.objects).extend(documents)
    return found


@cache
def _case(chart: str, case: str) -> Rendered:
    return render(chart, values(chart, case))


def case(chart: str, name: str) -> Rendered:
    """A chart with the values of one ci file; yours to change."""
    return copy.deepcopy(_case(chart, name))


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """Values with a patch, as Helm merges them: maps by key, everything else is replaced."""
    out = dict(copy.deepcopy(base))
    for key, value in patch.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def name_of(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"
