"""`homeostat dashboards`, as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from grafana_side import GrafanaBoardsSide
from people_side import serving

from agent import cli


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""

    def run(*args, **environ):
        monkeypatch.setattr(sys, "argv", ["homeostat", "dashboards", *map(str, args)])
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


def started(*args):
    """Run it as people do, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agent", "dashboards", *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_export_writes_what_is_shipped_and_says_what_was_new(tmp_path, call):
    code, out, _ = started("export", tmp_path, "--json")
    said = json.loads(out)["files"]
    assert code == 0
    assert {one["became"] for one in said} == {"new"}
    assert json.loads((tmp_path / "homeostat-fleet.json").read_text())["uid"] == "homeostat-fleet"
    assert (tmp_path / "homeostat.yaml").read_text().startswith("# Put this into")
    assert (tmp_path / "rules" / "homeostat.yml").exists()
    (tmp_path / "homeostat-gpu.json").write_text("{}")
    (tmp_path / "mine.json").write_text("{}")
    code, out, _ = call("export", tmp_path)
    changed = [line for line in out.splitlines() if not line.startswith("as it is")]
    assert [line.split()[0] for line in changed] == ["changed"]
    assert "homeostat-gpu.json" in changed[0]
    assert (tmp_path / "mine.json").read_text() == "{}"


def test_export_for_kibana(tmp_path, call):
    code, out, _ = call("export", tmp_path, "--kibana")
    assert code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["homeostat.ndjson"], out


def test_export_to_where_nobody_may_write_says_so(tmp_path, call):
    (tmp_path / "file").write_text("")
    code, _, err = call("export", tmp_path / "file" / "folder")
    assert code == 1
    assert "can not be written" in err


def test_push_says_what_it_would_do_and_does_it(call):
    with serving(GrafanaBoardsSide()) as side:
        args = ("push", "--url", side.url, "--token", "env:GRAFANA")
        code, out, err = call(*args, "--dry-run", GRAFANA=side.TOKEN)
        assert (code, side.versions) == (0, {}), err
        assert "nothing was changed" in out
        code, out, err = call(*args, "--json", GRAFANA=side.TOKEN)
        assert code == 0, err
        assert {one["became"] for one in json.loads(out)["boards"]} == {"new"}
        side.person_saves("homeostat-host", refresh="1m")
        code, out, _ = call(*args, GRAFANA=side.TOKEN)
        assert code == 1
        (edited,) = [line for line in out.splitlines() if line.startswith("edited")]
        assert "refresh" in edited
        code, _, err = call(*args, GRAFANA="glsa_wrong_one")
        assert code == 1
        assert "not accepted" in err
        assert "glsa" not in err


@pytest.mark.parametrize("token", ["glsa_abc", "env:", "file:relative"])
def test_a_token_itself_is_refused_and_not_repeated(call, token):
    code, _, err = call("push", "--url", "http://127.0.0.1:1", "--token", token)
    assert code == 1
    assert "env:GRAFANA_TOKEN" in err
    assert "glsa_abc" not in err


def test_nobody_there_is_said(call):
    code, _, err = call("push", "--url", "http://127.0.0.1:1", "--token", "env:T", T="glsa_secret")
    assert code == 3
    assert "no connection" in err
