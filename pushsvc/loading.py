"""From `MODULE:SERVICE` to the service: imported, or one report of what is wrong, in the author's own lines."""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType

from .domain import check_name
from .errors import PushsvcError, SettingsError
from .service import Service

LOOKS_LIKE = "a target looks like myapp.jobs:service"
_OURS = str(Path(__file__).parent)


def load(target: str) -> tuple[Service, ModuleType]:
    """The service and its module, from the working directory too. Raises SettingsError, saying what is wrong."""
    check_name(target, "a target", error=SettingsError)
    name, _, attribute = target.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", name) or name.endswith(".py"):
        hint = f"; write {_as_module(name)}:{attribute or 'service'}" if name.endswith(".py") or "/" in name else ""
        raise SettingsError(f"{name!r} is not the name of a module{hint}; {LOOKS_LIKE}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _imported(name)
    service = getattr(module, attribute or "service", None)
    if not isinstance(service, Service):
        raise SettingsError(_not_there(module, name, attribute or "service", service))
    # What has been imported stays: no collection need ever look at it again.
    gc.collect()
    gc.freeze()
    return service, module


def _as_module(path: str) -> str:
    return ".".join(part for part in path.removesuffix(".py").split("/") if part not in ("", "."))


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise SettingsError(_no_module(name)) from None
        raise SettingsError(_report(name, error, f"install {error.name}, or correct its name")) from None
    except (Exception, SystemExit) as error:
        raise SettingsError(_report(name, error)) from None


def _no_module(name: str) -> str:
    here = [path.stem for path in Path.cwd().glob("*.py")] + [path.parent.name for path in Path.cwd().glob("*/*.py")]
    near = difflib.get_close_matches(name, here, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it is looked for in {Path.cwd()} and where Python's packages are"
    return f"there is no module {name!r}; {hint}"


def _not_there(module: ModuleType, name: str, attribute: str, found: object) -> str:
    others = [other for other, value in vars(module).items() if isinstance(value, Service)]
    if others:
        return f"{name} has no Service named {attribute!r}; it has {', '.join(others)}: write {name}:{others[0]}"
    what = f"{attribute!r} of {name} is a {type(found).__name__}, not a Service" if found is not None else None
    return what or f"{name} has no Service named {attribute!r}; make one with `{attribute} = pushsvc.Service()`"


# What an author did -------------------------------------------------------------------------------


def _report(name: str, error: BaseException, hint: str | None = None) -> str:
    """The mistake in the author's own lines; nothing of how the import got there."""
    lines = [f"{name} can't be imported"]
    for frame in _authors(error.__traceback__):
        lines.append(f"  {_short(frame.filename)}, line {frame.lineno}, in {frame.name}")
        if frame.line:
            lines.append(f"    {frame.line}")
    if isinstance(error, PushsvcError):
        lines.append(str(error))
    else:
        said = traceback.TracebackException.from_exception(error).format_exception_only()
        lines.append("".join(said).rstrip().replace(f'  File "{os.getcwd()}/', '  File "'))
    return "\n".join([*lines, *([hint] if hint else [])])


def _authors(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of the author's own files; of others', if there are none."""
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith("<frozen") and not frame.filename.startswith(_OURS)
    ]
    libraries, here = (sys.prefix, sys.base_prefix), os.getcwd()
    return [
        frame for frame in frames if not frame.filename.startswith(libraries) or frame.filename.startswith(f"{here}/")
    ]


def _short(filename: str) -> str:
    return filename.removeprefix(f"{os.getcwd()}/")
