"""One page of a bucket's keys, as ListObjectsV2 answers it."""

from __future__ import annotations

from urllib.parse import unquote_plus
from xml.etree import ElementTree

from txtcmu.objectstore.objects import StoredObject

__all__ = ["page_of"]

_ROOT = "ListBucketResult"


def page_of(body: bytes, prefix: str, after: str) -> list[StoredObject]:
    """Read a page.

    :param prefix: and :param after: what was asked for.
    :raise ValueError: it is none, or not the one that was asked for.
    """
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(str(error)) from error
    if not root.tag.endswith(_ROOT):
        raise ValueError(f"but {root.tag}")
    space = root.tag.removesuffix(_ROOT)  # some stores leave it out; looking for any takes three times as long
    encoded = root.findtext(f"{space}EncodingType") == "url"
    page = []
    for entry in root.iterfind(f"{space}Contents"):
        text = entry.findtext(f"{space}Key", "")
        key = unquote_plus(text) if encoded else text
        if not key.startswith(prefix) or key <= after:
            raise ValueError("its keys are not those that were asked for")
        etag, size = entry.findtext(f"{space}ETag", ""), entry.findtext(f"{space}Size", "0")
        page.append(StoredObject(key, etag.strip('"'), int(size)))
    return page
