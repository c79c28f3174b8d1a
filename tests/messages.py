"""Prints a page of all errors and warnings that the package can raise, in Markdown.

python tests/messages.py > docs/messages.md
"""

import ast
import dataclasses
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "keras_proxprop"
WARN = "warnings.warn", "_warnings.warn"
HEAD = """# Errors and warnings

Everything that the package can raise or warn of, by file; in braces stands what is filled in.
This page is made by `python tests/messages.py`, and a test keeps it so.
"""


@dataclasses.dataclass(frozen=True)
class Message:
    """One `raise` or `warnings.warn`.

    Attributes:
        file: its name, from the package's folder.
        line: where it stands in it.
        kind: name of the exception, or "warning".
        text: the message, with the source of what is filled in in braces; `None` if it has
            none.
        method: name of the function around it, with its class.
    """

    file: str
    line: int
    kind: str
    text: str | None
    method: str


def messages():
    """Returns all messages, a list of `Message`, by file and line."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        found += [Message(file, *each) for each in _of(ast.parse(path.read_text()), "")]
    return sorted(found, key=lambda m: (m.file, m.line))


def _of(node, where):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
            yield from _of(child, f"{where}.{child.name}".lstrip("."))
            continue
        # What is raised again has said it all.
        if isinstance(child, ast.Raise) and child.exc is not None:
            yield child.lineno, *_raised(child.exc), where
        # Private where the module's names are public ones.
        elif isinstance(child, ast.Call) and ast.unparse(child.func) in WARN:
            yield child.lineno, "warning", _text(child.args[0]), where
        else:
            yield from _of(child, where)


def _raised(raised):
    if not isinstance(raised, ast.Call):
        return ast.unparse(raised), None
    kind = raised.func
    names = [n.id for n in ast.walk(kind) if isinstance(n, ast.Name) and n.id[0].isupper()]
    return " or ".join(names), _text(raised.args[0]) if raised.args else None


def _text(node):
    """Returns a message as it reads, `{...}` where something is filled in."""
    if isinstance(node, ast.Constant):
        return node.value
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value)
        else:
            parts.append("{" + ast.unparse(part.value) + "}")
    return "".join(parts)


def page():
    """Returns the page's text."""
    lines, file = [HEAD.rstrip()], None
    for message in messages():
        if message.text is None:
            continue
        if message.file != file:
            file = message.file
            lines += ["", f"## `{file}`", ""]
        lines.append(f"- **{message.kind}**: {message.text}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
