"""Keys of objects as paths below a directory, and back, in the order of the keys.

Each part of a key between slashes is a directory, the last one a file whose name ends in ``.object``: so a key may
well be the beginning of others.  Bytes other than ASCII letters, digits, ``-``, ``_`` and ``~`` are written ``%XX``,
which leaves the dot to these endings; an empty part is ``%``.  Of a part of 80 bytes or more, each 80 bytes are a
directory whose name ends in ``.more``, and what remains follows below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, unquote_to_bytes

from txtcmu.errors import ObjectStoreError

__all__ = ["path_of", "walk"]

_LONGEST = 1024  # as in S3; a path of the worst of keys stays below PATH_MAX
_LONG = 80  # three times as many characters, and the ending, fit into a name of 255
_OBJECT = ".object"
_MORE = ".more"


def path_of(key: str) -> str:
    """Return the path of the object ``key``.

    :raise ObjectStoreError: it cannot be the key of an object.
    """
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise ObjectStoreError(f"{key!a} cannot be a key: it is not Unicode text; use another name") from None
    if not 0 < len(raw) <= _LONGEST:
        raise ObjectStoreError(f"a key has 1 to {_LONGEST} bytes of UTF-8, not {len(raw)}; use a shorter prefix")
    names = []
    for part in raw.split(b"/"):
        while len(part) >= _LONG:
            names.append(_escape(part[:_LONG]) + _MORE)
            part = part[_LONG:]
        names.append(_escape(part))
    return "/".join(names) + _OBJECT


def walk(
    names_in: Callable[[str], Iterable[str]], prefix: bytes, after: bytes, folder: str = "", base: bytes = b""
) -> Iterator[tuple[str, str]]:
    """Yield path and key of every object whose key has ``prefix`` and sorts behind ``after``, in order.

    Names that are not made by :func:`path_of` are passed over.

    :param names_in: returns the names in a directory, which is given as ``""`` or with a slash at its end.
    :param folder: where to look, and ``base``: with what the keys there begin.
    """
    for begin, name in sorted(_begins(names_in(folder))):
        key = base + begin
        if name.endswith(_OBJECT):
            if key > after and key.startswith(prefix):
                yield folder + name, key.decode()
        elif (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key)):
            yield from walk(names_in, prefix, after, f"{folder}{name}/", key)


def _begins(names: Iterable[str]) -> Iterator[tuple[bytes, str]]:
    """Yield each name and what it adds to the key."""
    for name in names:
        stem, dot, ending = name.partition(".")
        part = b"" if stem == "%" else unquote_to_bytes(stem)
        if _escape(part) == stem and (len(part) == _LONG if ending == "more" else len(part) < _LONG):
            if not dot:
                yield part + b"/", name
            elif dot + ending in (_OBJECT, _MORE):
                yield part, name


def _escape(part: bytes) -> str:
    return quote(part, safe="").replace(".", "%2E") or "%"
