import pytest

from mads_ray.errors import reason_of

TEXT = "\n  the first line  \n\n  the second\nthe last\n"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "the first line"),
        ({"line": 1}, "the second"),
        ({"line": -1}, "the last"),
        ({"line": 7}, "the last"),
        ({"named": True}, "ValueError: the first line"),
    ],
)
def test_one_line_tells_the_reason(more, reason):
    assert reason_of(ValueError(TEXT), 100, **more) == reason


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_error_without_text_has_its_name_only(text, named):
    assert reason_of(KeyboardInterrupt(text), 100, named=named) == "KeyboardInterrupt"


def test_the_limit_cuts_the_line_and_not_the_name():
    assert reason_of(ValueError(TEXT), 3, line=-1) == "the"
    assert reason_of(ValueError(TEXT), 3, named=True) == "ValueError: the"
