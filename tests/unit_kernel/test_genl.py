"""The netlink codec: what goes in comes out, and no bytes can break it."""

from __future__ import annotations

from struct import pack

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtcmu.kernel import genl, tcm_user
from txtcmu.kernel.genl import GenericMessage, Message, MessageError
from txtcmu.kernel.tcm_user import Attribute, Command, DeviceEvent

u32s = st.integers(0, 0xFFFFFFFF)
u16s = st.integers(0, 0xFFFF)
attributes = st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=6)
messages = st.builds(Message, u16s, u16s, u32s, u32s, st.binary(max_size=64))


class RoundTripTests(SynchronousTestCase):
    @given(messages)
    def test_message(self, message: Message) -> None:
        """A message survives encoding."""
        self.assertEqual(genl.parse_datagram(message.encode()), [message])

    @given(st.lists(messages, max_size=4))
    def test_datagram(self, several: list[Message]) -> None:
        """Messages that share a datagram are padded to four bytes and told apart again."""
        padded = [message.encode() + bytes(-len(message.payload) % 4) for message in several]
        self.assertEqual(genl.parse_datagram(b"".join(padded)), several)

    @given(attributes)
    def test_attributes(self, given_ones: dict[int, bytes]) -> None:
        """Attributes survive encoding, also as the payload of another attribute."""
        encoded = genl.encode_attributes(given_ones)
        self.assertEqual(genl.parse_attributes(encoded), given_ones)
        nested = genl.parse_attributes(genl.encode_attributes({0x8000 | 7: encoded}))
        self.assertEqual(genl.parse_attributes(nested[7]), given_ones)

    @given(st.integers(0, 255), st.integers(0, 255), attributes)
    def test_generic_message(self, command: int, version: int, given_ones: dict[int, bytes]) -> None:
        """A generic netlink payload survives encoding."""
        message = GenericMessage(command, version, given_ones)
        self.assertEqual(GenericMessage.parse(message.encode()), message)

    @given(st.sampled_from(list(Command)[:3]), st.text(st.characters(exclude_characters="\0")), u32s, u32s)
    def test_event(self, command: Command, name: str, minor: int, device_id: int) -> None:
        """What the kernel says of a device arrives, whatever the name; a pad before it is ignored."""
        given_ones: dict[int, bytes] = {
            Attribute.DEVICE: name.encode(errors="surrogatepass") + b"\0",
            Attribute.MINOR: pack("=I", minor),
            Attribute.PAD: b"",
            Attribute.DEVICE_ID: pack("=I", device_id),
        }
        event = tcm_user.parse_event(GenericMessage(command, 2, given_ones))
        self.assertEqual((event.command, event.minor, event.device_id), (command, minor, device_id))
        self.assertEqual(event.name.encode(errors="surrogateescape"), name.encode(errors="surrogatepass"))


class RobustnessTests(SynchronousTestCase):
    @given(st.binary(max_size=200))
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes are messages, or raise MessageError, whichever parser gets them."""
        for parse in (genl.parse_datagram, genl.parse_attributes, GenericMessage.parse):
            try:
                parse(content)
            except MessageError:
                pass

    @given(st.integers(0, 255), st.dictionaries(st.integers(0, 9), st.binary(max_size=40)))
    def test_any_attributes(self, command: int, given_ones: dict[int, bytes]) -> None:
        """A message with any attributes is understood, or raises MessageError."""
        message = GenericMessage(command, 2, given_ones)
        for parse in (tcm_user.parse_event, genl.parse_family):
            try:
                parse(message)
            except MessageError:
                pass

    @given(messages)
    def test_any_error(self, message: Message) -> None:
        """Only an NLMSG_ERROR message has an errno, and it is never negative."""
        try:
            self.assertGreaterEqual(genl.error_of(message), 0)
        except MessageError:
            self.assertTrue(message.type != genl.NLMSG_ERROR or len(message.payload) < 4)


class LayoutTests(SynchronousTestCase):
    def test_family_request(self) -> None:
        """The question for a family, byte by byte."""
        request = Message(genl.CONTROL_FAMILY, genl.NLM_F_REQUEST, 7, 0, genl.family_request("TCM-USER").encode())
        expected = pack("=IHHII", 36, 16, 1, 7, 0) + pack("=BBH", 3, 1, 0) + pack("=HH", 13, 2) + b"TCM-USER\0"
        self.assertEqual(request.encode(), expected + bytes(3))

    def test_family(self) -> None:
        """The answer of nlctrl gives the family's number and those of its groups."""
        group = genl.encode_attributes({1: b"config\0", 2: pack("=I", 5)})
        answer = GenericMessage(1, 2, {1: pack("=H", 28), 2: b"TCM-USER\0", 7: genl.encode_attributes({1: group})})
        self.assertEqual(genl.parse_family(answer), genl.Family(28, {"config": 5}))

    def test_errors(self) -> None:
        """The kernel sends errnos negated, and 0 to acknowledge."""
        for sent, understood in ((0, 0), (-19, 19)):
            message = Message(genl.NLMSG_ERROR, 0, 1, 0, pack("=i", sent) + bytes(16))
            self.assertEqual(genl.error_of(message), understood)

    def test_reconfigurations(self) -> None:
        """A RECONFIG names the one thing that changes."""
        common: dict[int, bytes] = {
            Attribute.DEVICE: b"tcm-user/0/a/b/c\0",
            Attribute.MINOR: bytes(4),
            Attribute.DEVICE_ID: bytes(4),
        }
        wanted = DeviceEvent(Command.RECONFIG_DEVICE, "tcm-user/0/a/b/c", 0, 0)
        for kind, payload, expected in (
            (Attribute.DEV_CFG, b"b/d\0", {"dev_config": "b/d"}),
            (Attribute.DEV_SIZE, pack("=Q", 1 << 40), {"dev_size": 1 << 40}),
            (Attribute.WRITECACHE, b"\1", {"write_cache": True}),
            (Attribute.WRITECACHE, b"\0", {"write_cache": False}),
        ):
            event = tcm_user.parse_event(GenericMessage(3, 2, {**common, kind: payload}))
            for name in ("dev_config", "dev_size", "write_cache"):
                self.assertEqual(getattr(event, name), expected.get(name))
            self.assertEqual(event.name, wanted.name)

    def test_replies(self) -> None:
        """A reply is of its event's kind and names device and status."""
        for event, reply in zip(list(Command)[:3], list(Command)[3:6], strict=True):
            message = tcm_user.done(event, 3, -22)
            self.assertEqual((message.command, message.version), (reply, 2))
            self.assertEqual(dict(message.attributes), {8: pack("=I", 3), 7: pack("=i", -22)})

    def test_impossible_replies(self) -> None:
        """A positive status would end up in configfs as garbage; only events have replies."""
        with self.assertRaises(ValueError):
            tcm_user.done(Command.ADDED_DEVICE, 3, 5)
        with self.assertRaises(ValueError):
            tcm_user.done(Command.SET_FEATURES, 3, 0)

    def test_set_features(self) -> None:
        """The one setting is whether the kernel waits for replies."""
        for replies, content in ((True, b"\1"), (False, b"\0")):
            message = tcm_user.set_features(replies)
            self.assertEqual((message.command, dict(message.attributes)), (7, {9: content}))
