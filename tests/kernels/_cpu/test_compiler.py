"""What of Numba's own the compiler takes: other versions may have it otherwise."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import numba
import pytest
from numba.core import codegen

import fastnn

PUBLIC = ("numba.types", "numba.extending", "numba.core.cgutils")       # the last is of Numba's guide to intrinsics
PRIVATE = [
    ("numba._dynfunc", "make_function", "makes a Python function of an address: in Code.make"),
    ("numba.core.lowering", "Environment", "holds the globals of a function that Python calls: in Code.make"),
    ("numba.core.compiler_lock", "global_compiler_lock", "keeps others out meanwhile: in Code._compiled"),
    ("numba.core.registry", "cpu_target", "gives the code generator: in Code"),
    ("numba.np.ufunc.parallel", "_launch_threads", "makes the threads that loaded code runs on: in Code._loaded"),
    ("numba.core.codegen", "JITCodeLibrary", "is what a part replaces: in _Part"),
]
METHODS = {                                 # of a library, with their parameters: what _Part replaces and _whole calls
    "add_llvm_module": "self ll_module", "finalize": "self", "get_pointer_to_function": "self name",
    "_get_module_for_linking": "self", "_set_compiled_object": "self value", "_get_compiled_object": "self",
    "_optimize_final_module": "self", "_finalize_final_module": "self", "enable_object_caching": "self",
    "_finalize_dynamic_globals": "self", "_optimize_functions": "self ll_module",
}


@pytest.mark.parametrize(("module", "name", "what"), PRIVATE)
def test_numba_has_what_the_compiler_takes(module: str, name: str, what: str) -> None:
    assert hasattr(importlib.import_module(module), name), (
        f"Numba {numba.__version__} has no {module}.{name}. It {what} of fastnn/kernels/_cpu/compiler.py; find what "
        "took its place, or allow no such version in setup.cfg")


@pytest.mark.parametrize("name", METHODS)
def test_a_library_is_made_as_it_was(name: str) -> None:
    """Tests of kernels fail for this too, but not by a name."""
    method = getattr(codegen.JITCodeLibrary, name, str)
    assert [*inspect.signature(method).parameters] == METHODS[name].split(), (
        f"numba.core.codegen.JITCodeLibrary.{name} of Numba {numba.__version__} is another one: look at what it does "
        "now, and have _Part and _whole of fastnn/kernels/_cpu/compiler.py do their part of it")


def test_nothing_else_of_the_cpu_takes_what_is_numbas_own() -> None:
    package = Path(fastnn.__file__).parent / "kernels"
    for path in {*package.rglob("*.py")} - {*package.rglob("*cuda.py"), *package.rglob("_gpu/*.py")}:
        imported = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
        names = [f"{node.module}.{alias.name}" for node in imported for alias in node.names]
        own = [name for name in names if name.startswith("numba.") and not name.startswith(PUBLIC)]
        assert not own or path.name == "compiler.py", f"{path} takes {own}: only compiler.py knows Numba from within"
