"""AWS Signature Version 4 for S3, in headers.

An own one because every small read pays for it: botocore's takes ten times as long, and can only sign with this
host's idea of the time.  (AWS, "Authenticating Requests: Using the Authorization Header".)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from hmac import digest
from time import gmtime, strftime
from urllib.parse import urlsplit

from attrs import frozen

__all__ = ["Keys", "sign"]

_PORTS = {"http": 80, "https": 443}


@frozen
class Keys:
    """Credentials as they are at one moment.

    :ivar token: of temporary ones, else ``""``.
    """

    access: str
    secret: str
    token: str = ""


def sign(
    method: str, url: str, headers: Mapping[str, str], payload_hash: str, keys: Keys, region: str, now: float
) -> dict[str, str]:
    """Return ``headers`` with those that the signature needs, Host among them, and the signature.

    :param url: quoted as it will be sent, its arguments sorted by name.
    :param headers: all of them are signed.
    :param payload_hash: SHA-256 of the body in hex, or ``UNSIGNED-PAYLOAD``.
    :param now: seconds since 1970 as the store has them; it allows for 15 minutes.
    """
    host, path, query = _parts(url)
    moment = strftime("%Y%m%dT%H%M%SZ", gmtime(now))
    signed = {**headers, "Host": host, "X-Amz-Date": moment, "X-Amz-Content-SHA256": payload_hash}
    if keys.token:
        signed["X-Amz-Security-Token"] = keys.token
    lines = sorted((name.lower(), value) for name, value in signed.items())
    names = ";".join(name for name, _ in lines)
    canonical = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in lines)
    request = f"{method}\n{path}\n{query}\n{canonical}\n{names}\n{payload_hash}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    signature = digest(_key(keys.secret, moment[:8], region), text.encode(), "sha256").hex()
    signed["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _parts(url: str) -> tuple[str, str, str]:
    """Return the value of Host, the path and the arguments of a URL."""
    scheme, _, rest = url.partition("://")
    where, query = rest.partition("?")[::2]
    netloc, slash, path = where.partition("/")
    return _host(scheme, netloc), slash + path or "/", query


@lru_cache(16)
def _host(scheme: str, netloc: str) -> str:
    """Return the value of Host: without the port where it goes without saying."""
    port = urlsplit(f"{scheme}://{netloc}").port
    return netloc.rpartition(":")[0] if port == _PORTS[scheme] else netloc


@lru_cache(16)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = digest(key, part.encode(), "sha256")
    return key
