"""What people write to us, read as they mean it: `silence wine for 2h deploying`, `why-not roll back wine yesterday`.

    text -> Line: the verb, its words, a time (until, since, at), whether all may see the answer, the rest as a reason

Times are on the clock of who writes. Pure: `now` and the zone are arguments. Refused says how to write it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.errors import Refused

_UNITS: Final[Mapping[str, float]] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_ONES: Final[Mapping[str, float]] = {"a": 1.0, "an": 1.0, "one": 1.0, "half": 0.5}
_SOME: Final[Mapping[str, float]] = {
    "two": 2.0, "couple": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0, "eight": 8.0, "ten": 10.0,
    "twelve": 12.0,
}  # fmt: skip
_FILL: Final = frozenset({"of", "the", "next", "this", "last", "at"})
"""Words of a time that say nothing: `for the last two hours`, `until next monday`."""
_CLOCK: Final = re.compile(r"(\d{1,2})(?:[:.](\d\d))?(?::(\d\d))?\s*(am|pm)?")
_HOUR: Final = re.compile(r"(\d{1,2})h(\d\d)?")
"""`until 18h`: a clock, not a duration."""
_NAMED: Final[Mapping[str, tuple[int, int]]] = {
    "midnight": (0, 0), "morning": (9, 0), "noon": (12, 0), "evening": (18, 0), "tonight": (20, 0),
}  # fmt: skip
_WEEK: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_HOW: Final = (
    "write it like `for 2h`, `until 18:00`, `until tomorrow 9:00`, `since yesterday`, `30 min ago`"
)
_AHEAD_OF: Final = frozenset({"silence", "mute"})
"""Verbs that take a time ahead; to others `for` and `until` are words of a reason."""
_BACK_TO: Final = frozenset({"why-not", "graph"})
"""Verbs that take a time that is past."""
_AHEAD: Final = frozenset({"for", "until", "till", "til"})
_BACK: Final = frozenset({"since", "at", "from", "for", "last"})
_OF_TWO: Final = frozenset({"why-not", "dry-run"})
"""Verbs that people write as two words."""
_CALLED: Final = {"snooze": "mute", "whynot": "why-not", "dryrun": "dry-run"}
_SHARE: Final = frozenset({"share", "--share", "publicly"})
_MOST: Final = 2000
_LINKED: Final = re.compile(r"<(?:[^>|]*\|)?([^>]*)>")
_PLAIN: Final = str.maketrans({
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'), **dict.fromkeys("\u2018\u2019\u201a", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013", "-"), "\u2014": "--", "`": "",
})  # fmt: skip
"""Quotes and dashes as telephones write them; ticks as our own answers have them."""


@dataclass(frozen=True, slots=True)
class Line:
    """What somebody wrote.

    verb    the first word, small
    words   what comes before a time
    until   unix seconds of `for` and `until`; None = not said
    since   unix seconds of `since`, `at`, `ago`; None = not said
    reason  what comes after the time
    share   everybody may see the answer
    """

    verb: str
    words: tuple[str, ...] = ()
    until: float | None = None
    since: float | None = None
    reason: str = ""
    share: bool = False


def zone(name: str) -> ZoneInfo | None:
    """Return a time zone by its name; None = that of this host."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def read(text: str, now: float, tz: ZoneInfo | None = None) -> Line:
    """Read a line; raises Refused for a time that is none."""
    plain = _LINKED.sub(r"\1", text[:_MOST])  # Slack makes links of what looks like one
    words = _split(html.unescape(plain).translate(_PLAIN).strip())
    if words and words[0].startswith("/"):  # the command, once more
        words = words[1:]
    shared = [w for w in words if w.lower() in _SHARE]
    words = [w for w in words if w.lower() not in _SHARE]
    verb, rest = _verb(words)
    until = since = None
    reason: list[str] = []
    if verb in _AHEAD_OF:
        rest, until, reason = _lasting(rest, now, tz)
    elif verb in _BACK_TO:
        rest, since, reason = _past(rest, now, tz)
    else:
        rest, reason = _because(rest)
    return Line(verb, tuple(rest), until, since, " ".join(reason), bool(shared))


