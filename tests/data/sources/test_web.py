"""Tar files on a web server that breaks connections, refuses requests, or goes away."""

from urllib.error import HTTPError

import pytest
import torch

from streamed import COUNT, COUNTS, build, joined, take
from vitgan.data import open_source
from vitgan.data.retry import Unreachable
from vitgan.data.sources.tars import WebFile
from vitgan.errors import UserError
from web_server import Server

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def test_a_web_server_gives_the_same_stream(server: tuple[str, type[Server]], wds: str) -> None:
    web, handler = server
    found, expected = (joined(take(build(source, workers=0), 12)) for source in (web, wds))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    before = len(handler.asked)
    assert len(build(web)) == COUNT
    assert len(handler.asked) - before < 2 * len(COUNTS)  # each for its date; the counts were kept


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    ranges: bool, server: tuple[str, type[Server]], wds: str
) -> None:
    """A server without range requests sends the whole file again, and what was read before is skipped."""
    web, handler = server
    images = build(web)
    handler.breaking, handler.ranges = 4 if ranges else 2, ranges
    found = joined(take(images, 12))
    assert all(torch.equal(a, b) for a, b in zip(found, joined(take(build(wds), 12)), strict=True))
    assert handler.breaking == 0
    assert images.skipped == []
    taken_up = [wanted for wanted in handler.asked if wanted is not None and wanted != "bytes=0-"]
    assert bool(taken_up) == ranges


def test_a_connection_that_breaks_while_the_file_is_replaced_is_not_taken_up(
    server: tuple[str, type[Server]],
) -> None:
    web, handler = server
    handler.breaking = 1
    with WebFile(web.removeprefix("wds:").replace("{0..2}", "1")) as file:
        assert len(file.read(512)) == 512
        handler.tag = "2"
        with pytest.raises(Unreachable, match="the file is another one now"):
            list(iter(lambda: file.read(4096), b""))


def test_a_server_that_is_overloaded_is_asked_again(server: tuple[str, type[Server]]) -> None:
    web, handler = server
    handler.refusing = 3
    assert len(build(web)) == COUNT
    assert handler.refusing == 0


def test_a_file_that_the_server_does_not_have_is_asked_for_once(server: tuple[str, type[Server]]) -> None:
    web, handler = server
    with pytest.raises(UserError, match=r"set-3\.tar cannot be read \(HTTP Error 404: Not Found\)"):
        open_source(web.replace("0..2", "3..9"))
    assert len(handler.asked) == 1


def test_an_answer_that_refuses_is_closed(server: tuple[str, type[Server]]) -> None:
    with pytest.raises(Unreachable) as caught:
        WebFile(server[0].removeprefix("wds:"))
    assert isinstance(caught.value.__cause__, HTTPError)
    assert caught.value.__cause__.closed


def test_a_server_that_is_gone_for_a_while_is_waited_for(
    server: tuple[str, type[Server]],
    wds: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    web, handler = server
    monkeypatch.setattr("vitgan.data.retry.FIRST_PAUSE", 0.01)
    images = build(web, workers=0)
    handler.refusing = 14
    found = joined(take(images, 12))
    assert all(torch.equal(a, b) for a, b in zip(found, joined(take(build(wds), 12)), strict=True))
    assert (caplog.text.count("waiting for it"), caplog.text.count("It is back")) == (1, 1)


def test_a_server_that_is_gone_ends_it_with_a_sentence(
    server: tuple[str, type[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, handler = server
    monkeypatch.setenv("VITGAN_DATA_PATIENCE", "0.2")
    images = build(web)
    handler.refusing = 10**6
    with pytest.raises(UserError, match=r"set-\d\.tar cannot be reached any more .*503"):
        take(images, 12)
