"""What RFC 6455 demands, frame by frame: the cases of the Autobahn test suite under its own numbers, and some more.

The suite itself (crossbario/autobahn-testsuite) runs on Python 2 only. An echo server is taken for granted:
whoever answers messages in another way reads `messages` as what was received.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from .websocket_client import (
    BINARY,
    CONT,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Message,
    close_frame,
    fragments,
    frame,
    on_the_wire,
)

OPEN = None
"""The connection goes on."""
FAILED = frozenset({1002})
NOT_UTF8 = frozenset({1007})
TOO_BIG = frozenset({1009, 1002})

MESSAGE_LIMIT = 16 * 1024**2
"""The largest message of the table; one byte more is too large."""


@dataclass(frozen=True)
class Case:
    """Frames in, and what must come of them. `codes`: what the server's Close may carry, if it must close."""

    id: str
    sends: tuple[bytes, ...]
    messages: tuple[Message, ...] = ()
    pongs: tuple[bytes, ...] = ()
    codes: frozenset[int] | None = OPEN
    tolerated: str = ""
    """What the RFC forbids here, and the websockets library under both classes lets pass: the connection may fail."""

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]

    @property
    def size(self) -> int:
        return sum(map(len, self.sends))


HELLO = "Hello-µ@ßöäüàá-UTF-8!!".encode()
KOSME = bytes.fromhex("cebae1bdb9cf83cebcceb5")


def text(data: bytes) -> Message:
    return TEXT, data


