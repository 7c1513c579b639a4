"""The crash loop's bookkeeping must be able to fail: each kind of damage is told to it once."""

import crash_loop
import pytest


@pytest.fixture
def books():
    it = crash_loop.Books()
    for number in range(4):
        it.sent["q"].add(("p", number))
        it.confirmed["q"].add(("p", number))
    return it


def deliver(books, *numbers, redelivered=False):
    for number in numbers:
        books.delivered("q", crash_loop.body_of("p", number, 20), redelivered)


def test_all_well(books):
    deliver(books, 0, 1, 2)
    deliver(books, 1, 2, 3, redelivered=True)
    books.drained()
    assert books.problems == [] and books.duplicates == 2


def test_loss(books):
    deliver(books, 0, 1, 3)
    books.drained()
    assert "lost" in books.problems[0] and "('p', 2)" in books.problems[0]


def test_invention_and_damage(books):
    deliver(books, 9)
    books.delivered("q", crash_loop.body_of("p", 0, 20)[:-1] + b"!", False)
    assert len(books.problems) == 2


def test_order(books):
    deliver(books, 1, 0)
    assert "first time after" in books.problems[0]


def test_unmarked_duplicate(books):
    deliver(books, 0, 0)
    assert "without `redelivered`" in books.problems[0]


def test_settled_comes_back(books):
    deliver(books, 0, 1, 2, 3)
    books.forget()
    deliver(books, 3, redelivered=True)
    assert "came back" in books.problems[0]
