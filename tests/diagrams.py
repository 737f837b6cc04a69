"""The state diagrams of docs/protocol.md, drawn from the tables that the code runs on.

    python -m tests.diagrams

rewrites what stands between the page's two marks. A test compares page and tables.
"""

from __future__ import annotations

from pathlib import Path

from crypto.errors import BY_CODE, FederationError
from crypto.session import SERVER, SILO, SessionState

PAGE = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"
BEGIN, END = "<!-- begin: make diagrams -->", "<!-- end: make diagrams -->"

Table = dict[tuple[SessionState, str], SessionState]


def diagram(table: Table) -> str:
    """One table as a Mermaid state diagram. Events that keep the state share one arrow, and so do the refusals."""
    states = list(dict.fromkeys(state for (before, _), after in table.items() for state in (before, after)))
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{state.value}" as {_id(state)}' for state in states if "-" in state.value]
    lines.append(f"    [*] --> {_id(states[0])}")
    stays: dict[SessionState, list[str]] = {}
    for (before, event), after in table.items():
        if before is after:
            stays.setdefault(before, []).append(event)
    for state in states:
        if state in stays:
            lines.append(f"    {_id(state)} --> {_id(state)}: {', '.join(stays[state])}")
        for (before, event), after in table.items():
            if before is state and after is not state:
                lines.append(f"    {_id(before)} --> {_id(after)}: {event}")
    last = [state for state in states if all(before is not state for before, _ in table)]
    for state in states:
        if state not in last:
            lines.append(f"    {_id(state)} --> {SessionState.REFUSED.value}: any refusal")
    lines += [f"    {_id(state)} --> [*]" for state in (*last, SessionState.REFUSED)]
    return "\n".join([*lines, "```"])


def refusals() -> str:
    """Refusal code → class → page."""
    rows = ["| code | class | exit | page |", "|---|---|---|---|"]
    pages = {int(path.name.partition("-")[0]): path.name for path in (PAGE.parent / "errors").glob("*-*.md")}
    for code, kind in sorted(BY_CODE.items(), key=lambda item: (item[1].exit_code, item[0])):
        if kind.exit_code in (20, 30) and _is_ours(kind):
            page = f"errors/{pages[kind.exit_code]}"
            rows.append(f"| `{code}` | `{kind.__module__}.{kind.__name__}` | {kind.exit_code} | [{page}]({page}) |")
    return "\n".join(rows)


def section() -> str:
    """What stands between the marks."""
    return "\n\n".join(
        [
            "**Silo**, `crypto.session.SILO`:",
            diagram(SILO),
            "**Server**, `crypto.session.SERVER`. A single silo's message that fails changes nothing and costs that "
            "silo its\nplace; a phase that cannot be closed ends the session:",
            diagram(SERVER),
            "**Refusals** that may stand in a `Decline`, and where each is explained:",
            refusals(),
        ]
    )


def rewritten(page: str) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{after}"


def _id(state: SessionState) -> str:
    return state.value.replace("-", "_")


def _is_ours(kind: type[FederationError]) -> bool:
    """Of crypto/errors.py, not a class that a test or a tool defined."""
    return kind.__module__ == FederationError.__module__


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
