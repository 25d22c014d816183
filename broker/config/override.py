"""Values from outside the file: systemd credentials, then environment variables, which win."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

import attrs

from broker.config.model import Config
from broker.config.structure import TYPE_NAMES
from broker.config.toml import read_toml

_ENVIRONMENT = "SIGNALBOX_"


@attrs.frozen
class Override:
    """One value for `section.key`, and where it came from. `problem` is set when it could not be read."""

    section: str
    key: str
    value: Any
    source: str
    problem: str | None = None


def overrides(environ: Mapping[str, str]) -> Iterator[Override]:
    """Yield every override in the order in which they apply, credentials first.

    A file `redis.url` in $CREDENTIALS_DIRECTORY is the value of that key; for a key that names a file, such as
    `server.tls_key`, the credential is that file. `SIGNALBOX_REDIS__URL` overrides the same key. Numbers and tables are
    written as in TOML, texts bare, arrays as in TOML or separated by commas.
    """
    yield from _credentials(environ.get("CREDENTIALS_DIRECTORY"))
    for name in sorted(environ):
        section, double, key = name.removeprefix(_ENVIRONMENT).lower().partition("__")
        if name.startswith(_ENVIRONMENT) and double:
            yield _parse(section, key, environ[name], name)


def _credentials(directory: str | None) -> Iterator[Override]:
    if not directory:
        return
    sections = {field.name for field in attrs.fields(Config)}
    for path in sorted(Path(directory).iterdir()) if Path(directory).is_dir() else []:
        section, dot, key = path.name.partition(".")
        if not dot or section not in sections:
            continue
        source = f"credential {path.name}"
        if _type_of(section, key) == Path | None:
            yield Override(section, key, str(path), source)
            continue
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            yield Override(section, key, None, source, f"cannot be read: {_reason(error)}")
        else:
            yield _parse(section, key, text, source)


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "not UTF-8"


def _type_of(section: str, key: str) -> Any:
    """Return the declared type of a key, None for one that does not exist (which is complained about later)."""
    sections = attrs.fields_dict(Config)
    section_type = sections[section].type if section in sections else None
    fields = attrs.fields_dict(section_type) if section_type is not None else {}
    return fields[key].type if key in fields else None


def _parse(section: str, key: str, text: str, source: str) -> Override:
    wanted = _type_of(section, key)
    if wanted in (None, str, Path | None) or get_origin(wanted) is Literal:
        return Override(section, key, text, source)
    if get_origin(wanted) is tuple and not text.lstrip().startswith("["):
        return Override(section, key, [part.strip() for part in text.split(",") if part.strip()], source)
    try:
        return Override(section, key, read_toml(f"value = {text}")["value"], source)
    except ValueError:
        kind = TYPE_NAMES.get(wanted, "an array of texts" if get_origin(wanted) is tuple else "a table")
        return Override(section, key, None, source, f"must be {kind}, written as in TOML")
