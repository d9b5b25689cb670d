"""Signals as a wish to stop."""

import os
import signal
import threading

import pytest

from vitgan.engine.loop import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish(number: signal.Signals) -> None:
    with stop_on_signals() as interrupt:
        assert not interrupt
        signal.raise_signal(number)
        assert interrupt
        assert interrupt.signal_name == number.name


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(second: signal.Signals) -> None:
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_the_handlers_from_before_come_back_also_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with stop_on_signals() as interrupt:
            seen.append((bool(interrupt), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_on_a_terminal_the_first_signal_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    monkeypatch.setattr(os, "isatty", lambda handle: handle == 2)
    monkeypatch.setattr(os, "write", lambda _handle, text: said.append(text) or len(text))
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
    monkeypatch.undo()
    assert b"once more to stop at once" in b"".join(said)
