"""TFRecord files without TensorFlow: framing and checksums.

Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details; checksums are
CRC-32C (Castagnoli), masked.
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qiml.errors import DatasetError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_LANE = 256  # bytes a lane of the checksum takes
_MEND = "fetch the file again: it is damaged or incomplete"


def read_records(path: str | Path, every: int = 1) -> Iterator[bytes]:
    """The records of a file, one in memory at a time.

    Args:
        path: local file.
        every: yield records 0, every, 2·every, …; of the others only the length is checked.

    Raises:
        DatasetError: the file does not read, a truncated record or a wrong checksum; names the record.
    """
    try:
        with open(path, "rb") as file:
            yield from _records(file, path, every)
    except OSError as error:
        raise DatasetError(
            path, found=str(error), expected="a TFRecord file", mend="check the path and the disk"
        ) from error


def _records(file: BinaryIO, path: str | Path, every: int) -> Iterator[bytes]:
    size = Path(path).stat().st_size
    number = 0
    while header := file.read(12):
        where = f"{path}, record {number}"
        length = _length(header, where)
        if file.tell() + length + 4 > size:
            raise _damaged(where, f"{size - file.tell()} bytes", f"{length + 4}: it is truncated")
        if number % every:
            file.seek(length + 4, 1)
        else:
            data, checksum = file.read(length), file.read(4)
            if _masked(crc32c(data)) != struct.unpack("<I", checksum)[0]:
                raise _damaged(where, "data that do not fit their checksum", "intact data")
            yield data
        number += 1


def _length(header: bytes, where: str) -> int:
    if len(header) < 12:
        raise _damaged(where, f"{len(header)} bytes", "12: it is truncated")
    length, checksum = struct.unpack("<QI", header)
    if _masked(crc32c(header[:8])) != checksum:
        raise _damaged(where, "a length that does not fit its checksum", "a TFRecord file")
    return length


def _damaged(where: str, found: str, expected: str) -> DatasetError:
    return DatasetError(where, found=found, expected=expected, mend=_MEND)


def write_records(path: str | Path, records: Iterator[bytes] | list[bytes]) -> None:
    """Write a file that :func:`read_records` and TensorFlow read."""
    with open(path, "wb") as file:
        for data in records:
            length = struct.pack("<Q", len(data))
            for part in (length, data):
                file.write(part)
                file.write(struct.pack("<I", _masked(crc32c(part))))


def _masked(checksum: int) -> int:
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C, as fast as NumPy makes it: many stretches of the data at once, joined in pairs.

    A checksum that starts from zero is linear in the bits, and zeros in front leave it zero. So the
    checksum of two stretches is that of the first, followed by as many zeros as the second has bytes,
    XOR that of the second.
    """
    values = np.frombuffer(data, dtype=np.uint8)
    lanes = max(-(-len(values) // _LANE), 1)
    padded = np.zeros(lanes * _LANE, dtype=np.uint8)
    if len(values):
        padded[-len(values) :] = values
    # The usual start, all ones, is the same as inverting the first four bytes.
    first = slice(len(padded) - len(values), len(padded) - len(values) + 4)
    padded[first] ^= 0xFF
    state, low = np.zeros(lanes, dtype=np.uint32), np.empty(lanes, dtype=np.uint32)
    table = _pair_table()
    # Two bytes of every lane at a time, in place.
    for column in np.ascontiguousarray(padded.view("<u2").reshape(lanes, _LANE // 2).T):
        np.bitwise_xor(state, column, out=low)
        np.bitwise_and(low, 0xFFFF, out=low)
        np.right_shift(state, 16, out=state)
        np.bitwise_xor(state, table.take(low), out=state)
    shift = _LANE.bit_length() - 1
    while len(state) > 1:
        if len(state) % 2:
            state = np.insert(state, 0, 0)
        state = _apply(_zeros(shift), state[0::2]) ^ state[1::2]
        shift += 1
    checksum = int(state[0])
    for missing in range(4 - len(values)):
        # Fewer than four bytes: the start's remaining ones, shifted out of the register.
        checksum ^= 0xFF << 8 * (3 - len(values) - missing)
    return checksum ^ 0xFFFFFFFF


@cache
def _byte_table() -> np.ndarray:
    """(256,) the checksum of each byte."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ _POLYNOMIAL, values >> 1).astype(np.uint32)
    return values


@cache
def _pair_table() -> np.ndarray:
    """(65536,) the checksum of each two bytes, the first in the low half."""
    values = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        values = _byte_table()[values & 0xFF] ^ (values >> 8)
    return values


@cache
def _zeros(power: int) -> np.ndarray:
    """(4, 256) what 2^power zero bytes make of each byte of a checksum."""
    if power == 0:
        byte = np.arange(256, dtype=np.uint32)
        return np.stack([_byte_table(), byte, byte << 8, byte << 16])
    half = _zeros(power - 1)
    return np.stack([_apply(half, row) for row in half])


def _apply(tables: np.ndarray, state: np.ndarray) -> np.ndarray:
    parts = (tables[i][(state >> 8 * i) & 0xFF] for i in range(4))
    return next(parts) ^ next(parts) ^ next(parts) ^ next(parts)
