"""Whether a cloud instance's credentials are only away for a moment.

botocore says "none" both when the instance has no role and when its metadata service does not answer.  The second
passes by itself, so it must not look like the first.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

__all__ = ["metadata_is_away"]

_ENDPOINT = "http://169.254.169.254"
_VENDOR = Path("/sys/class/dmi/id/sys_vendor")
_HYPERVISOR = Path("/sys/hypervisor/uuid")
_SECONDS = 1.0


def metadata_is_away(endpoint: str | None) -> str | None:
    """Return why the metadata service gave no credentials though it should; ``None`` when none are to be had.

    Blocking, for two seconds at most.  Asked are EC2 instances, and whoever names an ``endpoint``.
    """
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" or not (endpoint or _is_instance()):
        return None
    base = (endpoint or _ENDPOINT).rstrip("/")
    opener = build_opener(ProxyHandler({}))
    token = Request(f"{base}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    try:
        with opener.open(token, timeout=_SECONDS) as reply:
            headers = {"X-aws-ec2-metadata-token": reply.read().decode("latin-1").strip()}
        role = Request(f"{base}/latest/meta-data/iam/security-credentials/", headers=headers)
        with opener.open(role, timeout=_SECONDS):
            return "it did a moment ago"
    except HTTPError as error:
        error.close()
        return None if error.code == 404 else f"status {error.code}"  # 404: there is no role
    except (OSError, ValueError) as error:
        return str(error)


def _is_instance() -> bool:
    for path, start in ((_VENDOR, "Amazon EC2"), (_HYPERVISOR, "ec2")):
        try:
            if path.read_text().startswith(start):
                return True
        except OSError:
            pass
    return False
