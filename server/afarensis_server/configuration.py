"""Loads settings from flags, the environment and a TOML file, in this order, and shows where each value is from.

Whatever is not known is refused: a setting with a typo must not be taken for one that holds.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap
from typing import Any, get_args

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import EnvSettingsSource

from .settings import Section, Settings

#: Names the TOML file when no flag does.
CONFIG_VARIABLE = "AFARENSIS_CONFIG"
_PREFIX = "AFARENSIS_"

# Kubernetes puts such variables into every container beside a service called `afarensis` or `afarensis-...`.
_SERVICE_LINK = re.compile(
    r"AFARENSIS_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
_MASK = "********"

# What pydantic finds wrong with a size, in the words of its parser.
_BAD_SIZES = frozenset({"byte_size", "byte_size_unit"})
_SIZE = "write bytes or a size like 512MiB"


class ConfigurationError(Exception):
    """What is wrong with the configuration: one sentence or more, for whoever started the server."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as it is and where that comes from."""

    section: str
    name: str
    field: FieldInfo
    value: Any
    #: ``flag``, ``environment``, ``file`` or ``default``.
    source: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return variable_of(self.section, self.name)

    @property
    def shown(self) -> str:
        """The value as TOML; a secret is masked."""
        return as_toml(_MASK if isinstance(self.value, SecretStr) and self.value else self.value)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and the source of each."""

    settings: Settings
    #: The TOML file that was read, if any.
    file: Path | None
    _sources: Mapping[str, str]

    def __iter__(self) -> Iterator[Setting]:
        for section, fields in sections():
            values = getattr(self.settings, section)
            for name, field in fields.items():
                source = self._sources.get(f"{section}.{name}", "default")
                yield Setting(section, name, field, getattr(values, name), source)


def load(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Configuration:
    """The settings from flags (``{"server.listen": ...}``), the environment, and the file given or named by it.

    Raises ConfigurationError.
    """
    if file is None and (named := os.environ.get(CONFIG_VARIABLE)):
        file = Path(named)
    given = {
        "flag": _nested(flags or {}),
        "environment": _from_environment(),
        "file": _from_file(file) if file is not None else {},
    }
    sources = {
        f"{section}.{name}": source for source in reversed(given) for section, name in _names_in(given[source], source)
    }

    merged: dict[str, dict[str, Any]] = {}
    for source in reversed(given):
        for section, values in given[source].items():
            merged[section] = {**merged.get(section, {}), **values}
    try:
        return Configuration(Settings(**merged), file, sources)  # type: ignore[arg-type]  # validation is the point
    except ValidationError as error:
        raise ConfigurationError(" ".join(_sentence(problem, sources) for problem in error.errors())) from None


def sections() -> Iterator[tuple[str, Mapping[str, FieldInfo]]]:
    """The sections by name, each with its settings."""
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        yield section, kind.model_fields


def variable_of(section: str, name: str) -> str:
    return f"{_PREFIX}{section}_{name}".upper()


def _nested(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for path, value in flags.items():
        section, _, name = path.partition(".")
        nested.setdefault(section, {})[name] = value
    return nested


class _Variables(EnvSettingsSource):
    """The variables as they are written: JSON is read, and its mistakes are told, where the setting is checked."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return value


def _from_environment() -> dict[str, Any]:
    known = {variable_of(section, name) for section, fields in sections() for name in fields}
    for variable in os.environ:
        name = variable.upper()
        if name.startswith(_PREFIX) and name not in known and name != CONFIG_VARIABLE:
            if _SERVICE_LINK.fullmatch(name):
                continue
            raise ConfigurationError(
                f"The environment variable {variable} is not a setting{_suggestion(name, known)} "
                "Unset it, or see `afarensis-server config reference`."
            )
    values: dict[str, dict[str, Any]] = _Variables(Settings)()
    fields = dict(sections())
    return {
        section: {name: names[name] for name in names if name in fields[section]} for section, names in values.items()
    }


def _from_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.expanduser().read_text())
    except OSError as error:
        raise ConfigurationError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The configuration file {file} is not valid TOML: {error}.") from error


def _names_in(values: Mapping[str, Any], source: str) -> Iterator[tuple[str, str]]:
    known = dict(sections())
    for section, names in values.items():
        if section not in known:
            places = [name for name, fields in known.items() if section in fields]
            if places and not isinstance(names, Mapping):
                below = " or ".join(f"[{name}]" for name in places)
                raise ConfigurationError(f"`{section}`{_origin(source)} must stand below {below}.")
            raise ConfigurationError(f"There is no section '{section}'{_origin(source)}{_suggestion(section, known)}")
        if not isinstance(names, Mapping):
            raise ConfigurationError(f"'{section}'{_origin(source)} must be a section, like [{section}].")
        for name in names:
            if name not in known[section]:
                paths = [f"{section}.{name}" for section, fields in known.items() for name in fields]
                path = f"{section}.{name}"
                raise ConfigurationError(f"There is no setting '{path}'{_origin(source)}{_suggestion(path, paths)}")
            yield section, name


