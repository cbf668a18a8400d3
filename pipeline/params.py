"""Reading params.yaml: one section at a time, each checked against the model that its stage declares.

An error is one line that starts with the yaml path: `params.yaml: heads.tau.tau: input should be a valid number, got 'bad'`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from pipeline.files import InputError, in_a_line

FILE = Path("params.yaml")


class Params(BaseModel):
    """Base of every section's model: immutable, no unknown keys, no silent conversion (a text is never a number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Section = TypeVar("Section", bound=Params)


def read(path: Path = FILE) -> dict[str, Any]:
    """Read the whole parameter file.

    Raises
    ------
    InputError
        If it is missing, is no YAML, or is no mapping.
    """
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))  # DVC's own parser: YAML 1.2, no key twice
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run from the repository's root folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {in_a_line(error)}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a mapping of sections at the top level")
    return tree


def at(tree: dict[str, Any], where: str) -> Any:
    """What stands at a dotted path (`heads.tau`); an empty mapping where the yaml has the key without a value."""
    node: Any = tree
    for depth, key in enumerate(where.split(".")):
        if not isinstance(node, dict):
            raise InputError(f"{FILE}: {'.'.join(where.split('.')[:depth])}: expected a mapping, got {node!r}")
        if key not in node:
            raise InputError(f"{FILE}: {'.'.join(where.split('.')[: depth + 1])}: missing")
        node = node[key] if node[key] is not None else {}
    return node


def find(tree: dict[str, Any], where: str) -> Any:
    """What stands at a dotted path of any mapping; None where nothing does."""
    node: Any = tree
    for key in where.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def section(tree: dict[str, Any], where: str, model: type[Section], without: tuple[str, ...] = ()) -> Section:
    """Check the section at a dotted path against its model.

    `without` names keys that are not the model's to check.

    Raises
    ------
    InputError
        One line for the first thing wrong: yaml path, what is allowed, what was there.
    """
    node = at(tree, where)
    if not isinstance(node, dict):
        raise InputError(f"{FILE}: {where}: expected a mapping, got {node!r}")
    try:
        return model.model_validate({key: value for key, value in node.items() if key not in without})
    except ValidationError as error:
        raise InputError(f"{FILE}: {_first_line(error, where, model)}") from None


def _first_line(error: ValidationError, where: str, model: type[Params]) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join([where, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; known here: {', '.join(model.model_fields) or 'none'}"
    if first["type"] == "missing":
        return f"{path}: missing"
    message = first["msg"].removeprefix("Value error, ")
    got = f", got {first['input']!r}" if first["loc"] else ""  # of a whole section the message says enough
    return f"{path}: {message[0].lower()}{message[1:]}{got}"


class _Seed(Params):
    value: int = Field(ge=0, lt=2**32)


def seed(tree: dict[str, Any], name: str) -> int:
    """One of the seeds: `subset` (which images), `train` (stage one), `heads` (stage two)."""
    value = at(tree, f"seed.{name}")
    try:
        return _Seed(value=value).value
    except ValidationError as error:
        raise InputError(f"{FILE}: seed.{name}: {error.errors()[0]['msg'].lower()}, got {value!r}") from None


def features_file(tree: dict[str, Any]) -> Path:
    """Where heads, `deviation` and `evaluate` read features: the top-level parameter `features`."""
    value = at(tree, "features")
    if not isinstance(value, str) or not value:
        raise InputError(f"{FILE}: features: expected the path of a features file, got {value!r}")
    return Path(value)


def head_names(tree: dict[str, Any]) -> list[str]:
    """The names below `heads`, each fit to be a file's name.

    Raises
    ------
    InputError
        If there is none, or one is not fit.
    """
    heads = at(tree, "heads")
    if not isinstance(heads, dict) or not heads:
        raise InputError(f"{FILE}: heads: expected at least one entry like `tau: {{kind: tau, tau: 0.7}}`")
    for name in heads:
        check_name(name, "heads", "a head")
    return list(heads)


def check_name(name: Any, where: str, whose: str) -> None:
    """Refuse a name (of `whose`, for the message) that is not fit to be a file's name."""
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name)):
        raise InputError(f"{FILE}: {where}.{name}: {whose}'s name has letters, digits, _ and -, and begins with a letter")


def known(package: str) -> list[str]:
    """Names of the methods in one package, which are its module names."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / package)]))


def method(package: str, name: Any, where: str) -> ModuleType:
    """Import the module `pipeline/PACKAGE/NAME.py` that the yaml path `where` asks for.

    Raises
    ------
    InputError
        If there is no such module; the line lists those that there are.
    """
    if name not in known(package):
        raise InputError(f"{FILE}: {where}: no {name!r} in pipeline/{package}/; known: {', '.join(known(package))}")
    return importlib.import_module(f"pipeline.{package}.{name}")


def model_of(module: ModuleType, name: str) -> type[Params]:
    """The class `name` of a method's module, which has its parameters.

    Raises
    ------
    InputError
        If the module has no such class, or it is no Params.
    """
    model = getattr(module, name, None)
    if not (isinstance(model, type) and issubclass(model, Params)):
        what = f"expected a class {name} of its parameters, derived from pipeline.params.Params"
        raise InputError(f"{module.__name__.replace('.', '/')}.py: {what}")
    return model


def of_method(tree: dict[str, Any], package: str, name: str, where: str, model: str) -> Any:
    """The parameters of a method below its package's section: the class `model` of the module that the yaml path `where` asks for.

    Raises as `method`, `model_of` and `section` do.
    """
    return section(tree, f"{package}.{name}", model_of(method(package, name, where), model))
