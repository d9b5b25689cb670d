"""Options to JSON and back, and what differs between two of them."""

import dataclasses
import json
import math
import re
from typing import Any, Literal

import pytest

from vitgan.config import MOST_LAYERS, MOST_SIZE, differences, factor, from_dict, option, parse, to_dict
from vitgan.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = option(1, least=0)
    rate: float = option(0.5, least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other:
    size: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep:
    depth: int = option(1, least=1, most=MOST_LAYERS)
    width: int = option(8, least=1, most=MOST_SIZE)
    gain: float = factor(1.0)
    flip: float = option(0.5, least=0, most=1)
    beta2: float = option(0.99, least=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    channels: Literal[1, 3] = 1
    on: bool = True
    limit: int | None = option(None, least=0)
    one: Inner = dataclasses.field(default_factory=Inner)
    either: Inner | Other = dataclasses.field(default_factory=Other)
    many: tuple[Inner | Other, ...] = ()
    deep: Deep = dataclasses.field(default_factory=Deep)


FULL = Outer(kind="b", limit=3, either=Inner(), many=(Other(), Inner(rate=2.0), Other(size=9)))


@pytest.mark.parametrize("options", [Outer(), FULL])
def test_options_come_back_from_json(options: Outer) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(options))), Outer) == options


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    value = from_dict({"type": "Inner", "size": 1, "rate": 2}, Inner)
    assert type(value.rate) is float


MISTAKES = [
    ("many[1].colour", {"colour": 1}, r"recipe.many\[1\] has no field 'colour'"),
    ("name", 3, "recipe.name is 3, but must be str"),
    ("one.size", "1", r"recipe.one.size is '1', but must be int"),
    ("one.size", 1.0, "recipe.one.size is 1.0, but must be int"),
    ("one.size", True, "recipe.one.size is True, but must be int"),
    ("one.rate", True, "recipe.one.rate is True"),
    ("one.rate", None, "recipe.one.rate is None"),
    ("on", 1, "recipe.on is 1, but must be bool"),
    ("kind", "c", "recipe.kind is 'c', but must be one of a, b"),
    ("kind", ["a"], r"recipe.kind is \['a'\]"),
    ("channels", True, "recipe.channels is True, but must be one of 1, 3"),
    ("channels", 2, "recipe.channels is 2"),
    ("limit", "3", "recipe.limit is '3'"),
    ("one", 7, "recipe.one is 7, but must be an object"),
    ("one", None, "recipe.one is None"),
    ("one.type", "Other", "recipe.one.type is 'Other', but must be one of Inner"),
    ("either.type", "Outer", "recipe.either.type is 'Outer', but must be one of Inner, Other"),
    ("either.type", ["Inner"], r"recipe.either.type is \['Inner'\]"),
    ("many", {}, "recipe.many is {}, but must be a list"),
    ("many", 1, "recipe.many is 1, but must be a list"),
]


@pytest.mark.parametrize(("place", "value", "sentence"), MISTAKES, ids=[f"{m[0]}={m[1]}" for m in MISTAKES])
def test_a_wrong_value_is_refused_by_its_place(place: str, value: Any, sentence: str) -> None:
    whole = to_dict(FULL)
    if place == "many[1].colour":
        whole["many"][1] |= value
    else:
        *parents, last = place.split(".")
        part = whole
        for parent in parents:
            part = part[parent]
        part[last] = value
    with pytest.raises(UserError, match=sentence):
        from_dict(whole, Outer)


RANGES = [
    ("one.rate", math.nan, "--one.rate must be at least 0, and finite, not nan"),
    ("one.rate", math.inf, "--one.rate must be at least 0, and finite, not inf"),
    ("one.rate", 10**400, "--one.rate must be at most 9223372036854775807, not 1000"),
    ("one.size", -1, "--one.size must be at least 0"),
    ("limit", 2**63, "--limit must be at most 9223372036854775807"),
    ("deep.depth", 0, "--deep.depth must be at least 1"),
    ("deep.depth", 10**30, "--deep.depth must be at most 1000"),
    ("deep.width", 2**16 + 1, "--deep.width must be at most 65536"),
    ("deep.gain", 0.0, "--deep.gain must be greater than 0"),
    ("deep.gain", 1e-320, "--deep.gain must be from 1e-06 to 1e.06"),
    ("deep.flip", 1.5, "--deep.flip must be at most 1"),
    ("deep.beta2", 1.0, "--deep.beta2 must be below 1"),
]


