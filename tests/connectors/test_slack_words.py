"""Lines as people write them in Slack."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from agent.errors import Refused
from connectors._slack_words import Line, lasting, moment, read, zone

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 25, 14, 30, tzinfo=BERLIN).timestamp()  # a Wednesday


def at(day, hour, minute=0, month=11):
    return datetime(2026, month, day, hour, minute, tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("status", Line("status")),
        ("", Line("help")),
        ("status share", Line("status", share=True)),
        ("why inc-7f", Line("why", ("inc-7f",))),
        ("silence wine for 2h", Line("silence", ("wine",), NOW + 7200)),
        ("silence wine for 2 hours", Line("silence", ("wine",), NOW + 7200)),
        ("silence wine for an hour", Line("silence", ("wine",), NOW + 3600)),
        ("silence wine for half an hour we deploy", Line("silence", ("wine",), NOW + 1800, reason="we deploy")),
        ("silence wine for 1h 30m", Line("silence", ("wine",), NOW + 5400)),
        ("silence wine for 1h30m a test", Line("silence", ("wine",), NOW + 5400, reason="a test")),
        ("silence wine until 18:00", Line("silence", ("wine",), at(25, 18))),
        ("silence wine until 6pm", Line("silence", ("wine",), at(25, 18))),
        ("silence wine until 9:00", Line("silence", ("wine",), at(26, 9))),
        ("silence wine until tomorrow", Line("silence", ("wine",), at(26, 9))),
        ("silence wine until tomorrow 7:15 by me", Line("silence", ("wine",), at(26, 7, 15), reason="by me")),
        ("silence wine until friday", Line("silence", ("wine",), at(27, 9))),
        ("silence wine until fri at 17:00", Line("silence", ("wine",), at(27, 17))),
        ("silence wine until wednesday", Line("silence", ("wine",), at(2, 9, month=12))),
        ("silence wine until 2026-12-01 10:00", Line("silence", ("wine",), at(1, 10, month=12))),
        ("silence wine until 2026-12-01T09:00Z", Line("silence", ("wine",), at(1, 10, month=12))),
        ("graph host.cpu_busy_ratio since yesterday", Line("graph", ("host.cpu_busy_ratio",), since=at(24, 0))),
        ("graph latency since 2h", Line("graph", ("latency",), since=NOW - 7200)),
        ("graph latency since 13:00 share", Line("graph", ("latency",), since=at(25, 13), share=True)),
        ("graph latency since 15:00", Line("graph", ("latency",), since=at(24, 15))),
        ("why-not roll-back wine 30 min ago", Line("why-not", ("roll-back", "wine"), since=NOW - 1800)),
        ("why-not roll-back wine 2h ago", Line("why-not", ("roll-back", "wine"), since=NOW - 7200)),
        ("why-not roll-back wine yesterday", Line("why-not", ("roll-back", "wine"), since=NOW - 86_400)),
        ("why-not roll-back wine at 14:00", Line("why-not", ("roll-back", "wine"), since=at(25, 14))),
        ("why-not “roll back” wine", Line("why-not", ("roll back", "wine"))),
        ("deny run-12 'not now'", Line("deny", ("run-12", "not now"))),
        ("why_not x &lt;y&gt;", Line("why-not", ("x", "<y>"))),
        ("graph <http://host.cpu|host.cpu>", Line("graph", ("host.cpu",))),
        ("/homeostat STATUS!", Line("status")),
        ("why `inc-7f`?", Line("why", ("inc-7f",))),
        ("why *inc-7f*", Line("why", ("inc-7f",))),
        ("Why not roll-back wine yesterday at 14:00", Line("why-not", ("roll-back", "wine"), since=at(24, 14))),
        ("why\u2013not roll-back wine", Line("why-not", ("roll-back", "wine"))),
        ("Dry Run “roll back” wine", Line("dry-run", ("roll back", "wine"))),
        ("snooze inc-7f for 1h", Line("mute", ("inc-7f",), NOW + 3600)),
        ("mute inc-7f 1h", Line("mute", ("inc-7f",), NOW + 3600)),
        ("mute 7d", Line("mute", ("7d",))),  # an incident may be called so
        ("silence wine 2 hours because we deploy", Line("silence", ("wine",), NOW + 7200, reason="we deploy")),
        ("silence wine for two hours", Line("silence", ("wine",), NOW + 7200)),
        ("silence wine for a couple of hours", Line("silence", ("wine",), NOW + 7200)),
        ("silence wine for 1h30", Line("silence", ("wine",), NOW + 5400)),
        ("silence wine for 90 min.", Line("silence", ("wine",), NOW + 5400)),
        ("silence wine until 18h", Line("silence", ("wine",), at(25, 18))),
        ("silence wine until 18.30", Line("silence", ("wine",), at(25, 18, 30))),
        ("silence wine until next monday", Line("silence", ("wine",), at(30, 9))),
        ("silence wine because we wait for Olga until 18:00",
         Line("silence", ("wine", "because", "we", "wait", "for", "Olga"), at(25, 18))),
        ("silence wine for 2h —share", Line("silence", ("wine",), NOW + 7200, share=True)),
        ("silence „my wine“ for 2h", Line("silence", ("my wine",), NOW + 7200)),
        ("silence «my wine» for 2h", Line("silence", ("my wine",), NOW + 7200)),
        ("graph latency for the last 2 hours", Line("graph", ("latency",), since=NOW - 7200)),
        ("graph latency last 2h", Line("graph", ("latency",), since=NOW - 7200)),
        ("graph latency since an hour ago", Line("graph", ("latency",), since=NOW - 3600)),
        ("undo run-1 for the customer", Line("undo", ("run-1", "for", "the", "customer"))),
        ("ack inc-7f from home until 18:00", Line("ack", ("inc-7f", "from", "home", "until", "18:00"))),
        ("deny run-1 because it is at noon", Line("deny", ("run-1",), reason="it is at noon")),
        ("answer ask-1 why=“too hot” n=3", Line("answer", ("ask-1", "why=too hot", "n=3"))),
        ('run it\'s "a b', Line("run", ("it's", '"a', "b"))),
    ],
)  # fmt: skip
def test_a_line_is_read_as_it_is_meant(text, wanted):
    assert read(text, NOW, BERLIN) == wanted


@pytest.mark.parametrize(
    "text", ["mute a for ever", "mute a until whenever", "graph x since 25:00"]
)
def test_what_is_no_time_says_how_to_write_one(text):
    with pytest.raises(Refused, match=r"not a time.*until 18:00"):
        read(text, NOW, BERLIN)


def test_a_word_of_time_at_the_end_is_a_word():
    assert read("why-not x for", NOW, BERLIN) == Line("why-not", ("x", "for"))


def test_the_same_words_mean_another_moment_elsewhere():
    tokyo = zone("Asia/Tokyo")  # there it is half past ten in the evening
    assert moment("18:00", NOW, BERLIN, ahead=True) == at(25, 18)
    assert moment("18:00", NOW, tokyo, ahead=True) == datetime(2026, 11, 26, 18, tzinfo=tokyo).timestamp()  # fmt: skip
    assert zone("No/Such") is None
    assert zone("") is None


def test_a_day_on_which_clocks_change_has_its_own_length():
    before = datetime(2026, 10, 24, 12, tzinfo=BERLIN).timestamp()
    assert moment("tomorrow 12:00", before, BERLIN, ahead=True) - before == 25 * 3600


def test_durations():
    assert lasting("90 minutes") == 5400
    assert lasting("1.5h") == 5400
    assert lasting("2 days and 3 hours") == 2 * 86_400 + 3 * 3600
    for none in ("", "soon", "2 moons", "h"):
        with pytest.raises(Refused, match="not a duration"):
            lasting(none)
