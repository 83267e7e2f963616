"""redis-py, as its documentation has it, writing all the time. Prints a line per attempt: when it ended (ns since 1970), and how."""

import sys
import time

import redis
from redis.sentinel import Sentinel

host, port, name, key = sys.argv[1:5]
sentinel = Sentinel([(host, int(port))], socket_timeout=0.5)
primary = sentinel.master_for(name, socket_timeout=0.5)
number = 0
while True:
    number += 1
    try:
        primary.set(key, number)
        print(time.time_ns(), "ok", flush=True)
        time.sleep(0.005)
    except redis.RedisError as error:
        print(time.time_ns(), type(error).__name__, flush=True)
        time.sleep(0.1)
