"""What libraries take along stays out of memory, and only where it is hidden."""

import importlib
import json
import subprocess
import sys
import threading

import pytest

from agent.imports import lacking, lean, on_demand, without

CHILD = "optional_companion_of_a_test"


@pytest.fixture
def companion(tmp_path, monkeypatch):
    """A package that a library would take along, with one part."""
    (tmp_path / CHILD).mkdir()
    (tmp_path / CHILD / "__init__.py").write_text("from . import part\nANSWER = 42\n")
    (tmp_path / CHILD / "part.py").write_text("class Broken(Exception): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield CHILD
    for name in [n for n in sys.modules if n.partition(".")[0] == CHILD]:
        del sys.modules[name]


def loaded_by(code):
    """Return the modules that a fresh process has loaded after some code."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(said.stdout.splitlines()[-1]))


def test_what_is_missing_is_said_with_both_ways_to_put_it_in():
    said, _, remedy = lacking("pictures need matplotlib", "charts").partition("; ")
    assert said == "pictures need matplotlib"
    assert "make setup" in remedy
    assert "pip install '.[charts]'" in remedy


def test_what_is_left_out_looks_as_if_it_were_not_installed_and_only_inside(companion):
    with without(companion), pytest.raises(ModuleNotFoundError, match="left out"):
        importlib.import_module(companion)
    assert importlib.import_module(companion).ANSWER == 42


def test_what_is_left_out_is_there_for_other_threads(companion):
    found = []
    with without(companion):
        other = threading.Thread(
            target=lambda: found.append(importlib.import_module(companion).ANSWER)
        )
        other.start()
        other.join()
    assert found == [42]


def test_a_library_that_is_lean_loads_without_others_once_and_only_itself(companion, tmp_path):
    (tmp_path / "host_of_a_test.py").write_text(
        f"try:\n    import {CHILD}\nexcept ImportError:\n    {CHILD} = None\n"
    )
    before = list(sys.meta_path)
    lean("host_of_a_test", companion)
    other = importlib.import_module("json")
    assert importlib.reload(other) is other
    host = importlib.import_module("host_of_a_test")
    assert getattr(host, companion) is None
    assert sys.meta_path == before
    assert importlib.import_module(companion).ANSWER == 42
    lean("host_of_a_test", companion)  # it is loaded: nothing waits for it
    assert sys.meta_path == before
    del sys.modules["host_of_a_test"]


def test_what_is_loaded_already_is_not_taken_away(companion):
    importlib.import_module(companion)
    with without(companion), on_demand(companion, "part"):
        assert importlib.import_module(companion).ANSWER == 42


def test_a_module_on_demand_is_loaded_when_something_of_it_is_used(companion):
    with on_demand(companion, "part"):
        module = importlib.import_module(companion)
        part = module.part
    assert companion not in sys.modules
    broken = part.Broken
    assert sys.modules[f"{companion}.part"].Broken is broken
    assert module.ANSWER == 42
    assert importlib.import_module(companion) is not module


def test_a_module_on_demand_may_be_used_while_it_is_imported(companion):
    with on_demand(companion, "part"):
        module = importlib.import_module(companion)
        assert module.ANSWER == 42
        assert issubclass(module.part.Broken, Exception)
    assert sys.modules[companion].ANSWER == 42


def test_a_name_that_a_module_on_demand_does_not_have_is_told(companion):
    with on_demand(companion):
        module = importlib.import_module(companion)
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018  # that it raises is looked at


@pytest.mark.parametrize(
    ("code", "hidden"),
    [
        ("import agent.daemon, agent.intake_process", {"greenlet", "pygments", "rich"}),
        ("import connectors.http", {"pygments", "rich"}),
        ("from connectors._elastic import library; library()", {"aiohttp", "pyarrow", "requests"}),
    ],
    ids=["structlog", "httpx", "elasticsearch"],
)
def test_a_library_is_loaded_without_what_we_do_not_use(code, hidden):
    for name in hidden:
        pytest.importorskip(name)  # where it is not installed nothing is shown
    assert not hidden & loaded_by(code)
