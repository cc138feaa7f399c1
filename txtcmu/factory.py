"""A handler in one expression, for backstores whose factory has nothing to say beyond "call this"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from zope.interface import implementer

from txtcmu.devconfig import DeviceConfig, DeviceParameters
from txtcmu.interfaces import IBackstoreFactory

__all__ = ["Factory"]


def _nothing(_: Any) -> None:
    return None


@implementer(IBackstoreFactory)
@frozen(kw_only=True)
class Factory:
    """An :class:`~txtcmu.interfaces.IBackstoreFactory` made of functions.

    :ivar name: the subtype, ``summary`` and ``config_help``: for people, ``options``: the options it knows.
    :ivar opener: makes the backstore from :class:`~txtcmu.devconfig.DeviceParameters`; a class will do.
    :ivar creator: makes its storage; by default there is nothing to make.
    :ivar checker: says what is wrong with a :class:`~txtcmu.devconfig.DeviceConfig`; by default nothing is.
    """

    name: str = field()
    summary: str = field()
    opener: Callable[[DeviceParameters], Any] = field()
    config_help: str = field(default="")
    options: frozenset[str] = field(default=frozenset())
    creator: Callable[[DeviceParameters], Any] = field(default=_nothing)
    checker: Callable[[DeviceConfig], Any] = field(default=_nothing)

    def check(self, config: DeviceConfig) -> Any:
        """See :class:`~txtcmu.interfaces.IBackstoreFactory`."""
        return self.checker(config)

    def create(self, parameters: DeviceParameters) -> Any:
        """See :class:`~txtcmu.interfaces.IBackstoreFactory`."""
        return self.creator(parameters)

    def open(self, parameters: DeviceParameters) -> Any:
        """See :class:`~txtcmu.interfaces.IBackstoreFactory`."""
        return self.opener(parameters)