def _verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb, as it is called here, and the words behind it; none = help."""
    if not words:
        return "help", []
    verb, rest = words[0].lower().replace("_", "-"), list(words[1:])
    verb = verb.rstrip(".,:;!?") or verb
    if rest and f"{verb}-{rest[0].lower()}" in _OF_TWO:
        verb, rest = f"{verb}-{rest[0].lower()}", rest[1:]
    if rest and verb not in _AHEAD_OF:
        rest[-1] = rest[-1].rstrip("?") or rest[-1]
    return _CALLED.get(verb, verb), rest


def _because(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at `because`; what comes after it is a reason."""
    small = [w.lower() for w in words]
    if "because" not in small:
        return list(words), []
    at = small.index("because")
    return list(words[:at]), list(words[at + 1 :])


def _lasting(
    words: Sequence[str], now: float, tz: ZoneInfo | None
) -> tuple[list[str], float | None, list[str]]:
    """Find until when: `wine for 2h we deploy`, `wine until 18:00`, `wine 2h`; raises Refused."""
    wrong: Refused | None = None
    for i, word in enumerate(words[:-1]):
        if word.lower() in _AHEAD:
            try:
                ts, used = _longest(words[i + 1 :], now, tz, ahead=True, span=word.lower() == "for")
            except Refused as no:  # `because we wait for the lorry until 18:00`
                wrong = wrong or no
                continue
            after = list(words[i + 1 + used :])
            return list(words[:i]), ts, after[1:] if after[:1] == ["because"] else after
    head, reason = _because(words)
    for used in range(min(len(head) - 1, 3), 0, -1):
        seconds = _seconds([w.lower() for w in head[-used:]])
        if seconds is not None:
            return head[:-used], now + seconds, reason
    if wrong is not None:
        raise wrong
    return head, None, reason


def _past(
    words: Sequence[str], now: float, tz: ZoneInfo | None
) -> tuple[list[str], float | None, list[str]]:
    """Find since when, or at which time: `since yesterday`, `for 2h`, `30 min ago`, `last 2h`; raises Refused."""
    for i, word in enumerate(words):
        ago = _ago(words[i:], now, tz)
        if ago is not None:
            return list(words[:i]), ago[0], list(words[i + ago[1] :])
        if word.lower() in _BACK and i + 1 < len(words):
            ts, used = _longest(words[i + 1 :], now, tz, ahead=False, span=False)
            return list(words[:i]), ts, list(words[i + 1 + used :])
    return list(words), None, []


def moment(text: str, now: float, tz: ZoneInfo | None = None, *, ahead: bool) -> float:
    """Return what is meant by `18:00`, `tomorrow 9:00`, `friday`, `2h`, an ISO time; raises Refused."""
    found = _moment(text.lower().split(), now, tz, ahead=ahead)
    if found is None:
        raise Refused(f"not a time: {text!r}; {_HOW}")
    return found


def lasting(text: str) -> float:
    """Return the seconds of `2h`, `90 minutes`, `half an hour`; raises Refused."""
    found = _seconds(text.lower().split())
    if found is None:
        raise Refused(f"not a duration: {text!r}; write it like 30m, 2h or 1d")
    return found


def _longest(
    words: Sequence[str], now: float, tz: ZoneInfo | None, *, ahead: bool, span: bool
) -> tuple[float, int]:
    """Read as many words as make a time; returns it and how many they were."""
    for used in range(min(len(words), 5), 0, -1):
        some = [w.lower().rstrip(".,;!") for w in words[:used]]
        if not ahead and used > 1 and some[-1] == "ago":  # `since an hour ago`
            some = some[:-1]
        hour = _HOUR.fullmatch(some[0]) if ahead and not span and used == 1 else None
        if hour is not None:
            some = [f"{hour[1]}:{hour[2] or '00'}"]
        seconds = _seconds(some)
        if seconds is not None:
            return (now + seconds if ahead else now - seconds), used
        found = None if span else _moment(some, now, tz, ahead=ahead)
        if found is not None:
            return found, used
    raise Refused(f"not a time: {' '.join(words[:3])!r}; {_HOW}")


def _ago(words: Sequence[str], now: float, tz: ZoneInfo | None) -> tuple[float, int] | None:
    """Read `2h ago`, `30 min ago`, `yesterday`, `yesterday at 14:00`; returns the time and how many words it took."""
    small = [w.lower() for w in words[:5]]
    for used in range(1, min(len(small), 4)):
        if small[used] == "ago":
            seconds = _seconds(small[:used])
            return None if seconds is None else (now - seconds, used + 1)
    if small[0] not in {"yesterday", "today"}:
        return None
    for used in range(min(len(small), 4), 1, -1):
        found = _moment(small[:used], now, tz, ahead=False)
        if found is not None:
            return found, used
    return (now - 86_400.0, 1) if small[0] == "yesterday" else None


