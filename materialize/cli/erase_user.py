"""``prescore erase-user``: remove a user everywhere, and show the proof."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from features.errors import NotFoundError
from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit, print_json, print_table
from materialize.cli.progress import RichProgress


def erase_user(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    readmit: Annotated[
        bool, typer.Option("--readmit", help="Instead, forget that the user was erased: let them in again.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remove a user from the store, every kept generation, all feature builds and tables; then search for what is left.

    An erasure that was interrupted is finished by the same command, or by the next publication. The tables of
    events and users are yours: remove the user there too. Until then each run leaves the user out.
    """
    from materialize import embedded, walk

    settings = context.obj.settings()
    if readmit:
        if not walk.readmit_user(settings, user):
            raise NotFoundError("no erasure of this user is on record")
        emit(output, {"readmitted": user}, "Counts again from the next run on", [{"user_id": user}])
        return
    settings = embedded.with_store(settings)
    with RichProgress() as progress:
        proof = walk.erase_user(settings, user, progress)
    searched = [asdict(place) for place in proof.searched]
    if output is Output.JSON:
        print_json({"erasure": proof.erasure, "removed": proof.removed, "searched": searched})
    else:
        print_table("Removed", [{"from": name, "rows or keys": n} for name, n in proof.removed.items()])
        rows = [
            {
                "searched": place.place,
                "how much": f"{place.searched:,} {place.unit}",
                "found": place.found,
                "": "" if not place.found else "yours to remove",
            }
            for place in proof.searched
        ]
        print_table(f"Proof of erasure no. {proof.erasure}", rows)
    if proof.in_sources:
        stderr().print(
            f"Your own tables still have {proof.in_sources:,} rows of this user. Every run leaves the user out, but "
            "item counts and training see these rows until you remove them."
        )
