"""Ids are unique, and those of items are a function of their place."""

from hub.api.ids import item_id, new_id


def test_ids_are_never_used_again() -> None:
    made = {new_id("msg") for _ in range(100)}
    assert len(made) == 100
    assert all(len(id) == len("msg_") + 32 for id in made)


def test_an_items_id_depends_on_its_response_and_place_only() -> None:
    one, other = new_id("resp"), new_id("resp")
    assert item_id("msg", one, 0) == item_id("msg", one, 0)
    places = [("msg", one, 0), ("msg", one, 1), ("fc", one, 0), ("msg", other, 0)]
    assert len({item_id(*place) for place in places}) == len(places)
