"""The rows of Arrow tables: which columns are read, as which type, and the words for which numbers stand in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from annotation.imports.printable import display_name
from annotation.imports.sources.json_values import NotJson, parse_json
from annotation.imports.sources.raw_rows import PICTURES, BadRow, RawRow, SourceRow, Unread, refuse_columns
from annotation.records import UserError
from annotation.translation import _

BATCH_ROWS = 200


@dataclass(frozen=True)
class ColumnTypes:
    """The columns of an Arrow table: the types as which they are read, and what stands for those that are not."""

    read: Mapping[str, Any]
    unread: Mapping[str, Unread]
    labelled: Mapping[str, Any]
    """What `datasets` says of the columns in which numbers stand for words."""
    parsed: Mapping[str, Any]
    """The types of the columns in which JSON stands, as `datasets` keeps what is of several types."""

    @property
    def pictures(self) -> list[str]:
        """Those of the unread columns of which it counts in which rows they hold something."""
        return [column for column in self.unread if column.strip().casefold() in PICTURES]


def column_types(schema: Any, name: str) -> ColumnTypes:
    """How the columns of a table are read. Raises UserError for columns that can't be told apart, or none to read."""
    refuse_columns(schema.names, name)
    types = {entry.name: plain_type(entry.type) for entry in schema}
    read = {column: kind for column, kind in types.items() if kind is not None}
    if not read:
        raise UserError(_("{name} has no column of text, numbers or lists. Nothing was imported.").format(name=name))
    left = {entry.name: Unread(display_name(str(entry.type)[:80])) for entry in schema if entry.name not in read}
    labelled = {column: told for column, told in labelled_in(schema).items() if column in read}
    parsed = {entry.name: entry.type for entry in schema if entry.name in read and "arrow.json" in str(entry.type)}
    return ColumnTypes(read, left, labelled, parsed)


def labelled_in(schema: Any) -> Mapping[str, Any]:
    """What `datasets` notes of a table's columns with words for numbers; nothing where it did not write it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: told for column, told in features.items() if has_labels(told)}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def has_labels(feature: Any) -> bool:
    """Whether numbers stand for words in a column, or somewhere within."""
    if isinstance(feature, dict):
        return feature.get("_type") == "ClassLabel" or any(map(has_labels, feature.values()))
    return isinstance(feature, list) and any(map(has_labels, feature))


def with_words(value: Any, feature: Any) -> Any:
    """A value with the words for which numbers stand in it; -1 stands for none."""
    if isinstance(feature, list):  # as earlier versions note a list
        feature = {"_type": "List", "feature": next(iter(feature), None)}
    if not isinstance(feature, dict):
        return value
    kind, names = feature.get("_type"), feature.get("names")
    if kind == "ClassLabel" and isinstance(names, list) and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None if value == -1 else value
    within = feature.get("feature", feature) if isinstance(kind, str) else feature
    if isinstance(value, list):
        return [with_words(one, within) for one in value]
    if isinstance(value, dict) and isinstance(within, dict):  # also one of lists: so a sequence of objects was kept
        return {key: with_words(one, within.get(key)) for key, one in value.items()}
    return value


def with_json(value: Any, kind: Any) -> Any:
    """A value with what the JSON in it says, by its Arrow type. Raises NotJson."""
    import pyarrow as pa
    from pyarrow import types

    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return parse_json(value)
    if isinstance(kind, pa.BaseExtensionType):
        return with_json(value, kind.storage_type)
    if types.is_struct(kind):
        return {key: with_json(one, kind.field(key).type) for key, one in value.items()}
    if types.is_map(kind):
        return [{**one, "value": with_json(one["value"], kind.item_type)} for one in value]
    if isinstance(value, list):
        return [with_json(one, kind.value_type) for one in value]
    return value


def arrow_rows(table: Any, types: ColumnTypes, before: int) -> Iterator[RawRow]:
    """The rows of an Arrow batch; where a text is not UTF-8, only its row is bad."""
    import pyarrow as pa

    plain = [without_nan(table.column(column).cast(kind)) for column, kind in types.read.items()]
    # A column whose name goes on from another's with a dot may have been read in its place.
    held = {column: places_held(table.column(column)) for column in types.pictures if column in table.schema.names}
    table = pa.Table.from_arrays(plain, names=list(types.read))

    def row(place: int, value: dict[str, Any]) -> RawRow:
        try:
            value = {**value, **{column: with_json(value[column], kind) for column, kind in types.parsed.items()}}
        except NotJson as error:
            return BadRow(before + place + 1, str(error))
        words = {column: with_words(value[column], told) for column, told in types.labelled.items()}
        empty = {column: None for column, places in held.items() if place not in places}
        return SourceRow(before + place + 1, {**value, **words, **types.unread, **empty})

    try:
        values = table.to_pylist()
    except UnicodeDecodeError:
        for place in range(table.num_rows):
            try:
                yield row(place, table.slice(place, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                yield BadRow(
                    before + place + 1, _("a text holds the byte 0x{byte:02X}, which is not UTF-8").format(byte=byte)
                )
        return
    yield from (row(place, value) for place, value in enumerate(values))


def without_nan(column: Any) -> Any:
    """A column without what is no finite number: it stands where there is nothing, as in JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if not types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column.cast(pa.float64())), column, pa.scalar(None, column.type))


def places_held(column: Any) -> set[int]:
    """The places at which a column holds something, in lists at any depth something that is not null."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not (types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)):
        return set(pc.indices_nonzero(column.is_valid()).to_pylist())
    within, parents = places_held(pc.list_flatten(column)), pc.list_parent_indices(column).to_pylist()
    return {parents[place] for place in within}


def plain_type(kind: Any) -> Any:
    """The type that JSON could hold as which values of an Arrow type are read; None for bytes and the like.

    Decimals become floating numbers, dates and times the whole numbers that they are kept as.
    """
    import pyarrow as pa
    from pyarrow import types

    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind):
        return kind if plain_type(kind.value_type) == kind.value_type else None
    if types.is_map(kind):
        kind = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
    if types.is_struct(kind):
        parts = [(kind.field(place).name, plain_type(kind.field(place).type)) for place in range(kind.num_fields)]
        return None if any(part is None for _, part in parts) else pa.struct(parts)
    for is_such, list_of in (
        (types.is_list, pa.list_),
        (types.is_fixed_size_list, pa.list_),
        (types.is_large_list, pa.large_list),
    ):
        if is_such(kind):
            within = plain_type(kind.value_type)
            return None if within is None else list_of(within)
    if types.is_list_view(kind) or types.is_large_list_view(kind):  # these can't be cast to others
        return kind if plain_type(kind.value_type) == kind.value_type else None
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    simple = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return kind if types.is_null(kind) or any(check(kind) for check in simple) else None
