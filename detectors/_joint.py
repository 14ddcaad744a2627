"""What the joint detectors share: columns and scales of a model, judging of what it leaves, state, explanation.

    x (n,) -> u (m,): the columns that the model knows, scaled robustly, squashed by log1p so that bursts do not rule
      -> the model's `look`: what it expected, how far off each column is, how odd the row is as a whole
      -> what is off, in units of what was held back in training -> a bank of its own -> p

What a model leaves of a series is a series, too, and is judged as one: a spike in it is one row that does not fit, a
level in it is company that has been left for good, variability is company that is kept less well. So the same families,
the same tails, the same hold of evidence and the same curve to p as in `detectors/bank.py`, and p means the same: the
two can be compared. A newer model goes on with what was learnt, as its residuals come in the same units.

A detector judges each series by its own residual, or (`by_row`) the row as a whole: then its p is that of the
`CARRIERS` series that carry most of it, and 1 for the others. NaN before the first model, for series that it does not
know, and in the first rows. What is not trusted is not learnt; late and repeated rows neither.
Cost of judging: that of the bank, 0.3 ms a tick and 1.4 kB a series for 300 series; by rows 0.2 ms and nothing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint, registry
from agent.errors import Refused
from agent.imports import lacking
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Past, Why
from agent.units import Model, Span

CARRIERS: Final = 3
_CARRIES: Final = 0.3
"""Who carries less than this share of what the first does is a bystander."""
_READY_ROWS: Final = 600
_LATE_STEPS: Final = 100.0
_LARGEST: Final = 1e150
_FARTHEST: Final = 1e6
_HELD_BACK: Final = 64
"""Every fourth stretch of so many rows is held back from the fit."""
_LEAST_ROWS: Final = 200
"""Fewer would leave next to nothing held back."""
_LEAST_SHARE: Final = 0.8
"""Columns that are known in fewer rows are left out."""
Arrays = dict[str, npt.NDArray[Any]]


class Settings(Model):
    """What every joint detector is told."""

    step_s: Span = 1.0
    """Usual time between two rows; that of the source."""
    span: Span = 86_400.0
    """How much past a model is made from."""
    rows: Annotated[int, Field(ge=256)] = 8192
    """How many rows of it, at most; spread over the span."""
    most_series: Annotated[int, Field(ge=2)] = 512
    """How many series a model may have; those that move most often."""


def need(module: str, extra: str) -> Any:
    """Import a heavy library where it is used, in the worker; raises Refused and says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        said = lacking(f"{library} is not installed", extra)
        raise Refused(f"{said}; then wait, or start again") from None


def squash(z: FloatArray) -> FloatArray:
    """Return sign(z) log(1 + |z|): a burst of a thousand deviations is seven, an ordinary one stays as it is."""
    out: FloatArray = np.sign(z) * np.log1p(np.abs(z))
    return out


def unsquash(u: float) -> float:
    """Undo `squash`."""
    return float(np.sign(u) * np.expm1(min(abs(u), 300.0)))


