"""Write a prescore.toml that explains itself: what was guessed, and every other setting as a comment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from features.settings import Section
from materialize.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

HEADER = """\
# Settings of Prescore. Lines that begin with '#' show the defaults.
# Every setting can also be given as a variable: PRESCORE_SCORING__K=50 sets k in [scoring].
"""


def write_settings(chosen: Mapping[str, Any]) -> str:
    """TOML text with the values of ``chosen`` (by section, then key) and all others commented out.

    Raises:
        SettingsError: Never by itself; values that do not fit are found when the file is read.
    """
    lines = [HEADER]
    sections: list[tuple[str, type[Section]]] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            sections.append((name, field.annotation))
        else:
            lines += _setting(name, field, chosen)
    for name, section in sections:
        summary = (section.__doc__ or "").split(": ", 1)[-1].strip().rstrip(".")
        lines += ["", f"# {summary[:1].upper()}{summary[1:]}.", f"[{name}]"]
        for key, field in section.model_fields.items():
            lines += _setting(key, field, chosen.get(name, {}))
    return "\n".join(lines) + "\n"


def _setting(key: str, field: FieldInfo, chosen: Mapping[str, Any]) -> list[str]:
    if key in chosen:
        return [f"# {field.description}", f"{key} = {toml_value(chosen[key])}"]
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    shown = "" if default is None else " " + toml_value(default)
    return [f"# {field.description}", f"# {key} ={shown}"]


def toml_value(value: object) -> str:
    """A value as TOML 1.0 writes it; JSON strings, numbers and booleans are TOML ones."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(str(value), ensure_ascii=False)
