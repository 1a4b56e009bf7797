"""The formats of texts that schemas name: known to the engine, written as patterns, or no shape."""

from __future__ import annotations

from collections.abc import Mapping

KNOWN = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    }
)
"""Formats that the engine holds an answer to by itself."""

OTHER_NAMES: Mapping[str, str] = {
    "datetime": "date-time",
    "guid": "uuid",
    "http-url": "uri",
    "url": "uri",
    "uuid4": "uuid",
}

SHAPELESS = frozenset(
    {
        "binary",
        "char",
        "code",
        "decimal",
        "directory-path",
        "double",
        "enum",
        "file-path",
        "float",
        "html",
        "int32",
        "int64",
        "markdown",
        "multiline",
        "password",
        "path",
        "string",
        "text",
        "textarea",
        "uint32",
        "uint64",
    }
)
"""Formats that say how a value is shown or stored, and nothing about its text."""

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

PATTERNS: Mapping[str, str] = {
    "base64": _BASE64,
    "base64url": "^[A-Za-z0-9_-]*$",
    "byte": _BASE64,
    "cidrv4": r"^([0-9]{1,3}\.){3}[0-9]{1,3}/([0-9]|[12][0-9]|3[0-2])$",
    "cuid": "^c[0-9a-z]{8,31}$",
    "cuid2": "^[a-z][0-9a-z]{1,31}$",
    "e164": r"^\+[1-9][0-9]{6,14}$",
    "emoji": r"^\p{Extended_Pictographic}+$",
    "hex": "^[0-9a-fA-F]*$",
    "json-pointer": "^(/([^/~]|~[01])*)*$",
    "jwt": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$",
    "ksuid": "^[A-Za-z0-9]{27}$",
    "mac": "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$",
    "nanoid": "^[a-zA-Z0-9_-]{21}$",
    "relative-json-pointer": "^(0|[1-9][0-9]*)(#|(/([^/~]|~[01])*)*)$",
    "slug": "^[a-z0-9]+(-[a-z0-9]+)*$",
    "ulid": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
    "xid": "^[0-9a-v]{20}$",
}
"""Formats that libraries for schemas have beside the standard's, as patterns."""
