"""What is sent to webhooks, whether receivers accept it, and when it is tried again."""

import base64
import time
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook
from yarl import URL

from hub.server.webhooks import (
    EVENTS,
    FIRST,
    LIFETIME,
    LONGEST,
    Endpoint,
    Outcome,
    backoff,
    deliveries_of,
    event_body,
    next_try,
    outcome,
    parse_endpoint,
    signed,
)
from hub.store.base import Delivery

ENCODED = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
RAW = "a secret of 24 bytes, raw"


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with OpenAI(api_key="none") as client:
        yield client


def keys(*secrets: str) -> list[Webhook]:
    return [Webhook(Endpoint("https://h.example", secret).key) for secret in secrets]


# Events and signatures.


def test_a_known_signature() -> None:
    """Made independently, and checked with the ``openai`` SDK when its time was now."""
    body = (
        b'{"id": "evt_685343a1381c819085d44c354e1b330e", "object": "event", '
        b'"created_at": 1795466984, "type": "response.completed", "data": {"id": "resp_abc123"}}'
    )
    assert signed(keys(ENCODED), "evt_685343a1381c819085d44c354e1b330e", body, 1795466984.9) == {
        "content-type": "application/json",
        "webhook-id": "evt_685343a1381c819085d44c354e1b330e",
        "webhook-timestamp": "1795466984",
        "webhook-signature": "v1,kJ0qk4sPKqRDYYzOlzgxQvbJhCCbQ6k+Zcvyl8Mj4PA=",
    }


@pytest.mark.parametrize("status", sorted(EVENTS))
@pytest.mark.parametrize("secret", [ENCODED, RAW])
def test_the_sdk_accepts_what_is_sent(client: OpenAI, status: str, secret: str) -> None:
    id, body = event_body("resp_1", status, 1795466984.9)
    headers = signed(keys(secret), id, body, time.time())
    event = client.webhooks.unwrap(body, headers, secret=secret)
    assert event.to_dict() == {
        "id": id,
        "object": "event",
        "created_at": 1795466984,
        "type": f"response.{status}",
        "data": {"id": "resp_1"},
    }
    assert type(event).__name__ == f"Response{status.capitalize()}WebhookEvent"


def test_the_sdk_rejects_what_was_changed(client: OpenAI) -> None:
    id, body = event_body("resp_1", "completed", 0)
    now = time.time()
    headers = signed(keys(ENCODED), id, body, now)
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(bytes(changed), headers, secret=ENCODED)
    others = ({"webhook-id": "evt_2"}, {"webhook-timestamp": str(int(now) - 1)})
    for other in others:
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, {**headers, **other}, secret=ENCODED)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=RAW)


def test_while_a_secret_is_replaced_both_are_good(client: OpenAI) -> None:
    id, body = event_body("resp_1", "completed", 0)
    headers = signed(keys(ENCODED, RAW), id, body, time.time())
    for secret in (ENCODED, RAW):
        client.webhooks.unwrap(body, headers, secret=secret)


def test_a_status_without_an_event_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="in_progress"):
        event_body("resp_1", "in_progress", 0)


def test_a_row_per_endpoint() -> None:
    endpoints = [
        Endpoint("https://a.example/", ENCODED),
        Endpoint("https://b.example/", ENCODED),
        Endpoint("https://a.example/", RAW),
    ]
    rows = deliveries_of(endpoints, "resp_1", "failed", 12.5)
    assert [row.url for row in rows] == ["https://a.example/", "https://b.example/"]
    assert len({row.id for row in rows}) == 2
    for row in rows:
        assert (row.response_id, row.next_at, row.tries) == ("resp_1", 12.5, 0)
        event = orjson.loads(row.body)
        assert event["id"] == row.id
        assert event["type"] == "response.failed"
    assert deliveries_of([], "resp_1", "failed", 12.5) == []


# Configuration.


@pytest.mark.parametrize("secret", [ENCODED, RAW.replace(" ", "-"), "#" * 24])
@pytest.mark.parametrize(
    "url", ["https://hooks.example/a?b=c@d", "https://h:8443", "https://8.8.8.8/", "HTTPS://bü.ch/"]
)
def test_an_endpoint(url: str, secret: str) -> None:
    assert parse_endpoint(f"{url}#{secret}") == Endpoint(url, secret)


@pytest.mark.parametrize(
    "url", ["http://h.example/", "http://127.0.0.1:1/", "https://[::1]/", "https://10.1"]
)
def test_a_private_endpoint(url: str) -> None:
    with pytest.raises(ValueError, match=r"https|not public"):
        parse_endpoint(f"{url}#{ENCODED}")
    assert parse_endpoint(f"{url}#{ENCODED}", allow_private=True).url == url


