"""FLEx: language models of experts, and what a personal expert a layer is worth at a third of FedAvg's bytes.

Perplexities, geometric means over silos, each on its own test windows. All arms start from one base model, trained here
on public text; all train the same steps at the same rates, the method's defaults:

- ``fedavg``: adapters of everything, the experts' too, averaged; no personal expert;
- ``flex``: dense adapters averaged, a personal expert a layer; ``grafted``: both, the experts' adapters averaged too;
- ``local``: adapters of everything, averaged with nobody, as many steps more as the others' fine-tuning; ``oracle`` is
  its best round by each silo's own test windows, which nobody could choose.

``global``: published state; ``personal``: with what the silo kept; ``tuned``: after as many steps on its own rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jobs.demo import language_base_model, language_data
from jobs.demo.language_baselines import EVERYTHING, alone
from silo_agent.data import DataSet, check
from silo_agent.language.base_model import windows
from silo_agent.language.shape import Shape
from silo_agent.methods import Published
from silo_agent.methods.flex import FLEx
from tests.benchmarks.method_federation import federate
from tests.benchmarks.study import Bar, Case, Figures, Rule, Setting

#: Bytes, 130 k parameters; and the demonstration's letters, 20 k.
BYTES = Shape(
    classes=256, hidden=48, layers=2, heads=4, key_value_heads=2, experts=4, expert_width=48, shared_width=24
)  # fmt: skip
LETTERS = Shape(
    classes=27, hidden=32, layers=2, heads=2, key_value_heads=2, experts=4, expert_width=32, shared_width=16
)  # fmt: skip

#: Texts of the data folder and their digests; the fourth domain is the source of Python's own library.
TEXTS = {
    "shakespeare": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "infantry_drill_1911": "1d2486aeaa652fdf4b65e3aba7309065733485fcbd7cbffb1befff6185cf9fb2",
    "entre_nous_fr": "d01464226d654e1ff5975a4624814f4ca526d6ed55f9f1408a13828cd2d20c76",
}
CONTEXT, TEST_ROWS = 32, 128

#: Of each text: the first tenth is public, the last sixth for tests, what lies between belongs to its silos.
PUBLIC, TESTED = 1 / 10, 1 / 6

ARMS: Mapping[str, Mapping[str, int]] = {
    "fedavg": {"personal": 0, "shared_experts": 1},
    "flex": {"personal": 1, "shared_experts": 0},
    "grafted": {"personal": 1, "shared_experts": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One split: each silo's rows, public rows for the base model, its shape, and how long everybody trains."""

    silos: Mapping[str, DataSet]
    public: np.ndarray
    shape: Shape
    pretraining: int
    rounds: int
    local_steps: int
    finetune_steps: int


@contextmanager
def based(texts: Texts, seed: int) -> Iterator[tuple[type[FLEx], str]]:
    """FLEx beside the base model of this split, and that model's digest."""
    with TemporaryDirectory(prefix="consilium-") as place:
        made = language_base_model.train(
            Path(place), texts.shape, texts.public, seed, steps=texts.pretraining, batch=32, rate=3e-3
        )
        yield type("FLEx", (FLEx,), {"models": made.parent}), made.name


def perplexity(losses: Mapping[str, float]) -> float:
    return float(np.exp(np.mean(list(losses.values()))))


def compare(texts: Texts, seed: int, *, full: bool) -> Figures:
    """All arms; those that the bars of the suite ``test`` are about unless ``full``."""
    figures: dict[str, float] = {}
    with based(texts, seed) as (kind, base):
        shared = asdict(texts.shape) | {
            "features": next(iter(texts.silos.values())).features,
            "rounds": texts.rounds,
            "local_steps": texts.local_steps,
            "base": base,
            "seed": seed,
        }
        for arm, how in ARMS.items():
            if arm == "grafted" and not full:
                continue
            model = federate(kind, shared | how, texts.silos)
            seen: dict[str, dict[str, float]] = {"global": {}, "personal": {}, "tuned": {}}
            for silo, data in texts.silos.items():
                member = model.methods[silo]
                assert isinstance(member, FLEx)
                for mode in ("global", "personal"):
                    seen[mode][silo] = _loss(member, model.published, data, mode)
                member.tuned = member.fine_tuned(model.published, data, texts.finetune_steps)
                seen["tuned"][silo] = _loss(member, model.published, data, "personal")
            figures |= {f"{arm}.{mode}": perplexity(losses) for mode, losses in seen.items()}
            figures |= {f"{arm}.bytes_round": model.bytes_round, f"{arm}.seconds": model.seconds}
        if full:
            figures |= _alone(texts, kind, shared, model.run)
    return figures


def _alone(texts: Texts, kind: type[FLEx], shared: Mapping[str, object], run: bytes) -> Figures:
    """Every silo for itself, from the first adapters of ``run``: after the rounds, after as many steps more as
    fine-tuning has, and at its best round."""
    more = texts.rounds + texts.finetune_steps // texts.local_steps
    paths = {}
    for silo, data in texts.silos.items():
        member = kind({**shared, **EVERYTHING, "rounds": more}, silo)
        paths[silo] = [_loss(member, state, data, "global") for state in alone(member, data, run)]
    return {
        "local.personal": perplexity({silo: path[texts.rounds - 1] for silo, path in paths.items()}),
        "local.tuned": perplexity({silo: path[-1] for silo, path in paths.items()}),
        "local.oracle": perplexity({silo: min(path) for silo, path in paths.items()}),
    }


