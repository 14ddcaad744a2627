"""What tests of the console share: who signs in, and how a box that asks is answered."""

import json


def sign_in(page, house, role="operator"):
    token = house.story.tokens.add({"operator": "olga", "viewer": "vic"}.get(role, role), role, 0.0)
    page.js(f"sessionStorage.setItem('token', {json.dumps(token)})")
    page.open(house.url)
    page.wait("document.querySelector('#who').innerText.includes('(')")
    return token


def asked(page, focus, **fields):
    """Press a button that asks first, fill in the lines of the box, say yes, and wait until it is done."""
    page.wait(button(focus))
    page.click(at(focus))
    page.wait("document.querySelector('#ask-box').open")
    for name, text in fields.items():
        put(page, name, text)
    page.click("#ask-go")
    page.wait("!document.querySelector('#ask-box').open")


def put(page, name, text):
    """Type into a line of the box, or choose there."""
    if page.js(f"document.querySelector('#field-{name}').tagName") == "SELECT":
        page.js(f"document.querySelector('#field-{name}').value = {json.dumps(text)}")
        return
    page.js(f"document.querySelector('#field-{name}').focus()")
    page.js(f"document.querySelector('#field-{name}').select()")
    page.write(text)


def at(focus):
    """Return the selector of a button by its name."""
    return f"[data-focus='{focus}']"


def button(focus):
    """Return the expression that finds it, null where there is none."""
    return f"document.querySelector({json.dumps(at(focus))})"
