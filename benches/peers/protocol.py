"""What all peers have in common: how they are asked, and how they answer. `peer.rs` is the other end.

    NAME_peer.py QUESTION '{"count": 1000, ...}'

The answer is one line of JSON on stdout: what the peer is, and the samples as they were taken, in the unit of the question.
Each question does what the Rust type of the same purpose does, with the same work before the clock starts and after it has
stopped, by what the peer offers for it: no thread, queue or serialiser beside its own.
"""

import importlib.metadata
import json
import platform
import sys


def serve(package, questions):
    """Answers the one question of the command line."""
    name, parameters = sys.argv[1:]
    question = {function.__name__: function for function in questions}[name]
    samples = question(**json.loads(parameters))
    print(json.dumps({"peer": described(package), "samples": samples}))


def described(package):
    """A package of the registry, or what says its version itself."""
    python = f"Python {platform.python_version()}"
    if package is None:
        return python
    if " " in package:
        return package
    return f"{package} {importlib.metadata.version(package)} on {python}"
