"""Several processes at once, made of this one."""

import gc
import os
import traceback
from collections.abc import Callable


def children(*bodies: Callable[[], object]) -> list[int]:
    """Run each in a process of its own, all at once; returns how they ended: 0, 1 after an error,
    or minus a signal."""
    pids = []
    for body in bodies:
        pid = os.fork()
        if pid == 0:
            code = 1
            # what others of the suite have left, as ONNX Runtime's threads, is not here to be taken
            # apart
            gc.disable()
            try:
                body()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
