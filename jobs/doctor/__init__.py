"""``fed doctor``: is this site able to take part, and if not, what to do.

One subject a file, each a list of small checks (``check.Check``): ``kit``, ``volume``, ``alone`` and so on; ``visit``
has them in their order. ``refuse_start`` is the part of them that a start needs.
"""

from __future__ import annotations

from pathlib import Path


def refuse_start(role: str, kit: Path, home: Path) -> None:
    """Refuse to start what could not work or must not run; else this process has the home until it ends.

    ``role``: "silo" or "aggregator". Looks at files and at ports of this machine, asks nobody. Raises Unfit with the
    first check that fails, by name and with its remedy.
    """
    from jobs.doctor.check import Unfit
    from jobs.doctor.runner import examine
    from jobs.doctor.single_instance import hold
    from jobs.doctor.target import Place, Role

    place = Place(Role(role), home, kit, starting=True)
    for line in examine(place):
        if line.status == "fail":
            raise Unfit(line)
    hold(place)
