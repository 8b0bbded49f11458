"""Names that some database takes for the same fold to the same."""

import pytest

from tokenbuncher.guard.names import folded


@pytest.mark.parametrize(
    "name",
    [
        "champion",
        "Champion",
        "chámpion",
        "cha\u0301mpion",
        " champion  ",
        "champion\n",
        "cham\u200bpion",
        "cham\u00adpion",
        "\ufeffchampion",
        "\uff23\uff28\uff21\uff2d\uff30\uff29\uff2f\uff2e",
        "champ\u0131on",
        "champi\u00f8n",
        "\U0001d41c\U0001d421\U0001d41a\U0001d426\U0001d429\U0001d422\U0001d428\U0001d427",
        "\u24d2hampion",
    ],
    ids=ascii,
)
def test_the_same_name(name):
    assert folded(name) == "champion"


@pytest.mark.parametrize(
    ("name", "same"), [("straße", "STRASSE"), ("æon", "aeon"), ("œuvre", "oeuvre"), ("ﬁnal", "final")]
)
def test_letters_that_stand_for_two(name, same):
    assert folded(name) == folded(same)


@pytest.mark.parametrize("digit", ["1", "\u0661", "\u0967", "\uff11", "\u00b9", "\u2460", "\U0001d7cf"], ids=ascii)
def test_digits_of_any_script(digit):
    assert folded(f"champion{digit}") == "champion1"


@pytest.mark.parametrize("name", ["challenger", "champion2", "champion-2", "champ_ion", "чемпион", "\u0441hampion"])
def test_another_name(name):
    assert folded(name) != "champion"
