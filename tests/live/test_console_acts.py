"""What people do in the console: each act with a token, a role, and a question first."""

import json
import time
from dataclasses import replace

import pytest
from console_side import asked, at, button, put, sign_in

from agent.codec import pack
from agent.model import Outcome
from agent.ports import Note
from agent.questions import Field, Question

NOISY = "inc-7f3a99e0"


def go_with_a_wrong_token(page):
    """Do what the box asks for, and say that one is somebody whom nobody knows."""
    page.click("#ask-go")
    page.wait("document.querySelector('#token-box').open")
    page.write("wrong")
    page.click("#token-use")
    page.wait("document.querySelector('#token-fault').innerText.includes('not known')")


@pytest.mark.live
def test_approving_asks_for_a_token_once_and_for_exactly_this_plan(page, house):
    token = house.story.tokens.add("olga", "operator", 0.0)
    page.wait("document.querySelector('#asks [data-focus^=approve]')")
    page.click("#asks [data-focus^='approve']")
    page.wait("document.querySelector('#ask-box').open")
    assert "set priority (put back later)" in page.text("#ask-box")
    assert house.story.run.plan_hash[:12] in page.text("#ask-box")
    go_with_a_wrong_token(page)
    page.write(token)
    page.click("#token-use")
    page.wait("document.querySelector('#runs').innerText.includes('acting')")
    (entry,) = house.story.hooks.journal.read(("approval",))
    assert entry.body == {
        "person": "olga (operator, token)", "yes": True, "plan_hash": house.story.run.plan_hash,
    }  # fmt: skip
    page.wait("document.querySelector('#who').innerText === 'olga (operator)'")
    assert page.js("sessionStorage.getItem('token')") == token
    assert page.js("Object.values(localStorage).join() + document.cookie") == ""
    page.click("#runs [data-focus^='stop']")  # it acts: now it can be stopped
    page.wait("document.querySelector('#ask-box').open")
    page.click("#field-reason")
    page.write("the wrong host")
    page.click("#ask-go")
    page.wait("!document.querySelector('#ask-box').open")
    said = "olga (operator, token): the wrong host"
    assert house.story.hooks.memory.cancels == {"run-22c0ffee": said}
    # it had helped, and held something until it was stopped
    helped = Outcome("helped", "latency fell", "", undone=True)
    run = replace(house.story.run, state="denied", text=f"stopped by {said}", outcome=helped)
    house.call(house.story.hooks.record, "run", run.id, pack(run), house.story.now)
    page.open(f"{house.url}/incidents/{NOISY}")
    page.wait("document.body.innerText.includes('latency fell')")
    page.wait(f"document.body.innerText.includes('stopped by {said}')")


@pytest.mark.live
def test_a_token_that_is_being_typed_stays(page, house):
    """The page reads again with a wrong token and asks for another; the act that waits asks later, for the same."""
    token = house.story.tokens.add("olga", "operator", 0.0)
    page.wait("document.querySelector('#asks [data-focus^=approve]')")
    page.js(
        "(() => { const now = window.fetch; window.slow = 0; window.fetch = async (url, how) => {"
        "const slow = how?.method === 'POST'; if (slow) await new Promise((go) => setTimeout(go, 1000));"
        "const said = await now(url, how); if (slow) window.slow += 1; return said; }; })()"
    )
    page.click("#asks [data-focus^='approve']")
    page.wait("document.querySelector('#ask-box').open")
    go_with_a_wrong_token(page)
    page.write(token)
    page.wait("window.slow === 2")
    assert page.js("document.querySelector('#token').value") == token
    assert "not known" in page.text("#token-fault")
    page.click("#token-use")
    page.wait("document.querySelector('#runs').innerText.includes('acting')")
    page.problems.clear()  # the browser notes each 401


@pytest.mark.live
def test_a_plan_that_changed_since_it_was_seen_is_not_approved(page, house):
    sign_in(page, house)
    page.wait("document.querySelector('#asks [data-focus^=approve]')")
    page.click("#asks [data-focus^='approve']")
    page.wait("document.querySelector('#ask-box').open")
    other = replace(house.story.run, plan_hash="f" * 64)
    done = []
    house.call(
        lambda: done.append(house.story.hooks.record("run", other.id, pack(other), house.story.now))
    )
    page.wait("true")
    page.click("#ask-go")
    page.wait(
        "document.querySelector('#ask-fault').innerText.includes('has changed since you saw it')"
    )
    assert done
    assert house.desk.run("run-22")["asks"]
    page.problems.clear()  # the browser notes the 409


