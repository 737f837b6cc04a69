"""An image's bill of materials, CycloneDX 1.6 JSON: its Python packages by cyclonedx-py, and Debian's of the base.

Run while an image is built: python sbom.py IMAGE PYTHON OUT, with the Python of the environment to list. Made without
time stamps and without paths of the machine that built it, validated against the schema before it is written.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: Our own distribution.
OURS = "consilium-fl"
#: What a reader looks for first. The bill of an image without them would be of something else.
NAMED = {
    "silo-agent": {OURS, "cryptography", "nvflare", "torch"},
    "aggregator": {OURS, "cryptography", "mlflow", "nvflare", "psycopg2-binary"},
}


def python_packages(python: str) -> dict[str, Any]:
    """What cyclonedx-py finds in the environment of this interpreter."""
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "environment", "--output-reproducible"]
    command += ["--spec-version", "1.6", "--output-format", "JSON", python]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    )
    return found


def debian_packages() -> list[dict[str, Any]]:
    """The installed packages of the base image, as components."""
    shown = "-f=${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    lines = subprocess.run(
        ["dpkg-query", "-W", shown], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout.splitlines()
    components = []
    for status, name, version, architecture in (line.split("\t") for line in lines):
        if status.startswith("ii"):
            purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}"
            components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return components


def bill(image: str, found: dict[str, Any], system: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole bill: the image as its subject, the interpreter and the base's packages added, local paths removed."""
    for component in found["components"]:
        kept = [one for one in component.get("externalReferences", ()) if not one["url"].startswith("file:")]
        component.pop("externalReferences", None)
        if kept:
            component["externalReferences"] = kept
    version = next(one["version"] for one in found["components"] if one["name"] == OURS)
    name, interpreter = f"consilium-{image}", platform.python_version()
    python = {"type": "platform", "bom-ref": "cpython", "name": "cpython", "version": interpreter}
    subject = {"type": "container", "bom-ref": name, "name": name, "version": version}
    refs = sorted(one["bom-ref"] for one in found["components"] if one["name"] == OURS)
    needs = {"ref": name, "dependsOn": [*refs, "cpython", *(one["bom-ref"] for one in system)]}
    return {
        **found,
        "metadata": {**found["metadata"], "component": subject},
        "components": [*found["components"], python, *system],
        "dependencies": [*found.get("dependencies", ()), needs],
    }


def faults(image: str, made: dict[str, Any]) -> list[str]:
    """What is missing from the bill, and what must not be in it."""
    versions = {one["name"].lower(): one.get("version") for one in made["components"]}
    found = [f"it names no version of {name}" for name in sorted(NAMED[image]) if not versions.get(name)]
    return found + ["it tells a path of the machine that built it"] * ("file:" in json.dumps(made))


def against_schema(made: dict[str, Any]) -> str:
    """How the bill breaks the schema, or nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made))
    return f"it breaks the schema of CycloneDX 1.6: {error}" if error else ""


def main(image: str, python: str, out: str) -> None:
    made = bill(image, python_packages(python), debian_packages())
    if wrong := [*faults(image, made), *filter(None, [against_schema(made)])]:
        sys.exit(f"{image}: the bill of materials can't be used: {'; '.join(wrong)}")
    Path(out).write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{image}: {len(made['components'])} components in the bill of materials")


if __name__ == "__main__":
    main(*sys.argv[1:])
