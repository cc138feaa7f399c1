"""Where a bucket is and how to reach it, from the options of a device."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from attrs import evolve, field, fields, frozen

from txtcmu.devconfig import DeviceConfig
from txtcmu.errors import ConfigError

__all__ = ["CONNECTION_OPTIONS", "SECRET_OPTIONS", "S3Settings"]

#: Those that nobody else may read: not in dev_config, which is in sysfs and in logs, nor on a command line.
SECRET_OPTIONS = frozenset({"access_key_id", "secret_access_key", "session_token"})

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def _origin(endpoint: str) -> str:
    """Return the scheme and place of a service's URL."""
    if "@" in endpoint:  # so what stands before it may be a password: it is not repeated
        raise ConfigError(
            "s3: endpoint holds a user name or password, which S3 does not know; leave them away, and give"
            " access_key_id and secret_access_key"
        )
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and not parts.query
    except ValueError:
        good = None
    if not good:
        raise ConfigError(f"s3: endpoint {endpoint!r} is not a URL such as https://s3.example.org")
    return f"{parts.scheme}://{parts.netloc}"


@frozen
class S3Settings:
    """A bucket and the way to it; but for the bucket, each attribute is an option of a device.

    :ivar endpoint: URL of the service without a path; ``""`` is AWS's own of the region.
    :ivar region: ``""`` leaves it to the environment and AWS's files.
    :ivar addressing: ``path``, ``virtual`` or ``auto``: virtual host for AWS, path for everybody else.
    :ivar connections: most requests at a time.
    :ivar request_timeout: most seconds for one attempt of a small request.
    """

    bucket: str
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    aws_profile: str = ""
    addressing: str = "auto"
    connections: int = 64
    request_timeout: float = 10

    @classmethod
    def from_config(cls, config: DeviceConfig, bucket: str) -> S3Settings:
        """Read the options.

        :raise ConfigError: one of them cannot be used as it is.
        """
        options = config.options
        settings = cls(
            bucket,
            region=options.get("region", ""),
            access_key_id=options.get("access_key_id", ""),
            secret_access_key=options.get("secret_access_key", ""),
            session_token=options.get("session_token", ""),
            aws_profile=options.get("aws_profile", ""),
            addressing=config.choice("addressing", ("auto", "path", "virtual")),
            connections=config.integer("connections", 64, 1, 256),
            request_timeout=config.integer("request_timeout", 10, 1, 600),
        )
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"s3: {bucket!r} is not a bucket name; dev_config is s3/BUCKET/PREFIX")
        if bool(settings.access_key_id) != bool(settings.secret_access_key):
            raise ConfigError("s3: access_key_id and secret_access_key go together; give both or neither")
        endpoint = options.get("endpoint", "")
        return evolve(settings, endpoint=_origin(endpoint)) if endpoint else settings

    @property
    def base(self) -> str:
        """The URL of the bucket, without a slash at the end."""
        endpoint = self.endpoint or f"https://s3.{self.region}.amazonaws.com"
        virtual = self.addressing == "virtual"
        if self.addressing == "auto":
            # A dot in a bucket's name does not match the wildcard in AWS's certificate.
            virtual = not self.endpoint and "." not in self.bucket
        if not virtual:
            return f"{endpoint}/{self.bucket}"
        scheme, _, host = endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"

    def url(self, key: str, query: Iterable[tuple[str, str]] = ()) -> str:
        """Return the URL of an object, or of the bucket for ``""``, quoted the way that SigV4 signs it."""
        text = f"{self.base}/{quote(key, safe='/-_.~')}"
        pairs = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query))
        return f"{text}?{pairs}" if pairs else text


#: Options of a device that say how to reach the store; the rest belongs to the layout.
CONNECTION_OPTIONS = frozenset(each.name for each in fields(S3Settings)) - {"bucket"}
