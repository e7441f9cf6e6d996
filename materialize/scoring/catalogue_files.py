"""A bound catalogue as a folder: one ``.npy`` per array, Arrow for ids and groups, JSON for the rest.

``catalogue.json`` is written last, so a folder that has it is whole. Nothing is pickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.errors import StorageError
from features.schema import FeatureSchema
from materialize.scoring.code_layout import CodeLayout, lay_out
from materialize.scoring.coded_forest import CodedForest
from materialize.scoring.rank_codes import RankCodes
from materialize.scoring.residual_program import ResidualProgram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.bound_catalogue import BoundCatalogue

FORMAT = 1
_DOCUMENT = "catalogue.json"


def save(catalogue: BoundCatalogue, folder: Path | str) -> None:
    """Write a catalogue into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {
        **{f"codes.{name}": array for name, array in catalogue.codes.arrays.items()},
        **{f"forest.{name}": array for name, array in catalogue.forest.arrays.items()},
        **{f"program.{name}": array for name, array in catalogue.program.arrays.items()},
        "order": catalogue.order,
        "item_codes": catalogue.item_codes,
        **{f"group.{i}": catalogue.group_codes[c] for i, c in enumerate(catalogue.groups)},
    }
    if catalogue.item_latent is not None:
        arrays["item_latent"] = catalogue.item_latent
    try:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        _write_arrow(folder / "items.arrow", catalogue.item_ids)
        for i, values in enumerate(catalogue.groups.values()):
            _write_arrow(folder / f"group.{i}.arrow", values)
        document = {
            "format": FORMAT,
            "schema": json.loads(catalogue.schema.to_json()),
            "objective": catalogue.objective,
            "base_margin": float(catalogue.base_margin),
            "groups": list(catalogue.groups),
            "arrays": sorted(arrays),
        }
        (folder / _DOCUMENT).write_text(json.dumps(document, indent=1), "utf-8")
    except OSError as error:
        raise StorageError.of_writing("the bound catalogue", error, folder) from error


def load(folder: Path | str) -> BoundCatalogue:
    """Open a saved catalogue by memory map.

    Raises:
        StorageError: If the folder is not a whole catalogue of this format.
    """
    from materialize.scoring.bound_catalogue import BoundCatalogue  # noqa: PLC0415 - it uses this module

    folder = Path(folder)
    try:
        document = json.loads((folder / _DOCUMENT).read_text("utf-8"))
        if document["format"] != FORMAT:
            raise StorageError(
                f"{folder} is of another format", expected=str(FORMAT), got=str(document["format"])
            )
        arrays = {name: _read_array(folder / f"{name}.npy") for name in document["arrays"]}
        schema = FeatureSchema.from_json(json.dumps(document["schema"]))
        groups = {c: _read_arrow(folder / f"group.{i}.arrow") for i, c in enumerate(document["groups"])}
        codes = RankCodes(**_part(arrays, "codes."))
        return BoundCatalogue(
            schema=schema,
            objective=document["objective"],
            base_margin=np.float32(document["base_margin"]),
            codes=codes,
            forest=CodedForest(**_part(arrays, "forest.")),
            layout=_layout(codes, schema, groups),
            program=ResidualProgram(**_part(arrays, "program.")),
            item_ids=_read_arrow(folder / "items.arrow"),
            order=arrays["order"],
            item_codes=arrays["item_codes"],
            groups=groups,
            group_codes={c: arrays[f"group.{i}"] for i, c in enumerate(groups)},
            item_latent=arrays.get("item_latent"),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise StorageError(
            f"{folder} is not a whole catalogue",
            got=repr(error),
            fix="bind the items again and save the result",
        ) from error


def _layout(codes: RankCodes, schema: FeatureSchema, groups: dict[str, pa.Array]) -> CodeLayout:
    return lay_out(codes, [c.scope for c in schema.columns], {c: len(v) for c, v in groups.items()})


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _read_array(file: Path) -> NDArray[Any]:
    # An empty file cannot be mapped; such an array is read.
    array = np.load(file, mmap_mode=None if file.stat().st_size <= 128 else "c", allow_pickle=False)
    return np.asarray(array)


def _write_arrow(file: Path, values: pa.Array) -> None:
    table = pa.table({"value": values})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_arrow(file: Path) -> pa.Array:
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_file(source).read_all()["value"]
    return column.combine_chunks()
