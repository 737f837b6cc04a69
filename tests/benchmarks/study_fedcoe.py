"""FedCoE against the baselines: acquisition styles, label skew, and both together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jobs.demo import heart_data
from silo_agent import experts
from silo_agent.data import DataSet, check
from silo_agent.methods import Method
from silo_agent.methods.fedcoe import FedCoE
from tests.benchmarks import method_splits as splits
from tests.benchmarks.method_baselines import (
    IFCA,
    Ditto,
    Paired,
    alone,
    fine_tuned,
    label_shift_em,
    with_prior,
)
from tests.benchmarks.method_federation import Federated, federate, limits
from tests.benchmarks.method_splits import Source, Split
from tests.benchmarks.study import Bar, Case, Figures, Rule, Setting, difference

#: Silo → (rows, classes) probabilities on its test rows.
Answers = Callable[[str, DataSet], np.ndarray]


def accuracy(answers: Answers, sets: Mapping[str, DataSet]) -> float:
    """Per cent of all test rows, so that a silo counts by its rows."""
    right = [(answers(silo, data).argmax(axis=1) == data.y_test).sum() for silo, data in sets.items()]
    return 100.0 * float(sum(right)) / sum(len(data.y_test) for data in sets.values())


def worst(answers: Answers, sets: Mapping[str, DataSet]) -> float:
    """The accuracy of the silo that is served worst."""
    return min(accuracy(answers, {silo: data}) for silo, data in sets.items())


def of(model: Federated, mode: str) -> Answers:
    """What the silos' own method objects answer; a newcomer's is one that knows published state alone."""
    return lambda silo, data: model.methods.get(silo, model.stranger).predict(model.published, data.x_test, mode)


def prior_of(split: Split) -> np.ndarray:
    """Class proportions of all training rows: a sum that silos could open."""
    classes = split.shape["classes"]
    counts = sum(np.bincount(data.y_train, minlength=classes) for data in split.silos.values())
    return np.asarray(counts / np.sum(counts))


def adapted(answers: Answers, prior_C: np.ndarray) -> Answers:
    return lambda silo, data: label_shift_em(answers(silo, data), prior_C)


def equal_hidden(kind: type[Method], params: Mapping[str, object], silos: int) -> int:
    """Hidden width at which FedAvg's one model has as many weights as all that the method trains together."""
    plan = kind.plan(params, limits(silos))
    trained = {part.block for step in plan.steps if step.task == "train" for part in step.sums}
    size, features, classes = sum(plan.block(name).size for name in trained), params["features"], params["classes"]
    assert isinstance(features, int) and isinstance(classes, int)
    return max(1, round((size - classes) / (features + 1 + classes)))


def shared_figures(name: str, model: Federated, split: Split) -> dict[str, float]:
    """What every method is asked: the same code for all."""
    cold = of(model, "cold")
    newcomers = (
        {
            f"{name}.cold": accuracy(cold, split.strangers),
            f"{name}.cold+em": accuracy(adapted(cold, prior_of(split)), split.strangers),
        }
        if split.newcomers
        else {}
    )
    return {
        f"{name}.global": accuracy(of(model, "global"), split.silos),
        f"{name}.global+em": accuracy(adapted(of(model, "global"), prior_of(split)), split.silos),
        f"{name}.personal": accuracy(of(model, "personal"), split.silos),
        f"{name}.worst": worst(of(model, "personal"), split.silos),
        **newcomers,
        f"{name}.bytes_round": model.bytes_round,
        f"{name}.seconds": model.seconds,
    }


def compare(
    split: Split,
    params: Mapping[str, object],
    k: int,
    *,
    equal: bool = True,
    local: bool = True,
    others: bool = False,
) -> Figures:
    """FedCoE with ``k`` experts and the baselines on one split: FedAvg, at equal parameters, ``local`` ones, others."""
    base = split.shape | dict(params)
    mine = base | {"experts": k}
    runs: dict[str, tuple[type[Method], dict[str, object]]] = {"fedavg": (Paired, base), "fedcoe": (FedCoE, mine)}
    if equal:
        runs["equal"] = (Paired, base | {"hidden": equal_hidden(FedCoE, mine, len(split.silos))})
    if others:
        runs |= {
            "fedprox": (Paired, base | {"proximal": 0.1}),
            "ditto": (Ditto, base),
            "ifca": (IFCA, base | {"clusters": k}),
        }
    figures: dict[str, float] = {}
    found = {name: federate(kind, given, split.silos) for name, (kind, given) in runs.items()}
    for name, model in found.items():
        figures |= shared_figures(name, model, split)
    figures |= personal_baselines(base, found["fedavg"], split, local=local)
    fedcoe = found["fedcoe"]
    loads = np.array([fedcoe.published.slots["eval/0"][f"load-{e}"] for e in range(k)], dtype=np.float64)
    figures["fedcoe.load_cv"] = float(loads.std() / loads.mean())
    figures["fedcoe.idle"] = float((loads < 1).sum())
    return figures


