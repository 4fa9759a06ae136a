"""Equal and nearly equal rows are found within the data and across training and validation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lab.chats import row
from tuneyard.data.duplicates import Duplicates, signature

RNG = random.Random(5)
WORDS = ["".join(RNG.choices("abcdefghijklmnop", k=RNG.randint(2, 9))) for _ in range(3000)]


def text(words: int) -> list[str]:
    return RNG.choices(WORDS, k=words)


def changed(words: list[str], share: float) -> list[str]:
    return [RNG.choice(WORDS) if RNG.random() < share else word for word in words]


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


def test_signature_ignores_case_and_spaces_and_takes_the_shortest_texts():
    assert signature("Hello  World,\n how are you?") == signature("hello world, how are you?")
    assert signature("") == signature(" ")
    assert signature("a") != signature("b")
    assert len(signature("x" * 100_000)) == 64


def rows_of(texts, answer="ok, as you wish"):
    return [row(" ".join(words), answer) for words in texts]


def test_equal_rows_name_the_first_and_nearly_equal_rows_an_earlier_one(write_rows):
    first, other = text(80), text(80)
    near = [*first[:79], "altered"]
    path = write_rows(*rows_of([first, other, first, near]))
    found = Duplicates([path])
    assert found.earlier(0) is None
    assert found.earlier(1) is None
    assert (found.earlier(2).where, found.earlier(2).similarity) == (f"{path}:1", 1)
    assert found.earlier(3).where == f"{path}:1"
    assert 0.85 < found.earlier(3).similarity < 1
    assert [found.group(number) for number in range(4)] == [0, 1, 0, 0]


def test_search_finds_nearly_all_near_duplicates_and_no_other_rows(write_rows):
    originals = [text(RNG.randint(30, 120)) for _ in range(300)]
    copies = [changed(words, 0.02) for words in originals]
    path = write_rows(*rows_of(originals + copies))
    found = Duplicates([path])
    assert not any(found.earlier(number) for number in range(300))
    pairs = [(" ".join(one), " ".join(two)) for one, two in zip(originals, copies, strict=True)]
    clear = [number for number, pair in enumerate(pairs) if jaccard(*pair) > 0.9]
    assert len(clear) > 100
    met = [found.earlier(300 + number) for number in clear]
    assert sum(found is not None for found in met) >= 0.99 * len(clear)
    right = [found is None or found.where == f"{path}:{number + 1}" for number, found in zip(clear, met, strict=True)]
    assert all(right)


def test_a_shared_system_message_makes_no_duplicates(write_rows):
    system = " ".join(text(400))
    path = write_rows(*(row(" ".join(text(20)), "yes", system=system) for _ in range(50)))
    found = Duplicates([path])
    assert not any(found.earlier(number) for number in range(50))


def test_leak_names_the_validation_row(write_rows):
    held, other = text(80), text(80)
    near = [*held[:79], "altered"]
    training = write_rows(*rows_of([other, held, near]), name="training.jsonl")
    validation = write_rows(*rows_of([text(80), held, held]), name="validation.jsonl")
    found = Duplicates([training], [validation])
    assert found.leak(0) is None
    assert (found.leak(1).where, found.leak(1).similarity) == (f"{validation}:2", 1)
    assert (found.leak(2).where, found.leak(2).similarity < 1) == (f"{validation}:2", True)
    assert found.earlier(2, validation=True).where == f"{validation}:2"
    assert found.earlier(2).where == f"{training}:2"


def test_search_crosses_files_and_skips_bad_rows(write_rows):
    words = text(50)
    one = write_rows({}, *rows_of([words]), name="one.jsonl")
    two = write_rows(*rows_of([text(50)]), {"messages": []}, *rows_of([words]), name="two.jsonl")
    found = Duplicates([one, two])
    assert found.earlier(2).where == f"{one}:2"
    assert found.earlier(3) is None


def test_preferences_are_compared_by_prompt_and_both_answers(write_rows):
    prompt, answer = " ".join(text(40)), " ".join(text(40))
    first = {"prompt": prompt, "chosen": answer, "rejected": " ".join(text(40))}
    path = write_rows(first, first, first | {"rejected": " ".join(text(40))})
    found = Duplicates([path])
    assert found.earlier(1).similarity == 1
    assert found.earlier(2) is None
