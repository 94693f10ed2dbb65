"""`edgedet` and its verbs; each edgedet-VERB script is one of them.

A verb is a plain function in its own module, annotated with typer. Its module is imported when the verb
is called and not before, so `edgedet --help` is quick and no verb pays for another's libraries. Every
verb gets `--debug`, and every failure becomes one line on stderr and an exit code:

    0  done
    1  a named error (edgedet.contract.errors), or a bug; `--debug` shows the traceback
    2  an argument or option that cannot be meant
    3  the accuracy gate failed
    130  interrupted with Ctrl-C
    141  the reader of the output went away (as in `edgedet ... | head`)
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, NoReturn, get_type_hints

from edgedet import __version__
from edgedet.contract.errors import EdgedetError, MissingDependency, UnknownName, UsageError

INTERRUPTED = 130
READER_GONE = 141

EXTRA_OF = {
    "faster_coco_eval": "train",
    "matplotlib": "report",
    "onnx": "export",
    "onnxruntime": "onnxruntime",
    "onnxscript": "export",
    "onnxsim": "export",
    "openvino": "cpu",
    "safetensors": "train",
    "tensorboard": "train",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "yaml": "train",
}
"""Module -> the extra that installs it, for verbs run without the libraries they are made of."""


@dataclass(frozen=True)
class Verb:
    """Where a verb's function lives, and what it does in a few words."""

    module: str
    function: str
    summary: str


VERBS = {
    "train": Verb("edgedet.cli.train", "train", "train a model on a data set"),
    "export": Verb("edgedet.cli.export", "export", "checkpoint -> ONNX -> INT8 or FP16 -> engine"),
    "eval": Verb("edgedet.cli.eval", "evaluate", "accuracy of a checkpoint, an ONNX file or an engine"),
    "run": Verb("edgedet.cli.run", "run", "camera, video, RTSP or images -> overlay, video, JSON lines"),
    "bench": Verb("edgedet.cli.bench", "bench", "speed here, beside the lecture's claims"),
    "info": Verb("edgedet.cli.info", "info", "what a model, weights or calibration file says of itself"),
    "doctor": Verb("edgedet.cli.doctor", "doctor", "what this machine has, what is missing, how to get it"),
}


def main() -> NoReturn:
    """The `edgedet` script."""
    sys.exit(edgedet(sys.argv[1:]))


def train() -> NoReturn:
    """The `edgedet-train` script."""
    sys.exit(run_verb("train", sys.argv[1:]))


def export() -> NoReturn:
    """The `edgedet-export` script."""
    sys.exit(run_verb("export", sys.argv[1:]))


def evaluate() -> NoReturn:
    """The `edgedet-eval` script."""
    sys.exit(run_verb("eval", sys.argv[1:]))


def run() -> NoReturn:
    """The `edgedet-run` script."""
    sys.exit(run_verb("run", sys.argv[1:]))


def bench() -> NoReturn:
    """The `edgedet-bench` script."""
    sys.exit(run_verb("bench", sys.argv[1:]))


def edgedet(args: Sequence[str]) -> int:
    """`edgedet [--debug] VERB ...`, `edgedet --help`, `edgedet --version`; returns the exit code."""
    position = next((i for i, a in enumerate(args) if not a.startswith("-")), None)
    if position is not None:
        verb = args[position]
        rest = [*args[:position], *args[position + 1 :]]
        if verb in VERBS:
            return run_verb(verb, rest, program=f"edgedet {verb}")
        return _fail(UnknownName("verb", verb, VERBS), debug="--debug" in rest)
    unknown = [a for a in args if a not in ("-h", "--help", "--version", "--debug")]
    if unknown:
        return _fail(
            UsageError(f"edgedet has no option {unknown[0]}.", hint="Try: edgedet --help"), debug=False
        )
    return _guarded(
        lambda: print(f"edgedet {__version__}" if "--version" in args else overview()), debug=False
    )


def run_verb(verb: str, args: Sequence[str], program: str = "") -> int:
    """Run one verb with its arguments; returns the exit code. Never raises an Exception."""
    name = program or f"edgedet-{verb}"

    def call() -> object:
        command = command_of(verb)
        with command.make_context(name, list(args)) as context:
            return command.invoke(context)

    return _guarded(call, debug="--debug" in args, program=name)


def command_of(verb: str) -> Any:
    """The verb's function as a click command, its module imported now."""
    import typer

    entry = VERBS[verb]
    function = getattr(import_module(entry.module), entry.function)
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command(name=verb)(_with_debug(function))
    return typer.main.get_command(app)


def overview() -> str:
    """The text of `edgedet --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "Usage: edgedet VERB [OPTIONS]      (edgedet VERB --help says more)",
            "",
            *lines,
            "",
            "  --version  print the version",
            "  --debug    with any verb: show the traceback of an error",
            "",
            "Example: edgedet export --model yolo --int8 && edgedet run yolo-int8.onnx --source 0",
        ]
    )


def _with_debug(function: Callable[..., object]) -> Callable[..., object]:
    """The function with a `--debug` option more, which `_guarded` obeys."""
    import typer

    @functools.wraps(function)
    def wrapper(*args: object, debug: bool, **kwargs: object) -> object:
        return function(*args, **kwargs)

    hints = get_type_hints(function, include_extras=True)
    hints["debug"] = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
    parameters = [
        p.replace(annotation=hints[p.name]) if p.name in hints else p
        for p in inspect.signature(function).parameters.values()
    ]
    parameters.append(
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hints["debug"])
    )
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = hints
    return wrapper


def _guarded(call: Callable[[], object], *, debug: bool, program: str = "edgedet") -> int:
    """Call, and turn every way it can end into an exit code; failures say one line on stderr."""
    import typer

    try:
        code = call()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as e:
        return int(e.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # nothing more can be said there, and Python's own flush at exit would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except Exception as e:
        return _fail(e, debug=debug, program=program)


def _fail(error: Exception, *, debug: bool, program: str = "edgedet") -> int:
    """Say what failed in one line on stderr (below the traceback if `debug`); returns the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in EXTRA_OF:
        library = (error.name or "").partition(".")[0]
        error = MissingDependency(library, extra=EXTRA_OF[library], purpose=program)
    name, code = type(error).__name__, 1
    if isinstance(error, EdgedetError):
        text, code = str(error), error.exit_code
    elif hasattr(error, "format_message"):
        # click's usage errors; typer has its own copy of their classes, so no isinstance
        name, code = "UsageError", int(getattr(error, "exit_code", 2))
        text = f"{error.format_message()} Try: {program} --help"
    else:
        text = f"{error} (unexpected: please report it)"
        text += "" if debug else " Run again with --debug for the traceback."
    print(f"error [{name}]: {' '.join(text.split())}", file=sys.stderr)
    return code
