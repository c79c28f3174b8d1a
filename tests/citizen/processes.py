"""Runs code in processes of their own, forked from one that has imported TensorFlow.

To import it takes four seconds, as long as much of such code runs. What has imported it, and
has run nothing of it yet, can be forked.
"""

import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import textwrap
import time

# Reads a job a line, and writes which process started, and which has ended with what.
FORKS = """
import json, os, signal, sys
import keras, tensorflow


def say(*words):
    os.write(1, " ".join([*map(str, words)]).encode() + b"\\n")


def ended(*_):
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            say("ended", found[0], os.waitstatus_to_exitcode(found[1]))
    except ChildProcessError:
        pass


signal.signal(signal.SIGCHLD, ended)
for line in sys.stdin:
    job = json.loads(line)
    # A short one is not to end before it is said that it started.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    pid = os.fork()
    if pid:
        say("started", pid)
    else:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    if not pid:
        files = [os.devnull, job["output"], job["errors"]]
        for number, file in enumerate(files):
            os.dup2(os.open(file, os.O_WRONLY if number else os.O_RDONLY), number)
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.argv = ["-c", *job["arguments"]]
        exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
        break
"""


class _Forks:
    """The process that others are forked from; it ends with this one."""

    def __init__(self):
        here = os.path.dirname(__file__)
        path = [here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.codes = {}

    def start(self, **job):
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        while (said := self._said())[0] != "started":
            self._note(said)
        return said[1]

    def wait(self, seconds):
        """Waits until a process has ended, or for so long."""
        if select.select([self._process.stdout], [], [], seconds)[0]:
            self._note(self._said())

    def _note(self, said):
        _, pid, code = said
        self.codes[pid] = code

    def _said(self):
        word, *numbers = self._process.stdout.readline().decode().split()
        return word, *map(int, numbers)


_forks = functools.cache(_Forks)


class Process:
    """Runs code, `tests` and this folder on its path, with further variables of its own in its
    environment."""

    def __init__(self, code, arguments=(), environment=None):
        self._folder = tempfile.TemporaryDirectory()
        files = [os.path.join(self._folder.name, name) for name in ("output", "errors")]
        for file in files:
            open(file, "w").close()
        self._output, self._errors = files
        self._pid = _forks().start(
            code=textwrap.dedent(code),
            arguments=[*map(str, arguments)],
            environment={**os.environ, **(environment or {})},
            output=self._output,
            errors=self._errors,
        )

    def code(self):
        """Returns the exit code, None while it runs, less than zero after a signal."""
        _forks().wait(0)
        return _forks().codes.get(self._pid)

    def wait(self, timeout=600.0):
        """Returns the exit code, or fails when it does not end in so many seconds."""
        end = time.monotonic() + timeout
        while (code := self.code()) is None:
            assert (left := end - time.monotonic()) > 0, f"still runs after {timeout} s"
            _forks().wait(left)
        return code

    def output(self, timeout=600.0):
        """Returns what it has printed when it has ended without an error."""
        code = self.wait(timeout)
        with open(self._output) as output, open(self._errors) as errors:
            assert code == 0, f"exit code {code}\n{errors.read()}"
            return output.read()

    def kill(self):
        if self.code() is None:
            os.kill(self._pid, 9)
            self.wait()


def python(code, *arguments, **environment):
    """Runs code in a process of its own, and returns its output."""
    return Process(code, arguments, environment).output()


def pythons(code, *arguments, environments, timeout):
    """Runs code in several processes at once, each with variables of its own in its
    environment; all are killed when one fails, or is not through after `timeout` seconds."""
    processes = []
    try:
        for environment in environments:
            processes.append(Process(code, arguments, environment))
        end = time.monotonic() + timeout
        return [p.output(max(0.0, end - time.monotonic())) for p in processes]
    finally:
        for process in processes:
            process.kill()
