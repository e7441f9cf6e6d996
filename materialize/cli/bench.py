"""``prescore bench``: measure beside peers, in one run on this machine."""

from __future__ import annotations

import typer

from materialize.cli import (
    bench_features,
    bench_lookup,
    bench_publish,
    bench_ranking,
    bench_scale,
    bench_scorer,
    bench_training,
)

app = typer.Typer(no_args_is_help=True, help="Measure Prescore beside its peers, interleaved, in one run.")
for part in (
    bench_features,
    bench_training,
    bench_ranking,
    bench_scorer,
    bench_scale,
    bench_publish,
    bench_lookup,
):
    part.register(app)
