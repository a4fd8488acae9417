"""What a Parquet file unpacks to, told by its pages. Floor 1.

The footer of a Parquet file says how large everything becomes, but nothing makes it true: readers
go by the header of each page, and make room for what it says. So these are read here before
anything is unpacked, and so is the footer: where that is damaged, PyArrow's own access to it can
end the process. Both are Thrift's compact protocol (parquet-format, ``parquet.thrift``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from liquidations.errors import LiquidationsError


#: Bytes of a footer, of a page unpacked, and pages of a file, at most. A file of ten million rows
#: has some 6,000 pages of 1 MB at most.
MOST_FOOTER, MOST_PAGE, MOST_PAGES = 2**23, 2**26, 100_000

# Types of the protocol.
_FLAGS, _BYTE, _INT16, _INT32, _INT64 = (1, 2), 3, 4, 5, 6
_DOUBLE, _BINARY, _LISTS, _STRUCT = 7, 8, (9, 10), 12
#: What is passed over may be nested so deeply.
_DEPTH = 8

# Fields: of FileMetaData and RowGroup; of ColumnChunk; of ColumnMetaData; of PageHeader.
_GROUPS, _CHUNKS = 4, 1
_ABOUT = 3
_VALUES, _PACKED, _START, _DICTIONARY = 5, 7, 9, 11
_PAGE_UNPACKED, _PAGE_PACKED = 2, 3


class Pages(NamedTuple):
    """Say how many pages there are, and what they unpack to (bytes), all and the largest."""

    number: int
    total: int
    largest: int


def footer_size(data: bytes) -> int:
    """Return how long the footer of a file claims to be, in bytes."""
    return int.from_bytes(data[-8:-4], "little")


def measure(data: bytes) -> Pages:
    """Measure all pages of a file that begins and ends as Parquet does.

    :raises LiquidationsError: if there are more than ``MOST_PAGES``.
    :raises ValueError: if the footer or a header can't be read, or a page is not within the file.
    """
    number = total = largest = 0
    end_of_pages = len(data) - 8 - footer_size(data)
    try:
        for start, size in _columns(_Thrift(data, end_of_pages)):
            at, end = start, start + size
            if not 0 < at <= end <= end_of_pages:
                raise ValueError("a column is not within the file")
            while at < end:
                header = _Thrift(data, at)
                found = header.numbers(_INT32)
                unpacked, packed = found[_PAGE_UNPACKED], found[_PAGE_PACKED]
                at = header.at + packed
                if at > end or unpacked < 0 or packed < 0:
                    raise ValueError("a page is not within its column")
                number, total, largest = number + 1, total + unpacked, max(largest, unpacked)
                if number > MOST_PAGES:
                    raise LiquidationsError(
                        f"it has more than {MOST_PAGES:,} pages; write it with fewer row groups"
                    )
    except (IndexError, KeyError) as error:
        raise ValueError("a header can't be read") from error
    return Pages(number, total, largest)


def _columns(footer: _Thrift) -> Iterator[tuple[int, int]]:
    """List where the columns that hold something begin, and their bytes in the file."""
    for _ in footer.structs(_GROUPS):
        for _ in footer.structs(_CHUNKS):
            about: dict[int, int] = {}
            for field, kind in footer.fields():
                if (field, kind) == (_ABOUT, _STRUCT):
                    about |= footer.numbers(_INT64)
                else:
                    footer.skip(kind)
            # As readers do: there is a dictionary if it stands before the data.
            start, dictionary = about[_START], about.get(_DICTIONARY, 0)
            if about[_VALUES] > 0:  # of others nothing is read
                yield dictionary if 0 < dictionary < start else start, about[_PACKED]


class _Thrift:
    """Read the compact protocol from a place on; ``at`` is the next byte."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def fields(self) -> Iterator[tuple[int, int]]:
        """List the fields of a struct and their types; the value must be read after each."""
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._whole()
            yield field, head & 15

    def structs(self, field: int) -> Iterator[None]:
        """Go through the structs of a list that is a field of this struct; each must be read."""
        for one, kind in self.fields():
            if one != field or kind not in _LISTS:
                self.skip(kind)
                continue
            for inner in self._items():
                if inner != _STRUCT:
                    raise ValueError("a list holds something else")
                yield

    def numbers(self, wanted: int) -> dict[int, int]:
        """Read the first fields of a struct that are numbers of a type; pass over the others."""
        found = {}
        for field, kind in self.fields():
            if kind == wanted and field < 16:
                found[field] = self._whole()
            else:
                self.skip(kind)
        return found

    def skip(self, kind: int, depth: int = _DEPTH) -> None:
        """Pass over the value of a field."""
        if kind in (_INT16, _INT32, _INT64):
            self._whole()
        elif kind == _BINARY:
            size = self._unsigned()
            self.at += size
        elif kind == _BYTE:
            self.at += 1
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _STRUCT and depth:
            for _, inner in self.fields():
                self.skip(inner, depth - 1)
        elif kind in _LISTS and depth:
            for inner in self._items():
                # In a list a flag has a byte of its own, else it is its type.
                self.skip(_BYTE if inner in _FLAGS else inner, depth - 1)
        elif kind not in _FLAGS:
            raise ValueError("a field is of an unknown type, or nested too deeply")

    def _items(self) -> Iterator[int]:
        head = self._byte()
        size = head >> 4
        for _ in range(self._unsigned() if size == 15 else size):
            yield head & 15

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _unsigned(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a number is too long")

    def _whole(self) -> int:
        """Read a number in zigzag: 0, -1, 1, -2 and so on."""
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
