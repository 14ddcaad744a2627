"""The answer to why: ten lines for a tired person at any width, and all of it for programs."""

import math
import sys
from dataclasses import replace

import pytest
from desk_story import ADMIN, BATCH, CORES, HOST, LATENCY, MODEL, OPERATOR, WINE, Story
from pydantic import TypeAdapter

from agent.cli import tables
from agent.codec import pack
from agent.life import turned
from agent.model import Cause, Diagnosis, Entity, Evidence, Series
from agent.views import WhyView
from agent.why import MOST_LINES, SPARKS, cut, spark


@pytest.fixture
def story(tmp_path):
    story = Story(tmp_path)
    yield story
    story.close()


def change(story, incident, **kw):
    """Write another version of an incident."""
    new = replace(incident, **kw)
    story.hooks.record("incident", new.id, pack(new), story.now)
    return new


def said(story, id_="inc-7f"):
    why = story.desk.why(id_)
    TypeAdapter(WhyView).validate_python(why, strict=True)
    assert len(why["text"]) <= MOST_LINES
    assert all(len(line) < 160 for line in why["text"])
    return why, "\n".join(why["text"])


# ---- sparks


def test_a_spark_shows_form_gaps_and_no_drama():
    assert spark([0.0, 1.0, 2.0, 3.0]) == "▁▃▆█"
    assert spark([1.0, None, math.nan, 1.0]) == "▁··▁"
    assert spark([]) == spark([None, None]) == ""
    assert spark([40.0, 41.0, 40.5]) == "▁▂▁"  # a little noise is no mountain
    assert spark([0.0, 0.001], floor=1.0) == "▁▁"
    assert spark([-3.0, 3.0]) == "▁█"


def test_evidence_is_drawn_from_history_and_its_points_are_there_for_programs(story):
    why, text = said(story)
    line = next(x for x in why["text"] if x.startswith("Because:") and "1.9 cores" in x)
    drawn = line.rpartition("  ")[2]
    assert 10 <= len(drawn) <= 30
    assert drawn[0] == SPARKS[0]
    assert drawn[-1] in SPARKS[-2:]
    chart = next(c for c in why["charts"] if c["series"] == str(CORES))
    ts, values = chart["data"]
    assert len(ts) == len(values) == len(chart["spark"]) == len(drawn)
    assert max(values) == pytest.approx(1.9, abs=0.2)
    assert why["causes"][0]["metrics"][0] == str(CORES)
    assert "Because" in text


# ---- states


def test_whose_it_is_is_said_and_offered_when_it_is_nobodys(story):
    _, text = said(story, "inc-7c")
    assert "take it: homeostat ack inc-7c00beef" in text
    story.desk.acknowledge(OPERATOR, "inc-7c", "asked the feature team")
    why, text = said(story, "inc-7c")
    assert "State:    acknowledged for" in text
    assert "olga has it: asked the feature team" in text
    assert "homeostat ack" not in text
    assert why["turns"][-1]["by"] == "olga (operator, token)"
    assert why["incident"]["acknowledged_by"] == "olga (operator, token)"


def test_a_merged_one_says_what_it_is_part_of(story):
    i = turned(story.noisy, "merged", story.now, "homeostat", "merged into inc-9: same cause: x")
    change(story, i, resolved=story.now, merged_into="inc-9")
    why, text = said(story)
    assert "State:    merged into inc-9 (same cause: x)" in text
    assert why["next"] == "homeostat why inc-9"
    with pytest.raises(Exception, match="run: homeostat ack inc-9"):
        story.desk.acknowledge(ADMIN, "inc-7f")


def test_mitigated_and_come_back_are_said(story):
    i = turned(story.broken, "mitigated", story.now, "homeostat", "well")
    change(story, i, reopened=2)
    _, text = said(story, "inc-7c")
    assert "State:    mitigated for" in text
    assert "came back 2 times" in text
    assert "it is well, and has to stay so" in text


# ---- causes


def test_without_metric_evidence_it_names_whose_logs_to_read(story):
    cause = Cause("unknown", WINE, 0.9)
    seen = Diagnosis(
        story.now, (cause,), low_confidence=True, logs_of=(WINE, Entity("dependency", "db:1"))
    )
    change(story, story.noisy, diagnosis=seen)
    why, text = said(story)
    assert "no metric evidence: look at the logs of wine, then of db:1 which it calls" in text
    assert [e["id"] for e in why["logs_of"]] == ["service:wine", "dependency:db:1"]
    assert "Seen:     latency p95 of wine is 710 ms, expected at most 250 ms  ▁" in text


def test_the_second_best_is_named_and_rejected_ones_have_reasons(story):
    d = story.noisy.diagnosis
    second = Cause("host.cpu", HOST, 0.12, (Evidence("busy", 1.0, LATENCY),))
    change(story, story.noisy, diagnosis=replace(d, causes=(*d.causes, second)))
    _, text = said(story)
    assert "Or:       host.cpu of web-1 (12 %)" in text
    assert "Not:      serving.saturation (traffic did not rise)" in text


def test_a_storm_is_summed_up_and_traces_are_few_in_words_and_all_in_json(story):
    others = tuple(Entity("service", f"s{i}") for i in range(40))
    traces = tuple(f"{i:032x}" for i in range(20))
    change(story, story.noisy, more=212, also=others, traces=traces)
    why, text = said(story)
    assert (
        "More:     2 abnormal series and 212 more; it is shared by s0, s1, s2 and 37 more" in text
    )
    assert f"Traces:   {traces[0]}, {traces[1]} and 18 more, see --json" in text
    assert why["traces"] == list(traces)


def test_with_too_much_to_say_the_least_helpful_goes(story):
    d = story.noisy.diagnosis
    second = Cause("host.cpu", HOST, 0.12, (Evidence("busy", 1.0),))
    long = Evidence("x" * 400, 9.0, Series("process.cpu_cores", BATCH))
    first = replace(d.causes[0], evidence=(long, *d.causes[0].evidence))
    together = tuple(replace(a, together=1e-6) for a in story.noisy.anomalies)
    change(
        story, story.noisy, diagnosis=replace(d, causes=(first, second)), more=9, anomalies=together,
        traces=("a", "b", "c"), also=(MODEL, HOST),
    )  # fmt: skip
    story.desk.label(OPERATOR, "inc-7f", "real", "a note")
    why, text = said(story)
    assert [x.partition(":")[0] for x in why["text"][1:4]] == ["State", "Cause", "Because"]
    assert "Together" not in text
    assert why["text"][-1].startswith("Next:")
    assert "..." in text
    assert cut("y" * 300, 20) == "y" * 17 + "..."


# ---- on a terminal


class Terminal:
    """Standard output of a person at a terminal."""

    def __init__(self, out, encoding):
        self._out, self.encoding = out, encoding

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self._out, name)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_at_eighty_columns_and_without_colour_it_stays_readable(
    story, capsys, monkeypatch, encoding
):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", Terminal(sys.stdout, encoding))
    tables.why(story.desk.why("inc-7f"))
    out = capsys.readouterr().out
    assert "\x1b[3" not in out  # no colour
    rows = out.splitlines()
    assert all(len(row) <= 80 for row in rows)
    assert len(rows) <= 24  # one screen
    assert all(row.startswith((" " * 10, "inc-")) or row[:10].strip()[-1] == ":" for row in rows)
    assert out.isascii() == (encoding == "ascii")
