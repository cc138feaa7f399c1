"""``txtcmu create``, ``rm`` and ``ls`` on a fake configfs."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.support import MIB, CommandTestCase
from txtcmu.errors import NotReadyError
from txtcmu.kernel.configfs import Backstore, backstores


class CreateTests(CommandTestCase):
    def test_existing_storage(self) -> None:
        """The size comes from the storage, which is closed again; the disk's name is all that is printed."""
        result = self.txtcmu("create", "test/some/disk one.img".replace(" ", "_"))
        self.assertEqual((result.exit_code, result.stdout), (0, f"{self.configfs.dev}/sdx\n"), result.stderr)
        self.assertEqual(self.factory.log, ["open", "close"])
        [made] = backstores(self.configfs)
        self.assertEqual((made.name, made.dev_config), ("disk_one.img", "test/some/disk_one.img"))
        self.assertEqual((made.size, made.attribute("hw_max_sectors")), (MIB, "2048"))
        self.assertTrue(made.enabled)

    def test_new_storage(self) -> None:
        """With --new the storage is made, of the size and for the block size that were given, though it is missing."""
        self.factory.problem = "it does not exist"
        result = self.txtcmu("create", "test/a", "--new", "--size", "2M", "--block-size", "4096", "--fabric", "none")
        self.assertEqual((result.exit_code, result.stdout), (0, "a\n"), result.stderr)
        self.assertEqual(self.factory.log, [f"create {2 * MIB} 4096"])
        [made] = backstores(self.configfs)
        self.assertEqual((made.size, made.attribute("hw_max_sectors")), (2 * MIB, "256"))

    def test_iscsi(self) -> None:
        """An iSCSI target is printed by its name, is in demo mode, and is enabled last."""
        result = self.txtcmu("create", "test/A_b", "--fabric", "iscsi", "--serial", "abc")
        self.assertEqual((result.exit_code, result.stdout), (0, "iqn.2003-01.org.linux-iscsi.txtcmu:a-b\n"))
        self.assertTrue(self.configfs.log[-1].endswith("tpgt_1/enable 1"))
        self.assertIn("write core/user_0/A_b/wwn/vpd_unit_serial abc", self.configfs.log)

    def test_names_are_unique(self) -> None:
        """The same last component twice makes two names; a name that was asked for is taken as it is."""
        for path in ("test/x/disk", "test/y/disk", "test/z/disk/"):
            self.assertEqual(self.txtcmu("create", path, "--fabric", "none").exit_code, 0)
        self.assertEqual([made.name for made in backstores(self.configfs)], ["disk", "disk-2", "disk-3"])
        self.assertIn("exists already", self.failed("create", "test/q", "--name", "disk"))
        self.assertEqual(self.factory.log, ["open", "close"] * 3)

    def test_new_storage_for_a_name_that_is_taken(self) -> None:
        """No storage is made for a backstore that cannot be made."""
        self.assertEqual(self.txtcmu("create", "test/a", "--name", "disk", "--fabric", "none").exit_code, 0)
        self.factory.log.clear()
        complaint = self.failed("create", "test/b", "--new", "--size", "1M", "--name", "disk")
        self.assertIn("exists already", complaint)
        self.assertEqual(self.factory.log, [])

    def test_usage(self) -> None:
        """Mistakes of usage are one line and status 2."""
        self.assertIn("--new needs --size", self.failed("create", "test/a", "--new", status=2))
        self.assertIn("is not a size", self.failed("create", "test/a", "--size", "ten", status=2))
        self.assertIn("at least one block", self.failed("create", "test/a", "--size", "0", status=2))
        self.assertIn("Missing argument", self.failed("create", status=2))
        self.assertIn("No such command", self.failed("frobnicate", status=2))

    def test_configuration(self) -> None:
        """What is wrong with a dev_config is said before anything is made."""
        self.assertIn("is not HANDLER/PATH", self.failed("create", "nonsense"))
        self.assertIn("no handler s4", self.failed("create", "s4/a"))
        self.assertIn("has no option 'size'", self.failed("create", "test/a;size=3"))
        self.assertIn("no multiple of the block size", self.failed("create", "test/a", "--size", "1000"))
        self.factory.problem = "there is no such place; make it"
        self.assertIn("there is no such place; make it", self.failed("create", "test/a"))
        self.assertEqual((self.factory.log, self.configfs.log), ([], []))

    def test_storage_without_a_usable_size(self) -> None:
        """A size that no disk can have is refused, and the storage closed."""
        for size, complaint in ((1000, "not a multiple of 512"), (0, "not a multiple"), (None, "give --size")):
            self.factory.size = size
            self.assertIn(complaint, self.failed("create", "test/a"))
        self.assertEqual(self.factory.log, ["open", "close"] * 3)
        self.assertEqual(self.configfs.log, [])

    def test_storage_away(self) -> None:
        """Storage that cannot be opened now is named."""
        self.factory.error = NotReadyError("connection refused")
        self.assertEqual(self.failed("create", "test/a"), "txtcmu: test/a: connection refused")

    def test_refused_by_the_daemon(self) -> None:
        """A backstore that was not enabled is removed; new storage stays, and is named."""
        self.configfs.refusing["enable"] = errno.ENOENT
        result = self.txtcmu("create", "test/a", "--new", "--size", "1M")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("the new storage test/a was made and is kept", result.stderr)
        self.assertEqual(backstores(self.configfs), [])
        self.assertFalse(list((self.configfs.target / "core").iterdir()))

    def test_failed_export(self) -> None:
        """A failure at any step of the export leaves nothing in configfs."""
        for step in ("loopback", "tpgt_1", "lun_0", "nexus", "lun_0/a"):
            self.configfs.refusing = {step: errno.EIO}
            self.failed("create", "test/a")
            self.assertEqual(self.configfs.refusing, {})
            self.assertEqual(backstores(self.configfs), [])
            self.assertEqual(list(self.configfs.target.glob("*/naa*")), [])
        for step in ("127.0.0.1:3260", "lun_0", "authentication", "tpgt_1/enable"):
            self.configfs.refusing = {step: errno.EIO}
            self.failed("create", "test/a", "--fabric", "iscsi", "--portal", "127.0.0.1:3260")
            self.assertEqual(self.configfs.refusing, {})
            self.assertEqual(backstores(self.configfs), [])
            self.assertEqual(list(self.configfs.target.glob("*/iqn*")), [])

    def test_slow(self) -> None:
        """Somebody who waits is told for what."""

        def slow(made: Backstore, notice: Callable[[], object]) -> None:
            notice()
            made.enable()

        self.enabling = slow
        result = self.txtcmu("create", "test/a")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(
            result.stderr,
            "txtcmu: waiting for a daemon that serves test devices: is `twist tcmu --handler test` running?\n",
        )

    def test_interrupted(self) -> None:
        """Interrupted while the kernel waits, the command says what becomes of the backstore and touches it no more."""

        def interrupt(made: Backstore, notice: Callable[[], object]) -> None:
            raise KeyboardInterrupt

        self.enabling = interrupt
        result = self.txtcmu("create", "test/a")
        self.assertEqual(result.exit_code, 130)
        self.assertIn("a goes away by itself", result.stderr)
        self.assertEqual([made.name for made in backstores(self.configfs)], ["a"])


