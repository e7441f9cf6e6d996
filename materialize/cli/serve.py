"""``prescore serve`` and ``prescore stop``: the look-up service and the servers that Prescore started."""

from __future__ import annotations

from typing import Annotated

import typer

from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import print_json


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on. Default: the setting lookup.host.")] = "",
    port: Annotated[
        int, typer.Option(min=-1, max=65535, help="Port to listen on. Default: the setting lookup.port.")
    ] = -1,
    workers: Annotated[
        int, typer.Option(min=0, help="Worker processes. Default: the setting lookup.workers.")
    ] = 0,
) -> None:
    """Answer look-ups over HTTP until interrupted."""
    from materialize import embedded
    from serving_lookup.server import serve as run_server

    settings = embedded.with_store(context.obj.settings())
    given = {"host": host or None, "port": port if port >= 0 else None, "workers": workers or None}
    chosen = settings.lookup.model_copy(update={k: v for k, v in given.items() if v is not None})
    run_server(settings.model_copy(update={"lookup": chosen}))


def stop(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """End the look-up service and the Valkey that Prescore started in the background."""
    from materialize import embedded

    ended = embedded.stop_all(context.obj.settings())
    if output is Output.JSON:
        print_json({"ended": ended})
        return
    stderr().print(f"Ended: {', '.join(ended)}." if ended else "Nothing was running.")
