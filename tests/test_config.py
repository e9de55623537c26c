"""The settings: flags over environment over file over default, and errors that name the setting."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from hub.api.fim import FAMILIES, Family, Other
from hub.config import Settings
from hub.dispatch.terms import RULES, Class
from hub.options import from_options, options
from hub.specs import UpstreamSpec, parse_shared_store

settings_read: list[Settings] = []


@click.command()
@options
def read(**values: Any) -> None:
    settings_read.append(from_options(values))


def run(*flags: str, file: str | None = None, tmp_path: Path, **environment: str) -> Result:
    arguments = list(flags)
    if file is not None:
        path = tmp_path / "hub.toml"
        path.write_text(file)
        arguments += ["--config", str(path)]
    settings_read.clear()
    return CliRunner(env=environment).invoke(read, arguments)


def test_the_defaults(tmp_path: Path) -> None:
    assert run(tmp_path=tmp_path).exit_code == 0
    assert settings_read == [Settings()]


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = "batch_size = 1\nflush_interval = 1\nqueue_size = 1\n"
    environment = {"HUB_BATCH_SIZE": "2", "HUB_FLUSH_INTERVAL": "2"}
    run("--batch-size", "3", file=file, tmp_path=tmp_path, **environment)
    assert (
        settings_read[0].batch_size,
        settings_read[0].flush_interval,
        settings_read[0].queue_size,
    ) == (3, 2.0, 1)


def test_the_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text('upstream = ["http://a:1", "http://b:2"]\nsim_speed = 2\n')
    run(tmp_path=tmp_path, HUB_CONFIG=str(path))
    assert settings_read[0].upstream == ("http://a:1", "http://b:2")
    assert settings_read[0].sim_speed == 2.0


def test_sim_takes_a_profile_or_the_default_one(tmp_path: Path) -> None:
    run("--sim", "--port", "0", tmp_path=tmp_path)
    assert settings_read[0].sim == "h100-8b"
    run("--sim", "llama-cpu", tmp_path=tmp_path)
    assert settings_read[0].sim == "llama-cpu"


def test_every_setting_has_a_flag_and_says_what_it_does(tmp_path: Path) -> None:
    text = run("--help", tmp_path=tmp_path).output
    for spec in dataclasses.fields(Settings):
        assert f"--{spec.name.replace('_', '-')}" in text
        assert len(spec.metadata["help"]) > 10


def test_the_model_map_is_a_mapping(tmp_path: Path) -> None:
    run("--model-map", "gpt=llama=3", "--model-map", "a=b", tmp_path=tmp_path)
    assert settings_read[0].models == {"gpt": "llama=3", "a": "b"}


def test_the_ways_to_fill_in_are_read(tmp_path: Path) -> None:
    """Also from the environment, where spaces separate them, and from a file, where a template may
    have some."""
    run("--fim", "a=glm", "--fim", "b*=none", tmp_path=tmp_path)
    assert settings_read[0].ways == {"a": FAMILIES["glm"], "b*": Other.NONE}
    run(tmp_path=tmp_path, HUB_FIM="a=native b=codestral")
    assert settings_read[0].ways == {"a": Other.NATIVE, "b": FAMILIES["codestral"]}
    run(file='fim = ["a=<PRE> {prefix} <SUF>{suffix}"]', tmp_path=tmp_path)
    way = settings_read[0].ways["a"]
    assert isinstance(way, Family)
    assert way.markers == ("<PRE>", "<SUF>")


def test_the_upstreams_are_read(tmp_path: Path) -> None:
    """Each with what is particular to it, in the order in which they are named."""
    run("--upstream", "http://a#window=8&gather=50", "--upstream", "http://b", tmp_path=tmp_path)
    assert settings_read[0].upstreams == [
        UpstreamSpec("http://a", window=8, gather=0.05),
        UpstreamSpec("http://b"),
    ]


def test_without_settings_the_rules_are_the_usual_ones(tmp_path: Path) -> None:
    """The defaults of the settings are those of ``Rules``."""
    run(tmp_path=tmp_path)
    assert settings_read[0].rules == RULES


def test_the_common_rules_hold_for_every_class(tmp_path: Path) -> None:
    """But completions wait for no company, and what a class alone has stays as it is; so does all
    of what nobody has asked for."""
    flags = ["--batch-size=2", "--queue-size=3", "--tenant-queue=4", "--flush-interval=50"]
    run(*flags, tmp_path=tmp_path)
    rules_read = settings_read[0].rules
    assert rules_read.pop(Class.SPECULATIVE) == RULES[Class.SPECULATIVE]
    for rank, rules in rules_read.items():
        wait = 0.0 if rank is Class.COMPLETION else 0.05
        assert rules == replace(
            RULES[rank], batch_size=2, queue_size=3, tenant_queue=4, flush_interval=wait
        )


def test_a_rule_of_one_class_wins_over_the_common_one(tmp_path: Path) -> None:
    """Rules of one class add up, and the last word about the same thing holds."""
    file = 'batch_size = 2\nrule = ["chat.batch_size=3", "chat.age=9", "chat.age=1"]\n'
    run(file=file, tmp_path=tmp_path)
    rules = settings_read[0].rules
    asked = (Class.COMPLETION, Class.CHAT, Class.BACKGROUND)
    assert [rules[rank].batch_size for rank in asked] == [2, 3, 2]
    assert rules[Class.CHAT].age == 1.0
    run("--rule", "completion.flush_interval=20", tmp_path=tmp_path)
    assert settings_read[0].rules[Class.COMPLETION].flush_interval == 0.02


def test_settings_that_were_not_checked_raise_what_is_wrong() -> None:
    """Who makes them without the command line gets a ``ValueError`` when they are read."""
    settings = Settings(upstream=("gpu:8000",), rule=("chat.speed=1",))
    with pytest.raises(ValueError, match="'gpu:8000'"):
        _ = settings.upstreams
    with pytest.raises(ValueError, match=r"chat\.speed"):
        _ = settings.rules


@pytest.mark.parametrize(
    ("flags", "file", "named"),
    [
        (["--port", "70000"], None, "--port"),
        (["--port", "x"], None, "--port"),
        (["--batch-size", "0"], None, "--batch-size"),
        (["--flush-interval", "-1"], None, "--flush-interval"),
        (["--sim", "cray-1"], None, "--sim"),
        (["--sim-speed", "0"], None, "--sim-speed"),
        (["--upstream", "localhost:8000"], None, "--upstream"),
        (["--upstream", "http://"], None, "--upstream"),
        (["--upstream", "http://a#window=0"], None, "--upstream"),
        (["--upstream", "http://a", "--upstream", "http://b#what"], None, "--upstream"),
        (["--upstream-key", "ké"], None, "--upstream-key"),
        (["--rule", "chat.speed=1"], None, "--rule"),
        (["--rule", "chat.age=1", "--rule", "chat.ceiling=2"], None, "--rule"),
        ([], 'rule = ["chat.age=x"]', "--rule"),
        (["--model-map", "x"], None, "--model-map"),
        (["--fim", "m=gpt"], None, "--fim"),
        ([], 'fim = ["m"]', "--fim"),
        (["--log-level", "loud"], None, "--log-level"),
        (["--upstream", "http://a", "--sim"], None, "--upstream"),
        ([], "port = 70000", "--port"),
        ([], 'queue_size = "many"', "--queue-size"),
        ([], "batchsize = 3", "batchsize"),
        ([], "port =", "--config"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_setting(
    flags: list[str], file: str | None, named: str, tmp_path: Path
) -> None:
    result = run(*flags, file=file, tmp_path=tmp_path)
    assert result.exit_code == 2
    assert named in result.output
    assert "Traceback" not in result.output


def test_settings_do_not_show_their_secrets() -> None:
    """Whoever prints them prints neither the model servers' key nor those of the webhooks."""
    shown = repr(Settings(upstream_key="hidden-key", webhook=("https://h#hidden-secret",)))
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("store", "url"),
    [
        ("", None),
        ("memory", None),
        ("/a/directory", None),
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://u:p@h", "rediss://u:p@h"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("valkey://h", "redis://h"),
        ("valkeys://h", "rediss://h"),
        ("redis://h/", "redis://h/"),
    ],
)
def test_a_store_may_be_shared(store: str, url: str | None) -> None:
    """And its URL may hold a password, so that it is not shown."""
    settings = Settings(store=store)
    assert settings.shared_store == url
    assert url is None or settings.store_directory is None
    assert not url or url not in repr(settings)


def test_the_database_of_a_shared_store_is_a_number() -> None:
    """Redis's client would take another name of one for 0, and nodes would not meet."""
    with pytest.raises(ValueError, match="number of its database") as error:
        parse_shared_store("redis://u:secret@h:1/main")
    assert "secret" not in str(error.value)


def test_workers_need_a_shared_store(tmp_path: Path) -> None:
    assert run("--workers", "2", tmp_path=tmp_path).exit_code == 2
    assert run("--workers", "2", "--store", "redis://h", tmp_path=tmp_path).exit_code == 0
    assert settings_read[0].workers == 2
