"""JSON and YAML files, whose parsers have many ways to say that a text is none of theirs."""

import json
from pathlib import Path

import yaml

from qiml.data.kitti_format import read_lines
from qiml.errors import DatasetError


def read_document(path: str | Path, expected: str, mend: str) -> object:
    """The content of a JSON (by its extension) or YAML file: dicts, lists, texts, numbers.

    Args:
        path: the file.
        expected: what it should hold, for the message.
        mend: what to do where it does not, for the message.

    Raises:
        DatasetError: the file is missing, or not what its extension says.
    """
    text = "\n".join(read_lines(path, expected, mend))
    parse = json.loads if Path(path).suffix.lower() == ".json" else yaml.safe_load
    try:
        return parse(text)
    # Not their own errors alone: PyYAML lets an IndexError through for `!!int ""`, and the like; both
    # exhaust the stack where lists are nested deeply.
    except Exception as error:
        raise DatasetError(
            path, found=f"{type(error).__name__}: {error}", expected=expected, mend=mend
        ) from error