# ---------------------------------------------------------------- in the worker


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows made ready for a fit.

    use     (m,) columns that are worth it; centre, scale, spread (m,) how u comes from x
    u       (k, m); what was not known is 0, the centre
    fit     (k,) rows to fit on; the others are held back, to see how large errors are
    """

    use: IntArray
    centre: FloatArray
    scale: FloatArray
    spread: FloatArray
    u: FloatArray
    fit: BoolArray

    def arrays(self) -> Arrays:
        """Return what the model needs to make u."""
        return {"use": self.use, "centre": self.centre, "scale": self.scale, "spread": self.spread}


def prepare(values: FloatArray, most_series: int, least_rows: int = _LEAST_ROWS) -> Prepared:
    """Choose and scale columns of values (k, n); raises Refused when rows are too few or nothing moves."""
    if len(values) < least_rows:
        raise Refused(f"history has {len(values)} rows, {least_rows} are needed")
    known = np.isfinite(values) & (np.abs(values) < _LARGEST)
    x = np.where(known, values, np.nan)
    enough = known.mean(axis=0) >= _LEAST_SHARE
    use = np.flatnonzero(enough)
    x = x[:, use]
    moves = np.zeros(len(use))
    centre = scale = np.zeros(0)
    if len(use):
        centre = np.nanmedian(x, axis=0)
        away = np.abs(x - centre)
        moves = np.mean(np.nan_to_num(away) > 1e-9 * np.abs(centre) + 1e-300, axis=0)
        mad = 1.4826 * np.nanmedian(away, axis=0)
        # rests in most rows: the median of its moves is 0, their mean is not
        scale = np.where(mad > 0, mad, 1.2533 * np.nanmean(away, axis=0))
    lively = np.argsort(-moves, kind="stable")[:most_series]
    lively = np.sort(lively[(moves[lively] > 0) & (scale[lively] > 0)])
    if not len(lively):
        raise Refused(f"none of {values.shape[1]} series move")
    use, centre, scale = use[lively], centre[lively], scale[lively]
    u = squash(np.nan_to_num((x[:, lively] - centre) / scale))
    spread = np.maximum(u.std(axis=0), 1e-3)
    u /= spread
    fit = (np.arange(len(values)) // _HELD_BACK) % 4 != 3
    return Prepared(use, centre, scale, spread, u, fit)


def sizes(residuals: FloatArray, odd: FloatArray | None = None) -> Arrays:
    """Return how large residuals (k, m) and oddness (k,) were on rows held back: what the model carries."""
    large = np.quantile(np.abs(residuals), 0.98, axis=0) if len(residuals) else np.zeros(0)
    base, top = 0.0, 1.0
    if odd is not None and len(odd):
        base = float(np.median(odd))
        top = max(float(np.quantile(odd - base, 0.98)), 1e-6)
    return {"large": np.maximum(large, 1e-3), "odd": np.array([base, top])}


# ---------------------------------------------------------------- in the daemon


@dataclass(slots=True)
class Look:
    """What a model says of one row of u (m,).

    expected   (m,) in units of u; residual (m,) what is off, NaN = this model does not say it column by column
    weight     (m,) how much each column carries of what is off
    odd        how odd the row is as a whole; NaN = this model does not say
    fresh      False: nothing new has been measured since the last row
    """

    expected: FloatArray
    residual: FloatArray
    weight: FloatArray
    odd: float = float("nan")
    fresh: bool = True


@dataclass(slots=True)
class _Row:
    """What one row says, kept between score and learn.

    off, rare   (n,) what is judged and how rare it is; of a detector by rows (1,)
    """

    ts: float
    x: FloatArray
    u: FloatArray
    known: BoolArray
    look: Look
    off: FloatArray
    rare: FloatArray
    carriers: IntArray
    p: FloatArray


@dataclass(slots=True)
class _Scales:
    """How a model's columns come from series. at (m,) position of each now, -1 = gone."""

    use: IntArray
    centre: FloatArray
    scale: FloatArray
    spread: FloatArray
    large: FloatArray
    odd: FloatArray
    at: IntArray = field(default_factory=lambda: np.empty(0, np.int64))


