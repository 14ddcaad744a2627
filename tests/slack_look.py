"""Messages of Slack as pictures: blocks as HTML, in the look of a chat, photographed in Chromium.

A rendering of ours: it shows what was sent, in its order and with its words, and not how Slack draws it. What of the
blocks it does not know it refuses rather than leave out. Emphasis follows Slack's rules, so that a star or an underline
that was meant as a letter is seen here, too.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from browser import Browser
from PIL import Image

WIDTH = 860
READY = "document.readyState === 'complete' && [...document.images].every((i) => i.complete && i.naturalWidth)"
_EMOJI = {"🔴": "#e01e5a", "🟠": "#e8912d", "🔵": "#1d9bd1", "✅": ""}
"""Drawn here: what has no such font shows boxes."""
_MARK = re.compile(r"<([^<>]+)>")
_DATE = re.compile(r"!date\^(\d+)\^([^|^]+)(?:\^[^|]+)?\|(.*)", re.DOTALL)
_CODE = re.compile(r"```(.+?)```|`([^`\n]+)`", re.DOTALL)
_EMPHASIS = tuple(
    (re.compile(rf"(?<![\w{sign}]){sign}(?=\S)([^\n{sign}]+)(?<=\S){sign}(?![\w{sign}])"), tag)
    for sign, tag in ((r"\*", "b"), ("_", "i"), ("~", "s"))
)
_STYLE = Path(__file__).with_name("slack_look.css").read_text()


def marked(text: str) -> str:
    """Return a text with Slack's marks as HTML."""
    out: list[str] = []

    def keep(made: str) -> str:
        out.append(made)
        return f"\x00{len(out) - 1}\x00"

    def link(found: re.Match[str]) -> str:
        said = found[1]
        if said.startswith("!"):
            date = _DATE.fullmatch(said)
            if date is None:
                raise ValueError(f"a mark that calls people, or is none: {said}")
            at = datetime.fromtimestamp(int(date[1]), UTC)
            return keep(f"{at:%b} {at.day} at {at:%H:%M} UTC")
        to, _, label = said.partition("|")
        return keep(f'<a href="{_safe(to)}">{_safe(label or to)}</a>')

    def code(found: re.Match[str]) -> str:
        return keep(
            f"<pre>{_safe(found[1])}</pre>" if found[1] else f"<code>{_safe(found[2])}</code>"
        )

    plain = _safe(_MARK.sub(link, _CODE.sub(code, text)))
    for pattern, tag in _EMPHASIS:
        plain = pattern.sub(rf"<{tag}>\1</{tag}>", plain)
    plain = _emoji(plain.replace("\n", "<br>"))
    return re.sub("\x00(\\d+)\x00", lambda m: out[int(m[1])], plain)


def _safe(text: str) -> str:
    return html.escape(html.unescape(text))


def _emoji(text: str) -> str:
    for sign, colour in _EMOJI.items():
        drawn = (
            f'<span class="dot" style="background:{colour}"></span>'
            if colour
            else '<span class="tick">✓</span>'
        )
        text = text.replace(sign, drawn)
    return text


def page(
    parts: Sequence[str],
    title: str = "Rendered by homeostat's tests from what was sent; Slack draws it its own way.",
) -> str:
    """Return a page of rendered messages and forms."""
    body = '<div class="gap"></div>'.join(parts)
    return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style><div class="note">{_safe(title)}</div>{body}'


def thread(
    parent: Mapping[str, Any], replies: Sequence[Mapping[str, Any]], files: Mapping[str, Any]
) -> str:
    """Return a message and what stands beneath it."""
    made = message(parent, files)
    if replies:
        told = "".join(message(m, files) for m in replies)
        count = f"{len(replies)} replies" if len(replies) > 1 else "1 reply"
        made += f'<div class="thread"><div class="count">{count}</div>{told}</div>'
    return made


