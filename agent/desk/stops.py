"""Hands off: silences that are kept, and pauses of everything or of one target."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent import views
from agent.authority import Person
from agent.codec import pack
from agent.control import ALL, paused_file
from agent.desk.finding import Finding, check_cause
from agent.errors import Refused
from agent.meant import duration, meant, pick
from agent.memory import EVERYTHING, Pause, Silence
from agent.views import PauseView, SilenceView

_LONGEST_SILENCE_S: Final = 30 * 86_400.0


class Stops(Finding):
    """Silences and pauses."""

    def silences(self) -> list[SilenceView]:
        """Return the silences that hold now, the one that ends first on top."""
        now = self.hooks.now()
        held = [s for s in self.hooks.memory.silences.values() if now < s.until]
        return [views.silence_view(s) for s in sorted(held, key=lambda s: s.until)]

    def silence(
        self, person: Person, target: str, lasts: str, *, cause: str = "", reason: str = ""
    ) -> SilenceView:
        """Keep quiet and hands off about a target for a while; raises Forbidden, Refused."""
        person.must("silence")
        seconds = duration(lasts)
        if not 0 < seconds <= _LONGEST_SILENCE_S:
            raise Refused(
                f"a silence of {lasts} is not possible; give it between 1s and 30d, it can be renewed"
            )
        if cause:
            check_cause(cause)
        target = EVERYTHING if target.lower() in ALL - {""} else target
        over = target if any(c in target for c in "*?[") else self._entity(target).id
        now = self.hooks.now()
        made = Silence(
            f"sil-{secrets.token_hex(3)}", over, now + seconds, person.signed, reason, cause, now
        )
        self._record("silence", made.id, pack(made))
        return views.silence_view(made)

    def unsilence(self, person: Person, id_: str) -> SilenceView:
        """End a silence now; raises NotThere, Forbidden."""
        person.must("silence")
        now = self.hooks.now()
        held = {k: s for k, s in self.hooks.memory.silences.items() if now < s.until}
        ended = replace(held[pick(id_, held, "silence")], until=now)
        self._record("silence", ended.id, {**pack(ended), "ended_by": person.signed})
        return views.silence_view(ended)

    def pauses(self) -> list[PauseView]:
        """Return what stands still, the file PAUSED included."""
        found = [views.pause_view(p) for p in self.hooks.memory.pauses.values()]
        path = paused_file(self.hooks.config_path, self.hooks.state)
        filed = _read_paused(path)
        if filed is not None:
            found.insert(0, views.pause_view(filed, file=True))
        return sorted(found, key=lambda p: (p["key"] != EVERYTHING, p["since"]))

    def pause(self, person: Person, target: str = "", reason: str = "") -> list[PauseView]:
        """Stop acting, everywhere or on one target; runs stop at their next step. Raises Forbidden, Refused."""
        person.must("pause")
        key = EVERYTHING if target.lower() in ALL else self._entity(target).id
        self._record("pause", key, {"by": person.signed, "reason": reason})
        return self.pauses()

    def resume(self, person: Person, target: str = "") -> list[PauseView]:
        """Let it act again; takes the file PAUSED away too. Raises Forbidden, Refused."""
        person.must("resume")
        key = EVERYTHING if target.lower() in ALL else self._paused_key(target)
        path = paused_file(self.hooks.config_path, self.hooks.state)
        filed = key == EVERYTHING and path.exists()
        if filed:
            try:
                path.unlink()
            except OSError as error:
                raise Refused(
                    f"the file {path} stops everything and can not be removed ({error.strerror}); "
                    f"run: rm {path}"
                ) from None
        if not filed and key not in self.hooks.memory.pauses:
            standing = ", ".join(p["key"] for p in self.pauses())
            raise Refused(
                f"{'everything' if key == EVERYTHING else key} is not paused; "
                + (f"paused are: {standing}" if standing else "nothing is")
            )
        self._record("resume", key, {"by": person.signed})
        return self.pauses()

    def _paused_key(self, text: str) -> str:
        """Find what was meant among what is paused: a target that is gone by now can still be resumed."""
        paused = {k: k for k in self.hooks.memory.pauses if k != EVERYTHING}
        if text in paused:
            return text
        return meant(text, {**paused, **self._entities()})


def _read_paused(path: Path) -> Pause | None:
    """Read the file PAUSED; whatever stands in it, that it is there is enough."""
    try:
        text, when = path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    except OSError:
        return Pause(EVERYTHING, "", f"the file {path}", 0.0)
    try:
        said = json.loads(text)
        return Pause(EVERYTHING, str(said["by"]), str(said["reason"]), float(said["ts"]))
    except (ValueError, KeyError, TypeError):
        return Pause(EVERYTHING, "", text.strip()[:200] or f"the file {path}", when)
