"""What is read is what was written, whoever damages it and wherever; or it is said that it is not."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.objectstore.finish import finish
from txtcmu.objectstore.checksums import CHECKSUMS, Damaged, Window, checksums, verify
from txtcmu.objectstore.objects import ObjectDamaged, StoredObject
from txtcmu.testing.fakes3 import FakeS3
from txtcmu.testing.faults import Fault, flipped

BODY = bytes(range(256)) * 64  # four grains


class VerifyTests(SynchronousTestCase):
    @given(
        size=st.integers(1, 1 << 20),
        start=st.integers(0, 1 << 20),
        length=st.integers(1, 1 << 16) | st.none(),
        bit=st.integers(0),
    )
    def test_each_flipped_bit_is_found(self, size: int, start: int, length: int | None, bit: int) -> None:
        """Whatever part of whatever object is read, a window of its grain is verified, and one flipped bit found."""
        body = (BODY * (size // len(BODY) + 1))[:size]
        whole = StoredObject("key", "etag", size, body, {CHECKSUMS: checksums(body)})
        grain = verify(whole, Window(0, None), False)
        assert grain
        self.assertLess(len(whole.metadata[CHECKSUMS]), 360)
        window = Window.around(start % size, length, grain)
        self.assertTrue(window.serves(grain, size))
        part = evolve(whole, data=body[window.start : window.stop])
        self.assertEqual(verify(part, window, False), grain)
        with self.assertRaises(Damaged):
            verify(evolve(part, data=flipped(part.data, bit)), window, False)
        with self.assertRaises(Damaged):
            verify(evolve(part, data=part.data[:-1]), window, False)

    def test_odd_metadata(self) -> None:
        """Checksums that nobody of ours wrote are none, or do not fit; they never break the reader."""
        for text, result in (("", None), ("0 AAAA", None), ("4096 ä", None), ("4096", None), ("-1 AAAA", None)):
            found = StoredObject("key", "etag", 3, b"abc", {CHECKSUMS: text})
            self.assertEqual(verify(found, Window(0, None), False), result)
        for text in ("4096 A", "4096 AAA", "4096 AA=", "4096 AAAA="):  # cut off: no base64
            found = StoredObject("key", "etag", 3, b"abc", {CHECKSUMS: text})
            self.assertIsNone(verify(found, Window(0, None), False))
        for text in ("4096 ", "4096 AAAA", "4096 AAAAAAAAAAAAAAAA"):
            with self.assertRaises(Damaged):
                verify(StoredObject("key", "etag", 3, b"abc", {CHECKSUMS: text}), Window(0, None), False)


class DamageTests(SynchronousTestCase):
    """The S3 store on a connection, or a medium, that flips bits."""

    def setUp(self) -> None:
        """Store one object."""
        self.clock = Clock()
        self.fake = FakeS3(self.clock)
        self.store = self.fake.connect()
        finish(self.clock, self.store.put("key", BODY))

    def get(self, start: int = 0, length: int | None = None) -> Any:
        """Read, and return how many requests it cost and what came."""
        before = self.fake.count("GET")
        found = finish(self.clock, self.store.get("key", start, length))
        return self.fake.count("GET") - before, found

    def foreign(self) -> None:
        """Have the object be as another program leaves it: without checksums."""
        objects = self.fake.objects.objects
        objects["key"] = evolve(objects["key"], metadata={})

    def test_flipped_replies_are_read_again(self) -> None:
        """A bit that flips on its way back costs a second request, wherever in the part that was asked for."""
        for start, length in ((0, None), (0, 512), (5000, 9000), (len(BODY) - 1, 1), (len(BODY) - 1, 4096)):
            self.fake.faults.append(Fault(flip=8 * 4000, times=1))
            requests, found = self.get(start, length)
            stop = None if length is None else start + length
            self.assertEqual((requests, found.data), (2, BODY[start:stop]))

    def test_only_what_is_needed_is_read(self) -> None:
        """A small read of a large object reads its grain, not all of it."""
        sizes = []
        answer = self.fake.answer

        def measured(sent: Any) -> Any:
            reply = answer(sent)
            sizes.append(len(reply.body))
            return reply

        self.patch(self.fake, "answer", measured)
        self.assertEqual(self.get(5000, 512)[0], 1)
        self.assertEqual(sizes, [4096])

    def test_larger_grains_are_learnt(self) -> None:
        """An object of a larger grain than the one before costs one more request, the next none."""
        finish(self.clock, self.store.put("key", BODY * 64))
        self.assertEqual(self.get(5000, 512)[0], 2)
        requests, found = self.get(70_000, 512)
        self.assertEqual((requests, found.data), (1, (BODY * 64)[70_000:70_512]))

    def test_foreign_objects(self) -> None:
        """Of an object without checksums all is read, and its MD5 compared with the ETag."""
        self.foreign()
        self.assertEqual(self.get(5000, 512)[0], 2)
        self.fake.faults.append(Fault(flip=3))
        requests, found = self.get(5000, 512)
        self.assertEqual((requests, found.data, found.size), (2, BODY[5000:5512], len(BODY)))
        self.assertEqual(self.get(100, 512)[0], 1)

    def test_etags_that_are_no_md5(self) -> None:
        """An ETag says nothing where the last PUT's was no MD5, or is of several parts."""
        self.foreign()
        objects = self.fake.objects.objects
        good = objects["key"]
        objects["key"] = evolve(good, etag="0" * 32 + "-2")
        self.assertEqual(self.get(5000, 512)[1].data, BODY[5000:5512])
        objects["key"] = evolve(good, etag="0" * 32)
        with self.assertRaises(ObjectDamaged):
            self.get()
        self.store._etag_is_md5 = False
        self.assertEqual(self.get()[1].data, BODY)

    def test_keyed_objects(self) -> None:
        """Nor where a key made it something else, of which the reply tells."""
        self.foreign()
        objects = self.fake.objects.objects
        objects["key"] = evolve(objects["key"], etag="0" * 32)
        answer = self.fake.answer
        for name, value in (
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ):

            def keyed(sent: Any, name: str = name, value: str = value) -> Any:
                plain = answer(sent)
                return evolve(plain, headers={**plain.headers, name: value})

            self.patch(self.fake, "answer", keyed)
            self.assertEqual(self.get()[1].data, BODY)

    def test_rot(self) -> None:
        """An object that is damaged in the store is told of soon, in one line; what is not damaged can be read."""
        objects = self.fake.objects.objects
        objects["key"] = evolve(objects["key"], data=flipped(BODY, 8 * 5000))
        with self.assertRaisesRegex(ObjectDamaged, r"^GET key: the checksums .* \(4 times\); write it anew"):
            self.get(4096, 512)
        self.assertLess(self.clock.seconds(), 5)
        self.assertEqual(self.get(0, 4096)[1].data, BODY[:4096])
        self.foreign()
        with self.assertRaisesRegex(ObjectDamaged, "ETag"):
            self.get(0, 4096)

    def test_flipped_requests_are_sent_again(self) -> None:
        """A PUT whose body is damaged on its way is refused by the store, and sent again."""
        self.fake.faults.append(Fault(flip_sent=77, times=2))
        receipt = finish(self.clock, self.store.put("key", BODY[::-1]))
        self.assertEqual((self.fake.count("PUT"), receipt.doubts), (4, 0))
        self.assertEqual(self.get()[1].data, BODY[::-1])

    def test_checksums_stay_inside(self) -> None:
        """Users of the store see their own metadata only."""
        finish(self.clock, self.store.put("key", BODY, metadata={"name": "value"}))
        self.assertEqual(self.get()[1].metadata, {"name": "value"})
        self.assertEqual(finish(self.clock, self.store.head("key")).metadata, {"name": "value"})


