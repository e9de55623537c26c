"""What servers say of themselves, read out of documents like those that they send."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.engines.base import Load
from hub.engines.load import MAX_COUNT, MAX_LINE, MAX_SLOTS, parse_metrics, parse_props

LLAMA_CPP = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 77690
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 3
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 12
# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots per llama_decode() call
# TYPE llamacpp:n_busy_slots_per_decode counter
llamacpp:n_busy_slots_per_decode 1.81176
"""

OLD_LLAMA_CPP = b"llamacpp:kv_cache_usage_ratio 0.98\nllamacpp:requests_processing 0\n"

VLLM = b"""\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 11342.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 8.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 2.0
# HELP vllm:num_requests_waiting_by_reason The same by reason.
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 2.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.0625
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",cpu_kvcache_space_bytes="None",\
engine="0",gpu_memory_utilization="0.9",num_cpu_blocks="None",num_gpu_blocks="27000"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 4.0
"""

OLD_VLLM = b"""\
vllm:num_requests_running{model_name="llama"} 1.0
vllm:num_requests_swapped{model_name="llama"} 0.0
vllm:num_requests_waiting{model_name="llama"} 0.0
vllm:gpu_cache_usage_perc{model_name="llama"} 2.5e-05
vllm:cpu_cache_usage_perc{model_name="llama"} 0.9
vllm:cache_config_info{block_size="16",num_cpu_blocks="2048",num_gpu_blocks="7000"} 1.0
"""

PARALLEL_VLLM = b"".join(
    b"""\
vllm:num_requests_running{engine="%d",model_name="m"} %d.0
vllm:num_requests_waiting{engine="%d",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="%d",model_name="m"} 0.%d
vllm:cache_config_info{block_size="16",engine="%d",num_gpu_blocks="3000"} 1.0
"""
    % (engine, engine + 5, engine, engine, engine + 1, engine)
    for engine in range(3)
)
"""All three tell of the 3000 blocks that they have together."""

SIZED_VLLM = b"".join(
    b'vllm:cache_config_info{block_size="64",engine="%d",kv_cache_size_tokens="10000",'
    b'num_gpu_blocks="9999"} 1.0\n' % engine
    for engine in range(2)
)

SGLANG = b"""\
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.28
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 2826.0
# TYPE sglang:max_total_num_tokens gauge
sglang:max_total_num_tokens{model_name="meta-llama/Llama-3.1-8B-Instruct"} 4.71258e+05
"""

PRIORITIES = b"""\
sglang:num_queue_reqs{model_name="m",priority="",tp_rank="0"} 7.0
sglang:num_queue_reqs{model_name="m",priority="0",tp_rank="0"} 5.0
sglang:num_queue_reqs{model_name="m",priority="9",tp_rank="0"} 2.0
"""


@pytest.mark.parametrize(
    ("body", "load"),
    [
        pytest.param(LLAMA_CPP, Load(running=3, waiting=12), id="llama.cpp"),
        pytest.param(OLD_LLAMA_CPP, Load(running=0), id="llama.cpp that counts idle slots' cache"),
        pytest.param(VLLM, Load(None, 432_000, 8, 2, 0.0625), id="vLLM"),
        pytest.param(OLD_VLLM, Load(None, 112_000, 1, 0, 2.5e-05), id="vLLM of 2024"),
        pytest.param(PARALLEL_VLLM, Load(None, 48_000, 18, 3, 0.3), id="vLLM with three engines"),
        pytest.param(SIZED_VLLM, Load(kv_tokens=20_000), id="vLLM that tells its size in tokens"),
        pytest.param(SGLANG, Load(None, 471_258, 162, 2826, 0.28), id="SGLang"),
        pytest.param(PRIORITIES, Load(waiting=7), id="SGLang with priorities"),
        pytest.param(VLLM.replace(b"\n", b"\r\n"), parse_metrics(VLLM), id="CRLF"),
        pytest.param(b"ollama:requests 3\n<html>", Load(), id="neither"),
        pytest.param(b"", Load(), id="nothing"),
    ],
)
def test_metrics_of_real_servers(body: bytes, load: Load) -> None:
    """Counts of several series are summed, the fullest cache counts, other metrics are nothing."""
    assert parse_metrics(body) == load


def test_two_servers_words_for_one_thing_are_not_added() -> None:
    """A server that says it in the words of two (as the simulated one does) means it once."""
    both = parse_metrics(LLAMA_CPP + VLLM)
    assert (both.running, both.waiting) == (3, 12)


@pytest.mark.parametrize(
    ("rest", "running"),
    [
        (b" 1", 1),
        (b"\t1.0", 1),
        (b" +2e0", 2),
        (b" 1 1700000000000", 1),
        (b"{} 1", 1),
        (b'{a="b"} 1', 1),
        (b'{a="b",} 1', 1),
        (rb'{a="quoted \"}{\" \\",b="} 7"} 1', 1),
        ('{a="Größe"} 1'.encode(), 1),
        (b'{a="\xff"} 1', 1),
        # A line that is not in the format is none.
        *((rest, None) for rest in (b"", b" ", b"1", b" x", b" 1 x", b" 1 2 3", b" e", b" --1")),
        *((rest, None) for rest in (b'{a="b} 1', b"{a=b} 1", b'{a="b"}1', b'{="b"} 1', b"{a} 1")),
        (b'{a="\\"} 1', None),
        (b'{a="b" "c"} 1', None),
        (b'{a="%b"} 1' % (b"x" * MAX_LINE), None),
        # Nor is an absurd value one.
        *((rest, None) for rest in (b" NaN", b" +Inf", b" -Inf", b" -1", b" 1e999", b" 2.5")),
        (b" %d" % (MAX_COUNT + 1), None),
    ],
)
def test_lines_of_metrics(rest: bytes, running: int | None) -> None:
    """Labels and a time stamp are allowed, quotes and braces in labels are text, and what cannot
    be read is skipped, with no harm to the next line."""
    body = b"vllm:num_requests_running%b\nvllm:num_requests_waiting 4\n" % rest
    assert parse_metrics(body) == Load(running=running, waiting=4)