def personal_baselines(
    base: Mapping[str, object], fedavg: Federated, split: Split, *, local: bool = True
) -> dict[str, float]:
    """FedAvg fine-tuned, or under the silo's label prior; with ``local`` training alone too, from FedAvg's start."""
    published, models = fedavg.published, {}
    if local:
        models["local"] = {
            silo: alone(base, silo, data, limits(len(split.silos)), fedavg.run) for silo, data in split.silos.items()
        }
    models["tuned"] = {silo: fine_tuned(base, published, silo, data) for silo, data in split.silos.items()}
    plain = Paired(base)
    prior: Answers = lambda _, data: with_prior(plain.predict(published, data.x_test, "global"), data.y_train)  # noqa: E731
    figures = {"prior.personal": accuracy(prior, split.silos), "prior.worst": worst(prior, split.silos)}
    for name, trained in models.items():
        own: Answers = lambda silo, data, trained=trained: experts.predict([trained[silo]], data.x_test)[0]  # type: ignore[misc]  # noqa: E731
        figures |= {f"{name}.personal": accuracy(own, split.silos), f"{name}.worst": worst(own, split.silos)}
    return figures


#: Model and local training: the same for every method and seed. As in the experiments that the bars come from, but that
#: digits of one style take 20 rounds, not 40.
TRAINING: Mapping[str, Mapping[str, object]] = {
    "digits, 4 styles": {"hidden": 16, "rounds": 20, "local_steps": 20, "batch": 16},
    "digits, 3 styles": {"hidden": 16, "rounds": 12, "local_steps": 20, "batch": 16},
    "digits, 1 style": {"hidden": 32, "rounds": 20, "local_steps": 20, "batch": 16},
    "mnist, 4 styles": {"hidden": 64, "rounds": 40, "local_steps": 20, "batch": 32},
    "fashion, 4 styles": {"hidden": 64, "rounds": 40, "local_steps": 20, "batch": 32},
    "heart": {"hidden": 16, "rounds": 30, "local_steps": 10, "batch": 16, "learning_rate": 0.02},
}


def pictures(
    source: Callable[[Path], Source], k: int, *, styles: int = 1, skew: float | str = "even"
) -> Callable[[int, Setting], Figures]:
    """A case: 12 silos and 4 newcomers (one a style if there are fewer styles)."""

    def run(seed: int, setting: Setting) -> Figures:
        made = source(setting.data)
        newcomers = styles if styles > 1 else 4
        split = splits.deal(made, seed, styles=splits.TURNS[:styles], skew=skew, newcomers=newcomers)
        training = {**TRAINING[f"{made.name}, {styles} style{'s' * (styles > 1)}"], "seed": seed}
        equal = styles > 1 or setting.full  # under label skew alone no bar asks for it
        local = styles == 1 or setting.full  # and under styles none for this
        return compare(split, training, k, equal=equal, local=local, others=setting.full)

    return run


def hospitals(seed: int, setting: Setting) -> Split:
    """The four hospitals' heart data; nobody is left out."""
    sets = {name: check(name, arrays) for name, arrays in heart_data.make(setting.data / "heart", seed).items()}
    return Split(sets, {}, dict.fromkeys(sets, 0))


def heart(seed: int, setting: Setting) -> Figures:
    """All four train: are they served as well as without each other?"""
    return compare(hospitals(seed, setting), {**TRAINING["heart"], "seed": seed}, 1, others=setting.full)


