"""The transport of TCM-USER on sockets with a small kernel behind them."""

from __future__ import annotations

import errno
import os
from struct import pack

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txtcmu.errors import KernelError
from txtcmu.kernel import genl
from txtcmu.kernel.genl import Message
from txtcmu.kernel.netlink import NetlinkListener
from txtcmu.kernel.tcm_user import DeviceEvent
from txtcmu.testing.fakenetlink import FAMILY_ID, FakeTCMUser


class Consumer:
    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []
        self.fail = False

    def _hear(self, what: str, of: object) -> None:
        self.heard.append((what, of))
        if self.fail:
            raise RuntimeError("a consumer's mistake")

    def device_added(self, event: DeviceEvent) -> None:
        self._hear("added", event.device_id)

    def device_removed(self, event: DeviceEvent) -> None:
        self._hear("removed", event.device_id)

    def device_reconfigured(self, event: DeviceEvent) -> None:
        self._hear("reconfigured", event.dev_size)

    def events_lost(self) -> None:
        self._hear("events lost", None)

    def netlink_lost(self, error: BaseException) -> None:
        self._hear("netlink lost", str(error))


class ListenerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.kernel = FakeTCMUser()
        self.reactor = MemoryReactor()
        self.consumer = Consumer()
        self.listener = NetlinkListener(self.reactor, self.consumer, self.kernel.factory)
        self.addCleanup(self.listener.stop)


class StartTests(ListenerTestCase):
    def test_start(self) -> None:
        """It joins the group with a large buffer, has undelivered events reported, and is read."""
        self.listener.start()
        [member] = self.kernel.members
        self.assertGreaterEqual(member.options[1, 33], 1 << 20)
        self.assertEqual(member.options[270, 4], 1)
        self.assertEqual(self.reactor.getReaders(), [self.listener])
        self.assertEqual(self.listener.fileno(), member.fileno())
        self.assertTrue(self.listener.connected)
        verifyObject(IReadDescriptor, self.listener)

    def test_module_missing(self) -> None:
        """Without the module the line says how to load it, and no socket stays open."""
        self.kernel.loaded = False
        with self.assertRaises(KernelError) as caught:
            self.listener.start()
        self.assertIn("modprobe target_core_user", str(caught.exception))
        self.assertTrue(all(each.closed for each in self.kernel.sockets))
        self.assertEqual(self.reactor.getReaders(), [])

    def test_permission(self) -> None:
        """A process that may not is told what it lacks."""
        self.kernel.option_error = errno.EPERM
        with self.assertRaises(KernelError) as caught:
            self.listener.start()
        self.assertIn("run as root, or with CAP_NET_ADMIN", str(caught.exception))
        self.assertTrue(all(each.closed for each in self.kernel.sockets))

    def test_no_generic_netlink(self) -> None:
        """A kernel without generic netlink is named as such."""

        def refuse() -> None:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

        listener = NetlinkListener(self.reactor, self.consumer, refuse)  # type: ignore[arg-type]
        with self.assertRaises(KernelError) as caught:
            listener.start()
        self.assertIn("no generic netlink", str(caught.exception))

    def test_stop(self) -> None:
        """Stopping closes and forgets everything; twice is as good as once."""
        self.listener.start()
        self.listener.stop()
        self.listener.stop()
        self.assertEqual(self.reactor.getReaders(), [])
        self.assertTrue(all(each.closed for each in self.kernel.sockets))
        self.assertEqual(self.listener.fileno(), -1)
        self.assertEqual(self.consumer.heard, [])

    def test_requests_after_stop(self) -> None:
        """A reply that comes too late fails, with one line."""
        self.failureResultOf(self.listener.added_done(1, 0), KernelError)


