"""What the desk's routes share: the desk itself, the session of a request, and pages in place of others."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from flask import g, redirect
from werkzeug.wrappers import Response as Answer

from jobs.desk.access import Access, Session
from jobs.desk.owner_key import OwnerKeyFile
from jobs.owner.review import OwnerView
from silo_agent.home import SiloHome


@dataclass(slots=True)
class Desk:
    """What the pages are made of. ``kit``: the silo's startup kit, for the doctor; ``deciding``: one decision at a
    time."""

    home: SiloHome
    silo: str
    access: Access
    key: OwnerKeyFile
    kit: Path | None = None
    deciding: threading.Lock = field(default_factory=threading.Lock)

    def view(self) -> OwnerView:
        """The home as it is now."""
        return OwnerView(self.home)


class Refused(Exception):
    """A page in place of the one that was asked for. ``title``, ``text``: what happened and what to do."""

    def __init__(self, status: HTTPStatus, title: str, text: str) -> None:
        self.status, self.title, self.text = status, title, text
        super().__init__(title)


def session() -> Session:
    """Of this request: it has one wherever a page is made."""
    found: Session = g.session
    return found


def see_other(where: str) -> Answer:
    return redirect(where, HTTPStatus.SEE_OTHER)
