"""``fed doctor``: whether this site can take part, and if not, what to do.

One subject a file, each a list of small checks (``check.Check``): ``kit``, ``volume``, ``clock`` and so on; ``runner``
has all of them in their order. ``refuse_start`` makes the checks that a service needs before it starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crypto.home import Home


def refuse_start(role: str, kit: Path, home: Home) -> None:
    """Make the checks of a start; if all pass, lock the home for this process until it ends.

    ``role``: "silo" or "aggregator". Reads files and tries ports of this machine; does not use the network. Raises
    Unfit with the first check that fails, by name and with its remedy.
    """
    from jobs.doctor.check import Unfit
    from jobs.doctor.runner import run_checks
    from jobs.doctor.single_instance import hold
    from jobs.doctor.target import Role, Target

    target = Target(Role(role), home, kit, starting=True)
    for result in run_checks(target):
        if result.status == "fail":
            raise Unfit(result)
    hold(target)
