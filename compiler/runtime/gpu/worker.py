"""A process that compiles Triton functions: a JSON request on each line of its input, an answer on each of its output.

    {"file": "k.py", "function": "rms", "arguments": [["x", "*bf16"]], "aligned": true, "warps": 4, "stages": 2,
     "backend": "cuda", "arch": 90, "warp": 32, "fuse": true, "output": "rms.cubin"}
    {"name": "rms", "shared": 1024, "parameters": 3, "registers": 32, "stack": 0}
    {"error": "..", "kind": "CompilationError"}                        where there is none

It is a process of its own because compiling takes seconds, holds the interpreter, and may crash.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ALIGNMENT = 16  # bytes of pointers, and a divisor of sizes, that change what is generated
ERROR_CHARACTERS = 4000
MORE_REGISTERS = (8, 16, 32)  # of a thread, that are tried where values are left without one
MOST_REGISTERS = 255


def main() -> None:
    modules: dict[str, ModuleType] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = compile_request(request, modules)
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises is the answer
            answer = {"error": str(error)[-ERROR_CHARACTERS:], "kind": type(error).__name__}
        print(json.dumps(answer), flush=True)


def compile_request(request: dict[str, Any], modules: dict[str, ModuleType]) -> dict[str, Any]:
    """Writes the binary of one function and says what it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    file = request["file"]
    if file not in modules:
        spec = importlib.util.spec_from_file_location(f"kernels_{len(modules)}", file)
        assert spec is not None and spec.loader is not None
        modules[file] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[file])
    function = getattr(modules[file], request["function"])
    signature = dict(request["arguments"])
    aligned = {(k,): [["tt.divisibility", ALIGNMENT]] for k in range(len(signature))} if request["aligned"] else {}
    source = ASTSource(function, signature, {}, aligned)
    options = {"num_warps": request["warps"], "num_stages": request["stages"], "enable_fp_fusion": request["fuse"]}
    target = GPUTarget(request["backend"], request["arch"], request["warp"])
    if request["backend"] == "cuda":
        kernel, used = without_stack(lambda **more: triton.compile(source, target=target, options=options | more))
        binary, text = kernel.asm["cubin"], kernel.asm["ptx"]
    else:
        kernel = triton.compile(source, target=target, options=options)
        binary, text, used = kernel.asm["hsaco"], "", amd_resources(kernel.asm["amdgcn"])
    Path(request["output"]).write_bytes(binary)
    return {
        "shared": kernel.metadata.shared,
        "name": kernel.metadata.name,
        "parameters": count_parameters(text),
        **used,
    }


def without_stack(compile_it: Callable[..., Any]) -> tuple[Any, dict[str, int]]:
    """What `compile_it` makes and what it takes; again with more registers where a few values did not find one.

    ptxas aims at a number of blocks that run at once, and keeps to the registers that this leaves a thread even where
    that puts 8 bytes on its stack. A limit of our own (`maxnreg`) ends that. Where registers are truly short, the first
    is kept.
    """
    kernel = compile_it()
    used = cuda_resources(kernel.asm["cubin"])
    for more in MORE_REGISTERS if used["stack"] else ():
        limit = used["registers"] + more
        if limit > MOST_REGISTERS:
            break
        other = compile_it(maxnreg=limit)
        found = cuda_resources(other.asm["cubin"])
        if not found["stack"]:
            return other, found
    return kernel, used


def count_parameters(ptx: str) -> int:
    """Arguments of the function: those of its own, and what Triton adds for its runtime."""
    head = re.search(r"\.entry[^(]*\(([^)]*)\)", ptx)
    return head[1].count(".param") if head is not None else 0


def cuda_resources(binary: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack (which spilled registers are), from the tool in Triton's wheel."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    if found is None:
        raise ValueError(f"cuobjdump does not tell the registers: {done.stdout[:400]}")
    return {"registers": int(found[1]), "stack": int(found[2])}


def amd_resources(text: str) -> dict[str, int]:
    """Vector registers of a thread and bytes of its stack, from the notes in the assembly."""

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", text)
        return int(found[1]) if found is not None else 0

    return {"registers": number("vgpr_count"), "stack": number("private_segment_fixed_size")}


if __name__ == "__main__":
    main()
