"""The table of values in each chart's README.md, from the comments of its values.yaml.

    python -m tests.helm.readme

rewrites what stands between the page's two marks. A value's line is the comment ``# -- …`` above it (helm-docs' way of
writing), which may go on over several lines. A test compares page and comments, and that every value has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.charts import CHARTS, HELM, Object

BEGIN, END = "<!-- begin: python -m tests.helm.readme -->", "<!-- end: python -m tests.helm.readme -->"

_KEY = re.compile(r"( *)([A-Za-z]+):")
_TOLD = re.compile(r" *# -- (.*)")
_MORE = re.compile(r" *# (.*)")


def documented(chart: str) -> dict[str, str]:
    """Path of a value ("image.tag") → what its comment says."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    told: list[str] = []
    for line in (HELM / chart / "values.yaml").read_text().splitlines():
        if begins := _TOLD.fullmatch(line):
            told = [begins[1]]
        elif told and (goes_on := _MORE.fullmatch(line)):
            told.append(goes_on[1])
        elif key := _KEY.match(line):
            path = [(indent, name) for indent, name in path if indent < len(key[1])] + [(len(key[1]), key[2])]
            if told:
                found[".".join(name for _, name in path)] = " ".join(told)
            told = []
        else:
            told = []
    return found


def values_of(chart: str) -> Object:
    loaded: Object = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    return loaded


def leaves(value: Any, told: set[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, default) of every value: a map is one where it has a comment of its own, else its keys are."""
    if isinstance(value, dict) and path not in told and value:
        for key, inner in value.items():
            yield from leaves(inner, told, f"{path}.{key}".removeprefix("."))
    else:
        yield path, value


def table(chart: str) -> str:
    told = documented(chart)
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, default in leaves(values_of(chart), set(told)):
        shown = "" if default in (None, "") else f"`{json.dumps(default)}`"
        rows.append(f"| `{path}` | {shown} | {told[path]} |")
    return "\n".join(rows)


def rewritten(chart: str, page: str) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(chart)}\n{END}{after}"


def main() -> None:
    for chart in CHARTS:
        page = HELM / chart / "README.md"
        page.write_text(rewritten(chart, page.read_text()))


if __name__ == "__main__":
    main()
