"""What the Containerfiles promise, read from their text: the images themselves are built by `make images`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {"silo-agent": "silo,flare", "aggregator": "aggregator,postgres,flare"}
LABELS = ("title", "description", "version", "revision", "licenses", "documentation")
SECRET = re.compile(r"(?i)password|secret|token|credential|\.key\b|\.kit\b|id_rsa|BEGIN [A-Z ]*PRIVATE")
URL = re.compile(r"\w+://")


class Instruction(NamedTuple):
    name: str
    text: str


def read(image: str) -> list[list[Instruction]]:
    """The instructions of each part: what comes before the first FROM, then stage by stage."""
    text = (ROOT / "images" / f"{image}.Containerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    parts: list[list[Instruction]] = [[]]
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            parts.append([])
        parts[-1].append(Instruction(name, rest.strip()))
    return parts


def texts(stage: list[Instruction], name: str) -> list[str]:
    return [one.text for one in stage if one.name == name]


@pytest.fixture(params=sorted(IMAGES))
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_base_is_an_argument_and_the_same_in_both_stages(image: str) -> None:
    before, build, runtime = read(image)
    (base,) = texts(before, "ARG")
    name, _, value = base.partition("=")
    assert name == "BASE_IMAGE" and re.fullmatch(
        r"docker\.io/library/python:3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?", value
    )
    assert texts(build, "FROM") == ["${BASE_IMAGE} AS build"] and texts(runtime, "FROM") == ["${BASE_IMAGE}"]
    assert not any(re.search(r":latest\b", one.text) for part in read(image) for one in part)


def test_both_have_the_same_base() -> None:
    assert len({tuple(read(image)[0]) for image in IMAGES}) == 1


def test_it_runs_as_a_user_of_no_name_and_no_rights(image: str) -> None:
    *_, runtime = read(image)
    assert texts(runtime, "USER") == ["10001:10001"]
    assert runtime.index(Instruction("USER", "10001:10001")) > max(
        number for number, one in enumerate(runtime) if one.name == "COPY"
    )


def test_the_runtime_stage_runs_nothing_and_takes_only_what_was_built(image: str) -> None:
    *_, runtime = read(image)
    assert not {one.name for one in runtime} & {"RUN", "ADD", "VOLUME", "HEALTHCHECK", "SHELL", "ONBUILD"}
    assert texts(runtime, "COPY") == [
        "--from=build /etc/passwd /etc/group /etc/",
        "--from=build --chown=10001:10001 /homes/ /var/lib/",
        "--from=build /opt/consilium /opt/consilium",
    ]


def test_the_entry_point_is_fed_and_sigterm_ends_it(image: str) -> None:
    *_, runtime = read(image)
    assert texts(runtime, "ENTRYPOINT") == ['["fed"]'] and texts(runtime, "CMD") == []
    assert texts(runtime, "STOPSIGNAL") == ["SIGTERM"]
    ports = {"silo-agent": "9464", "aggregator": "8002 9464"}
    assert texts(runtime, "EXPOSE") == [ports[image]]


def test_what_libraries_cache_goes_to_tmp(image: str) -> None:
    *_, runtime = read(image)
    (words,) = texts(runtime, "ENV")
    given = dict(word.split("=", 1) for word in words.split())
    assert given["HOME"] == "/var/lib/consilium" and given["PATH"].startswith("/opt/consilium/bin:")
    assert given["PYTHONDONTWRITEBYTECODE"] == given["PYTHONUNBUFFERED"] == "1"
    caches = {name for name in given if re.search("CACHE|CONFIG", name)}
    assert {"XDG_CACHE_HOME", "XDG_CONFIG_HOME"} <= caches
    assert all(given[name].startswith("/tmp/") for name in caches)
    if image == "aggregator":
        assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert given["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_it_is_labelled(image: str) -> None:
    *_, runtime = read(image)
    (words,) = texts(runtime, "LABEL")
    found = re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', words)
    assert tuple(name for name, _ in found) == LABELS and dict(found)["title"] == f"consilium-{image}"
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and f"VERSION={version[1]}" in texts(runtime, "ARG")


def test_everything_is_installed_under_the_constraints_and_checked(image: str) -> None:
    _, build, _ = read(image)
    steps = [step for text in texts(build, "RUN") for step in text.split(" && ")]
    installs = [step for step in steps if re.search(r"pip.* install ", step)]
    assert installs and all("--no-cache-dir -c constraints.txt" in step for step in installs)
    assert any("venv --without-pip /opt/consilium" in step for step in steps)
    assert steps[-2:] == [
        f"/opt/consilium/bin/python -I images/contents.py {image}",
        f"/tools/bin/python images/sbom.py {image} /opt/consilium/bin/python /opt/consilium/sbom.cdx.json",
    ]
    assert f"EXTRAS={IMAGES[image]}" in texts(build, "ARG")
    assert ("torch" in "\n".join(one.text for one in build)) == (image == "silo-agent")


def test_only_named_sources_go_in_and_no_secret(image: str) -> None:
    for part in read(image):
        assert not texts(part, "ADD")
        for one in part:
            assert not SECRET.search(one.text), one
            if one.name in ("COPY", "RUN"):
                assert not URL.search(one.text), one
    _, build, _ = read(image)
    rooms = [f"{room} ./{room}" for room in ("crypto", "silo_agent", "aggregator", "jobs")]
    assert texts(build, "COPY") == [
        "pyproject.toml constraints.txt README.md LICENSE ./",
        *rooms,
        "images/contents.py images/sbom.py ./images/",
    ]


def test_torch_is_the_release_of_the_project() -> None:
    _, build, _ = read("silo-agent")
    (wanted,) = (text.removeprefix("TORCH=") for text in texts(build, "ARG") if text.startswith("TORCH="))
    assert f" {wanted}\n" in (ROOT / "Makefile").read_text()
