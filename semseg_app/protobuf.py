"""Protobuf's wire format, as far as .onnx files need it: a machine that only serves has no package onnx.

A message is a sequence of fields, each a number with a kind, then the value; see
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Kinds of values. BYTES is text, too, and a message in a message."""


class Field(NamedTuple):
    """One field of a message that lies in memory."""

    number: int
    whole: memoryview
    """The field with its head: what to copy."""
    value: memoryview
    """Its content."""


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in order; nothing is copied. ValueError where it is truncated or damaged."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        kind = key & 7
        value = place
        if kind == VARINT:
            _, place = _read_varint(message, place)
        elif kind == BYTES:
            size, value = _read_varint(message, place)
            place = value + size
        elif kind in (FIXED_32, FIXED_64):
            place += 4 if kind == FIXED_32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if place > len(message):
            raise ValueError("a field ends beyond its message")
        yield Field(key >> 3, message[start:place], message[value:place])


def number(field: int, value: int) -> bytes:
    """A field that holds a whole number, at least 0."""
    return varint(field << 3 | VARINT) + varint(value)


def text(field: int, value: str) -> bytes:
    """A field that holds text."""
    return message(field, value.encode())


def message(field: int, content: bytes) -> bytes:
    """A field that holds a message or bytes."""
    return varint(field << 3 | BYTES) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A whole number, seven bits to a byte, the lowest first."""
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number ends beyond its message")
        value |= (data[place] & 127) << shift
        place += 1
        if data[place - 1] < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")
