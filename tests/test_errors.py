"""The table of errors: its rows agree with themselves, and with what clients go by."""

import pytest

from hub.errors import TABLE, CloseCode, Fault, HubError, Row

SAYS_IT_AGAIN = "response_too_large"
"""The model server's fault, though hub's bound: it has answered well, and would do it again."""

ROWS = pytest.mark.parametrize(("code", "row"), TABLE.items(), ids=TABLE)

INFILL = "fim_not_supported"
"""The client's fault with llama.cpp's status and type, which editors know."""


@ROWS
def test_status_type_and_fault_agree(code: str, row: Row) -> None:
    if code == INFILL:
        assert row == Row(501, "not_supported_error", Fault.CLIENT)
        return
    if row.status == 429:
        assert row.type == "rate_limit_error"
    elif row.status >= 500:
        assert row.type == "server_error"
    else:
        assert 400 <= row.status < 500
        assert row.type == "invalid_request_error"
    if row.fault is Fault.CLIENT:
        assert row.status < 500
        assert not row.retryable, "the same request will fail again"
    elif code != SAYS_IT_AGAIN:
        assert row.retryable, "another try may find hub or another model server well"
    if row.fault in (Fault.UPSTREAM, Fault.HUB):
        assert row.status >= 500


SDKS_DIFFER = {
    # The next request goes over another connection, which is the client's to open.
    "websocket_connection_limit_reached": False,
    # They take every 409 for a lock that will be free soon.
    "idempotency_conflict": True,
    # They take every status from 500 on for bad luck.
    SAYS_IT_AGAIN: True,
    INFILL: True,
}


@ROWS
def test_sdks_retry_what_may_succeed_later(code: str, row: Row) -> None:
    """They go by the status: 408, 409, 429 and from 500 on."""
    retried = row.status in (408, 409, 429) or row.status >= 500
    assert retried == SDKS_DIFFER.get(code, row.retryable)


@ROWS
def test_an_upstreams_error_says_so(code: str, row: Row) -> None:
    if row.fault is Fault.UPSTREAM and code != SAYS_IT_AGAIN:
        assert code.startswith("upstream_")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("previous_response_not_found", 400),
        ("invalid_stream_id", 400),
        ("websocket_stream_limit_reached", 400),
        ("websocket_connection_limit_reached", 400),
        ("response_not_found", 404),
        ("model_not_found", 404),
        ("upgrade_required", 426),
        ("message_too_large", 413),
        ("rate_limit_exceeded", 429),
        ("server_error", 500),
    ],
)
def test_codes_that_clients_know(code: str, status: int) -> None:
    assert HubError(code, "").status == status


def test_the_error_object() -> None:
    error = HubError("invalid_value", "It is wrong.", param="x", retry_after=2.5)
    assert error.body() == {
        "message": "It is wrong.",
        "type": "invalid_request_error",
        "param": "x",
        "code": "invalid_value",
    }
    assert error.row is TABLE["invalid_value"]
    assert error.retry_after == 2.5
    assert str(error) == "It is wrong."
    assert repr(error) == "HubError('invalid_value', 'It is wrong.', param='x')"


def test_param_and_retry_after_may_be_unknown() -> None:
    error = HubError("server_error", "Oh.")
    assert error.body()["param"] is None
    assert error.retry_after is None


def test_a_code_without_a_row_fails_at_once() -> None:
    with pytest.raises(KeyError, match="made_up"):
        HubError("made_up", "")


def test_close_codes_tell_clients_whether_to_connect_again() -> None:
    """The openai SDK reconnects on these, and gives up on all others."""
    reconnects = {1001, 1005, 1006, 1011, 1012, 1013, 1015}
    assert {code for code in CloseCode if code in reconnects} == {
        CloseCode.GOING_AWAY,
        CloseCode.INTERNAL_ERROR,
        CloseCode.SERVICE_RESTART,
        CloseCode.TRY_AGAIN_LATER,
    }
