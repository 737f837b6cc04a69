"""docs/performance.md and its plot, from one result of the benchmark: the only hand that writes figures there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from tests.benchmarks.targets import ABOUT

Result = dict[str, Any]

INTRO = """# Performance

Written by the command below, with its plot; every figure on this page comes from that one run.

```sh
{command}
```

Figures are the best of five rounds or more, in milliseconds of one thread's processor time unless stated otherwise. AES
and memory are calibrated in the same process, alternating with the measurements, so ratios are valid on a busy machine
even where times are not. Masks are made by `crypto.silo_session.SiloSession.upload`, sums by
`crypto.opening.LaneTotal.add`, unmasking by `crypto.cohort.Survivors.unmask`, words by
`crypto.ring.encode`. Digests of masked words (SHA-256, once at each end) are a column of their own and in no other
figure. {thin}

"""

THIN = """In rows marked † the silos that are not measured leave out pair masks that cancel among themselves: the
measured silo's work and the server's are unchanged."""


def table(result: Result) -> str:
    """The targets, for a terminal."""
    lines = []
    for name, target in result["targets"].items():
        verdict = "not measured" if target is None or target["pass"] is None else "ok" if target["pass"] else "MISSED"
        about = ABOUT[name]
        shown = "" if target is None else f"{show(target['value'])} (limit {show(target['target'])})"
        lines.append(f"{name:11s} {verdict:12s} {about}: {shown}")
    return "\n".join(lines)


def show(value: Any) -> str:
    match value:
        case None:
            return "–"
        case dict():
            return ", ".join(f"{name} {show(part)}" for name, part in value.items())
        case float() if value and abs(value) < 1e-3:
            return f"{value:.1e}"
        case float():
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        case int() if abs(value) >= 10_000:
            return f"{value:,}"
    return str(value)


def millions(d: int) -> str:
    return f"{d / 1e6:g}M"


def grid(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(show(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


def write(path: Path, result: Result) -> None:
    plot = path.with_suffix(".svg")
    draw(plot, result)
    path.write_text(text(result, plot.name))


def text(result: Result, plot: str) -> str:
    rows = result["rows"]
    thin = any(row.get("thin") for row in rows)
    out = INTRO.format(command=result["command"], thin=THIN if thin else "").replace(" \n", "\n")
    out += "## Machine and limits\n\n"
    out += grid(["", ""], [(name, str(value)) for name, value in result["machine"].items()])
    out += grid(["limit", "measured"], result["limits"].items())
    out += "`_gb_s`: 10⁹ bytes of vector or keystream a second; `_us`: microseconds of an operation.\n\n"
    out += "## Targets\n\nA target passes within a tenth of its limit.\n\n"
    out += grid(["", "what", "limit", "measured", "verdict"], map(verdict, result["targets"].items()))
    out += f"## Sums\n\n![Mask and unmask times]({plot})\n\n" + sums(rows)
    out += proofs(rows) + setup(rows) + lanes(rows) + errors(rows)
    return out + peers(result["peers"])


def verdict(item: tuple[str, Any]) -> Sequence[Any]:
    name, target = item
    if target is None or target["pass"] is None:
        return name, ABOUT[name], "" if target is None else target["target"], "–", "not measured"
    return name, ABOUT[name], target["target"], target["value"], "met" if target["pass"] else "**missed**"


def sums(rows: list[dict[str, Any]]) -> str:
    columns: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("n", lambda r: f"{r['n']}†" if r["thin"] else r["n"]),
        ("d", lambda r: millions(r["d"])),
        ("dropped", lambda r: r["drop"]),
        ("setup", lambda r: r["setup_ms"]),
        ("quantise", lambda r: r["quantise_ms"]),
        ("… clipped", lambda r: r["quantise_clipped_ms"]),
        ("**mask**", lambda r: r["mask_ms"]),
        ("AES alone", lambda r: r["aes_ms"]),
        ("AES/mask", lambda r: r["aes_ratio"]),
        ("digest", lambda r: r["digest_ms"]),
        ("server add", lambda r: r["server_add_ms"]),
        ("recovery", lambda r: r["recovery_ms"]),
        ("streams", lambda r: r["streams"]),
        ("**unmask**", lambda r: r["unmask_ms"]),
        ("exact", lambda r: "yes" if r["exact"] else "**no**"),
    ]
    found = [row for row in rows if row["kind"] == "sum"]
    body = grid([name for name, _ in columns], [[cell(row) for _, cell in columns] for row in found])
    return body + (
        "Setup, quantise, mask and digest are one silo's; … clipped: where every block has values beyond the clip. "
        "Recovery is\nthe server's, of every secret the step needs; unmask removes all streams of the survivors' sum. "
        "Exact: the opened\nwords are the sum of the encoded ones.\n\n"
    )


def proofs(rows: list[dict[str, Any]]) -> str:
    """Time of tags and checks, and bytes of the proof."""
    timed = [row for row in rows if row.get("tag_ms") is not None]
    columns = ["n", "d", "tag", "ns a word", "of the masks", "two threads", "check", "ns a word", "two threads"]
    columns += ["a silo's step", "the server's", "both"]
    body = grid(
        columns,
        [
            (
                row["n"],
                millions(row["d"]),
                row["tag_ms"],
                row["tag_ms"] * 1e6 / row["d"],
                row["tag_ms"] / row["mask_ms"],
                row.get("tag_two_threads"),
                row["check_ms"],
                row["check_ms"] * 1e6 / row["d"],
                row.get("check_two_threads"),
                row["step_silo_ratio"],
                row["step_server_ratio"],
                row["step_ratio"],
            )
            for row in timed
        ],
    )
    sizes = grid(
        ["n", "sent for a step", "… and each lane", "received for a step", "… and each lane"],
        [
            (row["n"], row["sent_step"], row["sent_lane"], row["received_step"], row["received_lane"])
            for row in rows
            if row["kind"] == "proof"
        ],
    )
    return (
        "## Proof of the sums\n\nTag: what one silo computes of its own upload; check: what everyone computes of the "
        "announced sum, its digests apart.\nTwo threads: how much faster by the clock. The last three: the work of a "
        "step without training over the same\nwithout tags, from the parts measured in this run.\n\n"
        + body
        + "Bytes of one silo. The carries of an announced sum are one byte a word more.\n\n"
        + sizes
    )


def setup(rows: list[dict[str, Any]]) -> str:
    found = [row for row in rows if row["kind"] == "setup"]
    return (
        "## Setup at n = 100\n\nOne silo's messages M0 and M1, and the checks of everyone else's. Signatures: all 200 "
        "verified and nothing\nelse, which no library at hand does in batches; agreements: 99 of X25519.\n\n"
        + grid(
            ["lanes", "setup", "signatures alone", "agreements alone", "everything else"],
            [
                (
                    r["classes"],
                    r["setup_ms"],
                    r["signatures_ms"],
                    r["agreements_ms"],
                    r["setup_ms"] - r["signatures_ms"] - r["agreements_ms"],
                )
                for r in found
            ],
        )
    )


def lanes(rows: list[dict[str, Any]]) -> str:
    found = [row for row in rows if row["kind"] in ("dense", "lanes")]
    names = {"dense": "hidden holdings, dense", "lanes": "visible holdings"}
    return (
        "## Lanes\n\nn = 16, a trunk of 2M words, 16 experts of 1M, each silo holding 4: what one silo encodes and "
        "masks.\n\n"
        + grid(["", "MB", "encode and mask"], [(names[r["kind"]], r["bytes"] / 1e6, r["upload_ms"]) for r in found])
    )


def errors(rows: list[dict[str, Any]]) -> str:
    found = [row for row in rows if row["kind"] == "error"]
    return (
        "## Error\n\nRelative L2 error of the weighted mean to float64, 1M heavy-tailed values, one clip for all of "
        "them.\n\n"
        + grid(
            ["n", "clip/rms", "32-bit ring", "float32 mean"],
            [(r["n"], r["clip_over_rms"], r["ring_error"], r["float32_error"]) for r in found],
        )
    )


def peers(found: dict[str, Any] | None) -> str:
    if found is None:
        return "## Peers\n\nNot measured in this run.\n"
    ours, flower, tenseal = found["ours"], found["flower"], found["tenseal"]
    rows: list[Sequence[Any]] = []
    for n in ours:
        ckks = {"silo_ms": tenseal["silo_ms"], "server_ms": tenseal["server_ms"][n]}
        for name, figures in (("Consilium", ours[n]), ("Flower SecAgg+", flower[n]), ("TenSEAL CKKS", ckks)):
            size = tenseal["bytes_per_value"] if figures is ckks else figures["bytes_per_value"]
            parts = [figures.get(key) for key in ("silo_ms", "add_ms", "recover_ms", "unmask_ms", "server_ms")]
            rows.append((n, name, *parts, size, figures.get("error")))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    about = (
        f"{millions(found['size'])} values, no drop-out, the same vector, in turn with ours; each side's processor "
        f"time, all threads together ({versions}). Flower's masks have 28 to 32 bits of entropy, ours 128; under CKKS "
        "as NVFlare sets it up every silo holds the key that decrypts all others. Error: the mean's, relative to "
        "float64, with Flower's default clipping range and a clip of ours that just holds the vector. Server: n "
        "additions, n secrets, n streams. Fed-BioMed is not measured."
    )
    return (
        f"## Peers\n\n{fill(about, 118, break_on_hyphens=False)}\n\n"
        + grid(
            ["n", "", "silo", "server: add one", "recover", "unmask", "total", "bytes a value", "error"],
            rows,
        )
    ).rstrip() + "\n"


def draw(path: Path, result: Result) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "consilium", "font.size": 9}
    found = [row for row in result["rows"] if row["kind"] == "sum" and row["d"] >= 1_000_000]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for colour, d in zip(("C0", "C1", "C2"), sorted({row["d"] for row in found}), strict=False):
        of = {lost: [r for r in found if r["d"] == d and (r["drop"] > 0) == lost] for lost in (False, True)}
        n = [row["n"] for row in of[False]]
        left.loglog(n, [row["mask_ms"] for row in of[False]], "o-", color=colour, label=f"{millions(d)} values")
        left.loglog(n, [row["aes_ms"] for row in of[False]], ":", color=colour, label="AES-128-CTR alone")
        right.loglog(n, [row["unmask_ms"] for row in of[False]], "o-", color=colour, label=f"{millions(d)}, all stay")
        right.loglog(n, [row["unmask_ms"] for row in of[True]], "s--", color=colour, label="a fifth dropped")
    for axes, title in ((left, "one silo masks"), (right, "the server unmasks")):
        axes.set(xlabel="silos", title=title)
        axes.set_xticks(sorted({row["n"] for row in found}), [str(n) for n in sorted({row["n"] for row in found})])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    left.set_ylabel("milliseconds, one thread")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