class CoexistenceTests(CommandTestCase):
    """``txtcmu create`` beside programs that answer for devices that are not theirs."""

    def create(self, *options: str) -> str:
        """Make a disk whose daemon has it open as soon as it is enabled; return what is said."""

        def enabling(made: Backstore, notice: Callable[[], object]) -> None:
            made.enable()
            self.uio(3)
            self.process(100, "twist", "tcmu", files=(f"{self.configfs.dev}/uio3",))

        self.enabling = enabling
        result = self.txtcmu("create", "test/vol", *options)
        self.assertEqual((result.exit_code, result.stdout), (0, f"{self.configfs.dev}/sdx\n"), result.stderr)
        return result.stderr

    def asked(self) -> list[str]:
        """Return what the kernel was told about replies."""
        return [line for line in self.configfs.log if "nl_reply_supported" in line]

    def test_alone(self) -> None:
        """Alone, or beside other daemons of ours, the kernel waits for the answer."""
        self.process(7, "twist", "--log-format", "text", "tcmu", files=("socket:[42]",))
        self.netlink((16, 1 << 6, 42))
        self.assertEqual(self.create(), "")
        self.assertEqual(self.asked(), [])

    def test_beside_tcmu_runner(self) -> None:
        """Beside tcmu-runner the kernel is told not to wait, and the person why."""
        self.process(7, "tcmu-runner")
        self.assertEqual(
            self.create(),
            "txtcmu: tcmu-runner (pid 7) answers for every TCMU device: this one is made with nl_reply_supported=-1"
            " (--replies forbids it)\n",
        )
        self.assertEqual(self.asked(), ["write core/user_0/vol/control nl_reply_supported=-1"])

    def test_beside_somebody_else(self) -> None:
        """So it is beside anybody else who listens."""
        self.process(7, "overlaybd-tcmu", files=("/dev/null", "socket:[42]"))
        self.netlink((16, 0, 41), (16, 1 << 6, 42))
        self.assertIn("overlaybd-tcmu (pid 7) answers", self.create())
        self.assertEqual(len(self.asked()), 1)

    def test_forced(self) -> None:
        """A person who knows better is obeyed, silently."""
        self.process(7, "tcmu-runner")
        self.assertEqual(self.create("--replies"), "")
        self.assertEqual(self.asked(), [])

    def test_forbidden(self) -> None:
        """Replies can be done without where nobody else listens."""
        self.assertEqual(self.create("--no-replies"), "")
        self.assertEqual(len(self.asked()), 1)

    def test_no_device(self) -> None:
        """A backstore that was enabled and has no UIO device is removed again."""
        self.assertIn("has no UIO device: see dmesg", self.failed("create", "test/vol", "--no-replies"))
        self.assertEqual(backstores(self.configfs), [])

    def test_interrupted_while_nobody_serves(self) -> None:
        """Without replies nothing is exported before a daemon has it open; whoever gives up leaves nothing."""

        def enabling(made: Backstore, notice: Callable[[], object]) -> None:
            made.enable()
            self.uio(3)

        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        self.enabling = enabling
        self.patch(time, "sleep", interrupt)
        result = self.txtcmu("create", "test/vol", "--no-replies")
        self.assertEqual(result.exit_code, 130)
        self.assertEqual(backstores(self.configfs), [])
        self.assertFalse([line for line in self.configfs.log if line.startswith("link")])


