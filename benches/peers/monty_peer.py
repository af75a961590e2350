"""Measures pydantic-monty; see protocol.py for how it is asked."""

import time

from protocol import serve
from pydantic_monty import Monty

SOURCE = "1 + 2"

clock = time.perf_counter


def session_call(count, warm_up):
    """Seconds of a call in a session that is there."""
    samples = []
    with Monty() as pool, pool.checkout() as session:
        for _ in range(warm_up + count):
            start = clock()
            value = session.feed_run(SOURCE)
            samples.append(clock() - start)
            assert value == 3
    return samples[warm_up:]


def fresh_call(count, warm_up):
    """Seconds of a session's checkout, one call, and its return."""
    samples = []
    with Monty() as pool:
        for _ in range(warm_up + count):
            start = clock()
            with pool.checkout() as session:
                value = session.feed_run(SOURCE)
            samples.append(clock() - start)
            assert value == 3
    return samples[warm_up:]


if __name__ == "__main__":
    serve("pydantic-monty", [session_call, fresh_call])
