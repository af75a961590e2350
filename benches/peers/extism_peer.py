"""Measures extism; see protocol.py for how it is asked."""

import time

import extism
from extism.extism import CompiledPlugin
from protocol import serve


def fresh_instances(count, warm_up, module):
    """Tasks a second, each in a plugin of its own; the module is compiled before the clock starts."""
    compiled = CompiledPlugin(bytes(module))
    for _ in range(warm_up):
        extism.Plugin(compiled).call("run", b"")
    start = time.perf_counter()
    for _ in range(count):
        extism.Plugin(compiled).call("run", b"")
    return [count / (time.perf_counter() - start)]


if __name__ == "__main__":
    serve("extism", [fresh_instances])
