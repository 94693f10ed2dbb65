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

A closed stdout or stderr is as /dev/null: the work is done. What their encoding lacks is shown escaped.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, NoReturn, get_type_hints

from edgedet import __version__
from edgedet.contract.errors import EdgedetError, MissingDependency, OutputError, UnknownName, UsageError
from edgedet.contract.text import printable

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
    _open_streams()
    sys.exit(edgedet(sys.argv[1:]))


def train() -> NoReturn:
    """The `edgedet-train` script."""
    _script("train")


def export() -> NoReturn:
    """The `edgedet-export` script."""
    _script("export")


def evaluate() -> NoReturn:
    """The `edgedet-eval` script."""
    _script("eval")


def run() -> NoReturn:
    """The `edgedet-run` script."""
    _script("run")


def bench() -> NoReturn:
    """The `edgedet-bench` script."""
    _script("bench")


def _script(verb: str) -> NoReturn:
    _open_streams()
    sys.exit(run_verb(verb, sys.argv[1:]))


def _open_streams() -> None:
    """See that there is a stdin, stdout and stderr, and that no character is too much for them.

    Where one is closed, the next file that is opened would get its number, and whatever a library
    prints would land in that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        buffer = io.BufferedWriter(_Stdout(out.fileno(), "w", closefd=False))
        lines = out.line_buffering
        sys.stdout = io.TextIOWrapper(buffer, out.encoding, "backslashreplace", line_buffering=lines)


class _Stdout(io.FileIO):
    """stdout, which knows whether a write failed: the error alone does not say what could not be written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as e:
            self.failure = e
            raise


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
            _refuse_infinite(command, context.params)
            return command.invoke(context)

    return _guarded(call, debug="--debug" in args, program=name)


def command_of(verb: str) -> Any:
    """The verb's function as a click command, its module imported now."""
    import typer

    entry = VERBS[verb]
    function = getattr(import_module(entry.module), entry.function)
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command(name=verb)(_with_debug(function))
    command = typer.main.get_command(app)
    _refuse_repetition(command)
    return command


def _refuse_repetition(command: Any) -> None:
    """Make the command refuse an option that takes one value and is given twice, with UsageError.

    The parser would keep the last, and nobody would know that the first was not used. An option that is
    declared as a list may be repeated, and a flag may be said again, but not be said and denied.
    """
    make_parser = command.make_parser

    def strict_parser(context: Any) -> Any:
        parser = make_parser(context)
        options = {id(o): o for o in (*parser._long_opt.values(), *parser._short_opt.values())}
        for option in options.values():
            option.process = functools.partial(_process_once, option, option.process)
        return parser

    command.make_parser = strict_parser


def _refuse_infinite(command: Any, values: Mapping[str, Any]) -> None:
    """UsageError for a number that is none, or infinite: it passes every comparison with a range's ends."""
    for parameter in command.params:
        given = values.get(parameter.name)
        for value in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{parameter.opts[0]} {value} is no number to work with.")


def _process_once(option: Any, process: Callable[[Any, Any], None], value: Any, state: Any) -> None:
    """What an option of the parser does with one more value, `state` holding those before it."""
    new = {"store": value, "store_const": option.const}.get(option.action)
    before = state.opts.get(option.dest)
    once = option.action in ("store", "store_const")  # a list takes any number
    if once and option.dest in state.opts and (option.action == "store" or new != before):
        names = option._long_opts or option._short_opts
        if option.action == "store":
            raise UsageError(
                f"{names[0]} is given twice: {before!r} and {new!r}.", hint="It takes one value: choose."
            )
        raise UsageError(f"{names[0]} and its opposite are both given.", hint="Choose one.")
    process(value, state)


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
            "Example: edgedet export --model yolo --int8 --eval-data bikes.mp4 && "
            "edgedet run yolo-int8.onnx --source 0",
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
        _say("interrupted")
        return INTERRUPTED
    except SystemExit as e:
        # what rich makes of a broken pipe
        if isinstance(e.__context__, BrokenPipeError):
            return READER_GONE
        raise
    except Exception as e:
        broken = _broken_stdout()
        if isinstance(broken, BrokenPipeError):
            return READER_GONE
        if broken is not None:
            text = f"Cannot write to stdout: {broken.strerror or broken}."
            return _fail(OutputError(text, hint="Send it somewhere else."), debug=debug)
        return _fail(e, debug=debug, program=program)


def _broken_stdout() -> OSError | None:
    """Why stdout takes nothing more, None if it does.

    A broken one is replaced by /dev/null: Python's own flush at exit would fail again.
    """
    failure = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failure", None)
    if failure is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return failure


def _fail(error: Exception, *, debug: bool, program: str = "edgedet") -> int:
    """Say what failed in one line on stderr (below the traceback if `debug`); returns the exit code."""
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            _say(printable(line))
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
    _say(f"error [{name}]: {printable(' '.join(text.split()))}")
    return code


def _say(line: str) -> None:
    """Print a line on stderr, if that takes one: the exit code says the rest."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
