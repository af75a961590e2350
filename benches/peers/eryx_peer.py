"""Measures eryx; see protocol.py for how it is asked."""

import time

import eryx
from protocol import serve


def fresh_script(count, warm_up):
    """Seconds to make a sandbox, whose interpreter is initialised beforehand, and to have it print 1."""
    samples = []
    for _ in range(warm_up + count):
        start = time.perf_counter()
        result = eryx.Sandbox().execute("print(1)")
        samples.append(time.perf_counter() - start)
        assert result.stdout_text.strip() == "1"
    return samples[warm_up:]


if __name__ == "__main__":
    serve("pyeryx", [fresh_script])
