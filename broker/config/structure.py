"""From the plain values of a TOML file to the model, strictly, by cattrs: all problems are found, not one."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
from cattrs import AttributeValidationNote, ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from broker.config.errors import Problem
from broker.config.model import Config, History

TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text in quotes"}

_INTEGER_BITS = 63
"""Besides the sign: larger ones are none in TOML 1.0, though tomllib reads them, and overflow floats."""


def structure(values: Mapping[str, Any]) -> tuple[Config, list[Problem]]:
    """Return the configuration that `values` (tables of keys) mean, and all that is wrong with them.

    What is wrong has its default in that configuration, so that the rest of it can be looked at nevertheless.
    """
    try:
        return _converter.structure(values, Config), []
    except ClassValidationError as error:
        problems = _problems(error, "")
    wrong = {".".join(problem.key.split(".")[:2]) for problem in problems}
    return _converter.structure(dict(_sound(values, wrong)), Config), problems


def _sound(values: Mapping[str, Any], wrong: Set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section, cls in ((field.name, field.type) for field in attrs.fields(Config)):
        table = values.get(section)
        if cls is not None and isinstance(table, Mapping):
            known = attrs.fields_dict(cls)
            yield (
                section,
                {key: value for key, value in table.items() if key in known and f"{section}.{key}" not in wrong},
            )


def _problems(error: ClassValidationError, key: str) -> list[Problem]:
    found: list[Problem] = []
    for inner in error.exceptions:
        notes = [note for note in getattr(inner, "__notes__", ()) if isinstance(note, AttributeValidationNote)]
        name = ".".join(filter(None, [key, notes[0].name if notes else ""]))
        if isinstance(inner, ClassValidationError):
            found.extend(_problems(inner, name))
        elif isinstance(inner, ForbiddenExtraKeysError):
            known = [field.name for field in attrs.fields(inner.cl)]
            found.extend(_unknown(name, extra, known) for extra in sorted(inner.extra_fields))
        else:
            found.append(Problem(name, str(inner)))
    return found


def _unknown(table: str, extra: str, known: list[str]) -> Problem:
    close = difflib.get_close_matches(extra, known, n=1)
    hint = f', did you mean "{close[0]}"?' if close else ""
    what = "unknown key" if table else "unknown section"
    return Problem(f"{table}.{extra}" if table else extra, what + hint)


def _read(wanted: Any, value: object) -> Any:
    """Return `value` as the field's type, without a guess: "5" is no number and true is no integer."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be an array of texts, not {_shown(value)}")
        return tuple(_read(arguments[0], item) for item in value)
    if origin is Literal:
        return _read(str, value)
    if wanted == Path | None:
        text = _read(str, value)
        if "\0" in text:
            raise ValueError("must be a path, which has no zero byte")
        return Path(text) if text else None
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        raise ValueError(f"must be {TYPE_NAMES[wanted]}, not {_shown(value)}")
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"must be {TYPE_NAMES[wanted]}, not {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """Name the kind of a wrong value; the value itself might be a secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        return "an integer of more than 64 bits"
    if isinstance(value, int | float):
        return f"{value}"
    kinds: list[tuple[type, str]] = [(str, "a text"), (list, "an array"), (dict, "a table")]
    return next((name for kind, name in kinds if isinstance(value, kind)), "a date or time")


def _field_hook(field: "attrs.Attribute[Any]") -> Callable[[Any, Any], Any]:
    def hook(value: Any, _type: Any) -> Any:
        if field.type == Mapping[str, History]:
            return _histories(value)
        read = _read(field.type, value)
        if field.validator is not None:
            field.validator(None, field, read)  # here too, so that one bad field does not hide the next
        return read

    return hook


def _histories(value: Any) -> Mapping[str, History]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of namespaces, as in workflow = {size = 100, ttl = 300}")
    errors: list[Exception] = []
    histories: dict[str, History] = {}
    for name, item in value.items():
        try:
            histories[name] = _converter.structure(item, History)
        except (ClassValidationError, ValueError) as error:
            error.add_note(AttributeValidationNote(f"history of {name}", name, History))
            errors.append(error)
    if errors:
        raise ClassValidationError("history", errors, History)
    return histories


def _class_hook(converter: Converter, cls: type[Any]) -> Callable[[Any, Any], Any]:
    fields = attrs.fields(cls)
    overrides = {field.name: override(struct_hook=_field_hook(field)) for field in fields if not attrs.has(field.type)}
    inner = make_dict_structure_fn(
        cls,
        converter,
        _cattrs_forbid_extra_keys=True,
        **overrides,  # type: ignore[arg-type]  # in its signature they stand beside options that are booleans
    )

    def hook(value: Any, wanted: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a table, not {_shown(value)}")
        return inner(value, wanted)

    return hook


def _build() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    converter.register_structure_hook_factory(attrs.has, lambda cls: _class_hook(converter, cls))
    return converter


_converter = _build()
