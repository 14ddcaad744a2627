"""Who is away: since when, why, when it is asked again; said when it begins, changes and ends."""

from agent.away import Absences, Away


def test_it_is_news_when_it_begins_and_when_the_reason_changes_and_not_at_each_try():
    now = [100.0]
    some = Absences("notes", lambda: now[0])
    assert some.fell("mail", "refused", 1.0)
    now[0] += 10
    assert not some.fell("mail", "refused", 60.0)
    now[0] += 20
    assert some.fell("mail", "401", 5.0)
    now[0] += 2
    assert some.why("mail") == "401"
    assert some.told({"mail": 7}.__getitem__) == [Away("mail", "notes", "401", 32.0, 3.0, 7)]
    now[0] += 100
    assert some.told()[0].again_s == 0.0, "it is being asked"
    assert some.back("mail") == 132.0
    assert some.back("mail") is None
    assert some.told() == []


def test_those_that_config_does_not_name_any_more_are_forgotten():
    some = Absences("numbers")
    some.fell("a", "x", 1.0)
    some.fell("b", "x", 1.0)
    some.only({"b"})
    assert [one.connector for one in some.told()] == ["b"]
    assert "a" not in some
    assert some.why("a") == ""