class UncheckedTests(SynchronousTestCase):
    """Reads by somebody who has checksums of his own inside the object."""

    def setUp(self) -> None:
        """Store one object whose parts cannot be checked."""
        self.clock = Clock()
        self.fake = FakeS3(self.clock)
        self.store = self.fake.connect()
        finish(self.clock, self.store.put("key", BODY, checked=False))

    def get(self, start: int, length: int | None = None) -> Any:
        """Read a part."""
        return finish(self.clock, self.store.get("key", start, length, checked=False))

    def test_just_the_range(self) -> None:
        """Just the range is asked for, by one request, and the object has no metadata of the store's."""
        sent = []
        answer = self.fake.answer

        def watched(request: Any) -> Any:
            sent.append(request.headers.get("range"))
            return answer(request)

        self.patch(self.fake, "answer", watched)
        for start, length in ((0, None), (5000, 512), (5000, None), (len(BODY) - 1, 4096)):
            found = self.get(start, length)
            self.assertEqual(
                (found.data, found.size), (BODY[start : None if length is None else start + length], 1 << 14)
            )
        self.assertEqual(sent, [None, "bytes=5000-5511", "bytes=5000-", "bytes=16383-20478"])
        self.assertEqual(self.fake.objects.objects["key"].metadata, {})

    def test_rot_spoils_only_itself(self) -> None:
        """What is damaged in the store is returned as it is, and so is what lies beside it."""
        finish(self.clock, self.store.put("key", BODY))
        objects = self.fake.objects.objects
        objects["key"] = evolve(objects["key"], data=flipped(BODY, 8 * 5000))
        self.assertEqual(self.get(4900, 200).data, flipped(BODY, 8 * 5000)[4900:5100])
        with self.assertRaises(ObjectDamaged):
            finish(self.clock, self.store.get("key", 4200, 16))

    def test_length_is_certain(self) -> None:
        """A part that is cut short, or another than the one that was asked for, is asked for again."""
        answer = self.fake.answer
        for change in (
            lambda reply: evolve(reply, body=reply.body[:-1]),
            lambda reply: evolve(reply, headers={**reply.headers, "Content-Range": "bytes 5001-5512/16384"}),
            lambda reply: evolve(reply, headers={**reply.headers, "Content-Range": "bytes 5000-5511/*"}),
        ):
            lies = iter([change])

            def lying(sent: Any, lies: Any = lies) -> Any:
                return next(lies, lambda reply: reply)(answer(sent))

            self.patch(self.fake, "answer", lying)
            before = self.fake.count("GET")
            self.assertEqual(self.get(5000, 512).data, BODY[5000:5512])
            self.assertEqual(self.fake.count("GET") - before, 2)
        self.fake.faults.append(Fault(truncate=100))
        self.assertEqual(self.get(5000, 512).data, BODY[5000:5512])
