"""A bank of small detectors over all series of one source at once: level, spike, variability, flatline.

    x -> position (where is it now) -> five statistics against what is ordinary -> rarity of each, by its own tail
      -> families (spike | level | variability | flatline) -> one number -> its own tail again -> p

Good for metrics sampled every second to every few minutes: gauges, counts, rates, shares, bursts. Not for raw
counters (send rates) and not for daily rhythm: a season has to repeat into the tail before it is ordinary.
x (n,) base units, NaN and what is beyond 1e150 are skipped; p (n,), NaN there and for the first 30 rows of a series.

What a series is, is seen from its data. *Constant*: never moved; it has p 1 as long as it stays, and a prior says how
rare the move is when it leaves. *Discrete* and *bursty*: rests in most rows; the scale of its moves is learnt from
the rows in which it moves, so that the usual burst is one deviation. *Gauge*: moves in nearly every row, and only
then is standing still (flatline) a thing to see.

`floors` (n,) are the smallest changes that matter to anybody, in the units of the series (0 = unknown): a quarter of
one is the least that counts as a deviation, so that a nearly constant series stays quiet. With floors of 0 the
p-values do not change when a series is shifted or scaled by a positive number.

A p is never below 1 / (30 rows learnt): so few rows can not tell more. While fewer than 600 rows were learnt the
tail is partly the shipped prior, and `explain` says calibrated False. What is not trusted moves only the position,
never what is ordinary; a trusted row after 60 untrusted ones means "this is the new normal", and the level goes there.

Cost: O(n) a tick without Python per series, about 0.2 ms up to 300 series; 0.5 kB a series.
Source: two-sided CUSUM, Page 1954; the tails see `detectors/_tail.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Why
from agent.registry import detector
from agent.units import Duration, Model
from detectors._tail import Tail

_VERSION: Final = 1
_SIGMA: Final = 1.25
"""Mean absolute deviation to standard deviation, for a bell."""
_TINY: Final = 1e-9
"""Relative differences below this are rounding, not moves."""
_LARGEST: Final = 1e150
"""What is larger is no measurement; the square of everything below is still a number."""
_CLIP: Final = 5.0
_LOCAL_ROWS: Final = 8.0
_STALE_STEPS: Final = 5.0
_LATE_STEPS: Final = 100.0
_NEW_NORMAL_ROWS: Final = 60.0
_CUSUM_SLACK: Final = 1.0
_CUSUM_MAX: Final = 100.0
_FARTHEST: Final = 1e6
"""No statistic is larger: what is infinitely far must not teach infinities."""
_LOG_2: Final = float(np.log(2.0))
_FLAT_UNIT: Final = 3.0
"""Rows without a move that count as one deviation for a series that always moves."""

_SPIKE, _LEVEL, _CUSUM, _VARIABILITY, _FLAT = range(5)
_FAMILY: Final = ("spike", "level", "level", "variability", "flatline")
# Quantile and mean excess that metrics of hosts show before anything is known of them.
_PRIOR: Final = np.array([[4.0, 1.5], [3.0, 1.0], [10.0, 5.0], [1.0, 0.4], [1.0, 1.0], [5.5, 1.5]])
_JOINT: Final = 5

_FIELDS: Final = (
    "rows", "seen", "last", "fast", "mean", "spread", "errors", "moves", "move_share",
    "up", "down", "swing", "swing_usual", "run", "held", "floors",
)  # fmt: skip


@dataclass(slots=True)
class _Row:
    """What one row says against the state, kept between score and learn.

    off     (2, n) distance from the two forecasts: the last value, the local level
    stats   (6, n) the statistics, the last of them all families together; rarity (5, n) -log p of the first five
    """

    ts: float
    x: FloatArray
    ok: BoolArray
    moved: BoolArray
    last: FloatArray
    off: FloatArray
    fast: FloatArray
    up: FloatArray
    down: FloatArray
    swing: FloatArray
    run: FloatArray
    flat_unit: FloatArray
    spike_scale: FloatArray
    level_scale: FloatArray
    stats: FloatArray
    rarity: FloatArray
    p: FloatArray


@detector("bank")
class Bank:
    """All series of one source at once: level, spike, variability and flatline, each with a calibrated tail."""

    class Config(Model):
        """How the bank looks at one source."""

        step_s: Annotated[Duration, Field(gt=0)] = 1.0
        """Usual time between two rows."""
        warmup_rows: Annotated[int, Field(ge=2)] = 30
        """Rows before the first p-value."""
        ready_rows: Annotated[int, Field(ge=2)] = 600
        """Rows after which the tail counts as the series' own."""
        slow_rows: Annotated[int, Field(ge=50)] = 3600
        """Rows over which the slow level is learnt, at most."""
        slow: Duration = 7200.0
        """Time over which the slow level is learnt, but not under 200 rows."""

    def __init__(self, config: Config, n: int, floors: FloatArray | None = None) -> None:
        self._config = config
        self._slow = float(np.clip(config.slow / config.step_s, 200, max(200, config.slow_rows)))
        self._last_ts = -np.inf
        self._row: _Row | None = None
        self._fresh(n)
        if floors is not None:
            self.set_floors(floors)

    def _fresh(self, n: int) -> None:
        """Make the state of n series of which nothing is known."""
        zero = {name: np.zeros(n) for name in _FIELDS}
        self.rows: FloatArray = zero["rows"]
        self.seen: FloatArray = np.full(n, -np.inf)
        self.last: FloatArray = zero["last"]
        self.fast: FloatArray = zero["fast"]
        self.mean: FloatArray = zero["mean"]
        self.spread: FloatArray = zero["spread"]
        self.errors: FloatArray = np.zeros((2, n))
        self.moves: FloatArray = zero["moves"]
        self.move_share: FloatArray = zero["move_share"]
        self.up: FloatArray = zero["up"]
        self.down: FloatArray = zero["down"]
        self.swing: FloatArray = zero["swing"]
        self.swing_usual: FloatArray = zero["swing_usual"]
        self.run: FloatArray = zero["run"]
        self.held: FloatArray = zero["held"]
        self.floors: FloatArray = zero["floors"]
        self.tails = Tail(_PRIOR, n)

    def set_floors(self, floors: FloatArray) -> None:
        """Take floors (n,) in the units of the series; NaN and negative ones count as unknown."""
        if len(floors) != len(self.rows):
            raise ValueError(f"{len(floors)} floors for {len(self.rows)} series")
        self.floors = np.nan_to_num(np.maximum(floors, 0.0))
        self._row = None

    # ------------------------------------------------------------------ score

    def score(self, ts: float, x: FloatArray) -> FloatArray:
        """Return p (n,) of this row against what was learnt before it; NaN = not ready, or x not finite."""
        self._row = self._measure(ts, x)
        return self._row.p.copy()

    def _measure(self, ts: float, given: FloatArray) -> _Row:
        with np.errstate(
            over="ignore"
        ):  # a huge leap from a still series is infinitely rare, rightly
            return self._compare(ts, given)

    def _compare(self, ts: float, given: FloatArray) -> _Row:
        if len(given) != len(self.rows):
            raise ValueError(f"a row of {len(given)} values for {len(self.rows)} series")
        ok = np.abs(given) < _LARGEST  # False for NaN too
        x = np.where(ok, given, self.last)
        last, fast, mean = self.last, self.fast, self.mean
        stale = ts - self.seen > _STALE_STEPS * self._config.step_s
        if stale.any():
            # Nothing is known of where it was just now: no spike out of a gap. New series come this way too.
            last, fast = np.where(stale, x, last), np.where(stale, x, fast)
            mean = np.where(self.rows > 0, mean, x)
        grain = np.abs(mean) * _TINY + 1e-300
        least = self.floors * (0.25 / _SIGMA) + grain
        off = np.stack((x - last, x - fast))
        # The better of two forecasts: the last value (walks, steps) or the local level (noise).
        residual = np.where(self.errors[0] <= self.errors[1], off[0], off[1])
        spike_scale = np.maximum(self.errors.min(axis=0), least) * _SIGMA
        level_scale = np.maximum(self.spread, least) * _SIGMA
        now = fast + off[1] * (1.0 / _LOCAL_ROWS)
        z = (x - mean) / level_scale
        np.minimum(np.maximum(z, -3.0, out=z), 3.0, out=z)
        away = now - mean
        # Once the local level is back the evidence of a shift fades; a plain CUSUM takes as long to forget it.
        fade = np.where(np.abs(away) < 0.5 * level_scale, 0.8, 1.0)
        up = np.maximum(self.up * fade + z - _CUSUM_SLACK, 0.0)
        down = np.maximum(self.down * fade - z - _CUSUM_SLACK, 0.0)
        np.minimum(up, _CUSUM_MAX, out=up)
        np.minimum(down, _CUSUM_MAX, out=down)
        moved_by = np.abs(off[0])
        moved = moved_by > grain
        swing = self.swing + (moved_by - self.swing) * (1.0 / _LOCAL_ROWS)
        soft = 0.1 * self.swing_usual + least
        run = np.where(moved, 0.0, self.run + 1.0)
        stats = np.empty((6, len(x)))
        np.divide(residual, spike_scale, out=stats[_SPIKE])
        np.divide(away, level_scale, out=stats[_LEVEL])
        np.maximum(up, down, out=stats[_CUSUM])
        np.log((swing + soft) / (self.swing_usual + soft), out=stats[_VARIABILITY])
        flat_unit: FloatArray = np.where(self.move_share > 0.9, 1.0 / _FLAT_UNIT, 0.0)
        np.multiply(run, flat_unit, out=stats[_FLAT])
        np.abs(stats[:_JOINT], out=stats[:_JOINT])
        np.minimum(stats[:_JOINT], _FARTHEST, out=stats[:_JOINT])
        rarity = self.tails.rarity(stats[:_JOINT])
        # Two looks at the level: the better one, paid for by a factor of two.
        families = rarity[[_SPIKE, _LEVEL, _VARIABILITY, _FLAT]]
        families[1] = np.maximum(np.maximum(families[1], rarity[_CUSUM]) - _LOG_2, 0.0)
        families.sort(axis=0)
        stats[_JOINT] = families[3] + 0.5 * families[2] + 0.25 * families[1]
        p = np.exp(-self.tails.rarity(stats[_JOINT:], _JOINT)[0])
        p = np.maximum(p, 1.0 / (30.0 * np.maximum(self.rows, 1.0)))
        constant = self.moves == 0
        if constant.any():
            p = np.where(constant, self._leaves(x, mean, grain), p)
        p[~ok | (self.rows < self._config.warmup_rows)] = np.nan
        return _Row(
            ts, x, ok, moved, last, off, now, up, down, swing, run, flat_unit,
            spike_scale, level_scale, stats, rarity, p,
        )  # fmt: skip

    def _leaves(self, x: FloatArray, mean: FloatArray, grain: FloatArray) -> FloatArray:
        """P-values of series that never moved: 1 while they stay.

        By the rule of succession a move was due with 1 / (rows + 2); how wide it is in floors is Pareto of index 1, the
        vaguest size there is. Without a floor its width says nothing.
        """
        away = np.abs(x - mean)
        rows = np.maximum(self.rows, 1.0)
        wide = np.maximum(away / np.where(self.floors > 0, self.floors, np.inf), 1.0)
        p = np.maximum(1.0 / ((rows + 2.0) * wide), 1.0 / (30.0 * rows))
        return np.where(away > grain, p, 1.0)

    # ------------------------------------------------------------------ learn

    def learn(self, ts: float, x: FloatArray, trust: BoolArray) -> None:
        """Learn the row. Late and repeated rows are left out; a clock set far back is followed."""
        late = self._last_ts - ts
        if 0 <= late < _LATE_STEPS * self._config.step_s:
            return
        if late > 0:
            np.minimum(self.seen, ts, out=self.seen)
        row = self._row
        if row is None or row.ts != ts or not np.array_equal(row.x[row.ok], x[row.ok]):
            row = self._measure(ts, x)
        self._row = None if row is not self._row else row
        self._last_ts = ts
        teach = row.ok & trust
        self._ordinary(row, teach)
        self._position(row)

    def _position(self, row: _Row) -> None:
        """Where the series are now: follows every row that has a value, trusted or not."""
        ok = row.ok
        for name in ("fast", "up", "down", "swing", "run"):
            np.copyto(getattr(self, name), getattr(row, name), where=ok)
        np.copyto(self.last, row.x, where=ok)
        np.copyto(self.seen, row.ts, where=ok)

    def _ordinary(self, row: _Row, teach: BoolArray) -> None:
        """What is ordinary: follows trusted rows only."""
        before = self.rows
        first = teach & (before == 0)
        if first.any():
            np.copyto(self.mean, row.x, where=first)
        again = teach & (self.held >= _NEW_NORMAL_ROWS)
        if again.any():
            self._new_normal(row, again)
        self.held = np.where(teach, 0.0, self.held + row.ok)
        self.rows = before + teach
        early = before < self._config.warmup_rows
        rate = np.maximum(1.0 / np.maximum(self.rows, 1.0), 1.0 / self._slow) * teach
        away = row.x - self.mean
        limit = np.where(early | (self.spread == 0), np.inf, _CLIP * self.spread)
        away = np.clip(away, -limit, limit)
        self.mean += rate * away
        self.spread += rate * (np.abs(away) - self.spread)
        moving = teach & row.moved
        self.moves += moving
        # Sizes of moves are learnt from rows with a move; how often there is one, from all.
        rate_moves = np.maximum(1.0 / np.maximum(self.moves, 1.0), 0.005) * moving
        limit = np.where(
            (self.moves < self._config.warmup_rows) | (self.errors == 0),
            np.inf,
            _CLIP * self.errors,
        )
        size = np.abs(row.off)
        self.errors += rate_moves * (np.minimum(size, limit) - self.errors)
        usual = self.swing_usual
        limit = np.where(early | (usual == 0), np.inf, _CLIP * usual)
        usual += rate * (np.minimum(size[0], limit) - usual)
        self.move_share += rate * (row.moved - self.move_share)
        # A run teaches once, with its length, when it ends: while it lasts it must not become ordinary by itself.
        ended = np.where(row.moved, self.run * row.flat_unit, 0.0)
        stats = np.concatenate((row.stats[:_FLAT], ended[None], row.stats[_JOINT:]))
        self.tails.learn(stats, teach & ~early, before)

    def _new_normal(self, row: _Row, again: BoolArray) -> None:
        """The monitor trusts again what it has long called abnormal: the level goes to where the series is."""
        # Unless this row leaps away from there: then it is the way back, and what was ordinary still is.
        again &= np.abs(row.off[1]) <= 3.0 * row.swing
        moved_on = again & (np.abs(row.fast - self.mean) > 2.0 * row.level_scale)
        self.mean = np.where(moved_on, row.fast, self.mean)
        self.swing_usual = np.where(again, row.swing, self.swing_usual)
        self.move_share = np.where(again & (row.run > 0), 0.0, self.move_share)
        self.moves += again
        row.up[again] = row.down[again] = 0.0

    # ------------------------------------------------------------------ series come and go

    def remap(self, old_index: IntArray) -> None:
        """New position i was old_index[i]; -1 = new. The others keep all they learnt."""
        old = np.asarray(old_index, dtype=np.int64)
        if len(old) and (old.max() >= len(self.rows) or old.min() < -1):
            raise ValueError(
                f"remap asks for column {int(old.max())} of a bank of {len(self.rows)} series"
            )
        state, ticks = self._arrays(), self.tails.ticks
        self._fresh(len(old))
        self.tails.ticks = ticks
        stay = old >= 0
        fresh = self._arrays()
        for name, array in fresh.items():
            array[..., stay] = state[name][..., old[stay]]
        self._row = None

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array of the state by name; the last axis is the series."""
        out: dict[str, npt.NDArray[Any]] = {name: getattr(self, name) for name in _FIELDS}
        out.update({f"tails.{name}": array for name, array in self.tails.arrays().items()})
        return out

    # ------------------------------------------------------------------ dump, load

    def dump(self) -> bytes:
        """Return the state with version and checksum; the last score is not part of it."""
        last_ts = self._last_ts if np.isfinite(self._last_ts) else None
        meta = {
            "n": len(self.rows), "step_s": self._config.step_s, "last_ts": last_ts,
            "ticks": self.tails.ticks,
        }  # fmt: skip
        return checkpoint.write("bank", _VERSION, meta, self._arrays())

    def load(self, state: bytes) -> None:
        """Take a state; n becomes that of the state. Raises Refused when it does not fit this bank."""
        meta, arrays = checkpoint.read("bank", _VERSION, state)
        try:
            n, step_s, last_ts = int(meta["n"]), float(meta["step_s"]), meta["last_ts"]
            ticks = int(meta["ticks"])
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of bank is damaged ({damage}): it is learnt anew") from None
        if step_s != self._config.step_s:
            raise Refused(
                f"state of bank was learnt at a step of {step_s:g} s, not {self._config.step_s:g} s: "
                "it is learnt anew"
            )
        kept = Bank(self._config, n)
        for name, array in kept._arrays().items():
            given = arrays.get(name)
            if given is None or given.shape != array.shape:
                raise Refused(f"state of bank has no fitting {name}: it is learnt anew")
            array[...] = given
        kept.tails.ticks = ticks
        kept._last_ts = -np.inf if last_ts is None else float(last_ts)
        self.__dict__.update(kept.__dict__)

    # ------------------------------------------------------------------ explain

    def explain(self, i: int) -> Why:
        """Say why series i got its last p: the rarest family and the band that it left."""
        row = self._row
        rows = int(self.rows[i])
        calibrated = rows >= self._config.ready_rows
        if row is None:
            return Why("none", float("nan"), float("nan"), 0.0, rows, calibrated=False)
        x, mean = float(row.x[i]), float(self.mean[i])
        if self.moves[i] == 0:
            floor = float(self.floors[i])
            away = abs(x - mean)
            moved = away > abs(mean) * _TINY
            deviations = min(away / floor, 1e5) * 4.0 if floor > 0 else 10.0 * moved
            return Why("constant", mean - floor, mean + floor, deviations, rows, calibrated=False)
        which = int(np.argmax(row.rarity[:, i]))
        family = _FAMILY[which]
        reach = max(float(self.tails.quantile[which, i]), 3.0)
        if family == "spike":
            centre = x - float(row.off[0 if self.errors[0, i] <= self.errors[1, i] else 1, i])
            scale = float(row.spike_scale[i])
        elif family == "level":
            centre, scale = mean, float(row.level_scale[i])
            reach = max(float(self.tails.quantile[_LEVEL, i]), 3.0)
            x = float(row.fast[i]) if which == _LEVEL else x
        else:
            stat = float(row.stats[which, i])
            deviations = float(np.exp(min(stat, 10.0))) if family == "variability" else stat
            nan = float("nan")
            return Why(family, nan, nan, deviations, rows, calibrated)
        deviations = min(abs(x - centre) / scale, 1e6)
        return Why(
            family, centre - reach * scale, centre + reach * scale, deviations, rows, calibrated
        )
