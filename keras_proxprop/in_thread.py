"""What holds in one thread while a context lasts. Replicas are threads, and interleave."""

import contextlib
import threading


class InThread(threading.local):
    """A value that every thread has for itself.

    Args:
        value: what it is in every thread, outside of contexts.
    """

    def __init__(self, value):
        self.value = value

    @contextlib.contextmanager
    def set(self, value):
        """Context in which it is another one."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before
