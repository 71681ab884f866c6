"""A model in onnxruntime's own format, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import onnxruntime
from flatbuffers.number_types import SOffsetTFlags, UOffsetTFlags, VOffsetTFlags
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import (
    ArgTypeAndIndex,
    InferenceSession,
    KernelTypeStrArgsEntry,
    KernelTypeStrResolver,
    OpIdKernelTypeStrArgsEntry,
)

_RESOLVER_FIELD = 10
"""Of the root table, in onnxruntime's schema of this format."""


def convert(path: Path) -> bytes:
    """An `.onnx` file in the format of onnxruntime, optimized for any processor.

    As onnxruntime's converter does it: a model in this format is not optimized again when it is
    loaded. Left out is the layout of blocked channels, which only some processors have kernels for.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["NchwcTransformer"],
    )
    return with_ordered_types(path.with_suffix(".ort").read_bytes())


def with_ordered_types(model: bytes) -> bytes:
    """The same model, its table of operators' types laid out in order.

    onnxruntime lays that table out in the order of a hash map, another one each time. It is the
    last that is written, so it lies in front, right behind the root, and nothing else refers to
    it: it is written anew at the end, and its old place is zeroed.
    """
    root = InferenceSession.InferenceSession.GetRootAs(model, 0)
    old = root.KernelTypeStrResolver()
    builder = flatbuffers.Builder(4096)
    offset, end = _rewrite(builder, old)
    builder.Finish(offset)
    table = bytes(builder.Output())
    begin = old._tab.Pos
    field = root._tab.Pos + root._tab.Offset(_RESOLVER_FIELD)
    data = bytearray(model)
    data[begin:end] = bytes(end - begin)
    data += bytes(-len(data) % 16)
    # A flatbuffer begins with the distance to its root; the field holds that from itself.
    place = len(data) + int.from_bytes(table[:4], "little")
    data[field : field + 4] = (place - field).to_bytes(4, "little")
    return bytes(data + table)


def _rewrite(builder: flatbuffers.Builder, old) -> tuple[int, int]:
    """Copies the table in the order of its keys; its offset, and where the old one ended."""
    ends = []

    def text(table, slot: int, value: bytes) -> int:
        at = table._tab.Indirect(table._tab.Pos + table._tab.Offset(slot))
        ends.append(at + 4 + len(value) + 1)
        return builder.CreateString(value.decode())

    def argument(entry, index: int) -> int:
        value = entry.Args(index)
        vtable = value._tab.Pos - value._tab.Get(SOffsetTFlags, value._tab.Pos)
        ends.append(
            value._tab.Pos + value._tab.Get(VOffsetTFlags, vtable + VOffsetTFlags.bytewidth)
        )
        ArgTypeAndIndex.Start(builder)
        ArgTypeAndIndex.AddArgType(builder, value.ArgType())
        ArgTypeAndIndex.AddIndex(builder, value.Index())
        return ArgTypeAndIndex.End(builder)

    def types(entry) -> int:
        name = text(entry, 4, entry.KernelTypeStr())
        indices = range(entry.ArgsLength())
        arguments = _vector(builder, [argument(entry, index) for index in indices])
        KernelTypeStrArgsEntry.Start(builder)
        KernelTypeStrArgsEntry.AddKernelTypeStr(builder, name)
        KernelTypeStrArgsEntry.AddArgs(builder, arguments)
        return KernelTypeStrArgsEntry.End(builder)

    def operator(entry) -> int:
        name = text(entry, 4, entry.OpId())
        found = [entry.KernelTypeStrArgs(i) for i in range(entry.KernelTypeStrArgsLength())]
        rows = _vector(builder, [types(row) for row in found])
        OpIdKernelTypeStrArgsEntry.Start(builder)
        OpIdKernelTypeStrArgsEntry.AddOpId(builder, name)
        OpIdKernelTypeStrArgsEntry.AddKernelTypeStrArgs(builder, rows)
        return OpIdKernelTypeStrArgsEntry.End(builder)

    entries = [old.OpKernelTypeStrArgs(i) for i in range(old.OpKernelTypeStrArgsLength())]
    rows = _vector(builder, [operator(e) for e in sorted(entries, key=lambda e: e.OpId())])
    KernelTypeStrResolver.Start(builder)
    KernelTypeStrResolver.AddOpKernelTypeStrArgs(builder, rows)
    return KernelTypeStrResolver.End(builder), max(ends)


def _vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    size = UOffsetTFlags.bytewidth
    builder.StartVector(size, len(offsets), size)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()
