"""S3's error replies, as one line that names the mend, or as a reason to try again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree

from txtcmu.errors import ObjectStoreError
from txtcmu.objectstore.retry import Later
from txtcmu.objectstore.settings import S3Settings

__all__ = ["error_code", "refusal"]

_LATER_STATUS = frozenset({429, 500, 502, 503, 504})
# The store says that it did nothing.
_UNTOUCHED = frozenset({"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "ConditionalRequestConflict"})
# Other statuses, and yet the next attempt may succeed: it is signed and sent anew.
_LATER_CODES = _UNTOUCHED | {
    "BadDigest",
    "ExpiredToken",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
}
_EXPIRED = "the session token has expired; put new temporary credentials into the profile, and start anew"
_REGION = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"})
_MENDS = {
    "AccessDenied": "these credentials may not do that: grant s3:GetObject, PutObject, DeleteObject and ListBucket",
    "AccountProblem": "the store has locked the account; ask its operator",
    "EntityTooLarge": "the store refuses objects of this size; use a smaller object_size",
    "InvalidAccessKeyId": "the store does not know the access key; correct access_key_id",
    "InvalidToken": "the session token is not valid; renew the temporary credentials",
    "NoSuchBucket": "there is no such bucket; create it, or correct the name",
    "NotImplemented": "the store does not implement a request that txtcmu needs; use another store",
    "QuotaExceeded": "the bucket's quota is used up; raise it or free space",
    "RequestTimeTooSkewed": "this host's clock is wrong; set it (NTP)",
    "SignatureDoesNotMatch": "the secret is wrong for this access key; correct secret_access_key",
}


def error_code(body: bytes) -> tuple[str, str, str]:
    """Return code, message and region of an error reply; empty texts when it is not S3's."""
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, LookupError, ValueError):  # the latter two: an encoding that it does not know
        return "", "", ""
    texts = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
    return texts.get("Code", ""), texts.get("Message", ""), texts.get("Region", "")


def refusal(settings: S3Settings, status: int, headers: dict[str, str], body: bytes) -> Later | ObjectStoreError:
    """Return what to raise for a reply that is not the hoped-for one."""
    code, message, region = error_code(body)
    where = settings.endpoint or f"s3.{settings.region}"
    if code == "ExpiredToken" and settings.session_token:  # which nobody but a person renews
        return ObjectStoreError(f"bucket {settings.bucket} at {where}: {status} {code}: {_EXPIRED}")
    if status in _LATER_STATUS or code in _LATER_CODES:
        return Later(
            f"{where} answered {status} {code}".rstrip(),
            # A rejected request was not applied; of one that failed inside the store, or on the way back from it
            # through a proxy, nobody knows.
            doubtful=status >= 500 and code not in _UNTOUCHED,
            wait=_wanted(headers),
        )
    region = region or headers.get("x-amz-bucket-region", "")
    if code in _REGION or (status in (301, 307, 308) and region):
        mend = f"the bucket is in another region; set region={region or 'that of the bucket'}"
    elif b"HTTPS" in body and where.startswith("http:"):
        mend = "what answers there speaks TLS; write the endpoint with https://"
    else:
        mend = _MENDS.get(code) or message or "see whether the endpoint is that of an S3 service"
    what = f"{status} {code}".strip()
    return ObjectStoreError(f"bucket {settings.bucket} at {where}: {what}: {mend}")


def _wanted(headers: dict[str, str]) -> float | None:
    """Return the seconds of Retry-After, which may be a date (RFC 9110 10.2.3): then by the store's own clock."""
    text = headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):  # the former: one of them has no time zone
        return None
