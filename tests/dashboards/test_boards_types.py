"""The boards' JSON fits Grafana's own types (`@grafana/schema`): of the board, and of every panel's options."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import pytest
from boards_read import boards

HERE = Path(__file__).resolve().parent / "schema"
MADE = HERE.parents[2] / "build" / "schema"


@pytest.fixture
def compiled(needs, tmp_path):
    """Return what the compiler says of boards."""
    node = needs(str(MADE / "bin" / "node"))
    (tmp_path / "node_modules").symlink_to(MADE / "node_modules")
    for name in ("board.ts", "tsconfig.json"):
        (tmp_path / name).write_text((HERE / name).read_text())

    def compile_(some: dict[str, dict]) -> str:
        lines = ['import type { Board } from "./board";']
        for uid, board in some.items():
            lines.append(f"export const {uid.replace('-', '_')}: Board = {json.dumps(board)};")
        (tmp_path / "boards.ts").write_text("\n".join(lines))
        tsc = MADE / "node_modules" / "typescript" / "bin" / "tsc"
        done = subprocess.run(
            [node, str(tsc), "-p", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip
        assert bool(done.stdout) == bool(done.returncode)
        return done.stdout

    return compile_


def test_every_board_fits(compiled):
    assert compiled(boards()) == ""


def test_what_does_not_fit_is_told(compiled):
    wrong = {}
    for i, (path, value) in enumerate((
        (["graphTooltip"], 7),
        (["panels", 1, "type"], "stats"),
        (["panels", 1, "options", "colorMode"], "loud"),
        (["panels", 1, "fieldConfig", "defaults", "unit"], 3),
        (["templating", "list", 0, "hide"], 5),
        (["annotations", "list", 1, "expression"], "up"),
        (["panels", 10, "fieldConfig", "defaults", "custom", "drawStyle"], "wavy"),
    )):  # fmt: skip
        board = copy.deepcopy(boards()["homeostat-fleet"])
        at = board
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        wrong[f"wrong-{i}"] = board
    said = compiled(wrong)
    assert [i for i in range(len(wrong)) if f"boards.ts({i + 2}," not in said] == []