class Joint:
    """Base of the joint detectors: they say `_look` (and perhaps `_follow`), the rest is here."""

    kind: ClassVar[str]
    family: ClassVar[str] = "joint"
    version: ClassVar[int] = 2
    by_row: ClassVar[bool] = False
    """Whether it judges the row as a whole, not each series."""

    def __init__(self, config: Any, n: int) -> None:
        self.config = config
        self.n = n
        self._model = b""
        self._scales: _Scales | None = None
        self._last_ts = -np.inf
        self._row: _Row | None = None
        columns = 1 if self.by_row else n
        bank = registry.detector.get("bank")
        self.judge: Any = bank(bank.Config(step_s=self.judged_s()), columns)
        self._held: FloatArray = np.full(columns, np.nan)

    def judged_s(self) -> float:
        """Return the usual time between two rows in which something new is measured."""
        return float(self.config.step_s)

    # ---- what a joint detector says

    def _open(self, arrays: Arrays) -> None:
        """Take the arrays of a model; KeyError or ValueError when they do not fit."""
        raise NotImplementedError

    def _look(self, ts: float, u: FloatArray, known: BoolArray) -> Look:
        """Judge a row; changes nothing."""
        raise NotImplementedError

    def _follow(
        self, ts: float, u: FloatArray, known: BoolArray, trust: BoolArray, look: Look
    ) -> None:
        """Move on to the next row; trust (m,)."""

    def _moving(self) -> Arrays:
        """Return the arrays that `_follow` changes, by name."""
        return {}

    def past(self) -> Past:
        """Say what `train` wants to see."""
        c = self.config
        return Past(c.span, c.step_s, c.rows, 128, min(512, int(0.8 * c.rows)))

    # ---- score

    def score(self, ts: float, x: FloatArray) -> FloatArray:
        """Return p (n,), see the top of the file."""
        if len(x) != self.n:
            raise ValueError(f"a row of {len(x)} values for {self.n} series")
        if self._scales is None or not len(x):
            return np.full(len(x), np.nan)
        self._row = self._measure(ts, x, self._scales)
        return self._row.p.copy()

    def _measure(self, ts: float, x: FloatArray, s: _Scales) -> _Row:
        there = x[s.at]
        known = (s.at >= 0) & (np.abs(there) < _LARGEST)
        u = squash((np.where(known, there, s.centre) - s.centre) / s.scale) / s.spread
        look = self._look(ts, u, known)
        carriers = self._carriers(look, known, s)
        off = np.full(len(self._held), np.nan)
        if self.by_row:
            off[0] = (look.odd - s.odd[0]) / s.odd[1]
        else:
            off[s.at[known]] = look.residual[known] / s.large[known]
        np.clip(off, -_FARTHEST, _FARTHEST, out=off)
        rare: FloatArray = self.judge.score(ts, off) if look.fresh else self._held
        p = rare
        if self.by_row:
            p = np.full(self.n, np.nan)
            p[s.at[known]] = rare[0] if np.isnan(rare[0]) else 1.0
            p[carriers] = rare[0]
        return _Row(ts, x.copy(), u, known, look, off, rare, carriers, p)

    def row_p(self) -> float:
        """Return the p of the last row as a whole; NaN where each series is judged, or nothing is known yet."""
        return float(self._row.rare[0]) if self.by_row and self._row is not None else float("nan")

    @staticmethod
    def _carriers(look: Look, known: BoolArray, s: _Scales) -> IntArray:
        """Return the positions of the series that carry most of the row, the most first."""
        weight = np.where(known, look.weight, 0.0)
        top = np.argsort(-weight, kind="stable")[:CARRIERS]
        carriers: IntArray = s.at[top[weight[top] > _CARRIES * weight.max(initial=0.0)]]
        return carriers

    # ---- learn

    def learn(self, ts: float, x: FloatArray, trust: BoolArray) -> None:
        """Learn the row. Late and repeated rows are left out; a clock set far back is followed."""
        s = self._scales
        late = self._last_ts - ts
        if s is None or not len(x) or 0 <= late < _LATE_STEPS * self.config.step_s:
            return
        row = self._row
        if row is None or row.ts != ts or not np.array_equal(row.x, x, equal_nan=True):
            row = self._measure(ts, x, s)
        self._row = row if row is self._row else None
        if row.look.fresh:
            teach = np.array([trust[row.carriers].all()]) if self.by_row else trust
            self.judge.learn(ts, row.off, teach)
            self._held = row.rare
        there = np.zeros(len(s.at), bool)
        there[s.at >= 0] = trust[s.at[s.at >= 0]]
        self._follow(ts, row.u, row.known, there & row.known, row.look)
        self._last_ts = ts

    # ---- a new model; series come and go

    def take(self, model: bytes, column: IntArray) -> None:
        """Score by this model from now on: series i was column[i] of its rows, -1 = none. What was learnt goes on."""
        if len(column) != self.n:
            raise ValueError(f"columns of {len(column)} series for {self.n}")
        scales = self._opened(model)
        scales.at = np.full(len(scales.use), -1, dtype=np.int64)
        place = {int(c): i for i, c in enumerate(column) if c >= 0}
        for j, c in enumerate(scales.use.tolist()):
            scales.at[j] = place.get(c, -1)
        self._model, self._scales, self._row = model, scales, None

    def _opened(self, model: bytes) -> _Scales:
        meta, arrays = checkpoint.read(f"{self.kind} model", self.version, model)
        try:
            if meta["step_s"] != self.config.step_s:
                raise Refused(
                    f"the model was made at a step of {meta['step_s']:g} s, not {self.config.step_s:g} s"
                )
            centre, scale, spread, large, odd = (
                arrays[name].astype(np.float64)
                for name in ("centre", "scale", "spread", "large", "odd")
            )
            use = arrays["use"].astype(np.int64)
            scales = _Scales(use, centre, scale, spread, large, odd)
            self._open(arrays)
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"model of {self.kind} is damaged ({damage}): it is made anew") from None
        return scales

    def remap(self, old_index: IntArray) -> None:
        """New position i was old_index[i]; -1 = new: without a p-value until the next model knows it."""
        old = np.asarray(old_index, dtype=np.int64)
        n = self.n
        if len(old) and (old.max() >= n or old.min() < -1):
            raise ValueError(f"remap asks for column {int(old.max())} of {n} series")
        if not self.by_row:
            self.judge.remap(old)
            self._held = np.where(old >= 0, np.append(self._held, np.nan)[old], np.nan)
        self.n = len(old)
        if self._scales is not None:
            now = np.full(n + 1, -1, dtype=np.int64)
            now[old[old >= 0]] = np.flatnonzero(old >= 0)
            self._scales.at = now[self._scales.at]  # -1 reads the last one, which stays -1
        self._row = None

    # ---- dump, load

    def dump(self) -> bytes:
        """Return model and state with version and checksum; the last score is not part of it."""
        last_ts = self._last_ts if np.isfinite(self._last_ts) else None
        meta = {"n": self.n, "last_ts": last_ts}
        judge = np.frombuffer(self.judge.dump(), np.uint8)
        arrays: Arrays = {"judge": judge, "held": self._held}
        if self._scales is not None:
            arrays["model"] = np.frombuffer(self._model, np.uint8)
            arrays["at"] = self._scales.at
            arrays.update({f"moving.{name}": array for name, array in self._moving().items()})
        return checkpoint.write(self.kind, self.version, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take a state; n becomes that of the state. Raises Refused when it does not fit this detector."""
        meta, arrays = checkpoint.read(self.kind, self.version, state)
        try:
            kept = type(self)(self.config, int(meta["n"]))
            kept.fill(meta, arrays)
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(
                f"state of {self.kind} is damaged ({damage}): it is learnt anew"
            ) from None
        self.__dict__.update(kept.__dict__)

    def fill(self, meta: Any, arrays: Arrays) -> None:
        """Take the parts of a state; a fresh detector of as many series, as half of it may be taken when it fails."""
        if "model" in arrays:
            self._model = arrays["model"].tobytes()
            self._scales = self._opened(self._model)
            self._scales.at = arrays["at"].astype(np.int64)
            for name, array in self._moving().items():
                array[...] = arrays[f"moving.{name}"]
        self._held[...] = arrays["held"]
        self.judge.load(arrays["judge"].tobytes())
        if len(self.judge.rows) != len(self._held):
            raise ValueError(f"{len(self.judge.rows)} judged columns, not {len(self._held)}")
        self._last_ts = -np.inf if meta["last_ts"] is None else float(meta["last_ts"])

    # ---- explain

    def explain(self, i: int) -> Why:
        """Say why series i got its last p: what was expected of it, and which series are abnormal with it."""
        row, s = self._row, self._scales
        rows = int(self.judge.rows[0 if self.by_row else i])
        found = np.flatnonzero(s.at == i) if s is not None else np.empty(0, np.int64)
        nan = float("nan")
        if row is None or s is None or not len(found):
            return Why("none", nan, nan, 0.0, rows, calibrated=False)
        j = int(found[0])
        reach = float(s.large[j])
        middle = float(row.look.expected[j])
        low, expected, high = (
            float(s.centre[j] + s.scale[j] * unsquash(s.spread[j] * (middle + side * reach)))
            for side in (-1.0, 0.0, 1.0)
        )
        deviations = min(abs(float(row.x[i]) - expected) / float(s.scale[j]), _FARTHEST)
        carriers = tuple(row.carriers.tolist())
        return Why(self.family, low, high, deviations, rows, rows >= _READY_ROWS, carriers)
