"""What children print: whole lines, bounded, never blocking us."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from paceline.supervisor.output import LAST_LINES, LINE_BYTES_MAX, Forwarder, Output


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def test_lines_are_whole(pipe: tuple[int, int]) -> None:
    output = Output(pipe[0])
    os.write(pipe[1], b"one\ntw")
    assert output.read() == ["one"]
    assert output.read() == []
    os.write(pipe[1], b"o\r\nthree")
    assert output.read() == ["two"]
    assert output.read_rest() == ["three"]


def test_end_of_file_closes_and_gives_the_rest(pipe: tuple[int, int]) -> None:
    output = Output(pipe[0])
    os.write(pipe[1], b"last words")
    os.close(pipe[1])
    assert output.read() == []
    assert output.read() == ["last words"]
    assert not output.open


def test_last_lines_are_kept_and_bounded(pipe: tuple[int, int]) -> None:
    output = Output(pipe[0])
    os.write(pipe[1], b"".join(b"line %d\n" % number for number in range(100)))
    output.read()
    assert list(output.last_lines) == [f"line {number}" for number in range(100 - LAST_LINES, 100)]


def test_endless_line_is_cut(pipe: tuple[int, int]) -> None:
    output = Output(pipe[0])
    os.write(pipe[1], b"x" * 10_000)
    lines = output.read()
    assert lines == ["x" * LINE_BYTES_MAX]


def test_bytes_that_are_not_text_pass(pipe: tuple[int, int]) -> None:
    output = Output(pipe[0])
    os.write(pipe[1], b"\xff\xfe\n")
    assert output.read() == ["\ufffd\ufffd"]


def test_full_pipe_drops_lines_and_says_how_many(pipe: tuple[int, int]) -> None:
    forwarder = Forwarder(pipe[1])
    os.set_blocking(pipe[0], False)
    for _ in range(100):
        forwarder.pass_on("net/0", ["x" * 2000])
    data = os.read(pipe[0], 1_000_000)
    assert re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[net/0\] xxx", data)
    forwarder.pass_on("net/0", ["after"])
    text = os.read(pipe[0], 1_000_000)
    assert b"lines were dropped" in text
    assert text.endswith(b"[net/0] after\n")
