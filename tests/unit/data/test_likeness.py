"""Equal and nearly equal rows are found within the data and across training and validation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lab.chats import row
from tuneyard.data.likeness import Likeness, signature

CHANCE = random.Random(5)
WORDS = ["".join(CHANCE.choices("abcdefghijklmnop", k=CHANCE.randint(2, 9))) for _ in range(3000)]


def text(words: int) -> list[str]:
    return CHANCE.choices(WORDS, k=words)


def changed(words: list[str], share: float) -> list[str]:
    return [CHANCE.choice(WORDS) if CHANCE.random() < share else word for word in words]


def jaccard(one: str, other: str) -> float:
    pieces = [{each[place : place + 8] for place in range(len(each) - 7)} for each in (one.encode(), other.encode())]
    return len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])


def estimated(one: str, other: str) -> float:
    bytes_of = [np.frombuffer(signature(each), np.uint8) for each in (one, other)]
    return ((bytes_of[0] == bytes_of[1]).mean() - 1 / 256) * 256 / 255


@pytest.mark.parametrize("words", [12, 60, 400])
def test_signatures_estimate_the_jaccard_index(words):
    errors = []
    for number in range(150):
        one = text(words)
        other = changed(one, (0.01, 0.05, 0.2)[number % 3])
        errors.append(estimated(" ".join(one), " ".join(other)) - jaccard(" ".join(one), " ".join(other)))
    assert abs(np.mean(errors)) < 0.015
    assert np.std(errors) < 0.065


def test_case_spaces_and_the_shortest_texts_make_no_difference():
    assert signature("Hello  World,\n how are you?") == signature("hello world, how are you?")
    assert signature("") == signature(" ")
    assert signature("a") != signature("b")
    assert len(signature("x" * 100_000)) == 64


def rows_of(texts, answer="ok, as you wish"):
    return [row(" ".join(words), answer) for words in texts]


def test_equal_rows_point_to_the_first_and_nearly_equal_ones_to_an_earlier_one(write_rows):
    first, other = text(80), text(80)
    near = [*first[:79], "altered"]
    path = write_rows(*rows_of([first, other, first, near]))
    like = Likeness([path])
    assert like.earlier(0) is None
    assert like.earlier(1) is None
    assert (like.earlier(2).where, like.earlier(2).similarity) == (f"{path}:1", 1)
    assert like.earlier(3).where == f"{path}:1"
    assert 0.85 < like.earlier(3).similarity < 1
    assert [like.group(number) for number in range(4)] == [0, 1, 0, 0]


def test_nearly_all_near_duplicates_are_found_and_no_other_rows(write_rows):
    originals = [text(CHANCE.randint(30, 120)) for _ in range(300)]
    copies = [changed(words, 0.02) for words in originals]
    path = write_rows(*rows_of(originals + copies))
    like = Likeness([path])
    assert not any(like.earlier(number) for number in range(300))
    pairs = [(" ".join(one), " ".join(two)) for one, two in zip(originals, copies, strict=True)]
    clear = [number for number, pair in enumerate(pairs) if jaccard(*pair) > 0.9]
    assert len(clear) > 100
    met = [like.earlier(300 + number) for number in clear]
    assert sum(found is not None for found in met) >= 0.99 * len(clear)
    right = [found is None or found.where == f"{path}:{number + 1}" for number, found in zip(clear, met, strict=True)]
    assert all(right)


def test_a_shared_system_message_makes_no_rows_alike(write_rows):
    system = " ".join(text(400))
    path = write_rows(*(row(" ".join(text(20)), "yes", system=system) for _ in range(50)))
    like = Likeness([path])
    assert not any(like.earlier(number) for number in range(50))


def test_training_rows_are_found_in_validation(write_rows):
    held, other = text(80), text(80)
    near = [*held[:79], "altered"]
    training = write_rows(*rows_of([other, held, near]), name="training.jsonl")
    validation = write_rows(*rows_of([text(80), held, held]), name="validation.jsonl")
    like = Likeness([training], [validation])
    assert like.leak(0) is None
    assert (like.leak(1).where, like.leak(1).similarity) == (f"{validation}:2", 1)
    assert (like.leak(2).where, like.leak(2).similarity < 1) == (f"{validation}:2", True)
    assert like.earlier(2, validation=True).where == f"{validation}:2"
    assert like.earlier(2).where == f"{training}:2"


def test_rows_are_found_across_files_and_bad_rows_count_for_none(write_rows):
    words = text(50)
    one = write_rows({}, *rows_of([words]), name="one.jsonl")
    two = write_rows(*rows_of([text(50)]), {"messages": []}, *rows_of([words]), name="two.jsonl")
    like = Likeness([one, two])
    assert like.earlier(2).where == f"{one}:2"
    assert like.earlier(3) is None


def test_preferences_are_alike_by_prompt_and_both_answers(write_rows):
    prompt, answer = " ".join(text(40)), " ".join(text(40))
    first = {"prompt": prompt, "chosen": answer, "rejected": " ".join(text(40))}
    path = write_rows(first, first, first | {"rejected": " ".join(text(40))})
    like = Likeness([path])
    assert like.earlier(1).similarity == 1
    assert like.earlier(2) is None
