"""Files of kinds that Pillow does not write, byte by byte."""

import io
import struct
import zlib

import numpy as np

CHANNELS = {"grey": 1, "RGB": 3, "palette": 1, "grey + alpha": 2, "RGBA": 4}
_COLOR_TYPES = {"grey": 0, "RGB": 2, "palette": 3, "grey + alpha": 4, "RGBA": 6}
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values, color, bits, interlaced=False, before=(), after=()):
    """A PNG of values `[height, width, channels]`, with chunks (name, data) before and after its pixels."""
    parts = [values]
    if interlaced:  # Adam7
        parts = [values[y::down, x::across] for y, x, down, across in _PASSES]
    rows = b"".join(b"\0" + _packed(row, bits) for part in parts if part.size for row in part)
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, _COLOR_TYPES[color], 0, 0, int(interlaced))
    pixels = zlib.compress(rows)
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels[:40]), (b"IDAT", pixels[40:]), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def _packed(row, bits):
    if bits == 16:
        return row.astype(">u2").tobytes()
    digits = (row.reshape(-1, 1).astype(int) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.astype("uint8")).tobytes()


def bmp(indices, palette, bits):
    """A BMP of `[height, width]` indices into a palette `[2**bits, 3]`."""
    rows = [_packed(row, bits) for row in indices[::-1]]
    rows = b"".join(row + bytes(-len(row) % 4) for row in rows)
    colors = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette.tolist())
    height, width = indices.shape
    start = 14 + 40 + len(colors)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + colors + rows


def webp(*chunks):
    """A WebP of chunks (name, data)."""
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def exif(orientation, little_endian=True, kind=3):
    """Exif data, a small TIFF, whose orientation is a number of that type: 1, 3 or 4 for 1, 2 or 4 bytes."""
    order = "<" if little_endian else ">"
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 6) + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    begin = b"II*\0" if little_endian else b"MM\0*"
    return begin + struct.pack(order + "I", 8) + struct.pack(order + "H", 2) + entries + bytes(4)


def xmp(orientation):
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(jpeg, *segments, jfif=True):
    """A JPEG with segments in front, behind JFIF's or in place of it."""
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    assert jpeg[2:4] == b"\xff\xe0"
    return (jpeg[:end] if jfif else jpeg[:2]) + b"".join(segments) + jpeg[end:]


def without_segment(jpeg, marker):
    """A JPEG without its segments of a marker."""
    at, kept = 2, jpeg[:2]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        kept += b"" if jpeg[at + 1] == marker else jpeg[at:end]
        at = end
    return kept + jpeg[at:]
