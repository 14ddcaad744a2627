"""What a playbook's own tests may say: one moment, or frames that are described or recorded, and what must follow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from agent.model import Entity, entity
from agent.units import Duration, Model, Span, say_duration


def _wave(written: Any) -> Any:
    return written if isinstance(written, dict | Wave) else {"value": written}


Two = Annotated[list[float], Field(min_length=2, max_length=2)]


class Wave(Model):
    """How one series of a feed moves: `value` all the time, a `step`, a `ramp` or a `pulse`; with noise, with a gap."""

    value: float | None = None
    step: Two | None = None
    """From the first value to the second one, at `at`."""
    at: Duration | None = None
    ramp: Two | None = None
    """From the first value to the second one, between `from` and `to`."""
    pulse: Two | None = None
    """The second value at `from` and until just before `to`, the first one before and after: it comes and goes."""
    every: Span | None = None
    """How often a pulse comes again, from the first one on; unless said, it comes once."""
    from_: Duration | None = Field(default=None, alias="from")
    to: Duration | None = None
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of what is added; what a signal can not be is cut off."""
    missing: Annotated[list[Duration], Field(min_length=2, max_length=2)] | None = None
    """Asked and not answered between these two moments."""

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        shapes = (self.value, self.step, self.ramp, self.pulse)
        if sum(shape is not None for shape in shapes) != 1:
            raise ValueError(
                "it has not one shape; write a number, `step: [a, b]`, `ramp: [a, b]` or `pulse: [a, b]`"
            )
        if (self.step is not None) != (self.at is not None):
            raise ValueError("a step happens at a moment; write `{step: [a, b], at: 2m}`")
        self._timed()
        return self

    def _timed(self) -> None:
        """Check the moments of a ramp or a pulse."""
        name = "ramp" if self.pulse is None else "pulse"
        shaped = self.ramp is not None or self.pulse is not None
        timed = self.from_ is not None and self.to is not None
        if shaped != timed or (not timed and (self.from_ or self.to)):
            raise ValueError(
                f"a {name} has two moments; write `{{{name}: [a, b], from: 2m, to: 5m}}`"
            )
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise ValueError(f"a {name} takes time; let `to` be later than `from`")
        if self.every is None:
            return
        if self.pulse is None:
            raise ValueError(
                "only a pulse comes again; write `{pulse: [a, b], from: 2m, to: 3m, every: 10m}`"
            )
        if self.every <= (self.to or 0.0) - (self.from_ or 0.0):
            raise ValueError(
                "a pulse ends before it comes again; let `every` be longer than it lasts"
            )


Waved = Annotated[Wave, BeforeValidator(_wave, json_schema_input_type=float | Wave)]


def _feed(written: Any) -> Any:
    return {"file": written} if isinstance(written, str) else written


class Feed(Model):
    """Frames for a test: made from `series`, or recorded in a `file`. Times count from its first frame.

    A series is a signal of the target or of its nearest relative, `signal{kind:key}` of another one (a peer, when it
    is of the target's kind), `signal{label=value}` one of several.
    """

    file: Path | None = None
    """CSV or parquet, beside the playbook: a column `ts` in seconds, one column a series; empty = not answered."""
    series: dict[str, Waved] = {}
    every: Span = 10.0
    for_: Span = Field(default=600.0, alias="for")
    """How long it goes on; a file has its own length."""
    onset: Duration | None = None
    """When the incident opens; what lies before is its baseline. Default: when a series begins to move, or a third."""
    seed: int = 0
    """Of the noise."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.file is None) == (not self.series):
            raise ValueError("it has not one source; write `file: NAME.csv` or `series: {...}`")
        if self.for_ / self.every > _MOST_FRAMES:
            raise ValueError(
                f"it has more than {_MOST_FRAMES} frames; make it shorter, or `every` longer"
            )
        for name, wave in self.series.items():
            if wave.pulse is not None and (wave.to or 0.0) - (wave.from_ or 0.0) < self.every:
                raise ValueError(
                    f"the pulse of `{name}` may come and go between two frames;"
                    f" let it last for {say_duration(self.every)} at least, or the feed's `every` be shorter"
                )
        return self


_MOST_FRAMES: Final = 20_000
ABOUT: Final = ("cause.", "incident.", "target.")
"""Beginnings of the names that `given` may say beside a feed."""


def notation(text: str) -> tuple[str, Entity | None, tuple[tuple[str, str], ...]]:
    """Read `signal{kind:key,label=value}`: signal, whose (None = the target's), labels. Raises ValueError."""
    signal, brace, rest = text.strip().partition("{")
    if brace and not rest.endswith("}"):
        raise ValueError(
            f"`{text}`: a brace was opened and never closed; write signal{{kind:key,label=value}}"
        )
    about: Entity | None = None
    labels: dict[str, str] = {}
    for part in filter(None, (one.strip() for one in rest.removesuffix("}").split(","))):
        name, equals, value = part.partition("=")
        if equals:
            labels[name.strip()] = value.strip()
        elif about is None:
            about = entity(part)
        else:
            raise ValueError(
                f"`{text}`: it names two entities; write signal{{kind:key,label=value}}"
            )
    return signal, about, tuple(sorted(labels.items()))


class Expected(Model):
    """What a feed must lead to, by the real matcher and guard."""

    fires: Annotated[int, Field(ge=0)]
    """How often it acts, or would if it were let."""
    first_by: Duration | None = None
    """When it has acted at the latest."""
    do: list[str] = []
    """The steps of its first act, by id."""
    asks: list[str] | None = None
    """Before which steps its first act would ask people, by id; `[]` = nobody is asked."""
    blocked_by: str = ""
    """Gate of the guard that keeps it from acting (`correlated`, `cooldown`)."""


class Example(Model):
    """A test that needs no daemon: of one moment (`given`, `fires`), or of a stretch of time (`feed`, `expect`)."""

    name: str
    given: dict[str, float | bool | str | None] = {}
    """Names to values; the rest is unknown. Unless given, the cause is the playbook's own, certain, and it pages."""
    fires: bool | None = None
    feed: Annotated[Feed, BeforeValidator(_feed, json_schema_input_type=str | Feed)] | None = None
    expect: Expected | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.feed is None and (self.fires is None or self.expect is not None):
            raise ValueError(
                "`fires` is missing; write `fires: true` or `fires: false`, or give a `feed` and `expect`"
            )
        if self.feed is not None and (self.expect is None or self.fires is not None):
            raise ValueError(
                "`expect` is missing beside `feed`; write `expect: {fires: 1, first_by: 5m}`"
            )
        return self
