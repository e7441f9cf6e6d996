"""``prescore features``: build feature tables, and put the online ones into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from materialize.cli.context import CutoffOption, Output, OutputOption, stderr
from materialize.cli.output import print_json, print_table
from materialize.cli.progress import RichProgress

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild

app = typer.Typer(
    no_args_is_help=True, help="Build features as of a cut-off; put the online ones into the store."
)


@app.command("build")
def build(context: typer.Context, cutoff: CutoffOption = "", output: OutputOption = Output.TEXT) -> None:
    """Compute the feature tables as of a cut-off (a build that is there already is reused)."""
    from materialize import walk

    settings = context.obj.settings()
    with RichProgress() as progress:
        built = walk.build_features(settings, walk.resolve_cutoff(settings, cutoff), progress)
    _show(output, built)


@app.command("materialize")
def materialize(
    context: typer.Context, cutoff: CutoffOption = "", output: OutputOption = Output.TEXT
) -> None:
    """Put the online features of a build into the store, where a look-up that misses finds them."""
    from materialize import embedded, walk

    settings = embedded.with_store(context.obj.settings())
    with RichProgress() as progress:
        built = walk.build_features(settings, walk.resolve_cutoff(settings, cutoff), progress)
        stored = walk.publish_features(settings, built, progress)
    if stored.fingerprint != built.fingerprint:
        stderr().print(f"The store holds newer features, as of {stored.cutoff}: left as they are.")
    _show(output, built)


def _show(output: Output, built: FeatureBuild) -> None:
    rows = {name: entry.rows for name, entry in built.manifest.files.items()}
    if output is Output.JSON:
        print_json(
            {
                "cutoff": built.manifest.cutoff,
                "path": str(built.path),
                "fingerprint": built.fingerprint,
                "rows": rows,
            }
        )
    else:
        print_table(
            f"Features as of {built.manifest.cutoff}", [{"file": n, "rows": r} for n, r in rows.items()]
        )
