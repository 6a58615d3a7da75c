"""What text means for a field, and the sentences about what a field takes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, Field

from detloom.config.layers import Text
from detloom.config.values import ValueRefusedError, convert, describe
from detloom_schemas.base import Names, Resolution, Settings


class Colour(Enum):
    RED = "red"


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class Every(Settings):
    """One field of each shape that a configuration may have."""

    whole: Annotated[int, Field(ge=1, description="d")] = 1
    real: Annotated[float, Field(gt=0, description="d")] = 1.0
    truth: bool = False
    word: str = ""
    maybe_word: str | None = None
    maybe_whole: int | None = None
    one_of: Literal["a", "on"] = "a"
    count_or_auto: int | Literal["auto"] = "auto"
    names: Names = ()
    some_names: Annotated[Names, Field(min_length=1)] = ("a",)
    maybe_names: Names | None = None
    size: Resolution = 640
    numbers: tuple[float, ...] = ()
    nested: tuple[tuple[int, ...], ...] = ()
    table: dict[str, int] | None = None
    colour: Colour = Colour.RED
    path: Path = Path()
    even: Annotated[int, AfterValidator(_even)] = 2


def read(field: str, raw: Any) -> Any:
    """The raw value as the field takes it, through the whole model."""
    plain = convert(raw, Every.model_fields[field], Every)
    return getattr(Every.model_validate({field: plain}), field)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("whole", "8", 8),
        ("whole", "1e3", 1000),
        ("whole", "8.0", 8),
        ("real", "1e-4", 1e-4),
        ("real", "1E-4", 1e-4),
        ("real", ".5", 0.5),
        ("real", "3", 3.0),
        ("truth", "true", True),
        ("truth", "Yes", True),
        ("truth", "ON", True),
        ("truth", "1", True),
        ("truth", "off", False),
        ("truth", "no", False),
        ("truth", "0", False),
        ("word", "123", "123"),
        ("word", "true", "true"),
        ("word", "none", "none"),
        ("word", "1e-4", "1e-4"),
        ("word", "[a]", "[a]"),
        ("word", "", ""),
        ("word", '"7"', "7"),
        ("word", "a: b", "a: b"),
        ("maybe_word", "none", None),
        ("maybe_word", "", None),
        ("maybe_word", "123", "123"),
        ("maybe_word", '"none"', "none"),
        ("maybe_whole", "null", None),
        ("maybe_whole", "7", 7),
        ("one_of", "on", "on"),
        ("count_or_auto", "4", 4),
        ("names", "onnx", ("onnx",)),
        ("names", "[a, b]", ("a", "b")),
        ("names", "a, b", ("a", "b")),
        ("names", "[1.0, true]", ("1.0", "true")),
        ("names", '["a,b"]', ("a,b",)),
        ("names", "[]", ()),
        ("names", "", ()),
        ("names", "None", ()),
        ("names", "~", ()),
        ("names", "[none]", ("none",)),
        ("maybe_names", "none", None),
        ("numbers", "null", ()),
        ("table", "none", None),
        ("size", "480x640", (480, 640)),
        ("size", "[480, 640]", (480, 640)),
        ("size", "480,640", (480, 640)),
        ("size", "416", 416),
        ("numbers", "[0.7, 1e-1]", (0.7, 0.1)),
        ("nested", "[[1, 2], [3]]", ((1, 2), (3,))),
        ("table", "{a: 1}", {"a": 1}),
        ("colour", "red", Colour.RED),
        ("path", "~/x", Path("~/x")),
    ],
)
def test_text_is_read_by_the_type_of_its_field(field: str, text: str, value: Any) -> None:
    found = read(field, Text(text))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "raw", "words"),
    [
        ("whole", Text("abc"), "found 'abc'; allowed: a whole number of at least 1"),
        ("whole", Text("0"), "found '0'; allowed: a whole number of at least 1"),
        ("whole", Text("8.5"), "a whole number"),
        ("whole", Text("true"), "a whole number"),
        ("whole", True, "a whole number"),
        ("whole", None, "found nothing (null)"),
        ("whole", Text("9" * 5000), "a whole number"),
        ("real", Text("nan"), "a number above 0"),
        ("real", float("inf"), "a number above 0"),
        ("real", Text("yes"), "a number above 0"),
        ("truth", Text("maybe"), "true or false"),
        ("one_of", Text("b"), "one of a, on"),
        ("count_or_auto", Text("many"), "a whole number, or auto"),
        ("names", 3, "a list, each text"),
        ("some_names", Text(""), "found ''; allowed: a list, each text, at least 1 long"),
        ("some_names", Text("none"), "found 'none'; allowed: a list, each text, at least 1 long"),
        ("some_names", None, "found nothing (null); allowed: a list, each text, at least 1 long"),
        ("size", Text("480x"), "from 32 to 8192"),
        ("size", [1, 2, 3], "from 32 to 8192"),
        ("numbers", [True], "a list, each a number"),
        ("nested", Text("[1"), "a list"),
        ("even", Text("3"), "found '3': must be even"),
        ("maybe_whole", Text("x"), "a whole number, or none"),
        ("colour", Text("blue"), "one of red"),
    ],
)
def test_what_does_not_fit_is_refused_in_plain_words(field: str, raw: Any, words: str) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        convert(raw, Every.model_fields[field], Every)
    assert words in caught.value.message
    assert "pydantic" not in caught.value.message and "http" not in caught.value.message


def test_a_near_miss_of_a_fixed_word_is_suggested() -> None:
    class Optimizing(Settings):
        optimizer: Literal["adamw", "sgd"] = "sgd"

    with pytest.raises(ValueRefusedError) as caught:
        convert(Text("adamv"), Optimizing.model_fields["optimizer"], Optimizing)
    assert caught.value.hint == "did you mean adamw?"


@given(st.text())
@settings(max_examples=150, deadline=None)
def test_any_text_stays_itself_in_a_field_of_text_unless_it_is_quoted(text: str) -> None:
    if text.strip()[:1] not in {'"', "'"}:
        assert read("word", Text(text)) == text


@given(st.floats(min_value=1e-300, max_value=1e300))
@settings(max_examples=150, deadline=None)
def test_every_number_survives_its_own_text(number: float) -> None:
    assert read("real", Text(repr(number))) == number


def test_descriptions_read_like_sentences() -> None:
    assert describe(Every.model_fields["whole"].annotation, Every.model_fields["whole"].metadata) == (
        "a whole number of at least 1"
    )
    assert describe(tuple[int, str]) == "a list of 2: [a whole number; text]"
    assert describe(dict[str, int]) == "keys with values"
