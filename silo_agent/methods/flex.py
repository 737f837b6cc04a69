"""FLEx: federated language models with one personal expert a layer (arXiv 2506.00965, reconstructed: body not read).

Theirs, from abstract, introduction and reviews: a pretrained mixture-of-experts language model whose experts and
routers stay frozen; dense parts federated; at each silo one personal expert in every layer, pruned from the pretrained
ones by local reconstruction loss, with a sigmoid gate of its own; experts and gates stay home.
Ours: every formula; the dense parts as low-rank adapters with A fixed by the plan's seed and B averaged, so that the
mean of the adapters is the adapter of the means; the base model by digest; the aggregate of experts as an option;
fine-tuning at the end as an option.

The plan: ``rows/0``; ``train/k``, all silos' B; ``eval/0``. Data are windows of token ids: x (rows, T) and y, the token
after each (``language.windows``). What is published is the dense delta, A and B, of a base model that the job names by
digest: to predict one needs that model, in a local folder.

Modes: ``global`` and ``cold`` are the base model with the averaged adapters, gates closed; ``personal`` with this
silo's own experts active.

Shapes: B rows, T tokens of a window, C vocabulary; see ``language.transformer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from crypto.blocks import Contribution
from crypto.errors import DataRefused, SpecError
from crypto.plan import Plan, Step
from silo_agent.data import DataSet
from silo_agent.language import base_model
from silo_agent.language.shape import Shape
from silo_agent.methods import Limits, Published, batch, fits, known_mode, mean_rows, weight
from silo_agent.methods.flex_plan import BASE, MOST_NATS, NAME, NAT, plan, read
from silo_agent.training import batches, generator

if TYPE_CHECKING:
    from silo_agent.language.transformer import LanguageModel

Arrays = Mapping[str, np.ndarray]


class FLEx:
    """Lanes: ``everyone`` (adapters' B), ``fixed`` (their A, in no step), ``own`` (personal experts, never leave)."""

    name: ClassVar[str] = NAME
    display_name: ClassVar[str] = "FLEx"
    contextual: ClassVar[bool] = False

    #: The folder of base models; None: the one that CONSILIUM_MODELS names. ``use`` sets it.
    models: Path | None = None

    def __init__(self, params: Mapping[str, object], silo: str = "") -> None:
        self.params, self.base = read(params)
        self.silo = silo
        #: Personal experts and gates before round k. They never leave this silo.
        self.personal: dict[int, Arrays] = {}
        #: B and personal experts after the fine-tuning of ``eval/0``; nothing without it.
        self.tuned: tuple[Arrays, Arrays] | None = None
        self._model: LanguageModel | None = None

    @classmethod
    def plan(cls, params: Mapping[str, object], limits: Limits) -> Plan:
        return plan(params, limits)

    def use(self, models: Path) -> None:
        """Load the base model from this folder at once, so that a silo with another one fails before it takes part."""
        self.models = models
        self._net()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Personal experts of the last rounds, and what fine-tuning made."""
        kept = {f"personal/{k}/{name}": value for k, own in self.personal.items() for name, value in own.items()}
        if self.tuned is not None:
            for part, arrays in zip(("b", "grown"), self.tuned, strict=True):
                kept |= {f"tuned/{part}/{name}": value for name, value in arrays.items()}
        return kept

    def load_state_dict(self, kept: Mapping[str, np.ndarray]) -> None:
        personal: dict[int, dict[str, np.ndarray]] = {}
        tuned: dict[str, dict[str, np.ndarray]] = {"b": {}, "grown": {}}
        for key, value in kept.items():
            kind, part, name = key.split("/", 2)
            (personal.setdefault(int(part), {}) if kind == "personal" else tuned[part])[name] = value
        self.personal = dict(personal)
        self.tuned = (tuned["b"], tuned["grown"]) if tuned["b"] else None

    # --- what leaves the silo ------------------------------------------------------------------------------------

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        return {"everyone": weight(data.rows, mean_rows(published, "rows/0"))} if step.task == "train" else {}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        p, k = self.params, step.index
        fits(data, p.features, p.classes)
        train, test = self._rows(data.x_train, data.y_train), self._rows(data.x_test, data.y_test)
        if step.task == "rows":
            return Contribution({}, {"silos": 1, "rows": data.rows})
        slots = self._score("global", published, test)
        slots |= {"test.rows": len(test), "test.tokens": len(test) * p.features}
        if step.task == "eval":
            self._own(p.rounds, published, train)
            if p.finetune_steps:
                self.tuned = self.fine_tuned(published, data, p.finetune_steps)
            if p.personal or p.finetune_steps:
                slots |= self._score("personal", published, test)
            return Contribution({}, slots)
        old, own = _part(published, "b"), self._own(k, published, train)
        order = batches(data.rows, p.local_steps, p.batch, generator("batches", p.seed, self.silo, k))
        new, after = self._trained(published, old, own, train, order)
        if p.personal:
            self.personal[k + 1] = after
            for past in sorted(at for at in self.personal if at < k)[:-1]:
                del self.personal[past]
        return Contribution({f"b/{name}": new[name] - old[name] for name in new}, slots)

    def _score(self, mode: str, published: Published, rows_BT: np.ndarray) -> dict[str, int]:
        """Right next tokens, and the loss of all tokens, capped and in whole units: a silo's own stays in the sum."""
        losses_BT, right_B = self._in_mode(published, mode).scores(rows_BT, personal=mode == "personal")
        nats = float(np.minimum(losses_BT, MOST_NATS).sum())
        return {f"{mode}.correct": int(right_B.sum()), f"{mode}.loss": round(nats * NAT)}

    # --- training ------------------------------------------------------------------------------------------------

    def _own(self, k: int, published: Published, train_BT: np.ndarray) -> Arrays:
        """Personal experts before round k: those of the last round this silo trained in, or grafted now."""
        if not self.params.personal:
            return {}
        last = max((at for at in self.personal if at <= k), default=None)
        if last is None:
            self.personal[k] = self.grafted(published, train_BT)
            last = k
        return self.personal[last]

    def grafted(self, published: Published, train_BT: np.ndarray) -> Arrays:
        """In each layer a copy of the pretrained expert that best approximates the layer on this silo's tokens."""
        rows = generator("graft", self.params.seed, self.silo, 0).permutation(len(train_BT))[: self.params.graft_rows]
        net = self._adapted(published, _part(published, "b"))
        return net.seedling([int(errors_E.argmin()) for errors_E in net.errors(train_BT[np.sort(rows)])])

    def fine_tuned(self, published: Published, data: DataSet, steps: int) -> tuple[Arrays, Arrays]:
        """B and personal experts after so many more steps on this silo's rows, from where the last round left them."""
        p = self.params
        train = self._rows(data.x_train, data.y_train)
        own = self._own(p.rounds, published, train)
        order = batches(data.rows, steps, p.batch, generator("fine-tuning", p.seed, self.silo, 0))
        return self._trained(published, _part(published, "b"), own, train, order)

    def _trained(
        self, published: Published, b: Arrays, own: Arrays, train_BT: np.ndarray, order_SB: np.ndarray
    ) -> tuple[Arrays, Arrays]:
        """(B, personal experts) after this silo's steps on ``order``, both trained together."""
        net = self._adapted(published, b)
        net.graft(own)
        net.train(train_BT, order_SB, rate=self.params.learning_rate, personal_rate=self.params.personal_rate)
        return net.adapters(), net.personal()

    # --- predictions ---------------------------------------------------------------------------------------------

    def predict(self, published: Published, x: np.ndarray, mode: str) -> np.ndarray:
        """p_BC of the token after each window."""
        known_mode(mode)
        rows_BT = self._rows(batch(x, self.params.features))
        return self._in_mode(published, mode).next_token(rows_BT, personal=mode == "personal")

    def losses(self, published: Published, x: np.ndarray, y: np.ndarray, mode: str) -> np.ndarray:
        """(B, T) negative log-likelihoods in nats of each next token: what a perplexity is made of."""
        known_mode(mode)
        return self._in_mode(published, mode).scores(self._rows(x, y), personal=mode == "personal")[0]

    def _in_mode(self, published: Published, mode: str) -> LanguageModel:
        b, own = _part(published, "b"), dict[str, np.ndarray]()
        if mode == "personal":
            if self.tuned is not None:
                b, own = self.tuned  # type: ignore[assignment]
            elif self.params.personal and not self.personal:
                raise DataRefused("This silo has trained nothing yet.", remedy="Ask for cold, or take part in a run.")
            elif self.params.personal:
                own = self.personal[max(self.personal)]  # type: ignore[assignment]
        net = self._adapted(published, b)
        if own:
            net.graft(own)
        return net

    # --- the model -----------------------------------------------------------------------------------------------

    def _rows(self, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        """Token ids (B, T), or (B, T + 1) with what comes after. Raises DataRefused for what is no id."""
        parts = [x] if y is None else [x, y[:, None]]
        return base_model.tokens("The data", np.concatenate(parts, axis=1), self.params.classes)

    def _adapted(self, published: Published, b: Arrays) -> LanguageModel:
        net = self._net()
        net.adapt(_part(published, "a"), b)
        return net

    def _net(self) -> LanguageModel:
        """The base model in memory, made once. Raises SpecError where it is missing, unfit or another one."""
        if self._model is None:
            p = self.params
            if not self.base:
                raise SpecError(
                    f"params.{BASE}",
                    got=None,
                    want="the digest of the base model",
                    remedy="`python -m silo_agent.language.base_model FOLDER` prints that of a model.",
                )
            folder = base_model.find(self.models, self.base)
            found = Shape.of(base_model.read(folder))
            for name in Shape.__dataclass_fields__:
                if getattr(found, name) != getattr(p, name):
                    raise SpecError(f"params.{name}", got=getattr(p, name), want=f"{getattr(found, name)}, as the base")
            self._model = base_model.library().LanguageModel(
                folder, rank=p.rank, alpha=p.alpha, experts=bool(p.shared_experts), personal=bool(p.personal)
            )
        assert self._model is not None
        return self._model


def _part(published: Published, factor: str) -> dict[str, np.ndarray]:
    """The adapters' A or B, by matrix."""
    head = f"{factor}/"
    return {name.removeprefix(head): block for name, block in published.blocks.items() if name.startswith(head)}
