"""Values from outside made into frozen dataclasses by pydantic, and its errors into a sentence for a person.

Pydantic is imported when values are read: a worker takes its job's spec from a row, and would begin a tenth of a second
later with it. What was stored is read without it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from inspect import getsource
from itertools import pairwise
from reprlib import Repr
from textwrap import dedent
from threading import Lock
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import DocInfo, Ge, Gt, Interval

from annotation.records import PERCENT, UserError
from annotation.translation import N_, _, figures

if TYPE_CHECKING:
    from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError

T = TypeVar("T")
# What pydantic says of a field that a dataclass does not have.
UNKNOWN: Final = "unexpected_keyword_argument"
# A whole number passes for any number; nothing else passes for what it is not.
CONFIG: ConfigDict = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
# Numbers that no form means; where there is no other limit.
ENDLESS: Final = 10**9
# No stored number that means anything is as great.
MOST: Final = 2**63
PARSING: Final = Lock()
SHORT: Final = Repr()
SHORT.maxstring = SHORT.maxother = 80
# What was given, with what can't be seen escaped.
shown = SHORT.repr


# As pydantic's of these names.
PositiveInt = Annotated[int, Gt(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
NonNegativeFloat = Annotated[float, Ge(0)]


class FromMapping:
    """Marks a dataclass that is made of a mapping; where fields are strict, pydantic would take instances only."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        schema = handler(source)
        cast(dict[str, Any], handler.resolve_ref_schema(schema))["strict"] = False
        return schema


def known(kind: type[T], told: Mapping[str, Any]) -> T:
    """A dataclass of what was checked before it was kept, without what a program of another version says more."""
    names = cast(Any, kind).__dataclass_fields__
    return kind(**{name: value for name, value in told.items() if name in names})


def read(kind: type[T], values: Any, whole: str, labels: Mapping[str, str] | None = None) -> T:
    """Values as a dataclass (or another type), with defaults for what is left out; sentences call it `whole`.

    `labels` are what a form calls its fields. Raises UserError with the first thing that is wrong.
    """
    from pydantic import ValidationError

    try:
        return cast(T, adapter(cast(Any, kind)).validate_python(values))
    except ValidationError as error:
        raise UserError(sentence(error, kind, whole, labels or {})) from None  # its own text repeats all that was given


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks values of a type: made when it is first needed, because that takes milliseconds."""
    from pydantic import TypeAdapter, with_config

    if not is_dataclass(kind):
        return TypeAdapter(kind, config=CONFIG)
    if not hasattr(kind, "__pydantic_config__"):
        with_config(CONFIG)(cast(Any, kind))
    marked: Any = Annotated[kind, FromMapping()]
    return TypeAdapter(marked)


def whole(value: Any, label: str, lowest: int, highest: int | None = None) -> int:
    """A whole number from a form's field. Raises UserError that names the field."""
    allowed: Any = Annotated[int, Interval(ge=lowest, le=highest, lt=None if highest else ENDLESS), label]
    number: int = read(allowed, whole_if_it_can(value), "")
    return number


def whole_if_it_can(value: Any) -> Any:
    """What a field for numbers sent; browsers know no difference between 4 and 4.0."""
    return int(value) if isinstance(value, float) and abs(value) < ENDLESS and value.is_integer() else value


def from_form(values: Any) -> Any:
    """What a form sent, with whole numbers where they can be."""
    return {name: whole_if_it_can(value) for name, value in values.items()} if isinstance(values, Mapping) else values


# ----------------------------------------------------------------------------------------------------- what was stored
class StoredAs:
    """Marks a field by the other names that it is stored by, or was by earlier versions."""

    def __init__(self, *names: str) -> None:
        self.names = names


def stored(kind: type[T], told: Mapping[str, Any] | None, endless: bool = False) -> T:
    """A record of what was stored, whichever version did it; None says nothing.

    A rented machine may send anything: a field whose value can't be meant counts as unsaid, and so does an entry of a
    mapping. `endless`: NaN can be meant, as a check measures it of a broken policy. Raises TypeError where a field
    without a default is unsaid.
    """
    return kind(**as_far_as_meant(said_of(kind, endless, told or {})))


# Takes a value of JSON as a type has it; raises TypeError where it can't be meant.
FieldReader = Callable[[Any], Any]


def said_of(kind: Any, endless: bool, told: Mapping[str, Any]) -> Iterator[tuple[str, FieldReader, Any]]:
    """(field, reading, value) of all that is said of a record; what is said by its own name comes last, and counts."""
    return ((field, read, told[name]) for name, field, read in readings(kind, endless) if name in told)


@cache
def readings(kind: Any, endless: bool) -> Sequence[tuple[str, str, FieldReader]]:
    """(name that it is stored by, field, reading) of a record's fields."""
    return [
        (name, field, reading(hint, endless))
        for field, hint in hints_of(kind).items()
        for names in (mark.names for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, StoredAs))
        for name in names
    ] + [(field, field, reading(hint, endless)) for field, hint in hints_of(kind).items()]


