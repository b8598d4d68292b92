"""The settings file: options by the names of their flags, and where what is in force came from.

One TOML file for all commands; a command takes from it the options that it has. The command line
goes before the file, the file before the defaults. Secrets are in the environment only, and a jail
is given up only by an argument that somebody typed.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from distill.endpoint import address_of
from distill.errors import InputError
from distill.user_folders import config_folder

NOT_IN_A_FILE = frozenset(
    ("config", "show_config", "prepare_only", "check", "check_only", "dry_run")
)
"""Parameters that say what to do now."""
SECRETS = ("OPENAI_API_KEY", "DISTILL_WORKER_KEY")
SURROUNDINGS = ("OPENAI_BASE_URL",)
PATH_KEY = "distill.config_file"


def default_path() -> Path:
    """The user's own file, which is read where no other is named."""
    return config_folder() / "config.toml"


def take(context: click.Context, _option: click.Parameter, given: Path | None) -> None:
    """Make the file's values the defaults of a command's options: the callback of ``--config``.

    Raises click.UsageError, which names the file, for what can't be read or used.
    """
    path = given or default_path()
    context.meta[PATH_KEY] = path
    values = _read(path, must_be_there=given is not None)
    known = {_flag(option): option for option in _options(_all_commands(context))}
    own = {_flag(option): option for option in _options([context.command])}
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        option = own.get(name) or known.get(name)
        if option is None or option.name is None:
            raise click.UsageError(f"{path}: {_unknown(name, known)}", context)
        fitting = _fitting(path, option, value, context)
        if name in own:
            defaults[option.name] = fitting
    context.default_map = defaults


def _read(path: Path, *, must_be_there: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if must_be_there:
            raise click.UsageError(f"there is no settings file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"the settings file {path} can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"the settings file {path} is not TOML: {error}") from error


def _all_commands(context: click.Context) -> Iterable[click.Command]:
    group = context.find_root().command
    return group.commands.values() if isinstance(group, click.Group) else [group]


def _options(commands: Iterable[click.Command]) -> Iterator[click.Option]:
    """The options that a file may set."""
    for command in commands:
        takes_file = any(each.name == "config" for each in command.params)
        for option in command.params if takes_file else ():
            if isinstance(option, click.Option) and option.name not in NOT_IN_A_FILE:
                yield option


def _flag(option: click.Option) -> str:
    """``max-iterations``: its long name, as it is typed."""
    return max(option.opts, key=len).lstrip("-")


def _unknown(name: str, known: Iterable[str]) -> str:
    if "key" in name.replace("_", "-").split("-"):
        return f"{name}: keys are not kept in files; set {' or '.join(SECRETS)} in the environment"
    near = difflib.get_close_matches(name.replace("_", "-"), list(known), 1)
    meant = f"; did you mean {near[0]!r}?" if near else ": the names are those of the flags"
    return f"there is no option {name!r}{meant}"


def _fitting(path: Path, option: click.Option, value: Any, context: click.Context) -> Any:
    """The value as the option's flag would give it; it has passed the option's own checks."""
    name = _flag(option)
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        fitting: Any = [_word(path, name, each) for each in values]
    elif isinstance(value, bool):
        # --ray may stand alone, or have a value.
        alone = value if option.is_flag else option.flag_value
        if not (option.is_flag or isinstance(alone, str)):
            raise click.UsageError(f"{path}: {name} needs a value, not {_toml(value)}", context)
        fitting = alone if value else None
    elif option.is_flag:
        raise click.UsageError(f"{path}: {name} is true or false, not {_toml(value)}", context)
    else:
        fitting = _word(path, name, value)
    if _is_address(name) and urlsplit(str(fitting)).password:
        raise click.UsageError(
            f"{path}: {name} has a password, and secrets are not kept in files; type it, or use a "
            "key of the environment",
            context,
        )
    if name == "sandbox" and fitting == "none":
        raise click.UsageError(
            f"{path}: a file can't take the jail away; give --sandbox none on the command line",
            context,
        )
    try:
        option.type_cast_value(context, fitting)
    except click.BadParameter as error:
        raise click.UsageError(f"{path}: {name}: {error.message}", context) from error
    return fitting


def _word(path: Path, name: str, value: Any) -> str:
    """A number or a text as it would be typed: the option's own type reads it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "list" if isinstance(value, list) else "table" if isinstance(value, dict) else ""
        raise click.UsageError(f"{path}: {name} can't be {f'a {kind}' if kind else _toml(value)}")
    return str(value)


def only_in_file(context: click.Context, names: Iterable[str]) -> list[str]:
    """Those of these parameters that the file sets and nobody has typed."""
    return [
        name for name in names if context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
    ]


def shown(context: click.Context) -> str:
    """What is in force, as a settings file, with where each value came from."""
    path = context.meta[PATH_KEY]
    there = "" if path.exists() else " (not there)"
    lines = [f"# Settings file: {path}{there}"]
    sources = {
        ParameterSource.COMMANDLINE: "command line",
        ParameterSource.DEFAULT_MAP: str(path),
    }
    for option in _options([context.command]):
        source = context.get_parameter_source(option.name or "")
        where = sources.get(source, "default") if source is not None else "default"
        lines.append(_line(option, context.params.get(option.name or ""), where))
    lines.append("# In the environment:")
    lines += [f"# {name} is {'set' if os.environ.get(name) else 'not set'}" for name in SECRETS]
    there_too = [name for name in SURROUNDINGS if os.environ.get(name)]
    lines += [f"# {name} is {_without_secrets(os.environ[name])}" for name in there_too]
    return "\n".join(lines)


def _line(option: click.Option, value: Any, where: str) -> str:
    name = _flag(option)
    if value is None or value == ():
        # A default that is more than a value is told where --help tells it.
        told = f": {option.show_default}" if isinstance(option.show_default, str) else ""
        return f"# {name} is not set{told}"
    if not _is_address(name) or (bare := _without_secrets(value)) == value:
        return f"{name} = {_toml(value)}  # {where}"
    return f"# {name} is {bare}, and something that is not shown  # {where}"


def _is_address(name: str) -> bool:
    """Whether an option is a URL, which may have a password."""
    return name.endswith("url") or name == "otlp"


def _without_secrets(url: str) -> str:
    """An address without its password and its query, which may hold a key."""
    try:
        return address_of(url, "").where
    except InputError:
        return "no URL"


def _toml(value: Any) -> str:
    """A value of an option in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    escaped = "".join(
        f"\\u{ord(each):04x}" if ord(each) < 32 or ord(each) == 127 else each
        for each in str(value).replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'
