"""The crc32 of two byte strings, one behind the other, from the crc32 of each.

A crc32 is a remainder of polynomials over GF(2): appending n bytes multiplies the remainder so far by x^(8n).
So the sum of a file comes from those of its parts, which several threads write, and nothing is read twice.
Polynomials are 32-bit integers with x^0 in the highest bit, as in zlib.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cache

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """(crc32, length in bytes) of each part, in order -> crc32 of the whole."""
    total = 0
    for crc, length in parts:
        total = _times(_shift(length), total) ^ crc
    return total


@cache
def of_zeros(length: int) -> int:
    """crc32 of so many zero bytes."""
    return zlib.crc32(bytes(length))


@cache
def _shift(length: int) -> int:
    """x^(8 length)."""
    result, square = _ONE, _ONE >> 8  # x^8
    while length:
        if length & 1:
            result = _times(square, result)
        square, length = _times(square, square), length >> 1
    return result


def _times(first: int, second: int) -> int:
    """The product, modulo the polynomial of crc32."""
    product = 0
    for bit in range(31, -1, -1):
        if first >> bit & 1:
            product ^= second
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return product
