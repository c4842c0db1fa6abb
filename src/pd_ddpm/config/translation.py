"""Translate errors of pydantic into problems of the configuration."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pd_ddpm.config.errors import KeyProblem, suggestion
from pd_ddpm.config.sections.base import Section

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section with keys",
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}
_NESTED = "`--config` reads nested keys as text, so put them into a file for `--configfile`"
_LENGTHS = {"too_short": ("min_length", ("too few", "at least")), "too_long": ("max_length", ("too many", "at most"))}


def problems_from(error: ValidationError, annotation: Any, prefix: Sequence[str] = ()) -> list[KeyProblem]:
    """Translate an error of pydantic.

    Args:
        error: raised by the validation of `annotation`.
        annotation: the type that was validated: a section, or a union of sections.
        prefix: keys that lead to the value, such as ("networks", "unet").

    Returns:
        One problem per key.
    """
    return [_problem(details, annotation, prefix) for details in error.errors(include_url=False)]


@dataclass
class _Place:
    """Where an error is: the keys, the section that holds the last of them, the annotation and examples of its value."""

    keys: list[str]
    section: type[Section] | None
    annotation: Any
    examples: Sequence[Any] = ()


def _problem(details: ErrorDetails, annotation: Any, prefix: Sequence[str]) -> KeyProblem:
    place = _locate(annotation, details["loc"])
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    tag = (context["discriminator"].strip("'"),) if kind.startswith("union_tag") else ()
    key = (*prefix, *place.keys, *tag)
    if kind == "contradiction":
        return KeyProblem(key, context["problem"], context["remedy"])
    if kind == "extra_forbidden":
        return KeyProblem(key, "unknown key", suggestion(key[-1], sorted(place.section.model_fields)))
    if kind == "missing":
        meaning = place.section.model_fields[place.keys[-1]].description
        return KeyProblem(key, "missing", f"Add it ({meaning.rstrip('.')})" if meaning else "Add it")
    if kind == "union_tag_not_found":
        return KeyProblem(key, "missing", f"Add it. Valid: {', '.join(_tags(place.annotation))}")
    if kind == "union_tag_invalid":
        return KeyProblem(key, f"'{context['tag']}' is not valid", suggestion(context["tag"], _tags(place.annotation)))
    if kind == "literal_error":
        return KeyProblem(key, f"{_shown(value)} is not valid", suggestion(value, _literals(place.annotation)))
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return KeyProblem(key, f"{_shown(value)} is out of range", f"Set a number {words} {context[bound]:g}")
    if kind in _LENGTHS:
        bound, words = _LENGTHS[kind]
        entries = "entry" if context[bound] == 1 else "entries"
        return KeyProblem(key, f"{_shown(value)} has {words[0]} entries", f"Set {words[1]} {context[bound]} {entries}")
    if kind in _KINDS:
        return KeyProblem(key, f"{_shown(value)} is not {_KINDS[kind]}", _remedy_for_type(kind, value))
    if kind == "string_pattern_mismatch":
        examples = ", ".join(f"'{example}'" for example in place.examples)
        return KeyProblem(key, f"{_shown(value)} does not have the required form", f"Set text such as {examples}")
    if kind == "invalid_key":
        return KeyProblem(key, "the name of a key must be text", "Put it in quotes")
    return KeyProblem(key, details["msg"], "Correct the value")


def _remedy_for_type(kind: str, value: Any) -> str:
    if kind in ("int_type", "float_type") and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            pass
        else:
            exponent = f", and its exponent with a decimal point and a sign, as in {number:.1e}" if "e" in value.lower() else ""
            return f"Write it without quotes{exponent}. {_NESTED}"
    if kind == "bool_type" and value in ("true", "false"):
        return f"Write it without quotes. {_NESTED}"
    if kind == "string_type" and isinstance(value, int | float):
        return "Put it in quotes"
    return f"Set {_KINDS[kind]}"


def _locate(annotation: Any, location: Sequence[int | str]) -> _Place:
    """Follow the location of an error; parts that are no keys (tags of a union, "[key]") are left out."""
    place = _Place([], None, annotation)
    for part in location:
        if part == "[key]":
            continue
        annotation, place.examples = _bare(place.annotation)
        if isinstance(annotation, type) and issubclass(annotation, Section):
            place.section = annotation
            field = annotation.model_fields.get(str(part))
            place.annotation = None if field is None else Annotated[field.annotation, field]
        elif get_origin(annotation) in (list, dict):
            place.annotation = get_args(annotation)[-1]
        else:
            variants = [variant for variant in get_args(annotation) if part in _tags(variant)]
            place.annotation = variants[0] if variants else annotation
            continue
        place.keys.append(str(part))
    place.annotation, place.examples = _bare(place.annotation)
    return place


def _bare(annotation: Any) -> tuple[Any, Sequence[Any]]:
    """Return an annotation without `Annotated` and `| None`, and the examples that its metadata give."""
    examples: Sequence[Any] = ()
    while True:
        variants = [variant for variant in get_args(annotation) if variant is not type(None)]
        if get_origin(annotation) is Annotated:
            fields = [one for one in annotation.__metadata__ if isinstance(one, FieldInfo) and one.examples]
            examples = fields[0].examples if fields else examples
            annotation = annotation.__origin__
        elif get_origin(annotation) in (Union, UnionType) and len(variants) == 1:
            annotation = variants[0]
        else:
            return annotation, examples


def _literals(annotation: Any) -> list[str]:
    """Return the values of all `Literal`s in an annotation."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for inner in get_args(annotation) for value in _literals(inner)]


def _tags(annotation: Any) -> list[str]:
    """Return the tags of a union's sections: the architectures of networks, the segmenters of methods."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        tagged = [name for name in ("architecture", "segmenter") if name in annotation.model_fields]
        return [value for name in tagged for value in _literals(annotation.model_fields[name].annotation)]
    return [value for inner in get_args(annotation) for value in _tags(inner)]


def _shown(value: Any) -> str:
    """Return a value as it stands in a configuration, shortened."""
    names = {None: "null", True: "true", False: "false"}
    text = names[value] if value is None or isinstance(value, bool) else repr(value)
    return textwrap.shorten(text, 80, placeholder=" ...")
