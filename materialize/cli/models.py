"""``prescore models``: list, show, compare, promote, retire and import models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit, print_json, print_table
from materialize.cli.progress import RichProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from materialize.models.records import Promotion, PromotionGate, RegisteredModel

REJECTED = 3

app = typer.Typer(
    no_args_is_help=True,
    help="List, compare, promote, retire and import models; 'champion' is what is scored with.",
)

ModelArgument = Annotated[str, typer.Argument(help="'champion', 'challenger', an id, or its first digits.")]


def model_row(model: RegisteredModel) -> dict[str, object]:
    """What people want to know of a model, in one row; also its JSON form."""
    measured = model.metrics.get("methods", {}).get("model", {})
    against = model.metrics.get("against_best", {}).get("served", {})
    return {
        "model_id": model.id,
        "alias": ", ".join(model.aliases),
        "trained_up_to": model.lineage.get("cutoff"),
        "ndcg@10": measured.get("ndcg@10"),
        "recall@50": measured.get("recall@50"),
        "coverage@10": measured.get("coverage@10"),
        "gain over best baseline": against.get("gain"),
        "generations": len(model.generations),
        "live": model.live,
        "registered_at": model.created_at,
        "retired": model.retired_reason or None,
    }


def gate_rows(gates: Sequence[PromotionGate]) -> list[dict[str, object]]:
    """What promotion gates measured, in rows; also their JSON form."""
    return [dataclasses.asdict(gate) for gate in gates]


def promotion_row(promotion: Promotion) -> dict[str, object]:
    """A decision in one row; also its JSON form, with the gates."""
    return {
        "model_id": promotion.model_id,
        "verdict": promotion.verdict,
        "previous_id": promotion.previous or None,
        "champion_id": promotion.champion or None,
        "reason": promotion.reason,
        "decided_at": promotion.decided_at,
    }


def show_promotion(promotion: Promotion) -> None:
    """Print a decision and what it rests on."""
    if promotion.gates:
        print_table("Challenger against champion", gate_rows(promotion.gates))
    said = {
        "promoted": "is the champion",
        "by_hand": "is the champion, by hand",
        "refused": "stays a challenger",
    }[promotion.verdict]
    print_table(f"Model {promotion.model_id} {said}", [promotion_row(promotion)])


@app.command("list")
def list_(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """All models, newest first: their quality where it was measured, and what they are used for."""
    from materialize.models.registry import Registry

    settings = context.obj.settings()
    rows = [model_row(model) for model in Registry.open(settings).models()]
    emit(output, rows, f"Models of {settings.model}", rows)


@app.command("show")
def show(
    context: typer.Context, model: ModelArgument = "champion", output: OutputOption = Output.TEXT
) -> None:
    """One model: where it comes from, how good it is, what was made with it, and what was decided about it."""
    from materialize import walk
    from materialize.models.promotion import load_bundle
    from materialize.models.registry import Registry

    settings = context.obj.settings()
    registry = Registry.open(settings)
    found = registry.find(model)
    promotions = registry.promotions(found.id)
    bundle = load_bundle(settings, found)  # says so if it is damaged
    if output is Output.JSON:
        document = model_row(found) | {
            "path": str(bundle.path),
            "features": bundle.schema.names,
            "exclude_seen": bundle.exclude_seen,
            "lineage": found.lineage,
            "metrics": found.metrics,
            "generations": list(found.generations),
            "promotions": [promotion_row(p) | {"gates": gate_rows(p.gates)} for p in promotions],
        }
        print_json(document)
        return
    facts = model_row(found) | {"features": len(bundle.schema.columns), "path": str(bundle.path)}
    print_table(f"Model {found.id}", [{"": key, "value": value} for key, value in facts.items()])
    lineage = [
        {"from": part, "what": name, "value": value if isinstance(value, str) else repr(value)}
        for part in ("feature_builds", "data", "parameters", "libraries")
        for name, value in found.lineage.get(part, {}).items()
    ]
    print_table(
        "Lineage", [*lineage, {"from": "code", "what": "version", "value": bundle.lineage.code_version}]
    )
    if "methods" in bundle.metrics:
        print_table("Ranking quality", walk.quality_rows(bundle))
    print_table("Generations", [{"generation": name} for name in found.generations])
    print_table("Decisions", [promotion_row(promotion) for promotion in promotions])


@app.command("compare")
def compare(
    context: typer.Context,
    challenger: ModelArgument = "challenger",
    champion: ModelArgument = "champion",
    output: OutputOption = Output.TEXT,
) -> None:
    """Measure two models on the same window, users and candidates, against the gates; changes nothing."""
    from materialize.models.comparison import compare_models
    from materialize.models.promotion import load_bundle
    from materialize.models.registry import Registry

    settings = context.obj.settings()
    registry = Registry.open(settings)
    old, new = (load_bundle(settings, registry.find(reference)) for reference in (champion, challenger))
    with RichProgress() as progress:
        found = compare_models(settings, old, new, progress)
    rows = gate_rows(found.gates)
    document = {
        "champion_id": old.id,
        "challenger_id": new.id,
        "window": {"start": found.window.start, "end": found.window.end},
        "users": found.users,
        "failed": found.failed,
        "unfit": found.unfit,
        "gates": rows,
    }
    if found.unfit:
        rows = [{"model_id": old.id, "fits": False, "why": found.unfit}]
    days = f"{found.window.start:%Y-%m-%d} to {found.window.end:%Y-%m-%d}"
    emit(output, document, f"{new.id} against {old.id} on {days}, {found.users:,} users", rows)


@app.command("promote")
def promote(
    context: typer.Context,
    model: ModelArgument = "challenger",
    reason: Annotated[
        str, typer.Option("--reason", help="Promote by hand, without the gates; recorded.")
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a model the champion if it is at least as good as the present one; exit code 3 if it is not."""
    from materialize.models.promotion import promote as decide

    settings = context.obj.settings()
    with RichProgress() as progress:
        promotion = decide(settings, model, reason=reason, progress=progress)
    if output is Output.JSON:
        print_json(promotion_row(promotion) | {"gates": gate_rows(promotion.gates)})
    else:
        show_promotion(promotion)
    if promotion.verdict == "refused":
        raise typer.Exit(REJECTED)


@app.command("retire")
def retire(
    context: typer.Context,
    model: ModelArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; recorded.")],
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a model out of use: nothing is scored with it or compared with it. Its bundle stays."""
    from materialize.models.registry import Registry

    registry = Registry.open(context.obj.settings())
    row = model_row(registry.retire(registry.find(model).id, reason))
    emit(output, row, "Retired", [row])


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="XGBoost (.ubj, .json), LightGBM (.txt) or Treelite checkpoint (.tl).")
    ],
    schema: Annotated[
        Path,
        typer.Option("--schema", help="JSON: scope, and vocabulary, of each of its features, in its order."),
    ],
    cutoff: Annotated[
        str,
        typer.Option(
            "--cutoff", help="It was trained on events before this instant. Default: it may know all of them."
        ),
    ] = "",
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Lists leave out what the user already has.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Turn a model that was trained elsewhere into a bundle, and make it the challenger."""
    from materialize.cutoffs import parse_cutoff
    from materialize.models.import_model import import_file
    from materialize.models.registry import Registry

    settings = context.obj.settings()
    bundle = import_file(
        settings,
        file,
        schema,
        trained_before=parse_cutoff(cutoff) if cutoff else None,
        exclude_seen=exclude_seen,
    )
    row = model_row(Registry.open(settings).find(bundle.id))
    emit(output, row, "Imported", [row])
