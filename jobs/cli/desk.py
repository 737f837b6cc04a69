"""At a silo: the data owner's page."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import SiloHomePath


def register(silo_app: typer.Typer) -> None:
    """Add this verb to ``fed silo``."""
    silo_app.command("desk")(desk)


def desk(
    home: SiloHomePath,
    host: Annotated[
        str,
        typer.Option("--host", envvar="CONSILIUM_DESK_HOST", help="Address to listen on; default: a local one."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="CONSILIUM_DESK_PORT", help="Port to listen on; 0: any free port.")
    ] = 0,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The data owner's key, if it is on this machine; default: the one in the home."),
    ] = None,
    kit: Annotated[
        Path | None, typer.Option("--kit", envvar="CONSILIUM_KIT", help="The startup kit's folder, for the doctor.")
    ] = None,
    header: Annotated[
        str | None,
        typer.Option(
            "--behind-proxy-header",
            envvar="CONSILIUM_DESK_HEADER",
            help="Header in which your own authenticating proxy gives the user's name; instead of the token.",
        ),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy-address", envvar="CONSILIUM_DESK_PROXIES", help="Address or range of that proxy; repeatable."
        ),
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(
            "--public-host", envvar="CONSILIUM_DESK_HOSTS", help="Name that browsers ask the proxy for; repeatable."
        ),
    ] = None,
) -> None:
    """Serve the data owner's page: requests to read and decide on, data sets, runs, models, records. Until Ctrl-C."""
    from jobs.desk.server import behind, listen
    from silo_agent.home import SiloHome

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("consilium.desk").setLevel(logging.INFO)
    proxy = behind(header, address or [], public or [])
    server = listen(SiloHome(home), host=host, port=port, key=key, kit=kit, proxy=proxy)
    if proxy is None:
        print(f"Open this address in a browser of this machine; it works once:\n  {server.entrance}", flush=True)
    else:
        print(f"Waiting for the proxy at {server.address}", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve()
    print("stopped")