def as_far_as_meant(said: Iterable[tuple[str, FieldReader, Any]]) -> dict[str, Any]:
    """Values by name, without those that can't be meant."""
    found = {}
    for name, read, value in said:
        try:
            found[name] = read(value)
        except TypeError:
            continue
    return found


@cache
def reading(hint: Any, endless: bool) -> FieldReader:
    """That of a type; in a record within a record, all that is said has to be meant."""
    kind, of = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        return reading(of[0], endless)
    if is_dataclass(kind):
        made = cast(Any, kind)
        return lambda value: made(
            **{field: read(one) for field, read, one in said_of(kind, endless, only(value, dict))}
        )
    inner = [reading(one, endless) for one in of if one is not Ellipsis]
    if kind in (Union, UnionType):
        return lambda value: first_meant(inner, value)
    if kind is Mapping:
        return lambda value: as_far_as_meant((name, inner[1], one) for name, one in only(value, dict).items())
    if kind is tuple:
        return lambda value: tuple(map(inner[0], only(value, list, tuple)))
    if kind in (int, float):
        return partial(number, (int, kind), endless)
    return lambda value: value if kind is Any else only(value, kind)


def first_meant(readings: Iterable[FieldReader], value: Any) -> Any:
    for read in readings:
        try:
            return read(value)
        except TypeError:
            continue
    raise TypeError


def number(kinds: Collection[type], endless: bool, value: Any) -> Any:
    if type(value) in kinds and (endless or abs(value) < MOST):
        return value
    raise TypeError


def only(value: Any, *kinds: type) -> Any:
    if isinstance(value, kinds):
        return value
    raise TypeError


# ------------------------------------------------------------------------------------------------------- the sentence
def sentence(error: ValidationError, kind: Any, whole: str, labels: Mapping[str, str]) -> str:
    """The first thing that is wrong: which field, what it must be, and what was given, escaped and shortened.

    A field is called what a person sees: its label in the form, else its name as it is typed.
    """
    # An unknown field first: it is what was meant where another one is missing.
    found = min(error.errors(include_url=False), key=lambda one: one["type"] != UNKNOWN)
    problem, path = found["type"], [str(part) for part in found["loc"]]
    unknown = problem == UNKNOWN
    hint = hint_at(kind, path[:-1] if unknown else path)
    if unknown or (hint is kind and is_dataclass(hint)):
        has = _("There is no field {field}. {whole} has these fields: {names}.")
        names = (".".join((*path[:-1], entry.name)) for entry in fields(bare(hint)))
        return (has if unknown else _("{whole} has these fields: {names}.")).format(
            field=shown(".".join(path)), whole=whole, names=", ".join(names)
        )
    label = labels.get(".".join(path)) or label_of(hint)
    if label and bare(hint) is bool:
        return _("{label}: choose yes or no.").format(label=label)
    if label and get_origin(bare(hint)) is Literal:
        return _("{label} must be one of: {choices}.").format(label=label, choices=", ".join(get_args(bare(hint))))
    field = shown(".".join(path))
    subject = (_("“{label}”") if label else _("{whole}'s {field}")).format(label=label, whole=whole, field=field)
    if problem == "missing" or (label and found["input"] is None and bare(hint) is str):
        return _("{subject} is missing.").format(subject=subject)
    demanded, values = demand(hint, problem, bool(label))
    given = shown_value(found["input"], hint)
    return _(DEMANDS[demanded][bool(given)]).format(subject=subject, given=given, **values)


# What a value has to be: alone, and beside what was given.
DEMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "choice": (N_("{subject} must be one of {choices}."), N_("{subject} must be one of {choices}, not {given}.")),
    "object": (N_("{subject} must be an object."), N_("{subject} must be an object, not {given}.")),
    "list": (N_("{subject} must be a list."), N_("{subject} must be a list, not {given}.")),
    "type": (N_("{subject} must be of type {type}."), N_("{subject} must be of type {type}, not {given}.")),
    "number": (N_("{subject} must be a number."), N_("{subject} must be a number, not {given}.")),
    "whole-number": (N_("{subject} must be a whole number."), N_("{subject} must be a whole number, not {given}.")),
    "described": (N_("{subject} must be {what}."), N_("{subject} must be {what}, not {given}.")),
    "below": (N_("{subject} must be below {high}."), N_("{subject} must be below {high}, not {given}.")),
    "positive": (N_("{subject} must be above zero."), N_("{subject} must be above zero, not {given}.")),
    "not-negative": (N_("{subject} must not be negative."), N_("{subject} must not be negative, not {given}.")),
    "percentage": (
        N_("{subject} must be from {low:.4g} to {high:.4g}%."),
        N_("{subject} must be from {low:.4g} to {high:.4g}%, not {given}."),
    ),
    "whole-from": (
        N_("{subject} must be a whole number from {low} up."),
        N_("{subject} must be a whole number from {low} up, not {given}."),
    ),
    "from": (
        N_("{subject} must be a number from {low} up."),
        N_("{subject} must be a number from {low} up, not {given}."),
    ),
    "whole-between": (
        N_("{subject} must be a whole number from {low:,} to {high:,}."),
        N_("{subject} must be a whole number from {low:,} to {high:,}, not {given}."),
    ),
    "between": (
        N_("{subject} must be a number from {low:,} to {high:,}."),
        N_("{subject} must be a number from {low:,} to {high:,}, not {given}."),
    ),
}


