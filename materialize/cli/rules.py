"""``prescore rules``: what running look-up services leave out, cap and split, changed without a restart."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from features.errors import SettingsError, SourceError
from materialize.cli.context import Output, OutputOption
from materialize.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.publish.serving_rules import Arm, ServingRules

app = typer.Typer(
    no_args_is_help=True,
    help="Stock, allow and deny lists, caps and arms of running look-up services; followed within a second.",
)


class ItemList(StrEnum):
    """Lists of items that the rules hold."""

    UNAVAILABLE = "unavailable"
    DENY = "deny"
    ALLOW = "allow"


@app.command("show")
def show(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """The rules that services follow now."""
    from materialize import embedded
    from materialize.publish.rules_writer import read_rules

    show_rules(read_rules(embedded.with_store(context.obj.settings())), output)


@app.command("items")
def items(
    context: typer.Context,
    which: Annotated[ItemList, typer.Argument(help="Which list.")],
    add: Annotated[list[str] | None, typer.Option("--add", help="An item's id; may be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="Likewise.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Replace the list by this file's lines, an id each.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Empty the list first.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change a list of items: out of stock, denied, or the only ones allowed."""

    def changed(rules: ServingRules) -> ServingRules:
        held = [] if clear or file is not None else [str(item) for item in getattr(rules, which) or ()]
        wanted = dict.fromkeys([*held, *_lines(file), *(add or ())])
        left = tuple(item for item in wanted if item not in set(remove or ()))
        # An empty list of what is allowed would allow nothing; clearing it allows all.
        value = None if which is ItemList.ALLOW and not left else left
        return msgspec.structs.replace(rules, **{which.value: value})

    _change(context, changed, output)


@app.command("arms")
def arms(
    context: typer.Context,
    shares: Annotated[
        list[str] | None,
        typer.Argument(
            help="MODEL=WEIGHT each, such as recommendations=90 challenger=10; MODEL=WEIGHT:base gives the base "
            "model's list where the arm has none. None at all: the experiment ends."
        ),
    ] = None,
    experiment: Annotated[
        str, typer.Option("--experiment", help="Its name; another name deals users out anew.")
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Split users between models, by the hash of their ids."""
    wanted = tuple(_arm(share) for share in shares or ())
    _change(context, lambda rules: msgspec.structs.replace(rules, arms=wanted, experiment=experiment), output)


@app.command("cap")
def cap(
    context: typer.Context,
    caps: Annotated[
        list[str] | None, typer.Argument(help="COLUMN=NUMBER each, such as category=3. None at all: no cap.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let at most so many items of a list share a value of a group column."""
    at_most = {}
    for text in caps or ():
        column, _, most = text.rpartition("=")
        if not column or not most.isdigit():
            raise SettingsError("a cap cannot be read", expected="COLUMN=NUMBER", got=text)
        at_most[column] = int(most)
    _change(context, lambda rules: msgspec.structs.replace(rules, at_most=at_most), output)


@app.command("clear")
def clear(context: typer.Context, output: OutputOption = Output.TEXT) -> None:
    """End all rules: every item may be given, and the service's own model has all users."""
    from materialize.publish.serving_rules import ServingRules

    _change(context, lambda _: ServingRules(), output)


def show_rules(rules: ServingRules, output: Output) -> None:
    """The rules as a table or as the document that is in the store."""
    rows = [
        *({"rule": which.value, "value": _listed(getattr(rules, which))} for which in ItemList),
        *({"rule": f"at most, by {column}", "value": str(most)} for column, most in rules.at_most.items()),
        *(
            {"rule": f"arm {arm.model}", "value": f"{arm.weight:g}, absent: {arm.absent}"}
            for arm in rules.arms
        ),
    ]
    if rules.experiment:
        rows.append({"rule": "experiment", "value": rules.experiment})
    emit(output, msgspec.to_builtins(rules), "Serving rules", rows)


def _change(context: typer.Context, change: Callable[[ServingRules], ServingRules], output: Output) -> None:
    from materialize import embedded
    from materialize.publish.rules_writer import change_rules

    show_rules(change_rules(embedded.with_store(context.obj.settings()), change), output)


def _arm(text: str) -> Arm:
    from materialize.publish.serving_rules import Arm

    model, _, rest = text.partition("=")
    weight, _, absent = rest.partition(":")
    try:
        return msgspec.convert({"model": model, "weight": float(weight), "absent": absent or "score"}, Arm)
    except (ValueError, msgspec.ValidationError):
        raise SettingsError(
            "an arm cannot be read", expected="MODEL=WEIGHT or MODEL=WEIGHT:base", got=text
        ) from None


def _lines(file: Path | None) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8") if file is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{file} cannot be read", expected="a text file, an id a line", got=str(error)
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _listed(ids: tuple[int | str, ...] | None) -> str:
    if ids is None:
        return "all"
    some = ", ".join(map(str, ids[:5]))
    return f"{len(ids):,}: {some}{', …' if len(ids) > 5 else ''}" if ids else "none"
