"""The small languages of an upstream, of a rule and of how a model fills in the middle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.fim import FAMILIES, Family, Other
from hub.dispatch.terms import Class, Rules
from hub.engines.upstream import api_url
from hub.specs import UpstreamSpec, parse_fim, parse_rule, parse_upstream


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("http://a:1", UpstreamSpec("http://a:1")),
        ("https://a/v1#", UpstreamSpec("https://a/v1")),
        ("http://[::1]:8000/v1", UpstreamSpec("http://[::1]:8000/v1")),
        ("http://a#window=8", UpstreamSpec("http://a", window=8)),
        ("http://a#name=gpu-1.b", UpstreamSpec("http://a", name="gpu-1.b")),
        ("http://a#tokens=100000", UpstreamSpec("http://a", tokens=100000)),
        ("http://a#gather=50", UpstreamSpec("http://a", gather=0.05)),
        ("http://a#gather=0", UpstreamSpec("http://a", gather=0.0)),
        ("http://a#arrays", UpstreamSpec("http://a", arrays=True)),
        ("http://a#continues&&window=1&", UpstreamSpec("http://a", window=1, continues=True)),
        (
            "http://gpu1:8000/v1#window=8&tokens=100000&gather=50&arrays&continues",
            UpstreamSpec("http://gpu1:8000/v1", 8, 100000, 0.05, True, True),
        ),
    ],
)
def test_an_upstream_and_its_particulars(text: str, spec: UpstreamSpec) -> None:
    """Each option sets what is named after it; a gathering time is given in milliseconds."""
    assert parse_upstream(text) == spec


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://a",
        "http:a",
        "http://",
        "http://:80",
        "http://[::1",
        "http://a:x",
        "http://a:0",
        "http://a:99999",
    ],
)
def test_what_is_no_url_is_named(url: str) -> None:
    """Before anything tries to connect there."""
    with pytest.raises(ValueError, match="is not an http:// or https:// URL") as caught:
        parse_upstream(f"{url}#window=8")
    assert f"'{url}'" in str(caught.value)


@pytest.mark.parametrize("url", ["http://a?x=1", "http://user:secret@a"])
def test_what_an_upstreams_url_must_not_have(url: str) -> None:
    """It would get lost. A password is not repeated."""
    with pytest.raises(ValueError, match=r"'a': .* no user and no query") as caught:
        parse_upstream(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "window",
        "window=",
        "window=0",
        "window=-1",
        "window=1.5",
        "window=\u0661",
        "window=" + "9" * 5000,
        "tokens=x",
        "gather",
        "gather=-1",
        "gather=nan",
        "gather=inf",
        "arrays=1",
        "continues=yes",
        "Window=1",
        "name",
        "name=",
        "name=a b",
        "name=-a",
        "name=http://gpu1",
        "name=" + "a" * 65,
        "what",
        "=",
    ],
)
def test_an_option_that_is_wrong_is_named(option: str) -> None:
    """With all that there are."""
    with pytest.raises(ValueError, match="tokens=N, gather=MS, arrays and continues") as caught:
        parse_upstream(f"http://a#arrays&{option}")
    assert f"'{option}'" in str(caught.value)


urls = st.sampled_from(["http://a:1", "https://b/v1", "http://", "http://a@b", "c"]) | st.text()
options = st.lists(
    st.sampled_from(["window=8", "name=a", "tokens=7", "gather=0.5", "arrays", "continues", "x"])
    | st.builds("{}={}".format, st.sampled_from(["window", "tokens", "gather"]), st.text()),
)


@given(urls | st.builds("{}#{}".format, urls, options.map("&".join)))
def test_any_text_is_an_upstream_or_an_error(text: str) -> None:
    """An upstream whose address an engine takes, with numbers that make sense; or a
    ``ValueError``."""
    try:
        spec = parse_upstream(text)
    except ValueError:
        return
    assert api_url(spec.url).startswith(("http://", "https://"))
    assert spec.window is None or spec.window >= 1
    assert spec.tokens is None or spec.tokens >= 1
    assert spec.gather is None or spec.gather >= 0


@pytest.mark.parametrize(
    ("text", "rank", "change"),
    [
        ("completion.batch_size=4", Class.COMPLETION, {"batch_size": 4}),
        ("background.flush_interval=50", Class.BACKGROUND, {"flush_interval": 0.05}),
        ("chat.queue_size=1e3", Class.CHAT, {"queue_size": 1000}),
        ("chat.tenant_queue=1", Class.CHAT, {"tenant_queue": 1}),
        ("chat.ceiling=0.9", Class.CHAT, {"ceiling": 0.9}),
        ("chat.ceiling=1", Class.CHAT, {"ceiling": 1.0}),
        ("completion.patience=2.5", Class.COMPLETION, {"patience": 2.5}),
        ("background.age=0", Class.BACKGROUND, {"age": 0.0}),
    ],
)
def test_a_rule_of_a_class(text: str, rank: Class, change: dict[str, float]) -> None:
    """Every field of ``Rules`` is one; seconds are seconds, but the interval is in milliseconds."""
    assert parse_rule(text) == (rank, change)
    ((name, value),) = change.items()
    assert type(parse_rule(text)[1][name]) is type(value)


def test_every_rule_can_be_changed() -> None:
    """None was forgotten when it was added to ``Rules``."""
    for name in Rules.__dataclass_fields__:
        assert parse_rule(f"chat.{name}=1")[1].keys() == {name}


@pytest.mark.parametrize(
    "text", ["", "chat", "chat.age", "vip.age=1", "chat.speed=1", "Chat.age=1", "age=1", ".=", "="]
)
def test_what_is_no_rule_is_told_what_one_is(text: str) -> None:
    """With the classes and the rules that there are; ``chat.age`` has them, but no value."""
    expected = "is no number" if text == "chat.age" else "is not CLASS.RULE=VALUE"
    with pytest.raises(ValueError, match=expected) as caught:
        parse_rule(text)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("chat.batch_size=0", "'0' is no whole number from 1 up"),
        ("chat.batch_size=1.5", "'1.5' is no whole number from 1 up"),
        ("chat.queue_size=x", "'x' is no whole number from 1 up"),
        ("chat.age=-1", "'-1' is no number from 0 up"),
        ("chat.age=inf", "'inf' is no number"),
        ("chat.patience=nan", "'nan' is no number"),
        ("chat.ceiling=0", "a ceiling is over 0 and at most 1"),
        ("chat.ceiling=1.01", "a ceiling is over 0 and at most 1"),
    ],
)
def test_a_value_that_is_wrong_is_named(text: str, why: str) -> None:
    """With what it has to be, and where it stands."""
    with pytest.raises(ValueError, match=why) as caught:
        parse_rule(text)
    assert str(caught.value).endswith(text)


names = st.sampled_from([*Rules.__dataclass_fields__, "speed"])
labels = st.sampled_from([*(rank.label for rank in Class), "vip"])
values = st.text() | st.integers().map(str) | st.floats().map(str)


@given(st.text() | st.builds("{}.{}={}".format, labels, names, values))
def test_any_text_is_a_rule_or_an_error(text: str) -> None:
    """One that ``Rules`` takes, with a number that makes sense; or a ``ValueError``."""
    try:
        _, change = parse_rule(text)
    except ValueError:
        return
    Rules(**change)
    assert all(value >= 0 for value in change.values())


def test_a_model_and_its_way() -> None:
    """The first equals sign ends the model's name; a template may have more of them."""
    assert parse_fim("my-model:7b=qwen-coder") == ("my-model:7b", FAMILIES["qwen-coder"])
    assert parse_fim("my-*=native") == ("my-*", Other.NATIVE)
    model, way = parse_fim("m=<a=1>{prefix}<b>{suffix}")
    assert isinstance(way, Family)
    assert (model, way.template) == ("m", "<a=1>{prefix}<b>{suffix}")


@pytest.mark.parametrize(
    "text", ["", "m", "m=", "=qwen-coder", "m=qwen", "m={prefix}", "m=glm:spm"]
)
def test_a_way_that_is_wrong_is_named(text: str) -> None:
    """Before any prompt is made of it."""
    with pytest.raises(ValueError, match="'"):
        parse_fim(text)
