import json
import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.authority import (
    LOOPBACK,
    NEEDS,
    ROLES,
    Forbidden,
    Person,
    Tokens,
    Unknown,
    peer,
)
from agent.errors import Refused


def test_reading_is_the_only_thing_a_viewer_may():
    viewer = Person("eve", "viewer", "token")
    assert [verb for verb in NEEDS if viewer.may(verb)] == ["see"]


@given(st.sampled_from(ROLES), st.sampled_from(ROLES), st.sampled_from(sorted(NEEDS)))
def test_a_higher_role_may_all_that_a_lower_one_may(a, b, verb):
    low, high = sorted((a, b), key=ROLES.index)
    if Person("x", low, "token").may(verb):
        assert Person("x", high, "token").may(verb)


def test_a_missing_token_and_a_low_role_are_told_apart():
    with pytest.raises(Unknown, match="homeostat token add"):
        LOOPBACK.must("approve")
    with pytest.raises(Forbidden, match="eve is viewer, approve needs operator"):
        Person("eve", "viewer", "token").must("approve")
    Person("ops", "operator", "token").must("approve")
    with pytest.raises(Forbidden, match="approve needs author"):
        Person("ops", "operator", "token").must("approve", "author")
    # a playbook cannot ask for less than the table
    with pytest.raises(Forbidden, match="approve needs operator"):
        Person("eve", "viewer", "token").must("approve", "viewer")


def test_the_socket_knows_ourselves_and_root_only():
    assert peer(os.geteuid()).role == "admin"
    assert peer(0).via == "socket"
    with pytest.raises(Forbidden, match="uid 12345"):
        peer(12345)


def test_a_token_is_shown_once_and_kept_only_as_a_hash(tmp_path):
    tokens = Tokens(tmp_path / "state" / "tokens.json")
    secret = tokens.add("ci", "operator", 100.0)
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert secret not in tokens.path.read_text()
    assert len(secret) > 40
    assert tokens.who(secret) == Person("ci", "operator", "token")
    for wrong in (secret[:-1], secret + "x", "", secret.upper()):
        with pytest.raises(Unknown):
            tokens.who(wrong)


def test_a_revoked_token_stops_at_once_also_in_another_process(tmp_path):
    here, there = Tokens(tmp_path / "t.json"), Tokens(tmp_path / "t.json")
    secret = here.add("ci", "viewer", 1.0)
    assert there.who(secret).name == "ci"
    assert here.revoke("ci").role == "viewer"
    with pytest.raises(Unknown):
        there.who(secret)
    with pytest.raises(Refused, match="there are: none"):
        here.revoke("ci")


def test_names_and_roles_are_checked(tmp_path):
    tokens = Tokens(tmp_path / "t.json")
    tokens.add("a", "admin", 1.0)
    with pytest.raises(Refused, match="revoke it first"):
        tokens.add("a", "viewer", 1.0)
    with pytest.raises(Refused, match="viewer, operator, author, admin"):
        tokens.add("b", "root", 1.0)
    with pytest.raises(Refused, match="not a name"):
        tokens.add("B b", "viewer", 1.0)
    with pytest.raises(Refused, match="name them: --model"):
        tokens.add("b", "sender", 1.0)
    with pytest.raises(Refused, match="only a sender"):
        tokens.add("b", "operator", 1.0, ["fraud"])


def test_a_sender_may_send_rows_and_nothing_else(tmp_path):
    tokens = Tokens(tmp_path / "t.json")
    secret = tokens.add("edge", "sender", 1.0, ["fraud", "churn-*"])
    sender = Tokens(tokens.path).who(secret)
    assert (sender.role, sender.models) == ("sender", ("fraud", "churn-*"))
    assert [verb for verb in NEEDS if sender.may(verb)] == ["rows"]
    assert not any(sender.has(role) for role in ROLES)
    for verb in set(NEEDS) - {"rows"}:
        with pytest.raises(Forbidden, match="edge is sender"):
            sender.must(verb)
    sender.must("rows")
    with pytest.raises(Forbidden):
        sender.must("rows", "operator")
    assert not Person("eve", "viewer", "token").may("rows")
    assert Person("olga", "operator", "token").may("rows")


def test_a_file_that_others_may_write_is_refused(tmp_path):
    tokens = Tokens(tmp_path / "t.json")
    secret = tokens.add("a", "admin", 1.0)
    tokens.path.chmod(0o666)
    with pytest.raises(Refused, match="chmod 600"):
        Tokens(tokens.path).who(secret)


@pytest.mark.parametrize("text", ["", "[]", '{"tokens": [{"name": "a"}]}', '{"tokens": 3}'])
def test_a_damaged_file_is_refused_whole(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Refused, match="damaged"):
        Tokens(path).known()


def test_a_role_that_does_not_exist_is_refused(tmp_path):
    path = tmp_path / "t.json"
    row = {"name": "a", "role": "god", "sha256": "0" * 64, "created": 1}
    path.write_text(json.dumps({"tokens": [row]}))
    path.chmod(0o600)
    with pytest.raises(Refused, match="unknown role"):
        Tokens(path).known()


def test_two_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "t.json"

    def add(i):
        Tokens(path).add(f"t{i}", "viewer", float(i))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {t.name for t in Tokens(path).known()} == {f"t{i}" for i in range(12)}
