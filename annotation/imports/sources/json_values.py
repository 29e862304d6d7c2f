"""One JSON value: parsed as JSON and not as Python's, each key once, and refused in words. Pure."""

from __future__ import annotations

import json
from typing import Any

from annotation.imports.printable import display_name
from annotation.records import UserError
from annotation.translation import _


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. One that says two things under one key says neither."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next((key for key, value in pairs if value != found[key]), None)
        if twice is not None:
            raise ValueError(_("the key '{key}' stands twice in an object").format(key=display_name(twice)))
    return found


# NaN and Infinity are Python's, not JSON's, and stand where there is nothing.
DECODER = json.JSONDecoder(parse_constant=lambda _: None, object_pairs_hook=unique_keys)


class NotJson(UserError):
    """A line that is no JSON, or nested too deeply; `why` is what the parser says of it, in English."""

    def __init__(self, sentence: str, error: Exception) -> None:
        super().__init__(sentence)
        self.why = str(error).split(";")[0]


def parse_json(text: str) -> Any:
    """A JSON value. Raises NotJson."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        said = _("the line is not JSON: {msg} at character {pos:,}").format(msg=parser_words(error), pos=error.pos + 1)
        raise NotJson(said, error) from error
    except RecursionError as error:
        raise NotJson(_("the line is nested too deeply"), error) from error
    except ValueError as error:  # a key that says two things, or an integer of thousands of digits
        raise NotJson(_("the line is not JSON: {msg}").format(msg=str(error).split(";")[0]), error) from error


def parser_words(error: json.JSONDecodeError) -> str:
    """What the parser says, without the beginning of a place that it gives elsewhere."""
    return error.msg.lower().removesuffix(" at").removesuffix(" starting")
