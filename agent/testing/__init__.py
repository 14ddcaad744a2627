"""Checks of the contracts in `agent/ports.py`, for authors of plug-ins and for our own tests.

    for check in check_detector(lambda n: MyDetector(MyDetector.Config(), n)):
        print(check.name, await check.fault() or "holds")

Every check says in one line what it demands and fails with `Broken`, which names the check, what was seen and what
was wanted. They need no test framework. Detectors and views are fed made-up rows with a fixed seed; sources and
actions are used for real, so hand in ones that stand on a world of their own (a folder, a process, a service made
for it). One file a contract: `detector.py`, `view.py`, `source.py`, `action.py`, `notifier.py`, `ability.py`.
"""

from __future__ import annotations

from agent.testing._check import Broken, Check
from agent.testing.ability import (
    CUT,
    DEEDS,
    GONE,
    LAST,
    SETTINGS,
    Ground,
    MakeGround,
    check_deed,
    check_setting,
)
from agent.testing.action import MakeStage, Stage, check_action
from agent.testing.detector import Make, check_detector
from agent.testing.notifier import NOTIFIER_FAULTS, Hearing, check_notifier
from agent.testing.source import check_source
from agent.testing.view import MakeView, check_view

__all__ = [
    "CUT",
    "DEEDS",
    "GONE",
    "LAST",
    "NOTIFIER_FAULTS",
    "SETTINGS",
    "Broken",
    "Check",
    "Ground",
    "Hearing",
    "Make",
    "MakeGround",
    "MakeStage",
    "MakeView",
    "Stage",
    "check_action",
    "check_deed",
    "check_detector",
    "check_notifier",
    "check_setting",
    "check_source",
    "check_view",
]
