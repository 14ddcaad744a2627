"""Changes: noticed once, told from our own acts, remembered over a restart."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.changes import Changes, of_reload
from agent.codec import pack
from agent.config import Config, Service
from agent.journal import Journal
from agent.memory import Memory
from agent.model import Change, Entity, Frame, Series, Sighting
from agent.pipeline import Moment, Walk, learn
from agent.world import World

SHOP = Entity("service", "shop")
HOST = Entity("host", "h")
COUNT = (Series("service.replicas_count", SHOP),)


def seen(ts, version, source="prometheus", who=SHOP, name="version"):
    return Frame(source, ts, (), np.zeros(0), seen=(Sighting(who, ((name, version),)),))


def counted(ts, n):
    return Frame("workers", ts, COUNT, np.array([n]))


def run(frames, past=(), noticed=None):
    """Take frames one by one; return all that came of them."""
    noticed = noticed or Changes()
    out = list(past)
    for frame in frames:
        out += noticed.take([frame], (), out)
    return out[len(past) :]


# ---- versions


def test_a_version_that_was_not_there_is_a_release():
    told = ((1, "1.2"), (2, "1.2"), (3, "1.2,1.3"), (4, "1.3"), (700, "1.4"))
    first, last = run([seen(ts, version) for ts, version in told])
    assert (first.ts, first.kind, first.entity) == (3, "release", SHOP)
    assert (first.before, first.after) == ("1.2", "1.3")
    assert (last.before, last.after) == ("1.3", "1.4")
    assert "prometheus" in first.text


def test_going_back_is_a_release_too():
    back = run([seen(1, "2"), seen(2, "3"), seen(9000, "2")])[-1]
    assert (back.before, back.after) == ("3", "2")


def test_two_sources_with_two_words_for_one_version_are_no_releases():
    frames = [f for ts in range(1, 5) for f in (seen(ts, "1.2"), seen(ts, "sha256:ab", "kube"))]
    assert run(frames) == []


def test_a_version_that_is_not_told_any_more_is_no_release():
    assert run([seen(1, "1"), seen(2, ""), seen(3, "1")]) == []


def test_a_new_kernel_is_a_release_of_the_host_and_a_new_pid_is_none():
    (change,) = run([seen(1, "6.1", who=HOST, name="kernel"), seen(2, "6.2", who=HOST, name="kernel")])  # fmt: skip
    assert (change.entity, change.after) == (HOST, "6.2")
    assert run([seen(1, "7", name="pid"), seen(2, "8", name="pid")]) == []
    pod = Entity("replica", "shop/a")
    assert run([seen(1, "7", who=pod), seen(2, "8", who=pod)]) == []


# ---- replicas


def test_a_number_of_replicas_that_stands_is_scaling_from_when_it_moved():
    frames = [counted(t, 4.0) for t in range(10)] + [counted(t, 2.0) for t in range(10, 40)]
    (change,) = run(frames)
    assert (change.ts, change.kind, change.before, change.after) == (10, "scale", "4", "2")


@pytest.mark.parametrize("dip", [3.0, 0.0, math.nan])
def test_one_that_dies_and_comes_again_is_no_scaling(dip):
    frames = [counted(t, 4.0) for t in range(5)] + [counted(t, dip) for t in range(5, 12)]
    assert run(frames + [counted(t, 4.0) for t in range(12, 60)]) == []


def test_an_outage_is_no_scaling():
    down = [counted(t, 0.0) for t in range(5, 60)]
    assert run([counted(1, 4.0), *down, *(counted(t, 4.0) for t in range(60, 120))]) == []


def test_a_clock_that_was_set_is_no_time_that_passed():
    noticed = Changes()
    run([counted(0, 4.0), counted(1, 2.0)], noticed=noticed)
    noticed.rebase(3600.0)
    assert run([counted(3602, 2.0)], noticed=noticed) == []
    assert len(run([counted(3617, 2.0)], noticed=noticed)) == 1


# ---- each once, and whose


def told(ts, kind="release", after="2", **more):
    return Change(ts, SHOP, kind, more.pop("before", ""), after, **more)


def take(*changes, past=()):
    return Changes().take((), changes, past)


def test_an_id_counts_once_however_often_and_whenever_it_comes():
    one = told(5.0, id="gh:1", by="ann")
    assert take(one, one) == [one]
    assert take(told(9e6, after="3", id="gh:1"), past=[one]) == []
    assert len(take(told(5.0, id="gh:2", by="ann"), past=[one])) == 1


def test_what_we_notice_of_a_release_that_was_told_is_not_a_second_one():
    ci = told(5.0, id="gh:1", by="ci")
    assert take(told(40.0), past=[ci]) == []
    assert len(take(told(40.0, after="3"), past=[ci])) == 1
    assert len(take(told(5000.0), past=[ci])) == 1


def test_two_that_see_one_restart_see_one():
    first = told(5.0, "restart", "gunicorn 7")
    assert take(told(9.0, "restart", "pid 7"), past=[first]) == []
    assert len(take(told(300.0, "restart", "pid 9"), past=[first])) == 1


def test_what_our_own_act_did_is_ours():
    act = told(5.0, "scale", "5", by="homeostat:run-1")
    (after,) = take(told(9.0, "scale", "6"), past=[act])
    assert after.ours
    (later,) = take(told(900.0, "scale", "7"), past=[act])
    assert not later.ours
    (other,) = take(told(9.0, "config", "x"), past=[act])
    assert not other.ours
    (elsewhere,) = take(Change(9.0, HOST, "scale", "", "6"), past=[act])
    assert not elsewhere.ours


def test_a_person_is_never_taken_for_us():
    act = told(5.0, "scale", "5", by="homeostat:run-1")
    (after,) = take(told(9.0, "scale", "6", by="ann"), past=[act])
    assert after.by == "ann"


def test_a_release_that_does_not_say_from_what_is_told_so():
    past = [told(1.0, after="1"), told(3.0, after="2", by="ci")]
    assert take(told(9.0, after="3", by="ci"), past=past)[0].before == "2"
    assert take(told(2.0, after="3", by="ci"), past=past)[0].before == "1"
    assert take(told(9.0, after="3", by="ci", before="x"), past=past)[0].before == "x"


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from("ab"), st.sampled_from(["", "i", "j"])),
        max_size=12,
    ),
    dice=st.randoms(),
)
def test_the_order_of_coming_in_one_tick_changes_nothing(items, dice):
    changes = [told(float(t), after=a, id=i, by="x" if i else "") for t, a, i in items]
    one = take(*changes)
    dice.shuffle(changes)
    assert take(*changes) == one
    assert len({c.id for c in one if c.id}) == sum(1 for c in one if c.id)


# ---- an edited agent.yaml


def test_an_edited_objective_is_a_change_of_its_service_and_an_owner_is_none():
    old = [Service(id="shop", port=80), Service(id="gone")]
    new = [Service(id="shop", port=81, owner="ann"), Service(id="fresh")]
    (change,) = of_reload(old, new, 7.0)
    assert (change.kind, change.entity, change.text) == ("config", SHOP, "agent.yaml: port edited")
    assert of_reload(old, [Service(id="shop", port=80, owner="bob")], 7.0) == []


# ---- in the walk, and over a restart


class Ground:
    """The first stage of a walk, over a real journal; the rooms behind it are not entered."""

    def __init__(self, folder):
        self.journal = Journal(folder / "journal.sqlite")
        self.memory, self.world = Memory(), World()
        self.memory.load(self.journal)
        nowhere = SimpleNamespace(append=lambda frame: None)
        self.walk = Walk(
            Config(), self.world, nowhere, None, None, None, self.memory, self.record, None
        )

    def record(self, kind, subject, body, ts):
        self.memory.apply(self.journal.append(kind, subject, body, ts))

    def step(self, now, frames=(), changes=()):
        moment = Moment(now, frames, list(changes))
        learn(self.walk, moment)
        return moment.changes


def test_a_change_survives_a_restart_and_is_not_taken_again(tmp_path):
    ground = Ground(tmp_path)
    change = told(1000.0, id="gh:1", by="ci", url="https://ci/1")
    assert ground.step(1001.0, changes=[change, change]) == [change]
    assert ground.walk.changes == [change]
    assert ground.step(1002.0, changes=[change]) == []
    ground.journal.close()
    again = Ground(tmp_path)
    assert list(again.memory.changes.values()) == [change]
    assert again.step(1003.0, changes=[change]) == []
    again.journal.close()


def test_an_act_that_only_the_journal_tells_marks_what_we_see_of_it(tmp_path):
    ground = Ground(tmp_path)
    ground.record("change", SHOP.id, pack(told(1000.0, "scale", "5", by="homeostat:run-1")), 1000.0)
    for t in range(1000, 1030):
        ground.step(float(t), [counted(float(t), 4.0 if t < 1003 else 5.0)])
    # the same number that we set: what we count is our own act, seen again
    assert len(ground.memory.changes) == 1
    for t in range(1030, 1060):
        ground.step(float(t), [counted(float(t), 6.0)])
    noticed = list(ground.memory.changes.values())[-1]
    assert (noticed.kind, noticed.after, noticed.by) == ("scale", "6", "homeostat:run-1")
    ground.journal.close()


def test_labels_of_a_frame_are_compared_before_the_world_learns_them(tmp_path):
    ground = Ground(tmp_path)
    ground.step(1.0, [seen(1.0, "1")])
    (change,) = ground.step(2.0, [seen(2.0, "2")])
    assert change.after == "2"
    assert ground.world.attrs(SHOP)["version"] == "2"
    ground.journal.close()


def test_the_walk_lets_edges_fade(tmp_path):
    ground = Ground(tmp_path)
    pod = Sighting(Entity("replica", "shop/a"), (("version", "1"),), lasts_s=60.0)
    ground.step(1.0, [Frame("prometheus", 1.0, (), np.zeros(0), seen=(pod,))])
    assert ground.world.entities("replica")
    ground.step(100.0)
    assert not ground.world.entities("replica")
    ground.journal.close()
