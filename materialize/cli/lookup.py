"""``prescore lookup``: ask the look-up service as an application would, and show the answer with names."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from features.errors import NotFoundError, RetryableError
from materialize.cli.context import Output, OutputOption, stderr, stdout
from materialize.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from materialize.cli.context import CommandContext
    from serving_lookup.client import Recommendations


def lookup(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The user's id.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many items.")] = 10,
    url: Annotated[
        str, typer.Option("--url", help="Address of the service. Default: the one in the background.")
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Look a user up over HTTP; starts the service in the background if none runs."""
    from serving_lookup.client import LookupClient

    settings = context.obj.settings()
    with LookupClient(url or background_service(context.obj), settings.model) as client, _unpublished_said():
        answer = client.recommendations(user, k=k, fields=("title",))
    if output is Output.JSON:
        print_json(answer.to_dict())
    else:
        show_answer(user, answer)


@contextmanager
def _unpublished_said() -> Iterator[None]:
    """Turn a service that has nothing to serve into what there is to do about it."""
    try:
        yield
    except RetryableError as error:
        if "No generation can be served" not in error.got:
            raise
        raise NotFoundError(
            "there is nothing to look up yet",
            expected="a published generation",
            got=error.got,
            fix="publish one with 'prescore run', or try 'prescore demo'",
        ) from error


def background_service(context: CommandContext) -> str:
    """Address of the look-up service of these settings, started if need be."""
    from materialize import embedded

    settings = context.settings()
    known = embedded.service(settings)
    found = known or embedded.start_service(embedded.with_store(settings), context.file)
    if known is None:
        stderr().print(
            f"Started the look-up service at http://{found.host}:{found.port} ('prescore stop' ends it)."
        )
    return f"http://{found.host}:{found.port}"


def show_answer(user: str, answer: Recommendations) -> None:
    """An answer as a table, with where it came from."""
    rows = [
        {"rank": rank, "item_id": item.item_id, "score": item.score, "title": item.title or ""}
        for rank, item in enumerate(answer.items, 1)
    ]
    print_table(f"User {user}: {answer.source}", rows)
    stdout().print(f"  [dim]{escape(provenance(answer))}[/dim]")


def provenance(answer: Recommendations) -> str:
    """Where an answer came from, in one line."""
    return (
        f"source {answer.source} · generation {answer.generation} · model {answer.model} · "
        f"features as of {answer.feature_cutoff} · {answer.age_seconds:,.0f} s old"
    )
