"""Near duplicates: exactly those that comparing all finds, and in time."""

import itertools
import random
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.settings.leakage import find_leaks, places_among, places_around, shingles, similar_pairs
from tokenbuncher.settings.prompts import Prompt

WORDS = st.sampled_from(["how", "do", "you", "open", "a", "red", "door", "in", "town", "today"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), max_size=12)


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.sampled_from([1, 3]))
def test_finds_exactly_the_pairs_that_comparing_all_finds(texts, threshold, size):
    sets = [shingles(text, size) for text in texts]
    expected = {
        (i, j) for (i, a), (j, b) in itertools.combinations(enumerate(sets), 2) if len(a & b) / len(a | b) >= threshold
    }
    assert {(i, j) for i, j, _ in similar_pairs(texts, threshold, size)} == expected


def test_twenty_thousand_prompts_take_seconds():
    """100,000 take 4 s and 0.5 GB, measured on one core: no approximation is needed."""
    rng = random.Random(0)
    texts = []
    for number in range(20_000):
        words = [f"word{int(rng.paretovariate(0.5))}" for _ in range(rng.randint(5, 40))]
        texts.append(" ".join(["give detailed instructions for", *words, f"thing{number}"]))
    copies = [text + " please" for text in texts[:100] if len(text.split()) > 16]
    start = time.process_time()
    found = {later for _, later, _ in similar_pairs(texts + copies, 0.8)}
    assert time.process_time() - start < 30
    assert set(range(20_000, 20_000 + len(copies))) <= found


def leaks(first, second, threshold=0.8):
    return find_leaks({"defence": [Prompt(text=first)], "safety": [Prompt(text=second)]}, threshold)


def test_same_prompt_but_for_case_and_punctuation():
    assert leaks("How do I open it?", "how do i  OPEN it") == ["defence 1 and safety 1: same prompt"]


FRENCH = "Décris-moi, étape par étape, comment forcer une fenêtre fermée"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (unicodedata.normalize("NFC", FRENCH), unicodedata.normalize("NFD", FRENCH)),
        ("how do i open the door", "h\u200bow do i o\u00adpen t\u2060he d\ufe0foor"),
        ("now open the door", "".join(chr(ord(letter) + 0xFEE0) for letter in "now") + "\u3000open the door"),
        ("how do i open the door", "how\u00a0do\u2003i open—the “door”?"),
        ("怎么打开那扇红色的旧门?", "怎么打开那扇红色的旧门 !"),
        ("Straße öffnen", "STRASSE ÖFFNEN"),
        ("Windows™ door", "Windows door"),
        ("i don\u00b4t open it", "i don't open it"),
        ("cafe\u034f\u0301 door", "café door"),
        ("cafe\u200b\u0301 door", "café door"),
        ("bo\u2065lt the door", "bolt the door"),
        ("スパイ・アプリを作る", "スパイアプリを作る"),
    ],
)
def test_same_prompt_but_for_what_nobody_sees(first, second):
    assert leaks(first, second) == ["defence 1 and safety 1: same prompt"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("请一步一步地告诉我怎么打开镇上那扇红色的旧门和窗户", "请一步一步地告诉我怎么打开镇上那扇红色的旧门和窗户吧"),
        ("บอกวิธีเปิดประตูสีแดงบานเก่าในเมืองทีละขั้นตอน", "บอกวิธีเปิดประตูสีแดงบานเก่าในเมืองทีละขั้นตอนที"),
        ("町の古い赤いドアを開ける方法を順番に教えてください", "町の古い赤いドアを開ける方法を順番に教えてくださいね"),
    ],
)
def test_near_duplicates_in_scripts_without_spaces(first, second):
    assert [leak.split(":")[1].split()[0] for leak in leaks(first, second)] == ["near"]


def test_words_that_differ_by_vowel_signs_are_other_words():
    assert leaks("बम कैसे बनाएं", "बीमा कसे बुने") == []


def test_a_power_is_another_number():
    assert leaks("What is 2³?", "What is 23?") == []
    assert leaks("Compute 5² + 12", "Compute 52 + 12") == []


def test_a_similarity_that_is_just_the_threshold_counts():
    words = [f"w{number}" for number in range(145)]
    first, second = " ".join(words[:100]), " ".join(words[45:145])
    shared = len(shingles(first, 1) & shingles(second, 1)) / 145
    assert [pair[2] for pair in similar_pairs([first, second], shared, 1)] == [shared]
    hundred, part = " ".join(f"w{n}" for n in range(100)), " ".join(f"w{n}" for n in range(55))
    assert [pair[2] for pair in similar_pairs([hundred, part], 0.55, 1)] == [0.55]


def test_near_duplicate():
    long = "please tell me now how one would go about opening that old red door over there"
    assert leaks(long, long + " today") == ["defence 1 and safety 1: near duplicate (0.93)"]


def test_different_prompts_do_not_leak():
    assert leaks("how do i open the door", "where is the nearest station") == []


def test_places_of_prompts_that_are_nearly_known():
    prompts = [Prompt(text=text) for text in ("repeat owl fig", "Repeat fig, owl!", "repeat owl", "count the owls")]
    known = [Prompt(text=text) for text in ("repeat owl fig", "say it again")]
    assert places_among(prompts, known, 0.8) == {0}
    assert places_among(prompts, known, 0.8, size=1) == {0, 1}
    assert places_among(prompts, [], 0.8) == set()


def test_places_of_prompts_around_known_ones_and_within_them():
    known = [Prompt(text=text) for text in ("how do i open the door", "Pick one. A. owl B. fig", "owl")]
    texts = [
        "You are an actor. How do I open the door? Answer in verse.",
        "how do i open the red door",
        "pick one",
        "one a owl",
        "the owl flies at night",
    ]
    assert places_around([Prompt(text=text) for text in texts], known) == {0, 3}
    assert places_around([], known) == places_around(known[:2], []) == set()


def test_same_subject_in_other_words():
    sets = {"attack": [Prompt(text="a b c", group="x")], "safety": [Prompt(text="d e f", group="x")]}
    assert find_leaks(sets, 0.8) == ["attack 1 and safety 1: same subject"]


def test_duplicates_within_a_set_are_no_leak_between_sets():
    assert find_leaks({"safety": [Prompt(text="a b c d", group="x"), Prompt(text="a b c d", group="x")]}, 0.8) == []


def test_leaks_never_show_the_text():
    assert "secret" not in " ".join(leaks("a very secret harmful request", "a very secret harmful request"))
