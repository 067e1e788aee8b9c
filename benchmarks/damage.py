"""Ways to damage a file: what disks, networks, careless programs and hostile people do to it."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]

_HEADER = 512
"""Most formats keep here what says how much there is and where."""
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def cut_off(content: bytes, dice: random.Random) -> bytes:
    """Only the beginning."""
    return content[: dice.randrange(len(content))]


def cut_front(content: bytes, dice: random.Random) -> bytes:
    """Only the end."""
    return content[dice.randrange(1, len(content)) :]


def flip_bits(content: bytes, dice: random.Random) -> bytes:
    """One to eight bits, anywhere."""
    damaged = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def scribble_header(content: bytes, dice: random.Random) -> bytes:
    """One to eight random bytes where the header is."""
    damaged = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        damaged[dice.randrange(min(len(damaged), _HEADER))] = dice.randrange(256)
    return bytes(damaged)


def wrong_length(content: bytes, dice: random.Random) -> bytes:
    """A number of 2, 4 or 8 bytes in the header becomes an extreme one."""
    width, order = dice.choice((2, 4, 8)), dice.choice(("big", "little"))
    place = dice.randrange(max(min(len(content), _HEADER) - width, 1))
    number = (dice.choice(_EXTREMES) & (256**width - 1)).to_bytes(width, order)  # type: ignore[arg-type]
    return content[:place] + number + content[place + width :]


def blank_block(content: bytes, dice: random.Random) -> bytes:
    """A block of zeros, ones or noise, as from a bad sector."""
    place, length = dice.randrange(len(content)), dice.choice((16, 512, 4096))
    filling = dice.choice((bytes(length), b"\xff" * length, dice.randbytes(length)))
    return (content[:place] + filling + content[place + length :])[: len(content)]


def insert(content: bytes, dice: random.Random) -> bytes:
    """Bytes that do not belong there, as from a text-mode transfer."""
    place = dice.randrange(len(content))
    return content[:place] + dice.randbytes(dice.choice((1, 4, 100))) + content[place:]


def remove(content: bytes, dice: random.Random) -> bytes:
    """A piece is missing."""
    place = dice.randrange(len(content))
    return content[:place] + content[place + dice.choice((1, 4, 100, 2000)) :]


def repeat(content: bytes, dice: random.Random) -> bytes:
    """A piece comes twice."""
    place = dice.randrange(len(content))
    end = place + dice.choice((4, 100, 2000))
    return content[:end] + content[place:end] + content[end:]


def noise_after_start(content: bytes, dice: random.Random) -> bytes:
    """The first bytes of the format, then random ones."""
    return content[: dice.choice((4, 8, 16, 32, 64))] + dice.randbytes(dice.choice((0, 100, 5000)))


def noise(content: bytes, dice: random.Random) -> bytes:
    """Random bytes."""
    return dice.randbytes(dice.choice((1, 10, 1000, 20_000)))


EVERYWHERE: tuple[Damage, ...] = (
    cut_off,
    cut_front,
    flip_bits,
    scribble_header,
    wrong_length,
    blank_block,
    insert,
    remove,
    repeat,
    noise_after_start,
    noise,
)


def claim_giant(content: bytes, size: tuple[int, int], dice: random.Random) -> bytes:
    """A picture of `size` (width, height) that says it is enormous, wherever its format writes that."""
    giants = (6_000, 12_000, 20_000, 65_535, 16_777_215, 2**31 - 1, 2**32 - 1)
    for side in dice.choice((size, size, size[:1], size[1:])):
        giant = dice.choice(giants)
        for form in (">I", "<I", ">H", "<H"):
            told = min(giant, 256 ** struct.calcsize(form) - 1)
            content = content.replace(struct.pack(form, side), struct.pack(form, told), dice.choice((1, 1, -1)))
        content = content.replace(b" %d" % side, b" %d" % giant, 1)  # PPM says it in words
    return _sign_png(content)


def _sign_png(content: bytes) -> bytes:
    """The check sum of a PNG's header made right, so that it is believed."""
    if not content.startswith(b"\x89PNG"):
        return content
    return content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]
