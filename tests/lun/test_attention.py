"""Unit attentions: who is told, when, how often, and that nobody pays for them otherwise."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.lun.support import BECOMING_READY, GOOD, RigTestCase, ScriptedBackstore
from txtcmu.errors import CheckCondition, NotReadyError
from txtcmu.interfaces import ICommandHandler
from txtcmu.kernel.ring import Command
from txtcmu.lun.attention import Attentions
from txtcmu.scsi import constants as c
from txtcmu.testing.rig import Rig

CAPACITY, MODE = (6, 0x2A, 0x09), (6, 0x2A, 0x01)


@implementer(ICommandHandler)
class Raw:
    """A raw device that says GOOD to everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def handle(self, command: Any) -> None:
        self.seen.append(command.cdb[0])

    def close(self) -> None:
        pass


class AttentionTests(RigTestCase):
    def sense(self, rig: Rig) -> tuple[int, int, int] | None:
        command = rig.initiator.test_unit_ready()
        rig.settle()
        self.assertTrue(command.done)
        return command.sense_code

    def test_reported_once(self) -> None:
        """Each condition is reported with one command, in the order of arrival, and the same one not twice."""
        rig = self.rig(ScriptedBackstore())
        for code in (c.CAPACITY_DATA_HAS_CHANGED, c.MODE_PARAMETERS_CHANGED, c.CAPACITY_DATA_HAS_CHANGED):
            rig.device.attentions.establish(code)
        self.assertEqual([self.sense(rig) for _ in range(3)], [CAPACITY, MODE, None])
        rig.device.attentions.establish(c.CAPACITY_DATA_HAS_CHANGED)
        self.assertEqual([self.sense(rig) for _ in range(2)], [CAPACITY, None])

    def test_command_is_not_carried_out(self) -> None:
        """The command that hears of it is not carried out; it is the initiator's to send again."""
        backstore = ScriptedBackstore()
        rig = self.rig(backstore)
        rig.device.attentions.establish(c.CAPACITY_DATA_HAS_CHANGED)
        first, again = rig.initiator.write(0, bytes(512)), rig.initiator.write(0, bytes(512))
        rig.settle()
        self.assertEqual((first.sense_code, again.status, backstore.names), (CAPACITY, GOOD, ["write"]))

    def test_inquiry_and_report_luns(self) -> None:
        """INQUIRY is answered as ever and hears of nothing; REPORT LUNS goes to the handler, too."""
        raw = Raw()
        for rig in (self.rig(ScriptedBackstore()), self.rig(raw, size=1 << 20)):
            rig.device.attentions.establish(c.CAPACITY_DATA_HAS_CHANGED)
            inquiry = rig.initiator.inquiry()
            rig.settle()
            self.assertEqual(inquiry.status, GOOD)
            rig.kernel.submit(bytes([0xA0] + [0] * 11))
            rig.settle()
            self.assertEqual(self.sense(rig), CAPACITY)
        self.assertEqual(raw.seen, [0x12, 0xA0])

    def test_request_sense(self) -> None:
        """REQUEST SENSE reports it as its data, in either format, with GOOD, and that is that."""
        for raw in (False, True):
            rig = self.rig(Raw() if raw else ScriptedBackstore(), size=1 << 20)
            for descriptor, key, code in ((0, 2, 12), (1, 1, 2)):
                rig.device.attentions.establish(c.CAPACITY_DATA_HAS_CHANGED)
                command = rig.kernel.submit(bytes([0x03, descriptor, 0, 0, 252, 0]), data_in_length=252)
                rig.settle()
                self.assertEqual((command.status, command.data[key] & 0x0F), (GOOD, 6))
                self.assertEqual(tuple(command.data[code : code + 2]), c.CAPACITY_DATA_HAS_CHANGED)
                self.assertEqual(command.residual, 252 - (8 if descriptor else 18))
                self.assertIsNone(self.sense(rig))

    def test_before_not_ready(self) -> None:
        """A disk whose backstore is away reports what is pending first, and keeps it while it comes and goes."""
        rig = self.rig(ScriptedBackstore())
        rig.device.attentions.establish(c.CAPACITY_DATA_HAS_CHANGED)
        rig.factory.backstore = NotReadyError("away")
        rig.device.medium.lose(NotReadyError("gone"))
        self.assertEqual((self.sense(rig), self.sense(rig)), (CAPACITY, BECOMING_READY))
        rig.device.attentions.establish(c.MODE_PARAMETERS_CHANGED)
        rig.factory.backstore = ScriptedBackstore(1 << 20)
        rig.reactor.advance(1)
        rig.settle()
        self.assertEqual((self.sense(rig), self.sense(rig)), (MODE, None))


class CostTests(SynchronousTestCase):
    def test_nothing_in_between(self) -> None:
        """While nothing is pending the handler's own function has the commands, and again when all was reported."""
        current: list[Any] = []
        attentions = Attentions(current.append)
        raw = Raw()
        handle = raw.handle
        attentions.guard(handle)
        self.assertEqual(current[-1], handle)
        attentions.establish(c.MODE_PARAMETERS_CHANGED)
        self.assertNotEqual(current[-1], handle)
        with self.assertRaises(CheckCondition):
            current[-1](Command(1, bytes(6), [], 0))
        self.assertEqual(current[-1], handle)
