"""The contract between features and models: which columns there are, and what each depends on.

Light on purpose (numpy and pyarrow only): the look-up service reads it too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SchemaMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

USER_ID, ITEM_ID = "user_id", "item_id"
"""Names of the id columns in every table that Prescore writes; int64 or string."""

EVENT_TIMESTAMP = "event_timestamp"
"""The column of feature tables that holds the cut-off: timestamp[us, UTC], as Feast wants it."""

USER_HASH = "user_hash"
"""uint32 column of user-keyed feature tables, which are sorted by (user_hash, user_id)."""


@dataclass(frozen=True, order=True)
class FeatureScope:
    """What a feature depends on.

    ``user`` f(u); ``item`` f(i); ``affinity`` f(u, group(i)) for a group column of the item;
    ``pair`` f(u, i), sparse. A user-group or user-item combination that has no row has the value
    *missing* (NaN) in every affinity or pair column, in training as in scoring.
    """

    kind: Literal["user", "item", "affinity", "pair"]
    group: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "affinity") != bool(self.group):
            raise SchemaMismatchError(
                f"scope {self.kind!r} with group {self.group!r}",
                expected="a group column for an affinity scope, and for no other",
            )

    def __str__(self) -> str:
        return f"affinity:{self.group}" if self.group else self.kind

    @classmethod
    def parse(cls, text: str) -> FeatureScope:
        """The scope that ``str(scope)`` wrote."""
        kind, _, group = text.partition(":")
        if kind not in {"user", "item", "affinity", "pair"}:
            raise SchemaMismatchError(
                "unknown feature scope", expected="user, item, pair or affinity:GROUP", got=text
            )
        return cls(kind, group)  # type: ignore[arg-type]


USER, ITEM, PAIR = FeatureScope("user"), FeatureScope("item"), FeatureScope("pair")


def affinity(group: str) -> FeatureScope:
    """Scope of a feature of (user, value of the item's column ``group``)."""
    return FeatureScope("affinity", group)


@dataclass(frozen=True)
class FeatureColumn:
    """One model input.

    Attributes:
        name: Column name, unique over all scopes; also the booster's feature name.
        scope: What it depends on.
        vocabulary: ``None`` for a number. For a category: its strings, in code order; the code of a
            string is its position, and a string that is not in it is missing.
    """

    name: str
    scope: FeatureScope
    vocabulary: tuple[str, ...] | None = None

    @property
    def feature_type(self) -> Literal["q", "c"]:
        """XGBoost's ``feature_types`` letter: quantity or category."""
        return "q" if self.vocabulary is None else "c"

    def encode(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.float32]:
        """Model input of a column: float32[n]; nulls and unknown categories are NaN.

        Raises:
            SchemaMismatchError: If the values are neither numbers nor, for a category, strings.
        """
        if self.vocabulary is not None:
            if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
                values = pc.cast(values, pa.string())
            codes = pc.index_in(values, value_set=pa.array(self.vocabulary, values.type))
            return _float32(codes)
        if pa.types.is_boolean(values.type):
            values = pc.cast(values, pa.uint8())
        if not (
            pa.types.is_integer(values.type)
            or pa.types.is_floating(values.type)
            or pa.types.is_null(values.type)
        ):
            raise SchemaMismatchError(
                f"feature {self.name!r} cannot be read as a number",
                expected="an integer, floating or boolean column",
                got=str(values.type),
            )
        return _float32(values)


def _float32(values: pa.Array | pa.ChunkedArray) -> NDArray[np.float32]:
    wide = pc.fill_null(pc.cast(values, pa.float64(), safe=False), float("nan"))
    if isinstance(wide, pa.ChunkedArray):
        wide = wide.combine_chunks()
    narrow: NDArray[np.float32] = wide.to_numpy(zero_copy_only=False).astype(np.float32)
    return narrow


@dataclass(frozen=True)
class FeatureSchema:
    """The columns of a model in the order the booster expects them.

    Attributes:
        columns: In booster order.
        user_id_type, item_id_type: ``"int64"`` or ``"string"``.
    """

    columns: tuple[FeatureColumn, ...]
    user_id_type: Literal["int64", "string"] = "int64"
    item_id_type: Literal["int64", "string"] = "int64"

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise SchemaMismatchError(
                "feature names must be unique over all scopes", got=f"twice: {', '.join(twice)}"
            )

    @property
    def names(self) -> list[str]:
        """Feature names in booster order."""
        return [c.name for c in self.columns]

    @property
    def scopes(self) -> dict[str, FeatureScope]:
        """Scope by feature name, in booster order: the scorer's ``scopes`` argument."""
        return {c.name: c.scope for c in self.columns}

    @property
    def groups(self) -> list[str]:
        """Group columns that affinity features need, sorted."""
        return sorted({c.scope.group for c in self.columns if c.scope.group})

    def of(self, scope: FeatureScope) -> list[FeatureColumn]:
        """Columns of one scope, in booster order."""
        return [c for c in self.columns if c.scope == scope]

    def to_json(self) -> str:
        """Canonical JSON; equal schemas give equal text."""
        document = asdict(self)
        for column, source in zip(document["columns"], self.columns, strict=True):
            column["scope"] = str(source.scope)
        return json.dumps(document, ensure_ascii=False, sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> FeatureSchema:
        """Read what :meth:`to_json` wrote.

        Raises:
            SchemaMismatchError: If the text is not such a document.
        """
        try:
            document: Mapping[str, object] = json.loads(text)
            columns = tuple(
                FeatureColumn(
                    c["name"],
                    FeatureScope.parse(c["scope"]),
                    None if c["vocabulary"] is None else tuple(c["vocabulary"]),
                )
                for c in document["columns"]  # type: ignore[attr-defined]
            )
            return cls(columns, document["user_id_type"], document["item_id_type"])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaMismatchError("the feature schema cannot be read", got=repr(error)) from error

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def user_hash(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint32]:
    """Hash that places users in blocks: uint32[n], the same on every machine and release.

    MurmurHash3 x86 32-bit, seed 0, of the 8 little-endian bytes of an int64 id or the UTF-8 bytes of a string id.
    """
    if pa.types.is_integer(ids.type):
        raw = np.ascontiguousarray(pc.cast(ids, pa.int64()).to_numpy().astype("<i8")).view("V8")
        return np.fromiter((mmh3.hash(r.tobytes(), signed=False) for r in raw), np.uint32, len(raw))
    return np.fromiter((mmh3.hash(s, signed=False) for s in ids.to_pylist()), np.uint32, len(ids))


_CUTOFF = re.compile(r"^\d{8}T\d{6}Z$")


def cutoff_name(text: str) -> str:
    """Check a cut-off's name, such as ``20171204T000000Z``, as it appears in paths and generation ids."""
    if not _CUTOFF.match(text):
        raise SchemaMismatchError("not a cut-off name", expected="YYYYMMDDTHHMMSSZ", got=text)
    return text
