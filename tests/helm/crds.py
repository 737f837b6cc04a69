"""Strict schemas of the two objects of the Prometheus operator that the charts make: what we use of them, no more.

kubernetes-validate knows no custom resources. Field names and types are those of monitoring.coreos.com/v1; a field that
we do not use is not listed, so that a misspelt one is refused.
"""

from __future__ import annotations

from typing import Any

import jsonschema

from tests.helm.charts import Object

_STRING = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}
_MAP = {"type": "object", "additionalProperties": _STRING}
_DURATION = {"type": "string", "pattern": r"^(0|([0-9]+(ms|s|m|h|d|w|y))+)$"}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


_RELABELING = _object(
    (),
    sourceLabels=_STRINGS,
    separator=_STRING,
    targetLabel=_STRING,
    regex=_STRING,
    modulus={"type": "integer"},
    replacement=_STRING,
    action={
        "enum": ["replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase"]
    },
)
_RELABELINGS = {"type": "array", "items": _RELABELING}
_ENDPOINT = _object(
    ("port",),
    port=_STRING,
    path=_STRING,
    interval=_DURATION,
    scrapeTimeout=_DURATION,
    relabelings=_RELABELINGS,
    metricRelabelings=_RELABELINGS,
)
_SERVICE_MONITOR = _object(
    ("endpoints", "selector"),
    endpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
    selector=_object((), matchLabels=_MAP),
    namespaceSelector=_object((), matchNames=_STRINGS),
)
_RULE = _object(
    ("expr",), alert=_STRING, record=_STRING, expr=_STRING, labels=_MAP, annotations=_MAP, **{"for": _DURATION}
)
_RULE["oneOf"] = [{"required": ["alert"]}, {"required": ["record"]}]
_GROUP = _object(
    ("name", "rules"), name=_STRING, interval=_DURATION, rules={"type": "array", "minItems": 1, "items": _RULE}
)
_PROMETHEUS_RULE = _object(("groups",), groups={"type": "array", "minItems": 1, "items": _GROUP})
_METADATA = _object(("name", "namespace", "labels"), name=_STRING, namespace=_STRING, labels=_MAP, annotations=_MAP)

#: kind → schema of the whole object.
SCHEMAS = {
    kind: _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": kind},
        metadata=_METADATA,
        spec=spec,
    )
    for kind, spec in (("ServiceMonitor", _SERVICE_MONITOR), ("PrometheusRule", _PROMETHEUS_RULE))
}


def check(one: Object) -> None:
    """Raise jsonschema.ValidationError, or KeyError for a kind that is not one of the two."""
    jsonschema.Draft202012Validator(SCHEMAS[one["kind"]]).validate(one)
