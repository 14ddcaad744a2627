"""What people see in Slack: incidents, answers and forms as blocks, made of the views of the desk. Pure.

    IncidentDetail, buttons -> parent message    Note -> reply in its thread    View -> form, and what was filled in

Written with Slack's own models, which check most limits when they are turned into JSON; texts are cut before. A time is
written so that each reader sees it on their own clock. Nothing that passes with time alone stands in a message that is
edited: it would change for nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from slack_sdk.models.blocks import (
    ActionsBlock,
    Block,
    ButtonElement,
    ConfirmObject,
    ContextBlock,
    ImageBlock,
    InputBlock,
    InputInteractiveElement,
    InteractiveElement,
    MarkdownTextObject,
    NumberInputElement,
    Option,
    PlainTextInputElement,
    PlainTextObject,
    RadioButtonsElement,
    SectionBlock,
    StaticSelectElement,
)
from slack_sdk.models.blocks.basic_components import SlackFile
from slack_sdk.models.views import View

from agent.causes import CAUSES
from agent.errors import Refused
from agent.handoff import CALLS
from agent.views import only_suggested, plainly
from agent.why import run_words

if TYPE_CHECKING:
    from agent.ports import Note
    from agent.views import FieldView, IncidentDetail, PlanView, QuestionView, RunView, WouldView

EVENT: Final = "homeostat_message"
"""Type of the metadata that our messages carry."""
_FACTS: Final = ("about", "cause", "cause_of", "because", "state")
_MOST_TEXT: Final = 2900
"""Slack takes 3000 in a section; what we write is cut with room for its end."""
_MOST_VALUE: Final = 2000
_MOST_PARTS: Final = 45
_MOST_LABEL: Final = 75
_MOST_LINES: Final = 90
_MOST_OPTIONS: Final = 100
_MOST_ANSWER: Final = 2000
_WRITTEN: Final = re.compile(r"(?<![/\w])homeostat ((?:approve|deny|answer|undo) [^\n;`]+)")
"""A command as a terminal takes it, in what people are told."""
_RUN: Final = re.compile(r"\bby homeostat:[\w-]+")
_MOST_REASONS, _MOST_RUNS, _MOST_HURT, _MOST_STEPS = 3, 3, 5, 6
_MARKS: Final[Mapping[str, str]] = {"page": "🔴", "warning": "🟠", "note": "🔵"}
_OVER: Final = "✅"
_NEEDS: Final[Mapping[str, str]] = {
    "asks": "say yes or no", "suggests": "say yes or no", "attempts": "attempts are used up",
    "correlated": "too much is wrong at once", "harmed": "a playbook did harm", "failed": "a run failed",
    "unanswered": "nobody answered in time", "no_effect": "what was done had no effect",
    "cannot_tell": "whether it helped can not be told", "held": "nothing may act",
    "no_playbook": "no playbook is meant for this",
}  # fmt: skip
"""Why a person is needed (`agent.handoff`), in the words that head a message."""
_SNOOZES: Final = (
    ("30m", "30 minutes"), ("1h", "1 hour"), ("4h", "4 hours"), ("tomorrow 9:00", "until tomorrow"), ("7d", "a week"),
)  # fmt: skip
_LASTS: Final = (
    ("1h", "1 hour"), ("4h", "4 hours"), ("1d", "1 day"), ("7d", "1 week"), ("30d", "30 days"),
)  # fmt: skip

_WOULD: Final[Mapping[str, str]] = {
    "would": "", "refused": "it can not: ", "unknown": "no answer: ", "later": "can be told only then: ",
}  # fmt: skip

Blocks = list[dict[str, Any]]


# ---------------------------------------------------------------- words


def escaped(text: str) -> str:
    """Return a text that calls nobody and links nowhere."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, most: int) -> str:
    """Cut a text, and show that it was."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def moment(ts: float) -> str:
    """Write a time that each reader sees on their own clock."""
    plain = datetime.fromtimestamp(ts, UTC)
    return f"<!date^{int(ts)}^{{date_short_pretty}} {{time}}|{plain:%Y-%m-%d %H:%M UTC}>"


def phase(i: IncidentDetail) -> str:
    """Say where an incident stands, in the words that head its message."""
    asking = [r for r in i["run_views"] if r["asks"]]
    live = [r for r in i["run_views"] if r["live"] and not r["asks"]]
    if i["merged_into"]:
        return f"part of {i['merged_into']}"
    if i["state"] == "resolved":
        healed = any(_verdict(r) == "helped" for r in i["run_views"])
        return "resolved, healed by a playbook" if healed else "resolved"
    if asking:
        return "needs you: say yes or no"
    if i["questions"]:
        return "needs you: a run asks a question"
    if live:
        state = live[-1]["state"]
        return {"verifying": "acted, checking whether it helped", "holding": "a temporary measure holds",
                "undoing": "putting back", "paused": "needs you: paused"}.get(state, "acting")  # fmt: skip
    if i["state"] == "mitigated":
        return "well again, and has to stay so"
    if not i["causes"]:
        return "open, looking for the cause"
    if i["needs"]:
        return f"needs you: {_NEEDS.get(i['needs'], 'a person has to look')}"
    return "diagnosed"


def _verdict(r: RunView) -> str:
    return r["outcome"]["verdict"] if r["outcome"] is not None else ""


def headline(i: IncidentDetail) -> str:
    """Say an incident in one line, for notifications and for those who have it read to them."""
    top = i["causes"][0] if i["causes"] else None
    cause = (
        f": {top['words']} ({top['entity']['name']})" if top and top["kind"] != "unknown" else ""
    )
    return cut(escaped(f"{_mark(i)} {i['title']}{cause} [{phase(i)}]"), 300)


def _mark(i: IncidentDetail) -> str:
    return _OVER if i["state"] == "resolved" else _MARKS.get(i["severity"], "🔵")


# ---------------------------------------------------------------- the message of an incident


def incident(i: IncidentDetail, *, link: str, picture: str, buttons: bool) -> Blocks:
    """Return the one message that an incident has, as it stands now.

    picture   id of a file of Slack's, "" = none; buttons: this workspace may act
    """
    where = f"<{link}|{escaped(i['id'])}>" if link else escaped(i["id"])
    head = f"{_mark(i)} *{escaped(cut(i['title'], 200))}*\n{escaped(phase(i))}"
    out: list[Block] = [_section(head), _section("\n".join(_facts(i)))]
    if picture:
        alt = cut(f"charts of what is abnormal in {i['id']}: {i['title']}", 1900)
        out.append(ImageBlock(alt_text=alt, slack_file=SlackFile(id=picture)))
    about = [where, i["severity"], f"since {moment(i['opened'])}"]
    if i["reopened"]:
        about.append(f"came back {i['reopened']} times" if i["reopened"] > 1 else "came back")
    if i["acknowledged_by"]:
        about.append(f"{escaped(i['acknowledged_by'].partition(' (')[0])} has it")
    until = i.get("snoozed_until")
    if until is not None:
        about.append(f"put off until {moment(until)}")
    if i["label"]:
        about.append(f"labelled {i['label']}")
    out.append(ContextBlock(elements=[MarkdownTextObject(text=cut(" · ".join(about), _MOST_TEXT))]))
    if buttons and not i["merged_into"]:
        out += _buttons(i)
    return [block.to_dict() for block in out]


def _facts(i: IncidentDetail) -> Iterable[str]:
    """Yield what stands under the headline: cause, why, what it hurts, what was tried, what comes next."""
    top = i["causes"][0] if i["causes"] else None
    if top is None:
        yield (
            f"*Seen* {escaped(cut(i['anomalies'][0]['text'], 250))}"
            if i["anomalies"]
            else "*Seen* see the console"
        )
    elif top["kind"] == "unknown":
        logs = ", ".join(e["name"] for e in i["logs_of"][:3])
        yield "*Cause* none that any metric speaks for" + (
            f"; look at the logs of {escaped(logs)}" if logs else ""
        )
    else:
        doubt = ", low confidence" if i["low_confidence"] else ""
        yield (f"*Cause* {escaped(top['words'])}: *{escaped(top['entity']['name'])}* "
               f"({100 * top['probability']:.0f} % sure{doubt})")  # fmt: skip
    said = [e["text"] for e in (top["evidence"] if top else ()) if e["weight"] > 0][:_MOST_REASONS]
    yield from (f"• {escaped(cut(text, 250))}" for text in said)
    hurts = [e["name"] for e in i["hurts"]]
    if hurts:
        more = f" and {len(hurts) - _MOST_HURT} more" if len(hurts) > _MOST_HURT else ""
        yield f"*Hurts* {escaped(', '.join(hurts[:_MOST_HURT]))}{more}"
    if i["more"] or len(i["anomalies"]) > 20:
        yield f"*Size* a storm: {_about(len(i['anomalies']) + i['more'])} abnormal series, one incident"
    done = [r for r in i["run_views"] if not (r["asks"] or only_suggested(r))]
    for r in done[-_MOST_RUNS:]:
        yield f"*{'Now' if r['live'] else 'Tried'}* {escaped(cut(_plainly(run_words(r)), 300))}"
    asking = [r for r in i["run_views"] if r["asks"]]
    yield from (f"*Would do* {_plan_words(r)}" for r in asking[-1:])
    for q in i["questions"][:_MOST_REASONS]:
        yield f"*Asks* {escaped(cut(q['text'], 300))} (role {q['role']}, until {moment(q['until'])})"
    if i["needs_you"] and not asking:  # what asks is told above
        yield f"*Needs you* {escaped(cut(i['needs_you'], 400))}"
    if said_by := i["corrected"]:
        note = f": {said_by['note']}" if said_by["note"] else ""
        spoken = f"{said_by['text']} ({said_by['by'].partition(' (')[0]}{note})"
        yield f"*Person says* {escaped(cut(spoken, 400))}"
    held = [d for d in i["decisions"] if not d["allowed"]]
    if held and not asking and not done and i["needs"] not in CALLS:  # it is told above
        gate = next((g for g in held[-1]["gates"] if not g["passed"]), None)
        why = (
            f", held back by gate {gate['name']}: {gate['reason'] or gate['value']}" if gate else ""
        )
        yield f"*Held* {escaped(cut(held[-1]['playbook'] + why, 300))}"


def _about(n: int) -> str:
    """Write a number so that it does not change with every one more."""
    digits = 10 ** max(len(str(n)) - 1, 1)
    return str(n) if n < 20 else f"more than {n // digits * digits}"


def _plan_words(r: RunView) -> str:
    """Say what a run would do, step by step, and how it will be seen whether it helped."""
    steps = [s["use"].replace("_", " ") for s in r["steps"]]
    rest = f" and {len(steps) - _MOST_STEPS} more" if len(steps) > _MOST_STEPS else ""
    text = f"{r['title']}, on {r['target']['name']}: {', then '.join(steps[:_MOST_STEPS])}{rest}"
    expect = f"; then it must hold that {' and '.join(r['expect'])}" if r["expect"] else ""
    return escaped(cut(text + expect, 600))


def _buttons(i: IncidentDetail) -> list[Block]:
    """Return what can be pressed now; each button carries what it is about, so that an old one can be told."""
    of = {"i": i["id"]}
    rows: list[list[InteractiveElement]] = []
    asking = [r for r in i["run_views"] if r["asks"]][-1:]
    for r in asking:
        about = {**of, "r": r["id"], "h": r["plan_hash"]}
        rows.append([
            _button("approve", "Approve", about, style="primary", confirm=_plan_words(r), yes="Do it"),
            _button("deny", "Deny", about, style="danger"), _button("dry-run", "Dry run", about),
        ])  # fmt: skip
    rows += [[_answer_button(q["id"], i["id"])] for q in i["questions"][:1]]
    for r in [r for r in i["run_views"] if _stoppable(r)][-1:]:
        what = escaped(cut(f"{r['title']}, on {r['target']['name']}", 200))
        says = f"It stops at its next step and puts back what it did: {what}"
        about = {**of, "r": r["id"]}
        rows.append([_button("stop", "Stop", about, style="danger", confirm=says, yes="Stop it")])
    undo = [r for r in i["run_views"] if r.get("undoable")][-1:]
    if i["state"] == "resolved":
        rows.append([
            *(_button("undo", "Undo", {**of, "r": r["id"]}) for r in undo),
            _button("cause", "Not the cause", of), _button("noise", "It was noise", of),
            _button("real", "It was real", of),
        ])  # fmt: skip
    else:
        rows.append([
            *(() if i["acknowledged_by"] else (_button("ack", "I have it", of),)),
            *(_button("undo", "Undo", {**of, "r": r["id"]}) for r in undo),
            _button("snooze", "Snooze", of), _button("silence", "Silence", of),
            *((_button("cause", "Not the cause", of),) if i["causes"] else ()),
            _button("page", "Page somebody", of),
        ])  # fmt: skip
    return [ActionsBlock(elements=row) for row in rows]


def _answer_button(question: str, incident: str) -> ButtonElement:
    return _button("answer", "Answer", {"i": incident, "q": question}, style="primary")


def _stoppable(r: RunView) -> bool:
    """Tell whether a run is at work that can be stopped: what is being put back already is not."""
    return r["live"] and not r["asks"] and not r["undoes"] and r["state"] != "undoing"


def _button(
    action: str,
    label: str,
    about: Mapping[str, str],
    *,
    style: str | None = None,
    confirm: str = "",
    yes: str = "",
) -> ButtonElement:
    asked = None
    if confirm:
        asked = ConfirmObject(
            title=PlainTextObject(text=label), text=MarkdownTextObject(text=cut(confirm, 290)),
            confirm=PlainTextObject(text=yes), deny=PlainTextObject(text="Not now"),
        )  # fmt: skip
    return ButtonElement(
        text=cut(label, _MOST_LABEL), action_id=f"homeostat:{action}", value=packed({"a": action, **about}),
        style=style, confirm=asked,
    )  # fmt: skip


def packed(about: Mapping[str, Any]) -> str:
    """Return what a button or a form carries."""
    return json.dumps(about, separators=(",", ":"))[:_MOST_VALUE]


# ---------------------------------------------------------------- notes


def note(n: Note, *, alone: bool = False, command: str = "", whom: str = "") -> dict[str, Any]:
    """Return a note as a message: beneath that of its incident, or alone, with what is known of it.

    command   by which something can be done from here; what a run asks has a button then. "" = nothing can be
    whom      what people call the target of the run that a note is about, "" = as its title does
    """
    headed = f"{n.facts['playbook']} on {whom}" if whom and n.facts.get("playbook") else n.title
    title, plain = escaped(cut(headed, 200)), cut(_plainly(n.text), 1500)
    said = escaped(_WRITTEN.sub(rf"`{command} \1`", plain) if command else plain)
    if n.event and n.facts.get("run"):
        verdict = n.facts.get("verdict", "").replace("_", " ")
        done = "Acting" if n.event == "acting" else "Acted"
        lines = [f"*{done}*: {title}" + (f" ({verdict})" if verdict else ""), said]
    else:
        lines = _titled(n, said) if alone or not n.event else [said[:1].upper() + said[1:]]
    if alone:
        known = [(name, n.facts.get(name, "")) for name in _FACTS]
        lines += [
            f"*{name.replace('_', ' ').capitalize()}* {escaped(cut(x, 400))}"
            for name, x in known
            if x
        ]
        lines.append(
            " · ".join(x for x in (n.incident, f"<{n.link}|homeostat>" if n.link else "") if x)
        )
    made = text([x for x in lines if x])
    question = n.facts.get("question", "")
    if question and command:
        made.append(ActionsBlock(elements=[_answer_button(question, n.incident)]).to_dict())
    return {"text": escaped(cut(f"{n.title}: {n.text}", 300)), "blocks": made}


def _titled(n: Note, said: str) -> list[str]:
    """Return a title and what is said under it; a title that only begins what is said is left out."""
    title, rest = f"*{escaped(cut(_plainly(n.title), 200))}*", n.text.removeprefix(n.title)
    if rest == n.text or not n.title:
        return [title, said]
    return [title, said.partition("\n")[2]] if rest.startswith("\n") else [said]


def _plainly(text_: str) -> str:
    """Return a text with the names of series as people say them, and homeostat without the number of its run."""
    return _RUN.sub("by homeostat", plainly(text_))


def metadata(key: str) -> dict[str, Any]:
    """Return what a message of ours carries, by which it is found again."""
    return {"event_type": EVENT, "event_payload": {"key": key}}


# ---------------------------------------------------------------- answers


def text(lines: str | Sequence[str], *, code: bool = False) -> Blocks:
    """Return lines as sections; code: in columns, as a terminal shows them."""
    whole = lines if isinstance(lines, str) else "\n".join(lines)
    parts = list(_parts(whole, _MOST_TEXT - 8))[:_MOST_PARTS]
    return [_section(f"```{part}```" if code else part).to_dict() for part in parts]


def _parts(whole: str, most: int) -> Iterable[str]:
    """Cut a text into parts at the ends of lines."""
    part = ""
    for line in whole.split("\n"):
        short = cut(line, most)
        if part and len(part) + 1 + len(short) > most:
            yield part
            part = short
        else:
            part = f"{part}\n{short}" if part else short
    yield part or " "


def plan(p: PlanView) -> Blocks:
    """Return what a playbook would do, with the button that starts exactly this."""
    steps = [
        f"{n}. {s['use'].replace('_', ' ')} {_params(s['params'])}".rstrip()
        for n, s in enumerate(p["steps"], 1)
    ]
    lines = [
        f"*{escaped(p['title'])}* on *{escaped(p['target']['name'])}*",
        *map(escaped, steps[:20]),
    ]
    if p["expect"]:
        lines.append(f"Then it must hold that {escaped(' and '.join(p['expect']))}.")
    out: list[Block] = [_section(cut("\n".join(lines), _MOST_TEXT))]
    about = {"p": p["playbook"], "t": p["target"]["id"], "h": p["hash"]}
    buttons: list[InteractiveElement] = [_button("dry-run", "Dry run", about)]
    if p["allowed"]:
        sure = cut("; ".join(steps), 280)
        buttons.insert(
            0, _button("start", "Start it", about, style="primary", confirm=sure, yes="Do it")
        )
    else:
        out.append(_section(f"The guard says no: {escaped(cut(p['closed'], 400))}"))
    out.append(ActionsBlock(elements=buttons))
    return [block.to_dict() for block in out]


def would(title: str, told: Sequence[WouldView]) -> Blocks:
    """Return what each step of a plan says it would do now."""
    steps = [
        f"{n}. {w['use'].replace('_', ' ')}: {_WOULD[w['status']]}{cut(_plainly(w['text']), 400)}"
        for n, w in enumerate(told, 1)
    ]
    head = f"*Dry run* {escaped(title)}, as the world is now. Nothing was done."
    return text([head, *map(escaped, steps)])


def _params(params: Mapping[str, Any]) -> str:
    return cut(", ".join(f"{k}={v}" for k, v in params.items()), 200)


def _section(said: str) -> SectionBlock:
    return SectionBlock(text=MarkdownTextObject(text=cut(said or " ", _MOST_TEXT)))


# ---------------------------------------------------------------- forms


def form(action: str, i: IncidentDetail, about: Mapping[str, str]) -> dict[str, Any]:
    """Return the form behind a button. about: what the button carried, and where its message is."""
    titles = {
        "snooze": "Snooze",
        "silence": "Silence",
        "cause": "Not the cause",
        "page": "Page somebody",
        "undo": "Undo",
        "deny": "Deny",
    }
    fields: list[Block] = [_section(f"{_mark(i)} *{escaped(cut(i['title'], 200))}*")]
    if action == "snooze":
        fields.append(
            _select(
                "lasts", "For how long is nobody told of it, unless it gets worse?", _SNOOZES, "1h"
            )
        )
    elif action == "silence":
        whom = {e["id"]: e["name"] for e in [*i["entities"], *i["also"]]}
        fields += [
            _select("target", "Who is not to be told of, nor touched?", tuple(whom.items()) or (("*", "all"),)),
            _select("lasts", "For how long?", _LASTS, "1h"),
        ]  # fmt: skip
    elif action == "cause":
        top = i["causes"][0] if i["causes"] else None
        if top is not None:
            fields.append(
                _section(f"Blamed was {escaped(top['words'])} ({escaped(top['entity']['name'])}).")
            )
        near = [c["kind"] for c in (*i["causes"][1:], *i["rejected"]) if c["kind"] != "unknown"]
        kinds = [
            k
            for k in dict.fromkeys([*near, *CAUSES])
            if k not in {"unknown", top["kind"] if top else ""}
        ]
        options = tuple((kind, f"{kind}: {CAUSES.get(kind, kind)}") for kind in kinds)
        fields.append(_select("right", "What was it, as far as you know?", options, optional=True))
    elif action == "deny":
        asking = [r for r in i["run_views"] if r["id"] == about.get("r")]
        fields += [_section(f"*Would do* {_plan_words(r)}") for r in asking]
        fields.append(_section("Then nothing of it is done."))
    fields.append(_line("reason", "Why?", optional=action != "silence"))
    return _modal(action, titles[action], titles[action], about, fields)


def _modal(
    action: str, title: str, submit: str, about: Mapping[str, str], fields: Sequence[Block]
) -> dict[str, Any]:
    view = View(
        type="modal", callback_id=f"homeostat:{action}", title=PlainTextObject(text=title),
        submit=PlainTextObject(text=submit), close=PlainTextObject(text="Leave it"),
        private_metadata=packed(about), blocks=fields,
    )  # fmt: skip
    out: dict[str, Any] = view.to_dict()
    return out


def question_form(
    q: QuestionView, about: Mapping[str, str], *, target: str, run: str
) -> dict[str, Any]:
    """Return the form of what a run asks, a line a field; raises Refused for more than Slack takes.

    target   name of whom it is about; run: title of the run that asks, "" = not known
    """
    if len(q["fields"]) > _MOST_LINES:
        raise Refused(
            f"{q['id']} has too many lines for a form; write `answer {q['id']} name=value`"
        )
    whose = (
        f"{escaped(cut(run, 200))}, on *{escaped(target)}*" if run else f"About *{escaped(target)}*"
    )
    known = f"{whose}. It can be answered until {moment(q['until'])}."
    fields: list[Block] = [
        _section(escaped(q["text"])),
        ContextBlock(elements=[MarkdownTextObject(text=cut(known, _MOST_TEXT))]),
        *(_asked(f) for f in q["fields"]),
    ]
    return _modal("answer", "A run asks", "Answer", about, fields)


def _asked(f: FieldView) -> InputBlock:
    """Return one line of a question as an input of its kind; what stands when nothing is said stands in it."""
    name, default = f["name"], f["default"]
    hints: list[str] = []
    element: InputInteractiveElement
    if f["kind"] == "yes_no":
        made = [Option(value=word, text=PlainTextObject(text=word)) for word in ("yes", "no")]
        chosen = None if default is None else made[0 if default else 1]
        element = RadioButtonsElement(action_id=name, options=made, initial_option=chosen)
    elif f["kind"] == "choice" and len(f["choices"]) <= _MOST_OPTIONS:
        # by its number: Slack takes short values only
        made = [
            Option(value=str(n), text=PlainTextObject(text=cut(said, 75) or "-"))
            for n, said in enumerate(f["choices"])
        ]
        chosen = made[f["choices"].index(str(default))] if default in f["choices"] else None
        element = StaticSelectElement(action_id=name, options=made, initial_option=chosen)
    elif f["kind"] == "number":
        low, high = _number(f["low"]), _number(f["high"])
        hints = [f"at least {low}"] if low else []
        hints += [f"at most {high}"] if high else []
        element = NumberInputElement(
            action_id=name, is_decimal_allowed=True, min_value=low, max_value=high,
            initial_value=_number(default),
        )  # fmt: skip
    else:
        hints = [cut(f"one of {', '.join(f['choices'])}", 500)] if f["choices"] else []
        element = PlainTextInputElement(
            action_id=name, max_length=_MOST_ANSWER,
            initial_value=None if default is None else cut(str(default), _MOST_ANSWER),
        )  # fmt: skip
    if default is not None and element.type in {"number_input", "plain_text_input"}:
        hints.append(f"left empty it is {cut(str(default), 100)}")
    return InputBlock(
        block_id=name, label=cut(f["text"] or name, _MOST_ANSWER), element=element,
        hint=", ".join(hints) or None, optional=default is not None,
    )  # fmt: skip


def _number(said: Any) -> str | None:
    """Write a number as Slack takes it, without an exponent; None = it is none."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return None
    return f"{Decimal(repr(float(said))):f}".removesuffix(".0")


