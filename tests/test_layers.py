"""The picture in docs/architecture.md, held to the imports."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lemevit_cli

PACKAGE = Path(lemevit_cli.__file__).parent
# From top to bottom; modules of one row do not know each other.
LAYERS = [
    ["cli", "__main__"],
    ["commands"],
    ["analysis"],
    ["tasks"],
    ["inference", "training"],
    ["pictures", "vector"],
    ["raster"],
    ["models", "metrics", "simulation"],
    ["geometry"],
    ["atomic", "cache"],
    ["placing"],
    ["geopackage", "gdal_refusals", "qgis_style"],
    ["whole_files", "inputs"],
    ["settings", "errors", "legend", "progress"],
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
# Who may know a library that belongs to one place.
OWNERS = {
    "typer": {"cli", "commands"},
    "rich": {"commands"},
    "tqdm": {"commands"},
    "pyogrio": {"vector", "tasks"},
    "matplotlib": {"pictures"},
    "accelerate": {"training"},
    "safetensors": {"models"},
    "openvino": {"models", "inference"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "segmentation_models_pytorch": {"models", "training"},
    "yaml": {"tasks"},
}
# What a command over scenes loads, beside what it asks for while it runs.
CLOSURE = """
import importlib, json, sys
importlib.import_module("lemevit_cli.tasks.{room}.inference")
named = ("lemevit_cli", "accelerate")
print(json.dumps(sorted(m for m in sys.modules if m.split(".")[0] in named)))
"""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "lemevit_cli" and len(parts) > 1 and parts[1] in DEPTH else None


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_module_imports_only_its_own_layer_and_those_below(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        assert not list(imports(path))
        return
    for module in imports(path):
        other = layer_of(module)
        if other is None or other == own or own == "__main__":
            continue
        assert DEPTH[other] > DEPTH[own], (
            f"{path} imports {module}, which stands beside or above it"
        )


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_known_to_its_owners_alone(library):
    users = {
        path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users, f"{library} is used nowhere: drop it"
    assert users <= OWNERS[library]


def test_torch_load_is_called_in_one_place_and_unpickles_weights_only():
    calls = [
        (path.name, {k.arg: ast.unparse(k.value) for k in node.keywords})
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load")
    ]
    assert [name for name, _ in calls] == ["weights.py"]
    assert calls[0][1]["weights_only"] == "True"


@pytest.mark.parametrize(
    ("room", "most"),
    [("segmentation", 64), ("detection", 71), ("change", 73), ("classification", 69)],
)
def test_inference_loads_nothing_that_trains(room, most):
    program = CLOSURE.format(room=room)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = json.loads(run.stdout)
    assert f"lemevit_cli.tasks.{room}.inference" in loaded
    assert not [m for m in loaded if m.startswith("lemevit_cli.training") or "accelerate" in m]
    assert not [m for m in loaded if m.endswith((".training", ".evaluation", ".data"))]
    assert len(loaded) <= most


@pytest.mark.parametrize("room", ["segmentation", "detection", "change"])
def test_results_are_scored_without_torch(room):
    program = f"import sys, lemevit_cli.tasks.{room}.scoring as s; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"


# Builds a network of ours, as each run does, and names what takes seconds to import.
NETWORK = """
import importlib, sys
importlib.import_module("lemevit_cli.tasks.{room}.inference")
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks import load_network
card = Card(task="{task}", backbone="lemevit_tiny", head="{head}", classes=classes_from_names("ab"))
load_network("{task}").build_model(card)
slow = ["timm", "torchvision", "segmentation_models_pytorch", "torch._dynamo", "torch._inductor"]
print([m for m in [*slow, "pandas", "geopandas", "matplotlib", "scipy"] if m in sys.modules])
"""


@pytest.mark.parametrize(
    ("room", "task", "head"),
    [
        ("segmentation", "seg", "upernet"),
        ("detection", "det", "oriented_rcnn"),
        ("change", "change", "difference"),
        ("classification", "cls", "linear"),
    ],
)
def test_a_run_with_a_network_of_ours_imports_nothing_slow_beside_torch(room, task, head):
    program = NETWORK.format(room=room, task=task, head=head)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


# Files of this repository, and names, as docstrings and comments refer to them.
NAMED_FILE = re.compile(r"\b\w+(?:/\w+)+\.(?:py|md)\b")
NAMED_CODE = re.compile(r":(?:attr|class|data|func|meth|mod):`([\w.]+)`")


def names_in(path):
    """Yield what a module defines, imports, sets or takes as an argument."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_files_and_names_that_are_referred_to_exist():
    names = {path: set(names_in(path)) for path in sorted(PACKAGE.rglob("*.py"))}
    all_names = set().union(*names.values())
    stale = []
    for path, own in names.items():
        text = path.read_text()
        for file in NAMED_FILE.findall(text):
            if not any((place / file).exists() for place in (path.parent, PACKAGE, PACKAGE.parent)):
                stale.append(f"{path}: {file}")
        for reference in NAMED_CODE.findall(text):
            *owner, name = reference.split(".")
            module = PACKAGE.parent.joinpath(*owner).with_suffix(".py")
            known = names.get(module, all_names if owner else own)
            if name not in known:
                stale.append(f"{path}: {reference}")
    assert not stale, "\n".join(stale)
