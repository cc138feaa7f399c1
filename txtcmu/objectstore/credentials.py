"""Credentials by botocore, which may read files and ask servers: in a thread.

Whoever gives ``access_key_id`` means just that; otherwise botocore looks where AWS's tools look: the environment,
``~/.aws`` (with SSO and assumed roles), the instance's metadata.  That there are none and that whoever has them does
not answer are two things: the one is for the operator to mend, the other passes.

What a store says of a signature is believed: credentials that it does not take are looked up anew, for they may have
been exchanged meanwhile; and the time is the store's, if this host's is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, TypeVar

from attrs import evolve
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    SSOError,
    TokenRetrievalError,
)
from botocore.session import Session
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from txtcmu.errors import ConfigError, StoreUnavailable
from txtcmu.objectstore.instance import metadata_is_away
from txtcmu.objectstore.retry import Later
from txtcmu.objectstore.settings import S3Settings
from txtcmu.objectstore.sigv4 import Keys, sign

__all__ = ["Signer", "load"]

T = TypeVar("T")

_FALLBACK_REGION = "us-east-1"
# Whoever has the credentials was asked, and did not give them now.
_OUTAGES = (
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    SSOError,
    TokenRetrievalError,
)


# The store does not take these credentials; others may have been put in their place.
_REFUSED = frozenset(
    {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired"}
)
_SKEWED = 60.0  # seconds that a signature may be off without a store refusing it for that, and more
_LOOK_AGAIN = 5.0  # seconds after which credentials are looked up once more


class Signer:
    """Signs requests for one region with credentials that it keeps fresh.

    :param find: looks the credentials up anew, blocking; ``None``: there are no others.
    :ivar generation: of what signatures are made with; one more whenever the credentials or the clock are others.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, credentials: Credentials, region: str, find: Callable[[], Credentials] | None = None
    ) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._region = region
        self._find = find
        self._finding = DeferredLock()
        self._found = float("-inf")  # when they were last looked up
        self._away = ""  # why nobody gave any then
        self._ahead = 0.0  # seconds that the store's clock is before this host's
        self._latest: Keys | None = None
        self.generation = 0

    async def sign(self, method: str, url: str, headers: Mapping[str, str], payload_hash: str) -> dict[str, str]:
        """Return ``headers`` with those of the signature; see :func:`.sigv4.sign`.

        :raise Later: there are no fresh credentials now; whoever gives them may be back in a moment.
        """
        return sign(method, url, headers, payload_hash, await self._keys(), self._region, time() + self._ahead)

    async def reconsider(self, generation: int, code: str, date: str) -> bool:
        """Learn from a refusal.

        :param generation: that the refused request was signed with.
        :param code: of the error, and ``date``: the reply's.
        :return: whether the request deserves another signature.
        :raise Later: as :meth:`sign`.
        """
        if code == "RequestTimeTooSkewed":
            return generation != self.generation or self._set_clock(date)
        if code not in _REFUSED:
            return False
        await self._finding.acquire()
        try:
            if generation == self.generation and self._find is not None:
                if self._reactor.seconds() >= self._found + _LOOK_AGAIN:
                    self._away = await self._look_up(self._find)
                    self._found = self._reactor.seconds()
                    if generation != self.generation:
                        self._log.info("the store refused the credentials ({code}); there are new ones", code=code)
                if self._away:
                    raise Later(self._away, doubtful=False)
            return generation != self.generation
        finally:
            self._finding.release()

    async def _look_up(self, find: Callable[[], Credentials]) -> str:
        """Look the credentials up anew; return why nobody gives any now, or ``""``."""
        try:
            self._credentials = await self._in_thread(find)
            await self._keys()
        except (StoreUnavailable, Later) as error:
            return str(error)
        except ConfigError as error:
            self._log.error("{error}", error=error)
        return ""

    async def _keys(self) -> Keys:
        credentials = self._credentials
        try:
            if isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed():
                frozen = await self._in_thread(credentials.get_frozen_credentials)
            else:
                frozen = credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, RuntimeError) as error:  # the last: refreshed, and yet expired
            raise Later(f"credentials: {_line(error)}", doubtful=False) from None
        keys = Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")
        if keys != self._latest:
            self._latest = keys
            self.generation += 1
        return keys

    def _in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        """Call a function that blocks; who cancels does not wait for it, and its request is not sent afterwards."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function)

    def _set_clock(self, date: str) -> bool:
        """Go by the clock of the store from now on, if that makes a difference."""
        try:
            ahead = parsedate_to_datetime(date).timestamp() - time()
        except ValueError:
            return False
        if abs(ahead - self._ahead) < _SKEWED:
            return False
        self._ahead = ahead
        self.generation += 1
        self._log.warn(
            "this host's clock is {seconds:.0f} s {which} the store's, which counts for now; set it (NTP)",
            seconds=abs(ahead),
            which="behind" if ahead > 0 else "before",
        )
        return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def load(reactor: Any, settings: S3Settings) -> tuple[Signer, S3Settings]:
    """Find credentials and the region; blocking.

    :return: a signer, and ``settings`` with the region filled in.
    :raise ConfigError: there are none.
    :raise StoreUnavailable: whoever has them does not answer.
    """
    credentials, region = _search(settings)
    find = None if settings.access_key_id else lambda: _search(settings)[0]
    return Signer(reactor, credentials, region, find), evolve(settings, region=region)


def _search(settings: S3Settings) -> tuple[Credentials, str]:
    """Return credentials and the region; as :func:`load`."""
    try:
        session = Session(profile=settings.aws_profile or None)
        region = settings.region or session.get_config_variable("region") or _FALLBACK_REGION
        if settings.access_key_id:
            token = settings.session_token or None
            credentials: Credentials | None = Credentials(settings.access_key_id, settings.secret_access_key, token)
        else:
            credentials = session.get_credentials()
    except (*_OUTAGES, RuntimeError) as error:  # the latter: refreshed, and yet expired
        raise StoreUnavailable(f"credentials: {_line(error)}; see whether their source is up") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
            # A file that cannot be read, or a credential_process that cannot be run.
            raise ConfigError(f"s3: credentials: {_line(error)}; correct AWS's files") from None
        raise StoreUnavailable(f"credentials: {_line(error)}; see whether this host is well") from None
    except BotoCoreError as error:
        raise ConfigError(f"s3: credentials: {_line(error)}; correct AWS's files") from None
    if credentials is None:
        if reason := metadata_is_away(session.get_config_variable("ec2_metadata_service_endpoint")):
            raise StoreUnavailable(f"credentials: the instance's metadata service does not answer ({reason})")
        raise ConfigError(
            "s3: no credentials; put access_key_id and secret_access_key into the profile, or set AWS_PROFILE,"
            " or run `aws configure`"
        )
    return credentials, region