def message(said: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Return one message."""
    at = datetime.fromtimestamp(float(said["ts"]), UTC)
    edited = " (edited)" if said.get("edits") else ""
    body = "".join(_block(b, files) for b in said["blocks"])
    return (
        '<div class="message"><div class="face">h</div><div class="body"><span class="who">homeostat</span>'
        f'<span class="app">APP</span><span class="at">{at:%H:%M}{edited}</span>{body}</div></div>'
    )


def modal(
    view: Mapping[str, Any],
    written: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> str:
    """Return a form. written: what somebody has put in; errors: what was said at which line."""
    given, wrong = written or {}, errors or {}
    body = "".join(
        _input(b, given, wrong) if b["type"] == "input" else _block(b, {}) for b in view["blocks"]
    )
    return (
        f'<div class="modal"><header>{_safe(view["title"]["text"])}</header><main>{body}</main><footer>'
        f'<span class="button">{_safe(view["close"]["text"])}</span>'
        f'<span class="button primary">{_safe(view["submit"]["text"])}</span></footer></div>'
    )


def _text(said: Mapping[str, Any]) -> str:
    return marked(said["text"]) if said["type"] == "mrkdwn" else _emoji(_safe(said["text"]))


def _block(block: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    match block["type"]:
        case "section":
            return f'<div class="section">{_text(block["text"])}</div>'
        case "context":
            return f'<div class="context">{" ".join(map(_text, block["elements"]))}</div>'
        case "actions":
            made = "".join(
                f'<span class="button {e.get("style") or ""}">{_safe(e["text"]["text"])}</span>'
                for e in block["elements"]
            )
            return f'<div class="actions">{made}</div>'
        case "image":
            raw = base64.b64encode(files[block["slack_file"]["id"]]["content"]).decode()
            return f'<img class="picture" alt="{_safe(block["alt_text"])}" src="data:image/png;base64,{raw}">'
    raise ValueError(f"a block that is not known here: {block['type']}")


def _input(block: Mapping[str, Any], given: Mapping[str, str], wrong: Mapping[str, str]) -> str:
    element, name = block["element"], block["block_id"]
    optional = " <small>(optional)</small>" if block.get("optional") else ""
    said = given.get(name, element.get("initial_value") or "")
    chosen = (element.get("initial_option") or {"text": {"text": ""}})["text"]["text"]
    chosen = given.get(name, chosen)
    bad = " bad" if name in wrong else ""
    match element["type"]:
        case "plain_text_input" | "number_input":
            field = f'<div class="input{bad}">{_safe(said)}</div>'
        case "static_select":
            shown = _safe(chosen) or '<span class="empty">Choose</span>'
            field = f'<div class="input{bad}">{shown} ▾</div>'
        case "radio_buttons":
            words = [o["text"]["text"] for o in element["options"]]
            field = "".join(
                f'<div class="radio"><i class="{"on" if w == chosen else ""}"></i>{_safe(w)}</div>'
                for w in words
            )
        case other:
            raise ValueError(f"an input that is not known here: {other}")
    hint = f'<div class="hint">{_safe(block["hint"]["text"])}</div>' if block.get("hint") else ""
    error = f'<div class="error">{_safe(wrong[name])}</div>' if bad else ""
    return f"<label>{_safe(block['label']['text'])}{optional}</label>{field}{error}{hint}"


def photograph(browser: Browser, folder: Path, name: str, made: str) -> str:
    """Show a page, keep `name`.png as tall as it is, in few colours; returns the text that one reads."""
    (folder / f"{name}.html").write_text(made)
    browser.page("Page.navigate", url=(folder / f"{name}.html").as_uri())
    browser.wait(READY)
    tall = browser.js("Math.ceil(document.documentElement.getBoundingClientRect().height)")
    browser.page(
        "Emulation.setDeviceMetricsOverride", width=WIDTH, height=tall, deviceScaleFactor=1, mobile=False
    )  # fmt: skip
    browser.shot(folder / f"{name}.png")
    raw = io.BytesIO((folder / f"{name}.png").read_bytes())
    few = Image.open(raw).convert("RGB").quantize(128, kmeans=1)
    few.save(folder / f"{name}.png", optimize=True)
    assert browser.js("document.documentElement.scrollWidth") <= WIDTH, "it runs out of its width"
    return str(browser.text("body"))
