"""Hypothesis strategies that damage texts, bytes and documents as people, disks and programs do."""

import copy
import datetime

from hypothesis import strategies as st

WORDS = (
    "", "nan", "inf", "-inf", "1e999", "-1", "0", "-0.0", "1e308", "1e-320", "1_0", "0x10", "٣", "None",
    "true", "é", "a", "Car", "DontCare", "P2:", "..", "../a", "/", "\x00", "\x1b[31m", "\u00a0", "\u2028",
    "\ufeff", "\x0b", "\x0c", "\x85", "\t", "\r", "\n", "1 2", "%s", "{}", "a" * 300, "9" * 5000, "[" * 3000,
)  # fmt: skip
VALUES = (
    None, True, 0, -1, 1.5, 10**30, 10**400, float("nan"), float("inf"), "", "a", "nan", "\x00", "é" * 50, [],
    {}, [None], [[]], ["a"], {"a": 1}, {"": []}, [1e308] * 20, [[0.0] * 4] * 3, datetime.date(2020, 1, 1),
)  # fmt: skip


@st.composite
def damaged_text(draw, text: str) -> bytes:
    """A text file with one to three mistakes in it."""
    for _ in range(draw(st.integers(1, 3))):
        text = draw(st.sampled_from(_TEXT_DAMAGES))(draw, text)
    data = text.encode("utf-8", errors="surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        data = draw(damaged_bytes(data))
    return data


def _change_word(draw, text: str) -> str:
    lines = text.split("\n")
    row = draw(st.integers(0, len(lines) - 1))
    words = lines[row].split(" ")
    words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(WORDS))
    lines[row] = " ".join(words)
    return "\n".join(lines)


def _drop_word(draw, text: str) -> str:
    words = text.split(" ")
    del words[draw(st.integers(0, len(words) - 1))]
    return " ".join(words)


def _repeat_or_drop_line(draw, text: str) -> str:
    lines = text.split("\n")
    row = draw(st.integers(0, len(lines) - 1))
    lines[row : row + 1] = [lines[row]] * draw(st.sampled_from((0, 2, 3)))
    return "\n".join(lines)


def _insert(draw, text: str) -> str:
    position = draw(st.integers(0, len(text)))
    return text[:position] + draw(st.sampled_from(WORDS) | st.text(max_size=3)) + text[position:]


def _cut(draw, text: str) -> str:
    return text[: draw(st.integers(0, len(text)))]


def _newlines(draw, text: str) -> str:
    return text.replace(
        "\n", draw(st.sampled_from(("\r\n", "\r", "\n\n", "", " ", "\x0c", "\u2028")))
    )


_TEXT_DAMAGES = (
    _change_word,
    _change_word,
    _drop_word,
    _repeat_or_drop_line,
    _insert,
    _cut,
    _newlines,
)


@st.composite
def damaged_bytes(draw, data: bytes) -> bytes:
    """A file with one to three places that a disk, a transfer or a crash damaged."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        end = min(start + draw(st.sampled_from((1, 4, 100, 10_000))), len(data))
        kind = draw(st.sampled_from(("bit", "bit", "cut", "zeros", "drop", "repeat", "insert")))
        if kind == "bit" and data:
            flipped = data[start] ^ 1 << draw(st.integers(0, 7))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif kind == "cut":
            data = data[:start]
        elif kind == "zeros":
            data = data[:start] + bytes(end - start) + data[end:]
        elif kind == "drop":
            data = data[:start] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[start:end] + data[end:]
        elif kind == "insert":
            data = data[:start] + draw(st.binary(min_size=1, max_size=8)) + data[start:]
    return data


@st.composite
def damaged_document(draw, document: object, values: tuple = VALUES) -> object:
    """Nested dicts and lists with one or two values replaced, removed, repeated or renamed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(document))
        if not places:
            return draw(st.sampled_from(values))
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "rename")))
        if kind == "replace":
            parent[key] = copy.deepcopy(draw(st.sampled_from(values)))
        elif kind == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == "add":
            parent["another"] = copy.deepcopy(parent[key])
        else:
            parent[f"{key}x"] = parent.pop(key)
    return document


def _places(node: object):
    """(container, key) of everything in a document."""
    if isinstance(node, dict | list):
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            yield node, key
            yield from _places(value)
