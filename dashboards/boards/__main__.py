"""Builds what Grafana and Kibana read: `python -m dashboards.boards [FOLDER]`, default the package `dashboards`.

grafana/UID.json             the boards
provisioning/homeostat.yaml  where a Grafana finds them, when it is told by files
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as m

from dashboards import kibana_objects
from dashboards.boards import agent_itself, drift, fleet, gpu, host, incidents, models

BOARDS: Final = (fleet, host, gpu, models, drift, incidents, agent_itself)
_PROVISIONING: Final = """\
# Put this into /etc/grafana/provisioning/dashboards/ and the boards into the folder below:
#   homeostat dashboards export /var/lib/grafana/dashboards/homeostat
apiVersion: 1
providers:
- name: homeostat
  folder: Homeostat
  folderUid: homeostat
  type: file
  allowUiUpdates: false
  updateIntervalSeconds: 60
  options:
    path: /var/lib/grafana/dashboards/homeostat
"""


def text(board: m.Dashboard) -> str:
    """Return a board as it is written: stable, so that a difference is one."""
    return json.dumps(board, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def built() -> dict[str, str]:
    """Return path -> text of every file."""
    made = {f"grafana/{one.UID}.json": text(one.build()) for one in BOARDS}
    return {
        **made,
        "provisioning/homeostat.yaml": _PROVISIONING,
        "kibana/homeostat.ndjson": kibana_objects.built(),
    }


def main(folder: Path) -> None:
    """Write them; what is no board any more goes."""
    files = built()
    for path in folder.glob("grafana/*.json"):
        if f"grafana/{path.name}" not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path)  # noqa: T201  # what a build says


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
