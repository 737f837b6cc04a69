"""The rule against differencing: one partition of the members for each quantity that is opened.

Everything that is opened is a sum of one *quantity* over a set of contributors: a static figure of their data, or what
they compute from one base state. Two such sums over nearly the same silos differ by the figures of a few. The sets
opened so far cut the members into **atoms**: silos that contributed to the same of these sums. The rule:

    A set may be opened if every atom of silos that ever contributed, this set included, has at least m + c members.

There is no exemption for a set that was opened before. In a record that obeys the rule, such a set cuts nothing and
passes. But a silo may be told of sets that were opened without it, and one of them may cut a set that it released
itself but that never opened. To release that one again would open it beside the told one.

**Theorem.** Let S_1 … S_k be sets whose atoms have at least m + c members each. Let x_i be the value of the quantity
at silo i, the same in every sum. Then a combination a_1·sum(S_1) + … + a_k·sum(S_k), whatever the coefficients, has a
weight other than zero for no silo or for at least m + c silos. The same holds for some of these sets alone.

*Proof.* The weight of silo i is the sum of the a_j with i ∈ S_j. It depends only on which of the sets contain i, so it
is the same for all of an atom, and it is zero for who was never in a set. So the silos with a weight other than zero
are a union of atoms, and each atom has at least m + c members. An atom of some of the sets is a union of atoms of all
of them. ∎

**Colluders.** c members may tell all they know, and so subtract their own values. At least m honest silos are left in
every atom, so a combination that still depends on an honest silo depends on at least m. More than that: all opened sums
can be computed from the colluders' own values and, for each atom, the sum over its honest silos. So whatever is
computed from them, linear or not, they tell no more than one opening of disjoint sets, each of m or more honest silos.
A colluder that is counted as a contributor but is none, or the reverse, changes no atom's honest part.

**What it assumes.** At most c members collude. The record is complete: each set that may have been opened is in it,
also those of void steps, lost attempts and other runs (docs/decisions/0023 says what that takes). x_i is one value:
where a silo's value is drawn anew for each opening, the theorem holds for every draw, but averages over the draws are
not covered. And it is about one quantity: values of one silo from different base states are related in ways that no
rule about sets can see. A sum of m honest silos is a sum, not differential privacy.

**Sufficient, not necessary.** The sets {1 2 3 4} and {3 4 5 6} have atoms of two, yet every combination of the two sums
that is not zero has at least four silos. The exact rule would have to find the sparsest vector in a subspace, which is
NP-hard (Coleman and Pothen, *The null space problem I*, 1986), and nobody could explain its refusals.

**Sources.** The guarantee is the multi-round privacy of So, Ali, Güler, Jiao and Avestimehr (*Securing Secure
Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning*, AAAI 2023), who fix batches of users
beforehand; here the atoms are what came about. In statistical databases it is called partitioning, with atomic
populations (Adam and Wortmann, *Security-control methods for statistical databases*, ACM Computing Surveys, 1989).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from crypto.errors import CohortDifference, Malformed

#: Names of silos that a message lists before it only counts the rest.
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the contributors: ``count`` of ``silos`` more (``join``), or that many of them fewer. No ``silos``:
    any that never contributed, and more of them will do."""

    join: bool
    count: int
    silos: frozenset[str]

    def __str__(self) -> str:
        word = "with" if self.join else "without"
        if not self.silos:
            return f"{word} {self.count} or more others that have not contributed before"
        some = "" if self.count == len(self.silos) else f"{self.count} of "
        return f"{word} {some}{_names(self.silos)}" + (" as well" if self.join else "")


@dataclass(frozen=True, slots=True)
class Conflict:
    """An atom that a release would leave, or cut into parts, too small. ``inside`` contributes to the release,
    ``outside`` doesn't; both together are the atom as it was. ``new``: none of them contributed before."""

    inside: frozenset[str]
    outside: frozenset[str]
    new: bool = False

    def small(self, least: int) -> tuple[frozenset[str], ...]:
        """The parts that are too small, the smallest first."""
        parts = [part for part in (self.inside, self.outside) if 0 < len(part) < least]
        return tuple(sorted(parts, key=lambda part: (len(part), sorted(part))))

    def changes(self, least: int) -> tuple[Change, ...]:
        """Each of these changes alone resolves this conflict. None: nothing does, the atom was too small before."""
        least_inside, least_outside = least - len(self.inside), least - len(self.outside)
        if self.new:
            return Change(False, len(self.inside), self.inside), Change(True, least_inside, frozenset())
        atom = len(self.inside) + len(self.outside)
        if atom < least:
            return ()
        found = [Change(True, len(self.outside), self.outside)]
        if least_inside > 0:
            found.append(Change(False, len(self.inside), self.inside))
        if atom >= 2 * least:
            by_few = Change(True, least_inside, self.outside), Change(False, least_outside, self.inside)
            found.append(by_few[0] if least_inside > 0 else by_few[1])
        return tuple(found)


