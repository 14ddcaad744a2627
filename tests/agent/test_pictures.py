"""Pictures of charts: drawn by the real worker process, and looked at as pixels."""

import io

import numpy as np
import pytest

from agent.errors import Refused
from agent.pictures import Picture, Pictures, _marks, _span, _ticks

Image = pytest.importorskip("PIL.Image", reason="needs the extra `charts`")
pytest.importorskip("matplotlib", reason="needs the extra `charts`")


def chart(title="latency p95", values=None, low=None, high=0.25, marks=(), unit="seconds"):
    ts = [1_800_000_000.0 + 10 * i for i in range(60)]
    data = [ts, [0.1 + (0.5 if i > 40 else 0.0) for i in range(60)] if values is None else values]
    return {
        "series": "s", "title": title, "subject": "wine", "unit": unit, "data": data, "low": low, "high": high,
        "marks": [{"ts": ts[41], "kind": "onset", "text": "it began"}, *marks],
    }  # fmt: skip


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)


def share(png, colour):
    return float((np.abs(pixels(png).astype(int) - np.array(colour)).sum(axis=1) < 12).mean())


def made(charts, *, dark=False):
    nothing = np.empty(0)
    return Picture.train(Picture.Config(charts=charts, dark=dark), nothing, nothing)


@pytest.mark.long
async def test_the_worker_draws_what_nobody_else_can(tmp_path):
    pictures = Pictures(tmp_path)
    try:
        png = await pictures.draw([chart(), chart("requests", unit="per_second")])
        assert png.startswith(b"\x89PNG")
        assert Image.open(io.BytesIO(png)).size[0] == 880
        with pytest.raises(Refused, match="nothing to draw"):
            await pictures.draw([chart(values=[None] * 60)])
    finally:
        await pictures.close()


def test_light_is_light_and_dark_is_dark_and_both_show_line_band_and_mark():
    light, dark = made([chart()]), made([chart()], dark=True)
    assert share(light, (255, 255, 255)) > 0.4
    assert share(dark, (0x12, 0x17, 0x1D)) > 0.4
    assert share(light, (0x1F, 0x5F, 0xBF)) > 0.0005  # the line
    assert share(light, (0xC2, 0x41, 0x0C)) > 5e-5  # the mark
    assert share(dark, (0xFB, 0x92, 0x3C)) > 5e-5
    assert share(light, (226, 234, 247)) > 0.05  # the band
    assert share(made([chart(high=None)]), (226, 234, 247)) < 0.001


def test_a_picture_is_as_high_as_it_has_charts():
    heights = [Image.open(io.BytesIO(made([chart()] * n))).size[1] for n in (1, 2, 4)]
    assert heights[1] - heights[0] == pytest.approx((heights[2] - heights[0]) / 3, abs=2)


@pytest.mark.parametrize(
    "strange",
    [
        {"values": [None] * 59 + [3.0]},
        {"values": [0.0] * 60, "high": None},
        {"title": "cost in $x$ and ${y}", "marks": [{"ts": 0.0, "kind": "other", "text": "$" * 300}]},
        {"unit": "celsius", "values": [-1e-9] * 30 + [1e12] * 30},
    ],
)  # fmt: skip
def test_what_is_strange_is_drawn_all_the_same(strange):
    assert made([chart(**strange)]).startswith(b"\x89PNG")


def test_of_many_marks_what_began_it_and_the_acts_stay():
    many = [{"ts": float(i), "kind": "change", "text": f"release {i}"} for i in range(20)]
    act = {"ts": 30.0, "kind": "act", "text": "rolled back"}
    kept = _marks([chart(marks=[*many, act]), chart()])
    assert len(kept) == 6
    assert [m["kind"] for m in kept].count("onset") == 1
    assert act in kept
    assert kept == sorted(kept, key=lambda m: m["ts"])


def test_heights_and_times():
    assert _span(np.array([1.0, np.nan, 2.0]), None, 4.0) == pytest.approx((0.76, 4.24))
    assert _span(np.array([0.1, 0.9]), None, None)[0] == 0.0
    assert _span(np.array([5.0]), None, None) == (4.5, 5.5)
    for span in (20.0, 900.0, 3600.0, 9 * 86_400.0):
        ticks = list(_ticks(1_800_000_000.0, 1_800_000_000.0 + span))
        assert 2 <= len(ticks) <= 9
        assert np.all(np.diff(ticks) == ticks[1] - ticks[0])
