"""A convolutional forecaster over all series of a source: what the last rows of all say of the next row of each.

Good for series that lead and follow one another within some rows, and for joint rhythms of that length. Not for
daily rhythm (see seasonal) and not worth its library for a handful of series (see pca).
x (n,) base units, NaN = the forecast stands in; p (n,), see `detectors/_joint.py`.

    last 16 rows (16, m) -> conv 4/4, ReLU (4, h) -> conv 4, ReLU (h) -> linear (m) + own share of the last row
      -> errors (m,) -> principal components of errors -> what the errors of the others leave of each

A shock that all share is no news of any of them: so the error of a series is held against those of the others, as
`pca` does with values. Without that, series that part company would pass as long as each moves in its usual steps.

Trained in the worker with torch, on CUDA where there is one (`device`), and scikit-learn; extra `deep`. Scoring is a
few small matrix products in numpy, so the daemon never loads torch. What is not trusted does not enter the next
forecasts: the forecast itself stands in, so that a long excursion stays one until the monitor trusts it again.
Cost: O(16 n h) a tick, and what judging costs; 20 h + 8 k + 250 bytes a series, 1 kB with h = 32.
Source: the convolutional forecaster that leads the multivariate table of Liu & Paparrizos 2024 (TSB-AD); after
Munir et al. 2019, DeepAnT.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray
from agent.ports import Past
from agent.registry import detector, trainer
from detectors._components import Basis, components
from detectors._joint import Arrays, Joint, Look, Settings, need, prepare, sizes

_KERNEL: Final = 4
WINDOW: Final = _KERNEL * _KERNEL
"""Rows that a forecast looks back on: two layers of kernel and stride four."""
_STALE_STEPS: Final = 5.0
_FARTHEST: Final = 8.0
"""Forecasts that feed on themselves must not run away."""
_BATCH: Final = 128
_LEAST_WINDOWS: Final = 200


@trainer("conv")
@detector("conv")
class Conv(Joint):
    """Series that leave the one-step forecast from the last rows of all of them, by a small network (extra `deep`)."""

    kind = "conv"

    class Config(Settings):
        """How large the network is and how long it is trained."""

        hidden: Annotated[int, Field(ge=2, le=256)] = 32
        """Channels between the layers."""
        components: Annotated[int, Field(ge=1, le=48)] = 32
        """Principal components of the errors, at most; never more than half of the series."""
        epochs: Annotated[int, Field(ge=1, le=500)] = 20
        """Passes over the rows; it stops early when what is held back gets no better."""
        device: Literal["auto", "cpu", "cuda"] = "auto"
        """Where it is trained; auto: on CUDA where torch finds it, else on the CPU."""

    def __init__(self, config: Config, n: int) -> None:
        super().__init__(config, n)
        self._ring: FloatArray = np.zeros((WINDOW, 0))

    def past(self) -> Past:
        """Say what `train` wants to see: longer pieces than others, as a window must not have a gap."""
        c = self.config
        return Past(c.span, c.step_s, c.rows, 256, min(512, int(0.8 * c.rows)))

    @staticmethod
    def train(config: Config, ts: FloatArray, values: FloatArray) -> bytes:
        """Fit on three quarters of the rows, size the errors on the rest; see `agent.ports.Trainable`."""
        torch = need("torch", "deep")
        config = config.model_copy(update={"device": device_of(torch, config.device)})
        ready = prepare(values, config.most_series)
        whole = np.flatnonzero(ts[WINDOW:] - ts[:-WINDOW] < (WINDOW + 0.5) * config.step_s) + WINDOW
        if len(whole) < _LEAST_WINDOWS:
            raise Refused(
                f"{len(whole)} windows of {WINDOW} rows without a gap, {_LEAST_WINDOWS} are needed"
            )
        fit, back = whole[ready.fit[whole]], whole[~ready.fit[whole]]
        u = ready.u.astype(np.float32)
        net = _fit(torch, u, fit, back, config)
        errors = _errors(Net(net), u, whole)
        held = ~ready.fit[whole]
        basis = components(errors[~held], config.components, 0.9)
        arrays = {**ready.arrays(), **sizes(Basis(basis).judge(errors[held])), **net, **basis}
        return checkpoint.write("conv model", Conv.version, {"step_s": config.step_s}, arrays)

    def _open(self, arrays: Arrays) -> None:
        self._net = Net(arrays)
        self._basis = Basis(arrays)
        # Whatever the last rows were, they were those of another model.
        self._ring = np.full((WINDOW, len(arrays["use"])), np.nan)

    def _look(self, ts: float, u: FloatArray, known: BoolArray) -> Look:
        ring = self._rows(ts, u)
        forecast = self._net.forecast(ring[None].astype(np.float32))[0].astype(np.float64)
        np.clip(forecast, -_FARTHEST, _FARTHEST, out=forecast)
        errors = np.where(known, u - forecast, 0.0)
        off = self._basis.judge(errors[None])[0]
        return Look(forecast + errors - off, off, weight=np.where(known, np.abs(off), 0.0))

    def _rows(self, ts: float, u: FloatArray) -> FloatArray:
        """Return the last rows; after a gap, or at first, nothing is known of them but the row that is there."""
        gap = abs(ts - self._last_ts) > _STALE_STEPS * self.config.step_s
        if gap or bool(np.isnan(self._ring).any()):
            return np.tile(u, (WINDOW, 1))
        return self._ring

    def _follow(
        self, ts: float, u: FloatArray, known: BoolArray, trust: BoolArray, look: Look
    ) -> None:
        del known  # trust implies it
        rows = self._rows(ts, u)
        self._ring = np.concatenate((rows[1:], np.where(trust, u, look.expected)[None]))

    def _moving(self) -> Arrays:
        return {"ring": self._ring}


def _errors(net: Net, u: npt.NDArray[Any], at: npt.NDArray[Any]) -> FloatArray:
    """Return the errors of the forecasts of rows `at` of u (k, m)."""
    windows = at[:, None] - np.arange(WINDOW, 0, -1)
    some = np.array_split(windows, -(-len(at) // 256))
    errors: FloatArray = u[at].astype(np.float64) - np.concatenate(
        [net.forecast(u[w]) for w in some]
    )
    return errors


class Net:
    """The network as arrays: a (4 m, h), b (4 h, h), c (h, m), their biases, and skip (m,); float32."""

    def __init__(self, arrays: Arrays) -> None:
        self._layers = [(arrays[name], arrays[f"{name}_bias"]) for name in ("a", "b", "c")]
        self._skip = arrays["skip"]

    def forecast(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what follows (k, m) on rows (k, 16, m), float32."""
        (a, a_bias), (b, b_bias), (c, c_bias) = self._layers
        k, _, m = rows.shape
        h = np.maximum(rows.reshape(k, _KERNEL, _KERNEL * m) @ a + a_bias, 0.0)
        h = np.maximum(h.reshape(k, -1) @ b + b_bias, 0.0)
        out: npt.NDArray[Any] = h @ c + c_bias + self._skip * rows[:, -1]
        return out


