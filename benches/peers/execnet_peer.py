"""Measures execnet; see protocol.py for how it is asked."""

import os
import time

import execnet
from protocol import serve

ONE = "channel.send(1)"
ECHO = "for item in channel: channel.send(item)"
SENDS = "for _ in range(count): channel.send(item)"
TAKES = "for _ in range(count): channel.receive()\nchannel.send(count)"
TASKS = "for item in channel:\n    if item is None: break\n    channel.send(item * 10)"
SETTLE = 0.1
WAITS = "channel.send(channel.receive())\nchannel.receive()"

clock = time.perf_counter


def with_variables(source, **variables):
    return "".join(f"{name} = {value!r}\n" for name, value in variables.items()) + source


def first_result(count, warm_up):
    """Seconds from nothing to a value: a process, a task, its result."""
    samples = []
    for _ in range(warm_up + count):
        group = execnet.Group()
        start = clock()
        channel = group.makegateway("popen").remote_exec(ONE)
        assert channel.receive() == 1
        samples.append(clock() - start)
        channel.waitclose()
        group.terminate()
    return samples[warm_up:]


def remote_exec(count, warm_up):
    """Seconds from `remote_exec` to the end of the task, with its one result in between."""
    group = execnet.Group(["popen"])
    gateway = group[0]
    samples = []
    for _ in range(warm_up + count):
        start = clock()
        channel = gateway.remote_exec(ONE)
        assert channel.receive() == 1
        channel.waitclose()
        samples.append(clock() - start)
    group.terminate()
    return samples[warm_up:]


def ping_pong(count, warm_up, size):
    """Seconds from a message to its echo."""
    group = execnet.Group(["popen"])
    channel = group[0].remote_exec(ECHO)
    message = b"Z" * size
    send, receive = channel.send, channel.receive
    samples = []
    for _ in range(warm_up + count):
        start = clock()
        send(message)
        answer = receive()
        samples.append(clock() - start)
        assert len(answer) == size
    channel.close()
    channel.waitclose()
    group.terminate()
    return samples[warm_up:]


def stream_to_host(count, size):
    """Messages a second that a task sends and the host receives, from the first one on."""
    group = execnet.Group(["popen"])
    channel = group[0].remote_exec(with_variables(SENDS, count=count + 1, item=b"Z" * size))
    receive = channel.receive
    receive()
    start = clock()
    for _ in range(count):
        receive()
    seconds = clock() - start
    channel.waitclose()
    group.terminate()
    return [count / seconds]


def stream_to_callback(count, size):
    """The same, into a callback."""
    group = execnet.Group(["popen"])
    channel = group[0].remote_exec(with_variables("channel.receive()\n" + SENDS, count=count, item=b"Z" * size))
    taken = 0

    def take(_item):
        nonlocal taken
        taken += 1

    channel.setcallback(take)
    start = clock()
    channel.send(None)
    channel.waitclose()
    seconds = clock() - start
    assert taken == count
    group.terminate()
    return [count / seconds]


def stream_to_guest(count, size):
    """Messages a second that the host sends and a task receives, until the task says that it has all."""
    group = execnet.Group(["popen"])
    channel = group[0].remote_exec(with_variables(TAKES, count=count))
    message = b"Z" * size
    send = channel.send
    start = clock()
    for _ in range(count):
        send(message)
    assert channel.receive() == count
    seconds = clock() - start
    channel.waitclose()
    group.terminate()
    return [count / seconds]


def echo_large(count, warm_up, size):
    """Megabytes a second through a task that sends back what it gets, one message after the other."""
    samples = ping_pong(count, warm_up, size)
    return [size / 1e6 / seconds for seconds in samples]


def tasks(count, in_flight):
    """Tasks a second over two gateways; each gets its next task when a result of it is taken from the queue."""
    group = execnet.Group(["popen"] * 2)
    channels = group.remote_exec(TASKS)
    queue = channels.make_receive_queue(endmarker=-1)
    start = clock()
    to_send = count
    for channel in channels:
        for _ in range(in_flight):
            channel.send(to_send)
            to_send -= 1
    done = 0
    while done < count:
        channel, _result = queue.get()
        done += 1
        if to_send > 0:
            channel.send(to_send)
            to_send -= 1
    seconds = clock() - start
    channels.send_each(None)
    channels.waitclose()
    group.terminate()
    return [count / seconds]


def terminate(count, gateways):
    """Seconds to end so many gateways, each with a task that waits for a message."""
    samples = []
    for _ in range(count):
        group = execnet.Group(["popen"] * gateways)
        channels = group.remote_exec(WAITS)
        channels.send_each(1)
        channels.receive_each()
        time.sleep(0.3)
        start = clock()
        group.terminate(timeout=10.0)
        samples.append(clock() - start)
    return samples


def idle_memory():
    """Kilobytes of memory (PSS) of a gateway's process that has run a task, the mean of two."""
    group, pids = idle_gateways()
    sizes = [field(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids]
    group.terminate()
    return [sum(sizes) / len(sizes)]


def idle_wake_ups(seconds):
    """Context switches a second of two idle gateways' processes, and of the host's threads but the one that measures."""
    group, pids = idle_gateways()
    channel = group[0].newchannel()
    pids.append("self")
    receive_nothing(channel, SETTLE)
    before = switches(pids)
    receive_nothing(channel, seconds)
    after = switches(pids)
    samples = [sum(count - before.get(task, 0) for task, count in after.items()) / seconds]
    channel.close()
    group.terminate()
    return samples


def receive_nothing(channel, seconds):
    try:
        channel.receive(timeout=seconds)
    except channel.TimeoutError:
        return
    raise AssertionError("a message came from nowhere")


def idle_gateways():
    group = execnet.Group(["popen"] * 2)
    channels = group.remote_exec("import os\nchannel.send(os.getpid())")
    pids = channels.receive_each()
    channels.waitclose()
    return group, pids


def switches(pids):
    """Context switches so far by thread, without the thread that measures."""
    counts = {}
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            if task != str(os.getpid()):
                status = f"/proc/{pid}/task/{task}/status"
                counts[task] = field(status, "voluntary_ctxt_switches:") + field(status, "nonvoluntary_ctxt_switches:")
    return counts


def field(path, name):
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


QUESTIONS = [
    first_result,
    remote_exec,
    ping_pong,
    stream_to_host,
    stream_to_callback,
    stream_to_guest,
    echo_large,
    tasks,
    terminate,
    idle_memory,
    idle_wake_ups,
]


if __name__ == "__main__":
    serve("execnet", QUESTIONS)