@dataclass(frozen=True)
class Openings:
    """The sets over which sums of one quantity were opened, or may have been. Silos are named by their ids."""

    sets: frozenset[frozenset[str]] = frozenset()

    @cached_property
    def atoms(self) -> tuple[frozenset[str], ...]:
        """The silos that ever contributed, in groups that were always in and out together; by size, then by name."""
        atoms: list[frozenset[str]] = []
        for opened in self.sets:
            parts = [part for atom in atoms for part in (atom & opened, atom - opened)]
            parts.append(opened.difference(*atoms))
            atoms = [part for part in parts if part]
        return tuple(sorted(atoms, key=lambda atom: (len(atom), sorted(atom))))

    def conflicts(self, contributors: Iterable[str], least: int) -> tuple[Conflict, ...]:
        """Why a sum over these contributors may not be opened; nothing if it may. ``least``: m + c. O(n) time."""
        now = frozenset(contributors)
        if not now:
            return ()
        cut = [Conflict(atom & now, atom - now) for atom in self.atoms]
        cut.append(Conflict(now.difference(*self.atoms), frozenset(), new=True))
        return tuple(conflict for conflict in cut if conflict.small(least))

    def check(self, contributors: Iterable[str], least: int) -> None:
        """Raise CohortDifference if a sum over these contributors may not be opened. ``least``: m + c."""
        conflicts = self.conflicts(contributors, least)
        if not conflicts:
            return
        small = [part for conflict in conflicts for part in conflict.small(least)]
        changes = [conflict.changes(least) for conflict in conflicts]
        if all(changes):
            ways = "; and ".join(", or ".join(map(str, options)) for options in changes)
            remedy = f"It would pass {ways}. A set that was opened before passes again."
        else:
            remedy = "No further sum of this quantity can be opened."
        raise CohortDifference(
            f"With the sums opened before, this one would leave {'; and '.join(map(_names, small))} as a group of "
            f"fewer than m + c = {least} silos, whose own sum could be computed.",
            remedy=remedy,
        )

    def fit(self, contributors: Iterable[str], least: int) -> frozenset[str]:
        """The most of these contributors over which a sum may be opened; of equals, those first in order of their ids.
        Nobody, if none of them may, as always where an atom of the record is too small itself. ``least``: m + c.

        Atoms don't depend on each other: of each one that can stay whole all are kept, of another one as many as leave
        m + c outside, or nobody."""
        now = frozenset(contributors)
        if any(len(atom) < least for atom in self.atoms):
            return frozenset()
        kept = [new] if len(new := now.difference(*self.atoms)) >= least else []
        for atom in self.atoms:
            inside = atom & now
            most = len(inside) if inside == atom else min(len(inside), len(atom) - least)
            kept.append(frozenset(sorted(inside)[:most]) if most >= least else frozenset())
        return frozenset().union(*kept)

    def refine(self, contributors: Iterable[str]) -> Openings:
        """This record with one more opening. It records what happened and checks nothing: see ``check``."""
        now = frozenset(contributors)
        return Openings(self.sets | {now}) if now else self

    def __or__(self, other: Openings) -> Openings:
        """What two silos know together."""
        return Openings(self.sets | other.sets)

    def plain(self) -> list[list[str]]:
        """As JSON values, in the one order that ``read`` accepts: ids ascending in each set, and the sets too."""
        return sorted(sorted(opened) for opened in self.sets)

    @classmethod
    def read(cls, value: object) -> Openings:
        """The record that ``plain`` wrote. Anything else raises Malformed."""
        if not isinstance(value, list) or not all(isinstance(opened, list) for opened in value):
            raise Malformed("A record of openings is not a list of lists.")
        if not all(isinstance(silo, str) and silo for opened in value for silo in opened):
            raise Malformed("A record of openings names a silo by something other than its id.")
        if not all(opened and opened == sorted(set(opened)) for opened in value):
            raise Malformed("A set in a record of openings is empty, or its silos are not in ascending order.")
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise Malformed("The sets in a record of openings are not in ascending order.")
        return cls(frozenset(map(frozenset, value)))


def _names(silos: Iterable[str]) -> str:
    """The ids in ascending order; after the first few, how many more there are."""
    names = sorted(silos)
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
