"""What S3 replies to single requests, to the letter that matters; the fake and the real server must agree.

Where AWS and SeaweedFS differ, or SeaweedFS does not look, it is said here, and the fake does as AWS.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import md5, sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from txtcmu.objectstore.http import Reply
from txtcmu.objectstore.s3errors import error_code

if TYPE_CHECKING:
    from unittest import TestCase as _Base
else:
    _Base = object

BODY = b"0123456789"
WRONG = f'"{"0" * 32}"'


def etag(body: bytes) -> str:
    """Return the ETag header of an object."""
    return f'"{md5(body).hexdigest()}"'


class WireContract(_Base):
    """Tests of replies; a subclass sets ``store``, an S3ObjectStore, and ``prefix`` to a place of its own."""

    store: Any
    prefix = "place/"

    async def send(
        self,
        method: str,
        key: str = "",
        body: bytes = b"",
        *,
        query: Iterable[tuple[str, str]] = (),
        payload: bytes | None = None,
        forged: dict[str, str | None] | None = None,
        **headers: str,
    ) -> Reply:
        """Send one request.

        :param payload: what the signed hash is of, instead of the body.
        :param forged: headers changed after signing; ``None`` takes one away.
        """
        url = self.store.settings.url(self.prefix + key if key else "", query)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        signed = await self.store._signer.sign(
            method, url, named, sha256(body if payload is None else payload).hexdigest()
        )
        for name, value in (forged or {}).items():
            signed.pop(name, None)
            if value is not None:
                signed[name] = value
        reply: Reply = await self.store._http.exchange(method, url, signed, body, 10.0)
        return reply

    async def error_reply(self, status: int, code: str, *args: Any, **arguments: Any) -> Reply:
        """Assert that a request is answered with an error, in XML."""
        reply = await self.send(*args, **arguments)
        self.assertEqual((reply.status, error_code(reply.body)[0]), (status, code))
        self.assertEqual(reply.headers["content-type"], "application/xml")
        return reply

    async def listed(self, **query: str) -> tuple[list[str], ElementTree.Element]:
        """Return the keys of a page without the prefix, and the whole reply."""
        arguments = {"list-type": "2", "prefix": self.prefix, "encoding-type": "url"}
        arguments.update({name.replace("_", "-"): value for name, value in query.items()})
        reply = await self.send("GET", query=list(arguments.items()))
        self.assertEqual(reply.status, 200)
        root = ElementTree.fromstring(reply.body)
        keys = [unquote_plus(each.text or "") for each in root.iterfind("{*}Contents/{*}Key")]
        return [key.removeprefix(self.prefix) for key in keys], root

    async def test_put_and_get(self) -> None:
        """Every reply about an object has its quoted MD5 as ETag, and the metadata that were put last, no others."""
        reply = await self.send("PUT", "a", BODY, x_amz_meta_One="First Value", x_amz_meta_two="2")
        self.assertEqual((reply.status, reply.headers["etag"], reply.body), (200, etag(BODY), b""))
        for method, body in (("GET", BODY), ("HEAD", b"")):
            reply = await self.send(method, "a")
            self.assertEqual((reply.status, reply.headers["etag"], reply.body), (200, etag(BODY), body))
            self.assertEqual((reply.headers["x-amz-meta-one"], reply.headers["x-amz-meta-two"]), ("First Value", "2"))
        self.assertEqual(reply.headers["content-length"], "10")
        reply = await self.send("PUT", "a", b"")
        self.assertEqual((reply.status, reply.headers["etag"]), (200, etag(b"")))
        reply = await self.send("GET", "a")
        self.assertEqual((reply.status, reply.headers["etag"], reply.body), (200, etag(b""), b""))
        self.assertEqual([name for name in reply.headers if name.startswith("x-amz-meta-")], [])

    async def test_missing_keys(self) -> None:
        """Reading what is not there says so in XML, but for HEAD; deleting it succeeds."""
        await self.error_reply(404, "NoSuchKey", "GET", "missing")
        await self.error_reply(404, "NoSuchKey", "GET", "missing", Range="bytes=0-0")
        self.assertEqual(((reply := await self.send("HEAD", "missing")).status, reply.body), (404, b""))
        self.assertEqual(((reply := await self.send("DELETE", "missing")).status, reply.body), (204, b""))

    async def test_signatures(self) -> None:
        """Requests that are unsigned, too old, by nobody, or changed after they were signed change nothing."""
        await self.error_reply(403, "AccessDenied", "PUT", "a", BODY, forged={"Authorization": None})
        await self.error_reply(403, "RequestTimeTooSkewed", "PUT", "a", BODY, forged={"X-Amz-Date": "20200101T000000Z"})
        await self.error_reply(
            403, "SignatureDoesNotMatch", "PUT", "a", BODY, x_amz_meta_a="1", forged={"x-amz-meta-a": "2"}
        )
        for field in ("Content-MD5", "If-None-Match"):
            await self.error_reply(
                403, "SignatureDoesNotMatch", "PUT", "a", BODY, **{field.replace("-", "_"): "*"}, forged={field: "x"}
            )
        good = (await self.store._signer.sign("GET", "http://x/", {}, ""))["Authorization"]
        await self.error_reply(
            403, "InvalidAccessKeyId", "GET", "a", forged={"Authorization": good.replace("=", "=no", 1)}
        )
        await self.error_reply(403, "SignatureDoesNotMatch", "GET", "a", forged={"Authorization": good[:-1] + "x"})
        await self.error_reply(404, "NoSuchKey", "GET", "a")

    async def test_digests(self) -> None:
        """A body that is not the one of its MD5 is refused, and so is what is no MD5; nothing is stored."""
        await self.error_reply(400, "BadDigest", "PUT", "a", BODY, Content_MD5="AAAAAAAAAAAAAAAAAAAAAA==")
        await self.error_reply(400, "InvalidDigest", "PUT", "a", BODY, Content_MD5="zz")
        await self.error_reply(404, "NoSuchKey", "GET", "a")

    async def test_ranges(self) -> None:
        """A range gives what there is of it; one behind the end, or of an empty object, is refused with the size."""
        await self.send("PUT", "a", BODY, x_amz_meta_name="value")
        for asked, start, stop in (("2-4", 2, 5), ("2-", 2, 10), ("8-20", 8, 10), ("-3", 7, 10), ("-30", 0, 10)):
            reply = await self.send("GET", "a", Range=f"bytes={asked}")
            self.assertEqual((reply.status, reply.body, reply.headers["etag"]), (206, BODY[start:stop], etag(BODY)))
            self.assertEqual(reply.headers["content-range"], f"bytes {start}-{stop - 1}/10")
            self.assertEqual(reply.headers["x-amz-meta-name"], "value")
        for asked in ("10-20", "99-"):
            reply = await self.error_reply(416, "InvalidRange", "GET", "a", Range=f"bytes={asked}")
            self.assertEqual(reply.headers["content-range"], "bytes */10")
        self.assertEqual((await self.send("GET", "a", Range="bytes=x")).status, 200)
        await self.send("PUT", "empty")
        await self.error_reply(416, "InvalidRange", "GET", "empty", Range="bytes=0-0")

    async def test_conditional_put(self) -> None:
        """Conditions hold or the reply is 412, and what is there stays.

        AWS answers 404 to If-Match where there is nothing, SeaweedFS and the fake 412.
        """
        await self.error_reply(412, "PreconditionFailed", "PUT", "a", BODY, If_Match=WRONG)
        self.assertEqual((await self.send("PUT", "a", BODY, If_None_Match="*")).status, 200)
        await self.error_reply(412, "PreconditionFailed", "PUT", "a", b"", If_None_Match="*")
        await self.error_reply(412, "PreconditionFailed", "PUT", "a", b"", If_Match=WRONG)
        self.assertEqual((await self.send("GET", "a")).body, BODY)
        self.assertEqual((await self.send("PUT", "a", b"new", If_Match=etag(BODY))).status, 200)
        await self.error_reply(412, "PreconditionFailed", "PUT", "a", b"", If_Match=etag(BODY))
        self.assertEqual((await self.send("GET", "a")).body, b"new")

    async def test_conditional_delete(self) -> None:
        """The same for DELETE."""
        await self.error_reply(412, "PreconditionFailed", "DELETE", "a", If_Match=WRONG)
        await self.send("PUT", "a", BODY)
        await self.error_reply(412, "PreconditionFailed", "DELETE", "a", If_Match=WRONG)
        self.assertEqual((await self.send("GET", "a")).body, BODY)
        self.assertEqual((await self.send("DELETE", "a", If_Match=etag(BODY))).status, 204)
        await self.error_reply(404, "NoSuchKey", "GET", "a")

    async def test_list(self) -> None:
        """Pages hold so many keys in the order of their bytes, tell whether there are more, and where to go on."""
        names = sorted(["1 +%&", "3", "~z", "ü<é>\"'", "4/5"], key=str.encode)
        for name in names:
            await self.send("PUT", name, name.encode())
        everything, root = await self.listed()
        self.assertEqual(everything, names)
        self.assertEqual(root.findtext("{*}IsTruncated"), "false")
        self.assertEqual(root.findtext("{*}KeyCount"), "5")
        self.assertEqual(root.findtext("{*}Contents/{*}ETag"), etag(names[0].encode()))
        self.assertEqual(root.findtext("{*}Contents/{*}Size"), str(len(names[0].encode())))
        page, root = await self.listed(max_keys="2")
        self.assertEqual((page, root.findtext("{*}IsTruncated")), (names[:2], "true"))
        token = root.findtext("{*}NextContinuationToken") or ""
        page, root = await self.listed(max_keys="3", continuation_token=token)
        self.assertEqual((page, root.findtext("{*}IsTruncated")), (names[2:], "false"))
        self.assertEqual((await self.listed(start_after=self.prefix + names[1]))[0], names[2:])
        self.assertEqual((await self.listed(start_after=self.prefix + "2"))[0], names[1:])
        self.assertEqual((await self.listed(max_keys="0"))[0], [])
        self.assertEqual((await self.listed(prefix=self.prefix + "none/"))[0], [])
        self.assertEqual((await self.listed(prefix=self.prefix + names[0][:3]))[0], names[:1])
        await self.error_reply(400, "InvalidArgument", "GET", query=[("list-type", "2"), ("max-keys", "x")])

    async def test_unknown_methods(self) -> None:
        """What is not understood is refused."""
        await self.error_reply(405, "MethodNotAllowed", "POST", "a")
