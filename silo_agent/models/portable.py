"""A personal model as one torch module, and that as a file other programs run: ONNX, or what torch.export writes.

Both take encoded rows float32 (rows, *shape) and give the task's predictions float32: probabilities (rows, classes), of
masks (rows, classes, *sides), or a number in the target's unit (rows, 1). Each row by itself.
Running statistics are inside, as they were estimated from the silo's own rows.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from crypto.errors import SpecError
from silo_agent.models.tasks import Labels, Number, Task, output_name

#: Rows of the example that the export is traced with.
_EXAMPLE = 2


class Mixture(nn.Module):
    """Networks whose predictions are added with shares, some under a prior of the labels."""

    def __init__(self, parts: Sequence[tuple[float, nn.Module, np.ndarray | None]], task: Task) -> None:
        """``parts``: share, network (rows → answers), log prior (C,) or None. Those without a share are left out."""
        super().__init__()
        self.task = task
        used = [part for part in parts if part[0]]
        self.networks = nn.ModuleList(network for _, network, _ in used)
        self._shares = [share for share, _, _ in used]
        for at, (_, _, log_prior) in enumerate(used):
            odds = None if log_prior is None else torch.tensor(np.exp(log_prior), dtype=torch.float32)
            self.register_buffer(f"odds_{at}", odds)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        answers = []
        for at, (share, network) in enumerate(zip(self._shares, self.networks, strict=True)):
            p_BC = self._predictions(network(rows).float())
            if (odds := getattr(self, f"odds_{at}")) is not None:
                p_BC = p_BC * odds
                p_BC = p_BC / p_BC.sum(-1, keepdim=True)
            answers.append(share * p_BC)
        return torch.stack(answers).sum(0)

    def _predictions(self, answers: torch.Tensor) -> torch.Tensor:
        """In float32, as other programs have it."""
        if isinstance(self.task, Number):
            return answers * self.task.sd + self.task.mean
        if isinstance(self.task, Labels):
            return answers.sigmoid()
        return answers.softmax(1)


def _onnx(network: Mixture, example: torch.Tensor, rows: Any) -> bytes:
    output = output_name(network.task)
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise SpecError(
                "--to",
                got=f"onnx, and the package {package} is not installed",
                want="the extra [export]",
                remedy="pip install './WHEEL[export]', or --to torch, which needs nothing more.",
            )
    # The exporter names operators of torchvision that it leaves out; none of ours is one.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter calls what torch is about to rename
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["rows"],
            output_names=[output],
            dynamic_shapes=({0: rows},),
        )
    assert program is not None
    made: bytes = program.model_proto.SerializeToString()
    return made


def _exported(network: Mixture, example: torch.Tensor, rows: Any) -> bytes:
    out = BytesIO()
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: rows},)), out)
    return out.getvalue()


#: Form → bytes of a network, from an example and the symbol of its rows.
FORMS: Final[Mapping[str, Callable[[Mixture, torch.Tensor, Any], bytes]]] = {"onnx": _onnx, "torch": _exported}


def exported(network: Mixture, shape: tuple[int, ...], form: str) -> bytes:
    """The file's bytes. ``form``: one of ``FORMS``. Raises SpecError for a form, a missing package, or a network that
    cannot be exported."""
    if form not in FORMS:
        raise SpecError("--to", got=form, want=f"one of {', '.join(FORMS)}")
    example = torch.zeros((_EXAMPLE, *shape))
    try:
        with torch.no_grad():
            network.eval()
            return FORMS[form](network, example, torch.export.Dim("rows", min=1))
    except SpecError:
        raise
    except Exception as failed:
        first = (str(failed).strip().splitlines() or [""])[0][:200]
        raise SpecError(
            "fed personal export",
            got=f"{type(failed).__name__}: {first}",
            want=f"a network that {form} can express",
            remedy="Use `fed personal predict`, or another form with --to.",
        ) from failed
