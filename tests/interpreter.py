"""Triton's interpreter without the work that it repeats: at every launch, and at every call of a function by a kernel,
it looks through all of triton.language for what is to be replaced. Once is enough where all kernels are interpreted."""

from __future__ import annotations

import inspect
from typing import Any


def quicken() -> None:
    """What the interpreter replaces in triton.language stays replaced; another Triton is left alone."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not all(hasattr(interpreter, name) for name in ("_LangPatchScope", "_patch_lang", "_get_np_dtype", "tl")):
        return
    patch, numpy_type, languages = (
        interpreter._patch_lang,
        interpreter._get_np_dtype,
        (interpreter.tl, interpreter.tl.core),
    )
    done: set[tuple[int, ...]] = set()
    keys: dict[Any, tuple[int, ...]] = {}
    types: dict[str, Any] = {}

    def patched_once(fn: Any) -> Any:
        if fn not in keys:
            values = fn.__globals__.values()
            keys[fn] = tuple(id(v) for v in values if inspect.ismodule(v) and v in languages)
        if keys[fn] not in done:
            patch(fn)
            done.add(keys[fn])
        return interpreter._LangPatchScope()  # puts nothing back

    def type_once(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in types:
            types[name] = numpy_type(dtype)
        return types[name]

    interpreter._patch_lang, interpreter._get_np_dtype = patched_once, type_once
