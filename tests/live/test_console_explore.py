"""What people look up in the console, in a real browser: series, what moved, the record; and two small acts.

The numbers are those of `desk_story`: an hour of six series, of which two began to be odd four minutes before its end
and one two minutes.
"""

import contextlib
import re
import sqlite3
import time

import pytest
from console_side import asked, sign_in

from agent.model import Change, Entity

LATENCY, CORES = (
    "service.latency_p95_seconds{service:wine}",
    "process.cpu_cores{process:b00t/5200/9950}",
)
MISSING, BUSY = "feature.missing_ratio{feature:wine/alcohol}", "host.cpu_busy_ratio{host:web-1}"
REQUESTS, ACCURACY = "service.requests_per_second{service:wine}", "model.accuracy_ratio{model:wine}"
TIMES = "\N{MULTIPLICATION SIGN}"
LIST = """[...document.querySelectorAll('#list .row')].map((r) => [r.dataset.focus, r.querySelector('.dot').title,
  r.querySelector('.value').firstChild.textContent, r.querySelector('.value small').innerText])"""
RANKED = """[...document.querySelectorAll('#rank tbody tr')].map((r) => [...r.cells].map((c) => c.innerText.trim()))"""


def one_in(words):
    """Return N of `1 in N`."""
    return int(re.fullmatch(r"1 in ([\d,]+)", words)[1].replace(",", ""))


def shown(page):
    """Wait for the curve, the words beneath it, and the list beside it."""
    page.wait("document.querySelector('#curve canvas')")
    page.wait("document.querySelector('#curve').innerText.includes('rows learnt')")
    page.wait("document.querySelectorAll('#list .row').length === 6")


# ---- series


@pytest.mark.live
def test_the_list_begins_with_what_is_abnormal_then_with_what_is_rare(page, house):
    page.open(f"{house.url}/explore")
    page.wait("document.querySelectorAll('#list .row').length === 6")
    rows = page.js(LIST)
    names = [name for name, *_ in rows]
    assert set(names[:3]) == {LATENCY, BUSY, MISSING}  # of open incidents
    assert names[3:] == [CORES, REQUESTS, ACCURACY] or names[3:] == [CORES, ACCURACY, REQUESTS]
    assert [state for _, state, *_ in rows] == ["abnormal"] * 3 + ["ordinary"] * 3
    rare = [one_in(words) for *_, words in rows[:4]]
    assert rare[:3] == sorted(rare[:3], reverse=True)
    assert min(rare) > 100
    assert [words for *_, words in rows[4:]] == ["as ever", "as ever"]
    values = {name: value for name, _, value, _ in rows}
    assert values[MISSING] == "45.1 %"
    assert re.fullmatch(r"1\.[89]\d?", values[CORES])
    assert re.fullmatch(r"\d{3} ms", values[LATENCY])
    assert re.fullmatch(r"[34]\d(\.\d)?/s", values[REQUESTS])
    page.click("[data-focus='sort name']")
    page.wait("location.search.includes('sort=name')")
    page.wait("document.querySelector('#list .row').dataset.focus.startsWith('feature')")
    page.wait(f"document.querySelectorAll('#list .row')[1].dataset.focus === '{CORES}'")
    assert [n for n, *_ in page.js(LIST)] == [MISSING, CORES, BUSY, ACCURACY, LATENCY, REQUESTS]


@pytest.mark.live
def test_a_search_takes_words_of_metric_and_name_in_any_order_and_says_when_nothing_has_them(page, house):  # fmt: skip
    page.open(f"{house.url}/explore?search=wine%20latency")
    page.wait("document.querySelectorAll('#list .row').length === 1")
    assert page.js(LIST)[0][0] == LATENCY
    assert page.text("#count") == "1 of 6 series"
    page.key("/")
    page.js("document.activeElement.select()")
    page.write("gunicorn")
    page.wait("document.querySelector('#list .empty')")
    assert page.text("#list") == "No series has these words."
    assert page.text("#count") == "0 of 6 series"
    assert "search=gunicorn" in page.js("location.search")


SCORE = r"now as rare as (1 in [\d,]+) \((\w+), ([\d.]+) deviations\), expected (.+); (\d+) rows learnt\."


@pytest.mark.live
def test_a_series_says_how_rare_it_is_what_is_expected_and_of_how_much_past(page, house):
    page.open(f"{house.url}/explore?series={CORES}")
    shown(page)
    rare, _, deviations, expected, learnt = re.search(SCORE, page.text("#curve")).groups()
    assert one_in(rare) > 1000
    assert one_in(rare) == one_in(next(w for n, _, _, w in page.js(LIST) if n == CORES))
    assert float(deviations) > 20
    low, high = map(
        float, expected.split(" to ")
    )  # nobody told it: it was 0.05 to 0.07 for nearly an hour
    assert 0 < low < 0.06 < high < 0.2
    assert 3300 < int(learnt) < 3500  # an hour, less the four minutes that it did not learn
    plot = "document.querySelector('#curve .plot')"
    label = page.js(f"{plot}.getAttribute('aria-label')")
    assert label.startswith("CPU cores of nightly-batch (pid 5200): now 1.9")
    assert label.endswith(f"expected {expected}")
    assert page.js(f"{plot}.title") == f"expected {expected}"


