"""The clause that says how two sets of images differ."""

import json

import numpy as np
import pytest

from vitgan.data.dataset import MOST_BLOCKS, Identity, difference, identify

CLASSES = ["a", "b"]


def identity(names: list[str], labels: list[int] | None = None) -> Identity:
    found = None if labels is None else np.array(labels)
    return identify([len(names)], found, CLASSES, (name.encode() for name in names))


def said(before: list[str], after: list[str], labels: tuple[list[int], list[int]] | None = None) -> str:
    then, now = labels or (None, None)
    facts = json.loads(json.dumps({"images": len(before), **identity(before, then).facts()}))
    return difference(facts, identity(after, now), len(after))


@pytest.mark.parametrize("count", [1, MOST_BLOCKS - 1, MOST_BLOCKS, 100, 1000])
def test_the_first_that_differs_is_found(count: int) -> None:
    names = [f"{number:04}.png 12" for number in range(count)]
    assert identity(names) == identity(list(names))
    assert len(identity(names).blocks) <= MOST_BLOCKS
    for place in {0, count // 2, count - 1}:
        changed = [*names[:place], "other", *names[place + 1 :]]
        text, parts = said(names, changed), identity(names).block_parts
        first = names[place // parts * parts]
        assert text.startswith(f"as many, {count:,}, but ")
        if parts == 1:
            assert text.endswith(f"the first that differs was {first!r} and is 'other'")
        elif place % parts:
            assert text.endswith(f"one of {parts} from {first!r} on is another")
        else:
            assert text.endswith(f"they differ from {first!r} on, which is 'other' now")


def test_counts_and_labels_come_first() -> None:
    assert said(["x", "y"], ["x"]) == "2 then, 1 now"
    assert said(["x", "y"], ["x", "z"], ([0, 1], [0, 0])) == ("as many, 2, but with other classes or labels")


def test_facts_without_blocks_are_enough() -> None:
    now = identity(["x"])
    then = {"images": 1, "labels": now.labels}
    assert difference(then, now, 1) == "as many, 1, but of other content"
