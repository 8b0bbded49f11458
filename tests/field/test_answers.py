r"""Answers as people store them and as models word them: read as they are meant, and never a wrong one as right."""

from __future__ import annotations

import pytest

from tokenbuncher.evaluation.answers import judge_answer

VERDICTS = {"right": (True, True), "wrong": (True, False), "unread": (False, False)}

NUMBERS = [
    # As spreadsheets and data frames write the expected one
    ("The answer is 42.", "42.0", "right"),
    ("42.0", "42", "right"),
    ("1000", "1e3", "right"),
    ("1e3", "1000", "right"),
    ("1e3", "1", "wrong"),
    ("2.5e-3", "0.0025", "right"),
    # Degrees
    ("The angle is 90 degrees.", r"90^\circ", "right"),
    (r"so the angle is $90^\circ$.", r"90^\circ", "right"),
    (r"\boxed{90^\circ}", "90", "right"),
    (r"\boxed{90^{\circ}}", "90°", "right"),
    ("First we add.\nThen it is 90°.", r"90^\circ", "right"),
    ("The answer is 90°.", "90", "right"),
    ("The answer is 90.", "90°", "right"),
    (r"\boxed{90\degree}", r"90^{\circ}", "right"),
    ("The answer is 90 radians.", "90°", "wrong"),
    (r"\boxed{91^\circ}", r"90^\circ", "wrong"),
    # Units
    ("The answer is 5 km.", "5 km", "right"),
    ("The answer is 5 kilometers.", "5 km", "right"),
    (r"\boxed{5\text{ km}}", "5 km", "right"),
    (r"\boxed{5}", r"5\text{ km}", "right"),
    ("It is 5.", "5 km", "right"),
    ("The answer is 5 m.", "5 km", "wrong"),
    (r"\boxed{5\text{ m}}", r"5\text{ km}", "wrong"),
    (r"\boxed{5\text{ m}^2}", r"5\text{ m}", "wrong"),
    ("The answer is 5 m².", "5 m^2", "right"),
    ("The answer is 5 hours.", "5 minutes", "wrong"),
    ("#### 50 m", "50 cm", "wrong"),
    # Percent and currency
    ("The answer is 50 percent.", "50%", "right"),
    (r"\boxed{50\%}", "50%", "right"),
    ("The answer is 50.", r"50\%", "right"),
    ("The answer is 0.5.", "50%", "wrong"),
    ("It costs €5.", "€5", "right"),
    ("It costs 5 euros.", "€5", "right"),
    ("It costs €5.", "5 dollars", "wrong"),
    ("It costs £5.", "€5", "wrong"),
    ("The answer is 5 dollars.", "$5", "right"),
    ("The answer is 5 cents.", "5 dollars", "wrong"),
    # Separators of other countries
    ("The answer is 1 000.", "1000", "right"),
    ("The answer is 1\u00a0000\u00a0000.", "1,000,000", "right"),
    ("The answer is 12\u202f345.", "12345", "right"),
    ("The answer is 1'000.", "1000", "right"),
    ("The answer is 1\u2019000\u2019000.", "1000000", "right"),
    ("The answer is 1.234.567.", "1234567", "right"),
    ("The answer is 1.234,50.", "1234.5", "right"),
    ("The answer is 1,00,000.", "100000", "right"),
    ("#### 1 000", "1000", "right"),
    (r"\boxed{1~000}", "1000", "right"),
    ("1000", "1 000", "right"),
    ("1234.5", "1.234,50", "right"),
    ("The answer is 1.000.", "1000", "wrong"),
    ("The answer is 1 000.", "1", "wrong"),
    ("The answer is 1'000.", "1", "wrong"),
    ("The answer is 1,00,000.", "0", "wrong"),
    ("2 100/3", "2100", "wrong"),
    # Multiples
    ("The answer is 5 million.", "5000000", "right"),
    ("The answer is 5 million.", "5", "wrong"),
    ("The answer is 2 hundred thousand dollars.", "200000", "right"),
    # What only begins as the number does, or ends so
    (r"\boxed{5\pi}", "5", "unread"),
    (r"\boxed{5\sqrt{2}}", "5", "unread"),
    (r"\boxed{\sqrt{5}}", "5", "unread"),
    (r"\boxed{5x}", "5", "unread"),
    (r"\boxed{x^5}", "5", "unread"),
    (r"\boxed{x+5}", "5", "unread"),
    (r"\boxed{x-5}", "-5", "unread"),
    (r"\boxed{x > 5}", "5", "unread"),
    (r"\boxed{5 \pm 2}", "5", "unread"),
    (r"\boxed{f(5)}", "5", "unread"),
    (r"\boxed{5i}", "5", "unread"),
    ("The answer is 5:30.", "5", "unread"),
    ("The answer is 5 to 7.", "5", "unread"),
    ("The answer is 5\u20137.", "5", "unread"),
    ("The answer is more than 5.", "5", "unread"),
    ("The area is 5π.", "5", "unread"),
    ("It is 3 \u00d7 10^8.", "8", "unread"),
    ("It is 12 m^2.", "12", "right"),
    ("It is 12 m^2.", "2", "wrong"),
    ("The answer is x = 5.", "5", "right"),
    ("The answer is -> 5", "5", "right"),
    ("The answer is <b>5</b>", "5", "right"),
    # Denied or taken back
    ("The answer is not 5.", "5", "unread"),
    ("The answer isn't 5.", "5", "unread"),
    ("The answer cannot be 5.", "5", "unread"),
    ("I don't think the answer is 5.", "5", "unread"),
    ("If the answer is 5, then she had 3.", "5", "unread"),
    ("The answer is 5. Wait, that is wrong.", "5", "unread"),
    ("The answer is 5. No, it is 6.", "5", "unread"),
    ("The answer isn't 5, it is 6.", "6", "right"),
    ("If we add 3 and 4, the answer is 7.", "7", "right"),
    ("The answer is 5 and I don't doubt it.", "5", "right"),
]

