"""Builds the boards: `python -m dashboards.boards [FOLDER]`, default dashboards/grafana."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards import agent_itself, drift, fleet, gpu, host, incidents, models

BOARDS = (fleet, host, gpu, models, drift, incidents, agent_itself)


def text(board: m.Dashboard) -> str:
    """Return a board as it is written: stable, so that a difference is one."""
    return json.dumps(board, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def built() -> dict[str, str]:
    """Return file name -> JSON of every board."""
    return {f"{one.UID}.json": text(one.build()) for one in BOARDS}


def main(folder: Path) -> None:
    """Write them; what is no board any more goes."""
    files = built()
    for path in folder.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
        print(folder / name)  # noqa: T201  # what a build says


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "grafana"))
