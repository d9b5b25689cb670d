"""Inputs for parsers: arbitrary JSON, mutations of JSON that is right, and damaged bytes."""

import json
from typing import Any

from hypothesis import strategies as st

HUGE = (2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, -1, -(2**63), *HUGE, 0.0, -0.0, 1e-320, 1e308, 5e-324, 0.5]),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
WORDS = [
    "",
    "type",
    "Recipe",
    "SirenRecipe",
    "None",
    "../../x",
    "/etc/passwd",
    "\x00",
    "é",
    "\ud800",
    "1e999",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.just("x" * 5000),
)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


JSON = st.recursive(
    st.one_of(LEAVES, st.sampled_from([40, 60, 200]).map(_nested)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), inner, max_size=4),
    ),
    max_leaves=12,
)
# Text that is JSON in part, or none: also what json.dumps never writes.
TEXTS = st.one_of(
    st.sampled_from(
        [
            b"",
            b"{",
            b"[" * 100_000,
            b'{"a":' * 5000,
            b"\xff\xfe{\x00}\x00",
            b"\xef\xbb\xbf{}",
            b'{"a": 1, "a": 2}',
            b"NaN",
            b"1" * 5000,
            b'"\\ud800"',
            b"\xed\xa0\x80",
            b"null",
            b"[1,]",
            b"-",
            b'{"type": "Recipe"} x',
        ]
    ),
    st.binary(max_size=64),
    JSON.map(lambda value: json.dumps(value).encode()),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of `value`, itself among them."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """`value`, changed in place at one part of it."""
    path = draw(st.sampled_from(places(value)))
    if not path:
        return draw(st.one_of(st.just(value), JSON))
    parent, key = _at(value, path[:-1]), path[-1]
    match draw(st.sampled_from(["replace", "replace", "remove", "add", "copy"])):
        case "replace":
            parent[key] = draw(st.one_of(NUMBERS, LEAVES, JSON))
        case "remove":
            del parent[key]
        case "add" if isinstance(parent, dict):
            parent[draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)))] = draw(JSON)
        case "add":
            parent.append(draw(JSON))
        case "copy":
            parent[key] = json.loads(json.dumps(_at(value, draw(st.sampled_from(places(value))))))
    return value


@st.composite
def mutated(draw: st.DrawFn, values: list[Any]) -> Any:
    """One of `values`, which JSON can hold, with up to three of its parts changed."""
    value = json.loads(json.dumps(draw(st.sampled_from(values))))
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of `contents`, cut, with bits flipped, or with bytes put in."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["cut", "flip", "insert", "repeat"])):
            case "cut":
                del content[at:]
            case "flip" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                content[at:at] = content[at : at + draw(st.integers(0, 40))]
    return bytes(content)


def texts(values: list[Any]) -> st.SearchStrategy[bytes]:
    """JSON texts: mutations of `values`, damaged ones of them, and arbitrary ones."""
    contents = [json.dumps(value, indent=1).encode() for value in values]
    return st.one_of(mutated(values).map(lambda value: json.dumps(value).encode()), damaged(contents), TEXTS)


def refused_in_one_sentence(error: ValueError) -> None:
    said = str(error)
    assert said
    assert len(said) < 2000
    assert len(said.splitlines()) == 1
