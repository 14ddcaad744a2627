"""Forms and questions in Slack as people see them: rendered by us, in Chromium; one picture is kept for the docs.

`HOMEOSTAT_PICTURES=docs/pictures` keeps it.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from browser import Browser
from PIL import Image
from slack_look import WIDTH, marked, modal, page, photograph, thread
from slack_side import OLGA, SlackSide
from slack_talk import NOISY, RUN, swifter, talking, until

from agent.codec import pack
from agent.pictures import Pictures
from agent.ports import Note
from agent.questions import Field, Question

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytest.importorskip("matplotlib", reason="needs the extra `charts`")
MOST_BYTES = 150_000


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("*bold* and a*b*c 2 * 3", "<b>bold</b> and a*b*c 2 * 3"),
        ("set_priority _so_", "set_priority <i>so</i>"),
        ("&lt;!channel&gt; &amp; `a*b*`", "&lt;!channel&gt; &amp; <code>a*b*</code>"),
        ("<https://h.org|inc-1> since <!date^0^{date_short_pretty} {time}|1970>",
         '<a href="https://h.org">inc-1</a> since Jan 1 at 00:00 UTC'),
        ("```x <y\n*z*```", "<pre>x &lt;y\n*z*</pre>"),
    ],
)  # fmt: skip
def test_marks_are_read_as_slack_reads_them(text, made):
    assert marked(text) == made


def test_what_calls_everybody_is_not_passed_over():
    with pytest.raises(ValueError, match="calls people"):
        marked("<!channel> look")


@pytest.mark.live
async def test_what_a_run_asks_is_read_at_a_glance(tmp_path, monkeypatch, needs):
    chromium = needs("chromium")
    swifter(monkeypatch)
    drawing = Pictures(tmp_path / "charts")
    async with SlackSide().serving() as side, talking(tmp_path, side, drawing=drawing) as talk:
        await until(lambda: side.sockets and side.parents)
        await until(lambda: "image" in json.dumps(side.parents[0]["blocks"]))
        talk.run(state="acting")
        hooks = talk.story.hooks
        fields = (
            Field("replicas", "number", "How many replicas?", low=1.0, high=8.0),
            Field("zone", "choice", "In which zone?", ("eu-1", "eu-2"), default="eu-1"),
            Field("go", "yes_no", "Move the batch job there?"),
        )
        until_ = hooks.now() + 900
        asked = "How many replicas shall wine have?\nThe batch job needs the host for an hour more."
        question = Question(
            "ask-2f81", "service:wine", asked, fields, "operator", hooks.now(), until_, RUN
        )
        hooks.record("question", question.id, pack(question), hooks.now())
        text = f"{asked}\nAnswer: homeostat answer ask-2f81 replicas=number zone=eu-1 go=yes_no"
        facts = {"question": question.id}
        title = asked.split("\n", maxsplit=1)[0]
        await talk.slack.notify(
            Note("q:ask", hooks.now(), "warning", title, text, NOISY, facts=facts)
        )
        await until(lambda: "answer" in side.buttons(side.parents[0]))
        await side.press(OLGA, side.parents[0], "answer")
        await until(lambda: side.views)
        wrong = await side.submit(OLGA, replicas="12", go="yes")
        parent, replies = side.parents[0], side.replies(side.parents[0]["ts"])
        made = (
            thread(parent, replies, side.files),
            modal(side.views[0], {"replicas": "12", "go": "yes"}, wrong),
        )
    seen = await asyncio.to_thread(_seen, chromium, tmp_path, page(made))
    for part in (
        "Latency p95 of service wine is 710 ms", "needs you: a run asks a question", "87 % sure", "Answer",
        "Replicas is from 1 to 8, not 12", "In which zone? (optional)", "Leave it", "/homeostat answer ask-2f81",
    ):  # fmt: skip
        assert part in seen, part
    assert "&lt;" not in seen
    assert "!date" not in seen
    with Image.open(tmp_path / "slack-question.png") as picture:
        assert picture.width == WIDTH
        assert len(picture.getcolors(1 << 16)) > 20
    assert (tmp_path / "slack-question.png").stat().st_size < MOST_BYTES
    if os.environ.get("HOMEOSTAT_PICTURES"):
        to = Path(os.environ["HOMEOSTAT_PICTURES"])
        shutil.copy(tmp_path / "slack-question.png", to / "slack-question.png")


def _seen(chromium, folder, made):
    browser = Browser(chromium, folder, (WIDTH, 900))
    try:
        text = photograph(browser, folder, "slack-question", made)
        assert browser.problems == []
        return text
    finally:
        browser.close()
