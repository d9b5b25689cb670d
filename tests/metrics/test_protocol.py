"""The protocol, its key, the choice of metrics and the headline."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from vitgan.errors import UserError
from vitgan.metrics import Evaluation, Protocol, headline
from vitgan.metrics.protocol import METRICS, check_counts, check_metrics, parse_metrics, possible_metrics

PROTOCOL = Protocol(
    features="classifier",
    features_sha="00",
    real="digits",
    real_sha="11",
    reals=100,
    fakes=50,
    resolution=8,
    channels=1,
    resize="none",
    seed=0,
    settings={"kid_subset_size": 50},
    torch_fidelity="0.4.0",
)


@pytest.mark.parametrize(
    "change",
    [
        {"features": "inception"},
        {"features_sha": "01"},
        {"real_sha": "12"},
        {"reals": 99},
        {"fakes": 51},
        {"seed": 1},
        {"settings": {"kid_subset_size": 49}},
        {"torch_fidelity": "0.5"},
    ],
)
def test_another_protocol_has_another_key(change: dict[str, Any]) -> None:
    assert replace(PROTOCOL, **change).key() != PROTOCOL.key()


def test_the_place_of_the_same_pixels_does_not_change_the_key() -> None:
    assert replace(PROTOCOL, real="digits.zip", resize="--resize").key() == PROTOCOL.key()


def test_an_evaluation_is_json_with_null_for_what_is_not_finite() -> None:
    written = json.loads(json.dumps(Evaluation(PROTOCOL, {"a": 1.5, "b": math.nan}).to_dict()))
    assert written["metrics"] == {"a": 1.5, "b": None}
    assert written["protocol"]["key"] == PROTOCOL.key()
    assert written["protocol"]["settings"] == {"kid_subset_size": 50}


def test_the_headline_is_a_frechet_distance() -> None:
    assert headline({"is": 9.0, "fid": 6.66}) == ("fid", 6.66)
    assert headline({"classifier_frechet_distance": 2.0}) == ("classifier_frechet_distance", 2.0)
    with pytest.raises(UserError, match="add fid"):
        headline({"is": 9.0})


def test_metrics_are_named_in_any_order() -> None:
    assert parse_metrics(" kid,fid,,kid") == ("fid", "kid")
    with pytest.raises(UserError, match="no metric 'FID': choose from fid, is, kid, prdc"):
        parse_metrics("FID")
    with pytest.raises(UserError, match="names no metric"):
        check_metrics([])


def test_few_images_allow_fewer_metrics() -> None:
    assert possible_metrics(10, 10) == METRICS
    assert possible_metrics(9, 9) == ("fid", "kid", "prdc")
    assert possible_metrics(5, 100) == ("fid", "is", "kid")
    assert possible_metrics(2, 2) == ("fid", "kid")
    assert possible_metrics(1, 1) == ("fid",)  # and is then refused


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_names_its_need(metric: Any) -> None:
    need = {"fid": 2, "is": 10, "kid": 2, "prdc": 6}[metric]
    check_counts((metric,), reals=need, fakes=need)
    with pytest.raises(UserError, match=f"{metric} needs at least {need} generated"):
        check_counts((metric,), reals=need, fakes=need - 1)
