"""Signatures are those that botocore makes, for whatever is signed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from unittest import mock
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.objectstore.settings import S3Settings
from txtcmu.objectstore.sigv4 import Keys, sign

VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
NAMES = st.from_regex(r"x-amz-meta-[a-z0-9-]{1,8}", fullmatch=True) | st.sampled_from(["Range", "If-Match"])


class _Auth(S3SigV4Auth):
    def payload(self, request: AWSRequest) -> str:
        return "0" * 64


class SigV4Tests(SynchronousTestCase):
    @given(
        method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
        endpoint=st.sampled_from(["http://h:8333", "https://s3.example.org", "http://[::1]:80", "https://h:443"]),
        key=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        query=st.dictionaries(st.from_regex("[a-z-]{1,9}", fullmatch=True), VALUES, max_size=4),
        headers=st.dictionaries(NAMES, VALUES, max_size=4),
        token=st.just("") | st.from_regex("[A-Za-z0-9+/=]{1,40}", fullmatch=True),
        now=st.integers(10**9, 4 * 10**9),
    )
    def test_as_botocore(
        self,
        method: str,
        endpoint: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        token: str,
        now: int,
    ) -> None:
        """Every signature equals botocore's of the same request at the same time."""
        url = S3Settings("disks", endpoint=endpoint).url(key, query.items())
        signed = sign(method, url, headers, "0" * 64, Keys("id", "secret", token), "eu-1", now)
        request = AWSRequest(method, url, headers={**headers, "X-Amz-Content-SHA256": "0" * 64})
        request.context["payload_hash"] = "0" * 64
        with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(now, UTC)):
            _Auth(Credentials("id", "secret", token or None), "s3", "eu-1").add_auth(request)
        self.assertEqual(signed["Authorization"], request.headers["Authorization"])
        self.assertEqual(signed["X-Amz-Date"], request.headers["X-Amz-Date"])
        self.assertEqual(signed.get("X-Amz-Security-Token"), request.headers.get("X-Amz-Security-Token"))

    def test_host(self) -> None:
        """Host is what a client sends: without the port that goes without saying."""
        for base, host in (
            ("http://h", "h"),
            ("http://h:80", "h"),
            ("https://h:80", "h:80"),
            ("https://[::1]:443", "[::1]"),
            ("http://[::1]", "[::1]"),
        ):
            signed = sign("GET", f"{base}/{quote('a b')}", {}, "UNSIGNED-PAYLOAD", Keys("id", "s"), "r", time.time())
            self.assertEqual(signed["Host"], host)
