"""The picture in docs/architecture.md, held to the imports."""

import ast
from pathlib import Path

import pytest

import lemevit_cli

PACKAGE = Path(lemevit_cli.__file__).parent
# From top to bottom; modules of one row do not know each other.
LAYERS = [
    ["cli", "__main__"],
    ["commands"],
    ["pipelines"],
    ["tasks"],
    ["training"],
    ["models"],
    ["tiling", "scenes", "writers", "execution", "simulation"],
    ["geometry"],
    ["settings", "errors", "legend"],
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
# Who may know a library that belongs to one place.
OWNERS = {
    "typer": {"cli", "commands"},
    "rich": {"commands"},
    "tqdm": {"commands"},
    "pyogrio": {"writers", "scenes"},
    "matplotlib": {"writers"},
    "accelerate": {"training"},
    "safetensors": {"models"},
    "segmentation_models_pytorch": {"models", "training"},
    "yaml": {"training"},
}


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
