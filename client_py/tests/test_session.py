"""The machine behind a subscription: inputs in, decisions out; no sockets and no clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pushsvc_client.errors import Forbidden, NotFound, Unauthorized, Unavailable
from pushsvc_client.session import CUTS, End, Session
from pushsvc_client.wire import Event, Position, Reset, parse_cursor


def event(offset: int, channel: str = "user:me", epoch: str = "k1", final: bool = True) -> Event:
    return Event(channel, Position(epoch, offset), f"evt_{offset}", "job.succeeded", "", final)


def reset(offset: int, epoch: str = "k1") -> Reset:
    return Reset("user:me", Position(epoch, offset), {})


def test_without_a_position_it_begins_where_it_was_told_to() -> None:
    assert Session(cursor="start").cursor == "start"
    assert Session().cursor is None


def test_where_the_server_says_it_begins_counts_until_something_is_heard() -> None:
    session = Session(cursor="start")
    session.located("user:me@k1.3")
    assert session.cursor == "user:me@k1.3"
    session.heard(event(4))
    session.located("user:me@k1.9")
    assert session.cursor == "user:me@k1.4"


def test_an_event_that_was_heard_is_not_new_and_a_later_one_is() -> None:
    session = Session(cursor="user:me@k1.4")
    assert [session.is_new(event(offset)) for offset in (3, 4, 5)] == [False, False, True]


def test_a_reset_leads_back_too_but_not_to_where_we_are() -> None:
    session = Session(cursor="user:me@k1.4")
    assert session.is_new(reset(2, "k2"))
    session.heard(reset(2, "k2"))
    assert not session.is_new(reset(2, "k2"))
    assert session.is_new(event(3, epoch="k2"))


def test_the_inbox_that_comes_with_every_socket_is_not_heard_unasked() -> None:
    session = Session(["group:ops"])
    session.located("user:me@k1.3,group:ops@k1.1")
    assert not session.wants("user:me")
    assert session.cursor == "group:ops@k1.1"


def test_who_breaks_off_within_an_answer_loses_nothing_of_any_channel() -> None:
    """The answer's first item of each channel comes again, and a channel without items goes on where it stands."""
    session = Session(["group:a", "group:b", "group:c"], "start")
    items = [event(5, "group:a"), event(6, "group:a"), event(2, "group:b")]
    session.before(items, "group:a@k1.6,group:b@k1.2,group:c@k1.0")
    assert parse_cursor(session.cursor or "") == {
        "group:a": Position("k1", 4),
        "group:b": Position("k1", 1),
        "group:c": Position("k1", 0),
    }
    assert session.after(items[0]) == "group:a@k1.5,group:b@k1.1,group:c@k1.0"


def test_it_is_over_when_each_of_its_jobs_has_said_its_last() -> None:
    session = Session(["job:1", "job:2"])
    session.heard(event(2, "job:1", "1", final=False))
    session.heard(event(3, "job:1", "1"))
    assert not session.over
    session.heard(event(3, "job:2", "1"))
    assert session.over


def test_a_token_is_renewed_once_and_then_it_is_refused_for_good() -> None:
    session = Session()
    refused = End(error=Unauthorized())
    assert session.ended(refused, 0.5).renew
    with pytest.raises(Unauthorized):
        session.ended(refused, 0.5)


def test_a_token_that_was_good_in_between_may_be_renewed_again() -> None:
    session = Session()
    assert session.ended(End(error=Unauthorized()), 0.5).renew
    session.delivers()
    assert session.ended(End(1000.0, error=Unauthorized()), 0.5).renew


def test_what_the_credentials_do_not_allow_is_not_tried_again() -> None:
    with pytest.raises(Forbidden):
        Session(["group:ops"]).ended(End(error=Forbidden()), 0.5)


def test_a_channel_that_was_added_and_is_gone_takes_none_of_the_others_along() -> None:
    session = Session()
    session.add("job:1", Position("1", 1))
    assert session.ended(End(error=NotFound()), 0.5).after == 0
    assert session.extra == ()
    with pytest.raises(NotFound):
        session.ended(End(error=NotFound()), 0.5)


def test_the_servers_word_on_when_to_come_again_is_kept() -> None:
    assert Session().ended(End(10.0, retry=(0.5, 20.0)), 0.5).after == 10.25
    error = Unavailable()
    error.retry_after = 7.0
    assert 7.0 <= Session().ended(End(error=error), 1.0).after <= 8.0


def test_waits_grow_to_a_bound_and_begin_anew_after_a_connection_that_worked() -> None:
    session = Session()
    waits = [session.ended(End(error=Unavailable()), 1.0).after for _ in range(9)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]
    assert session.ended(End(3600.0), 1.0).after == 0.5


def test_a_short_connection_that_brought_something_has_worked() -> None:
    """A service that restarts again and again is come back to soon, as long as it serves in between."""
    session = Session()
    for offset in range(1, 6):
        session.ended(End(error=Unavailable()), 1.0)
        session.delivers()
        session.heard(event(offset))
        assert session.ended(End(1.0), 1.0).after == 0.5


def test_a_transport_that_does_not_get_through_is_followed_by_the_next() -> None:
    session = Session()
    ways = []
    for _ in range(4):
        ways.append(session.way)
        session.ended(End(unfit=True), 0.0)
    assert ways == ["websocket", "sse", "longpoll", "websocket"]


def test_a_service_that_is_away_says_nothing_about_transports() -> None:
    session = Session()
    for _ in range(10):
        session.ended(End(error=Unavailable()), 0.0)
    assert session.way == "websocket"


def test_connections_that_are_cut_again_and_again_are_given_up_for_the_next_transport() -> None:
    session = Session()
    for _ in range(CUTS):
        assert session.way == "websocket"
        session.ended(End(30.0), 0.0)
    assert (session.way, session.degraded) == ("sse", True)
    session.upwards()
    assert session.way == "websocket"


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60))
def test_whatever_comes_again_each_event_is_heard_once_and_in_order(steps: list[tuple[int, bool]]) -> None:
    """A server that sends what lies after our cursor, repeats itself, and is broken off anywhere."""
    session, heard = Session(cursor="user:me@k1.0"), []
    for count, repeats in steps:
        start = parse_cursor(session.cursor or "")["user:me"].offset
        for offset in range(max(1, start - 2 * repeats), start + count):
            if session.is_new(event(offset)):
                heard.append(offset)
                session.heard(event(offset))
    assert heard == list(range(1, len(heard) + 1))
