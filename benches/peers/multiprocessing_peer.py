"""Measures `multiprocessing.Pool` of Python's standard library; see protocol.py for how it is asked."""

import multiprocessing
import time

from protocol import serve


def double(x):
    return x * 2


def pooled(count, gateways):
    """Tasks a second over so many processes, in chunks of 64."""
    with multiprocessing.Pool(gateways) as pool:
        assert pool.map(double, range(64 * gateways), chunksize=64)[-1] == 2 * (64 * gateways - 1)
        start = time.perf_counter()
        results = pool.map(double, range(count), chunksize=64)
        seconds = time.perf_counter() - start
    assert len(results) == count
    return [count / seconds]


if __name__ == "__main__":
    serve(None, [pooled])
