"""Backstores and LUNs in the real kernel's configfs: these run in the guest."""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Iterator

import pytest

from txtcmu.errors import KernelError
from txtcmu.kernel import fabric, sysfs
from txtcmu.kernel.configfs import Backstore, ConfigFS, backstores, find
from txtcmu.kernel.ring import Command, Ring
from txtcmu.kernel.uio import UIOFile

MIB = 1 << 20


class Responder(threading.Thread):
    """The least of a SCSI disk on a ring: enough for the kernel to make /dev/sdX of it."""

    def __init__(self, backstore: Backstore) -> None:
        super().__init__(daemon=True)
        [device] = [each for each in sysfs.discover() if (each.hba, each.name) == (backstore.hba, backstore.name)]
        self._uio = UIOFile(device.node, device.map_size)
        self._ring = Ring(self._uio.memory)
        self._wake, self._woken = os.pipe()
        self._blocks = backstore.size // 512

    def run(self) -> None:
        while True:
            while (entry := self._ring.take()) is not None:
                if isinstance(entry, Command):
                    self._answer(entry)
            if self._ring.publish():
                self._uio.doorbell()
            if self._wake in select.select([self._uio.fileno(), self._wake], [], [])[0]:
                return
            self._uio.acknowledge()

    def _answer(self, command: Command) -> None:
        cdb = command.cdb
        data = b""
        if cdb[0] == 0x12 and not cdb[1] & 1:
            data = bytes([0, 0, 6, 2, 31, 0, 0, 2]) + b"TEST    RESPONDER       0001"
        elif cdb[0] == 0x25:
            data = struct.pack(">II", self._blocks - 1, 512)
        elif cdb[0] not in (0x00, 0x28, 0x35, 0x1B):
            self._ring.complete(command, 2, bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0]))
            return
        for buffer in command.buffers:
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[:] = part + bytes(len(buffer) - len(part))
        self._ring.complete(command, 0)

    def stop(self) -> None:
        os.write(self._woken, b".")
        self.join()
        self._ring.close()
        self._uio.close()
        os.close(self._wake)
        os.close(self._woken)


def make(name: str, **control: str | int) -> Backstore:
    """Make a backstore that never waits for a daemon."""
    given = {"dev_config": f"test/{name}", "dev_size": 8 * MIB, "max_data_area_mb": 8, **control}
    return Backstore.create(name, {**given, "nl_reply_supported": -1})


@pytest.fixture
def disk() -> Iterator[Backstore]:
    """An enabled backstore, served, and gone afterwards with all its LUNs."""
    backstore = make("disk")
    backstore.enable()
    responder = Responder(backstore)
    responder.start()
    yield backstore
    for lun in fabric.luns(backstore):
        fabric.unexport(lun, backstore.configfs)
    responder.stop()
    backstore.remove()


def test_a_backstore_is_made_enabled_and_removed() -> None:
    backstore = make("made", hw_block_size=4096, hw_max_sectors=256)
    assert not backstore.enabled
    assert backstores() == [backstore]
    backstore.enable()
    assert backstore.enabled
    assert (backstore.size, backstore.dev_config) == (8 * MIB, "test/made")
    assert backstore.attribute("hw_block_size") == "4096"
    assert backstore.attribute("hw_max_sectors") == "256"
    assert backstore.attribute("max_data_area_mb") == "8"
    backstore.remove()
    assert backstores() == []
    assert not backstore.path.parent.exists()
    backstore.remove()


def test_each_backstore_has_an_hba_of_its_own() -> None:
    first, second = make("first"), make("second")
    assert first.hba != second.hba
    with pytest.raises(KernelError, match="a backstore called first exists already"):
        make("first")
    first.remove()
    third = make("third")
    assert third.hba == first.hba
    assert [found.name for found in backstores()] == ["third", "second"]
    for made in (second, third):
        made.remove()


def test_a_backstore_is_found_by_name_and_by_dev_config() -> None:
    made = make("sought")
    for name in ("sought", "test/sought"):
        found = find(name)
        assert found is not None
        assert found.path == made.path
    assert find("test/other") is None
    made.remove()


def test_it_is_enabled_only_once_and_only_with_a_size() -> None:
    made = Backstore.create("sizeless", {"dev_config": "test/sizeless", "nl_reply_supported": -1})
    with pytest.raises(KernelError, match="has no dev_size"):
        made.enable()
    made.configure({"dev_size": MIB})
    made.enable()
    with pytest.raises(KernelError, match="it is enabled already"):
        made.enable()
    made.remove()


