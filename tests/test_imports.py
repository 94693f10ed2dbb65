"""Who imports what: the layers, the one file per library, and what an import may load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from edgedet.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[1]

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "onnxruntime",
    "onnx",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "cuda",
    "matplotlib",
    "scipy",
    "sklearn",
    "av",
}

ONLY_IN = {
    # an engine's library is known to the file that wraps it
    "openvino": {"edgedet.runtime.engines.backend_openvino"},
    # calibration reads tensors inside the graph, which the engine does not show
    "onnxruntime": {"edgedet.runtime.engines.backend_onnxruntime", "edgedet.calib.observe"},
    "tensorrt": {"edgedet.export.tensorrt.trt"},
    "tensorrt_rtx": {"edgedet.export.tensorrt.rtx"},
    "pycuda": set(),
    "simplejpeg": {"edgedet.contract.image_files"},
    "onnxsim": {"edgedet.export.graph"},
    "matplotlib": {"edgedet.bench.picture"},
    # one SVM; what follows R-CNN's fine-tuning
    "sklearn": {"edgedet.training.svm"},
    "av": {"edgedet.runtime.sinks.backend_av", "edgedet.runtime.sources.backend_av"},
}

TORCH_PACKAGES = ("edgedet.models", "edgedet.data", "edgedet.training", "edgedet.export")
TORCH_FILES = {"edgedet.evaluation.predict_torch"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("edgedet", include_external_packages=True, cache_dir=None)


def loaded(statement: str) -> set[str]:
    """The top-level modules that a fresh Python holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.anchor
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module",
    ["edgedet", "edgedet.runtime", "edgedet.calib", "edgedet.evaluation", "edgedet.contract"],
)
def test_importing_a_library_part_loads_nothing_heavy(module: str) -> None:
    assert not loaded(f"import {module}") & HEAVY


@pytest.mark.parametrize("verb", VERBS)
def test_importing_a_verb_loads_nothing_heavy(verb: str) -> None:
    assert not loaded(f"import {VERBS[verb].module}") & HEAVY


def test_importing_the_runtime_makes_no_cuda_context() -> None:
    code = "import edgedet.runtime; print(open('/proc/self/maps').read())"
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc/self/maps to see the libraries that a process has mapped")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "libcuda" not in done.stdout
    assert "nvinfer" not in done.stdout


def test_overview_loads_no_verb_and_no_numpy() -> None:
    modules = loaded("from edgedet.cli.main import edgedet; edgedet(['--help'])")
    assert "numpy" not in modules
    assert "cv2" not in modules


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_where_it_is_wrapped(graph: grimp.ImportGraph, library: str) -> None:
    found = graph.find_modules_that_directly_import(library) if library in graph.modules else set()
    assert found <= ONLY_IN[library]


@pytest.mark.parametrize("library", ["torch", "torchvision", "timm"])
def test_torch_stays_where_models_are_made(graph: grimp.ImportGraph, library: str) -> None:
    importers = graph.find_modules_that_directly_import(library)
    assert importers, "the graph sees no import of it: is it built right?"
    stray = {m for m in importers if not m.startswith(TORCH_PACKAGES) and m not in TORCH_FILES}
    # a verb may ask torch for its devices, inside its own body
    assert stray <= {"edgedet.cli.train", "edgedet.cli.export", "edgedet.cli.eval"}


def test_the_graph_sees_through_the_symlinks(graph: grimp.ImportGraph) -> None:
    assert {"edgedet.runtime.engines.engine", "edgedet.calib.scales", "edgedet.export"} <= graph.modules


def test_the_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_optional_tensorrt_binding_is_not_needed() -> None:
    code = (
        "import sys\n"
        "for m in ('torch', 'onnx', 'onnxruntime', 'matplotlib', 'tensorrt_rtx', 'pycuda', 'safetensors'):\n"
        "    sys.modules[m] = None\n"  # importing it raises ImportError
        "import edgedet.runtime as r\n"
        "for name in r.__all__: getattr(r, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