def answered(q: QuestionView, view: Mapping[str, Any]) -> dict[str, str]:
    """Return what was answered in the form of a question; what was left empty is not in it."""
    said = {name: text for name, text in filled(view).items() if text}
    for f in q["fields"]:
        chosen = said.get(f["name"], "")
        if f["kind"] == "choice" and len(f["choices"]) <= _MOST_OPTIONS and chosen.isdecimal():
            n = int(chosen)
            said[f["name"]] = f["choices"][n] if n < len(f["choices"]) else chosen
    return said


def unfit(wrong: Mapping[str, str]) -> dict[str, Any]:
    """Return what Slack is answered so that a form stays open and says at each line what does not fit."""
    errors = {name: cut(why[:1].upper() + why[1:], 300) for name, why in wrong.items()}
    return {"response_action": "errors", "errors": errors}


def _select(
    name: str,
    label: str,
    options: Sequence[tuple[str, str]],
    chosen: str = "",
    *,
    optional: bool = False,
) -> InputBlock:
    made = [
        Option(value=cut(value, 75), text=PlainTextObject(text=cut(said, 75) or "-"))
        for value, said in options[:100]
    ]
    first = next((o for o in made if o.value == chosen), None)
    element = StaticSelectElement(
        action_id=name, options=made, initial_option=first or (None if optional else made[0])
    )
    return InputBlock(block_id=name, label=label, element=element, optional=optional)


def _line(name: str, label: str, *, optional: bool) -> InputBlock:
    element = PlainTextInputElement(action_id=name, max_length=300)
    return InputBlock(block_id=name, label=label, element=element, optional=optional)


def filled(view: Mapping[str, Any]) -> dict[str, str]:
    """Return what was written into a form: field -> text, "" where it was left empty."""
    out: dict[str, str] = {}
    for fields in view["state"]["values"].values():
        for name, said in fields.items():
            option = said.get("selected_option")
            out[name] = str((option or {}).get("value") or said.get("value") or "")
    return out