def _loss(member: FLEx, published: Published, data: DataSet, mode: str) -> float:
    return float(member.losses(published, data.x_test, data.y_test, mode).mean())


# --- splits ----------------------------------------------------------------------------------------------------------


def dialects(seed: int, setting: Setting) -> Figures:
    """Four silos, a dialect each, of the demonstration's language."""
    silos = {name: check(name, arrays) for name, arrays in language_data.make(4, 1000 + seed, newcomers=0).items()}
    x, y = language_data.rows(None, 1280, np.random.default_rng([seed, 9]))
    public = np.concatenate([x, y[:, None]], axis=1)
    return compare(
        Texts(
            silos=silos,
            public=public,
            shape=LETTERS,
            pretraining=200,
            rounds=8,
            local_steps=10,
            finetune_steps=40,
        ),
        seed,
        full=setting.full,
    )


def texts(silos_a_domain: int, rows: int) -> Callable[[int, Setting], Figures]:
    """Silos with ``rows`` windows each of one of four texts, as bytes."""

    def run(seed: int, setting: Setting) -> Figures:
        silos, public = {}, []
        for at, (domain, text) in enumerate(_domains(setting.data).items()):
            rng = np.random.default_rng([seed, at])
            first, last = round(len(text) * PUBLIC), round(len(text) * (1 - TESTED))
            public.append(np.column_stack(windows(text[:first], CONTEXT, stride=11)))
            own, tested = _shuffled(text[first:last], rng), _shuffled(text[last:], rng)
            for part in range(silos_a_domain):
                train = own[part * rows : (part + 1) * rows]
                test = tested[part * TEST_ROWS : (part + 1) * TEST_ROWS]
                arrays = {"x_train": train[:, :-1], "y_train": train[:, -1], "x_test": test[:, :-1]}
                silos[f"{domain.replace('_', '-')}-{part + 1}"] = check(
                    domain, arrays | {"y_test": test[:, -1], "classes": np.array(256)}
                )
        least = min(len(windows_) for windows_ in public)
        mixed = np.concatenate([np.random.default_rng([seed, 7]).permutation(some)[:least] for some in public])
        return compare(
            Texts(
                silos=silos,
                public=mixed,
                shape=BYTES,
                pretraining=400,
                rounds=12,
                local_steps=20,
                finetune_steps=60,
            ),
            seed,
            full=setting.full,
        )

    return run


def _shuffled(text: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shuffled: np.ndarray = rng.permutation(np.column_stack(windows(text, CONTEXT)))
    return shuffled


@cache
def _domains(folder: Path) -> dict[str, np.ndarray]:
    """Domain → its bytes as tokens. SystemExit for texts that are not there, or others."""
    found = {}
    for name, expected in TEXTS.items():
        path = folder / "text" / f"{name}.txt"
        if not path.is_file():
            raise SystemExit(f"{path} is not there: --data DIR names the folder with the benchmark's data.")
        data = path.read_bytes()
        if (digest := sha256(data).hexdigest()) != expected:
            raise SystemExit(f"{path} has SHA-256 {digest}; this benchmark was written for {expected}.")
        found[name] = np.frombuffer(data, np.uint8).astype(np.int64)
    library = sorted(Path(os.__file__).parent.glob("*.py"))
    source = b"".join(path.read_bytes() for path in library)[:400_000]
    return found | {"python": np.frombuffer(source, np.uint8).astype(np.int64)}


# --- cases and bars --------------------------------------------------------------------------------------------------

DIALECTS, PLENTY, SCARCE = "dialects", "four texts, a silo each", "four texts, two silos each, 15 kB a silo"

CASES = (
    Case(name=DIALECTS, run=dialects, seeds=(0, 1, 2)),
    Case(name=PLENTY, run=texts(1, 2048), suites=("full",)),
    Case(name=SCARCE, run=texts(2, 15_000 // (CONTEXT + 1)), suites=("full",)),
)


def _ratio(case: str, what: str, ours: str, theirs: str, most: float) -> Bar:
    return Bar(
        name=f"{case}: {what}", case=case, value=lambda f: f[ours] / f[theirs], target=most, rule=Rule.MOST
    )  # fmt: skip


def _bars(case: str) -> tuple[Bar, ...]:
    return (
        _ratio(case, "perplexity ≤ .88 FedAvg", "flex.personal", "fedavg.global", 0.88),
        _ratio(case, "at ≤ 40 % of the bytes", "flex.bytes_round", "fedavg.bytes_round", 0.40),
        _ratio(case, "fine-tuned ≤ 1.02 FedAvg + fine-tuning", "flex.tuned", "fedavg.tuned", 1.02),
    )


BARS = (
    *_bars(DIALECTS),
    *_bars(PLENTY),
    _ratio(SCARCE, "grafted and fine-tuned ≤ alone, stopped by an oracle", "grafted.tuned", "local.oracle", 1.0),
)