class EventTests(ListenerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.listener.start()
        [self.socket] = self.kernel.members

    def test_events(self) -> None:
        """Each kind of event reaches its method, in order."""
        self.kernel.announce(1, 7, {})
        self.kernel.announce(3, 7, {5: pack("=Q", 4096)})
        self.kernel.announce(2, 7, {})
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [("added", 7), ("reconfigured", 4096), ("removed", 7)])

    def test_budget(self) -> None:
        """A flood of events leaves other readers their turn, and loses none."""
        for number in range(100):
            self.kernel.announce(1, number, {})
        self.listener.doRead()
        self.assertLess(len(self.consumer.heard), 100)
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [("added", number) for number in range(100)])

    def test_overrun(self) -> None:
        """When the kernel had to drop events the consumer hears of it, and of those that follow."""
        self.socket.put(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))
        self.kernel.announce(1, 7, {})
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [("events lost", None), ("added", 7)])

    def test_not_understood(self) -> None:
        """Whatever cannot be understood may have been an event: it is logged, and the consumer scans."""
        self.socket.put(b"nonsense")
        self.socket.put(Message(FAMILY_ID, 0, 0, 0, b"\x01\x02").encode())
        self.kernel.announce(1, 7, {8: b""})
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [("events lost", None)] * 3)

    def test_foreign_family(self) -> None:
        """Messages of other families are none of ours."""
        self.kernel.announce(1, 7, {}, family=FAMILY_ID + 1)
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [])

    def test_forged(self) -> None:
        """Only what the kernel itself sent counts."""
        self.kernel.announce(1, 7, {})
        forged = self.socket.incoming.pop()
        assert not isinstance(forged, OSError)
        self.socket.incoming.append((forged[0], (4711, 0)))
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [])

    def test_consumer_fails(self) -> None:
        """A consumer's mistake is logged and costs no other event."""
        self.consumer.fail = True
        self.kernel.announce(1, 7, {})
        self.kernel.announce(1, 8, {})
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [("added", 7), ("added", 8)])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_consumer_stops(self) -> None:
        """A consumer may stop the listener from within an event."""
        self.consumer.device_added = lambda event: self.listener.stop()  # type: ignore[method-assign]
        self.kernel.announce(1, 7, {})
        self.kernel.announce(2, 7, {})
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [])

    def test_broken_socket(self) -> None:
        """An error that no reading mends ends the listening, and the consumer knows."""
        self.socket.put(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        self.listener.doRead()
        self.assertEqual(self.consumer.heard, [("netlink lost", "[Errno 9] Bad file descriptor")])
        self.assertEqual(self.reactor.getReaders(), [])
        self.assertFalse(self.listener.connected)

    def test_dropped_by_the_reactor(self) -> None:
        """The consumer knows as well when it is the reactor that gives up."""
        self.listener.connectionLost(Failure(OSError("gone")))
        self.assertEqual(self.consumer.heard, [("netlink lost", "gone")])


class RequestTests(ListenerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.listener.start()

    def test_replies(self) -> None:
        """Each reply is of its kind, and its Deferred says that somebody was waiting."""
        self.kernel.waiting = {1: 4, 2: 5, 3: 6}
        self.assertTrue(self.successResultOf(self.listener.added_done(1, -2)))
        self.assertTrue(self.successResultOf(self.listener.removed_done(2)))
        self.assertTrue(self.successResultOf(self.listener.reconfig_done(3, 0)))
        self.assertEqual(self.kernel.answers, [(4, 1, -2), (5, 2, 0), (6, 3, 0)])

    def test_nobody_waits(self) -> None:
        """A reply without a waiter is harmless."""
        self.assertFalse(self.successResultOf(self.listener.added_done(9, 0)))

    def test_refused(self) -> None:
        """A refusal of the kernel is one line."""
        self.kernel.error = errno.EPERM
        failure = self.failureResultOf(self.listener.added_done(1, 0), KernelError)
        self.assertIn("CAP_NET_ADMIN", failure.getErrorMessage())

    def test_features(self) -> None:
        """The features are set and cleared."""
        self.successResultOf(self.listener.set_features())
        self.assertEqual(self.kernel.features, 1)
        self.successResultOf(self.listener.set_features(False))
        self.assertEqual(self.kernel.features, 0)

    def test_during_a_flood(self) -> None:
        """Acknowledgements do not pass through the socket that events may have filled."""
        self.kernel.waiting = {1: 4}
        [member] = self.kernel.members
        member.put(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))
        self.assertTrue(self.successResultOf(self.listener.added_done(1, 0)))
        self.assertEqual(len(member.incoming), 1)

    def test_stale_answers(self) -> None:
        """What does not belong to the request is passed over."""
        self.kernel.waiting = {1: 4}
        self.kernel.stray = [Message(genl.NLMSG_ERROR, 0, 999, 9, pack("=i", -22)).encode()]
        self.assertTrue(self.successResultOf(self.listener.added_done(1, 0)))

    def test_nonsense(self) -> None:
        """Nonsense instead of an answer is a failure, not an exception elsewhere."""
        self.kernel.stray = [b"nonsense"]
        self.failureResultOf(self.listener.added_done(1, 0), KernelError)
