"""Factories for tests: small modules that have what real ones have. To be put into ``registry.BUILT_IN``."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from silo_agent.models.description import Model

HERE = "tests.silo_agent.models.zoo"


class Odd(nn.Module):
    """A tied head, a parameter without sides, names that no wire takes, a class-weight buffer, ten similar names."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        name = "A_Long_Name_With_Capitals_That_No_Block_May_Have_And_More_Than_63_Characters"
        self.add_module(name, nn.Linear(features, features))
        self.body = getattr(self, name)
        for n in range(1, 12):
            self.add_module(f"fc{n}", nn.Linear(features, features, bias=False))
        self.embed = nn.Linear(features, classes, bias=False)
        self.head = nn.Linear(features, classes, bias=False)
        self.head.weight = self.embed.weight
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("class_weight", torch.ones(classes))
        self.register_buffer("position_ids", torch.arange(features))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(x + self.body(x).relu())
        for n in range(1, 12):
            h = h + getattr(self, f"fc{n}")(h).tanh()
        return (self.head(h) + self.embed(h)) * self.logit_scale * self.class_weight


def odd(shape: tuple[int, ...], classes: int) -> Model:
    return Model(module=Odd(shape[0], classes), roles={"fc1.*": "frozen", "fc2.weight": "local", "*": "shared"})


def half(shape: tuple[int, ...], classes: int) -> Model:
    """Weights in bfloat16."""
    module = nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, classes)).to(torch.bfloat16)
    return Model(module=module, roles={"*": "shared"}, forward=lambda module, x: module(x.to(torch.bfloat16)))


def normed(shape: tuple[int, ...], classes: int, *, momentum: float = 0.1) -> Model:
    """BatchNorm without a convolution."""
    module = nn.Sequential(nn.Linear(shape[0], 8), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU())
    module.add_module("head", nn.Linear(8, classes))
    return Model(module=module, roles={"*": "shared"})


def trunk(shape: tuple[int, ...], classes: int) -> Model:
    """A shared trunk under heads that are the experts'."""
    module = nn.Sequential()
    module.add_module("trunk", nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU()))
    module.add_module("head", nn.Linear(16, classes))
    return Model(module=module, roles={"trunk.*": "shared", "head.*": "expert"})


class Counting(nn.Module):
    """A buffer that moves in training, in place or by another tensor."""

    def __init__(self, features: int, classes: int, replace: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)
        self.register_buffer("seen", torch.zeros(()))
        self.replace = replace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.replace:
            self.seen = self.seen + len(x)
        elif self.training:
            self.seen += len(x)
        return self.layer(x)


def counting(shape: tuple[int, ...], classes: int, *, replace: bool = False) -> Model:
    return Model(module=Counting(shape[0], classes, replace))


def linear(
    shape: tuple[int, ...], classes: int, *, task: str = "multiclass", answers: int = 0, role: str = ""
) -> Model:
    """One layer, with faults on request. ``answers``: as many logits, where not ``classes``."""
    roles: Mapping[str, str] = {"*": role} if role else {"weight": "shared", "bias": "shared"}
    return Model(module=nn.Linear(shape[0], answers or classes), roles=roles, task=task)


def downloading(shape: tuple[int, ...], classes: int, *, quietly: bool = False, thread: bool = False) -> Model:
    """Looks a host up. ``quietly``: and goes on without it; ``thread``: from a thread of its own."""

    def fetch() -> None:
        with suppress(*((OSError,) if quietly or thread else (KeyError,))):
            socket.create_connection(("models.example.org", 443), timeout=1).close()

    if thread:
        helper = threading.Thread(target=fetch)
        helper.start()
        helper.join()
    else:
        fetch()
    return linear(shape, classes)


def starting(shape: tuple[int, ...], classes: int) -> Model:
    """Has another program fetch its weights."""
    subprocess.run(["curl", "https://models.example.org"], check=False)
    return linear(shape, classes)


def lacking(shape: tuple[int, ...], classes: int) -> Model:
    import monai_that_is_not_installed  # type: ignore[import-not-found]  # noqa: F401

    return linear(shape, classes)


def loading(shape: tuple[int, ...], classes: int, *, folder: str) -> Model:
    """Weights from a file, strictly."""
    from safetensors.torch import load_file

    made = linear(shape, classes)
    made.module.load_state_dict(load_file(Path(folder) / "start.safetensors"))
    return made


_NAMES = ("odd", "half", "normed", "trunk", "counting", "linear", "downloading", "starting", "lacking", "loading")
FACTORIES = {f"zoo-{name}": f"{HERE}:{name}" for name in _NAMES}
