import pytest

from tokenbuncher.evaluation.answers import judge_answer, repetition


@pytest.mark.parametrize(
    ("response", "expected", "parsed", "correct"),
    [
        ("7", "7", True, True),
        ("3 plus 4 is 7 .", "7", True, True),
        ("1,000", "1000", True, True),
        ("about 1000.0", "1,000", True, True),
        ("-7", "7", True, False),
        ("-7", "-7", True, True),
        ("3.5", "3", True, False),
        ("seven", "7", False, False),
        ("", "7", False, False),
        ("It Is Red .", "it is red .", True, True),
        ("it is red . it is red .", "it is red .", True, False),
        ("", "it is red .", False, False),
    ],
)
def test_judge_answer(response, expected, parsed, correct):
    assert judge_answer(response, expected) == (parsed, correct)


@pytest.mark.parametrize(
    ("response", "share"), [("", 0.0), ("a b", 0.0), ("a b c d", 0.0), ("a a a a a", 2 / 3), ("a b c a b c", 0.25)]
)
def test_repetition(response, share):
    assert repetition(response) == pytest.approx(share)
