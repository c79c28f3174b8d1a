"""A place of the source that is broken, to see that a test notices."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One place of the source, what to write there, and the tests that must notice: a file of
    tests and, after a space, an expression as for pytest's `-k`."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    def apply(self, package):
        path = package / self.file
        source = path.read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is not once in {self.file}.")
        path.write_text(source.replace(self.old, self.new))
