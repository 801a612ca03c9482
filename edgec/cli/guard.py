"""What a user sees when something fails: one clear message, the right exit code, and no traceback unless asked for."""

from __future__ import annotations

import functools
import inspect
import os
import platform
import signal
import sys
import tempfile
import traceback as tracebacks
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from edgec.cli import INTERRUPTED
from edgec.errors import EdgecError, InternalError, of_machine

_TERMINATED = 143  # what shells report for a command that SIGTERM ended

_Traceback = Annotated[bool, typer.Option("--traceback", help="Show where in edgec an error comes from.")]


def guarded(command: Callable[..., None], stopped: str = "no file is half written") -> Callable[..., None]:
    """The command with an option `--traceback`, and with every error turned into a message and an exit code:
    that of the EdgecError; 2 for a full disk and what else `of_machine` knows; 70 and a reproducer for anything
    unforeseen; 130 after SIGINT, 143 after SIGTERM. stopped: what such a signal leaves.

    A parameter whose type is a dataclass stands for the options of its fields: what several commands share.
    """
    signature = inspect.signature(command, eval_str=True)  # typer reads types, not their names
    groups: dict[str, type[Any]] = {name: p.annotation for name, p in signature.parameters.items()
                                    if isinstance(p.annotation, type) and is_dataclass(p.annotation)}

    @functools.wraps(command)
    def wrapper(*args: Any, traceback: bool = False, **kwargs: Any) -> None:
        before = signal.signal(signal.SIGTERM, _terminate)
        try:
            for name, group in groups.items():
                kwargs[name] = group(**{field.name: kwargs.pop(field.name) for field in fields(group)})
            command(*args, **kwargs)
            sys.stdout.flush()
        except EdgecError as error:
            _fail(error, traceback)
        except KeyboardInterrupt as error:
            print(f"stopped; {stopped}", file=sys.stderr)
            raise typer.Exit(_TERMINATED if error.args else INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output is gone, as in `edgec targets | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except MemoryError as error:
            _fail(InternalError("there is not enough memory", hint="use a machine with more"), traceback, error)
        except Exception as error:
            if (known := of_machine(error)) is not None:
                _fail(known, traceback, error)
            what = f"edgec failed unexpectedly: {type(error).__name__}: {_first_line(error)}"
            _fail(InternalError(what), traceback, error)
        finally:
            signal.signal(signal.SIGTERM, before)

    extra = inspect.Parameter("traceback", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Traceback)
    parameters = [p for name, p in signature.parameters.items() if name not in groups]
    for group in groups.values():
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                       for p in inspect.signature(group, eval_str=True).parameters.values()]
    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=sorted([*parameters, extra], key=lambda p: p.kind))
    wrapper.__annotations__ = {p.name: p.annotation for p in (*parameters, extra)}
    return wrapper


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt("SIGTERM")  # stops as SIGINT does, so that nothing half done stays behind


def _fail(error: EdgecError, traceback: bool, cause: BaseException | None = None) -> NoReturn:
    if traceback:
        tracebacks.print_exception(cause or error)
    if isinstance(error, InternalError) and not error.reproducer:
        path = _write_reproducer(cause or error)
        error = InternalError(error.what, where=error.where, reason=error.reason, expected=error.expected,
                              hint=error.hint, reproducer=path)
    print(f"error: {error.message()}", file=sys.stderr)
    raise typer.Exit(error.exit_code) from None


def _write_reproducer(error: BaseException) -> str:
    """A file with the command, the versions and the traceback; empty if it cannot be written."""
    from importlib.metadata import PackageNotFoundError, version

    lines = ["command: " + " ".join(sys.argv), f"python: {platform.python_version()} on {platform.platform()}"]
    for package in ("edgec", "numpy", "onnx", "onnxruntime", "apache-tvm", "torch", "ziglang"):
        try:
            lines.append(f"{package}: {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package}: not installed")
    lines += ["", *(line.rstrip("\n") for line in tracebacks.format_exception(error))]
    try:
        handle, path = tempfile.mkstemp(prefix="edgec-failure-", suffix=".txt", text=True)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines) + "\n")
    except OSError:
        return ""
    return path


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
