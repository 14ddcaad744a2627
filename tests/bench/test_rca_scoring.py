"""Figures of the root-cause benchmark, and its rivals, on cases small enough to count by hand."""

import json
import math

import adapters
import numpy as np
import pytest
import rca
import rca_rivals
import rca_scoring as scoring
from rca_scoring import Bin, Said


def test_place_is_that_of_the_first_accepted_name():
    assert scoring.place(["a", "b", "c"], {"c", "b"}) == 2
    assert math.isinf(scoring.place(["a"], {"b"}))


def test_services_come_in_the_order_of_their_first_columns():
    assert scoring.services_of(["x_y_cpu", "a_mem", "x_y_mem"]) == ["x_y", "a"]


def test_accuracy_by_hand():
    found = scoring.accuracy([1, 2, 6, math.inf])
    assert found == {
        "ac_1": 0.25,
        "ac_3": 0.5,
        "ac_5": 0.5,
        "avg_5": pytest.approx((0.25 + 4 * 0.5) / 5),
    }


def test_calibration_error_judges_full_bins_only():
    bins = [Bin(0.9, 0.8, 30), Bin(0.1, 1.0, 3), Bin(0.5, 0.5, 10)]
    assert scoring.calibration_error(bins) == pytest.approx(0.1)
    assert scoring.calibration_error(bins, fewest=1) == pytest.approx((30 * 0.1 + 3 * 0.9) / 43)
    assert math.isnan(scoring.calibration_error(bins[1:]))


def test_bins_hold_what_was_stated():
    bins = scoring.reliability([0.05, 0.97, 1.0], [False, True, False])
    assert [(b.cases, b.right) for b in bins] == [(1, 0.0), (2, 0.5)]


def test_left_out_does_not_look_at_its_own_system():
    def said(system, right):
        return [Said(system, np.array([1.0, 0.5]), 1.0, right) for _ in range(20)]

    a = scoring.left_out(said("a", True) + said("b", True) + said("c", False))
    b = scoring.left_out(said("a", False) + said("b", True) + said("c", False))
    assert a[0] == b[0]
    assert a[20] > b[20]


def test_the_curve_is_a_drawing(tmp_path):
    scoring.draw([Bin(0.9, 0.8, 30), Bin(0.1, 0.5, 2)], "curve", tmp_path / "deep" / "curve.svg")
    text = (tmp_path / "deep" / "curve.svg").read_text()
    assert text.count("<circle") == 2
    assert text.count('fill="none" stroke="steelblue"') == 1


def small(rows=120):
    random = np.random.default_rng(0)
    times = np.arange(float(rows))
    names = ["a_cpu", "b_cpu", "c_mem", "d_cpu"]
    values = random.normal(10, 1, (rows, 4))
    values[rows * 2 // 3 :, 1] += 30
    values[:, 3] = 5.0
    return times, names, values


@pytest.mark.parametrize("name", sorted(rca_rivals.RIVALS))
def test_rivals_find_the_plain_case_and_leave_out_constants(name):
    times, names, values = small()
    ranked = rca_rivals.RIVALS[name](times, names, values, 80.0, None, None)
    assert ranked[0] == "b_cpu"
    assert "d_cpu" not in ranked


def test_rivals_by_hand():
    times = np.arange(6.0)
    values = np.array([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0], [3.0, 4.0], [12.0, 12.0], [2.0, 2.0]])
    # means 2 and 2, deviations 1 and 2: 10 against 5
    assert rca_rivals.n_sigma(times, ["a_x", "b_x"], values, 4.0, None, None) == ["a_x", "b_x"]


class Frame(dict):
    """As much of a data frame as a scorer hands over."""

    @property
    def columns(self):
        return list(self)

    def __getitem__(self, key):
        if isinstance(key, list):
            return Plain(np.column_stack([dict.__getitem__(self, k) for k in key]))
        return Plain(dict.__getitem__(self, key))


class Plain:
    def __init__(self, values):
        self.values = values

    def to_numpy(self, dtype=float):
        return self.values.astype(dtype)


