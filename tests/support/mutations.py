"""Images and requests that are nearly right: what a fuzzer, a broken camera or an attacker sends."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("png", "color", "overlay", "confidence", "json", "rle", "polygons", "geojson", "raw")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> list[bytes]:
    """Good files of every kind that is read, 48 x 32 pixels."""
    y, x = np.mgrid[:32, :48]
    photo = Image.fromarray(np.stack([x * 5, y * 7, 255 - x * 3 - y * 2], axis=2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    gray16 = Image.fromarray((x * y * 40).astype(np.uint16))
    return [
        saved(photo, "JPEG", exif=exif),
        saved(photo, "JPEG", progressive=True, subsampling=2),
        saved(photo.convert("CMYK"), "JPEG"),
        saved(photo.convert("L"), "JPEG"),
        saved(photo, "PNG"),
        saved(photo.quantize(16), "PNG"),
        saved(photo.convert("RGBA"), "PNG"),
        saved(gray16, "PNG"),
        saved(photo, "WEBP"),
        saved(photo, "WEBP", lossless=True),
        saved(photo, "BMP"),
        saved(photo.quantize(200), "BMP"),
        saved(photo, "TIFF"),
        saved(photo, "TIFF", compression="tiff_lzw"),
        saved(photo, "TIFF", compression="jpeg"),
        saved(gray16, "TIFF", compression="tiff_adobe_deflate"),
    ]


def mutated(data: bytes, others: list[bytes], choose: random.Random) -> bytes:
    """One to four accidents."""
    piece = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(piece) + 1)
        head = min(at, choose.randrange(80))  # headers are where it gets interesting
        match choose.randrange(9):
            case 0:
                piece[head : head + 1] = bytes([choose.randrange(256)])
            case 1:
                piece[at : at + 1] = bytes([choose.randrange(256)])
            case 2:
                del piece[at:]
            case 3:
                del piece[at : at + choose.randrange(64)]
            case 4:
                piece[at:at] = choose.randbytes(choose.randrange(64))
            case 5:
                value = choose.choice([0, 1, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 70_000])
                piece[head : head + 4] = struct.pack(choose.choice("<>") + "I", value)
            case 6:
                piece[at:] = choose.choice(others)[at:]
            case 7:
                piece += choose.choice([b"PK\x03\x04<script>alert(1)</script>", choose.choice(others), bytes(999)])
            case 8:
                piece[at : at + 32] = piece[head : head + 32]
        if choose.random() < 0.3:
            piece = bytearray(with_right_checksums(bytes(piece)))
    return bytes(piece)


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks pass their checks, whatever is in them; anything else as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        parts += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(parts)


def request(data: bytes, choose: random.Random) -> dict[str, object]:
    """A request about `data`, right or nearly so, as arguments of a client's `request`."""
    query = {"format": choose.choice(FORMATS)} if choose.random() < 0.8 else {}
    if choose.random() < 0.15:
        name = choose.choice(["format", "classes", "threshold", "size", "model", "transform", "opacity", "x"])
        query[name] = choose.choice(["", "0", "1", "red", "-1", "1e9", "nan", "9x9", "1,0,0,0,1,0", "é\0", "a" * 3000])
    headers = {"Content-Type": choose.choice(["image/png", "image/jpeg", "image/x", "image/svg+xml"])}
    body = data
    if choose.random() < 0.5:
        boundary = choose.choice([b"b", b"x" * 70, b"0'()+_,-./:=?"])
        name = choose.choice([b"image", b"file", b"image", b"other", b"", b'a"b', b"\xff"])
        disposition = b'Content-Disposition: form-data; name="' + name + b'"'
        if choose.random() < 0.9:
            disposition += b'; filename="' + choose.choice([b"a.png", b"../../x", b"", b"\0", b"\xc3\xa9" * 99]) + b'"'
        part = b"--" + boundary + b"\r\n" + disposition + b"\r\n\r\n" + data + b"\r\n"
        body = part * choose.choice([1, 1, 1, 2, 17]) + b"--" + boundary + b"--\r\n"
        if choose.random() < 0.3:
            body = mutated(body, [body], choose)
        quote = choose.choice([b'"', b""])
        content_type = b"multipart/form-data; boundary=" + quote + boundary + quote
        headers["Content-Type"] = content_type.decode("latin-1")
    if choose.random() < 0.2:
        headers["Accept"] = choose.choice(["*/*", "application/json", "image/*;q=x", "text/html", ",;,", "é".encode()])
    return {"params": query, "content": body, "headers": headers}
