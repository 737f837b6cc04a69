"""``fed simulate --mock``: an admin's rehearsal of a job on mock data, with every rule on.

The silos' public halves of PySyft's catalogue are enough: their mocks stand in for the rows, in a throw-away
federation in this process, under a charter of as many silos. It tells whether a job runs, what opens and what would
leave; its accuracies are those of invented rows and say nothing of the real ones.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from aggregator.figures import sentence, withheld_in
from aggregator.run_record import RunRecord
from jobs.demo.federation import Federation
from jobs.demo.progress_view import Follower, View
from jobs.evidence.run_summary import scores, secure_aggregation
from jobs.job import JobSpec
from jobs.owner.approval_terms import approve_for_demonstration
from jobs.runtime.in_process import run_job
from silo_agent.pysyft.mock import read_mocks


def rehearse(job: str, box: Path, view: View) -> dict[str, Any]:
    """Run a job on the mocks in ``box``; the object that --json prints. Raises what the job would raise.

    ``box``: a PySyft box that holds the silos' public halves, as ``<box>/<owner>/public/…``.
    """
    began = time.monotonic()
    spec = JobSpec.load(job)
    mocks = read_mocks(box, spec.dataset)
    view.say(f"rehearsal of {spec.name} on the mock data of {len(mocks)} silos: {', '.join(sorted(mocks))}")
    with tempfile.TemporaryDirectory(prefix="consilium-rehearsal-") as place:
        federation = Federation.make(Path(place) / "rehearsal", "rehearsal", mocks, spec.dataset)
        approve_for_demonstration(federation.silo_homes.values(), spec)
        follower = Follower(federation.aggregator_home, spec, federation.silos, view)
        try:
            outcome, _, _ = run_job(spec, federation.aggregator_home, federation.silo_homes, watch=follower.exchange)
        finally:
            view.done()
        record = RunRecord.read(federation.aggregator_home, outcome.run)
    found: dict[str, Any] = {
        "job": spec.digest.hex(),
        "silos": sorted(mocks),
        "secure_aggregation": secure_aggregation(record),
        "correct_on_mock": {name: f"{right}/{total}" for name, (right, total) in scores(record).items()},
        "withheld": withheld_in(record.plan, record.closed),
        "seconds": round(time.monotonic() - began, 1),
    }
    sums = found["secure_aggregation"]
    view.say(
        f"{sums['steps_released']} steps released, {sums['steps_void']} void; {sums['lanes_closed']} lanes shut; "
        f"{sums['refusals']} refusals"
    )
    right = ", ".join(f"{name} {count}" for name, count in found["correct_on_mock"].items())
    view.say(f"correct on mock rows, which says nothing of the real ones: {right or 'no scores'}")
    if found["withheld"]:
        view.say(sentence(found["withheld"]))
    return found
