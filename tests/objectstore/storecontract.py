"""What every object store must do; mixed into a TestCase for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txtcmu.errors import PreconditionFailed
from txtcmu.objectstore.objects import MaybeMine, Receipt

if TYPE_CHECKING:
    from unittest import TestCase as _Base
else:
    _Base = object


class StoreContract(_Base):
    """Tests of an object store; a subclass sets ``store``, and ``prefix`` to a place of its own."""

    store: Any
    prefix = "place/"

    async def refused(self, awaitable: Any) -> None:
        """Assert that a condition failed for certain."""
        try:
            await awaitable
        except PreconditionFailed as error:
            self.assertNotIsInstance(error, MaybeMine)
        else:
            self.fail("the condition was ignored")

    async def test_what_is_put_is_got(self) -> None:
        """An object comes back with its bytes, size, etag and metadata."""
        key = self.prefix + "object"
        receipt = await self.store.put(key, bytearray(b"0123456789"), metadata={"s3backer-filesize": "64"})
        found = await self.store.get(key)
        self.assertEqual((found.key, found.size, found.data), (key, 10, b"0123456789"))
        self.assertEqual(found.metadata["s3backer-filesize"], "64")
        self.assertEqual(receipt, Receipt(found.etag, 0))

    async def test_head_is_get_without_the_body(self) -> None:
        """Head tells everything but the bytes."""
        key = self.prefix + "object"
        receipt = await self.store.put(key, b"0123456789", metadata={"name": "value"})
        found = await self.store.head(key)
        self.assertEqual((found.etag, found.size, found.data), (receipt.etag, 10, b""))
        self.assertEqual(found.metadata["name"], "value")

    async def test_missing_objects_are_none(self) -> None:
        """Get and head of a missing object are no error; nor is delete without a condition."""
        key = self.prefix + "missing"
        self.assertIsNone(await self.store.get(key))
        self.assertIsNone(await self.store.get(key, 3, 4))
        self.assertIsNone(await self.store.head(key))
        await self.store.delete(key)

    async def test_ranges(self) -> None:
        """Ranges give the part that exists, and the size of the whole."""
        key = self.prefix + "object"
        await self.store.put(key, b"0123456789")
        for start, length, expected in ((0, 4, b"0123"), (2, 3, b"234"), (8, 9, b"89"), (4, None, b"456789")):
            found = await self.store.get(key, start, length)
            self.assertEqual((found.data, found.size), (expected, 10))
        for start, length in ((10, 4), (99, None), (3, 0)):
            found = await self.store.get(key, start, length)
            self.assertEqual((found.data, found.size), (b"", 10))

    async def test_empty_objects(self) -> None:
        """An object of no bytes exists."""
        key = self.prefix + "empty"
        await self.store.put(key, b"", metadata={"name": "value"})
        self.assertEqual((await self.store.get(key)).size, 0)
        self.assertEqual((await self.store.head(key)).metadata["name"], "value")

    async def test_create_only(self) -> None:
        """``absent`` creates once, and again after a delete."""
        key = self.prefix + "object"
        await self.store.put(key, b"first", absent=True)
        await self.refused(self.store.put(key, b"second", absent=True))
        self.assertEqual((await self.store.get(key)).data, b"first")
        await self.store.delete(key)
        await self.store.put(key, b"third", absent=True)

    async def test_replace_only(self) -> None:
        """``if_match`` replaces just the object that it means."""
        key = self.prefix + "object"
        await self.refused(self.store.put(key, b"none", if_match="0" * 32))
        first = await self.store.put(key, b"first")
        second = await self.store.put(key, b"second", if_match=first.etag)
        await self.refused(self.store.put(key, b"third", if_match=first.etag))
        found = await self.store.get(key)
        self.assertEqual((found.data, found.etag), (b"second", second.etag))

    async def test_conditional_delete(self) -> None:
        """``if_match`` removes just the object that it means."""
        key = self.prefix + "object"
        first = await self.store.put(key, b"first")
        second = await self.store.put(key, b"second")
        await self.refused(self.store.delete(key, if_match=first.etag))
        self.assertIsNotNone(await self.store.get(key))
        await self.store.delete(key, if_match=second.etag)
        self.assertIsNone(await self.store.get(key))
        await self.refused(self.store.delete(key, if_match=second.etag))

    async def test_odd_keys(self) -> None:
        """Keys that need quoting are signed, stored and listed as they are."""
        names = ["a space", "plus+sign", "per%cent", "tilde~", "umlaut-ü", "equals=&amp", "semi;colon", "star*'()!"]
        for name in names:
            await self.store.put(self.prefix + name, name.encode())
        for name in names:
            self.assertEqual((await self.store.get(self.prefix + name)).data, name.encode(), name)
        listed = [each.key for each in await self.store.list(self.prefix)]
        self.assertEqual(sorted(listed), sorted(self.prefix + name for name in names))

    async def test_list(self) -> None:
        """Keys come in order, page after page, those of other prefixes left out."""
        keys = [f"{self.prefix}{number:08x}" for number in (0, 1, 9, 10, 255, 256)]
        for key in keys:
            await self.store.put(key, key.encode())
        await self.store.put(self.prefix.rstrip("/") + "-else", b"")
        page = await self.store.list(self.prefix)
        self.assertEqual([each.key for each in page], keys)
        self.assertEqual([each.size for each in page], [len(key) for key in keys])
        self.assertEqual(page[2].etag, (await self.store.head(keys[2])).etag)
        self.assertEqual([each.key for each in await self.store.list(self.prefix, keys[3])], keys[4:])
        self.assertEqual(list(await self.store.list(self.prefix, keys[-1])), [])
