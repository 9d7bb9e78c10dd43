"""Nothing in the package turns data into code, as far as its syntax tells."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import alprune

PACKAGE = Path(alprune.__file__).parent
# Each of these runs code that a file brings along, or lets text become a command.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}
LOADERS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "npy.read_array": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    "np.memmap": None,
    "torch.jit.load": None,
    "torch.hub.load": None,
}


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
    if name in CALLS:
        yield name
    if given.get("shell"):
        yield f"{name}(shell=...)"
    if given.get("allow_pickle"):
        yield f"{name}(allow_pickle=True)"
    if given.get("trust_remote_code"):
        yield f"{name}(trust_remote_code=True)"
    if name in LOADERS:
        needed = LOADERS[name]
        if needed is None or given.get(needed[0]) is not needed[1]:
            yield f"{name} without {needed}"


def test_no_data_is_run_as_code() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    found = {str(path): list(offences(path.read_text())) for path in files}
    assert len(files) > 300 and {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from joblib import load",
        "import shelve as s",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "npy.read_array(f)",
        "load(p, allow_pickle=True)",
        "eval(text)",
        "subprocess.run(c, shell=True)",
        "yaml.load(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    ["torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "model.eval()"],
)
def test_the_search_lets_safe_loading_pass(source: str) -> None:
    assert list(offences(source)) == []