def device_of(torch: Any, asked: str) -> str:
    """Return where to train, cpu or cuda; raises Refused when CUDA was asked for and is not there."""
    there = bool(torch.cuda.is_available())
    if asked == "cuda" and not there:
        raise Refused(
            "device is cuda, but torch finds no CUDA device: install a driver and a torch built for CUDA, "
            "or set device: auto"
        )
    return "cuda" if there and asked != "cpu" else "cpu"


def _fit(
    torch: Any, u: npt.NDArray[Any], fit: npt.NDArray[Any], back: npt.NDArray[Any], config: Any
) -> Arrays:
    """Train with torch and return the arrays of a `Net`, those that did best on the rows held back."""
    torch.manual_seed(0)
    torch.set_num_threads(
        1
    )  # products this small only wait for one another, for minutes on a busy machine
    m, h, device = u.shape[1], config.hidden, config.device
    nn = torch.nn
    first, second = nn.Conv1d(m, h, _KERNEL, stride=_KERNEL), nn.Conv1d(h, h, _KERNEL)
    head = nn.Linear(h, m)
    nn.init.zeros_(
        head.weight
    )  # it begins as "the next row is half the last one", and learns what is better
    parts = nn.ModuleList([first, second, head]).to(device)
    skip = nn.Parameter(torch.full((m,), 0.5, device=device))
    rows = torch.as_tensor(u, device=device)
    offsets = torch.arange(-WINDOW, 0, device=device)

    def forecast(at: Any) -> Any:
        window = rows[at[:, None] + offsets]
        x = torch.relu(second(torch.relu(first(window.transpose(1, 2)))))
        return head(x[:, :, 0]) + skip * window[:, -1]

    fit_at, back_at = torch.as_tensor(fit, device=device), torch.as_tensor(back, device=device)
    adam = torch.optim.Adam([*parts.parameters(), skip], lr=2e-3, weight_decay=1e-5)
    loss_of = nn.SmoothL1Loss()
    best, kept, worse = float("inf"), _arrays(first, second, head, skip), 0
    for _ in range(config.epochs):
        for some in fit_at[torch.randperm(len(fit_at)).to(device)].split(_BATCH):
            adam.zero_grad()
            loss_of(forecast(some), rows[some]).backward()
            adam.step()
        with torch.no_grad():
            errors = [loss_of(forecast(some), rows[some]).item() for some in back_at.split(1024)]
        loss = float(np.mean(errors)) if errors else 0.0
        worse = 0 if loss < best else worse + 1
        if loss < best:
            best, kept = loss, _arrays(first, second, head, skip)
        if worse >= 3:
            break
    return kept


def _arrays(first: Any, second: Any, head: Any, skip: Any) -> Arrays:
    """Turn the layers round for matrix products over (tap, channel)."""

    def plain(tensor: Any) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = tensor.detach().cpu().numpy().astype(np.float32)
        return array

    h = second.weight.shape[0]
    return {
        "a": plain(first.weight).transpose(2, 1, 0).reshape(-1, h),
        "a_bias": plain(first.bias),
        "b": plain(second.weight).transpose(2, 1, 0).reshape(-1, h),
        "b_bias": plain(second.bias),
        "c": plain(head.weight).T.copy(),
        "c_bias": plain(head.bias),
        "skip": plain(skip).copy(),
    }
