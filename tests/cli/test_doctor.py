"""``txtcmu doctor`` on a host that is well, and on hosts that each lack one thing."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

from attrs import evolve

from tests.cli.support import CommandTestCase
from txtcmu import registry
from txtcmu.cli.findings import Level
from txtcmu.cli.handlerchecks import check_handlers
from txtcmu.errors import ConfigError, KernelError
from txtcmu.factory import Factory
from txtcmu.kernel.configfs import Backstore

RELEASE = "6.1.0-56-amd64"
ALL_CAPABILITIES = (1 << 41) - 1


class DoctorTestCase(CommandTestCase):
    def setUp(self) -> None:
        """Make a host that is well, and a disk on it that is served."""
        super().setUp()
        self.proc, self.sysfs = self.configfs.proc, self.configfs.sysfs
        self.parameters = self.sysfs / "module/target_core_user/parameters"
        self.put(self.proc / "sys/kernel/osrelease", RELEASE)
        self.status(0, ALL_CAPABILITIES)
        self.limits("65536")
        self.put(self.parameters / "block_netlink", "unblocked")
        self.put(self.sysfs / "module/tcm_loop/initstate", "live")
        self.put(self.sysfs / "module/iscsi_target_mod/initstate", "live")
        self.put(self.configfs.dev / "kmsg", "")
        self.put(self.parameters / "global_max_data_area_mb", "2048")
        self.disk = Backstore.create("vol", {"dev_config": "test/vol", "dev_size": 1 << 20}, self.configfs)
        self.disk.enable()
        self.put(self.disk.path / "attrib/max_data_area_mb", "8")
        self.put(self.disk.path / "attrib/qfull_time_out", "-1")
        self.uio(3)
        self.node = self.configfs.dev / "uio3"
        self.node.symlink_to("/dev/null")
        self.process(100, "twist", "tcmu", files=(str(self.node),))

    def put(self, path: Path, text: str) -> None:
        """Write a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def status(self, user: int, capabilities: int) -> None:
        """Be somebody."""
        self.put(self.proc / "self/status", f"Name:\ttxtcmu\nUid:\t{user}\t{user}\t0\t0\nCapEff:\t{capabilities:016x}")

    def limits(self, files: str) -> None:
        """Have a limit of open files."""
        self.put(self.proc / "self/limits", f"Limit  Soft  Hard  Units\nMax open files  {files}  1048576  files")

    def doctor(self, *arguments: str) -> tuple[int, list[str]]:
        """Return the exit status and every line that is not good."""
        result = self.txtcmu("doctor", *arguments)
        self.assertEqual(result.stderr, "")
        _, *lines = result.stdout.splitlines()
        return result.exit_code, [" ".join(line.split()) for line in lines if not line.startswith("ok ")]

    def fails(self, text: str, mend: str, *arguments: str) -> None:
        """Expect exactly one line, a failure."""
        status, lines = self.doctor(*arguments)
        self.assertEqual((status, len(lines)), (1, 1), lines)
        self.assert_line(lines[0], "FAILS", text, mend)

    def warns(self, text: str, mend: str, *arguments: str) -> None:
        """Expect exactly one line, a warning."""
        status, lines = self.doctor(*arguments)
        self.assertEqual((status, len(lines)), (0, 1), lines)
        self.assert_line(lines[0], "warning", text, mend)

    def assert_line(self, line: str, level: str, text: str, mend: str) -> None:
        """Expect a finding with its mend behind it."""
        self.assertTrue(line.startswith(level + " "), line)
        self.assertIn(text, line)
        self.assertIn(mend, line.partition(text)[2])


