"""The structure that the design draws, read off the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "hub"
MODULES = sorted(ROOT.rglob("*.py"))

MAY_IMPORT = {
    "errors": set(),
    "log": set(),
    "clock": set(),
    "ledger": set(),
    "api": {"errors", "log", "api"},
    "engines": {"errors", "log", "api", "engines"},
    "store": {"errors", "log", "api", "store"},
    "dispatch": {"errors", "log", "api", "engines.base", "dispatch", "division", "ledger"},
    "division": set(),
    "nodes": {"errors", "store.base"},
    "live": {"errors", "log", "api", "journal", "ledger", "dispatch.terms", "engines.base"},
    "prediction": {"api", "dispatch.terms", "live"},
    "completer": {"errors", "api", "dispatch.terms", "hub", "prediction"},
    "logs": {"api", "live"},
    "metrics": {"live"},
    "journal": {"errors", "log", "api", "store.base"},
    "policy": {"errors", "api"},
    "bounds": {"errors", "live", "policy"},
    "jobs": {"errors", "store.base"},
    "mirror": {"archive", "errors", "live", "store.base"},
    "ownership": {
        "errors",
        "archive",
        "bounds",
        "dispatch",
        "jobs",
        "journal",
        "live",
        "mirror",
        "policy",
        "store.base",
    },
    "archive": {"errors", "api", "live", "store.base"},
    "hub": {
        "errors",
        "log",
        "api",
        "dispatch",
        "store.base",
        "archive",
        "bounds",
        "journal",
        "live",
        "ownership",
        "policy",
    },
    "server": {
        "errors",
        "log",
        "api",
        "completer",
        "dispatch",
        "hub",
        "keys",
        "live",
        "logs",
        "metrics",
        "nodes",
        "prediction",
        "quota",
        "server",
        "store.base",
    },
    "bench": {"errors", "api", "bench", "clock", "dispatch", "engines", "ledger"},
    "config": {"errors", "api.fim", "engines.sim_model", "specs", "dispatch.terms"},
    "specs": {"api.fim", "dispatch.terms"},
    "upstreams": {"errors", "config", "specs", "dispatch", "engines"},
    "keys": {"dispatch.terms"},
    "key_json": {"dispatch.terms", "keys"},
    "quota": {"errors", "keys"},
    "key_file": {"key_json", "keys"},
    "key_redis": {"key_json", "keys"},
    "key_place": {"config", "key_file", "key_redis", "keys"},
    "key_commands": {"config", "dispatch.terms", "key_json", "key_place", "keys"},
    "run": {"errors"},
    "dial": {"errors", "run"},
    "client": {"dial", "errors", "run"},
    "completion": {"run"},
    "completion_client": {"completion", "dial", "errors", "run"},
    "lsp": {"completion_client", "dial", "errors", "lsp", "run"},
    "chat": {"errors", "client"},
    "options": {"config"},
    "exposure": {"config", "server"},
    "workers": {"server.door"},
    "process": set(),
    "cli": {"*"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""Part -> the parts that it may import. Arrows point one way: cli -> server -> hub -> dispatch,
store, engines -> api, log, errors."""

PURE = [
    "errors",
    "ledger",
    "log",
    "api",
    "specs",
    "division",
    "keys",
    "key_json",
    "quota",
    "bench/answer",
    "bench/comparison",
    "bench/definitions",
    "bench/dispatch_tables",
    "bench/html",
    "bench/keystrokes",
    "bench/keys_truth",
    "bench/keys_score",
    "bench/plan",
    "bench/plots",
    "bench/record",
    "bench/report",
    "bench/stats",
    "bench/style",
    "bench/tally",
    "bench/text",
    "bench/traffic",
    "bench/wire",
    "dispatch/adapt",
    "dispatch/admission",
    "dispatch/breaker",
    "dispatch/demand",
    "dispatch/estimate",
    "dispatch/fair",
    "dispatch/goodput",
    "dispatch/observed",
    "dispatch/queue",
    "dispatch/route",
    "dispatch/stage",
    "dispatch/terms",
    "dispatch/upstream",
    "dispatch/window",
    "server/terms",
    "engines/load",
    "engines/sim_model",
    "engines/sim_code",
    "engines/sim_infill",
    "engines/sim_text",
    "engines/arrays",
    "engines/chat_wire",
    "engines/infill_wire",
    "engines/relay",
    "engines/stream_wire",
    "engines/template",
    "engines/text_wire",
    "engines/chat_errors",
    "server/lanes",
    "server/crowd",
    "server/proxies",
    "server/sites",
    "store/jobs",
    "store/size",
    "server/addresses",
    "server/webhooks",
    "server/cache",
    "server/frames",
    "lsp/context",
    "lsp/options",
]
IMPURE_IMPORTS = {"asyncio", "time", "socket", "logging", "aiohttp", "threading", "sqlite3", "os"}

MAX_LINES = 400
MAX_FUNCTION_LINES = 80


def _name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _parts(path: Path) -> set[str]:
    """The modules of hub that a module imports, as ``part`` or ``part.module``."""
    modules = {_name(module).replace("/", ".") for module in MODULES}
    names = {name.removeprefix("hub.") for name in _imports(path) if name.startswith("hub.")}
    return {name for name in names if name in modules}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_arrows_point_one_way(path: Path) -> None:
    part = _name(path).split("/")[0]
    allowed = MAY_IMPORT[part]
    for name in _parts(path):
        assert "*" in allowed or name in allowed or name.split(".")[0] in allowed, (
            f"hub.{_name(path)} must not import hub.{name}"
        )


@pytest.mark.parametrize("pure", PURE)
def test_pure_modules_know_no_loop_clock_or_socket(pure: str) -> None:
    paths = [path for path in MODULES if f"{_name(path)}/".startswith(f"{pure}/")]
    assert paths, f"{pure} has gone"
    for path in paths:
        roots = {name.split(".")[0] for name in _imports(path)}
        assert not roots & IMPURE_IMPORTS, f"{path} is not pure"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_functions_hold_one_idea(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= MAX_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} is {length} lines long"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_and_public_class_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"
