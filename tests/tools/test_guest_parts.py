"""The guest's parts that are pure: streams, module order, the command line, the packed kernel."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.guest import qemu
from tools.guest.initramfs import load_order, unsigned
from tools.guest.kernel import decompressed
from tools.guest.streams import LineSplitter, MarkedStream

MARK = "aab"


@given(st.binary().map(lambda data: data.replace(b"\0aab ", b"")), st.integers(0, 255), st.lists(st.integers(1, 9)))
def test_a_marked_stream_passes_everything_before_the_mark(data: bytes, status: int, cuts: list[int]) -> None:
    passed = bytearray()
    stream = MarkedStream(MARK, passed.extend)
    rest = data + b"\0aab %d\n" % status
    for cut in [*cuts, len(rest)]:
        stream.feed(rest[:cut])
        rest = rest[cut:]
    assert (bytes(passed), stream.status) == (data, status)


@given(st.lists(st.binary(max_size=9)))
def test_a_stream_without_a_mark_has_no_status_and_holds_little_back(chunks: list[bytes]) -> None:
    passed = bytearray()
    stream = MarkedStream("unlikely", passed.extend)
    for chunk in chunks:
        stream.feed(chunk)
    whole = b"".join(chunks)
    assert stream.status is None
    assert whole.startswith(passed)
    assert b"\0" in whole[len(passed) :] or whole == passed


def test_what_follows_the_mark_is_dropped() -> None:
    passed = bytearray()
    stream = MarkedStream(MARK, passed.extend)
    stream.feed(b"x\0aab 3\nleft")
    stream.feed(b"overs")
    assert (bytes(passed), stream.status) == (b"x", 3)


def test_lines_are_passed_on_whole() -> None:
    lines: list[bytes] = []
    splitter = LineSplitter(lines.append)
    for chunk in (b"on", b"e\ntwo\nth", b"ree\n", b"rest"):
        splitter.feed(chunk)
    assert lines == [b"one", b"two", b"three"]


def test_modules_are_loaded_after_what_they_need() -> None:
    modules_dep = "kernel/a.ko: kernel/b-x.ko kernel/c.ko\nkernel/b-x.ko: kernel/c.ko\nkernel/c.ko:\nkernel/z.ko.xz:\n"
    assert load_order(modules_dep, ("a", "b_x", "built_in")) == ["kernel/c.ko", "kernel/b-x.ko", "kernel/a.ko"]
    assert load_order(modules_dep, ("z",)) == ["kernel/z.ko.xz"]


def test_a_signature_is_cut_off() -> None:
    signature = b"s" * 300
    signed = b"module" + signature + bytes(8) + struct.pack(">I", 300) + b"~Module signature appended~\n"
    assert unsigned(signed) == b"module"
    assert unsigned(b"module") == b"module"


@pytest.mark.parametrize(
    ("payload", "plain"), [(lzma.compress(b"\x7fELF...") + struct.pack("<I", 7), b"\x7fELF..."), (b"zstd", None)]
)
def test_the_kernel_is_found_in_its_image(payload: bytes, plain: bytes | None) -> None:
    image = bytearray(512 * 4) + b"head" + payload
    image[0x1F1] = 3
    struct.pack_into("<II", image, 0x248, 4, len(payload))
    assert decompressed(bytes(image)) == plain


def test_the_command_line_names_every_port_and_escapes_commas() -> None:
    here = Path("/a,b")
    line = qemu.command_line(qemu.Hardware(), "tcg", here, here, here, here, {"stdout": 7, "report": 9})
    assert "socket,id=stdout,fd=7" in line
    assert "virtserialport,chardev=report,name=report" in line
    assert "local,path=/a,,b,mount_tag=share,security_model=none,multidevs=remap" in line
    assert any(word.startswith("local,path=/,mount_tag=hostroot") and word.endswith("readonly=on") for word in line)


def test_a_counted_guest_has_one_processor_and_no_kvm() -> None:
    here = Path("/x")
    line = qemu.command_line(qemu.Hardware(counted=True), "kvm", here, here, here, here, {})
    assert line[line.index("-smp") + 1] == "1"
    assert "-icount" in line
    assert "kvm" not in " ".join(line)


def test_a_disk_is_a_file_of_the_host() -> None:
    here = Path("/a,b")
    without = qemu.command_line(qemu.Hardware(), "tcg", here, here, here, here, {})
    line = qemu.command_line(qemu.Hardware(), "tcg", here, here, here, here, {}, disk=here)
    assert [word for word in line if word not in without] == [
        "-drive",
        "if=none,id=disk,format=raw,cache=unsafe,file=/a,,b",
        "virtio-blk-pci,drive=disk",
    ]