def test_identity_has_no_labels(disk: Backstore) -> None:
    assert disk.serial == ""
    disk.serial = "7d0a3b9e"
    assert disk.serial == "7d0a3b9e"
    assert disk.identity("vendor_id") == "LIO-ORG"
    assert disk.identity("product_id") == ""
    (disk.path / "wwn" / "product_id").write_text("A: B")
    assert disk.identity("product_id") == "A: B"
    assert int(disk.identity("company_id"), 16) == 0x1405


def test_attributes_and_actions(disk: Backstore) -> None:
    disk.set_attribute("cmd_time_out", 7)
    assert disk.attribute("cmd_time_out") == "7"
    disk.set_attribute("tmr_notification", 1)
    assert disk.attribute("tmr_notification") == "1"
    assert not disk.blocked
    disk.block()
    assert disk.blocked
    disk.reset_ring()
    disk.reset_ring(hard=True)
    disk.unblock()
    assert not disk.blocked
    with pytest.raises(KernelError, match="action/free_kept_buf"):
        disk.free_kept_buf(99)


def test_actions_need_an_enabled_device() -> None:
    made = make("idle")
    with pytest.raises(KernelError, match="not enabled yet"):
        made.block()
    made.remove()


def test_a_missing_object_is_one_line() -> None:
    with pytest.raises(KernelError, match="cannot read core/user_77/nothing/enable: No such file"):
        _ = Backstore(77, "nothing").enabled


def test_a_loopback_lun_is_a_disk_of_this_host(disk: Backstore) -> None:
    lun, node = fabric.export_loopback(disk)
    assert node.startswith("/dev/sd")
    with open(node, "rb") as opened:
        assert opened.seek(0, os.SEEK_END) == 8 * MIB
    assert fabric.luns(disk) == [lun]
    assert lun.disk() == node
    assert fabric.lun_of_disk(node, backstores()) is not None
    assert fabric.lun_of_disk("/dev/null", backstores()) is None
    with pytest.raises(KernelError, match="only while no LUN exports"):
        disk.set_attribute("cmd_time_out", 9)
    with pytest.raises(KernelError, match="only while no LUN exports"):
        disk.serial = "other"
    with pytest.raises(KernelError, match="is in use by a LUN"):
        disk.remove()
    fabric.unexport(lun, disk.configfs)
    assert not os.path.exists(node)
    assert not (disk.configfs.target / "loopback" / lun.target).exists()
    assert fabric.luns(disk) == []
    fabric.unexport(lun, disk.configfs)


def test_an_iscsi_lun_comes_and_goes_with_its_target(disk: Backstore) -> None:
    lun = fabric.export_iscsi(disk, portal="127.0.0.1:3260")
    assert lun.target == "iqn.2003-01.org.linux-iscsi.txtcmu:disk"
    assert (lun.tpgt / "enable").read_text().strip() == "1"
    assert fabric.luns(disk) == [lun]
    with pytest.raises(KernelError, match="exists already"):
        fabric.export_iscsi(disk)
    fabric.unexport(lun, disk.configfs)
    assert not (disk.configfs.target / "iscsi" / lun.target).exists()


def test_a_failed_export_leaves_nothing(disk: Backstore) -> None:
    with pytest.raises(KernelError):
        fabric.export_iscsi(disk, portal="nonsense")
    with pytest.raises(KernelError, match="no iSCSI name"):
        fabric.export_iscsi(disk, "not-an-iqn", portal="127.0.0.1:3260")
    unmade = Backstore(disk.hba, "unmade")
    with pytest.raises(KernelError):
        fabric.export_loopback(unmade)
    assert fabric.luns(disk) == []
    assert not list((disk.configfs.target / "iscsi").glob("*iqn*"))
    assert not list((disk.configfs.target / "loopback").glob("naa*"))


def test_a_lun_that_an_acl_names_is_removed_and_a_strange_target_kept(disk: Backstore) -> None:
    tree = ConfigFS()
    lun = fabric.export_iscsi(disk, "iqn.2025-01.test:kept", portal="127.0.0.1:3260")
    mapped = lun.tpgt / "acls" / "iqn.2025-01.test:initiator" / "lun_0"
    tree.mkdirs(mapped)
    tree.link(mapped / "link", lun.path)
    fabric.unexport(lun, tree)
    assert fabric.luns(disk) == []
    assert lun.tpgt.is_dir()
    tree.rmdir(mapped.parent)
    tree.write(lun.tpgt / "enable", "0")
    for path in (lun.tpgt / "np" / "127.0.0.1:3260", lun.tpgt, lun.tpgt.parent):
        tree.rmdir(path)


def test_one_backstore_may_have_several_luns(disk: Backstore) -> None:
    iscsi = fabric.export_iscsi(disk, portal="127.0.0.1:3260")
    loopback, _ = fabric.export_loopback(disk)
    assert fabric.luns(disk) == [iscsi, loopback]