def _seconds(words: Sequence[str]) -> float | None:
    """Read a duration; None = it is none."""
    words = [w for w in words if w not in _FILL]
    if len(words) > 1 and words[0] == "a" and words[1] in _SOME:  # `a couple of hours`
        words = words[1:]
    if len(words) == 2 and words[0] in _SOME:
        unit = _UNITS.get(words[1])
        return None if unit is None else _SOME[words[0]] * unit
    text = re.sub(r"(\dh)(\d\d)\b", r"\1\2m", " ".join(w for w in words if w != "and"))
    if not text:
        return None
    first, _, rest = text.partition(" ")
    if first in _ONES:
        ones = [w for w in rest.split() if w not in _ONES]
        unit = _UNITS.get(ones[0]) if len(ones) == 1 else None
        return None if unit is None else _ONES[first] * unit
    total, at = 0.0, 0
    for part in _PART.finditer(text):
        if text[at : part.start()].strip() or part.group(2) not in _UNITS:
            return None
        total += float(part.group(1)) * _UNITS[part.group(2)]
        at = part.end()
    return total if at and not text[at:].strip() else None


def _moment(words: Sequence[str], now: float, tz: ZoneInfo | None, *, ahead: bool) -> float | None:
    """Read a point in time; None = it is none."""
    words = [w for w in words if w not in _FILL]
    if not words:
        return None
    if words == ["now"]:
        return now
    seconds = _seconds(words)
    if seconds is not None:
        return now + seconds if ahead else now - seconds
    here = (
        datetime.fromtimestamp(now, tz or UTC) if tz else datetime.fromtimestamp(now).astimezone()
    )
    iso = _iso(" ".join(words), here)
    if iso is not None:
        return iso
    day, rest = _day(words[0], here, ahead=ahead)
    if rest:
        clock = _clock("".join(words))
        if clock is None:
            return None
        found = _at(here, clock)
        if ahead and found <= now:
            found = _at(here + timedelta(days=1), clock)
        elif not ahead and found > now:
            found = _at(here - timedelta(days=1), clock)
        return found
    if len(words) == 1:
        # `until tomorrow` ends when work begins, `since yesterday` begins with the day
        return _at(
            day,
            time(9, 0) if ahead and words[0] != "today" else time(23, 59) if ahead else time(0, 0),
        )
    clock = _clock("".join(words[1:]))
    return None if clock is None else _at(day, clock)


def _day(word: str, here: datetime, *, ahead: bool) -> tuple[datetime, bool]:
    """Return the day that a word names, and whether it names none."""
    shift = {"today": 0, "tomorrow": 1, "yesterday": -1}.get(word)
    if shift is not None:
        return here + timedelta(days=shift), False
    found = [i for i, name in enumerate(_WEEK) if len(word) >= 3 and name.startswith(word)]
    if not found:
        return here, True
    days = (found[0] - here.weekday()) % 7 or 7
    return here + timedelta(days=days if ahead else days - 7), False


def _clock(text: str) -> time | None:
    if text in _NAMED:
        return time(*_NAMED[text])
    match = _CLOCK.fullmatch(text)
    if match is None or (match.group(2) is None and match.group(4) is None):
        return None
    hour, minute = int(match.group(1)), int(match.group(2) or 0)
    if match.group(4):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match.group(4) == "pm" else 0)
    return time(hour, minute, int(match.group(3) or 0)) if hour < 24 and minute < 60 else None


def _at(day: datetime, clock: time) -> float:
    """Return a clock on a day, in its zone, also where the clock is put forward or back."""
    return datetime.combine(day.date(), clock, tzinfo=day.tzinfo).timestamp()


def _iso(text: str, here: datetime) -> float | None:
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text)
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        found = datetime.fromisoformat(text.upper().replace(" ", "T"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=here.tzinfo)).timestamp()


def _split(text: str) -> list[str]:
    """Split at spaces, but not inside quotes; a quote that does not end is a letter."""
    found = re.findall(r'"([^"]*)"|\'([^\']*)\'(?=\s|$)|([^\s="]+="[^"]*"(?=\s|$))|(\S+)', text)
    return [a or b or c.replace('"', "") or _bare(d) for a, b, c, d in found if a or b or c or d]


def _bare(word: str) -> str:
    """Return a word without the stars by which it was written in bold."""
    return word[1:-1] if len(word) > 2 and word[0] == word[-1] == "*" else word
