"""Run while an image is built, by the image's own Python: what must not be in it is not, what it runs can be imported.

usage: python -I contents.py silo-agent|aggregator; ends with 1 and the list of what is wrong.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module
from importlib.util import find_spec

#: Distributions' modules that an image must not hold: the aggregator has no use for torch, a silo none for MLflow.
ABSENT = {
    "silo-agent": ("mlflow", "psycopg2", "scipy", "sklearn", "pip", "pytest"),
    "aggregator": ("torch", "syft", "syft_job", "syft_datasets", "syft_perms", "pip", "pytest"),
}
#: What must import: of a package of ours every module.
PRESENT = {
    "silo-agent": """
        crypto silo_agent jobs.flare jobs.cli jobs.doctor
        jobs.cli.main jobs.services.run jobs.services.bootstrap jobs.services.http jobs.owner.decisions
        jobs.runtime.compose jobs.owner.review torch syft_datasets syft_job.client syft_perms prometheus_client
        nvflare.private.fed.app.client.client_train nvflare.private.fed.app.client.worker_process
    """,
    "aggregator": """
        crypto aggregator jobs.flare jobs.evidence.lineage jobs.cli jobs.doctor
        jobs.cli.main jobs.services.run jobs.services.bootstrap jobs.services.http jobs.evidence.verify
        jobs.owner.egress_manifest jobs.demo.report mlflow flask_wtf psycopg2 prometheus_client
        nvflare.private.fed.app.server.server_train nvflare.private.fed.app.server.runner_process
    """,
}
#: What modules of ours may lack here: the extra `lm` brings it, an image for language models is built with it.
OPTIONAL = ("peft", "transformers")
OURS = ("crypto", "silo_agent", "aggregator", "jobs")


def modules(name: str) -> list[str]:
    """A module's name, and those of every module in it if it is a package of ours."""
    within = getattr(import_module(name), "__path__", ()) if name.partition(".")[0] in OURS else ()
    return [name, *(one.name for one in pkgutil.walk_packages(within, f"{name}."))]


def wrong(image: str) -> list[str]:
    """One line for each module that is there and must not be, or can't be imported and must be."""
    found = [f"{name} is in the image" for name in ABSENT[image] if find_spec(name)]
    for name in (name for wanted in PRESENT[image].split() for name in modules(wanted)):
        try:
            import_module(name)
        except ImportError as missing:
            if (missing.name or "").partition(".")[0] not in OPTIONAL:
                found.append(f"{name} can't be imported: {missing}")
    return found


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    problems = wrong(sys.argv[1])
    print("\n".join(problems) or f"{sys.argv[1]}: holds what it runs and nothing it must not")
    sys.exit(bool(problems))
