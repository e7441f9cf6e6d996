"""Reads ids and query parameters from the bytes of a request, strictly: what is not understood is refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote_to_bytes

from serving_lookup.problems import bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from features.schema import FeatureSchema

DEFAULT_K = 20
MAX_ID_BYTES = 1024
MAX_EXCLUDED = 1000
MAX_LIST = 10_000
"""Longer than any list that is stored."""

_INT64 = 1 << 63
_TITLE: Final = "title"
_PARAMETERS: Final = ("k", "exclude", "only", "at_most", "fields")


@dataclass(frozen=True)
class ListParameters:
    """How a list is asked for.

    Attributes:
        k: Most items to return.
        exclude: Items that must not be in the list.
        titles: Whether items carry their titles.
        groups: Group columns whose values items carry.
        only: The only items that may be in the list; ``None``: all.
        at_most: Most items of the list that share a value of a group column.
    """

    k: int = DEFAULT_K
    exclude: frozenset[int | str] = frozenset()
    titles: bool = False
    groups: tuple[str, ...] = ()
    only: frozenset[int | str] | None = None
    at_most: tuple[tuple[str, int], ...] = ()

    @cached_property
    def plain(self) -> bool:
        """Whether the first ``k`` of a stored list are the answer, ids and scores all there is to say of them."""
        return not (self.selects or self.titles or self.groups)

    @cached_property
    def selects(self) -> bool:
        """Whether some items of a list may not be given."""
        return bool(self.exclude or self.at_most or self.only is not None)

    @cached_property
    def reach(self) -> int:
        """How much of a stored list may be needed."""
        return MAX_LIST if self.at_most or self.only is not None else self.k + len(self.exclude)


def unescape(segment: bytes) -> str:
    """A percent-encoded path segment or query value as text.

    Raises:
        Problem: If it is not UTF-8 or too long.
    """
    raw = unquote_to_bytes(segment) if b"%" in segment else segment
    if len(raw) > MAX_ID_BYTES:
        raise bad_request(
            "id-too-long", "An id is too long", expected=f"at most {MAX_ID_BYTES} bytes", got=len(raw)
        )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise bad_request("encoding", "An id is not UTF-8", expected="UTF-8, percent-encoded") from None


def read_id(text: str, kind: Literal["int64", "string"], entity: str) -> int | str:
    """An id as the tables hold it.

    Raises:
        Problem: If it is empty, or no 64-bit whole number where ids are such.
    """
    if kind == "string":
        if not text:
            raise bad_request("id", f"The {entity} id is empty")
        return text
    digits = text[1:] if text[:1] == "-" else text
    if (
        digits.isascii()
        and digits.isdigit()
        and len(digits) <= 19
        and -_INT64 <= (number := int(text)) < _INT64
    ):
        return number
    raise bad_request(
        "id", f"The {entity} id is not one of this data", expected="a 64-bit whole number", got=text
    )


def read_ids(texts: Sequence[object], kind: Literal["int64", "string"], entity: str) -> list[int | str]:
    """Ids from a JSON list: numbers, or text as in a path.

    Raises:
        Problem: Naming the first that is not one.
    """
    return [read_json_id(text, kind, entity) for text in texts]


def read_json_id(value: object, kind: Literal["int64", "string"], entity: str) -> int | str:
    """An id from JSON: a number where ids are numbers, else text.

    Raises:
        Problem: If it is neither.
    """
    if type(value) is int and kind == "int64" and -_INT64 <= value < _INT64:
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise bad_request(
            "id", f"The {entity} id is neither text nor a whole number", got=type(value).__name__
        )
    text = str(value)
    if len(text.encode(errors="surrogatepass")) > MAX_ID_BYTES:
        raise bad_request("id-too-long", "An id is too long", expected=f"at most {MAX_ID_BYTES} bytes")
    return read_id(text, kind, entity)


def are_ids(values: Sequence[object], kind: Literal["int64", "string"]) -> bool:
    """Whether all of many values are ids as they stand; a quick look, after which :func:`read_json_id` may still read them."""
    kinds = {*map(type, values)}
    if kind == "int64":
        return kinds == {int} and min(values) >= -_INT64 and max(values) < _INT64  # type: ignore[type-var, operator]  # all are int
    longest = MAX_ID_BYTES // 4  # as many characters as always fit
    return kinds == {str} and "" not in values and max(map(len, values)) <= longest  # type: ignore[arg-type]  # all are str


def read_item_parameter(query: bytes, kind: Literal["int64", "string"]) -> int | str:
    """The item of a query string that must hold ``item`` and nothing else.

    Raises:
        Problem: If it does not.
    """
    name, _, value = query.partition(b"=")
    if name != b"item" or b"&" in value:
        raise bad_request(
            "item", "The query must name one item", expected="?item=ID", got=query.decode("latin-1")
        )
    return read_id(unescape(value.replace(b"+", b" ")), kind, "item")


def read_list_parameters(query: bytes, schema: FeatureSchema, max_k: int) -> ListParameters:
    """Parameters of a list from a query string: :data:`_PARAMETERS`, lists separated by commas.

    Raises:
        Problem: Naming the parameter that is unknown, repeated or wrong.
    """
    found: dict[str, list[str]] = {}
    for pair in query.split(b"&") if query else []:
        name, _, value = pair.partition(b"=")
        key = unescape(name)
        if key not in _PARAMETERS:
            raise bad_request(
                "unknown-parameter", "Unknown parameter", expected=", ".join(_PARAMETERS), got=key
            )
        if key in found:
            raise bad_request(
                "repeated-parameter", f"Parameter {key} is there twice", expected="one, with commas"
            )
        # Commas separate before they are unescaped, so that %2C can be part of an id.
        found[key] = [unescape(part.replace(b"+", b" ")) for part in value.split(b",")]
    at_most = dict(_read_cap(text) for text in found.get("at_most", []) if text)
    return checked_parameters(
        schema,
        max_k,
        k=",".join(found["k"]) if "k" in found else DEFAULT_K,
        exclude=[text for text in found.get("exclude", []) if text],
        only=[text for text in found["only"] if text] if "only" in found else None,
        at_most=at_most,
        fields=[text for text in found.get("fields", []) if text],
    )


def checked_parameters(
    schema: FeatureSchema,
    max_k: int,
    *,
    k: object,
    exclude: Sequence[object],
    only: Sequence[object] | None,
    at_most: Mapping[str, object],
    fields: Sequence[str],
) -> ListParameters:
    """Parameters of a list, checked; ids and numbers as JSON or a query string has them.

    Raises:
        Problem: Naming the parameter that is wrong.
    """
    for name, ids in (("exclude", exclude), ("only", only or ())):
        if len(ids) > MAX_EXCLUDED:
            raise bad_request(
                name, f"Too many items in {name}", expected=f"at most {MAX_EXCLUDED}", got=len(ids)
            )
    kind = schema.item_id_type
    titles, groups = read_fields(fields, schema)
    for column in at_most:
        if column not in schema.groups:
            raise bad_request(
                "at_most", "No such group column", expected=", ".join(schema.groups) or "none", got=column
            )
    return ListParameters(
        read_k(k, max_k),
        frozenset(read_ids(exclude, kind, "item")),
        titles,
        groups,
        None if only is None else frozenset(read_ids(only, kind, "item")),
        tuple((column, read_k(most, max_k, "at_most")) for column, most in at_most.items()),
    )


def _read_cap(text: str) -> tuple[str, str]:
    column, separator, most = text.rpartition(":")
    if not separator:
        raise bad_request("at_most", "A cap is COLUMN:NUMBER", expected="such as category:3", got=text)
    return column, most


def read_k(value: object, max_k: int, name: str = "k") -> int:
    """A number of items.

    Raises:
        Problem: If it is no whole number from 1 to ``max_k``.
    """
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= (k := int(text)) <= max_k:
        return k
    raise bad_request(
        name, f"Parameter {name} is out of range", expected=f"a whole number from 1 to {max_k}", got=text
    )


def read_fields(names: Sequence[str], schema: FeatureSchema) -> tuple[bool, tuple[str, ...]]:
    """Whether titles are asked for, and the group columns that are.

    Raises:
        Problem: Naming what is unknown.
    """
    if unknown := set(names) - {_TITLE, *schema.groups}:
        known = ", ".join(sorted({_TITLE, *schema.groups}))
        raise bad_request("fields", "Unknown field", expected=known, got=", ".join(sorted(unknown)))
    return _TITLE in names, tuple(dict.fromkeys(name for name in names if name != _TITLE))
