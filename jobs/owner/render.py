"""An owner review as lines for a terminal. Untrusted text is escaped."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from crypto.scores import families
from crypto.text import escaped


def day(seconds: int) -> str:
    """A time as people read it, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def review_lines(found: dict[str, Any]) -> list[str]:
    """What a data owner reads before deciding."""
    if "amiss" in found:
        return [f"job {found['job']}", f"  cannot be read here: {escaped(found['amiss'])}"]
    here, charter, leaves = found["registered"], found["charter"], found["leaves"]
    registered = (
        f"registered here: {here['features']} features, {here['target']}, uid {here['uid']}"
        if here
        else "not registered here"
    )
    look_at = [f"  look at   {escaped(finding)}" for finding in (here or {}).get("findings", ())]
    if here and here["amiss"]:
        look_at.insert(0, f"  not fit   {escaped(here['amiss'])}")
    rounds = f"{found['rounds']} rounds, " if found["rounds"] else ""
    params = json.dumps(found["params"], ensure_ascii=True)
    asked = f", asked for {found['asked'][:16].replace('T', ' ')} UTC" if "asked" in found else ""
    lines = [
        f"{found['name']}  {state_line(found['standing'])}",
        f"  job       {found['job']}{asked}",
        f"  purpose   {escaped(found['purpose'])}",
        f"  method    {found['method']} on data set {found['dataset']} ({registered})",
        *look_at,
        f"  with      {charter['silos']} silos of {escaped(charter['federation'])},"
        f" charter of epoch {charter['epoch']}",
        f"  runs      {rounds}{len(leaves['steps'])} steps; parameters {params}",
        f"  privacy   {privacy_line(found['privacy'])}",
        f"  plan      {found['plan']}",
        f"  leaves    {leaves['bytes_per_silo'] / 1e6:.2f} MB at most, masked; each lane opens as a sum or not at all:",
    ]
    width = max(len(lane["name"]) for lane in leaves["lanes"])
    for lane in leaves["lanes"]:
        lines.append(f"            {lane['name']:<{width}}  {lane_line(lane)}")
    lines += [
        f"  opened    sums of {', '.join(slots(leaves)) or 'nothing else'}; for each lane, weights and contributors",
        f"  keeps     {_KEPT[found['keep_uploads']]}",
    ]
    return lines


_KEPT = {
    "none": "no masked uploads at the aggregator",
    "last": "the masked uploads of the newest step at the aggregator, for replay",
    "all": "all masked uploads at the aggregator, for replay",
}


def privacy_line(table: dict[str, Any] | None) -> str:
    """What a job says of differential privacy, by its table."""
    if table is None:
        return "none promised: no noise is added, and no epsilon bounds what the sums tell of a row"
    return (
        f"epsilon {table['epsilon']:g} at delta {table['delta']:g} for one {table['unit']} ({table['mechanism']}, "
        f"noise multiplier {table['noise_multiplier']:g}, clip {table['clip']:g}, sampling rate "
        f"{table['sampling_rate']:g}), by {escaped(table['accountant'])}"
    )


def lane_line(lane: dict[str, Any]) -> str:
    if lane["leaves"] == "never":
        return f"{lane['parameters']:,} parameters that never leave"
    who = {"everyone": "everyone holds it", "hidden": "holders hidden", "visible": "holders visible to the aggregator"}
    return f"{lane['parameters']:,} parameters, {who[lane['holdings']]}, opens from {lane['floor']} silos"


def slots(leaves: dict[str, Any]) -> list[str]:
    """The names of all slots that are not a lane's own, once each, in the order of the plan; of a metric's cells
    that of the metric."""
    own = {f"{lane['name']}.{slot}" for lane in leaves["lanes"] for slot in ("weight", "contributors")}
    return list(families(slot for step in leaves["steps"] for slot in step["slots"] if slot not in own))


def state_line(state: dict[str, Any]) -> str:
    why = f": {escaped(state['why'])}" if state["why"] else ""
    if not state["approval"]:
        return f"{state['state']}{why}"
    runs = f"{state['used']} of {state['max_runs']} runs used"
    return f"{state['state']}{why} (until {day(state['not_after'])}, {runs})"
