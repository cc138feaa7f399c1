"""Who is found in /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.cli.support import GROUP, CommandTestCase
from txtcmu.cli.processes import (
    Process,
    config_group,
    foreign_listeners,
    holders,
    listeners,
    wait_until_held,
)


class ProcessTests(CommandTestCase):
    def setUp(self) -> None:
        """Make a /proc with a process that has ended while it was looked at."""
        super().setUp()
        self.proc = self.configfs.proc
        (self.proc / "9").mkdir()

    def test_sockets(self) -> None:
        """A listener has a generic netlink socket in the group; other protocols and groups are not asked about."""
        self.netlink((16, 0x40, 1), (16, 0x80, 2), (15, 0x40, 3), (16, 0xFFFFFFFF, 4))
        for inode in (1, 2, 3, 4):
            self.process(inode, f"p{inode}", files=(f"socket:[{inode}]",))
        self.assertEqual([each.name for each in listeners(self.proc, GROUP)], ["p1", "p4"])

    def test_ours(self) -> None:
        """`twist tcmu` answers for its own only; a handler called tcmu-something does not make one of it."""
        self.netlink((16, 0x40, 1))
        self.process(5, "python3", "-m", "twisted", "tcmu", "--handler", "file", files=("socket:[1]",))
        self.process(6, "agent", "tcmu-disk", files=("socket:[1]",))
        self.assertEqual(len(listeners(self.proc, GROUP)), 2)
        self.assertEqual(foreign_listeners(self.proc, GROUP), [Process(6, "agent", False)])

    def test_group_out_of_sight(self) -> None:
        """Where the group is not shown, or unknown, tcmu-runner is still known by its name."""
        self.netlink((16, 0xFFFFFFFF, 1))
        self.process(5, "agent", files=("socket:[1]",))
        self.process(6, "tcmu-runner")
        for group in (None, 33):
            self.assertEqual([each.pid for each in foreign_listeners(self.proc, group)], [6])

    def test_no_netlink_table(self) -> None:
        """So it is where /proc/net is not there."""
        self.process(6, "tcmu-runner")
        self.assertEqual([str(each) for each in foreign_listeners(self.proc, GROUP)], ["tcmu-runner (pid 6)"])

    def test_holders(self) -> None:
        """Who has the node open serves the device."""
        self.process(5, "twist", "tcmu", files=("/dev/uio3", "/dev/uio30"))
        self.process(6, "cat", files=("/dev/uio30",))
        self.assertEqual([each.pid for each in holders("/dev/uio3", self.proc)], [5])
        self.assertEqual([each.pid for each in holders("/dev/uio30", self.proc)], [5, 6])
        self.assertEqual(holders("/dev/uio4", self.proc), [])

    def test_waiting(self) -> None:
        """Whoever waits for a daemon is told after a while, once, and goes on when it comes."""
        notices: list[int] = []

        def notice() -> None:
            notices.append(1)
            threading.Thread(target=self.process, args=(5, "twist"), kwargs={"files": ("/dev/uio3",)}).start()

        wait_until_held("/dev/uio3", self.proc, notice, 0)
        self.assertEqual(notices, [1])
        wait_until_held("/dev/uio3", self.proc, notice, 0)
        self.assertEqual(notices, [1])

    def test_this_host(self) -> None:
        """The real /proc can be searched: this process holds its own standard error, or whatever that is."""
        with open(os.devnull) as file:
            node = os.readlink(f"/proc/self/fd/{file.fileno()}")
            self.assertIn(os.getpid(), [each.pid for each in holders(node, Path("/proc"))])
        self.assertIsInstance(listeners(Path("/proc"), config_group()), list)
