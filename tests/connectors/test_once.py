"""What was done for which key: two who write of one key at once, and what has ended stays so."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from connectors._once import Once


@pytest.mark.parametrize("kept", [True, False])
def test_two_at_once_are_one_after_the_other_and_an_end_stays(tmp_path, kept):
    once = Once(tmp_path / "once" if kept else None)
    for n in range(40):
        once.begin(f"run-{n}")
        with ThreadPoolExecutor(2) as both:
            acts = [
                both.submit(once.note, f"run-{n}", {"run": "job-1"}),
                both.submit(once.end, f"run-{n}", {"error": "was called off"}),
            ]
        assert [act.exception() for act in acts] == [None, None]
        assert once.find(f"run-{n}") == {"key": f"run-{n}", "state": "done", "error": "was called off"}  # fmt: skip
    assert not list(tmp_path.rglob("*.new"))