class HostTests(DoctorTestCase):
    def test_well(self) -> None:
        """A host that is well has nothing to mend."""
        self.assertEqual(self.doctor(), (0, []))

    def test_old_linux(self) -> None:
        """A kernel before 4.19 is too old; whatever else comes before the dash is not read."""
        self.put(self.proc / "sys/kernel/osrelease", "4.9.0-19-amd64")
        self.fails("4.9.0-19-amd64 is too old", "boot Linux 4.19")

    def test_not_loaded(self) -> None:
        """A module that is there and not loaded is loaded by a command."""
        self.parameters.parent.rename(self.sysfs / "elsewhere")
        self.put(self.world.modules / RELEASE / "modules.dep", "kernel/drivers/target/target_core_user.ko.xz: x")
        self.fails("not loaded", "modprobe target_core_user")

    def test_cloud_kernel(self) -> None:
        """A kernel that has no such module is named, and where to find one that has."""
        self.parameters.parent.rename(self.sysfs / "elsewhere")
        self.put(self.world.modules / RELEASE / "modules.dep", "kernel/drivers/target/target_core_mod.ko: x")
        self.fails(f"kernel {RELEASE} has none", "linux-image-amd64")

    def test_no_modules(self) -> None:
        """In a container the host must load it."""
        self.parameters.parent.rename(self.sysfs / "elsewhere")
        self.fails("has no modules of this kernel", "on its host")

    def test_fabrics(self) -> None:
        """A kernel without a fabric can use the other one; one that it could load is there."""
        for name, instead in (("tcm_loop", "--fabric iscsi"), ("iscsi_target_mod", "--fabric loopback")):
            loaded = self.sysfs / "module" / name
            loaded.rename(self.sysfs / "elsewhere")
            self.put(self.world.modules / RELEASE / "modules.dep", "")
            self.warns(f"{RELEASE} has no such module", instead)
            self.put(self.world.modules / RELEASE / "modules.dep", f"kernel/drivers/target/{name}.ko.xz: x")
            self.assertEqual(self.doctor(), (0, []))
            (self.sysfs / "elsewhere").rename(loaded)

    def test_memory_order(self) -> None:
        """A machine whose loads and stores cannot be kept in order cannot serve anything."""

        def fence() -> None:
            raise KernelError("membarrier(2) is not usable: run Linux 4.16")

        self.world = evolve(self.world, fence=fence)
        self.fails("membarrier(2) is not usable", "run Linux 4.16")

    def test_kernel_log(self) -> None:
        """Where the kernel's log cannot be read nobody hears of a broken ring."""
        (self.configfs.dev / "kmsg").unlink()
        self.warns("no /dev/kmsg", "mknod")

    def test_own_disks(self) -> None:
        """Without CAP_SYS_RESOURCE the daemon is no place for the file systems of its own host."""
        self.status(0, ALL_CAPABILITIES & ~(1 << 24))
        self.warns("without CAP_SYS_RESOURCE", "CAP_SYS_RESOURCE")

    def test_no_uio(self) -> None:
        """Without UIO there is no ring."""
        (self.sysfs / "class/uio").rename(self.sysfs / "class/none")
        self.fails("no UIO", "modprobe uio")

    def test_configfs_not_mounted(self) -> None:
        """Configfs must be mounted."""
        self.configfs.target.rename(self.configfs.root / "elsewhere")
        self.fails("configfs is not mounted", "mount -t configfs")

    def test_no_configfs(self) -> None:
        """A kernel may have no configfs at all."""
        self.configfs.root.rename(self.configfs.root.parent / "elsewhere")
        self.fails("no configfs", "modprobe configfs")

    def test_user(self) -> None:
        """A user is told what only root can do, and what he cannot see; the host may well be fine."""
        self.status(1000, 0)
        (self.proc / "100/fd/0").unlink()
        status, lines = self.doctor()
        self.assertEqual((status, len(lines)), (0, 3), lines)
        self.assert_line(lines[0], "warning", "not root", "as root")
        self.assert_line(lines[1], "?", "what other users' processes have open", "as root")
        self.assert_line(lines[2], "?", "whether a daemon serves it", "as root")

    def test_poor_root(self) -> None:
        """A container's root may lack what counts; each capability that is missing is named."""
        self.status(0, ALL_CAPABILITIES & ~(1 << 21))
        self.fails("root without CAP_SYS_ADMIN", "give the container CAP_SYS_ADMIN")
        self.status(0, ALL_CAPABILITIES & ~(1 << 21 | 1 << 12))
        self.fails("CAP_SYS_ADMIN and CAP_NET_ADMIN", "run on the host")

    def test_no_family(self) -> None:
        """No events, no disks."""
        self.group = None
        self.fails("no generic netlink family TCM-USER", "network namespace")

    def test_blocked_netlink(self) -> None:
        """A tcmu-runner that died at its start leaves netlink blocked."""
        self.put(self.parameters / "block_netlink", "blocked")
        self.fails("events are blocked", f"echo 0 > {self.parameters}/block_netlink")

    def test_tcmu_runner(self) -> None:
        """A tcmu-runner refuses what is ours."""
        self.process(7, "tcmu-runner")
        self.warns("tcmu-runner (pid 7) answers for every TCMU device", "nl_reply_supported=-1")

    def test_few_files(self) -> None:
        """The common limit of 1024 is little."""
        self.limits("1024")
        self.warns("a process may open 1024", "ulimit -n")
        self.limits("unlimited")
        self.assertEqual(self.doctor(), (0, []))

    def test_data_areas(self) -> None:
        """More data area than the kernel gives is told with the number that would do."""
        self.put(self.parameters / "global_max_data_area_mb", "7")
        self.warns("want 8 MiB together, the kernel gives 7", f"echo 8 > {self.parameters}/global_max_data_area_mb")

    def test_not_allowed_to_look(self) -> None:
        """What cannot be looked at is said, and the rest is looked at all the same."""
        (self.proc / "self/limits").unlink()
        status, lines = self.doctor()
        self.assertEqual((status, len(lines)), (0, 1))
        self.assertTrue(lines[0].startswith("? open files "), lines)


