"""Finds the bytes of a SQLite file that hold nothing: what was deleted or overwritten may still stand there.

SQLite does not overwrite all of it, not even with ``secure_delete``: what it moves from one page to another stays
behind in the first. The layout is that of https://sqlite.org/fileformat2.html. Of a page that looks otherwise nothing
is touched.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

Range = tuple[int, int]
"""Bytes of a page: the first, and the one after the last."""

_FILE_HEADER = struct.Struct(">16xH2xB7xI II 12xI")
"""Size of a page, reserved bytes in it, pages, first trunk of the list of free pages, their number, and a number that
is not 0 if the file has maps of pointers."""
_FILE_HEADER_SIZE = 100
_TREE_HEADER = struct.Struct(">BHHHB")
"""Kind, first free block, cells, start of their content, bytes between them that are too few for a block."""
_BLOCK = struct.Struct(">HH")
_TRUNK = struct.Struct(">II")
_POINTER = struct.Struct(">BI")
_PAGE = struct.Struct(">I")

_INNER_INDEX, _INNER_TABLE, _LEAF_INDEX, _LEAF_TABLE = 2, 5, 10, 13
_TREE_KINDS = {_INNER_INDEX, _INNER_TABLE, _LEAF_INDEX, _LEAF_TABLE}

_ROOT, _FREE, _FIRST_OVERFLOW, _NEXT_OVERFLOW, _TREE = 1, 2, 3, 4, 5
"""What a map of pointers says of a page."""

_LOCKS_AT = 1 << 30
"""The page here is for locks, and holds nothing."""


class NotUnderstood(Exception):
    """A page is not as SQLite writes it."""


class Payload(NamedTuple):
    """What a cell says of its content."""

    size: int
    local: int
    """Bytes of it in the page. The others are in a chain of further pages."""
    chain: int
    """The first of those. 0 if there is none."""


class Pages:
    """The pages of a file that nobody changes meanwhile."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        """``read`` returns so many bytes from an offset."""
        self._read = read
        self.count: int
        self.size: int
        self.usable: int
        size, reserved, self.count, trunk, _, has_maps = _FILE_HEADER.unpack_from(read(0, _FILE_HEADER_SIZE))
        self.size = 65_536 if size == 1 else size
        self.usable = self.size - reserved
        if not has_maps or self.size < 512:
            raise NotUnderstood("the file has no maps of pointers")
        self._maps: dict[int, bytes] = {}
        self._trunks = dict(self._free_list(trunk))

    def page(self, number: int) -> bytes:
        """The content of a page."""
        return self._read((number - 1) * self.size, self.size)

    def _free_list(self, trunk: int) -> Iterator[tuple[int, int]]:
        """The trunks of the list of free pages, and how many pages each names."""
        for _ in range(self.count):
            if not trunk:
                return
            if trunk > self.count:
                break
            following, named = _TRUNK.unpack(self._read((trunk - 1) * self.size, _TRUNK.size))
            yield trunk, named
            trunk = following
        raise NotUnderstood("the list of free pages does not end")

    def _map_of(self, number: int) -> int:
        """The page that says what this one is."""
        mapped = self.usable // 5 + 1
        found = (number - 2) // mapped * mapped + 2
        return found + 1 if found == _LOCKS_AT // self.size + 1 else found

    def _pointer(self, number: int) -> tuple[int, int]:
        """What a page is, and to which it belongs."""
        map_page = self._map_of(number)
        if map_page not in self._maps:
            self._maps[map_page] = self.page(map_page)
        kind, parent = _POINTER.unpack_from(self._maps[map_page], (number - map_page - 1) * _POINTER.size)
        return kind, parent

    def unused(self, number: int, content: bytes) -> list[Range]:
        """The bytes of a page that hold nothing.

        Raises:
            NotUnderstood: the page is not as SQLite writes it.
        """
        if number == 1:
            return self._unused_in_tree(content, _FILE_HEADER_SIZE)
        if number == _LOCKS_AT // self.size + 1 or self._map_of(number) == number:
            return []
        kind, _ = self._pointer(number)
        if kind == _FREE:
            return self._unused_in_free(number)
        if kind in (_ROOT, _TREE):
            return self._unused_in_tree(content, 0)
        if kind in (_FIRST_OVERFLOW, _NEXT_OVERFLOW):
            (following,) = _PAGE.unpack_from(content)
            return [] if following else [(_PAGE.size + self._used_in_last(number), self.usable)]
        raise NotUnderstood(f"page {number} is of kind {kind}")

    def _unused_in_free(self, number: int) -> list[Range]:
        named = self._trunks.get(number)
        used = 0 if named is None else _TRUNK.size + named * _PAGE.size
        if used > self.usable:
            raise NotUnderstood(f"page {number} names {named} free pages")
        return [(used, self.usable)]

    def _unused_in_tree(self, content: bytes, start: int) -> list[Range]:
        kind, block, cells, first, between = _TREE_HEADER.unpack_from(content, start)
        first = first or 65_536
        end = start + (8 if kind in (_LEAF_INDEX, _LEAF_TABLE) else 12) + 2 * cells
        if kind not in _TREE_KINDS or not end <= first <= self.usable:
            raise NotUnderstood("the header of a page of a tree is wrong")
        ranges = [(end, first)]
        blocks: list[Range] = []
        while block:
            following, size = _BLOCK.unpack_from(content, block)
            if size < _BLOCK.size or block < first or block + size > self.usable or 0 < following < block + size:
                raise NotUnderstood("a free block is wrong")
            blocks.append((block, block + size))
            ranges.append((block + _BLOCK.size, block + size))
            block = following
        if between:
            ranges += self._between(content, start, first, blocks, between)
        return ranges

    def _between(self, content: bytes, start: int, first: int, blocks: list[Range], count: int) -> list[Range]:
        """The ``count`` bytes that belong to no cell and no block."""
        taken = sorted([*blocks, *((at, at + size) for at, size, _ in self._cells(content, start))])
        holes = [(end, begin) for (_, end), (begin, _) in pairwise([(first, first), *taken, (self.usable,) * 2])]
        if sum(end - begin for begin, end in holes) != count or any(begin > end for begin, end in holes):
            raise NotUnderstood("the cells of a page do not fill it")
        return holes

    def _cells(self, content: bytes, start: int) -> Iterator[tuple[int, int, Payload | None]]:
        """Where each cell begins, its size, and what it says of its content."""
        kind, _, cells, _, _ = _TREE_HEADER.unpack_from(content, start)
        table = start + (8 if kind in (_LEAF_INDEX, _LEAF_TABLE) else 12)
        for (at,) in struct.iter_unpack(">H", content[table : table + 2 * cells]):
            position = at + 4 if kind in (_INNER_INDEX, _INNER_TABLE) else at
            if kind == _INNER_TABLE:
                yield at, _varint(content, position)[1] - at, None
                continue
            size, position = _varint(content, position)
            if kind == _LEAF_TABLE:
                _, position = _varint(content, position)
            local = self._local(size, is_table=kind == _LEAF_TABLE)
            end = position + local
            chain = 0 if local == size else _PAGE.unpack_from(content, end)[0]
            yield at, max(4, end - at + (4 if chain else 0)), Payload(size, local, chain)

    def _local(self, size: int, *, is_table: bool) -> int:
        """How much of a content of this size is in the page of its cell."""
        usable = self.usable
        most = usable - 35 if is_table else (usable - 12) * 64 // 255 - 23
        if size <= most:
            return size
        least = (usable - 12) * 32 // 255 - 23
        wanted = least + (size - least) % (usable - 4)
        return wanted if wanted <= most else least

    def _used_in_last(self, number: int) -> int:
        """How many bytes of content the last page of a chain has."""
        pages = 1
        kind, parent = self._pointer(number)
        while kind == _NEXT_OVERFLOW and pages <= self.count:
            number, pages = parent, pages + 1
            kind, parent = self._pointer(number)
        if kind != _FIRST_OVERFLOW or not 0 < parent <= self.count:
            raise NotUnderstood(f"page {number} begins no chain")
        start = _FILE_HEADER_SIZE if parent == 1 else 0
        for _, _, payload in self._cells(self.page(parent), start):
            if payload is not None and payload.chain == number:
                used = payload.size - payload.local - (pages - 1) * (self.usable - 4)
                if 0 < used <= self.usable - 4:
                    return used
        raise NotUnderstood(f"no cell of page {parent} has the chain of page {number}")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of up to nine bytes, and where it ends."""
    value = 0
    for _ in range(8):
        byte = content[position]
        position += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position
    return value << 8 | content[position], position + 1
