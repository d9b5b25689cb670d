"""The schema of a checkpoint's description: its fields and types, checked before anything else uses them."""

import math
import re
from collections.abc import Callable
from typing import Any

FORMAT, MOST_FORMAT = 2, 10**6
"""Number of the format of all that a run writes, and the largest number that is read as one.

Format 2: parts name their module, fields may be missing, loggers are parts.
"""
MOST_IMAGES, MOST_CLASSES = 2**62, 2**31
Test = Callable[[Any], bool]


def whole_number(least: int, most: int = MOST_IMAGES) -> Test:
    """A test whether a value is an integer from `least` to `most`."""
    return lambda value: type(value) is int and least <= value <= most


def number(value: Any) -> bool:
    """Whether `value` is a number; NaN and infinity, which a measurement may give, are numbers too."""
    return type(value) in (int, float)


def text(value: Any) -> bool:
    """Whether `value` is a string."""
    return isinstance(value, str)


def each(test: Test) -> Test:
    """A test whether a value is a list whose items all pass `test`."""
    return lambda value: isinstance(value, list) and all(map(test, value))


def every(test: Test) -> Test:
    """A test whether a value is a JSON object whose values all pass `test`."""
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def fields(**tests: Test) -> Test:
    """A test whether a value is a JSON object that has all these fields, each of which passes its test."""
    return lambda value: (
        isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())
    )


def known(**tests: Test) -> Test:
    """A test whether a value is a JSON object in which each of these fields passes, where it is present."""
    return lambda value: (
        isinstance(value, dict) and all(test(value[name]) for name, test in tests.items() if name in value)
    )


def both(first: Test, second: Test) -> Test:
    """A test whether a value passes both tests."""
    return lambda value: first(value) and second(value)


def pair(value: Any) -> bool:
    """Whether `value` is a list of two strings."""
    return each(text)(value) and len(value) == 2


REQUIRED: dict[str, Test] = {
    "images": whole_number(0),
    "seconds": lambda value: number(value) and 0 <= value < math.inf,
    "sha256": lambda value: text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None,
    "recipe": fields(type=text),
    "classes": whole_number(0, MOST_CLASSES),
    "data": both(
        fields(fingerprint=text, images=whole_number(0)),
        known(labels=text, block_parts=whole_number(1), blocks=each(pair)),
    ),
}
OPTIONAL: dict[str, Test] = {
    "rollbacks": whole_number(0, 2**31),
    "environment": every(text),
    "class_names": each(text),
    "held_out": fields(images=whole_number(0), accuracy=number),
    "image_shape": each(whole_number(1)),
    "license": text,
    "evaluation": fields(protocol=fields(key=text), metrics=every(number)),
}


def wrong_field(body: dict[str, Any]) -> str | None:
    """The first field of `body` that is missing or not of its type; None where all are right."""
    for name, test in REQUIRED.items():
        if name not in body or not test(body[name]):
            return name
    for name, test in OPTIONAL.items():
        if name in body and not test(body[name]):
            return name
    if body["recipe"]["type"] == "ClassifierRecipe":
        for name in ("class_names", "held_out"):
            if name not in body:
                return name
    if "class_names" in body and len(body["class_names"]) != body["classes"]:
        return "class_names"
    return None