def demand(hint: Any, problem: str, labelled: bool) -> tuple[str, Mapping[str, Any]]:
    """Which of DEMANDS says what a value of a type has to be, and what fills it in beside the field and the value.

    `labelled`: it is said to somebody who sees a form.
    """
    kind, limits = bare(hint), limits_of(hint)
    whole = "whole-" if kind is int else ""
    if get_origin(kind) is Literal:
        return "choice", {"choices": ", ".join(map(str, get_args(kind)))}
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return "object", {}
    if get_origin(kind) is Sequence:
        return "list", {}
    if PERCENT in get_args(hint):
        return "percentage", {"low": 100 * limits["ge"], "high": 100 * limits["le"]}
    if "ge" in limits and "le" in limits:
        return f"{whole}between", {"low": limits["ge"], "high": limits["le"]}
    if limits.get("ge"):
        return f"{whole}from", {"low": limits["ge"]}
    if labelled and kind in (int, float) and (problem == "finite_number" or problem.endswith("_type")):
        return f"{whole}number", {}
    if problem.endswith("_type"):
        return "type", {"type": kind.__name__}
    if problem == "predicate_failed":
        what = next(mark.documentation for mark in hint.__metadata__ if isinstance(mark, DocInfo))
        gaps = next((mark for mark in hint.__metadata__ if isinstance(mark, Mapping)), {})
        return "described", {"what": _(what).format(**gaps)}
    if problem == "less_than":
        return "below", {"high": limits["lt"]}
    return "positive" if "gt" in limits else "not-negative", {}


def shown_value(value: Any, hint: Any) -> str:
    """What was given, as a sentence shows it; empty where a field was left empty."""
    if PERCENT in get_args(hint):
        sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < ENDLESS
        return figures("{share:.4g}%", share=100 * value) if sound else ""
    return "" if value is None else shown(value)


# ---------------------------------------------------------------------------------------------------------- the types
@cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """The types of a dataclass's fields, with their marks: limits, and a text that is the field's label."""
    return get_type_hints(kind, include_extras=True)


def hint_at(kind: Any, path: Sequence[str]) -> Any:
    """The type at the end of a path through dataclasses, lists and mappings; where None will do, the other one."""
    kind = given(kind)
    if not path:
        return kind
    inner = bare(kind)
    if get_origin(inner) is None and not is_dataclass(inner):
        return kind  # Pydantic's path goes on to which one of a union was tried
    held = get_args(inner)[-1] if get_origin(inner) else hints_of(inner)[path[0]]
    return hint_at(held, path[1:])


def given(hint: Any) -> Any:
    """A type without None."""
    optional = get_origin(hint) in (Union, UnionType)
    return next(one for one in get_args(hint) if one is not NoneType) if optional else hint


def bare(hint: Any) -> Any:
    """A type without its marks, and without None beside it."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_args(kind)[0] if isinstance(kind, UnionType) and get_args(kind)[1:] == (NoneType,) else kind


def label_of(hint: Any) -> str:
    """The label of a field of this type; empty where it has none."""
    return _(next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, str)), ""))


def limits_of(hint: Any) -> dict[str, Any]:
    """The limits of a number's type: 'ge', 'gt', 'le', 'lt'."""
    marked = ((name, getattr(mark, name, None)) for mark in get_args(hint) for name in ("ge", "gt", "le", "lt"))
    return {name: limit for name, limit in marked if limit is not None}


def describe(kind: type[Any]) -> list[tuple[str, Any, str]]:
    """(field, default, sentence) of a dataclass: the sentence stands below the field in its source, and only there."""
    sentences: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if is_dataclass(owner):
            sentences |= sentences_in(owner)
    default = kind()
    return [(entry.name, getattr(default, entry.name), sentences.get(entry.name, "")) for entry in fields(kind)]


@cache
def sentences_in(kind: type[Any]) -> Mapping[str, str]:
    """What stands below each field in the source of a dataclass, but not in what it inherits from.

    Pydantic reads these too (`use_attribute_docstrings`), but for whatever it checks, in whichever thread comes first;
    and two threads that parse Python's source at once fail with a SystemError before Python 3.11.8 (gh-106905).
    """
    with PARSING:
        (definition,) = ast.parse(dedent(getsource(kind))).body
    found: dict[str, str] = {}
    for field, said in pairwise(cast(ast.ClassDef, definition).body):
        if isinstance(field, ast.AnnAssign) and isinstance(said, ast.Expr):
            found[cast(ast.Name, field.target).id] = " ".join(ast.literal_eval(said.value).split())
    return found
