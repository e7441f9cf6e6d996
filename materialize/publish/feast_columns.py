"""Columns of any Feast type into ``ValueProto`` bytes: vectorized where the Arrow type allows it, by Feast elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from feast.type_map import python_values_to_proto_values

from features.errors import SchemaMismatchError
from materialize.publish.feast_block import Rows, encode_column
from materialize.publish.feast_format import ELEMENT_OF, Kind

if TYPE_CHECKING:
    from feast.value_type import ValueType

_INTEGERS = {pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()}
_TRUSTED: dict[Kind, set[pa.DataType]] = {
    Kind.INT32: _INTEGERS,
    Kind.INT64: _INTEGERS,
    Kind.FLOAT: {pa.float32(), pa.float64()},
    Kind.DOUBLE: {pa.float64()},
    Kind.BOOL: {pa.bool_()},
    Kind.STRING: {pa.string(), pa.large_string()},
    Kind.BYTES: {pa.binary(), pa.large_binary()},
}
"""Arrow types whose values mean the same to Feast and to the block encoder, by kind."""


def encode_feature(name: str, values: pa.ChunkedArray, declared: ValueType) -> Rows:
    """``ValueProto`` bytes of a feature's column, as Feast writes them.

    Args:
        name: Of the feature.
        values: n values as the offline store returns them.
        declared: The feature's type.

    Raises:
        SchemaMismatchError: If Feast cannot take the values for what they are declared to be.
    """
    try:
        if declared.name in Kind.__members__ and _is_trusted(values.type, Kind[declared.name]):
            return encode_column(values, Kind[declared.name])
        protos = python_values_to_proto_values(values.to_numpy(), declared)
    except (SchemaMismatchError, TypeError, ValueError, AssertionError) as error:
        raise SchemaMismatchError(
            f"feature {name!r} cannot be written to the online store",
            expected=f"values that Feast takes for {declared.name}",
            got=error.got if isinstance(error, SchemaMismatchError) else f"{values.type}: {error}",
            fix="declare the feature by another type, or write its column otherwise",
        ) from error
    return Rows.of_binary(pa.array([proto.SerializeToString() for proto in protos], pa.large_binary()))


def _is_trusted(arrow: pa.DataType, kind: Kind) -> bool:
    if kind in ELEMENT_OF:
        nested = (
            pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow)
        )
        # Feast reads the elements of a list of nanoseconds as numbers of nanoseconds.
        return (
            nested
            and _is_trusted(arrow.value_type, ELEMENT_OF[kind])
            and arrow.value_type != pa.timestamp("ns")
        )
    return pa.types.is_timestamp(arrow) if kind == Kind.UNIX_TIMESTAMP else arrow in _TRUSTED[kind]
