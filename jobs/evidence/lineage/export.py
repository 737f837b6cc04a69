"""Actions on a model version that the security log must record: move an alias, export its evidence."""

from __future__ import annotations

from pathlib import Path

from aggregator.home import AggregatorHome
from aggregator.verify import models
from aggregator.verify.bundle import Bundle, write_bundle
from aggregator.verify.models import ModelVersion
from jobs.evidence.lineage.model import Lineage
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog


def promote(home: AggregatorHome, model: str, alias: str, by: str, *, force: bool = False) -> ModelVersion:
    """``aggregator.verify.models.promote``, recorded in the security log."""
    version = models.promote(home, model, alias, by, force=force)
    SecurityLog(home)(Event.ALIAS_MOVED, model=version.name, version=version.version, alias=alias)
    return version


def export(home: AggregatorHome, lineage: Lineage, out: Path, *, uploads: bool = True) -> Bundle:
    """``aggregator.verify.bundle.write_bundle`` of a lineage's run. In the aggregator's own home the security log
    records it; if it cannot, the bundle is removed again (NoSpace). A copy of the evidence has no such log."""
    bundle = write_bundle(home, lineage.run.run, out, uploads=uploads)
    try:
        if home.exists():
            model = lineage.model
            which = {"model": model.name, "version": model.version} if model is not None and model.version else {}
            SecurityLog(home)(Event.BUNDLE_EXPORTED, sha256=bundle.sha256, **which)
    except BaseException:
        out.unlink()
        raise
    return bundle
