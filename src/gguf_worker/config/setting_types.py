"""The types of settings: how a variable's text becomes a value, and what is refused.

A validator's own message is never shown: `setting_descriptions` says what a value may be.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

ALL_LAYERS = -1
"""The value of `gpu_layers` for the setting `all`."""

ONE_LINE = r"^[^\x00-\x1f\x7f]+$"
"""A text without control characters."""

LONGEST_NAME = 256
"""Characters of a model's name."""

_Value = TypeVar("_Value")


def split_list(text: str) -> tuple[str, ...]:
    """Split a list at its commas and ends of lines."""
    return tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())


def _or_auto(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "auto" else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _layers(value: object) -> object:
    return ALL_LAYERS if isinstance(value, str) and value.lower() == "all" else value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not a web address")
    if parts.username or parts.password:
        raise ValueError("a web address that carries a password would be shown and logged")
    return value.rstrip("/")


def _key(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("a key goes into an HTTP header")
    return value


def _keys(value: SecretStr) -> SecretStr:
    keys = split_list(value.get_secret_value())
    if not keys:
        raise ValueError("no key")
    for key in keys:
        _key(SecretStr(key))
    return value


def _origins(value: str) -> str:
    origins = [origin.lower().rstrip("/") for origin in split_list(value)]
    if not origins or not all(re.fullmatch(r"\*|https?://[^/*?#@\s]+", each) for each in origins):
        raise ValueError("not origins")
    return ", ".join(origins)


def _names(value: str) -> str:
    names = split_list(value)
    if not names or any(len(name) > LONGEST_NAME for name in names):
        raise ValueError("not names")
    return ", ".join(names)


def _redis_address(value: SecretStr) -> SecretStr:
    if urlsplit(value.get_secret_value()).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("not a Redis address")
    return value


def _database_address(value: SecretStr) -> SecretStr:
    if not re.match(r"[a-z][a-z0-9+]*://", value.get_secret_value()):
        raise ValueError("not a database address")
    return value


def _revision(value: str) -> str:
    if ".." in value:
        raise ValueError("not a revision")
    return value


OrAuto = BeforeValidator(_or_auto)
"""Makes None of `auto`, in letters of any case."""
AnyCase = BeforeValidator(_lower)
"""Accepts letters of any case."""

AutoInt = Annotated[int | None, OrAuto]
AutoChoice = Annotated[_Value | None, OrAuto, AnyCase]
LayerCount = Annotated[int | None, OrAuto, BeforeValidator(_layers)]
Revision = Annotated[str, AfterValidator(_revision)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Names = Annotated[str, AfterValidator(_names)]
Origins = Annotated[str, AfterValidator(_origins)]
Key = Annotated[SecretStr, AfterValidator(_key)]
Keys = Annotated[SecretStr, AfterValidator(_keys)]
RedisAddress = Annotated[SecretStr, AfterValidator(_redis_address)]
DatabaseAddress = Annotated[SecretStr, AfterValidator(_database_address)]