@pytest.mark.live
def test_what_a_plan_would_do_is_asked_before_a_yes(page, house):
    sign_in(page, house)
    page.wait("document.querySelector('#asks [data-focus^=approve]')")
    page.click("#asks [data-focus^='approve']")
    page.wait("document.querySelector('#ask-box').open")
    page.click("#ask-body [data-focus='dry-run']")
    page.wait("document.querySelector('#ask-body .dry')")
    assert "set priority would set_priority" in page.text("#ask-body .dry")
    assert "Nothing was done" in page.text("#ask-body")
    assert house.desk.run("run-22")["asks"]
    assert list(house.story.hooks.journal.read(("approval",))) == []
    page.click("#ask-cancel")
    page.open(f"{house.url}/playbooks?id=calm-neighbour")
    page.wait(button("plan calm-neighbour"))
    page.click(at("plan calm-neighbour"))
    page.wait("document.querySelector('#field-target')")
    put(page, "target", "nightly")
    page.click("#ask-go")
    page.wait("document.querySelector('#ask-body [data-focus=dry-run]')")
    page.click("#ask-body [data-focus='dry-run']")
    page.wait("document.querySelector('#ask-body .dry')")
    assert "set priority would set_priority" in page.text("#ask-body .dry")
    assert "run-byhand" not in house.story.hooks.memory.runs


@pytest.mark.live
def test_what_was_only_suggested_is_no_run_of_its_own(page, house):
    hooks, run = house.story.hooks, house.story.run
    older = replace(run, id="run-0", mode="suggest", state="suggested", started=run.started - 9)
    taken = replace(run, id="run-1", mode="suggest", state="done", text="started by olga")
    for one in (older, taken):
        house.call(lambda one=one: hooks.record("run", one.id, pack(one), house.story.now))
    page.open(f"{house.url}/incidents/{NOISY}")
    page.wait("document.querySelectorAll('#runs .run').length === 1")
    page.wait("document.querySelector('#timeline').innerText.includes('started by olga')")
    assert page.text("#timeline").count("suggested: ") == 1
    assert "started by olga" not in page.text("#runs")
    page.open(house.url)
    page.wait("document.querySelector('#runs').innerText.includes('Roll back')")
    assert "started by olga" not in page.text("#runs")


@pytest.mark.live
def test_by_keyboard_an_incident_is_opened_and_its_heading_has_the_focus(page, house):
    page.wait("document.querySelector('[data-line]')")
    page.js(f"document.querySelector('[data-focus={json.dumps(NOISY)}][data-line]').focus()")
    page.key("Enter")
    page.wait("document.querySelector('#about h1')?.innerText.includes('Latency')")
    page.wait("document.activeElement.tagName === 'H1'")
    page.wait("document.querySelector('#charts canvas')")
    assert page.js("document.activeElement.tagName") == "H1"


@pytest.mark.live
def test_what_a_role_may_not_is_out_of_reach_with_the_reason(page, house):
    sign_in(page, house, "viewer")
    page.wait(
        "document.querySelector('#asks [data-focus^=deny]')?.getAttribute('aria-disabled') === 'true'"
    )
    why = page.js("document.querySelector('#asks [data-focus^=deny]').title")
    assert why == "vic is viewer, deny needs operator"
    page.click("#asks [data-focus^='deny']")
    assert page.js("document.querySelector('#ask-box').open") is False
    assert "needs operator" in page.text("#say")
    page.key("p")  # what is reached by key is refused by the daemon
    page.wait("document.querySelector('#ask-box').open")
    page.click("#ask-go")
    page.wait(
        "document.querySelector('#ask-fault').innerText.includes('vic is viewer, pause needs operator')"
    )
    assert house.desk.pauses() == []
    assert house.desk.run("run-22")["asks"]
    page.problems.clear()  # the browser notes the 403