class DeviceTests(DoctorTestCase):
    def test_pending(self) -> None:
        """A device that is there and not enabled has somebody waiting for an answer."""
        self.put(self.disk.path / "enable", "0")
        self.fails("waits for a daemon's answer", "start `twist tcmu --handler test`")

    def test_no_node(self) -> None:
        """In a container the device's node may be missing."""
        self.node.unlink()
        self.fails("uio3 is not there", "mount devtmpfs")

    def test_not_served(self) -> None:
        """A device that nobody has open is named with the command that serves it."""
        (self.proc / "100/fd/0").unlink()
        self.fails("test/vol: no daemon serves it", "start `twist tcmu --handler test`")

    def test_time_outs(self) -> None:
        """A time-out of 0 is no time-out, or no time at all."""
        self.put(self.disk.path / "attrib/cmd_time_out", "0")
        self.warns("cmd_time_out is 0: commands wait for ever", "to 120")
        self.put(self.disk.path / "attrib/cmd_time_out", "30")
        self.put(self.disk.path / "attrib/qfull_time_out", "0")
        self.warns("qfull_time_out is 0: commands fail as soon as the ring is full", "to -1")

    def test_blocked(self) -> None:
        """A device left blocked answers nothing but BUSY."""
        self.put(self.disk.path / "action/block_dev", "blocked")
        self.warns("every command is answered BUSY", "action/block_dev")


