"""What a program that keeps its data in a bucket is told of it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Bucket"]


class Bucket(Protocol):
    """A bucket: as its server has it, or as it is seen through a proxy.

    :ivar endpoint: the URL of the S3 service.
    """

    @property
    def endpoint(self) -> str: ...  # noqa: D102 - see above
    @property
    def bucket(self) -> str: ...  # noqa: D102
    @property
    def access_key(self) -> str: ...  # noqa: D102
    @property
    def secret_key(self) -> str: ...  # noqa: D102