def framing() -> Iterator[Case]:
    """1: the three forms of a length, at their edges; 126 and 127 of Autobahn's 1.1.3 and 1.1.4 among them."""
    for part, opcode, byte in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for number, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1):
            data = byte * size
            yield Case(f"1.{part}.{number}", (frame(opcode, data),), ((opcode, data),))
    for number, key in enumerate((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\xff\0\xff", b"abcd"), 1):
        for size in (1, 2, 3, 4, 5, 125):
            data = HELLO[:5] * 25
            yield Case(f"1.3.{number}.{size}", (frame(TEXT, data[:size], key=key),), (text(data[:size]),))
    yield Case("1.4.1", (frame(TEXT, HELLO, key=None),), codes=FAILED)
    yield Case("1.4.2", (frame(PING, b"x", key=None),), codes=FAILED)
    minimal = "5.2: the minimal number of bytes MUST be used to encode the length"
    for number, (opcode, size, form) in enumerate(((TEXT, 5, 126), (TEXT, 5, 127), (BINARY, 300, 127)), 1):
        data = b"x" * size
        yield Case(f"1.5.{number}", (frame(opcode, data, form=form),), ((opcode, data),), tolerated=minimal)
    yield Case("1.5.5", (frame(PING, b"x" * 8, form=126),), pongs=(b"x" * 8,), tolerated=minimal)
    signed = (frame(TEXT, b"x" * 8, size=1 << 63 | 8),)
    yield Case("1.5.4", signed, codes=TOO_BIG)


def pings() -> Iterator[Case]:
    """2: every ping is answered with its own payload; unasked pongs are none of our business."""
    for number, data in enumerate((b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125), 1):
        yield Case(f"2.{number}", (frame(PING, data),), pongs=(data,))
    yield Case("2.5", (frame(PING, b"\xfe" * 126),), codes=FAILED)
    yield Case(
        "2.6",
        tuple(frame(PING, bytes((n,)) * 125) for n in range(3)),
        pongs=tuple(bytes((n,)) * 125 for n in range(3)),
    )
    last = frame(PING, b"last")
    yield Case("2.7", (frame(PONG), last), pongs=(b"last",))
    yield Case("2.8", (frame(PONG, b"unsolicited"), last), pongs=(b"last",))
    yield Case("2.9", (frame(PONG, b"unsolicited"), frame(PING, b"ping"), last), pongs=(b"ping", b"last"))
    ten = tuple(b"payload-%d" % n for n in range(10))
    yield Case("2.10", tuple(frame(PING, data) for data in ten), pongs=ten)
    yield Case(
        "2.11", tuple(fragment for data in ten for fragment in (frame(PONG, data), frame(PING, data))), pongs=ten
    )


def reserved() -> Iterator[Case]:
    """3: reserved bits without an extension. 4: reserved opcodes."""
    ping, first = frame(PING, b"after"), frame(TEXT, HELLO)
    yield Case("3.1", (frame(TEXT, HELLO, rsv=1),), codes=FAILED)
    for number, rsv in enumerate((2, 3, 4), 2):
        bad = frame(TEXT, HELLO, rsv=rsv)
        yield Case(f"3.{number}", (first, bad, ping), (text(HELLO),), codes=FAILED)
    yield Case("3.5", (frame(BINARY, b"\0\xff", rsv=5),), codes=FAILED)
    yield Case("3.6", (frame(PING, HELLO, rsv=6),), codes=FAILED)
    yield Case("3.7", (close_frame()[:0] + frame(8, b"\x03\xe8", rsv=7),), codes=FAILED)
    yield Case("3.8", (*fragments(TEXT, b"a", b"b")[:1], frame(CONT, b"b", rsv=4)), codes=FAILED)
    for part, opcodes in ((1, range(3, 8)), (2, range(11, 16))):
        for number, opcode in enumerate(opcodes, 1):
            yield Case(f"4.{part}.{number}.1", (frame(opcode),), codes=FAILED)
            yield Case(f"4.{part}.{number}.2", (frame(opcode, HELLO),), codes=FAILED)
            yield Case(f"4.{part}.{number}.3", (first, frame(opcode, b"x"), ping), (text(HELLO),), codes=FAILED)
            yield Case(f"4.{part}.{number}.4", (*fragments(TEXT, b"a", b"b")[:1], frame(opcode)), codes=FAILED)


def fragmentation() -> Iterator[Case]:
    """5: fragments in their place and out of it, control frames between them."""
    one, two = fragments(TEXT, b"fragment1", b"fragment2")
    whole = text(b"fragment1fragment2")
    ping = frame(PING, b"ping")
    for number, opcode in ((1, PING), (2, PONG)):
        yield Case(f"5.{number}", tuple(fragments(opcode, b"fragment1", b"fragment2")), codes=FAILED)
    yield Case("5.3", (one, two), (whole,))
    yield Case("5.6", (one, ping, two), (whole,), (b"ping",))
    yield Case("5.6.1", (one, ping, frame(PONG, b"?"), ping, two, ping), (whole,), (b"ping",) * 3)
    for number, fin in ((9, True), (12, False)):
        bad = frame(CONT, b"non-continuation payload", fin=fin)
        yield Case(f"5.{number}", (bad, frame(TEXT, HELLO)), codes=FAILED)
        yield Case(f"5.{number}.1", (frame(TEXT, HELLO), bad), (text(HELLO),), codes=FAILED)
        yield Case(f"5.{number}.2", (one, two, bad), (whole,), codes=FAILED)
        yield Case(f"5.{number}.3", (ping, bad, ping), (), (b"ping",), FAILED)
    again = (frame(CONT, b"x", fin=False), frame(TEXT, HELLO), frame(CONT, b"y", fin=False), frame(TEXT, HELLO))
    yield Case("5.15", (one, two, *again), (whole,), codes=FAILED)
    yield Case("5.16", again * 2, codes=FAILED)
    yield Case("5.18", (one, frame(TEXT, b"fragment2")), codes=FAILED)
    yield Case("5.18.1", (one, frame(BINARY, b"fragment2")), codes=FAILED)
    yield Case("5.18.2", (frame(BINARY, b"1", fin=False), frame(BINARY, b"2")), codes=FAILED)
    parts = [b"fragment%d" % n for n in range(1, 6)]
    five = fragments(TEXT, *parts)
    between = (five[0], five[1], frame(PING, b"pongme 1!"), *five[2:4], frame(PING, b"pongme 2!"), five[4])
    for number in (19, 20):
        opcode = TEXT if number == 19 else BINARY
        head = fragments(opcode, *parts)[0]
        yield Case(f"5.{number}", (head, *between[1:]), ((opcode, b"".join(parts)),), (b"pongme 1!", b"pongme 2!"))
    empty = fragments(TEXT, b"", b"", b"", b"")
    yield Case("5.21", tuple(empty), (text(b""),))
    yield Case("5.22", tuple(fragments(TEXT, b"", b"x", b"", b"y", b"")), (text(b"xy"),))
    yield Case(
        "5.23",
        (*fragments(TEXT, *HELLO[:4].hex().encode().split(b"!")), *five, one, two),
        (text(HELLO[:4].hex().encode()), text(b"".join(parts)), whole),
    )


VALID = {
    "5": [KOSME, HELLO],
    "7": [bytes.fromhex(h) for h in ("00", "c280", "e0a080", "f0908080")],
    "9": [bytes.fromhex(h) for h in ("7f", "dfbf", "efbfbf", "f48fbfbf")],
    "11": [bytes.fromhex(h) for h in ("ed9fbf", "ee8080", "efbfbd", "f48fbfbf", "f09fa4af", "f3bfbfbf")],
    "22": [
        *(bytes.fromhex(h) for h in ("efbfbe", "efbfbf", "efb790", "efb7af")),
        *(chr(plane << 16 | last).encode() for plane in range(1, 17) for last in (0xFFFE, 0xFFFF)),
    ],
    "23": [chr(n).encode() for n in range(0xFFF9, 0xFFFE)],
}
"""6: sequences that are UTF-8, by their group in Autobahn; noncharacters are."""

KOSME_EDITED = KOSME + bytes.fromhex("eda080") + b"edited"

INVALID = {
    "3": [KOSME_EDITED, bytes.fromhex("cebae1bdb9cf83cebcceb5f4908080656469746564")],
    "8": [bytes.fromhex(h) for h in ("f888808080", "fc8480808080")],
    "10": [bytes.fromhex(h) for h in ("f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf")],
    "11": [bytes.fromhex("f4908080")],
    "12": [*(b"\x80\xbf\x80\xbf\x80\xbf\x80"[:n] for n in range(1, 8)), b"\xbf", bytes(range(0x80, 0xC0))],
    "13": [
        b"".join(bytes((n, 32)) for n in starts)
        for starts in (range(0xC0, 0xE0), range(0xE0, 0xF0), range(0xF0, 0xF8), range(0xF8, 0xFC), range(0xFC, 0xFE))
    ],
    "14": [
        bytes.fromhex(h)
        for h in ("c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf")
    ],
    "15": [bytes.fromhex("c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf")],
    "16": [bytes.fromhex(h) for h in ("fe", "ff", "fefeffff")],
    "17": [bytes.fromhex(h) for h in ("c0af", "e080af", "f08080af", "f8808080af", "fc80808080af")],
    "18": [bytes.fromhex(h) for h in ("c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf")],
    "19": [bytes.fromhex(h) for h in ("c080", "e08080", "f0808080", "f880808080", "fc8080808080")],
    "20": [bytes.fromhex(h) for h in ("eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf")],
    "21": [bytes.fromhex(a + b) for a in ("eda080", "edadbf", "edae80", "edafbf") for b in ("edb080", "edbfbf")],
}
"""6: sequences that are not: cut short, overlong, surrogates, beyond U+10FFFF, bytes that never occur."""


def utf8_texts() -> Iterator[Case]:
    """6: a message is checked as a whole, wherever its frames end."""
    yield Case("6.1.1", (frame(TEXT),), (text(b""),))
    yield Case("6.1.2", tuple(fragments(TEXT, b"", b"", b"")), (text(b""),))
    yield Case("6.1.3", tuple(fragments(TEXT, b"", b"middle", b"")), (text(b"middle"),))
    for at in range(1, len(HELLO)):
        yield Case(f"6.2.{at}", tuple(fragments(TEXT, HELLO[:at], HELLO[at:])), (text(HELLO),))
    yield Case("6.2.0", tuple(fragments(TEXT, *(HELLO[n : n + 1] for n in range(len(HELLO))))), (text(HELLO),))
    for size in range(1, len(KOSME) + 1):
        prefix = KOSME[:size]
        # Two bytes a letter, but for the second, which has three.
        whole = size in (2, 5, 7, 9, 11)
        yield Case(f"6.6.{size}", (frame(TEXT, prefix),), (text(prefix),) * whole, codes=OPEN if whole else NOT_UTF8)
    bad = KOSME_EDITED
    for at in range(len(KOSME), len(bad)):
        yield Case(f"6.4.{at}", tuple(fragments(TEXT, bad[:at], bad[at:])), codes=NOT_UTF8)
    yield Case(
        "6.4.0",
        (frame(TEXT, HELLO), frame(PING, b"p"), frame(TEXT, bad), frame(TEXT, HELLO)),
        (text(HELLO),),
        (b"p",),
        NOT_UTF8,
    )
    for known, sequences in ((True, VALID), (False, INVALID)):
        for part, bodies in sequences.items():
            for number, body in enumerate(bodies, 1):
                yield from sequence(f"6.{part}.{number if known else -number}", body, known)


def sequence(id: str, body: bytes, valid: bool) -> Iterator[Case]:
    """Alone, between other letters, and cut at every byte, a ping in the middle."""
    single = fragments(TEXT, *(body[n : n + 1] for n in range(len(body))))
    padded = b"a" + body + b"z"
    half = len(single) // 2
    cut = (*single[:half], frame(PING, body[:9]), *single[half:])
    codes = OPEN if valid else NOT_UTF8
    yield Case(f"{id}.alone", (frame(TEXT, body),), (text(body),) * valid, codes=codes)
    if valid:
        yield Case(f"{id}.between", (frame(TEXT, padded),), (text(padded),))
    yield Case(f"{id}.cut", cut, (text(body),) * valid, (body[:9],), codes)


def closing() -> Iterator[Case]:
    """7: the closing handshake, its codes and reasons; nothing is answered after it."""
    normal = frozenset({1000})
    close, hello = close_frame(), frame(TEXT, HELLO)
    yield Case("7.1.1", (hello, close), (text(HELLO),), codes=normal)
    yield Case("7.1.2", (close, close), codes=normal)
    yield Case("7.1.3", (close, frame(PING, b"late")), codes=normal)
    yield Case("7.1.4", (close, hello), codes=normal)
    one, two = fragments(TEXT, b"fragment1", b"fragment2")
    yield Case("7.1.5", (one, close, two), codes=normal | FAILED)
    yield Case(
        "7.1.6",
        (frame(TEXT, b"x" * 262_144), hello, close, frame(PING)),
        (text(b"x" * 262_144), text(HELLO)),
        codes=normal,
    )
    yield Case("7.1.7", (close, frame(TEXT, HELLO, rsv=7), b"\xff" * 100), codes=normal)
    yield Case("7.3.1", (close_frame(None),), codes=frozenset({NO_CODE, 1000}))
    yield Case("7.3.2", (frame(8, b"\x03"),), codes=FAILED)
    yield Case("7.3.3", (close_frame(1000),), codes=normal)
    yield Case("7.3.4", (close_frame(1000, "Tschüß 🚀".encode()),), codes=normal)
    yield Case("7.3.5", (close_frame(1000, b"*" * 123),), codes=normal)
    yield Case("7.3.6", (close_frame(1000, b"*" * 124),), codes=FAILED)
    yield Case("7.3.7", tuple(fragments(8, b"\x03", b"\xe8")), codes=FAILED)
    for number, reason in enumerate((KOSME_EDITED, b"\x80", "ß".encode()[:1], b"x" * 122 + b"\xff"), 1):
        yield Case(f"7.5.{number}", (close_frame(1000, reason),), codes=NOT_UTF8)
    for code in (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3001, 3999, 4000, 4400, 4999):
        yield Case(f"7.7.{code}", (close_frame(code),), codes=frozenset({code}))
        yield Case(f"7.7.{code}.why", (close_frame(code, b"why"),), codes=frozenset({code}))
    for code in (0, 1, 999, 1004, 1005, 1006, *range(1015, 1018), 1100, 2000, 2999, 5000, 9999, 65535):
        assert not on_the_wire(code)
        yield Case(f"7.9.{code}", (close_frame(code),), codes=FAILED)
        yield Case(f"7.9.{code}.why", (close_frame(code, b"why"),), codes=FAILED)


def endings() -> Iterator[Case]:
    """8: an ending in one segment with what it ends, and with what is never read; not in Autobahn."""
    hello, ping, close = frame(TEXT, HELLO), frame(PING, b"p"), close_frame()
    binary, bad, garbage = frame(BINARY, b"b"), frame(TEXT, b"\xff"), frame(TEXT, HELLO, rsv=7)
    normal = frozenset({1000})
    yield Case("8.1", (ping, hello, ping, close), (text(HELLO),), (b"p", b"p"), normal)
    yield Case("8.2", (hello,) * 40 + (close, hello), (text(HELLO),) * 40, codes=normal)
    yield Case("8.3", (binary, close), ((BINARY, b"b"),), codes=normal)
    yield Case("8.4", (binary, garbage), ((BINARY, b"b"),), codes=FAILED)
    yield Case("8.5", (binary, bad), ((BINARY, b"b"),), codes=NOT_UTF8)
    yield Case("8.6", (bad, close), codes=NOT_UTF8 | normal)
    yield Case("8.7", (bad, garbage), codes=NOT_UTF8 | FAILED)
    yield Case("8.8", (bad, bad, hello), codes=NOT_UTF8)
    yield Case("8.9", (garbage, close, hello), codes=FAILED)
    yield Case("8.10", (ping, hello, garbage, ping), (text(HELLO),), (b"p",), FAILED)
    yield Case("8.11", (hello, frame(TEXT, b"", size=MESSAGE_LIMIT + 1)), (text(HELLO),), codes=TOO_BIG)
    yield Case("8.12", (hello, close_frame(1005), hello), (text(HELLO),), codes=FAILED)
    yield Case("8.13", (hello, close_frame(4400, b"\xff")), (text(HELLO),), codes=NOT_UTF8)


STOCK_FAILS = {"8.6", "8.7"}
"""By raising in `data_received`, in one segment: the connection is aborted, and the client never learns why."""


def limits() -> Iterator[Case]:
    """9: large messages, whole, in fragments and in chops; many small ones."""
    for part, opcode in ((1, TEXT), (2, BINARY)):
        for number, size in enumerate((65_536, 262_144, 1024**2, 4 * 1024**2), 1):
            data = bytes((65 + number,)) * size
            yield Case(f"9.{part}.{number}", (frame(opcode, data),), ((opcode, data),))
    largest = b"L" * MESSAGE_LIMIT
    yield Case("9.1.6", (frame(TEXT, largest),), (text(largest),))
    yield Case("9.1.7", (frame(TEXT, b"", size=MESSAGE_LIMIT + 1),), codes=TOO_BIG)
    half = fragments(TEXT, largest[: MESSAGE_LIMIT // 2], b"")[0]
    yield Case("9.1.8", (half, frame(CONT, b"", size=MESSAGE_LIMIT // 2 + 1)), codes=TOO_BIG)
    data = random.Random(9).randbytes(131_072).hex().encode()
    for part, opcode in ((3, TEXT), (4, BINARY)):
        for number, size in enumerate((64, 256, 1024, 4096, 65_536, 131_072), 1):
            cut = [data[n : n + size] for n in range(0, len(data), size)]
            yield Case(f"9.{part}.{number}", tuple(fragments(opcode, *cut)), ((opcode, data),))
    for part, opcode in ((5, TEXT), (6, BINARY)):
        for number, size in enumerate((64, 1024, 2048), 1):
            raw = frame(opcode, data)
            chops = tuple(raw[n : n + size] for n in range(0, len(raw), size))
            yield Case(f"9.{part}.{number}", chops, ((opcode, data),))
    for number, size in enumerate((0, 16, 64, 256, 1024, 4096), 1):
        data = b"s" * size
        yield Case(f"9.7.{number}", (frame(TEXT, data),) * 30, (text(data),) * 30)
    cut = [b"F" * 1300] * 50 + [b"F" * 536]
    yield Case("10.1.1", tuple(fragments(TEXT, *cut)), (text(b"F" * 65_536),))


CASES: tuple[Case, ...] = tuple(
    case
    for make in (framing, pings, reserved, fragmentation, utf8_texts, closing, endings, limits)
    for case in make()
)
GROUPS = tuple(dict.fromkeys(case.group for case in CASES))
assert len({case.id for case in CASES}) == len(CASES)
