"""``prescore run``: the whole walk, from three tables to live look-ups."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer
from rich.markup import escape

from features.errors import NotFoundError
from materialize.cli.context import CommandContext, CutoffOption, Output, OutputOption, stderr, stdout
from materialize.cli.lookup import background_service, provenance
from materialize.cli.models import gate_rows, promotion_row, show_promotion
from materialize.cli.output import print_json, print_table
from materialize.cli.progress import RichProgress

if TYPE_CHECKING:
    from features.sources import SourceReport
    from materialize.examples import ExampleUsers
    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings
    from materialize.walk import WalkResult
    from serving_lookup.client import Recommendations

SHOWN = 10


def run(context: typer.Context, cutoff: CutoffOption = "", output: OutputOption = Output.TEXT) -> None:
    """Build features, train, score every user against every item, publish, check, flip, and look three users up."""
    walk_and_show(context.obj, cutoff, output)


def walk_and_show(context: CommandContext, cutoff: str, output: Output) -> None:
    """Run the walk of these settings and show what it did, how good the ranking is, and three answers."""
    from materialize import walk

    settings = context.publishing_settings()
    with RichProgress() as progress:
        result = walk.walk(settings, cutoff, progress)
    stages = [stage.row() for stage in progress.stages]
    if output is Output.TEXT:
        print_table("What was read", read_rows(result.report))
        print_table("What each stage did", stages)
        show_quality(settings, result.bundle)
        if result.promotion.gates:
            show_promotion(result.promotion)
        catalogue = walk.open_catalogue(settings)
        kind = result.generation.kind
        print_table(f"What the {kind} generation took", [walk.work_row(catalogue, result.generation)])
        print_table("Gates", walk.gate_rows(catalogue, result.generation.id))
    answers = _look_up(context, settings.model, result.examples)
    if output is Output.JSON:
        print_json(
            {
                "generation": result.generation.id,
                "kind": result.generation.kind,
                "state": result.generation.state,
                "model_id": result.bundle.id,
                "metrics": result.bundle.metrics,
                "promotion": promotion_row(result.promotion) | {"gates": gate_rows(result.promotion.gates)},
                "read": read_rows(result.report),
                "stages": stages,
                "lookups": {user: answer.to_dict() for user, answer in answers.items()},
            }
        )
        return
    if answers:
        _show_answers(result, answers)
        _what_next(context, result)


def read_rows(report: SourceReport) -> list[dict[str, object]]:
    """Rows of each table that were read, kept and left out, and why."""
    return [
        {
            "table": table,
            "read": read,
            "kept": report.rows_kept[table],
            "left out": read - report.rows_kept[table],
            "why": "; ".join(f"{f.rows:,} {f.reason}" for f in report.findings if f.table == table),
        }
        for table, read in report.rows_read.items()
    ]


def quality_title(bundle: ModelBundle) -> str:
    """What the table of ranking quality was measured on."""
    if "window" not in bundle.metrics:
        return f"Ranking quality: model {bundle.id} was imported and not evaluated"
    window = bundle.metrics["window"]
    days = f"{window['start'][:10]} to {window['end'][:10]}"
    return f"Ranking quality on {days}, which training has not seen ({window['users']:,} users)"


def show_quality(settings: Settings, bundle: ModelBundle) -> None:
    """How well a model ranks, what was chosen from the data and why, and where its report is."""
    from materialize import walk
    from materialize.training.report import report_path
    from materialize.training.verdicts import verdicts

    if "window" not in bundle.metrics:  # a model that was trained elsewhere
        return
    print_table(f"Model {bundle.id}. {quality_title(bundle)}", walk.quality_rows(bundle))
    for sentence in verdicts(bundle.metrics):
        stdout().print(f"  {sentence}", soft_wrap=True)
    page = report_path(settings, bundle.id)
    if page.exists():
        stdout().print(f"\n  The whole report: {page}", soft_wrap=True)
    stdout().print()
    choices = [{**choice, "value": str(choice["value"])} for choice in bundle.metrics.get("choices", [])]
    if choices:
        print_table("Chosen from the data", choices)


def _look_up(context: CommandContext, model: str, examples: ExampleUsers) -> dict[str, Recommendations]:
    from serving_lookup.client import LookupClient

    users = [
        user for user in (examples.precomputed, examples.on_demand, examples.unknown) if user is not None
    ]
    with LookupClient(background_service(context), model) as client:
        try:
            return {user: client.recommendations(user, k=SHOWN, fields=("title",)) for user in users}
        except NotFoundError:
            # The service that runs here is another model's, of which this one may be an arm.
            stderr().print(
                f"Published. The look-up service here serves another model; 'prescore rules arms' can give {model!r} "
                "a share of its users."
            )
            return {}


def _show_answers(result: WalkResult, answers: dict[str, Recommendations]) -> None:
    stdout().print("[bold]Three look-ups over HTTP[/bold]\n")
    meaning = {
        result.examples.precomputed: "was precomputed",
        result.examples.on_demand: "has not been seen for a while, so nothing was precomputed: scored on demand",
        result.examples.unknown: "is nobody we know: the default list",
    }
    for user, answer in answers.items():
        history = result.examples.history.get(user, [])
        had = {entry.item_id: entry.events for entry in history}
        rows: list[dict[str, object]] = []
        for rank, item in enumerate(answer.items):
            rows.append({"rank": rank + 1, "recommended": item.title or item.item_id, "score": item.score})
            if history:
                past = history[rank] if rank < len(history) else None
                rows[-1] |= {
                    "had before": had.get(str(item.item_id), 0),
                    "most often had": past and past.title,
                    "times": past and past.events,
                }
        print_table(f"User {user} {meaning[user]}", rows)
        stdout().print(f"  [dim]{escape(provenance(answer))}[/dim]\n")


def sql_literal(user: str, id_type: str) -> str:
    """A user's id as it stands in a query."""
    return user if id_type == "int64" else "'" + user.replace("'", "''") + "'"


def _quoted(text: str) -> str:
    # Single quotes are common in SQL, and shlex makes them hard to read.
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _what_next(context: CommandContext, result: WalkResult) -> None:
    address = background_service(context)
    # The shortest command that works from here: a settings file in this folder needs no naming.
    command = "prescore" if shutil.which("prescore") else sys.argv[0]
    given = ["--settings", str(context.settings_file)] if context.settings_file else []
    prescore = shlex.join([command, *given])
    user = result.examples.precomputed
    end = ["--"] if user.startswith("-") else []
    query = f"from recommendations where user_id = {sql_literal(user, result.bundle.schema.user_id_type)}"
    path = f"/v1/models/{result.generation.model}/users/{quote(user, safe='')}/recommendations?k=5"
    console = stdout()
    console.print("[bold]What next[/bold]")
    for step, meaning in (
        (f"{prescore} {shlex.join(['lookup', *end, user])}", "look a user up"),
        (f"curl '{address}{path}'", "the same over HTTP"),
        (f"{prescore} sql {_quoted(query)}", "ask in SQL"),
        (f"{prescore} generations list", "what was published, and roll back"),
        (f"open {address}/docs", "the service's API"),
        ("make airflow", "schedule it"),
        (f"{prescore} stop", "end the service and the store"),
    ):
        console.print(f"  {escape(step)}  [dim]{escape(meaning)}[/dim]", soft_wrap=True)
    stderr().print(f"\nThe look-up service answers at {address}")
