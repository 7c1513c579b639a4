"""Compares JSON with an expected shape.

A shape is JSON: an object names the fields that must be there (more may be), a list of one shape means that every item has it, and a
word names a type. `integer` is strict, because Go decoders refuse `3.0` where they want an integer.
"""

import json
from pathlib import Path

EXPECTED = Path(__file__).resolve().parent / "expected"


def is_of(value, word):
    if word == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if word == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if word == "string":
        return isinstance(value, str)
    raise ValueError(f"no such type: {word}")


def differences(value, shape, path="$"):
    """What in `value` is not as `shape` says."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{path}: object expected, got {value!r}"]
        found = []
        for key, inner in shape.items():
            if key in value:
                found += differences(value[key], inner, f"{path}.{key}")
            else:
                found.append(f"{path}.{key}: missing")
        return found
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{path}: list expected, got {value!r}"]
        return [d for n, item in enumerate(value) for d in differences(item, shape[0], f"{path}[{n}]")]
    return [] if is_of(value, shape) else [f"{path}: {shape} expected, got {value!r}"]


def check(value, name):
    """Fails unless `value` has the shape in `expected/<name>.json`."""
    found = differences(value, json.loads((EXPECTED / f"{name}.json").read_text()))
    assert not found, "\n".join(found)