@pytest.mark.live
def test_pausing_and_resuming(page, house):
    sign_in(page, house)
    page.key("p")
    page.wait("document.querySelector('#ask-box').open")
    page.click("#field-reason")
    page.write("deploying")
    page.click("#ask-go")
    page.wait("document.querySelector('#paused').innerText.includes('Everything is paused')")
    assert "By olga (operator, token): deploying" in page.text("#paused")
    assert house.desk.pauses()[0]["key"] == "*"
    page.click("#paused button")
    page.wait("document.querySelector('#ask-box').open")
    page.click("#ask-go")
    page.wait("document.querySelector('#paused').hidden")
    assert house.desk.pauses() == []


@pytest.mark.live
def test_an_incident_is_taken_silenced_and_called_noise(page, house):
    sign_in(page, house)
    page.open(f"{house.url}/incidents/{NOISY}")

    def press(what, done):
        page.wait(f"document.querySelector(\"[data-focus='{what} {NOISY}']\")")
        page.click(f"[data-focus='{what} {NOISY}']")
        page.wait("document.querySelector('#ask-box').open")
        page.click("#ask-go")
        page.wait("!document.querySelector('#ask-box').open")
        page.wait(done)

    press("ack", "document.querySelector('#about').innerText.includes('olga has it')")
    press("snooze", "document.querySelector('#about').innerText.includes('put off for')")
    assert house.desk.incident(NOISY)["snoozed_until"] == house.story.now + 3600
    press(
        "blame", "document.querySelector('#about').innerText.includes('Not the cause, says olga')"
    )
    press("page", "document.querySelector('#say').textContent.includes('Call: done')")
    assert "olga calls for help" in str([e.body for e in house.story.hooks.journal.read(("note",))])
    press("silence", "true")
    (silence,) = house.desk.silences()
    assert (silence["target"], silence["cause"]) == ("service:wine", "host.neighbour")
    press("noise", "document.querySelector('#about').innerText.includes('noise, says olga')")
    assert house.desk.budget()["false_last_week"] == 1
    page.open(house.url)
    page.wait("document.querySelector('#silences')?.innerText.includes('service:wine')")
    page.wait("document.querySelector('#facts').innerText.includes('1 of 2 pages')")


@pytest.mark.live
def test_a_run_by_hand_is_seen_as_a_plan_first_and_bound_to_it(page, house):
    sign_in(page, house)
    page.open(f"{house.url}/playbooks?id=calm-neighbour")
    page.wait("document.querySelector(\"[data-focus='plan calm-neighbour']\")")
    page.click("[data-focus='plan calm-neighbour']")
    page.wait("document.querySelector('#ask-box').open")
    page.click("#field-target")
    page.write("nightly-batch")
    page.click("#ask-go")
    page.wait("document.querySelector('#ask-title').innerText.includes('on nightly-batch')")
    plan = house.desk.plan("calm-neighbour", "nightly-batch")
    assert plan["hash"][:12] in page.text("#ask-box")
    assert "set priority" in page.text("#ask-box")
    assert [e.kind for e in house.story.hooks.journal.read(("plan",))] == ["plan"] * 2  # no new one
    page.click("#ask-go")
    page.wait("!document.querySelector('#ask-box').open")
    (run,) = [r for r in house.desk.runs() if r["id"] == "run-byhand"]
    assert run["plan_hash"] == plan["hash"]
    assert run["by"] == "olga (operator, token)"


@pytest.mark.live
def test_the_mode_of_a_playbook_is_for_authors(page, house):
    sign_in(page, house)
    page.open(f"{house.url}/playbooks?id=calm-neighbour")
    mode = "document.querySelector(\"[data-focus='mode calm-neighbour']\")"
    page.wait(f"{mode}?.getAttribute('aria-disabled') === 'true'")
    assert "mode needs author" in page.js(f"{mode}.title")
    sign_in(page, house, "author")
    page.open(f"{house.url}/playbooks?id=calm-neighbour")
    page.wait(f"{mode} && !{mode}.hasAttribute('aria-disabled')")
    page.click("[data-focus='mode calm-neighbour']")
    page.wait("document.querySelector('#ask-box').open")
    page.js("document.querySelector('#field-mode').value = 'observe'")
    page.click("#ask-go")
    page.wait("document.querySelector('.ladder [aria-current]').innerText === 'observe'")
    assert house.desk.playbooks()[0]["mode"] == "observe"