class RemoveTests(CommandTestCase):
    def test_by_any_name(self) -> None:
        """A disk is found by backstore, dev_config and device; all of it goes, in the kernel's order."""
        for name in ("vol", "test/vol", f"{self.configfs.dev}/sdx"):
            self.assertEqual(self.txtcmu("create", "test/vol").exit_code, 0)
            self.configfs.log.clear()
            result = self.txtcmu("rm", name)
            self.assertEqual((result.exit_code, result.output), (0, ""))
            done = [line.split()[0] + " " + Path(line.split()[1]).name for line in self.configfs.log]
            target = done.pop(4)
            self.assertTrue(target.startswith("rmdir naa."))
            self.assertEqual(
                done,
                ["unlink vol", "rmdir lun_0", "write nexus", "rmdir tpgt_1", "rmdir vol", "rmdir user_0"],
            )

    def test_unknown(self) -> None:
        """What is not there is one line."""
        for name in ("vol", "test/vol", f"{self.configfs.dev}/sdx"):
            self.assertIn(f"no user backstore behind {name}", self.failed("rm", name))

    def test_mounted(self) -> None:
        """A mounted partition protects its disk, unless forced."""
        self.txtcmu("create", "test/vol")
        mounts = self.configfs.proc / "self" / "mountinfo"
        mounts.write_text(mounts.read_text() + "40 22 8:17 / /srv rw - ext4 /dev/sdx1 rw\n")
        self.assertIn("in use by /srv", self.failed("rm", "vol"))
        self.assertEqual(len(backstores(self.configfs)), 1)
        self.assertEqual(self.txtcmu("rm", "--force", "vol").exit_code, 0)
        self.assertEqual(backstores(self.configfs), [])

    def test_held(self) -> None:
        """So do swap, and a device that is stacked upon it."""
        self.txtcmu("create", "test/vol")
        (self.configfs.sysfs / "class/block/sdx/holders/dm-0").mkdir()
        (self.configfs.proc / "swaps").write_text(f"Filename Type\n{self.configfs.dev}/sdx1 partition\n")
        self.assertIn("in use by dm-0, swap", self.failed("rm", "vol"))


class ListTests(CommandTestCase):
    def test_nothing(self) -> None:
        """Without disks there is nothing to print."""
        self.assertEqual(self.txtcmu("ls").output, "")
        self.assertEqual(json.loads(self.txtcmu("ls", "--json").output), [])

    def test_table(self) -> None:
        """The table shows what there is, whatever its name looks like."""
        self.txtcmu("create", "test/[red]vol", "--name", "[red]vol")
        self.txtcmu("create", "test/net", "--fabric", "iscsi")
        heading, first, second = self.txtcmu("ls").output.splitlines()
        self.assertEqual(heading.split(), ["NAME", "DEV_CONFIG", "SIZE", "LUNS", "STATE"])
        self.assertEqual(first.split(), ["[red]vol", "test/[red]vol", "1M", f"{self.configfs.dev}/sdx", "exported"])
        self.assertEqual(second.split()[3], "iqn.2003-01.org.linux-iscsi.txtcmu:net/0")

    def test_json(self) -> None:
        """Programs get the same and more."""
        self.txtcmu("create", "test/vol")
        [row] = json.loads(self.txtcmu("ls", "--json").output)
        self.assertEqual((row["name"], row["size"], row["state"]), ("vol", MIB, "exported"))
        self.assertEqual(row["luns"][0]["disk"], f"{self.configfs.dev}/sdx")

    def test_states(self) -> None:
        """A backstore is made, waits for a daemon, is enabled, or blocked."""
        made = Backstore.create("vol", {"dev_config": "test/vol", "dev_size": MIB}, self.configfs)

        def state() -> str:
            return str(json.loads(self.txtcmu("ls", "--json").output)[0]["state"])

        self.assertEqual(state(), "made")
        self.uio(3)
        self.assertEqual(state(), "waiting for a daemon")
        made.enable()
        self.assertEqual(state(), "enabled")
        (made.path / "action/block_dev").write_text("blocked\n")
        self.assertEqual(state(), "blocked")

    def test_no_configfs(self) -> None:
        """A host without the kernel's target is told what to do."""
        self.configfs.target.rename(self.configfs.root / "elsewhere")
        self.assertIn("configfs is not mounted", self.failed("ls"))