def _origin(source: str) -> str:
    return " (from the configuration file)" if source == "file" else ""


def _suggestion(name: str, known: Any) -> str:
    """How a sentence about an unknown name ends."""
    matches = get_close_matches(name, list(known), 1)
    return f"; did you mean {matches[0]}?" if matches else "."


def _sentence(problem: Any, sources: Mapping[str, str]) -> str:
    section, *names = problem["loc"]
    path = ".".join([section, *names[:1]])
    source = sources.get(path)
    named = path
    if source == "environment" and names:
        named = variable_of(section, names[0])
    # Where in a list of tables: `models.endpoints[0].provider`.
    named += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names[1:])
    if problem["type"] == "value_error" and names:
        # A sentence of our own, which says what it got.
        return f"{named}: {problem['ctx']['error']}."
    message = _SIZE if problem["type"] in _BAD_SIZES else problem["msg"].removeprefix("Value error, ")
    got = ""
    if names and source is not None and not _may_hold_secret(section, names, problem):
        got = f" (got {problem['input']!r})"
    return f"{named}: {message[0].lower()}{message[1:]}{got}."


def _may_hold_secret(section: str, names: Sequence[Any], problem: Any) -> bool:
    """Whether the value must not be shown: a secret, or a table, which may have one, perhaps by a name with a typo."""
    field = dict(sections())[section][names[0]]
    if field.annotation is SecretStr:
        return True
    tables = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, Section)]
    if not tables:
        return False
    name = names[-1]
    known = tables[0].model_fields.get(name) if isinstance(name, str) else None
    return known is None or known.annotation is SecretStr or problem["type"] == "missing"


def as_toml(value: Any) -> str:
    """A value as TOML. None has no form there and is shown as an empty comment."""
    match value:
        case None:
            return ""
        case SecretStr():
            return as_toml(value.get_secret_value())
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(int(value) if isinstance(value, int) else value)
        case Section():
            # What was set. Secrets are left out.
            told = {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
            pairs = (f"{name} = {as_toml(item)}" for name, item in told.items() if not isinstance(item, SecretStr))
            return "{ " + ", ".join(pairs) + " }"
        case list() | tuple():
            return "[" + ", ".join(as_toml(item) for item in value) + "]"
    # A JSON string is a TOML basic string, but for the escape of the delete character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def to_toml(configuration: Configuration) -> str:
    """The whole configuration as a file, with what each setting means; secrets are left out."""
    lines: list[str] = []
    last = ""
    for setting in configuration:
        if setting.section != last:
            lines += ["", f"[{setting.section}]"]
            last = setting.section
        lines += [f"# {line}" for line in _wrapped(setting.field.description or "")]
        hidden = setting.value is None or isinstance(setting.value, SecretStr)
        lines.append(f"# {setting.name} =" if hidden else f"{setting.name} = {setting.shown}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _wrapped(text: str) -> Sequence[str]:
    return wrap(" ".join(text.split()), 116)


def reference() -> str:
    """The document that lists every setting, as Markdown."""
    lines = [
        "# Configuration",
        "",
        "Every setting can be given, in order of precedence, by a flag of `afarensis-server serve`, by an",
        "environment variable, or in a TOML file (`--config FILE`, or `AFARENSIS_CONFIG`). Unknown ones are refused.",
        "",
        "```console",
        "$ afarensis-server serve --set sandbox.pool_size=8",
        "$ AFARENSIS_SANDBOX_POOL_SIZE=8 afarensis-server serve",
        "$ afarensis-server serve --config afarensis.toml     # [sandbox] pool_size = 8",
        "```",
        "",
        "`afarensis-server config show` prints what is in effect and where each value comes from; `--toml` prints it",
        "as a file to start from. Sizes are bytes, or carry a unit: `512MiB`. This page is made by",
        "`afarensis-server config reference`. In a checkout the program is `.venv/bin/afarensis-server`.",
    ]
    for section, fields in sections():
        kind = Settings.model_fields[section].annotation
        assert kind is not None
        lines += [
            "",
            f"## {section}",
            "",
            kind.__doc__ or "",
            "",
            "| setting | default | meaning |",
            "| --- | --- | --- |",
        ]
        for name, field in fields.items():
            default = "" if field.default is PydanticUndefined else as_toml(field.default)
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            cell = f"`{default}`" if default else "unset"
            lines.append(f"| `{section}.{name}`<br>`{variable_of(section, name)}` | {cell} | {meaning} |")
    return "\n".join(lines) + "\n"