@pytest.mark.live
def test_a_page_of_somebody_else_can_make_the_browser_do_nothing(browser, house):
    evil = f"data:text/html,<form method=post action='{house.url}/api/pause'></form>"
    browser.page("Page.navigate", url=evil)
    browser.wait("document.querySelector('form')")
    browser.js("document.querySelector('form').submit()")
    until = time.monotonic() + 20
    while not (found := list(house.story.hooks.journal.read(("refused",)))):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (found[0].subject, found[0].body["status"]) == ("/api/pause", 403)
    assert found[0].body["origin"] == "null"
    assert house.desk.pauses() == []


@pytest.mark.live
def test_what_needs_people_whom_it_called_and_what_is_put_off_stand_first_and_on_its_page(
    page, house
):
    record, now = house.story.hooks.record, house.story.now
    why = "calm-neighbour on process:b00t/5200/9950 does not act: 2; tried 2 times"
    house.call(record, "handoff", NOISY, {"code": "attempts", "why": why}, now)
    for ago, way in ((90, "slack/#ops"), (30, "pagerduty")):
        key = f"ladder:{NOISY}:0:{now - 90:.0f}:0:{way}"
        note = Note(key, now - ago, "page", "slow", "why", NOISY, to=(way,))
        house.call(record, "note", key, pack(note), now - ago)
    page.wait("document.querySelector('#incidents .needs')")
    row = "#incidents .row.page"
    assert f"Needs you: {why}" in page.text(row)
    assert "called 2 ways" in page.text(row)
    assert "1 incident needs a person" in page.text("#verdict-more")
    sign_in(page, house)
    page.open(f"{house.url}/incidents/{NOISY}")
    page.wait("document.querySelector('#about .needs')")
    said = page.text("#about")
    assert f"Needs you: {why}" in said
    assert said.index("slack/#ops at") < said.index("pagerduty at")
    assert "Nobody has taken it yet" in said
    assert "called pagerduty" in page.text("#timeline")
    asked(page, f"snooze {NOISY}", reason="after lunch", **{"for": "4h"})
    page.wait("document.querySelector('#about').innerText.includes('put off for 3 h 59 min by olga')"
              " || document.querySelector('#about').innerText.includes('put off for 4 h 0 min by olga')")  # fmt: skip
    page.open(house.url)
    page.wait(f"document.querySelector('{row}')?.innerText.includes('put off for')")
    page.open(f"{house.url}/incidents/{NOISY}")
    asked(page, f"wake {NOISY}")
    page.wait("!document.querySelector('#about').innerText.includes('put off')")
    assert house.desk.incident(NOISY)["snoozed_until"] is None
    asked(page, f"ack {NOISY}")
    page.wait("!document.querySelector('#about').innerText.includes('Nobody has taken it')")


@pytest.mark.live
def test_a_question_that_asks_for_more_than_the_role_is_out_of_reach(page, house):
    now = house.story.now
    line = Field("go", "yes_no", "Go on?")
    asks = Question("ask-1", "service:wine", "Drain it?", (line,), "author", now, now + 900)
    house.call(house.story.hooks.record, "question", asks.id, pack(asks), now)
    sign_in(page, house)
    press = button("answer ask-1")
    page.wait(f"{press}?.getAttribute('aria-disabled') === 'true'")
    assert page.js(f"{press}.title") == "olga is operator, this asks for author"
    sign_in(page, house, "author")
    page.wait(f"{press} && !{press}.hasAttribute('aria-disabled')")
    page.click(at("answer ask-1"))
    page.wait("document.querySelector('#ask-box').open")
    page.click("#ask-go")  # nothing is chosen, and there is no default
    assert page.js("document.querySelector('#field-go').matches(':invalid')")
    put(page, "go", "no")
    page.click("#ask-go")
    page.wait("!document.querySelector('#ask-box').open")
    assert house.story.hooks.memory.replies["ask-1"].values == {"go": False}
    page.wait(f"{press} === null")