@pytest.mark.live
def test_where_a_person_said_what_is_bearable_that_is_the_band(page, house):
    page.open(f"{house.url}/explore?series={LATENCY}")
    shown(page)
    rare, _, _, expected, _ = re.search(SCORE, page.text("#curve")).groups()
    assert one_in(rare) > 1000
    assert expected == "at most 250 ms"


@pytest.mark.live
def test_what_is_ordinary_is_said_to_be_as_ever(page, house):
    page.open(f"{house.url}/explore?series={ACCURACY}")
    shown(page)
    said = re.search(
        r"(now .*) \(\w+, [\d.]+ deviations\), expected (.*) % to (.*) %; ", page.text("#curve")
    )
    assert said[1] == "now as ever"
    assert 93 < float(said[2]) < 97 < float(said[3]) <= 100


# ---- what moved


@pytest.mark.live
def test_what_moved_is_ranked_by_how_far_and_what_did_not_is_left_out(page, house):
    now = house.story.now
    page.open(f"{house.url}/explore?from={now - 260:.0f}&to={now:.0f}")
    page.wait("document.querySelector('#rank tbody tr')")
    rows = page.js(RANKED)
    who = [series.replace("\n", " ") for _, series, *_ in rows]
    assert who[:4] == [
        "missing feature alcohol of wine", "CPU cores nightly-batch (pid 5200)", "latency p95 wine", "CPU busy web-1",
    ]  # fmt: skip
    assert set(who[4:]) <= {"requests per second wine"}  # they swing, as traffic does: hardly
    moved = [size for size, *_ in rows]
    assert moved[0] == f"↑ > 1000{TIMES}"
    sizes = [float(re.fullmatch(rf"[↑↓] ([\d.]+){TIMES}", size)[1]) for size in moved[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes[:3]) > 10
    assert all(size < 5 for size in sizes[3:])
    rows = rows[:4]
    usual, then = ([row[k] for row in rows] for k in (2, 3))
    assert usual[0] == "0.1 %"
    assert then[0] == "45.1 %"
    assert 0.05 < float(usual[1]) < 0.07
    assert 1.8 < float(then[1]) < 2
    assert re.fullmatch(r"11\d ms", usual[2])
    assert re.fullmatch(r"[67]\d\d ms", then[2])
    began = [row[4] for row in rows]
    assert all(re.fullmatch(r"\+(\d+ s|\d+ min( \d+ s)?)", text) for text in began), began
    assert "min" in began[0]  # the values ceased two minutes after the rest had begun
    assert began[1].endswith(" s")
    assert "min" not in began[1]
    assert "6 compared" in page.text("#rank")
    wide = page.js(
        "[...document.querySelectorAll('#rank .weight i')].map((e) => parseFloat(e.style.width))"
    )
    assert wide == sorted(wide, reverse=True)


@pytest.mark.live
def test_what_fell_points_down(page, house):
    now = house.story.now
    page.open(f"{house.url}/explore?from={now - 2350:.0f}&to={now - 1950:.0f}")  # a bad release
    page.wait("document.querySelector('#rank tbody tr')")
    size, series, usual, then, _ = page.js(RANKED)[0]
    assert re.fullmatch(rf"↓ \d(\.\d)?{TIMES}", size)
    assert series.replace("\n", " ") == "accuracy wine"
    assert re.fullmatch(r"9[67](\.\d)? %", usual)
    assert re.fullmatch(r"8[23](\.\d)? %", then)


@pytest.mark.live
def test_where_nothing_moved_that_is_said(page, house):
    now = house.story.now
    page.open(f"{house.url}/explore?search=requests&from={now - 1000:.0f}&to={now - 940:.0f}")
    page.wait("document.querySelector('#rank .empty')")
    assert "Nothing moved by more than is ordinary for it." in page.text("#rank")
    assert "1 compared" in page.text("#rank")
    page.click("#window a.button")
    page.wait("!location.search.includes('from=') && !document.querySelector('#rank').innerText")


# ---- the record

CHANGES = 130
ENTRIES = "[...document.querySelectorAll('.journal [aria-expanded]')].map((b) => +b.innerText)"


@pytest.fixture
def long_record(house):
    """Much has changed: more entries than two pages hold; returns the number of the last."""
    hooks = house.story.hooks

    def write():
        for k in range(CHANGES):
            moved = "config", f"{k}", f"{k + 1}", f"ci-{k % 2}", f"setting{k}"
            hooks.push(Change(hooks.now(), Entity("service", "wine"), *moved))

    house.call(write)
    until = time.monotonic() + 20
    while len(list(hooks.journal.read(("change",)))) < CHANGES:
        assert time.monotonic() < until
        time.sleep(0.05)
    return hooks.journal.head[0]


@pytest.mark.live
def test_the_record_is_read_page_by_page_and_nothing_is_missing(page, house, long_record):
    page.open(f"{house.url}/audit")
    page.wait("document.querySelectorAll('.journal [aria-expanded]').length === 60")
    seen = page.js(ENTRIES)
    assert seen[0] == long_record
    assert "Newest" not in page.text("#older")
    while "Older" in page.text("#older"):
        page.click("#older a:last-child")
        page.wait(f"{ENTRIES}[0] < {seen[-1]}")
        assert f"before={seen[-1]}" in page.js("location.search")
        assert page.js(ENTRIES)[0] == seen[-1] - 1
        seen += page.js(ENTRIES)
        assert len(seen) <= long_record
    assert seen == list(range(long_record, 0, -1))
    assert "This is where the record begins." in page.text("#older")
    page.click("#older a")
    page.wait(f"{ENTRIES}[0] === {long_record}")


@pytest.mark.live
def test_the_record_is_searched_by_words_people_subjects_and_kinds(page, house, long_record):
    page.open(f"{house.url}/audit?search=setting7%20ci-1")
    page.wait("document.querySelector('.journal')")
    page.wait("document.querySelectorAll('.journal tbody tr').length === 6")  # 7, 71, 73 ... 79
    rows = page.js(
        "[...document.querySelectorAll('.journal tbody tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    assert [row[5].split()[-1] for row in rows] == [f"setting{k}" for k in (79, 77, 75, 73, 71, 7)]
    assert {(row[2], row[4]) for row in rows} == {("change", "ci-1")}
    page.js("document.querySelector('#words').select()")
    page.write("setting129")
    page.wait("document.querySelectorAll('.journal tbody tr').length === 1")
    assert "search=setting129" in page.js("location.search")
    page.js("document.querySelector('#words').select()")
    page.write("nobody wrote this")
    page.wait("document.querySelector('#entries .empty')")
    assert page.text("#entries") == "No entry on this page fits; there may be older ones."
    page.open(f"{house.url}/audit?subject=run-22c0ffee")
    page.wait("document.querySelectorAll('.journal tbody tr').length === 2")
    kinds = page.js("[...document.querySelectorAll('.journal .chip')].map((e) => e.innerText)")
    assert kinds == ["run", "plan"]
    page.open(f"{house.url}/audit?kind=run&search=helped")
    page.wait("document.querySelectorAll('.journal tbody tr').length === 1")
    assert "serve-bad-deploy is done: helped" in page.text(".journal")


@pytest.mark.live
def test_a_record_that_was_altered_is_said_to_be(page, house):
    with contextlib.closing(sqlite3.connect(house.state / "journal.sqlite")) as c, c:
        c.execute("DROP TRIGGER journal_no_update")
        c.execute(
            "UPDATE journal SET body = replace(body, '710 ms', '170 ms') WHERE kind = 'incident'"
        )
    page.open(f"{house.url}/audit")
    page.wait("document.querySelector('#chain.fault')")
    assert re.match(
        r"The record is not as it was written: entry \d+: was altered", page.text("#chain")
    )


# ---- two small acts


@pytest.mark.live
def test_a_silence_is_ended_by_who_may_and_stands_in_the_record(page, house):
    token = sign_in(page, house)
    page.open(f"{house.url}/incidents/inc-7f3a99e0")
    asked(page, "silence inc-7f3a99e0")
    (silence,) = house.desk.silences()
    page.open(house.url)
    line = "document.querySelector('#silences .row')"
    page.wait(line)
    said = page.text("#silences")
    assert "service:wine" in said
    assert "host.neighbour" in said
    assert "more, by olga" in said
    sign_in(page, house, "viewer")
    page.wait(f"{line}?.querySelector('button').getAttribute('aria-disabled') === 'true'")
    assert "silence needs operator" in page.js(f"{line}.querySelector('button').title")
    page.js(f"sessionStorage.setItem('token', '{token}')")
    page.open(house.url)
    asked(page, f"unsilence {silence['id']}")
    page.wait("document.querySelector('#silences-part').hidden")
    assert house.desk.silences() == []
    last = list(house.story.hooks.journal.read(("silence",)))[-1]
    assert (last.subject, last.body["ended_by"]) == (silence["id"], "olga (operator, token)")


@pytest.mark.live
def test_the_post_mortem_can_be_copied(page, house):
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.send("Browser.grantPermissions", permissions=allowed, origin=house.url)
    try:
        page.open(f"{house.url}/incidents/inc-1a2b3c4d")
        page.wait("document.querySelector('[data-focus=report]')")
        page.click("[data-focus=report]")
        page.wait("document.querySelector('#text-box').open")
        page.click("#text-copy")
        page.wait("document.querySelector('#say').textContent === 'Copied'")
        copied = page.js("navigator.clipboard.readText()")
    finally:
        page.send("Browser.resetPermissions")
    assert copied == house.desk.report("inc-1a2b3c4d")["markdown"]