def test_the_adapter_ranks_columns_of_a_frame_in_any_order_of_rows():
    times, names, values = small()
    turned = np.random.default_rng(1).permutation(len(times))
    frame = Frame({"time": times[turned], **{n: values[turned, j] for j, n in enumerate(names)}})
    graph = [("a", "b"), ("a", "nobody-measures-me")]
    ranked = adapters.rank(frame, 80.0, graph, {"service": "a", "metric": "a_latency-95"})
    assert ranked[0] == "b_cpu"
    assert sorted(ranked) == sorted(names)


def test_renaming_every_service_and_shuffling_columns_gives_the_same_ranks():
    random = np.random.default_rng(4)
    services = ["cart", "cpu-db", "error_front", "mem"]
    names = [
        f"{s}_{m}"
        for s in services
        for m in ("cpu", "cpu-rate", "latency-50", "requests", "in-latency-50-src.cart")
    ]
    values = random.normal(10, 1, (90, len(names)))
    values[60:, names.index("cpu-db_latency-50")] += 8
    values[60:, names.index("cart_latency-50")] += 8
    values[60:, names.index("cpu-db_cpu")] += 8
    values[:, names.index("cpu-db_cpu-rate")] = 5 * values[:, names.index("cpu-db_cpu")]
    graph = [("error_front", "cart"), ("cart", "cpu-db"), ("error_front", "mem")]
    target = {"service": "error_front", "metric": "error_front_latency-50"}
    new = dict(zip(services, ["zz", "aa_b", "latency", "q"], strict=True))

    def renamed(name):
        service, _, metric = name.rpartition("_")
        return f"{new[service]}_{metric}"

    a = adapters.suspects(np.arange(90.0), names, values, 60.0, graph, target)
    turned = random.permutation(len(names))
    b = adapters.suspects(
        np.arange(90.0), [renamed(names[j]) for j in turned], values[:, turned], 60.0,
        [(new[x], new[y]) for x, y in graph],
        {"service": "latency", "metric": "latency_latency-50"},
    )  # fmt: skip
    assert a.columns[0] == "cpu-db_cpu-rate" or a.columns[0] == "cpu-db_cpu"
    assert [renamed(n) for n in a.columns] == b.columns
    assert [new[s] for s in a.services] == b.services


def test_a_column_without_underscore_is_a_service():
    times, _, values = small()
    found = adapters.suspects(times, ["a", "b", "c_cpu", "d_mem"], values, 80.0)
    assert found.services[0] == "b"


def write(tmp_path, incidents=3):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "rca" / "cases"
    folder.mkdir(parents=True)
    times, names, values = small(450)
    lines = []
    for k in range(incidents):
        text = [",".join(["time", *names])]
        text += [
            ",".join([str(t), *("" if j == 0 and i == 3 else str(v) for j, v in enumerate(row))])
            for i, (t, row) in enumerate(zip(times, values, strict=True))
        ]
        (folder / f"{k}.csv").write_text("\n".join(text) + "\n")
        lines.append(
            json.dumps(
                {
                    "case": str(k), "dataset": f"set{k % 2}", "fault": "cpu", "file": f"cases/{k}.csv",
                    "inject_time": 300, "root_cause_service": "b", "root_cause_metric": ["b_cpu"],
                    "target": None, "graph": None,
                }
            )
        )  # fmt: skip
    (tmp_path / "rca" / "cases.jsonl").write_text("\n".join(lines) + "\n")


def test_the_whole_benchmark_on_a_small_folder(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    out = tmp_path / "out" / "rca.json"
    monkeypatch.setenv("HOMEOSTAT_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["rca.py", "--no-cost", "--out", str(out)])
    assert rca.main() == 0
    report = json.loads(out.read_text())
    of = {(r["set"], r["subject"], r["figure"]): r["value"] for r in report["rows"]}
    assert of["all", "homeostat", "ac_1"] == 1.0
    assert of["set0", "baro", "metric_ac_1"] == 1.0
    assert of["all", "homeostat", "avg_5_lost_late"] == 0.0
    assert of["all", "homeostat", "detected"] is not None
    assert (out.parent / "rca-reliability.svg").exists()
    assert "promised for homeostat" in capsys.readouterr().out


def test_without_data_it_says_where_the_originals_are(monkeypatch, capsys):
    monkeypatch.delenv("HOMEOSTAT_BENCH_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["rca.py"])
    assert rca.main() == 2
    assert "petshop-root-cause-analysis" in capsys.readouterr().err
