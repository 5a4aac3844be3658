"""Whatever an exception is made of, what is kept of it is short, says something, and can be stored."""

import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.execution.failures import MAX_MESSAGE, MAX_TRACEBACK, failure
from taskloom.model import Failure


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Numeric(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Oddly(Exception):
    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no notes")


def raised(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - that is the question
        return failure(caught, attempt=2, will_retry=True)


def check(kept: Failure) -> None:
    assert kept.message
    assert kept.type
    assert len(kept.message) <= MAX_MESSAGE + 2
    assert len(kept.type) <= MAX_MESSAGE + 2
    for text in (kept.message, kept.type, kept.traceback or ""):
        assert text.encode().decode() == text
    assert kept.traceback is None or len(kept.traceback) <= MAX_TRACEBACK + 2


@given(st.text(max_size=3000))
def test_any_message(text: str) -> None:
    kept = raised(ValueError(text))
    check(kept)
    assert kept.type == "ValueError"
    assert kept.traceback is not None
    assert (kept.attempt, kept.will_retry) == (2, True)
    if text.isascii() and 0 < len(text) <= MAX_MESSAGE:
        assert kept.message == text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "(ValueError without a message)"),
        (Mute(), "(its __str__ raised RuntimeError)"),
        (Numeric(), "(its __str__ raised TypeError)"),
        (ValueError("lone \ud800 surrogate"), "lone \\ud800 surrogate"),
        (ValueError("zero \0 byte"), "zero \0 byte"),
        (KeyError("key"), "'key'"),
        (ExceptionGroup("many", [ValueError("a"), ExceptionGroup("more", [Mute()])]), "many (2 sub-exceptions)"),
        (SystemExit(3), "3"),
        (KeyboardInterrupt(), "(KeyboardInterrupt without a message)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_odd_exceptions(error: BaseException, message: str) -> None:
    kept = raised(error)
    check(kept)
    assert kept.message.startswith(message)


@pytest.mark.parametrize("error", [Mute("x"), Oddly("x"), ExceptionGroup("g", [Mute(), Oddly()])])
def test_a_traceback_that_cannot_be_shown_in_full_shows_where(error: Exception) -> None:
    kept = raised(error)
    check(kept)
    assert kept.traceback is not None
    assert "test_failures.py" in kept.traceback


def test_a_long_message_keeps_its_beginning() -> None:
    kept = raised(ValueError("begin" + "x" * 10_000_000 + "end"))
    check(kept)
    assert kept.message.startswith("beginxxx")


@pytest.mark.parametrize("length", [MAX_MESSAGE - 1, MAX_MESSAGE, MAX_MESSAGE + 1])
def test_what_fits_is_kept_as_it_is(length: int) -> None:
    """And of what does not, all that fits."""
    whole = "x" * length
    kept = whole if length <= MAX_MESSAGE else "x" * MAX_MESSAGE + " …"
    assert failure(ValueError(whole), attempt=1, will_retry=False).message == kept


def test_a_long_traceback_keeps_its_end() -> None:
    """The end says where it happened."""

    namespace: dict[str, Any] = {}
    for level in range(200):  # each function another one: Python folds repeated lines
        body = f"level_{level - 1}()" if level else "raise ValueError('deep')"
        source = f"def level_{level}(): {body}"
        exec(compile(source, f"<level {level}>", "exec"), namespace)
    with pytest.raises(ValueError, match="deep") as caught:
        namespace["level_199"]()
    assert len("".join(traceback.format_exception(caught.value))) > MAX_TRACEBACK
    kept = failure(caught.value, attempt=1, will_retry=False)
    check(kept)
    assert kept.traceback is not None
    assert kept.traceback.rstrip().endswith("ValueError: deep")
    assert "<level 0>" in kept.traceback
    assert "<level 199>" not in kept.traceback


def test_names_of_classes() -> None:
    assert raised(ValueError("x")).type == "ValueError"
    assert raised(Mute()).type == f"{__name__}.Mute"

    class Inner(Exception):
        pass

    assert raised(Inner("x")).type == f"{__name__}.test_names_of_classes.<locals>.Inner"
    Inner.__module__ = None  # type: ignore[assignment]
    check(raised(Inner("x")))


def test_an_error_that_was_never_raised_has_no_traceback() -> None:
    assert failure(ValueError("x"), attempt=1, will_retry=False).traceback is None
