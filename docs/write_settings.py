"""Write ``settings.md`` from the settings tree, so that the page cannot fall behind the code.

Usage: ``python docs/write_settings.py``; a test compares the page with :func:`page`.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr

from features.settings import Section
from materialize.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PAGE = Path(__file__).with_name("settings.md")

INTRODUCTION = """# Settings

<!-- Written by docs/write_settings.py from the settings tree; edit the descriptions there. -->

Everything that can be set, with its default. A key is looked up in this order:

1. the environment: `PRESCORE_MODEL` for a key at the top, `PRESCORE_STORE__URL` for one in a section
   (two underscores; lists and tables as JSON, such as `PRESCORE_ITEMS__GROUPS='["category"]'`);
2. `prescore.toml`: the file that `--settings` names, or else the one in the working folder;
3. the default.

Relative paths are taken from the folder of `prescore.toml`. An unknown key or a value of the wrong type is
an error that names the key and what it means. Keep passwords out of the file: set `PRESCORE_STORE__URL` and
`PRESCORE_CATALOGUE__URL` in the environment; they are never logged.
"""


def type_name(annotation: Any) -> str:
    """A type as a reader of a TOML file would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(type_name(a) for a in arguments if a is not NoneType) + ", or unset"
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    names = {str: "text", SecretStr: "secret text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, "path" if annotation is Path else getattr(annotation, "__name__", str(annotation)))


def value_name(value: Any) -> str:
    """A default as it would stand in the TOML file."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(value_name(v).strip('`') for v in value)}]`"
    return f"`{value}`" if isinstance(value, int | float) else f'`"{value}"`'


def rows(fields: dict[str, FieldInfo], prefix: str) -> str:
    """A Markdown table of settings that are not sections."""
    lines = ["| key | type | default | meaning | variable |", "| --- | --- | --- | --- | --- |"]
    for name, field in fields.items():
        cells = (
            f"`{name}`",
            type_name(field.annotation),
            value_name(field.get_default(call_default_factory=True)),
            field.description or "",
            f"`{prefix}{name.upper()}`",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    sections = {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Section)
    }
    top = {name: field for name, field in Settings.model_fields.items() if name not in sections}
    parts = [INTRODUCTION, "## At the top\n\n" + rows(top, "PRESCORE_") + "\n"]
    for name, section in sections.items():
        meaning = re.sub(r"^``\[\w+\]``: ", "", inspect.cleandoc(section.__doc__ or "").splitlines()[0])
        meaning = meaning[:1].upper() + meaning[1:]
        parts.append(f"## `[{name}]`\n\n{meaning}\n\n" + rows(section.model_fields, f"PRESCORE_{name.upper()}__") + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
