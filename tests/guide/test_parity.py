"""docs/guide_parity.md names tests that exist and places that are there, and shows or disowns every sentence."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.e2e.harness import ROOT

PAGE = ROOT / "docs" / "guide_parity.md"
TEXT = PAGE.read_text()
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]


def test_every_test_that_it_names_is_collected() -> None:
    named = sorted(set(re.findall(r"`(tests/[\w/.]+::\w+)`", TEXT)))
    assert len(named) > 30
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *named],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_sentences_are_numbered_without_gaps() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, len(ROWS) + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.split("|")[1].strip()))
def test_a_sentence_is_shown_by_a_test_or_a_link_or_is_missing(row: str) -> None:
    _, _, says, does, shown, _ = [cell.strip() for cell in row.split("|")]
    assert says
    if shown == "a link":
        assert "](" in does
    else:
        assert re.fullmatch(r"`tests/[\w/.]+::\w+`(, `tests/[\w/.]+::\w+`)*", shown)


def test_what_is_missing_is_listed_at_the_end() -> None:
    missing = [int(row.split("|")[1]) for row in ROWS if "**not yet**" in row]
    listed = re.findall(r"\((\d+)\)", TEXT.partition("## Not yet")[2])
    assert [int(number) for number in listed] == missing


def test_every_link_leads_to_a_file_and_a_heading_in_it() -> None:
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", TEXT):
        target = (PAGE.parent / file) if file else PAGE
        assert target.exists(), file
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{file}#{anchor}"
