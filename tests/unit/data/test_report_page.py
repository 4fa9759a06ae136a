"""The page is self-contained, has the facts of the table, and runs nothing from the data."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from lab.chats import row
from tuneyard.data import check, report_page

EVIL = "</mark></pre></td></title><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
VOID = {"meta", "rect"}
HEAD = {"html", "head", "meta", "title", "style", "body"}
ELEMENTS = HEAD | {"h1", "h2", "h3", "p", "table", "tr", "td", "th", "svg", "g", "text", "rect", "pre", "mark", "span"}


class Page(HTMLParser):
    """Everything that a browser would parse as an element or an attribute."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.marked: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "mark" in self.open:
            self.marked.append(data)


@pytest.fixture
def report(write_rows, make_encoder):
    path = write_rows(
        row(f"say {EVIL}", EVIL),
        row("a", "b", "c", f"d {EVIL}") | {EVIL: 1},
        row("a", "word " * 900),
        {"messages": [{"role": EVIL, "content": "x"}]},
        row("a", ""),
        row(f"say {EVIL}", EVIL),
    )
    return check([path], make_encoder("chatml", max_length=600), examples=6)


def test_hostile_rows_are_text_and_nothing_else(report):
    text = report_page(report)
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert tags <= ELEMENTS
    attributes = {name for _, attrs in page.elements for name in attrs}
    assert not any(name.startswith("on") or name in ("src", "href", "action") for name in attributes)
    whole = "".join(page.texts)
    # as a field's name, in the examples and as a role that is refused
    assert whole.count("<script>alert(1)</script>") >= 4
    assert EVIL in "".join(page.marked)


def test_the_page_fetches_nothing_and_its_policy_lets_nothing_run(report):
    text = report_page(report)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    policy = [attrs["content"] for tag, attrs in Page(text).elements if attrs.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_page_has_the_histogram_the_counts_and_the_reasons(report):
    page = Page(report_page(report))
    bars = [attrs for tag, attrs in page.elements if tag == "rect"]
    assert [attrs["class"] for attrs in bars] == [
        "over" if part.least > report.max_length else "bar" for part in report.histogram
    ]
    assert max(float(attrs["width"]) for attrs in bars) == 560
    words = " ".join(" ".join(page.texts).split())
    assert f"{report.kept} of 6 rows can be trained on; 2 problems." in words
    assert "messages[].content is empty 1" in words
    assert report.problems[0].where in words
    assert "1 overlong" in words
    assert f"{report.longest[0].where} {report.longest[0].tokens:,}" in words


def test_trained_text_is_marked_by_the_mask(report):
    marked = "".join(Page(report_page(report)).marked)
    for example in report.examples:
        for part in example.segments:
            assert not part.learnt or part.text in marked
    assert "say" not in marked


def test_a_long_example_is_shortened_with_a_note(write_rows, make_encoder):
    path = write_rows(row("a", "word " * 3000))
    text = report_page(check([path], make_encoder("chatml"), examples=1))
    assert " more characters</pre>" in text
    assert len(text) < 20_000


def test_a_report_without_rows_is_a_page_too(write_rows, make_encoder):
    text = report_page(check([write_rows({})], make_encoder("chatml")))
    assert "0 of 1 rows" in " ".join(text.split())
    assert "<svg" not in text
