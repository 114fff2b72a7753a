"""Triton's interpreter without the work that it repeats: at every call of a function by a kernel it looks through all
of triton.language for what is to be replaced, though once for each launch is enough. It was nine tenths of the time."""

from __future__ import annotations

import inspect
from typing import Any


def quicken() -> None:
    """Functions that a kernel calls run at once, after the first of their module; another Triton is left alone."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not all(hasattr(interpreter, name) for name in ("GridExecutor", "InterpretedFunction", "_patch_lang", "tl")):
        return
    executor, function, patch = interpreter.GridExecutor, interpreter.InterpretedFunction, interpreter._patch_lang
    launch, languages = executor.__call__, (interpreter.tl, interpreter.tl.core)
    seen: set[tuple[int, ...]] = set()
    keys: dict[Any, tuple[int, ...]] = {}

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.clear()  # what a launch has replaced is put back at its end
        return launch(self, *args, **kwargs)

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn not in keys:
            values = self.fn.__globals__.values()
            keys[self.fn] = tuple(id(v) for v in values if inspect.ismodule(v) and v in languages)
        if keys[self.fn] not in seen:
            patch(self.fn)
            seen.add(keys[self.fn])
        return self.rewrite()(*args, **kwargs)

    executor.__call__, function.__call__ = launched, called