@pytest.mark.parametrize(
    ("place", "value", "sentence"), RANGES, ids=[f"{r[0]} {n}" for n, r in enumerate(RANGES)]
)
def test_a_number_out_of_range_is_refused_by_its_flag(place: str, value: Any, sentence: str) -> None:
    whole = to_dict(FULL)
    *parents, last = place.split(".")
    part = whole
    for parent in parents:
        part = part[parent]
    part[last] = value
    with pytest.raises(UserError, match=sentence):
        from_dict(whole, Outer)


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), 10**5000], ids=["text", "list", "number"])
def test_what_is_very_long_is_not_said_whole(value: Any) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(to_dict(FULL) | {"on": value}, Outer)
    assert len(str(caught.value)) < 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grown:
    """Options that were written before `slope` and `kind` were fields of theirs."""

    size: int
    slope: float = option(0.2, least=0)
    kind: Literal["a", "b"] = "a"


def test_a_field_that_is_missing_has_its_default() -> None:
    assert from_dict({"type": "Grown", "size": 3}, Grown) == Grown(size=3, slope=0.2, kind="a")


@pytest.mark.parametrize("field", ["size", "type"])
def test_a_missing_field_without_a_default_is_refused(field: str) -> None:
    whole = to_dict(Grown(size=3))
    del whole[field]
    with pytest.raises(UserError, match=field):
        from_dict(whole, Grown)


@pytest.mark.parametrize(
    ("word", "annotation", "value"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("none", int | None, None),
        ("None", str | None, None),
        ("4", int | None, 4),
        ("true", bool, True),
        ("b", Literal["a", "b"], "b"),
        ("3", Literal[1, 3], 3),
        ("2,1,1", tuple[int, ...], (2, 1, 1)),
    ],
)
def test_a_word_is_read_by_its_annotation(word: str, annotation: Any, value: Any) -> None:
    found = parse(word, annotation, "part.field")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "annotation", "sentence"),
    [
        ("x", int, "--part.field must be a whole number, not 'x'"),
        ("1.5", int | None, "--part.field must be None or a whole number, not '1.5'"),
        ("c", Literal["a", "b"], "--part.field must be one of a, b, not 'c'"),
        ("maybe", bool, "--part.field must be True or False, not 'maybe'"),
    ],
)
def test_a_word_that_is_no_value_is_refused_by_its_flag(word: str, annotation: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        parse(word, annotation, "part.field")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UserError, match=r"recipe has no field 'speling'; Outer has .*name"):
        from_dict(to_dict(FULL) | {"speling": 1}, Outer)


@pytest.mark.parametrize("value", [None, [], "digits", 3])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match="must be an object"):
        from_dict(value, Outer)


def test_differences_name_each_leaf() -> None:
    other = dataclasses.replace(FULL, name="y", one=Inner(size=5))
    assert differences(to_dict(FULL), to_dict(other)) == ["name: x -> y", "one.size: 1 -> 5"]
    assert differences(to_dict(FULL), to_dict(FULL)) == []


def test_differences_of_lists_name_what_came_and_went() -> None:
    more = dataclasses.replace(FULL, many=(*FULL.many, Inner()))
    assert differences(to_dict(FULL), to_dict(more)) == ["many[3]: None -> Inner"]
    assert differences(to_dict(more), to_dict(FULL)) == ["many[3]: Inner -> None"]


def test_differences_of_classes_name_the_type() -> None:
    lines = differences(to_dict(Outer(either=Inner())), to_dict(Outer(either=Other())))
    assert lines[0] == "either.type: Inner -> Other"
