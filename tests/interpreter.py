"""Triton's interpreter without the work that it repeats. The arithmetic, which is NumPy's, is left alone."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any


def quicken() -> None:
    """The interpreter as it is, sooner; another Triton than the one this was written for is left alone."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not all(hasattr(interpreter, name) for name in ("_LangPatchScope", "_patch_lang", "_get_np_dtype", "tl")):
        return
    _patch_once(interpreter)
    if all(hasattr(interpreter, name) for name in ("interpreter_builder", "interpreter_semantic", "TensorHandle")):
        _without_checks(interpreter)
        _types_once(interpreter)


def _patch_once(interpreter: Any) -> None:
    """At every launch, and at every call of a function by a kernel, the interpreter looks through all of
    triton.language for what is to be replaced. Once is enough where all kernels are interpreted."""
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

    def direct(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        """What replaces a function of the language, without the layer that asks who calls."""
        inner = member.__wrapped__ if getattr(member, "__code__", None) is guard else member

        def call(*args: Any, **options: Any) -> Any:
            options["_semantic"] = interpreter.interpreter_semantic
            return inner(*args, **options)

        scope.set_attr(obj, name, call)

    interpreter._patch_lang, interpreter._get_np_dtype = patched_once, type_once
    if hasattr(interpreter, "_patch_attr") and hasattr(interpreter, "interpreter_semantic"):
        guard = interpreter.tl.core.builtin(lambda: None).__code__
        interpreter._patch_attr = direct


def _without_checks(interpreter: Any) -> None:
    """Every sum of integers is made again in 64 bits for an assertion that is dropped, because nothing is debugged."""
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _types_once(interpreter: Any) -> None:
    """Types, shapes and rules of promotion are made once; operands of one type and one shape are taken as they are."""
    core, semantic = interpreter.tl.core, type(interpreter.interpreter_semantic)
    block, builder = core.block_type, type(interpreter.interpreter_builder)
    made, equal, unwrapped = core.tensor.__init__, core.dtype.__eq__, core._unwrap_if_constexpr
    broadcast, checked = semantic.broadcast_impl_value, semantic.binary_op_type_checking_impl
    shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def tensor(self: Any, handle: Any, kind: Any) -> None:
        key = tuple(kind.shape.values) if kind.is_block() else ()
        if key not in shapes:
            made(self, handle, kind)
            shapes[key] = self.numel, self.shape
        self.handle, self.type, self.dtype = handle, kind, kind.scalar
        self.numel, self.shape = shapes[key]

    def as_they_are(self: Any, lhs: Any, rhs: Any) -> Any:
        a, b = lhs.type, rhs.type
        if a.is_block() and b.is_block() and a.shape.values == b.shape.values:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    def operands(self: Any, lhs: Any, rhs: Any, *args: Any, **options: Any) -> Any:
        kind = getattr(lhs, "dtype", None)
        if (
            kind is not None
            and kind is getattr(rhs, "dtype", None)
            and (kind.is_int() or kind.name in ("fp32", "fp64"))
        ):
            return self.broadcast_impl_value(lhs, rhs)  # half types are divided as float32
        return checked(self, lhs, rhs, *args, **options)

    def once(function: Any, key: Any) -> Any:
        """The function, which asks no more than the key of its arguments; a key of None is not kept."""
        found: dict[Any, Any] = {}

        def call(*args: Any) -> Any:
            at = key(*args)
            if at is None:
                return function(*args)
            if at not in found:
                found[at] = function(*args)
            return found[at]

        return call

    def name(kind: Any) -> Any:
        return kind.name if type(kind) is core.dtype else None  # a pointer's name does not say all

    def of_block(shape: Any, kind: Any) -> Any:
        return (tuple(getattr(shape, "values", shape)), name(kind)) if name(kind) else None

    def of_rule(_: Any, a: Any, a_is_scalar: bool, b: Any, b_is_scalar: bool, division: bool) -> Any:
        return (name(a), a_is_scalar, name(b), b_is_scalar, division) if name(a) and name(b) else None

    core.tensor.__init__, semantic.broadcast_impl_value = tensor, as_they_are
    semantic.binary_op_type_checking_impl = operands
    core._unwrap_if_constexpr = lambda given: given if type(given) is core.tensor else unwrapped(given)
    core.dtype.__eq__ = lambda self, other: self is other or equal(self, other)
    block.with_element_ty = once(block.with_element_ty, lambda self, kind: of_block(self.shape, kind))
    builder.get_block_ty = once(builder.get_block_ty, lambda _, kind, shape: of_block(shape, kind))
    semantic.computation_type_impl = once(semantic.computation_type_impl, of_rule)