class HandlerTests(DoctorTestCase):
    def test_dev_configs(self) -> None:
        """Each dev_config is asked of its handler, through whatever that returns."""
        self.assertEqual(self.doctor("test/a", "test/b;colour=red"), (0, []))
        self.factory.problem = "/a does not exist; make it"
        self.fails("/a does not exist", "make it", "test/a")

    def test_malformed(self) -> None:
        """What is no dev_config, names no handler, or an option that there is not, is one line each."""
        status, lines = self.doctor("nonsense", "s4/a", "test/a;size=3")
        self.assertEqual((status, len(lines)), (1, 3))
        for line, text in zip(lines, ("is not HANDLER/PATH", "no handler s4", "has no option 'size'"), strict=True):
            self.assertIn(text, line)

    def test_broken_plugin(self) -> None:
        """A handler whose check breaks is named."""
        self.factory.check = lambda config: 1 / 0  # type: ignore[method-assign]
        self.fails("its handler fails to look at it (ZeroDivisionError", "mend the handler", "test/a")

    def test_missing_packages(self) -> None:
        """Missing packages of the extra with the handler's name are named; others are none of its business."""
        requirements = [
            "attrs>=23",
            'attrs>=23; extra == "test"',
            'no-such-package[x]>=1; extra == "test"',
            "nor-this-one; python_version > '3' and extra == 'test'",
            'nor-that; extra == "other"',
        ]
        [finding] = check_handlers(self.world, requirements)
        self.assertEqual(
            (finding.level, finding.text, finding.mend),
            (Level.WARNING, "lacks no-such-package, nor-this-one", "install txtcmu[test]"),
        )

    def test_same_name(self) -> None:
        """Of several handlers of one name none can be used."""
        self.world = evolve(self.world, factories=lambda: [self.factory, self.factory])
        status, lines = self.doctor()
        self.assertEqual((status, len(lines)), (1, 2), lines)
        for line in lines:
            self.assert_line(line, "FAILS", "one of 2 of this name, of which none can be used", "remove all but one")

    def test_left_out(self) -> None:
        """A plugin that cannot be loaded, or is no handler, is named with the reason."""
        factory = Factory(name="No Name", summary="", opener=lambda _: None)
        entry = EntryPoint("gone", "no_such_module:handler", registry.GROUP)
        self.patch(registry, "getPlugins", lambda *_: [factory])
        self.patch(registry, "entry_points", lambda **_: [entry])
        world = evolve(self.world, factories=registry.all_factories)
        unnamed, unloaded = check_handlers(world)
        self.assertEqual({unloaded.level, unnamed.level}, {Level.FAILURE})
        self.assertIn("gone (no_such_module:handler) cannot be loaded: No module named", unloaded.text)
        self.assertIn("is left out: 'No Name' cannot be its name", unnamed.text)
        self.flushLoggedErrors(ModuleNotFoundError)

    def test_own_packages(self) -> None:
        """Of the handlers that are shipped nothing is missing here; s3 has packages of its own."""
        world = evolve(self.world, factories=lambda: [registry.find("s3"), registry.find("file")])
        self.assertEqual([finding.level for finding in check_handlers(world)], [Level.GOOD] * 2)


class ConfigurationTests(DoctorTestCase):
    def setUp(self) -> None:
        """Write a configuration file with a secret in it."""
        super().setUp()
        self.file = self.configfs.dev / "txtcmu.toml"
        self.file.write_text('[profiles.p]\npassword = "x"\ncolour = "red"\n')
        self.file.chmod(0o600)

    def test_private(self) -> None:
        """Secrets that only root can read are as they should be."""
        self.assertEqual(self.doctor("--config", str(self.file), "test/a;profile=p"), (0, []))

    def test_public(self) -> None:
        """Secrets that everybody can read are named, without their value."""
        self.file.chmod(0o644)
        self.warns("everybody can read profiles.p.password", "chmod 600", "--config", str(self.file))
        self.file.write_text('[profiles.p]\ncolour = "red"\n')
        self.assertEqual(self.doctor("--config", str(self.file)), (0, []))

    def test_broken(self) -> None:
        """A file that is no TOML is a failure, and so is one that is not there."""
        self.file.write_text("[profiles")
        self.fails("is not TOML", "mend", "--config", str(self.file))
        self.file.unlink()
        self.fails("does not exist", "name a file that does", "--config", str(self.file))

    def test_not_for_this_user(self) -> None:
        """A file that only root may read cannot be judged by others."""

        def load(path: Path | None) -> None:
            raise ConfigError(f"{path} cannot be read: Permission denied") from PermissionError()

        self.status(0, 0)
        self.world = evolve(self.world, load=load)
        _, lines = self.doctor("--config", str(self.file))
        self.assertIn("? configuration", " ".join(lines))
        self.assertIn("is not for this user to read", " ".join(lines))
