"""Reads ids and query parameters from the bytes of a request, strictly: what is not understood is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote_to_bytes

from serving_lookup.problems import bad_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.schema import FeatureSchema

DEFAULT_K = 20
MAX_ID_BYTES = 1024
MAX_EXCLUDED = 1000
_INT64 = 1 << 63
_FIELDS: Final = frozenset({"title"})


@dataclass(frozen=True)
class ListParameters:
    """How a list is asked for.

    Attributes:
        k: Most items to return.
        exclude: Items that must not be in the list.
        titles: Whether items carry their titles.
    """

    k: int = DEFAULT_K
    exclude: frozenset[int | str] = frozenset()
    titles: bool = False


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
    """Parameters of a list from a query string: ``k``, ``exclude`` and ``fields``, lists separated by commas.

    Raises:
        Problem: Naming the parameter that is unknown, repeated or wrong.
    """
    found: dict[str, list[str]] = {}
    for pair in query.split(b"&") if query else []:
        name, _, value = pair.partition(b"=")
        key = unescape(name)
        if key not in {"k", "exclude", "fields"}:
            raise bad_request(
                "unknown-parameter", "Unknown parameter", expected="k, exclude or fields", got=key
            )
        if key in found:
            raise bad_request(
                "repeated-parameter", f"Parameter {key} is there twice", expected="one, with commas"
            )
        # Commas separate before they are unescaped, so that %2C can be part of an id.
        found[key] = [unescape(part.replace(b"+", b" ")) for part in value.split(b",")]
    k = (
        read_k(found["k"][0] if len(found["k"]) == 1 else ",".join(found["k"]), max_k)
        if "k" in found
        else DEFAULT_K
    )
    excluded = [text for text in found.get("exclude", []) if text]
    if len(excluded) > MAX_EXCLUDED:
        raise bad_request(
            "exclude", "Too many excluded items", expected=f"at most {MAX_EXCLUDED}", got=len(excluded)
        )
    titles = read_fields([text for text in found.get("fields", []) if text])
    exclude = frozenset(read_id(text, schema.item_id_type, "item") for text in excluded)
    return ListParameters(min(k, max_k), exclude, titles)


def read_k(value: object, max_k: int) -> int:
    """The length of a list.

    Raises:
        Problem: If it is no whole number from 1 to ``max_k``.
    """
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= (k := int(text)) <= max_k:
        return k
    raise bad_request(
        "k", "Parameter k is out of range", expected=f"a whole number from 1 to {max_k}", got=text
    )


def read_fields(names: Sequence[str]) -> bool:
    """Whether titles are asked for, which is all that can be.

    Raises:
        Problem: Naming what is unknown.
    """
    if unknown := set(names) - _FIELDS:
        raise bad_request(
            "fields", "Unknown field", expected=", ".join(sorted(_FIELDS)), got=", ".join(sorted(unknown))
        )
    return bool(names)
