"""A state folder that was given relative to where the command was started."""

from pathlib import Path

from agent import daemon


def test_the_daemon_and_all_that_it_starts_are_told_the_whole_path(tmp_path, monkeypatch):
    told = []

    async def live(_config, _path, folder):
        told.append(folder)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(daemon, "_live", live)
    (tmp_path / "agent.yaml").write_text("{}\n", encoding="utf-8")
    assert daemon.run(Path("agent.yaml"), state=Path("s")) == 0
    assert told == [tmp_path / "s"]
