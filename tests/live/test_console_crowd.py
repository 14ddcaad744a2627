"""The console with 1,000 series and 100 open incidents, in a real browser: all is there, and it is few bytes.

How soon it is there is a matter of the bench (`make bench-console`): tests do not judge by a clock.
"""

import pytest
from console_crowd import INCIDENTS, SERIES, crowd

OWN = 6, 2
"""Series and open incidents of the story itself."""
MOST_BYTES = 300_000
PATHS = (
    "/", "/incidents/inc-00000000", "/explore", "/models", "/playbooks", "/audit", "/topology",
)  # fmt: skip


@pytest.fixture
def busy(house):
    """A house with a crowd in it; the detector, which 1,000 series keep busy for long, says nothing."""
    house.story.hooks.watches = dict
    crowd(house)
    return house


@pytest.mark.live
def test_a_crowd_is_shown_a_part_first_and_all_of_it_when_asked(busy, page):
    page.open(busy.url)
    rows = "document.querySelectorAll('#incidents .row').length"
    page.wait(f"{rows} === 30")
    worst = page.js(
        "[...document.querySelectorAll('#incidents .row .chip')].map((e) => e.innerText)"
    )
    assert set(worst) == {"hurts users"}  # of a hundred, those first
    assert "35 incidents hurt users" in page.text("main")
    total = INCIDENTS + OWN[1]
    assert f"Show all {total}" in page.text("#incidents")
    page.click("#incidents [data-focus=more]")
    page.wait(f"{rows} === {total}")

    page.open(f"{busy.url}/explore")
    rows = "document.querySelectorAll('#list .row').length"
    page.wait(f"{rows} === 100")
    total = SERIES + OWN[0]
    assert f"{total} series" in page.text("#count")
    assert f"{total - 100} more" in page.text("#list")
    page.click("#list [data-focus=more]")
    page.wait(f"{rows} === 300")
    now = busy.story.now
    page.open(f"{busy.url}/explore?from={now - 280:.0f}&to={now:.0f}")
    page.wait("document.querySelectorAll('#rank tbody tr').length === 40")
    assert f"{total} compared" in page.text("#rank")
    moved = page.js("[...document.querySelectorAll('#rank tbody th')].map((e) => e.innerText)")
    hosts = {one.split("node-")[1] for one in moved if "node-" in one}
    assert hosts <= {f"{k:03}" for k in range(0, 100, 10)}, "those that moved"
    assert len([one for one in moved if "node-" not in one]) == 4  # of the story itself


@pytest.mark.live
def test_a_first_visit_is_few_bytes_and_no_file_comes_twice(busy, page):
    page.page("Network.clearBrowserCache")
    page.received.clear()
    came = []
    for path in PATHS:
        page.open(busy.url + path)
        page.wait("document.querySelector('#page').getAttribute('aria-busy') === 'false'")
        page.wait("!document.querySelector('.loading')")
        came.append(dict(page.received))
        page.received.clear()
    files = {url: n for url, n in came[0].items() if "/api/" not in url}
    assert any(url.endswith("uPlot.iife.min.js") for url in files)
    assert sum(files.values()) < MOST_BYTES, files
    again = [n for later in came[1:] for url, n in later.items() if "/static/" in url]
    assert max(again, default=0) < 1000  # not modified: a head alone