TEXTS = [
    ("The answer is yes.", "yes", "right"),
    ("Yes", "yes", "right"),
    ("Yes.", "yes", "right"),
    ("**yes**", "yes", "right"),
    ("**Yes.**", "yes", "right"),
    ("`yes`", "yes", "right"),
    ('"Yes"', "yes", "right"),
    ("Answer: yes", "yes", "right"),
    ("**Answer:** Yes", "yes", "right"),
    ("yes, because it is even", "yes", "right"),
    ("Yes because it is even", "yes", "right"),
    ("Yes, because there is no other.", "yes", "right"),
    ("Yes\n\nIt is even.", "yes", "right"),
    ("Yes — it is even.", "yes", "right"),
    ("The answer is: Yes, since it is even.", "yes", "right"),
    (r"\boxed{\text{Yes}}", "yes", "right"),
    ("Yes", "Yes", "right"),
    ("True.", "true", "right"),
    ("no", "No", "right"),
    ("No.", "yes", "wrong"),
    ("The answer is no.", "yes", "wrong"),
    ("yes", "no", "wrong"),
    ("True", "yes", "wrong"),
    ("Yes. No.", "yes", "unread"),
    ("Yes, no, maybe", "yes", "unread"),
    ("Yes, wait, no.", "yes", "unread"),
    ("Yes, but only sometimes", "yes", "unread"),
    ("Yes, if it is even.", "yes", "unread"),
    ("Yes, or no.", "yes", "unread"),
    ("No. The answer is yes.", "yes", "unread"),
    ("The answer is yes. The answer is no.", "yes", "unread"),
    ("The answer is yes. Actually, no.", "yes", "unread"),
    ("Yes or no?", "yes", "wrong"),
    ("Yes and no", "yes", "wrong"),
    ("yesterday", "yes", "wrong"),
    ("yes-man", "yes", "wrong"),
    ("No-one knows.", "no", "wrong"),
    ("No. 5 is the best.", "no", "wrong"),
    ("Nothing", "no", "wrong"),
    ("Yes?", "yes", "wrong"),
    ("The answer is not yes.", "yes", "wrong"),
    ("I don't think the answer is yes.", "yes", "wrong"),
    ("If the answer is yes, then it is even.", "yes", "wrong"),
    ("", "yes", "unread"),
    ("The answer is Paris.", "Paris", "right"),
    ("the answer is paris", "Paris", "right"),
    ("Paris.", "Paris", "right"),
    ("**Paris**", "Paris", "right"),
    ("Answer: Paris", "Paris", "right"),
    ("The answer is Paris because it is the capital.", "Paris", "right"),
    ("The answer is Paris. It is the capital.", "Paris", "right"),
    ("The answer is New York.", "New York", "right"),
    ("The answer is St. Louis.", "St. Louis", "right"),
    ("The answer is St. Louis.", "St", "wrong"),
    ("The answer is Paris, Texas.", "Paris", "wrong"),
    ("The answer is Paris or London.", "Paris", "wrong"),
    ("The answer is (Paris) or London.", "Paris", "wrong"),
    ("The answer is not Paris.", "Paris", "wrong"),
    ("The answer is Paris. The answer is London.", "Paris", "unread"),
    ("Paris, London", "Paris", "wrong"),
    ("Not Paris", "Paris", "wrong"),
    ("Paris\nLondon", "Paris", "wrong"),
    ("The answer is Parisian.", "Paris", "wrong"),
    ("The answer is 5 widgets.", "5 widgets", "right"),
    ("The answer is 5 gadgets.", "5 widgets", "wrong"),
    ("it is red", "it is red .", "wrong"),
    ("it is red . .", "it is red .", "wrong"),
]


@pytest.mark.parametrize(("response", "expected", "verdict"), NUMBERS)
def test_a_number_is_read_as_it_is_meant(response: str, expected: str, verdict: str) -> None:
    assert judge_answer(response, expected) == VERDICTS[verdict]


@pytest.mark.parametrize(("response", "expected", "verdict"), TEXTS)
def test_a_text_is_right_if_nothing_else_is_said(response: str, expected: str, verdict: str) -> None:
    assert judge_answer(response, expected) == VERDICTS[verdict]


@pytest.mark.parametrize("expected", ["yes", "no", "true", "false"])
@pytest.mark.parametrize("other", ["yes", "no", "true", "false"])
@pytest.mark.parametrize("said", ["{}", "{}.", "The answer is {}.", "{}, because it is so", "Answer: **{}**"])
def test_no_other_of_yes_no_true_and_false_is_right(expected: str, other: str, said: str) -> None:
    assert judge_answer(said.format(other.capitalize()), expected)[1] is (other == expected)