@pytest.mark.parametrize("value", [b"NaN", b"-0.1", b"1.01", b"+Inf", b"35"])
def test_absurd_shares_are_not_said(value: bytes) -> None:
    """A share of the cache is from 0 to 1, and one that is not hides none that is."""
    body = b'vllm:kv_cache_usage_perc{engine="0"} %b\n' % value
    assert parse_metrics(body) == Load()
    assert parse_metrics(body + b'vllm:kv_cache_usage_perc{engine="1"} 1\n').kv_used == 1


@pytest.mark.parametrize(
    "labels",
    [
        b'block_size="16",num_gpu_blocks="None"',
        b'block_size="16"',
        b'block_size="0",num_gpu_blocks="100"',
        b'block_size="-16",num_gpu_blocks="-100"',
        b'block_size="99999999",num_gpu_blocks="99999999"',
        b'x="block_size=\\"16\\",num_gpu_blocks=\\"100\\""',
        b'kv_cache_size_tokens="None",kv_cache_size_tokens="1.5"',
        b'kv_cache_size_tokens="999999999999999"',
    ],
)
def test_absurd_caches_are_not_said(labels: bytes) -> None:
    """The size of a cache is only believed if both of its factors are."""
    assert parse_metrics(b"vllm:cache_config_info{%b} 1\n" % labels) == Load()


def test_a_sum_beyond_belief_is_not_said() -> None:
    """Series that are each within bounds may not add up to more."""
    body = b"".join(b'vllm:num_requests_running{engine="%d"} 1e12\n' % n for n in range(2))
    assert parse_metrics(body) == Load()


@pytest.mark.parametrize(
    ("body", "load"),
    [
        (
            b'{"default_generation_settings":{"params":{"n_predict":-1},"n_ctx":8192},'
            b'"total_slots":4,"model_path":"m.gguf","chat_template":"{{ messages }}"}',
            Load(slots=4, kv_tokens=32_768),
        ),
        (b'{"total_slots":4}', Load(slots=4)),
        (b'{"total_slots":4,"default_generation_settings":7}', Load(slots=4)),
        (b'{"total_slots":4,"default_generation_settings":{"n_ctx":0}}', Load(slots=4)),
        (b'{"total_slots":4,"default_generation_settings":{"n_ctx":true}}', Load(slots=4)),
        (b'{"total_slots":4,"default_generation_settings":{"n_ctx":9e18}}', Load(slots=4)),
        (b'{"total_slots":4,"default_generation_settings":{"n_ctx":9999999999999}}', Load(slots=4)),
        # Without slots it is not llama.cpp, and its context means something else.
        (b'{"default_generation_settings":{"n_ctx":8192}}', Load()),
        *(
            (b'{"total_slots":%b,"default_generation_settings":{"n_ctx":8192}}' % slots, Load())
            for slots in (b"0", b"-1", b"65537", b"true", b"4.0", b'"4"', b"null", b"1e400")
        ),
        *((body, Load()) for body in (b"", b"{", b"[]", b"null", b"<html>", b"\xff", b"[" * 5000)),
    ],
)
def test_props(body: bytes, load: Load) -> None:
    """The slots, and the cache as that many contexts; nothing that is absurd."""
    assert parse_props(body) == load


names = st.sampled_from(
    [
        "llamacpp:requests_processing",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
        "sglang:max_total_num_tokens",
        "sglang:token_usage",
    ]
)
labels = st.dictionaries(
    st.sampled_from(["block_size", "num_gpu_blocks", "kv_cache_size_tokens", "priority", "engine"]),
    st.one_of(st.integers().map(str), st.text(max_size=9)),
).map(lambda pairs: ",".join(f'{name}="{value}"' for name, value in pairs.items()))
values = st.one_of(st.floats().map(repr), st.integers().map(str), st.text("0123456789.eE+-"))
lines = st.builds("{}{{{}}} {}".format, names, labels, values)
documents = st.one_of(
    st.binary(),
    st.text().map(str.encode),
    st.lists(st.one_of(lines, st.text())).map(lambda some: "\n".join(some).encode()),
)


@given(documents)
@example(b'{"total_slots": 1e400}')
@example(b"vllm:num_requests_running 1e400\n")
def test_whatever_a_server_sends_is_a_load_in_range(body: bytes) -> None:
    """Both functions are total, and nothing that they give is absurd."""
    for load in (parse_metrics(body), parse_props(body)):
        assert load.slots is None or 0 < load.slots <= MAX_SLOTS
        assert load.kv_tokens is None or 0 < load.kv_tokens <= MAX_COUNT
        assert load.running is None or 0 <= load.running <= MAX_COUNT
        assert load.waiting is None or 0 <= load.waiting <= MAX_COUNT
        assert load.kv_used is None or 0 <= load.kv_used <= 1
