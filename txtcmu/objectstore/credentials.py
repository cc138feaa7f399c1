"""Credentials and signatures (SigV4) by botocore, which may read files and ask servers: in a thread.

Whoever gives ``access_key_id`` means just that; otherwise botocore looks where AWS's tools look: the environment,
``~/.aws`` (with SSO and assumed roles), the instance's metadata.  That there are none and that whoever has them does
not answer are two things: the one is for the operator to mend, the other passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
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

from txtcmu.errors import ConfigError, StoreUnavailable
from txtcmu.objectstore.instance import metadata_is_away
from txtcmu.objectstore.retry import Later
from txtcmu.objectstore.settings import S3Settings
from txtcmu.threads import run

__all__ = ["Signer", "load"]

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


class _Auth(S3SigV4Auth):
    """Signs a payload hash that is known already, instead of the body."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.context["payload_hash"])


class Signer:
    """Signs requests for one region with credentials that it keeps fresh."""

    def __init__(self, reactor: Any, credentials: Credentials, region: str) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._region = region

    async def sign(self, method: str, url: str, headers: Mapping[str, str], payload_hash: str) -> dict[str, str]:
        """Return ``headers`` with those of the signature.

        :param payload_hash: SHA-256 of the body in hex, or ``UNSIGNED-PAYLOAD``.
        :raise Later: there are no fresh credentials now; whoever gives them may be back in a moment.
        """
        credentials = self._credentials
        try:
            if isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed():
                frozen = await run(self._reactor, credentials.get_frozen_credentials)
            else:
                frozen = credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, RuntimeError) as error:  # the last: refreshed, and yet expired
            raise Later(f"credentials: {' '.join(str(error).split())}", doubtful=False) from None
        request = AWSRequest(method, url, headers=dict(headers))
        request.context["payload_hash"] = payload_hash
        _Auth(frozen, "s3", self._region).add_auth(request)
        return dict(request.headers.items())


def load(reactor: Any, settings: S3Settings) -> tuple[Signer, S3Settings]:
    """Find credentials and the region; blocking.

    :return: a signer, and ``settings`` with the region filled in.
    :raise ConfigError: there are none.
    :raise StoreUnavailable: whoever has them does not answer.
    """
    try:
        session = Session(profile=settings.aws_profile or None)
        region = settings.region or session.get_config_variable("region") or _FALLBACK_REGION
        if settings.access_key_id:
            token = settings.session_token or None
            credentials: Credentials | None = Credentials(settings.access_key_id, settings.secret_access_key, token)
        else:
            credentials = session.get_credentials()
    except _OUTAGES as error:
        raise StoreUnavailable(f"credentials: {' '.join(str(error).split())}; see whether their source is up") from None
    except (BotoCoreError, OSError) as error:  # the latter: a credential_process that cannot be run
        raise ConfigError(f"s3: credentials: {' '.join(str(error).split())}; correct AWS's files") from None
    if credentials is None:
        if reason := metadata_is_away(session.get_config_variable("ec2_metadata_service_endpoint")):
            raise StoreUnavailable(f"credentials: the instance's metadata service does not answer ({reason})")
        raise ConfigError(
            "s3: no credentials; put access_key_id and secret_access_key into the profile, or set AWS_PROFILE,"
            " or run `aws configure`"
        )
    return Signer(reactor, credentials, region), evolve(settings, region=region)