def heart_newcomer(seed: int, setting: Setting) -> Figures:
    """Each hospital in turn is the newcomer; figures are the mean over the four."""
    sets = hospitals(seed, setting).silos
    found = []
    for hospital in sets:
        rest = {name: data for name, data in sets.items() if name != hospital}
        split = Split(rest, {hospital: sets[hospital]}, dict.fromkeys(sets, 0))
        found.append(compare(split, {**TRAINING["heart"], "seed": seed}, 1))
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def digits(_: Path) -> Source:
    return splits.digits()


#: Of each kind of skew the suite ``test`` has one or two splits: it has five minutes.
CASES = (
    Case(name="digits rot4", run=pictures(digits, 4, styles=4)),
    Case(name="digits dir1 rot3", run=pictures(digits, 3, styles=3, skew=1.0)),
    Case(name="digits dir0.5 rot3", run=pictures(digits, 3, styles=3, skew=0.5), suites=("full",)),
    Case(name="digits path2", run=pictures(digits, 4, skew="path2"), seeds_of_test=5),
    Case(name="digits dir0.1", run=pictures(digits, 4, skew=0.1)),
    Case(name="digits dir0.5", run=pictures(digits, 4, skew=0.5), suites=("full",)),
    Case(name="mnist rot4", run=pictures(splits.mnist, 4, styles=4), suites=("full",)),
    Case(name="fashion rot4", run=pictures(splits.fashion, 4, styles=4), suites=("full",)),
    Case(name="fashion dir0.5 rot4", run=pictures(splits.fashion, 4, styles=4, skew=0.5), suites=("full",)),
    Case(name="heart", run=heart, suites=("full",)),
    Case(name="heart newcomer", run=heart_newcomer, suites=("full",)),
)


def _bars() -> list[Bar]:
    """The bars of the issue, in its order."""
    rot4 = "digits rot4"
    bars = [
        Bar(
            name="fedcoe rot4 global - fedavg", case=rot4, value=difference("fedcoe.global", "fedavg.global"), target=6
        ),
        Bar(
            name="fedcoe rot4 global - equal", case=rot4, value=difference("fedcoe.global", "equal.global"), target=2.5
        ),
        Bar(name="fedcoe rot4 global", case=rot4, value=lambda f: f["fedcoe.global"], target=91, rule=Rule.LEAST),
        Bar(
            name="fedcoe rot4 personal - tuned",
            case=rot4,
            value=difference("fedcoe.personal", "tuned.personal"),
            target=2,
        ),
        Bar(name="fedcoe rot4 cold - fedavg", case=rot4, value=difference("fedcoe.cold", "fedavg.cold"), target=5),
    ]
    both = (("digits dir1 rot3", 10, 5), ("digits dir0.5 rot3", 9, 5), ("fashion dir0.5 rot4", 5, 3))
    for case, over_fedavg, over_equal in both:
        for rival, target in (("fedavg", over_fedavg), ("equal", over_equal)):
            value = difference("fedcoe.cold", f"{rival}.cold")
            bars.append(Bar(name=f"fedcoe {case} cold - {rival}", case=case, value=value, target=target))
    for case in ("digits path2", "digits dir0.1", "digits dir0.5"):  # context-free it is the generalist: FedAvg
        value = difference("fedcoe.cold", "fedavg.cold")
        bars.append(Bar(name=f"fedcoe {case} cold - fedavg", case=case, value=value, target=-1))
        best = difference("fedcoe.personal", "local.personal", "fedavg.personal", "tuned.personal")
        bars.append(Bar(name=f"fedcoe {case} personal - best", case=case, value=best, target=-0.7))
    for case, target in (("mnist rot4", 8), ("fashion rot4", 4)):
        for mode in ("global", "cold"):
            value = difference(f"fedcoe.{mode}", f"fedavg.{mode}")
            bars.append(Bar(name=f"fedcoe {case} {mode} - fedavg", case=case, value=value, target=target))
    best = difference("fedcoe.personal", "local.personal", "fedavg.personal", "tuned.personal")
    bars.append(Bar(name="fedcoe heart personal - best", case="heart", value=best, target=-1.5))
    cold = difference("fedcoe.cold", "fedavg.cold")
    bars.append(Bar(name="fedcoe heart newcomer cold - fedavg", case="heart newcomer", value=cold, target=-1))
    return bars


BARS = tuple(_bars())
