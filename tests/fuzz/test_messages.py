"""See :mod:`tests.fuzz.messages`."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.messages import check_dev_config, check_netlink
from txtcmu.kernel.genl import GenericMessage, Message
from txtcmu.testing.fakenetlink import FAMILY_ID

SETTINGS = settings(derandomize=True, database=None, deadline=None, max_examples=250)

VALUES = st.binary(max_size=12) | st.sampled_from(
    [pack("=I", 5), pack("=Q", 1 << 40), b"tcm-user/0/a/b/c\0", b"\0", b""]
)
EVENTS = st.builds(
    lambda family, command, attributes: Message(
        family, 0, 0, 0, GenericMessage(command, 2, attributes).encode()
    ).encode(),
    st.sampled_from([FAMILY_ID, FAMILY_ID, FAMILY_ID, 16, 3, 2]),
    st.integers(0, 8),
    st.dictionaries(st.integers(0, 10), VALUES, max_size=8),
)


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Return messages, some of them cut or with a byte changed; or any bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=80))
    data = bytearray(b"".join(draw(st.lists(EVENTS, min_size=1, max_size=3))))
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=3)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@SETTINGS
@given(st.lists(datagrams(), max_size=4))
@example([b""])
def test_any_datagram(sent: list[bytes]) -> None:
    """Whatever arrives, the listener goes on."""
    check_netlink(sent)


def test_events_are_heard() -> None:
    """The harness itself: what is an event is understood."""
    attributes = {1: b"tcm-user/0/a/b/c\0", 2: pack("=I", 5), 8: pack("=I", 9)}
    assert check_netlink([Message(FAMILY_ID, 0, 0, 0, GenericMessage(1, 2, attributes).encode()).encode()]) == 1


WORDS = st.sampled_from(["file", "/", ";", "=", "size", "10G", "a", "..", "é", "\udcff", " ", ":", "\n", "%", "0"])


@SETTINGS
@given(st.lists(WORDS, max_size=30).map("".join) | st.text(max_size=300))
def test_any_dev_config(text: str) -> None:
    """Any text is refused in one line, or taken for what it says."""
    check_dev_config(text)


@pytest.mark.parametrize("text", ["file/a", "file//a/b;size=10G;x=", "s3/bucket/vol;a==b"])
def test_sound_dev_configs(text: str) -> None:
    """The harness itself: what is sound is taken."""
    assert check_dev_config(text) is not None
