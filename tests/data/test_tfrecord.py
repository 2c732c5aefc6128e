import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qiml.data.tfrecord import crc32c, read_records, write_records
from qiml.errors import DatasetError


def slow_crc32c(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def test_check_value():
    assert crc32c(b"123456789") == 0xE3069283


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_equals_the_definition(length, byte):
    data = bytes((byte * i + i * i) % 256 for i in range(length))
    assert crc32c(data) == slow_crc32c(data)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [bytes([number]) * (300 + number) for number in range(5)])
    return path


def test_reads_what_was_written(file):
    assert [len(record) for record in read_records(file)] == [300, 301, 302, 303, 304]
    assert [record[0] for record in read_records(file, every=3)] == [0, 3]


def test_a_record_of_tensorflow(real_data):
    (record,) = read_records(real_data / "waymo" / "pvps_data_one_frame.tfrecord")
    assert len(record) == 2168758


@pytest.mark.parametrize(
    ("cut", "message"), [(-1, "record 4"), (-250, "record 4"), (5, "record 0"), (13, "record 0")]
)
def test_truncated(file, cut, message):
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DatasetError, match=f"{message}.*truncated"):
        list(read_records(file))


@pytest.mark.parametrize(("position", "what"), [(2, "length"), (40, "data"), (313, "data")])
def test_broken_checksum(file, position, what):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=f"record 0: found .*{what}"):
        list(read_records(file))


def test_missing_and_empty(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.tfrecord"):
        list(read_records(tmp_path / "none.tfrecord"))
    (tmp_path / "empty.tfrecord").touch()
    assert list(read_records(tmp_path / "empty.tfrecord")) == []