def test_an_endpoint_does_not_show_its_secret() -> None:
    assert ENCODED not in repr(Endpoint("https://h.example", ENCODED))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("", "URL#SECRET"),
        ("h.example/path", "begins with https"),
        ("ftp://h.example", "begins with https"),
        ("https:///path", "begins with https"),
        ("https:h.example", "begins with https"),
        ("https://h:99999/", "no valid URL"),
        ("https://[::1/", "no valid URL"),
        ("https://user@h.example/", "user or password"),
        ("https://:password@h.example/", "user or password"),
        ("https://a..b/", "no valid host"),
        ("https://1.2.3.256/", "no valid host"),
        ("https://%31%32%37.0.0.1/", "no valid host"),
        ("https://2130706433/", "not public"),
        ("https://0x7f.1/", "not public"),
        ("https://017700000001/", "not public"),
        ("https://127.0.0.1./", "not public"),
        ("https://\uff11\uff12\uff17.0.0.1/", "not public"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("https://[64:ff9b::7f00:1]/", "not public"),
        ("https://[2002:7f00:1::]/", "not public"),
        ("https://[fe80::1%25eth0]/", "not public"),
        ("https://h.example:22/", "port 22; it may be 443 or 8443"),
        ("https://h.example/a b", "without spaces"),
        ("https://h.example/\n", "without spaces"),
    ],
)
def test_an_endpoint_that_is_wrong(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        parse_endpoint(f"{url}#{ENCODED}")
    assert ENCODED not in str(caught.value)
    assert "password" not in str(caught.value).replace("user or password", "")
    # Nor does a traceback show it.
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ("", "no secret"),
        ("whsec_", "0 bytes"),
        ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY", "not base64"),
        ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0N-_3", "not base64"),
        ("whsec_bücher", "not base64"),
        ("whsec_c2hvcnQ=", "5 bytes"),
        ("short-secret", "12 bytes"),
    ],
)
def test_a_secret_that_is_wrong(secret: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        parse_endpoint(f"https://h.example#{secret}")
    assert "the webhook of h.example" in str(caught.value)
    assert not secret or secret not in str(caught.value).replace("after whsec_", "")


def test_an_endpoint_without_a_secret() -> None:
    with pytest.raises(ValueError, match="no secret"):
        parse_endpoint("https://h.example/")


@given(st.binary(min_size=24, max_size=64))
def test_every_encoded_secret(key: bytes) -> None:
    secret = f"whsec_{base64.b64encode(key).decode()}"
    assert parse_endpoint(f"https://h.example#{secret}").key == key


@given(st.text("hts:/#@[]%.0x1 \\é"))
@example("[]@")
def test_no_text_is_an_error_of_another_kind(text: str) -> None:
    """It is an endpoint, whose URL has a host, or a ``ValueError``."""
    for whole in (text, f"https://{text}#{ENCODED}"):
        try:
            endpoint = parse_endpoint(whole)
        except ValueError:
            # One of hub's own messages, since those of others may show the text.
            with pytest.raises(ValueError, match=r"^a webhook is|^the webhook of"):
                parse_endpoint(whole)
        else:
            assert URL(endpoint.url).host


# What comes of a try.


def test_only_2xx_acknowledges() -> None:
    for status in range(100, 600):
        expected = Outcome.FAILED
        if status // 100 == 2:
            expected = Outcome.DELIVERED
        elif status == 410:
            expected = Outcome.GONE
        assert outcome(status) is expected
    assert outcome(None) is Outcome.FAILED


chances = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10**6), chances)
def test_the_bounds_of_a_delay(tries: int, chance: float) -> None:
    delay = backoff(tries, chance)
    assert 0 <= delay <= LONGEST
    assert delay <= FIRST * 2 ** min(tries, 64)
    assert delay <= backoff(tries + 1, chance)
    assert delay == pytest.approx(chance * backoff(tries, 1.0))


def test_the_longest_delays() -> None:
    assert [backoff(tries, 1.0) for tries in (0, 1, 2, 10, 11)] == [10, 20, 40, 10240, 14400]


@given(st.integers(0, 100), chances, st.floats(0, 2 * LIFETIME))
def test_no_try_begins_after_the_lifetime(tries: int, chance: float, age: float) -> None:
    began = 1_795_466_984
    id, body = event_body("resp_1", "completed", began)
    row = Delivery(id=id, response_id="resp_1", url="", body=body, next_at=0, tries=tries)
    at = next_try(row, began + age, chance)
    due = began + age + backoff(tries, chance)
    assert at == (due if due <= began + LIFETIME else None)
